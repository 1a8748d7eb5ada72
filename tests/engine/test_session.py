"""Db and Tx: where connections come from, and what their errors become."""

from __future__ import annotations

from contextlib import suppress

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from oban_sync import DatabaseUnavailableError, Oban, SchemaError, worker
from oban_sync.engine.connections import conninfo_of
from oban_sync.engine.session import translate


@worker(queue="alpha")
class Echo:
    def process(self, job):
        return None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (psycopg.errors.AdminShutdown(), DatabaseUnavailableError),
        (psycopg.errors.CannotConnectNow(), DatabaseUnavailableError),
        (psycopg.errors.TooManyConnections(), DatabaseUnavailableError),
        (psycopg.errors.ReadOnlySqlTransaction(), DatabaseUnavailableError),
        (psycopg.errors.ConnectionFailure(), DatabaseUnavailableError),
        (psycopg.OperationalError("server closed the connection"), DatabaseUnavailableError),
        (psycopg.InterfaceError("the connection is closed"), DatabaseUnavailableError),
        (psycopg.errors.UndefinedTable(), SchemaError),
        (psycopg.errors.UndefinedColumn(), SchemaError),
        (psycopg.errors.UndefinedFunction(), SchemaError),
        (psycopg.errors.InvalidSchemaName(), SchemaError),
        (psycopg.errors.UniqueViolation(), None),
        (psycopg.errors.DeadlockDetected(), None),
        (psycopg.errors.QueryCanceled(), None),
        (psycopg.errors.InsufficientPrivilege(), None),
        (ValueError(), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_the_drivers_errors_become_ours_where_we_have_one(error, expected):
    found = translate(error)

    assert type(found) is (expected or type(None))


def test_a_pool_that_is_used_up_says_so(make_oban):
    oban = make_oban(pool_size=1)
    db = oban._assembly.db
    db._timeout = 0.1
    waiting = db.session()

    with oban.connection(), pytest.raises(DatabaseUnavailableError) as caught:
        waiting.__enter__()

    assert "all 1 connections are in use" in str(caught.value)
    assert "pool_size" in str(caught.value)


def test_an_unreachable_server_is_told_in_its_own_words(make_oban):
    oban = make_oban(conninfo="postgresql://127.0.0.1:1/nothing")

    with pytest.raises(DatabaseUnavailableError, match="Connection refused"):
        oban.start()

    db = oban._assembly.db
    db._timeout = 0.1

    with pytest.raises(DatabaseUnavailableError, match="Connection refused"), db.session():
        pass


def test_a_pool_of_the_application_is_used_and_left_open(dsn, prefix, probe):
    with ConnectionPool(dsn, min_size=1, kwargs={"application_name": "mine"}) as pool:
        oban = Oban(pool=pool, prefix=prefix, queues={"alpha": 1}).start()

        with oban.connection() as conn:
            assert conn.info.parameter_status("application_name") == "mine"
            Echo.enqueue()

        # The pool's connections are no autocommit, so the job was committed with the block.
        assert probe.next("oban.job.stop")["state"] == "completed"

        Echo.enqueue()

        assert probe.next("oban.job.stop")["state"] == "completed"
        assert oban.drain_queue("alpha")["completed"] == 0

        oban.stop()

        assert not pool.closed

        with pool.connection() as conn:
            conn.execute("SELECT 1")


def test_a_pools_keyword_arguments_are_part_of_its_conninfo():
    pool = ConnectionPool(
        "host=h", kwargs={"dbname": "d", "autocommit": True, "connect_timeout": 3}, open=False
    )

    assert psycopg.conninfo.conninfo_to_dict(conninfo_of(pool)) == {
        "host": "h",
        "dbname": "d",
        "connect_timeout": "3",
    }


def test_no_connection_is_kept_from_the_pool(make_oban):
    oban = make_oban(pool_size=2)

    for _ in range(10):
        Echo.enqueue()
        oban.enqueue_many([Echo.new(), Echo.new()])
        oban.drain_queue("alpha")

        with suppress(RuntimeError), oban.connection() as conn, conn.transaction():
            Echo.enqueue()
            raise RuntimeError

    stats = oban._assembly.pool.get_stats()

    assert stats["pool_available"] == stats["pool_size"]


@pytest.mark.parametrize("style", ["SQL, DMY", "German", "Postgres, MDY"])
def test_times_are_right_whatever_the_date_style_of_the_server(dsn, prefix, conn, probe, style):
    database = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    conn.execute(f"ALTER DATABASE \"{database}\" SET datestyle = '{style}'")

    try:
        with Oban(dsn, prefix=prefix, queues={"alpha": 1}) as oban:
            made = Echo.enqueue()
            ran = probe.next("oban.job.stop")["job"]

            assert ran.scheduled_at == made.scheduled_at == oban.get_job(made.id).scheduled_at

            oban.stop()
            oban.configure(queues={})
            oban.start()
            Echo.enqueue()

            assert oban.drain_queue("alpha")["completed"] == 1
            assert probe.next("oban.job.stop")["job"].scheduled_at > made.scheduled_at
    finally:
        conn.execute(f'ALTER DATABASE "{database}" RESET datestyle')
