"""Jobs whose work is committed together with their outcome."""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager, suppress
from datetime import datetime
from threading import Event
from uuid import uuid4

import psycopg
import psycopg2
import pytest
from psycopg.conninfo import make_conninfo
from psycopg_pool import PoolTimeout

from oban_sync import (
    Cancel,
    DatabaseUnavailableError,
    Discard,
    Record,
    Snooze,
    current_job,
    job,
    schema,
    worker,
)
from oban_sync.core.job import Job
from oban_sync.core.outcome import of_result
from oban_sync.engine import ack
from oban_sync.runtime import transactional
from oban_sync.runtime.host import Host
from tests.support import transactional_workers
from tests.support.probe import Gate, eventually
from tests.support.workers import Echo

_works = {}

TIMED = pytest.mark.parametrize("timeout", [None, 30], ids=["plain", "timed"])

#: How the runs come about: on threads of a queue, or on the caller's own.
WAYS = pytest.mark.parametrize("threads", [True, False], ids=["threads", "drained"])


@worker(queue="alpha", name="tests.Transactional", transactional=True)
class Transactional:
    """Does what the test says."""

    def process(self, job, conn):
        return _works[job.args["work"]](job, conn)


class Effects:
    """What jobs write into a table of the application."""

    def __init__(self, conn, prefix):
        self._conn = conn
        self._insert = f'INSERT INTO "{prefix}".effects VALUES (%s, %s)'

    def write(self, conn, note, job_id=0):
        conn.execute(self._insert, [job_id, note])

    @property
    def notes(self):
        return [row[0] for row in self._conn.execute("SELECT note FROM effects ORDER BY 1")]


@pytest.fixture
def effects(conn, prefix):
    conn.execute("CREATE TABLE effects (job bigint, note text)")

    return Effects(conn, prefix)


@pytest.fixture
def enqueue():
    """Enqueue a job that does as it is told."""

    def enqueue(work, **options):
        name = f"work-{id(work)}"
        _works[name] = work

        return Transactional.enqueue({"work": name}, **options)

    yield enqueue

    _works.clear()


@pytest.fixture
def perform(make_oban, probe):
    """Have a job run once; gives it as it stands then."""

    def perform(make, *, threads=True, queue=1, **options):
        oban = make_oban(queues={"alpha": queue} if threads else None, **options)
        stored = make()

        if not threads:
            oban.drain_queue("alpha", with_safety=True, with_scheduled=False, with_recursion=False)

            return oban.get_job(stored)

        oban.start()
        eventually(lambda: oban.get_job(stored).state not in ("available", "executing"))
        oban.stop()

        return make_oban().get_job(stored)

    return perform


def told(done):
    """The error that a job ended with."""
    return done.errors[-1]["error"]


# What stays and what does not


@WAYS
@TIMED
def test_work_is_committed_with_its_outcome(
    perform, enqueue, effects, factory, probe, timeout, threads
):
    def work(job, conn):
        effects.write(conn, "paid", job.id)
        Echo.enqueue(queue="beta")

        # Neither can be seen from outside.
        assert effects.notes == []
        assert factory.count(queue="beta") == 0

    done = perform(lambda: enqueue(work, timeout=timeout), threads=threads)

    assert done.state == "completed"
    assert effects.notes == ["paid"]
    assert factory.count(queue="beta") == 1
    assert probe.next("oban.job.stop")["state"] == "completed"


@WAYS
@TIMED
def test_work_that_raises_is_undone_with_all_it_enqueued(
    perform, enqueue, effects, factory, probe, timeout, threads
):
    def work(job, conn):
        effects.write(conn, "paid")
        Echo.enqueue(queue="beta")

        raise ValueError("declined")

    done = perform(lambda: enqueue(work, timeout=timeout), threads=threads)

    assert done.state == "retryable"
    assert "ValueError: declined" in told(done)
    assert told(done).splitlines()[1].strip().startswith(f'File "{__file__}"')
    assert effects.notes == []
    assert factory.count(queue="beta") == 0
    assert probe.next("oban.job.exception")["error_type"] == "ValueError"


