"""What the doctor asks the database, and what a role without rights is told."""

from __future__ import annotations

import uuid
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql

from oban_sync import DatabaseUnavailableError, SchemaError, schema
from oban_sync.engine import checkup
from tests.support.probe import eventually


@pytest.fixture
def tx(dsn, prefix):
    with checkup.visit(dsn, prefix) as tx:
        yield tx


@pytest.fixture
def stranger(dsn, conn, prefix):
    """The conninfo of a role that may only read the tables."""
    name = f"stranger_{uuid.uuid4().hex[:12]}"
    role = sql.Identifier(name)
    conn.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'secret'").format(role))
    conn.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(prefix), role))
    conn.execute(
        sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA {} TO {}").format(
            sql.Identifier(prefix), role
        )
    )

    yield psycopg.conninfo.make_conninfo(dsn, user=name, password="secret")

    conn.execute(sql.SQL("DROP OWNED BY {}").format(role))
    conn.execute(sql.SQL("DROP ROLE {}").format(role))


@contextmanager
def in_transaction(dsn, name, *, snapshot=False):
    """A session that sits in a transaction."""
    with psycopg.connect(dsn, application_name=name) as conn:
        conn.execute("SELECT 1")

        if snapshot:
            conn.rollback()
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            conn.execute("SELECT 1")

        yield conn
        conn.rollback()


def test_a_server_says_what_it_is_and_what_its_clock_shows(tx, conn):
    row, ahead = checkup.server(tx)

    assert row.version == conn.info.server_version
    assert row.database == conn.info.dbname
    assert row.max_connections > row.reserved >= 3
    assert row.isolation == "read committed"
    assert not row.read_only
    assert abs(ahead) < 5


def test_timeouts_of_the_role_are_told_in_milliseconds(dsn, prefix):
    options = psycopg.conninfo.make_conninfo(
        dsn, options="-c statement_timeout=2s -c idle_session_timeout=1min"
    )

    with checkup.visit(options, prefix) as tx:
        row, _ = checkup.server(tx)

    assert (row.statement_timeout, row.idle_session_timeout) == (2_000, 60_000)


def test_connections_are_counted_by_whose_they_are(tx, dsn):
    with in_transaction(dsn, "shop"), in_transaction(dsn, "shop"):
        [found] = [row for row in checkup.sessions(tx) if row.application == "shop"]

    assert (found.sessions, found.hidden) == (2, False)


def test_a_session_that_sits_in_a_transaction_is_found(tx, dsn):
    with in_transaction(dsn, "sitting", snapshot=True):
        [found] = eventually(
            lambda: [row for row in checkup.holders(tx, seconds=0.0) if row.detail == "sitting"]
        )

        assert (found.kind, found.idle) == ("session", True)
        assert found.seconds > 0
        assert found.xids is not None
        assert not [row for row in checkup.holders(tx, seconds=60.0) if row.detail == "sitting"]


def test_the_table_tells_how_much_of_it_is_dead(tx, factory):
    factory.job()
    found = checkup.table(tx)

    assert found is not None
    assert found.bytes > 0
    assert found.autovacuum


def test_a_table_without_autovacuum_is_told_apart(tx, conn):
    conn.execute("ALTER TABLE oban_jobs SET (autovacuum_enabled = false)")

    assert not checkup.table(tx).autovacuum


def test_there_is_no_table_before_the_installation(dsn, empty_prefix):
    with checkup.visit(dsn, empty_prefix) as tx:
        assert checkup.table(tx) is None

        with pytest.raises(SchemaError, match="oban-sync install"):
            checkup.installed(tx)


def test_the_version_installed_is_told(tx):
    assert checkup.installed(tx) == schema.LATEST


def test_nodes_that_beat_live(tx, factory, conn):
    factory.node("alpha", "beta", node="here")
    dead = factory.node("gamma", node="gone")
    conn.execute(
        "UPDATE oban_sync_nodes SET beat_at = now() - interval '2 min' WHERE uuid = %s", [dead]
    )
    found = {row.node: row for row in checkup.nodes(tx)}

    assert (found["here"].lives, found["here"].queues) == (True, ["alpha", "beta"])
    assert (found["gone"].lives, found["gone"].leads) == (False, False)
    assert found["gone"].seconds >= 120


