"""What jobs tell of their progress while they run, and what is kept of it."""

from __future__ import annotations

import logging
import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from threading import Barrier, Thread

import psycopg
import pytest

from oban_sync import (
    DatabaseUnavailableError,
    InvalidJobError,
    NotRunningError,
    Record,
    Snooze,
    current_job,
    telemetry,
    testing,
    worker,
)
from oban_sync.core.job import KEPT
from oban_sync.core.outcome import of_result
from oban_sync.core.progress import MOST_STEPS, Progress
from oban_sync.engine import ack, fetch
from oban_sync.runtime import progress as reports
from oban_sync.runtime.progress import PAUSE, Report
from oban_sync.testing import perform_job
from tests.support import progress_workers
from tests.support.probe import Gate, eventually

_works = {}


@worker(queue="alpha", name="tests.Telling")
class Telling:
    """Does what the test says."""

    def process(self, job):
        return _works[job.args["work"]](job)


@worker(queue="alpha", name="tests.TellingWithin", transactional=True)
class TellingWithin:
    """The same in a transaction."""

    def process(self, job, conn):
        return _works[job.args["work"]](job, conn)


@pytest.fixture
def enqueue():
    """Enqueue a job that does as it is told."""

    def enqueue(work, kind=Telling, **options):
        name = f"work-{len(_works)}"
        _works[name] = work

        return kind.enqueue({"work": name}, **options)

    yield enqueue

    _works.clear()


@pytest.fixture
def written():
    """Hears what is written of the progress of jobs."""
    heard = []
    telemetry.attach("written", ["oban.job.progress"], lambda _, fields: heard.append(fields))

    yield heard

    telemetry.detach("written")


@pytest.fixture
def claim():
    return fetch.Claim("default", "node", "6b1d6d6e-0000-4000-8000-000000000001")


@pytest.fixture
def taken(db, factory, claim):
    """Takes a new job."""

    def take(**columns):
        factory.job(**columns)
        [job] = fetch.turn(db, claim, (), 1).jobs

        return job

    return take


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def report_of(db):
    """What a taken job tells its progress to, by a clock of the test."""
    clock = Clock()

    def report_of(job):
        made = Report(job, lambda: db, now=clock)
        job.reporting(lambda _: made)

        return clock

    return report_of


def kept(factory, job):
    """What stands in the row."""
    return factory.row(job.id)["meta"].get(KEPT, {}).get("progress")


def drained(oban, stored):
    oban.drain_queue("alpha", with_safety=True, with_scheduled=False, with_recursion=False)

    return oban.get_job(stored)


# What is told, and read


def test_progress_is_seen_while_the_job_runs_and_stays_afterwards(make_oban, enqueue, written):
    oban = make_oban(queues={"alpha": 1})
    gate = Gate()

    def work(job):
        job.report_progress(1, 4, note="the first")
        gate.pass_through()

    stored = enqueue(work)
    before = datetime.now(UTC) - timedelta(minutes=5)
    oban.start()

    try:
        gate.wait_until_entered()
        running = oban.get_job(stored)
    finally:
        gate.release.set()

    eventually(lambda: oban.get_job(stored).state == "completed")
    told = running.progress
    assert running.state == "executing"
    assert (told.done, told.total, told.note, told.attempt) == (1, 4, "the first", 1)
    assert told.fraction == 0.25
    assert before < told.at < datetime.now(UTC) + timedelta(minutes=5)
    assert oban.get_job(stored).progress == told
    assert [job.progress for job in oban.list_jobs()] == [told]
    [fields] = written
    assert fields["job"].id == stored.id
    assert {key: fields[key] for key in ("done", "total", "note")} == {
        "done": 1,
        "total": 4,
        "note": "the first",
    }


def test_a_job_that_tells_nothing_has_no_progress(oban, enqueue):
    done = drained(oban, enqueue(lambda job: None))

    assert done.progress is None
    assert done.meta == {}


def test_any_thread_of_the_job_may_tell_it(oban, enqueue):
    def work(job):
        thread = Thread(target=job.report_progress, args=(5, 10))
        thread.start()
        thread.join()
        assert job.progress.done == 5

    done = drained(oban, enqueue(work))

    assert done.state == "completed"
    assert done.progress.fraction == 0.5