@WAYS
@pytest.mark.parametrize(
    ("result", "state"),
    [
        (Record({"sum": 3}), "completed"),
        (Snooze(3600), "scheduled"),
        (Cancel("not wanted"), "cancelled"),
        (Discard("no such customer"), "discarded"),
        ("anything", "completed"),
    ],
    ids=lambda item: type(item).__name__,
)
def test_whatever_is_returned_commits_the_work(perform, enqueue, effects, result, state, threads):
    def work(job, conn):
        effects.write(conn, "done")

        return result

    done = perform(lambda: enqueue(work), threads=threads)

    assert (done.state, effects.notes) == (state, ["done"])
    assert not isinstance(result, Record) or done.recorded() == {"sum": 3}
    assert done.attempt == (0 if state == "scheduled" else 1)


def test_the_attempt_after_a_failure_leaves_its_effects_once(perform, enqueue, effects, make_oban):
    def work(job, conn):
        effects.write(conn, f"attempt {job.attempt}")

        if job.attempt == 1:
            raise ValueError("once")

    stored = perform(lambda: enqueue(work))
    make_oban().drain_queue("alpha")

    assert make_oban().get_job(stored).state == "completed"
    assert effects.notes == ["attempt 2"]


def test_a_job_that_changes_its_own_fields_is_written_all_the_same(perform, enqueue, effects):
    def work(job, conn):
        effects.write(conn, "done")
        job.id, job.attempted_by = None, []

    assert perform(lambda: enqueue(work)).state == "completed"
    assert effects.notes == ["done"]


def test_a_unique_job_can_be_enqueued_again_once_it_is_committed(make_oban, effects):
    @worker(
        name="tests.transactional-unique",
        transactional=True,
        unique={"period": "forever", "states": "incomplete"},
    )
    class Only:
        def process(self, job, conn):
            assert Only.enqueue().conflict

    oban = make_oban()
    first = Only.enqueue()
    oban.drain_queue()
    again = Only.enqueue()

    assert not again.conflict
    assert oban.get_job(first).state == "completed"


# The fence


def test_the_work_is_undone_of_a_job_that_is_somebody_elses_by_then(
    make_oban, enqueue, effects, conn, probe, caplog
):
    gate = Gate()

    def work(job, given):
        effects.write(given, "ours")
        gate.pass_through()

    oban = make_oban(queues={"alpha": 1}).start()
    stored = enqueue(work)
    gate.wait_until_entered()
    # As a rescue and a start elsewhere.
    conn.execute(
        "UPDATE oban_jobs SET attempted_at = attempted_at + interval '1 second',"
        " attempted_by = '{other,other}', attempt = 2"
    )

    with caplog.at_level(logging.WARNING, "oban_sync.runtime"):
        gate.release.set()
        event = probe.next("oban.job.fenced")

    assert (event["job"].id, event["state"]) == (stored.id, "completed")
    assert "belongs to another run by now" in caplog.text
    assert effects.notes == []
    row = oban.get_job(stored)
    assert (row.state, row.attempt, row.attempted_by) == ("executing", 2, ["other", "other"])

    # The slot is free, and the next turn works as ever.
    other = enqueue(lambda job, given: effects.write(given, "next"))
    eventually(lambda: oban.get_job(other).state == "completed")


def test_a_row_that_somebody_holds_is_waited_for(
    make_oban, enqueue, effects, conn, dsn, prefix, probe
):
    gate = Gate()

    def work(job, given):
        effects.write(given, "done")
        gate.pass_through()

    oban = make_oban(queues={"alpha": 1}).start()
    stored = enqueue(work)
    gate.wait_until_entered()
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"

    with psycopg.connect(dsn) as holder:
        holder.execute(f'UPDATE "{prefix}".oban_jobs SET meta = meta || \'{{"seen": true}}\'')
        gate.release.set()
        eventually(lambda: conn.execute(waiting).fetchone()[0] == 1)
        holder.commit()

    eventually(lambda: oban.get_job(stored).state == "completed")
    assert oban.get_job(stored).meta["seen"] is True
    assert effects.notes == ["done"]


