"""Enqueueing through connections of the application's own, and the bindings of a thread."""

from __future__ import annotations

import contextvars
import threading
from contextlib import ExitStack, suppress
from datetime import UTC, timedelta

import psycopg
import psycopg2
import psycopg_pool
import pytest
import sqlalchemy
from psycopg import sql
from sqlalchemy.orm import Session

from oban_sync import schema, worker
from oban_sync.core.errors import ConfigError, DatabaseUnavailableError, SchemaError
from tests.support.peer_bells import listening
from tests.support.peer_callers import CALLERS, Caller, django_connection, engine_for
from tests.support.peer_strangers import STRANGERS


@worker(queue="alpha", name="tests.connections.Echo")
class Echo:
    def process(self, job):
        return None


@worker(queue="alpha", name="tests.connections.Elsewhere", oban="Elsewhere")
class Elsewhere:
    def process(self, job):
        return None


class OopsError(Exception):
    """What applications raise in the middle of a transaction."""


@pytest.fixture(params=CALLERS)
def caller(request, dsn):
    with CALLERS[request.param](dsn) as caller:
        yield caller


@pytest.fixture(params=["psycopg", "psycopg2"])
def engine(request, dsn):
    with engine_for(dsn, request.param) as engine:
        yield engine


@pytest.fixture
def write(conn, prefix):
    """Runs the application's own write through a caller; `write.count()` tells what was kept."""
    conn.execute("CREATE TABLE ledger (entry text)")

    def write(caller: Caller) -> None:
        caller.run(f"""INSERT INTO "{prefix}".ledger VALUES ('own work')""")

    write.count = lambda: conn.execute("SELECT count(*) FROM ledger").fetchone()[0]

    return write


@pytest.fixture
def bells(dsn, prefix):
    with listening(dsn, prefix, leads=True) as bells:
        yield bells


# With the caller's transaction.


def test_a_job_is_there_once_the_caller_commits(oban, caller, factory, write):
    write(caller)
    job = Echo.enqueue({"n": 1}, conn=caller.conn)
    write(caller)

    assert (factory.count(), write.count()) == (0, 0)

    caller.commit()

    assert (factory.count(id=job.id), write.count()) == (1, 2)


def test_a_job_goes_with_the_callers_rollback(oban, caller, factory, write):
    write(caller)
    Echo.enqueue({"n": 1}, conn=caller.conn)
    write(caller)
    caller.rollback()

    assert (factory.count(), write.count()) == (0, 0)


def test_a_job_enqueued_in_a_savepoint_goes_with_it(oban, caller, factory, write):
    write(caller)

    with suppress(OopsError), caller.nested():
        Echo.enqueue({"n": 1}, conn=caller.conn)
        raise OopsError

    with caller.nested():
        kept = Echo.enqueue({"n": 2}, conn=caller.conn)

    assert factory.count() == 0

    caller.commit()

    assert (factory.count(), factory.count(id=kept.id), write.count()) == (1, 1, 1)


def test_the_returned_job_knows_its_id_and_its_times(oban, caller, factory):
    jobs = [Echo.new({"n": 1}), Echo.new({"n": 2}, schedule_in=60), Echo.new({"n": 3})]
    stored = oban.enqueue_many(jobs, conn=caller.conn)
    caller.commit()

    assert [job.args["n"] for job in stored] == [1, 2, 3]
    assert [job.id for job in stored] == sorted({job.id for job in stored})

    for job in stored:
        row = factory.row(job.id)

        assert row["args"] == job.args
        assert row["inserted_at"].replace(tzinfo=UTC) == job.inserted_at
        assert row["scheduled_at"].replace(tzinfo=UTC) == job.scheduled_at

    assert stored[1].scheduled_at - stored[1].inserted_at == timedelta(seconds=60)


def test_a_binding_works_for_every_kind_of_connection(oban, caller, factory, write):
    write(caller)

    with oban.bind(caller.conn):
        Echo.enqueue({"n": 1})
        Echo.enqueue({"n": 2})

    assert factory.count() == 0

    caller.commit()

    assert factory.count() == 2