def test_of_many_threads_that_tell_it_at_once_all_get_on(oban, enqueue, monkeypatch):
    monkeypatch.setattr(reports, "INTERVAL", 0.0)
    errors = []

    def work(job):
        together = Barrier(4)

        def tell():
            together.wait(10)

            try:
                for number in range(20):
                    job.report_progress(number, 20)
            except Exception as error:
                errors.append(error)

        threads = [Thread(target=tell) for _ in range(4)]

        for thread in threads:
            thread.start()

        for thread in threads:
            thread.join()

        job.report_progress(20, 20, "all")

    done = drained(oban, enqueue(work))

    assert errors == []
    assert (done.progress.done, done.progress.note) == (20, "all")


@pytest.mark.parametrize(
    ("done", "total", "fraction"),
    [(0, 0, 1.0), (7, 5, 1.0), (0, 5, 0.0), (0.5, 2, 0.25), (3, None, None), (MOST_STEPS, 1, 1.0)],
)
def test_the_fraction_is_between_nothing_and_all(done, total, fraction):
    assert Progress(done, total, None, datetime.now(UTC), 1).fraction == fraction


class Whole:
    """A whole number of another library's."""

    def __init__(self, value):
        self._value = value

    def __index__(self):
        return self._value


def test_numbers_of_other_libraries_are_taken_as_pythons_own(taken, report_of, factory):
    job = taken()
    report_of(job)

    job.report_progress(Whole(3), Whole(4))

    assert kept(factory, job)["done"] == 3
    assert type(job.progress.total) is int


@pytest.mark.parametrize(
    ("given", "argument"),
    [
        ({"done": -1}, "done"),
        ({"done": math.nan}, "done"),
        ({"done": math.inf}, "done"),
        ({"done": 10**400}, "done"),
        ({"done": True}, "done"),
        ({"done": "1"}, "done"),
        ({"done": None}, "done"),
        ({"done": Decimal(1)}, "done"),
        ({"done": 1, "total": -0.5}, "total"),
        ({"done": 1, "total": "many"}, "total"),
        ({"done": 1, "note": b"bytes"}, "note"),
        ({"done": 1, "note": 5}, "note"),
    ],
)
def test_what_is_no_progress_is_refused_by_name(taken, report_of, factory, given, argument):
    job = taken()
    report_of(job)

    with pytest.raises(InvalidJobError) as caught:
        job.report_progress(**given)

    assert caught.value.option == argument
    assert kept(factory, job) is None


@pytest.mark.parametrize(
    ("note", "stored"),
    [
        ("a\0b", "a\N{REPLACEMENT CHARACTER}b"),
        ("file\udcff.txt", "file?.txt"),
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 199 + "…"),
        ("\\u0000 \"'%s{}' 🐘", "\\u0000 \"'%s{}' 🐘"),
        ("", ""),
    ],
)
def test_no_text_of_a_note_fails_a_job(taken, report_of, factory, note, stored):
    job = taken()
    report_of(job)

    job.report_progress(1, note=note)

    assert kept(factory, job)["note"] == stored
    assert kept(factory, job)["total"] is None


@pytest.mark.parametrize(
    "found",
    [
        5,
        [],
        {},
        {"done": -1, "at": "2026-01-01T00:00:00Z"},
        {"done": 1},
        {"done": 1, "at": "soon"},
        {"done": 1, "at": None},
        {"done": 1, "total": "x", "at": "2026-01-01T00:00:00Z"},
        {"done": 1, "note": [], "at": "2026-01-01T00:00:00Z"},
    ],
)
def test_what_others_wrote_in_its_place_is_none(oban, factory, found):
    job_id = factory.job(meta={KEPT: {"progress": found}})

    assert oban.get_job(job_id).progress is None


def test_a_job_that_was_only_read_cannot_tell_any(oban, enqueue):
    read = oban.get_job(enqueue(lambda job: None))

    for job in (read, Telling.new({"work": "none"})):
        with pytest.raises(NotRunningError, match="does not run here"):
            job.report_progress(1)


# When it is written


def test_it_is_written_at_once_and_then_twice_a_second(taken, report_of, factory, written):
    job = taken()
    clock = report_of(job)

    job.report_progress(1)
    assert kept(factory, job)["done"] == 1

    clock.now += 0.49
    job.report_progress(2)
    assert kept(factory, job)["done"] == 1
    assert job.progress.done == 2

    clock.now += 0.02
    job.report_progress(3)
    assert kept(factory, job)["done"] == 3
    assert [fields["done"] for fields in written] == [1, 3]


def test_what_was_held_back_goes_with_the_outcome(taken, report_of, factory, db, claim):
    job = taken()
    report_of(job)
    job.report_progress(1, 2)
    job.report_progress(2, 2, "over")

    outcome = of_result(job, None)

    with db.session() as tx:
        ack.ack(tx, [outcome], owner=claim.owner)

    row = factory.row(job.id)
    assert row["state"] == "completed"
    assert kept(factory, job)["note"] == "over"