def test_the_work_is_undone_of_a_job_that_was_handed_back(make_oban, enqueue, effects, probe):
    gate = Gate()

    def work(job, conn):
        effects.write(conn, "done")
        gate.pass_through()

    oban = make_oban(queues={"alpha": 1}).start()
    stored = enqueue(work)
    gate.wait_until_entered()
    oban.stop(grace=0.0)
    gate.release.set()
    probe.next("oban.job.stop")

    assert make_oban().get_job(stored).state == "available"
    assert effects.notes == []


@pytest.fixture
def another_database(dsn, prefix):
    """One that has tables of an Oban too."""
    name = f"oban_other_{uuid4().hex[:12]}"

    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name}")
        other = make_conninfo(dsn, dbname=name)
        schema.install(other, prefix=prefix)

        with psycopg.connect(other, autocommit=True) as there:
            there.execute("CREATE TABLE effects (note text)")

        yield other

        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


@WAYS
def test_a_job_whose_transaction_is_in_another_database_fails_and_says_so(
    perform, commits, another_database, threads, probe
):
    def work(given):
        given.execute("INSERT INTO effects VALUES ('there')")

    cls = commits(lambda: psycopg.connect(another_database), work)
    done = perform(cls.enqueue, threads=threads)

    assert done.state == "retryable"
    assert "one in another database than the Oban's" in told(done)
    assert probe.next("oban.job.exception")["state"] == "retryable"

    with psycopg.connect(another_database) as there:
        assert there.execute("SELECT note FROM effects").fetchall() == []


@WAYS
@pytest.mark.parametrize(
    "change",
    ["DELETE FROM oban_jobs", "UPDATE oban_jobs SET state = 'completed', completed_at = now()"],
    ids=["deletes", "updates"],
)
def test_a_job_that_changes_its_own_row_in_its_transaction_fails_and_says_so(
    perform, enqueue, effects, prefix, change, threads
):
    def work(job, given):
        effects.write(given, "lost")
        given.execute(change.replace("oban_jobs", f'"{prefix}".oban_jobs'))

    done = perform(lambda: enqueue(work), threads=threads)

    assert done.state == "retryable"
    assert "the job changed or deleted its own row" in told(done)
    assert effects.notes == []


def test_a_drained_job_that_is_somebody_elses_by_then_counts_nowhere(
    make_oban, enqueue, effects, conn
):
    def work(job, given):
        effects.write(given, "ours")
        conn.execute("UPDATE oban_jobs SET attempted_by = '{other,other}'")

    oban = make_oban()
    stored = enqueue(work)

    assert set(oban.drain_queue("alpha").values()) == {0}
    assert oban.get_job(stored).state == "executing"
    assert effects.notes == []


# What the job may do with what it is given


def test_a_job_cannot_commit_by_itself(perform, enqueue, effects):
    def work(job, conn):
        effects.write(conn, "half")
        conn.commit()

    done = perform(lambda: enqueue(work))

    assert done.state == "retryable"
    assert "commit() forbidden" in told(done)
    assert effects.notes == []


def test_a_statement_that_commits_is_noticed(perform, enqueue, effects):
    def work(job, conn):
        conn.execute("COMMIT")

    done = perform(lambda: enqueue(work))

    assert done.state == "retryable"
    assert "a transactional worker does not commit" in told(done)


def commit_by_sql(conn):
    conn.cursor().execute("COMMIT")


def commit_and_go_on(conn):
    conn.cursor().execute("COMMIT AND CHAIN")


def commit_by_hand(conn):
    conn.commit()