@pytest.mark.parametrize("connect", [psycopg.connect, psycopg2.connect])
def test_a_connection_in_autocommit_mode_commits_as_it_always_does(oban, dsn, connect, factory):
    conn = connect(dsn)
    conn.autocommit = True
    Echo.enqueue({"n": 1}, conn=conn)
    conn.close()

    assert factory.count() == 1


def test_a_cursor_keeps_the_results_it_has_yet_to_give(oban, dsn, factory):
    for connect in (psycopg.connect, psycopg2.connect):
        with connect(dsn) as conn, conn.cursor() as cursor:
            cursor.execute("SELECT generate_series(1, 5)")
            rows = [cursor.fetchone()]
            Echo.enqueue({"n": 1}, conn=cursor)

            assert [*rows, *cursor.fetchall()] == [(1,), (2,), (3,), (4,), (5,)]

        conn.close()

    assert factory.count() == 2


def test_an_orm_session_commits_rows_and_jobs_together(oban, engine, conn, prefix, factory):
    conn.execute("CREATE TABLE users (id serial PRIMARY KEY, email text UNIQUE)")
    users = sqlalchemy.Table("users", sqlalchemy.MetaData(schema=prefix), autoload_with=engine)

    for expected in (1, 1):
        with suppress(sqlalchemy.exc.IntegrityError), Session(engine) as session, session.begin():
            Echo.enqueue({"to": "a"}, conn=session)
            session.execute(users.insert().values(email="a@example.com"))

        assert factory.count() == expected


# What the nodes hear.


def test_nodes_hear_of_each_queue_once_and_only_when_the_caller_commits(oban, caller, bells):
    for queue in ("alpha", "beta", "alpha", "gamma"):
        oban.enqueue_many([Echo.new({"n": 1}, queue=queue)] * 3, conn=caller.conn)

    Echo.enqueue({"n": 1}, queue="later", schedule_in=60, conn=caller.conn)

    assert bells() == []

    caller.commit()

    assert sorted(bell["queue"] for bell in bells()) == ["alpha", "beta", "gamma"]


def test_a_job_alone_in_a_transaction_is_the_callers_to_roll_back(oban, caller, factory, bells):
    Echo.enqueue({"n": 1}, conn=caller.conn)
    caller.rollback()

    assert factory.count() == 0
    assert bells() == []


def test_many_jobs_of_several_statements_ring_once(oban, bells):
    oban.enqueue_many(Echo.new({"n": n}) for n in range(5_001))

    assert bells() == [{"queue": "alpha"}]


@pytest.mark.parametrize("how", ["INSERT", "COPY"])
def test_jobs_written_by_plain_sql_are_heard_of_too(conn, bells, how):
    if how == "INSERT":
        conn.execute(
            "INSERT INTO oban_jobs (worker, queue, state) VALUES ('W', 'alpha', 'available'),"
            " ('W', 'alpha', 'available'), ('W', 'beta', 'available'), ('W', 'gamma', 'scheduled')"
        )
    else:
        with conn.cursor().copy("COPY oban_jobs (worker, queue) FROM STDIN") as copy:
            for queue in ("alpha", "alpha", "beta"):
                copy.write_row(("W", queue))

    assert sorted(bell["queue"] for bell in bells()) == ["alpha", "beta"]


@pytest.mark.parametrize("queue", ['say "hi"', "back\\slash", "{'\"}:%s", "ключ 🗝 ключ", "🗝" * 127])
def test_what_is_heard_is_json_whatever_the_queue_is_called(oban, conn, bells, queue):
    Echo.enqueue({"n": 1}, queue=queue)
    conn.execute("INSERT INTO oban_jobs (worker, queue) VALUES ('W', %s)", [queue])

    assert bells() == [{"queue": queue}] * 2


# The ambient connection.


@pytest.mark.parametrize("kind", ["connection", "transaction"])
def test_a_block_carries_the_jobs_enqueued_in_it(oban, factory, kind):
    for expected in (0, 1):
        with suppress(OopsError), getattr(oban, kind)() as conn, conn.transaction():
            Echo.enqueue({"n": 1})

            assert factory.count() == 0

            if not expected:
                raise OopsError

        assert factory.count() == expected


