"""Statements of a job, cancelled from another thread, on connections of every kind."""

from __future__ import annotations

from contextlib import contextmanager
from threading import Event, Thread, get_ident

import psycopg
import pytest

from oban_sync import ConfigError
from oban_sync.engine import callers, cancelling
from oban_sync.engine.cancelling import RUN, Connections, Registered, cancellable, known, taken
from tests.support.peer_callers import CALLERS, engine_for, sqlalchemy_session
from tests.support.probe import eventually


class NoShield:
    """Counts."""

    def __init__(self):
        self.depth = 0

    def shield(self):
        self.depth += 1

    def unshield(self):
        self.depth -= 1


@pytest.fixture
def run():
    """The connections of a run on this thread."""
    run = Connections(NoShield())
    token = RUN.set(run)

    yield run

    RUN.reset(token)


@contextmanager
def cancelled_by_another_thread(run):
    """Cancels whatever runs, until the block ends: it may begin with a BEGIN."""
    ended = Event()

    def cancel():
        while not ended.wait(0.01):
            run.cancel()

    thread = Thread(target=cancel)
    thread.start()

    try:
        yield
    finally:
        ended.set()
        thread.join()


def is_plain(kind):
    return kind == "DB-API connection"


@pytest.mark.parametrize("kind", CALLERS)
def test_what_runs_on_a_connection_is_cancelled(dsn, run, kind):
    with CALLERS[kind](dsn) as caller:
        if is_plain(kind):
            with pytest.raises(ConfigError, match="cannot be cancelled"), cancellable(caller.conn):
                pass

            return

        with (
            pytest.raises(Exception, match="canceling statement due to user request") as caught,
            cancelled_by_another_thread(run),
            cancellable(caller.conn),
        ):
            caller.run("SELECT pg_sleep(60)")

        assert not isinstance(caught.value, ConfigError)
        assert not run.any
        caller.rollback()


@pytest.mark.parametrize("kind", CALLERS)
def test_an_idle_connection_is_left_alone(dsn, run, kind):
    with CALLERS[kind](dsn) as caller:
        if is_plain(kind):
            return

        with cancellable(caller.conn):
            caller.run("SELECT 1")

            assert run.any
            assert run.cancel() == 0

            caller.run("SELECT 1")

        caller.rollback()


@pytest.mark.parametrize("kind", CALLERS)
def test_an_enqueue_through_any_connection_works_in_a_run(dsn, run, prefix, kind, make_oban):
    from tests.support.workers import Echo

    oban = make_oban()

    with CALLERS[kind](dsn) as caller:
        assert oban.enqueue(Echo.new(), conn=caller.conn).id

        with oban.bind(caller.conn):
            assert Echo.enqueue().id

        assert not run.any
        caller.rollback()


@pytest.mark.parametrize("thing", [None, 5, "postgresql://", object(), psycopg.Connection])
@pytest.mark.parametrize("inside", [True, False])
def test_what_is_no_connection_is_an_error_in_a_job_and_outside(thing, inside, run):
    token = RUN.set(run if inside else None)

    try:
        with pytest.raises(ConfigError, match="cannot be cancelled"), cancellable(thing):
            pass
    finally:
        RUN.reset(token)


def test_nothing_is_registered_outside_of_a_run(conn):
    with cancellable(conn), known(conn):
        assert RUN.get() is None


def test_a_session_begins_no_transaction_by_being_bound(dsn, run):
    with sqlalchemy_session(dsn, driver="psycopg") as caller:
        with known(caller.conn):
            assert not caller.conn.in_transaction()

        with cancellable(caller.conn):
            assert caller.conn.in_transaction()


def test_a_connection_that_went_back_to_its_engine_is_not_cancelled(dsn, run):
    with engine_for(dsn, "psycopg", pool_size=1, max_overflow=0) as engine:
        mine = engine.connect()

        with cancellable(mine):
            mine.close()

            with engine.connect() as theirs:
                done = Event()
                thread = Thread(
                    target=lambda: (theirs.exec_driver_sql("SELECT pg_sleep(0.3)"), done.set())
                )
                driver = theirs.connection.driver_connection
                thread.start()
                eventually(lambda: driver.pgconn.transaction_status == 1 or done.is_set())

                assert run.cancel() == 0

                thread.join()
                assert done.is_set()


def test_a_closed_run_cancels_nothing_more(run):
    asked = []
    run.add(Registered(lambda: asked.append(1) or True))

    assert run.cancel() == 1

    run.close()

    assert run.cancel() == 0
    assert asked == [1]


def test_a_request_that_fails_is_logged_and_the_others_are_sent(run, caplog):
    def broken():
        raise psycopg.OperationalError("no route to host")

    run.add(Registered(broken))
    run.add(Registered(lambda: True))
    run.expect_cancel()

    assert run.busy
    assert run.cancel() == 1
    assert not run.busy
    assert "no route to host" in caplog.text


def test_the_end_of_a_block_waits_for_a_request_on_its_way():
    sent, answer = Event(), Event()
    order = []

    def slow():
        sent.set()
        answer.wait(10)
        order.append("cancelled")

        return True

    entry = Registered(slow)
    thread = Thread(target=entry.cancel)
    thread.start()
    assert sent.wait(10)
    waiter = Thread(target=lambda: (entry.let_go(), order.append("let go")))
    waiter.start()
    answer.set()
    thread.join()
    waiter.join()

    assert order == ["cancelled", "let go"]
    assert entry.cancelled
    assert not entry.cancel()


def test_a_request_that_takes_for_ever_is_not_waited_for_for_ever(run, conn, monkeypatch, caplog):
    monkeypatch.setattr(cancelling, "LONGEST_WAIT", 0.01)
    held = Event()
    free = Event()

    with known(conn):
        [entry] = run._entries

        def hold():
            with entry._lock:
                held.set()
                free.wait(10)

        thread = Thread(target=hold)
        thread.start()
        assert held.wait(10)

    assert "takes too long" in caplog.text

    free.set()
    thread.join()


def test_a_connection_of_ours_is_not_used_again_after_a_cancel(dsn, run):
    with psycopg.connect(dsn) as conn, psycopg.connect(dsn) as theirs:
        for given, ours in ((conn, True), (theirs, False)):
            with (
                pytest.raises(psycopg.errors.QueryCanceled),
                cancelled_by_another_thread(run),
                callers.bound(object(), given, ours=ours),
            ):
                given.execute("SELECT pg_sleep(60)")

        assert conn.closed
        assert not theirs.closed


def test_a_connection_is_taken_and_given_back_behind_a_shield(run):
    shield, back = run.shield, []

    def take():
        assert shield.depth == 1

        return "conn"

    def give_back(conn):
        assert shield.depth == 1
        back.append(conn)

    with taken(take, give_back) as conn:
        assert (conn, shield.depth) == ("conn", 0)

    with pytest.raises(LookupError), taken(take, give_back):
        raise LookupError

    assert back == ["conn", "conn"]
    assert shield.depth == 0


def test_a_connection_that_cannot_be_taken_leaves_no_shield(run):
    def take():
        raise LookupError

    with pytest.raises(LookupError), taken(take, pytest.fail):
        pass

    assert run.shield.depth == 0


def test_a_connection_is_taken_and_given_back_outside_of_a_run():
    back = []

    with taken(get_ident, back.append) as conn:
        pass

    assert back == [conn]