@WAYS
@pytest.mark.parametrize("fails", [False, True], ids=["good", "bad"])
@pytest.mark.parametrize(
    ("driver", "end"),
    [
        (psycopg, commit_by_sql),
        (psycopg, commit_and_go_on),
        (psycopg2, commit_by_sql),
        (psycopg2, commit_by_hand),
    ],
    ids=lambda value: value.__name__,
)
def test_a_transaction_that_was_ended_below_is_noticed(
    perform, commits, effects, dsn, prefix, driver, end, fails, threads
):
    insert = f'INSERT INTO "{prefix}".effects VALUES (1, %s)'

    def work(given):
        given.cursor().execute(insert, ["before"])
        end(given)
        given.cursor().execute(insert, ["after"])

        if fails:
            raise ValueError("declined")

    done = perform(commits(lambda: closing_in(driver, dsn), work).enqueue, threads=threads)

    assert done.state == "retryable"
    # What was committed stays; there is no way to get it back. psycopg2 does not see the statement
    # either, and begins no other transaction: what follows is committed at once.
    by_itself = (driver, end) == (psycopg2, commit_by_sql)
    assert effects.notes == (["after", "before"] if by_itself else ["before"])
    assert ("the job ended the transaction" if not fails else "declined") in told(done)


@contextmanager
def closing_in(driver, dsn):
    conn = driver.connect(dsn)

    try:
        yield conn
        conn.commit()
    finally:
        conn.close()


# A stream that is not read to its end keeps the connection


def begin_to_read(conn):
    rows = conn.cursor().stream("SELECT generate_series(1, 100000)")
    next(rows)

    return rows


@WAYS
@TIMED
@pytest.mark.timeout(60)
def test_a_job_that_raises_in_the_middle_of_a_stream_is_undone(
    perform, enqueue, effects, timeout, threads
):
    def work(job, conn):
        effects.write(conn, "lost")
        rows = begin_to_read(conn)

        try:
            raise KeyError(next(rows))
        except KeyError as error:
            raise ValueError("in the middle") from error

    done = perform(lambda: enqueue(work, timeout=timeout), threads=threads)

    assert done.state == "retryable"
    assert "ValueError: in the middle" in told(done)
    assert "its connection was closed" not in told(done)
    assert effects.notes == []


@WAYS
@pytest.mark.timeout(60)
@pytest.mark.parametrize("fails", [False, True], ids=["good", "bad"])
def test_a_stream_that_is_kept_fails_the_job_and_nothing_waits_for_it(
    perform, enqueue, effects, fails, threads
):
    kept = []

    def work(job, conn):
        effects.write(conn, "lost")
        kept.append(begin_to_read(conn))

        if fails:
            raise ValueError("in the middle")

    done = perform(lambda: enqueue(work), threads=threads)

    assert done.state == "retryable"
    assert "a stream() was not read to its end" in told(done)
    assert ("ValueError" in told(done)) == fails
    assert effects.notes == []
    kept.pop().close()


@pytest.mark.timeout(60)
def test_a_stream_that_nobody_kept_has_had_its_query_cancelled(perform, enqueue, effects):
    def work(job, conn):
        effects.write(conn, "lost")
        begin_to_read(conn)

    done = perform(lambda: enqueue(work))

    # By psycopg, when it was closed; and after an error PostgreSQL takes nothing more.
    assert done.state == "retryable"
    assert "InFailedSqlTransaction" in told(done)
    assert effects.notes == []


@pytest.mark.timeout(60)
def test_a_stream_that_is_read_to_its_end_is_like_any_other_query(perform, enqueue, effects):
    def work(job, conn):
        rows = conn.cursor().stream("SELECT generate_series(1, 3)")

        for note in [str(row[0]) for row in rows]:
            effects.write(conn, note)

    assert perform(lambda: enqueue(work)).state == "completed"
    assert effects.notes == ["1", "2", "3"]


def test_an_error_of_postgresql_that_was_swallowed_fails_the_job_with_advice(
    perform, enqueue, effects
):
    def work(job, conn):
        effects.write(conn, "before")

        try:
            conn.execute("SELECT 1 / 0")
        except psycopg.errors.DivisionByZero:
            return "never mind"

    done = perform(lambda: enqueue(work))

    assert done.state == "retryable"
    assert "InFailedSqlTransaction" in told(done)
    assert "savepoint" in told(done)
    assert effects.notes == []