def test_a_transaction_in_another_is_a_savepoint_on_the_same_connection(oban, factory):
    with oban.transaction() as outer:
        Echo.enqueue({"n": 1})

        with suppress(OopsError), oban.transaction() as inner:
            assert inner is outer
            Echo.enqueue({"n": 2})
            raise OopsError

        with oban.transaction():
            kept = Echo.enqueue({"n": 3})

        assert factory.count() == 0

    assert factory.count() == 2
    assert factory.count(id=kept.id) == 1


def test_a_transaction_in_the_block_of_a_bound_connection_is_a_savepoint_there(oban, dsn, factory):
    with psycopg.connect(dsn) as conn, oban.bind(conn):
        conn.execute("SELECT 'a transaction begins'")

        with oban.transaction() as found:
            assert found is conn
            Echo.enqueue({"n": 1})

        assert factory.count() == 0
        conn.rollback()

    assert factory.count() == 0


def test_a_given_connection_counts_then_the_innermost_bound_one_then_the_outer(oban, dsn, prefix):
    with psycopg.connect(dsn) as outer, psycopg.connect(dsn) as inner, oban.bind(outer):
        with oban.bind(inner):
            Echo.enqueue({"n": 1})
            Echo.enqueue({"n": 2}, conn=outer)

        Echo.enqueue({"n": 3})
        inner.rollback()
        outer.commit()

    assert _numbers(dsn, prefix) == [2, 3]


@pytest.mark.parametrize("copied", [False, True], ids=["bare", "with a copied context"])
def test_another_thread_does_not_use_the_binding(oban, factory, copied):
    def elsewhere() -> None:
        Echo.enqueue({"n": 1})

    with suppress(OopsError), oban.transaction():
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run if copied else lambda f: f(), args=[elsewhere])
        thread.start()
        thread.join(10.0)

        assert factory.count() == 1, "it was not committed on its own"
        raise OopsError

    assert factory.count() == 1


def test_a_context_copied_in_a_block_does_not_outlive_it(oban, dsn, factory):
    with psycopg.connect(dsn) as conn:
        with oban.bind(conn):
            context = contextvars.copy_context()

        context.run(Echo.enqueue, {"n": 1})
        conn.rollback()

    assert factory.count() == 1


@pytest.mark.parametrize("kind", ["bind", "connection", "transaction"])
def test_after_a_block_that_raised_jobs_are_on_their_own_again(oban, dsn, factory, kind):
    with psycopg.connect(dsn) as conn:
        block = oban.bind(conn) if kind == "bind" else getattr(oban, kind)()

        with suppress(OopsError), block:
            raise OopsError

        Echo.enqueue({"n": 1})
        conn.rollback()

        assert factory.count() == 1


def test_two_obans_do_not_use_each_others_binding(oban, make_oban, dsn, prefix, factory):
    schema.install(dsn, prefix=f"{prefix}_B")
    other = make_oban(name="Elsewhere", prefix=f"{prefix}_B")

    try:
        with suppress(OopsError), oban.transaction():
            Echo.enqueue({"n": 1})
            Elsewhere.enqueue({"n": 2})
            raise OopsError

        assert factory.count() == 0
        assert _numbers(dsn, f"{prefix}_B") == [2]

        with other.transaction():
            Echo.enqueue({"n": 3})

            assert factory.count() == 1
    finally:
        schema.uninstall(dsn, prefix=f"{prefix}_B")

        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(sql.SQL("DROP SCHEMA {}").format(sql.Identifier(f"{prefix}_B")))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"autocommit": True},
        {"row_factory": psycopg.rows.dict_row},
        {"cursor_factory": psycopg.ClientCursor},
        {"cursor_factory": psycopg.RawCursor},
    ],
    ids=["as it comes", "autocommit", "of dicts", "of client cursors", "of raw cursors"],
)
def test_a_pool_of_the_applications_serves_whatever_its_connections_are_like(
    make_oban, dsn, factory, options
):
    with psycopg_pool.ConnectionPool(dsn, min_size=1, kwargs=options) as pool:
        oban = make_oban(conninfo=None, pool=pool)
        oban.start()
        job = Echo.enqueue({"n": 1})

        with suppress(OopsError), oban.transaction():
            Echo.enqueue({"n": 2})
            raise OopsError

        assert oban.drain_queue("alpha")["completed"] == 1
        assert oban.get_job(job.id).state == "completed"

        oban.stop()

        assert not pool.closed
        assert factory.count() == 1