@pytest.mark.parametrize(
    ("result", "state"),
    [(Record([1]), "completed"), (Snooze(60), "scheduled"), (None, "completed")],
)
def test_it_stands_beside_what_the_outcome_keeps(oban, enqueue, result, state):
    def work(job):
        job.report_progress(1, 2)
        job.report_progress(2, 2)

        return result

    done = drained(oban, enqueue(work, meta={"mine": 1}, timeout=60))

    assert done.state == state
    assert done.progress.done == 2
    assert done.meta["mine"] == 1
    assert done.meta[KEPT]["timeout"] == 60
    assert done.recorded() == ([1] if isinstance(result, Record) else None)


def test_that_of_a_failure_stands_until_the_next_attempt_tells_more(oban, enqueue):
    def work(job):
        if job.attempt == 1:
            job.report_progress(7, 9, "before it fell")

            raise ValueError("boom")

        seen.append(job.progress)
        job.report_progress(1, 9)

    seen = []
    stored = enqueue(work)

    failed = drained(oban, stored)
    assert failed.state == "retryable"
    assert (failed.progress.done, failed.progress.attempt) == (7, 1)

    oban.retry_job(stored)
    done = drained(oban, stored)

    assert seen == [failed.progress]
    assert (done.progress.done, done.progress.attempt, done.progress.note) == (1, 2, None)


def test_nothing_is_taken_after_the_end_of_a_run(taken, report_of, factory, written):
    job = taken()
    clock = report_of(job)
    job.report_progress(1)
    of_result(job, None)

    clock.now += 60
    job.report_progress(2)

    assert kept(factory, job)["done"] == job.progress.done == 1
    assert len(written) == 1


@pytest.mark.parametrize(
    "change",
    [
        "state = 'available'",
        "state = 'completed'",
        "attempted_at = attempted_at + interval '1 second'",
        "attempted_by = ARRAY['node', 'another']",
    ],
)
def test_a_run_that_lost_its_job_writes_nothing(taken, report_of, factory, conn, written, change):
    job = taken()
    report_of(job)
    conn.execute(f"UPDATE oban_jobs SET {change} WHERE id = %s", [job.id])

    job.report_progress(1)

    assert kept(factory, job) is None
    assert written == []


def test_a_run_that_was_disowned_asks_nobody(taken):
    job = taken()
    job.reporting(lambda job: Report(job, lambda: pytest.fail("it asked")))
    job.disowned()

    job.report_progress(1)

    assert job.progress.done == 1


def test_nobody_is_waited_for_who_holds_the_row(taken, report_of, factory, conn):
    job = taken()
    clock = report_of(job)

    with conn.transaction():
        conn.execute("SELECT FROM oban_jobs WHERE id = %s FOR UPDATE", [job.id])
        job.report_progress(1)

    assert kept(factory, job) is None

    clock.now += 1
    job.report_progress(2)
    assert kept(factory, job)["done"] == 2


@pytest.mark.parametrize(
    "meta", ["null", "[1]", '{"oban_sync": 5}', '{"oban_sync": {"timeout": 9}}']
)
def test_it_is_written_into_meta_of_any_shape(taken, report_of, factory, conn, meta):
    job = taken()
    report_of(job)
    conn.execute("UPDATE oban_jobs SET meta = %s::jsonb WHERE id = %s", [meta, job.id])

    job.report_progress(1)

    assert kept(factory, job)["done"] == 1
    assert factory.row(job.id)["meta"][KEPT].get("timeout") == (9 if "timeout" in meta else None)


# Databases that are away


def test_a_database_that_is_away_fails_no_job(taken, db, factory, caplog):
    job = taken()
    clock, away = Clock(), [True]

    def find():
        if away[0]:
            raise DatabaseUnavailableError("PostgreSQL could not be reached: gone")

        return db

    job.reporting(lambda job: Report(job, find, now=clock))

    with caplog.at_level(logging.DEBUG, logger="oban_sync.runtime"):
        for _ in range(3):
            job.report_progress(1)

        clock.now += PAUSE
        job.report_progress(2)

    told = [record for record in caplog.records if "the progress of" in record.message]
    assert [record.levelname for record in told] == ["WARNING", "DEBUG"]
    assert "gone" in told[0].message

    away[0] = False
    clock.now += PAUSE - 1
    job.report_progress(3)
    assert kept(factory, job) is None

    clock.now += 1
    job.report_progress(4)
    assert kept(factory, job)["done"] == 4