def test_a_part_in_a_savepoint_may_fail(perform, enqueue, effects):
    def work(job, conn):
        effects.write(conn, "before")

        with suppress(psycopg.errors.DivisionByZero), conn.transaction():
            effects.write(conn, "inside")
            conn.execute("SELECT 1 / 0")

        effects.write(conn, "behind")

    assert perform(lambda: enqueue(work)).state == "completed"
    assert effects.notes == ["before", "behind"]


def test_what_fails_only_at_the_commit_fails_the_job(perform, enqueue, effects, conn):
    conn.execute("ALTER TABLE effects ADD UNIQUE (note) DEFERRABLE INITIALLY DEFERRED")
    conn.execute("INSERT INTO effects VALUES (0, 'there')")

    def work(job, given):
        effects.write(given, "there")

    done = perform(lambda: enqueue(work))

    assert done.state == "retryable"
    assert "UniqueViolation" in told(done)
    assert effects.notes == ["there"]


# How a commit ended that nobody answered


@pytest.fixture
def commits(dsn):
    """Makes workers whose commits go as the test wants it."""
    names = iter(range(100))

    def make(factory, work):
        @worker(queue="alpha", name=f"tests.commits-{next(names)}", transactional=factory)
        class Committing:
            def process(self, job, conn):
                work(conn)

        return Committing

    return make


def test_a_commit_that_was_done_without_an_answer_is_found(
    perform, commits, effects, dsn, probe, caplog
):
    @contextmanager
    def deaf():
        with psycopg.connect(dsn) as conn:
            yield conn

        if not told_once.is_set():
            told_once.set()

            raise psycopg.OperationalError("the reply was lost")

    told_once = Event()

    with caplog.at_level(logging.WARNING, "oban_sync.runtime"):
        cls = commits(deaf, lambda conn: effects.write(conn, "done"))
        done = perform(cls.enqueue)

    assert (done.state, done.attempt) == ("completed", 1)
    assert effects.notes == ["done"]
    assert probe.next("oban.job.stop")["state"] == "completed"
    assert "it was done" in caplog.text


def test_a_commit_that_was_cut_off_before_it_was_done_is_a_failure(
    perform, commits, effects, dsn, conn, caplog
):
    @contextmanager
    def cut():
        with psycopg.connect(dsn, autocommit=True) as given, given.transaction():
            yield given

            if not cut_once.is_set():
                cut_once.set()
                conn.execute("SELECT pg_terminate_backend(%s)", [given.info.backend_pid])

    cut_once = Event()

    with caplog.at_level(logging.WARNING, "oban_sync.runtime"):
        done = perform(commits(cut, lambda given: effects.write(given, "done")).enqueue)

    assert done.state == "retryable"
    assert "terminating connection" in told(done)
    assert effects.notes == []
    assert "it was not done" in caplog.text


def test_the_end_of_a_commit_that_still_goes_on_is_waited_for(perform, commits, effects, dsn):
    opened = []

    class Kept(psycopg.Connection):
        """Stays open, as a server goes on whose client is gone."""

        def __exit__(self, *_):
            pass

    first = []

    @contextmanager
    def lingering():
        if not first:
            first.append(Kept.connect(dsn, autocommit=True))
            first[0].execute("BEGIN")
            yield first[0]

            raise psycopg.OperationalError("the reply was lost")

        opened.append(None)

        with psycopg.connect(dsn, autocommit=True) as given:
            yield given

        if len(opened) == 2:
            # Only now, and the look after this one will see it.
            first[0].execute("COMMIT")

    try:
        done = perform(commits(lingering, lambda given: effects.write(given, "done")).enqueue)
    finally:
        first[0].close()

    assert (done.state, effects.notes) == ("completed", ["done"])
    assert len(opened) >= 3