# What is not a connection, and connections that are no good.


@pytest.mark.parametrize("kind", STRANGERS)
def test_what_is_no_connection_to_postgresql_is_refused(oban, dsn, factory, kind):
    with ExitStack() as until, pytest.raises(ConfigError, match="^conn: ") as told:
        Echo.enqueue({"n": 1}, conn=STRANGERS[kind](dsn, until))

    # A conninfo may hold a password.
    assert dsn not in str(told.value)
    assert factory.count() == 0


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("a conninfo", "a builtins.str is not a connection"),
        ("an engine", "makes connections, so pass one of those"),
        ("an async connection", "asynchronous.*use oban-py"),
    ],
)
def test_what_cannot_be_bound_is_refused_with_advice(oban, dsn, kind, advice):
    with pytest.raises(ConfigError, match=advice):
        oban.bind(STRANGERS[kind](dsn, ExitStack()))


@pytest.mark.parametrize(
    "kind", ["psycopg connection", "psycopg2 connection", "SQLAlchemy connection (psycopg)"]
)
def test_a_closed_connection_is_told_as_unavailable(oban, dsn, factory, kind):
    with CALLERS[kind](dsn) as caller:
        caller.conn.close()

        with pytest.raises(DatabaseUnavailableError, match="closed"):
            Echo.enqueue({"n": 1}, conn=caller.conn)

    assert factory.count() == 0


BROKEN = [kind for kind in CALLERS if "cursor" not in kind and "dicts" not in kind]


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_connection_is_told_as_unavailable(oban, dsn, factory, kind):
    # The callers' own blocks cannot end well on a connection that is gone.
    with suppress(Exception), CALLERS[kind](dsn) as caller:
        caller.run("SET application_name = 'to be killed'")

        with psycopg.connect(dsn, autocommit=True) as killer:
            killer.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE application_name = 'to be killed' AND datname = current_database()"
            )

        with pytest.raises(Exception) as told:  # noqa: PT011
            Echo.enqueue({"n": 1}, conn=caller.conn)

    assert isinstance(told.value, DatabaseUnavailableError)
    assert told.value.__cause__ is not None
    assert factory.count() == 0


def test_a_session_whose_server_is_away_is_told_as_unavailable(oban):
    engine = sqlalchemy.create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")

    with Session(engine) as session, pytest.raises(DatabaseUnavailableError):
        Echo.enqueue({"n": 1}, conn=session)


@pytest.mark.parametrize("kind", CALLERS)
def test_missing_tables_are_told_as_such_through_every_kind(make_oban, dsn, kind):
    make_oban(prefix="nowhere")

    with CALLERS[kind](dsn) as caller:
        with pytest.raises(SchemaError, match="oban-sync install"):
            Echo.enqueue({"n": 1}, conn=caller.conn)

        caller.rollback()


def test_a_timeout_is_not_told_as_an_unreachable_server(oban, dsn, conn):
    with conn.transaction(), django_connection(dsn) as caller:
        conn.execute("LOCK TABLE oban_jobs IN ACCESS EXCLUSIVE MODE")
        caller.run("SET LOCAL lock_timeout = '50ms'")

        with pytest.raises(Exception, match="lock timeout") as told:
            Echo.enqueue({"n": 1}, conn=caller.conn)

        caller.rollback()

    assert not isinstance(told.value, DatabaseUnavailableError)


def _numbers(dsn: str, prefix: str) -> list[int]:
    table = sql.Identifier(prefix, "oban_jobs")

    with psycopg.connect(dsn) as conn:
        rows = conn.execute(sql.SQL("SELECT args['n']::int FROM {} ORDER BY id").format(table))

        return [number for (number,) in rows.fetchall()]