def test_queues_with_available_jobs_tell_who_runs_them(tx, factory, conn):
    factory.node("alpha")
    dead = factory.node("beta")
    conn.execute(
        "UPDATE oban_sync_nodes SET beat_at = now() - interval '2 min' WHERE uuid = %s", [dead]
    )

    for queue in ("alpha", "alpha", "beta", "gamma"):
        factory.job(queue=queue)

    factory.job(queue="later", state="scheduled")
    found = [(row.queue, row.waiting, row.nodes, row.paused) for row in checkup.queues(tx)]

    assert found == [("alpha", 2, 1, False), ("beta", 1, 0, False), ("gamma", 1, 0, False)]


def test_a_queue_that_all_have_paused_is_told_apart(tx, factory, conn):
    factory.node("alpha")
    conn.execute("UPDATE oban_sync_producers SET paused = true")
    factory.job(queue="alpha")

    assert [row.paused for row in checkup.queues(tx)] == [True]


def test_workers_of_waiting_jobs_are_named(tx, factory):
    factory.job(worker="a.A", queue="alpha")
    factory.job(worker="a.A", queue="alpha", state="scheduled")
    factory.job(worker="a.B", queue="alpha", state="retryable")
    factory.job(worker="a.C", queue="alpha", state="completed")

    assert [(row.worker, row.waiting) for row in checkup.workers(tx)] == [("a.A", 2), ("a.B", 1)]


def test_executing_jobs_without_a_living_node_are_counted(tx, factory):
    node = factory.node("alpha")
    factory.executing(factory.owner(node, "alpha"))
    factory.executing("nobody")
    found = checkup.owners(tx)

    assert (found.executing, found.ownerless) == (2, 1)
    assert found.seconds is not None


def test_a_notification_comes_round(tx, dsn):
    assert checkup.hears(tx, dsn)


def test_where_nothing_listens_it_is_told(tx):
    with pytest.raises(DatabaseUnavailableError):
        checkup.hears(tx, "postgresql://127.0.0.1:1/x")


def test_a_role_that_may_see_little_gets_an_answer(stranger, prefix, dsn, factory):
    factory.job(queue="alpha")

    with in_transaction(dsn, "secret business"), checkup.visit(stranger, prefix) as tx:
        assert any(row.hidden for row in checkup.sessions(tx))
        assert sum(row.sessions for row in checkup.sessions(tx)) >= 2
        assert checkup.server(tx)[0].role.startswith("stranger_")
        assert isinstance(checkup.holders(tx, seconds=0.0), list)
        assert [row.queue for row in checkup.queues(tx)] == ["alpha"]
        assert checkup.table(tx).bytes > 0
        assert checkup.hears(tx, stranger)


def test_what_a_role_may_not_do_is_told_of_each_table(stranger, dsn, prefix, conn):
    with checkup.visit(dsn, prefix) as tx:
        assert checkup.rights(tx) == []

    with checkup.visit(stranger, prefix) as tx:
        lacking = {row.name: row.lacking for row in checkup.rights(tx)}

    assert lacking["oban_jobs"] == ["INSERT", "UPDATE", "DELETE"]
    assert lacking["oban_jobs_id_seq"] == ["USAGE"]

    rows = conn.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace"
        " AND relkind IN ('r', 'S') AND relname ~ '^oban_(jobs|sync_)'"
        " AND relname <> 'oban_sync_migrations'",
        [f'"{prefix}"'],
    )

    assert {name for (name,) in rows} == lacking.keys()


def test_the_numbers_of_identity_columns_need_no_right(stranger, prefix, conn):
    conn.execute("ALTER TABLE oban_jobs ALTER id DROP DEFAULT")
    conn.execute("DROP SEQUENCE oban_jobs_id_seq")
    conn.execute("ALTER TABLE oban_jobs ALTER id ADD GENERATED ALWAYS AS IDENTITY")

    with checkup.visit(stranger, prefix) as tx:
        assert "oban_jobs_id_seq" not in {row.name for row in checkup.rights(tx)}