def test_where_the_end_of_a_commit_stays_unknown_its_row_decides(
    perform, commits, effects, dsn, monkeypatch, make_oban
):
    monkeypatch.setattr(transactional, "SETTLE_PERIOD", 0.05)
    first = []

    @contextmanager
    def vanishing():
        given = psycopg.connect(dsn, autocommit=True)

        if first:
            given.close()

            raise psycopg.OperationalError("PostgreSQL is not to be reached")

        first.append(given)
        given.execute("BEGIN")
        yield given

        raise psycopg.OperationalError("the reply was lost")

    oban = make_oban(queues={"alpha": 1}).start()
    stored = commits(vanishing, lambda given: effects.write(given, "done")).enqueue()
    eventually(lambda: first and len(oban.check_queue("alpha").running) == 0)
    # The queue waits for the row meanwhile, and then finds that the job is over.
    first[0].execute("COMMIT")
    first[0].close()
    eventually(lambda: oban.get_job(stored).state == "completed")
    oban.stop()

    row = make_oban().get_job(stored)
    assert (row.state, row.errors) == ("completed", [])
    assert effects.notes == ["done"]


def test_a_manager_that_swallows_exceptions_completes_nothing(perform, commits, effects, dsn):
    @contextmanager
    def swallowing():
        with psycopg.connect(dsn) as conn:
            try:
                yield conn
            except ValueError:
                conn.rollback()

    def work(conn):
        effects.write(conn, "done")

        raise ValueError("lost on the way")

    done = perform(commits(swallowing, work).enqueue)

    assert done.state == "retryable"
    assert "let an exception vanish" in told(done)
    assert effects.notes == []


# Time


def test_sql_of_a_job_whose_time_is_up_is_cancelled_and_undone(perform, enqueue, effects):
    def work(job, conn):
        effects.write(conn, "begun")
        conn.execute("SELECT pg_sleep(60)")

    queue = {"limit": 1, "escalation": {"cancel_sql": 0.05, "interrupt": False, "replace": 20}}
    done = perform(lambda: enqueue(work, timeout=0.1), queue=queue)

    assert done.state == "retryable"
    assert "JobTimeoutError" in told(done)
    assert "QueryCanceled" in told(done)
    assert effects.notes == []


def test_a_job_that_stops_because_its_time_is_up_is_undone(perform, enqueue, effects):
    def work(job, conn):
        effects.write(conn, "half")
        eventually(job.cancelled)

        return Cancel("no time")

    done = perform(lambda: enqueue(work, timeout=0.1))

    assert done.state == "retryable"
    assert "It stopped when asked to: no time" in told(done)
    assert effects.notes == []


def test_a_job_that_was_given_up_is_undone_when_it_returns(make_oban, enqueue, effects, probe):
    gate = Gate()

    def work(job, conn):
        effects.write(conn, "late")
        gate.pass_through()

    queue = {
        "limit": 1,
        "escalation": {"cancel_sql": False, "interrupt": False, "replace": 0.05},
    }
    oban = make_oban(queues={"alpha": queue}).start()
    stored = enqueue(work, timeout=0.1)
    eventually(lambda: oban.get_job(stored).state == "retryable")
    gate.release.set()
    probe.next("oban.job.returned")

    assert oban.get_job(stored).state == "retryable"
    assert effects.notes == []


def test_an_interrupt_does_not_come_between_the_work_and_its_outcome(
    make_oban, enqueue, effects, conn, probe
):
    # The commit takes as long as the trigger does.
    conn.execute(
        "CREATE FUNCTION tarry() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_sleep(1); RETURN NULL; END'"
    )
    conn.execute(
        "CREATE CONSTRAINT TRIGGER tarry AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION tarry()"
    )
    queue = {"limit": 1, "escalation": {"cancel_sql": False, "interrupt": 0.1, "replace": 20}}
    oban = make_oban(queues={"alpha": queue}).start()
    stored = enqueue(lambda job, given: effects.write(given, "done"), timeout=0.1)
    probe.next("oban.job.timeout", step="interrupt")

    assert probe.next("oban.job.stop")["state"] == "completed"
    assert oban.get_job(stored).state == "completed"
    assert effects.notes == ["done"]