def test_a_job_that_gets_no_connection_loses_no_word(make_oban, enqueue, monkeypatch, caplog):
    oban = make_oban(pool_size=2)
    monkeypatch.setattr("oban_sync.engine.progress.PATIENCE", 0.01)

    def work(job):
        with oban.connection(), oban.connection():
            job.report_progress(1, 2, "without a connection")

    done = drained(oban, enqueue(work))

    assert done.state == "completed"
    assert done.progress.note == "without a connection"
    assert "is kept until its end" in caplog.text


# Transactions


def test_that_of_a_transactional_job_is_seen_before_its_commit(oban, enqueue, written):
    seen = []

    def work(job, conn):
        job.report_progress(1, 2)
        seen.append((written[-1]["done"], oban.get_job(job).progress.done))

        return Record("ok")

    done = drained(oban, enqueue(work, TellingWithin))

    assert seen == [(1, 1)]
    assert done.recorded() == "ok"
    assert done.progress.done == 1


def test_it_outlives_the_work_of_a_transaction_that_failed(oban, enqueue, conn, prefix):
    def work(job, own):
        own.execute(f'INSERT INTO "{prefix}".oban_jobs (worker) VALUES (%s)', ["undone"])
        job.report_progress(1, 2)

        raise ValueError("boom")

    done = drained(oban, enqueue(work, TellingWithin))

    assert done.state == "retryable"
    assert done.progress.done == 1
    assert conn.execute("SELECT count(*) FROM oban_jobs").fetchone() == (1,)


def test_a_job_that_changed_its_own_row_does_not_wait_for_itself(oban, enqueue, prefix, written):
    def work(job, conn):
        conn.execute(f'UPDATE "{prefix}".oban_jobs SET tags = %s WHERE id = %s', [["x"], job.id])
        job.report_progress(1, 2)

    done = drained(oban, enqueue(work, TellingWithin))

    assert written == []
    assert (done.state, done.tags, done.progress.done) == ("completed", ["x"], 1)


def test_within_a_test_s_transaction_it_is_written_in_there(oban, enqueue, dsn, prefix, factory):
    seen = []

    def work(job):
        job.report_progress(1, 2)
        seen.append(oban.get_job(job).progress.done)
        job.report_progress(2, 2)

    with (
        psycopg.connect(dsn) as own,
        own.transaction(force_rollback=True),
        testing.bound(oban, own),
    ):
        done = drained(oban, enqueue(work))

    assert seen == [1]
    assert (done.state, done.progress.done) == ("completed", 2)
    assert factory.count() == 0


def test_a_job_without_a_row_keeps_it_to_itself(written):
    @worker(name="tests.TellingAlone")
    class Alone:
        def process(self, job):
            job.report_progress(1, 2)
            current_job().report_progress(2, 2)

            return job.progress

    assert perform_job(Alone).fraction == 1.0
    assert written == []


# Other jobs


def test_unique_jobs_are_the_same_whatever_they_told(make_oban, enqueue, factory):
    oban = make_oban()
    _works["same"] = lambda job: job.report_progress(1, 2)
    unique = {"period": "forever", "fields": ["worker", "args", "meta"]}

    first = Telling.enqueue({"work": "same"}, unique=unique)
    assert drained(oban, first).progress.done == 1

    assert Telling.enqueue({"work": "same"}, unique=unique).conflict is True
    assert factory.count() == 1


def test_a_job_that_is_enqueued_again_begins_without_progress(oban, enqueue):
    done = drained(oban, enqueue(lambda job: job.report_progress(1, 2), timeout=60))

    again = oban.enqueue(done)

    assert again.id != done.id
    assert again.progress is None
    assert oban.get_job(again).meta == {KEPT: {"timeout": 60}}


# Children of process queues


@pytest.mark.timeout(120)
def test_children_tell_it_too_and_a_crash_does_not_take_it_away(make_oban, tmp_path):
    queue = {"limit": 1, "executor": "process"}
    oban = make_oban(queues={"cpu": queue}).start()
    seen = tmp_path / "seen"
    telling = progress_workers.telling.enqueue(str(seen))
    dying = progress_workers.telling_dying.enqueue()

    eventually(lambda: oban.get_job(telling).progress, within=60)
    assert oban.get_job(telling).progress.note == "in a child"
    seen.touch()
    eventually(lambda: oban.get_job(dying).state == "discarded", within=60)

    done = oban.get_job(telling)
    assert (done.state, done.progress.done) == ("completed", 3)
    crashed = oban.get_job(dying)
    assert crashed.progress.note == "the last word"
    assert crashed.meta[KEPT]["crashes"] == 1