# Queues


def test_a_paused_queue_tells_that_its_limit_is_free_again(
    make_oban, enqueue, effects, conn, probe
):
    gate = Gate()
    oban = make_oban(queues={"alpha": {"limit": 2, "global_limit": 2}}).start()
    stored = enqueue(lambda job, given: gate.pass_through())
    gate.wait_until_entered()
    oban.pause_queue("alpha")
    probe.next("oban.queue.paused")
    gate.release.set()
    eventually(lambda: oban.get_job(stored).state == "completed")

    running = "SELECT running FROM oban_sync_producers WHERE queue = 'alpha'"
    eventually(lambda: conn.execute(running).fetchone() == (0,))


def test_jobs_follow_one_another_on_one_slot(make_oban, enqueue, effects):
    oban = make_oban(queues={"alpha": 1}).start()
    stored = [
        enqueue(lambda job, conn, number=number: effects.write(conn, f"{number}"))
        for number in range(5)
    ]
    eventually(lambda: all(oban.get_job(item).state == "completed" for item in stored))

    assert effects.notes == ["0", "1", "2", "3", "4"]


def test_a_queue_may_have_more_slots_than_there_are_connections(make_oban, enqueue, effects):
    def work(job, conn):
        conn.execute("SELECT pg_sleep(0.02)")
        effects.write(conn, "done")
        # Through its own connection, or they would all wait for one another.
        Echo.enqueue(queue="beta")

    oban = make_oban(queues={"alpha": 8}, pool_size=1).start()
    stored = [enqueue(work) for _ in range(24)]
    eventually(lambda: all(oban.get_job(item).state == "completed" for item in stored))

    assert effects.notes == ["done"] * 24
    assert {oban.get_job(item).attempt for item in stored} == {1}


@pytest.fixture
def hosted(dsn, prefix, factory):
    """Runs work for a job that is taken, with a host of the test's own."""

    def run(opens, *, job=None, **options):
        with psycopg.connect(dsn, autocommit=True) as conn:

            @contextmanager
            def transaction():
                opens()

                with conn.transaction():
                    yield conn

            given = job or a_job()

            return transactional.run(
                given,
                Host(transaction=transaction, schema=prefix, **options),
                True,
                lambda _: (of_result(given, None), True),
                told=lambda outcome: None,
            )

    return run


def a_job():
    return Job(worker="tests.Nobody")


def all_taken():
    try:
        raise PoolTimeout("couldn't get a connection after 5.00 sec")
    except PoolTimeout as error:
        raise DatabaseUnavailableError("no connection within 5 s") from error


def test_a_run_waits_for_a_connection_until_there_is_one(hosted, caplog):
    tries = iter([all_taken, all_taken, lambda: None])

    with caplog.at_level(logging.WARNING, "oban_sync.runtime"):
        outcome = hosted(lambda: next(tries)(), patient=True)

    assert outcome.state == "completed"
    assert caplog.text.count("waits for a connection") == 1


def test_a_run_that_nobody_vouches_for_does_not_wait(hosted):
    with pytest.raises(DatabaseUnavailableError):
        hosted(all_taken)


@pytest.mark.parametrize("stop", [Job.ask_to_stop, Job.disowned], ids=["asked", "handed back"])
def test_a_run_that_is_not_wanted_any_more_does_not_wait(hosted, stop):
    given = a_job()
    stop(given)

    with pytest.raises(DatabaseUnavailableError):
        hosted(all_taken, job=given, patient=True)


def test_what_is_no_want_of_connections_is_not_waited_for(hosted):
    def refuse():
        raise DatabaseUnavailableError("PostgreSQL could not be reached")

    with pytest.raises(DatabaseUnavailableError):
        hosted(refuse, patient=True)


def test_a_job_without_a_row_has_its_work_committed(hosted, factory):
    outcome = hosted(lambda: None)

    assert (outcome.state, outcome.written) == ("completed", None)


def test_without_an_oban_there_is_nothing_to_work_by():
    given = a_job()

    with pytest.raises(Exception, match="no Oban in this process"):
        transactional.run(given, Host(), True, lambda _: None, told=lambda outcome: None)


# Where it runs within a transaction of the caller's


def test_within_a_transaction_of_the_caller_s_it_is_a_savepoint(make_oban, enqueue, effects):
    oban = make_oban()
    good = enqueue(lambda job, conn: effects.write(conn, "good"))
    bad = enqueue(lambda job, conn: effects.write(conn, "bad") or 1 / 0)

    with oban.transaction():
        oban.drain_queue("alpha", with_safety=True, with_scheduled=False, with_recursion=False)
        assert effects.notes == []

    assert effects.notes == ["good"]
    assert oban.get_job(good).state == "completed"
    assert oban.get_job(bad).state == "retryable"


# Functions


def test_a_function_gets_the_connection_first(make_oban, effects, conn):
    @job(queue="alpha", name="tests.transactional-add", transactional=True)
    def add(given, a, /, b, *rest, **named):
        effects.write(given, json.dumps([a, b, *rest, named]), current_job().id)

        return Record(a + b)

    oban = make_oban()
    stored = add.enqueue(1, 2, 3, x=4)
    oban.drain_queue("alpha")

    assert stored.args == {"a": 1, "b": 2, "rest": [3], "x": 4}
    assert oban.get_job(stored).recorded() == 3
    assert effects.notes == ['[1, 2, 3, {"x": 4}]']


# Processes


@pytest.fixture
def child(make_oban, effects):
    """Starts a queue of child processes."""

    def start(**options):
        queue = {"limit": 1, "executor": "process"}

        return make_oban(queues={"cpu": queue}, **options).start()

    return start


@pytest.mark.timeout(120)
def test_a_child_commits_the_work_with_its_outcome(child, effects, factory, probe):
    oban = child()
    stored = transactional_workers.noting.enqueue("by a child")
    later = transactional_workers.noting_more.enqueue("again")
    dying = transactional_workers.noting_dying.enqueue("never")

    def ended():
        states = [oban.get_job(item).state for item in (stored, later, dying)]

        return states == ["completed", "scheduled", "discarded"]

    eventually(ended, within=60)

    assert effects.notes == ["again", "by a child"]
    assert factory.count(queue="elsewhere") == 1
    assert oban.get_job(later).meta["snoozed"] == 1
    assert "SIGKILL" in told(oban.get_job(dying))
    assert probe.next("oban.job.stop", state="completed")["job"].id == stored.id


# On any driver


@pytest.mark.parametrize("way", ["psycopg", "psycopg2"])
def test_an_outcome_is_written_and_found_through_any_driver(dsn, prefix, factory, way):
    owner = "an owner"
    job_id = factory.executing(owner)
    at = factory.row(job_id)["attempted_at"]
    given = Job.loaded(
        id=job_id, state="executing", tags=[], attempted_by=["node", owner], attempt=1,
        worker="tests.Nobody", queue="alpha", max_attempts=20, priority=0,
        args="{}", meta="{}", errors="[]",
    )  # fmt: skip
    epoch = at.replace(tzinfo=None)
    given.key = (job_id, micros(epoch))
    outcome = of_result(given, Record("ü%s"))
    conn = (psycopg if way == "psycopg" else psycopg2).connect(dsn)

    try:
        assert ack.is_settled(conn, prefix, outcome, owner=owner) is False
        assert not ack.ack_on(conn, prefix, outcome, owner="another")
        assert ack.ack_on(conn, prefix, outcome, owner=owner)
        assert ack.is_settled(conn, prefix, outcome, owner=owner) is True
        conn.commit()
    finally:
        conn.close()

    assert factory.row(job_id)["state"] == "completed"


def micros(at):
    return round((at - datetime(2000, 1, 1)).total_seconds() * 1_000_000)
