"""What jobs log is kept, however they run and end; and costs nothing where they do not."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import timeit
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from oban_sync import testing
from oban_sync.core.errors import DatabaseUnavailableError
from oban_sync.core.job import CURRENT, Job, JobState
from oban_sync.core.job_logs import LogsConfig
from oban_sync.core.outcome import Outcome
from oban_sync.engine import logs as stored_logs
from oban_sync.runtime import job_logs
from oban_sync.runtime.child import _Teller
from oban_sync.runtime.host import Host
from oban_sync.runtime.job_logs import Capture, JobLogs
from tests.support import logging_workers as workers
from tests.support.probe import eventually

log = logging.getLogger("app.jobs")


@pytest.fixture
def start(make_oban):
    """Starts an Oban that runs the queue of the workers."""

    def start(queue=2, **options):
        return make_oban(queues={"logs": queue}, **options).start()

    return start


def messages(oban, job):
    """What a job logged, one list a run."""
    return [[line.message for line in run.lines] for run in oban.job_logs(job)]


def logged(oban, job, *lines):
    """Wait until these are the last lines of a job; gives all of its runs."""
    eventually(lambda: [run for run in messages(oban, job) if run[-len(lines) :] == [*lines]])

    return messages(oban, job)


def a_job(job_id=1, start=1_000_000, attempt=1):
    job = Job(worker="W", queue="logs")
    job.id = job_id
    job.key = (job_id, start)
    job.attempt = attempt
    job.attempted_by = ["node", "uuid"]

    return job


@contextmanager
def running(capture, job):
    """A run of a job on this thread."""
    job_logs.listen()
    token = CURRENT.set(job)
    capture.begin(job)

    try:
        yield
    finally:
        capture.end(job, Outcome(job, JobState.COMPLETED))
        CURRENT.reset(token)


@contextmanager
def the_factory(factory):
    """As if the application had set a record factory just now."""
    previous = logging.getLogRecordFactory()
    logging.setLogRecordFactory(factory)

    try:
        yield
    finally:
        logging.setLogRecordFactory(previous)
        job_logs.listen()


def taken(*texts):
    """What is taken of a run that logs these."""
    capture = Capture(LogsConfig())

    with running(capture, a_job()):
        for text in texts:
            log.info(text)

    return [line.message for run in capture.changes() for line in run.lines]


# On threads


def test_what_a_job_logs_can_be_read_when_it_has_ended(start):
    oban = start()
    job = workers.says.enqueue(["first", "second"])
    logged(oban, job.id, "second")
    [run] = oban.job_logs(job)

    assert [line.message for line in run.lines] == ["first", "second"]
    assert (run.attempt, run.node, run.dropped) == (1, oban.node, 0)
    assert run.attempted_at == oban.get_job(job.id).attempted_at
    assert {(line.level, line.logger) for line in run.lines} == {("info", "app.jobs")}
    assert all(abs((line.at - datetime.now(UTC)).total_seconds()) < 60 for line in run.lines)


def test_a_job_that_logs_nothing_leaves_no_row(start, probe, conn):
    oban = start()
    workers.silent.enqueue()
    probe.next("oban.job.stop")
    marker = workers.says.enqueue("marker")
    logged(oban, marker.id, "marker")

    assert conn.execute("SELECT count(*) FROM oban_sync_logs").fetchone() == (1,)


def test_every_attempt_has_a_log_of_its_own(start, probe):
    oban = start()
    job = workers.fails.enqueue()
    probe.next("oban.job.exception")
    eventually(lambda: oban.get_job(job.id).state == "retryable")
    oban.retry_job(job.id)
    probe.next("oban.job.exception")

    eventually(lambda: len(oban.job_logs(job.id)) == 2)
    assert [run.attempt for run in oban.job_logs(job.id)] == [1, 2]
    assert messages(oban, job.id) == [["about to fail"], ["about to fail"]]


def test_any_logger_counts_but_the_library_s_and_within_the_application_s_levels(start):
    oban = start()
    job = workers.others.enqueue()

    assert logged(oban, job.id, "does not propagate") == [["of the root", "does not propagate"]]


def test_a_long_job_can_be_followed_while_it_runs(start, tmp_path):
    oban = start()
    entered, leave = tmp_path / "entered", tmp_path / "leave"
    job = workers.gate.enqueue(str(entered), str(leave))

    assert logged(oban, job.id, "it begins") == [["it begins"]]
    assert oban.get_job(job.id).state == "executing"
    leave.write_text("")
    assert logged(oban, job.id, "it ends") == [["it begins", "it ends"]]


def test_the_oldest_lines_are_dropped_and_counted(start):
    oban = start(logs={"most_lines": 10})
    job = workers.floods.enqueue(25)
    logged(oban, job.id, "line 24")
    [run] = oban.job_logs(job.id)

    assert [line.message for line in run.lines] == [f"line {number}" for number in range(15, 25)]
    assert run.dropped == 15


def test_the_bytes_of_a_run_are_bounded():
    capture, job = Capture(LogsConfig(most_bytes=10_000)), a_job()

    with running(capture, job):
        for _ in range(100):
            log.info("é" * 1_000)

    [run] = capture.changes()
    assert sum(line.size for line in run.lines) <= 10_000
    assert len(run.lines) + run.dropped == 100


def test_only_the_lines_of_failures_are_kept_where_that_is_wanted(start, probe):
    oban = start(logs={"only_failures": True})
    fine = workers.says.enqueue("all is well")
    cancelled = workers.ends.enqueue("cancel")
    probe.next("oban.job.stop")
    probe.next("oban.job.stop")
    discarded = workers.ends.enqueue("discard")
    failed = workers.fails.enqueue()

    logged(oban, discarded.id, "ends by discard")
    logged(oban, failed.id, "about to fail")
    assert messages(oban, fine.id) == messages(oban, cancelled.id) == []


def test_less_than_the_level_is_not_kept_and_false_keeps_nothing(start, probe, conn):
    oban = start(logs={"level": "error"})
    job = workers.says.enqueue("it is nothing", level="warning")
    probe.next("oban.job.stop")
    worse = workers.says.enqueue("it is bad", level="error")
    logged(oban, worse.id, "it is bad")
    assert messages(oban, job.id) == []
    oban.stop()

    off = start(logs=False)
    workers.says.enqueue("unheard", level="error")
    probe.next("oban.job.stop")
    off.stop()
    assert conn.execute("SELECT count(*) FROM oban_sync_logs").fetchone() == (1,)


def test_what_was_logged_last_is_written_at_the_stop(start, probe):
    oban = start()
    job = workers.says.enqueue("last words")
    probe.next("oban.job.stop")
    oban.stop()

    assert oban.start() is oban
    assert messages(oban, job.id) == [["last words"]]


def test_a_failed_transactional_job_keeps_its_log_and_not_its_work(start, conn):
    oban = start()
    job = workers.transactional.enqueue()

    assert logged(oban, job.id, "made it") == [["made it"]]
    assert conn.execute("SELECT to_regclass('made_by_job')").fetchone() == (None,)


def test_a_thread_that_outlives_its_job_logs_for_nobody(start, tmp_path):
    oban = start()
    go_on = tmp_path / "go on"
    job = workers.leaves_a_thread.enqueue(str(go_on))
    logged(oban, job.id, "in time")
    go_on.write_text("")
    eventually(lambda: not go_on.exists())
    marker = workers.says.enqueue("marker")
    logged(oban, marker.id, "marker")

    assert messages(oban, job.id) == [["in time"]]
    assert not job_logs._going_on


def test_the_application_s_own_logging_stays_as_it_is(start, capsys):
    root = logging.getLogger()
    before = list(root.handlers)
    start()

    assert root.handlers == before


def test_a_factory_of_the_application_s_keeps_what_it_adds():
    def own(*args, **kwargs):
        record = previous(*args, **kwargs)
        record.tenant = "acme"

        return record

    with the_factory(logging.LogRecord):
        job_logs.listen()
        previous = logging.getLogRecordFactory()
        logging.setLogRecordFactory(own)

        assert taken("once") == ["once"]
        assert log.makeRecord("n", 20, "f", 1, "m", (), None).tenant == "acme"


def test_a_factory_that_names_records_otherwise_keeps_each_once():
    def own(name, *args, **kwargs):
        return previous(f"svc.{name}", *args, **kwargs)

    with the_factory(logging.LogRecord):
        job_logs.listen()
        previous = logging.getLogRecordFactory()
        logging.setLogRecordFactory(own)

        assert taken("one") == ["one"]
        # Ours is in there already.
        assert logging.getLogRecordFactory() is own


def test_of_two_of_ours_the_outer_one_takes_a_record():
    def own(*args, **kwargs):
        # One that does not say that ours is behind it.
        if args[0] == job_logs._PROBE:
            raise LookupError("no request")

        return previous(*args, **kwargs)

    with the_factory(logging.LogRecord):
        job_logs.listen()
        previous = logging.getLogRecordFactory()
        logging.setLogRecordFactory(own)

        assert taken("one", "two") == ["one", "two"]
        outer = logging.getLogRecordFactory()
        assert outer is not own

        # It is not wrapped again and again.
        job_logs.listen()
        assert logging.getLogRecordFactory() is outer


def test_a_factory_of_just_the_arguments_that_loggers_give_is_no_trouble():
    def strict(name, level, fn, lno, msg, args, exc_info, func, sinfo):
        return logging.LogRecord(name, level, fn, lno, msg, args, exc_info, func, sinfo)

    with the_factory(strict):
        assert taken("here") == ["here"]


def test_a_factory_that_fails_where_nothing_is_logged_is_no_trouble():
    def fails(*args, **kwargs):
        if not allowed:
            raise LookupError("no request")

        return logging.LogRecord(*args, **kwargs)

    allowed = False

    with the_factory(fails):
        job_logs.listen()
        allowed = True

        assert taken("here") == ["here"]


def test_a_factory_that_is_set_later_keeps_no_run_after_it_from_being_taken(start, probe):
    oban = start()
    first = workers.says.enqueue("before")
    logged(oban, first.id, "before")

    with the_factory(type("Own", (logging.LogRecord,), {})):
        job = workers.says.enqueue("after")

        assert logged(oban, job.id, "after") == [["after"]]


def test_a_factory_that_is_set_by_a_run_that_goes_on_is_seen_by_the_loop(loop, capture):
    loop.tick()

    with running(capture, a_job()), the_factory(type("Own", (logging.LogRecord,), {})):
        log.info("unheard")
        loop.tick()
        log.info("heard")

        assert [line.message for run in capture.changes(everything=True) for line in run.lines] == [
            "heard"
        ]


@pytest.mark.timeout(120)
def test_a_factory_that_a_job_sets_in_a_child_keeps_no_later_one_from_being_taken(start):
    oban = start({"limit": 1, "executor": "process"})
    first = workers.sets_a_factory.enqueue()
    eventually(lambda: oban.get_job(first.id).state == "completed")
    job = workers.says.enqueue("after")

    assert logged(oban, job.id, "after") == [["after"]]


def test_what_nobody_listens_to_keeps_no_child_busy(capture):
    teller = _Teller(capture, lambda: False)

    assert teller.tick() == job_logs.LISTEN_INTERVAL

    # As of a thread that outlives its job.
    with running(capture, a_job()):
        log.info("too late")

    assert teller.tick() == teller.interval > 0.0


# Masks


def test_lines_are_masked_or_left_out(start):
    def mask(text):
        return None if "noise" in text else text.replace("s3cret", "***")

    oban = start(logs={"mask": mask})
    job = workers.says.enqueue(["it is s3cret", "noise", "the end"])

    assert logged(oban, job.id, "the end") == [["it is ***", "the end"]]


@pytest.mark.timeout(120)
def test_what_children_log_is_masked_by_any_function(start):
    # A lambda cannot be handed over.
    mask = {"mask": lambda text: None if text == "noise" else text.replace("s3cret", "***")}
    oban = start({"limit": 1, "executor": "process"}, logs=mask)
    job = workers.says.enqueue(["it is s3cret", "noise", "the end"])

    assert logged(oban, job.id, "the end") == [["it is ***", "the end"]]


@pytest.mark.parametrize("wrong", [lambda text: 1 / 0, lambda text: b"bytes"], ids=["raises", "b"])
def test_a_mask_that_fails_leaves_lines_out_and_says_so_once(caplog, wrong):
    def mask(text):
        return wrong(text) if "s3cret" in text else text

    capture = Capture(LogsConfig(mask=mask))

    with running(capture, a_job()):
        log.info("s3cret")
        log.info("s3cret")
        log.info("well")

    assert [line.message for run in capture.changes() for line in run.lines] == ["well"]
    said = [record.getMessage() for record in caplog.records if "logs.mask" in record.message]
    assert len(said) == 1
    assert "s3cret" not in said[0]


def test_a_mask_that_logs_ends():
    def mask(text):
        log.warning("masking")

        return text

    capture = Capture(LogsConfig(mask=mask))

    with running(capture, a_job()):
        log.info("here")

    assert [line.message for run in capture.changes() for line in run.lines] == ["here"]


# Copies of the process


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_copy_of_the_process_neither_waits_nor_keeps_lines(capture):
    held, leave = threading.Event(), threading.Event()

    def hold():
        with capture._lock, job_logs._listening:
            held.set()
            leave.wait(60)

    job = a_job()
    holder = threading.Thread(target=hold)

    with running(capture, job):
        log.info("before")
        holder.start()
        held.wait(60)

        if (pid := os.fork()) == 0:
            signal.alarm(20)
            log.info("from the copy")
            job_logs._known = None
            Capture(LogsConfig()).begin(a_job(2))
            capture.end(job, None)
            os._exit(0)

        leave.set()
        holder.join()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        log.info("from the original")

    [run] = capture.changes()
    assert [line.message for line in run.lines] == ["before", "from the original"]


# In drains, and in tests


def test_a_drain_keeps_what_its_jobs_log(oban):
    job = workers.says.enqueue("drained")
    oban.drain_queue("logs")

    assert messages(oban, job.id) == [["drained"]]


def test_in_a_test_s_transaction_the_log_goes_with_it(oban, dsn, conn):
    with conn.transaction(force_rollback=True), testing.bound(oban, conn):
        job = workers.says.enqueue("drained")
        oban.drain_queue("logs")

        assert messages(oban, job.id) == [["drained"]]

    assert messages(oban, job.id) == []


def test_a_job_without_a_row_is_not_written_about(oban, conn):
    testing.process_job(workers.says.new("unwritten"), oban=oban)

    assert conn.execute("SELECT count(*) FROM oban_sync_logs").fetchone() == (0,)


# In process queues


@pytest.mark.timeout(120)
def test_children_hand_over_what_their_jobs_log(start):
    oban = start({"limit": 1, "executor": "process"})
    job = workers.says.enqueue(["from a child", "and more"])
    failed = workers.fails.enqueue()

    assert logged(oban, job.id, "and more") == [["from a child", "and more"]]
    assert logged(oban, failed.id, "about to fail") == [["about to fail"]]


@pytest.mark.timeout(120)
def test_a_job_in_a_child_can_be_followed(start, tmp_path):
    oban = start({"limit": 1, "executor": "process"})
    entered, leave = tmp_path / "entered", tmp_path / "leave"
    job = workers.gate.enqueue(str(entered), str(leave))

    assert logged(oban, job.id, "it begins") == [["it begins"]]
    leave.write_text("")
    assert logged(oban, job.id, "it ends") == [["it begins", "it ends"]]


@pytest.mark.timeout(120)
def test_what_a_child_logged_before_it_was_killed_is_there(start, tmp_path):
    oban = start({"limit": 1, "executor": "process"})
    told = tmp_path / "told"
    job = workers.dies.enqueue(str(told))
    logged(oban, job.id, "the end is near")
    told.write_text("")

    eventually(lambda: oban.get_job(job.id).state == "retryable")
    assert messages(oban, job.id) == [["the end is near"]]


# The loop


@pytest.fixture
def capture():
    return Capture(LogsConfig(keep=3_600.0))


@pytest.fixture
def loop(capture, db):
    return JobLogs(capture, db, leads=lambda: True)


def count(conn):
    return conn.execute("SELECT count(*) FROM oban_sync_logs").fetchone()[0]


def test_the_loop_rests_until_something_is_logged(loop, capture):
    assert loop.tick() == job_logs.LISTEN_INTERVAL
    assert not loop._wakened.is_set()

    with running(capture, a_job()):
        log.info("here")
        assert loop._wakened.is_set()


def test_a_short_run_is_written_once(loop, capture, conn):
    loop.tick()

    with running(capture, a_job()):
        log.info("one")
        assert loop.tick() < 1
        assert count(conn) == 0
        log.info("two")

    assert loop.tick() == job_logs.LISTEN_INTERVAL
    assert count(conn) == 1


def test_a_lost_database_loses_nothing_that_there_is_room_for(loop, capture, db, conn):
    with running(capture, a_job()):
        log.info("kept")

    def unavailable():
        raise DatabaseUnavailableError("gone")

    loop._db, back = type("Gone", (), {"session": staticmethod(unavailable)})(), loop._db

    with pytest.raises(DatabaseUnavailableError):
        loop.tick()

    loop._db = back
    loop.tick()
    assert count(conn) == 1


def test_too_much_that_cannot_be_written_drops_the_oldest_and_says_so_once(
    loop, capture, conn, monkeypatch, caplog
):
    monkeypatch.setattr(job_logs, "MOST_WAITING", 500)

    for number in range(20):
        with running(capture, a_job(number + 1)):
            log.info("x" * 100)

    loop.tick()
    kept = [row[0] for row in conn.execute("SELECT job_id FROM oban_sync_logs ORDER BY 1")]
    assert kept == list(range(21 - len(kept), 21))
    assert capture.lost == 20 - len(kept) > 0
    told = [record for record in caplog.records if "was dropped" in record.message]
    assert len(told) == 1


def test_a_run_that_the_table_refuses_takes_no_other_with_it(loop, capture, conn, caplog):
    conn.execute("ALTER TABLE oban_sync_logs ADD CHECK (job_id <> 2)")

    for number in (1, 2, 3):
        with running(capture, a_job(number)):
            log.info("here")

    loop.tick()
    assert [row[0] for row in conn.execute("SELECT job_id FROM oban_sync_logs ORDER BY 1")] == [
        1,
        3,
    ]
    assert [r.levelname for r in caplog.records if "cannot be kept" in r.message] == ["WARNING"]


def test_what_is_old_is_deleted_by_the_leader_and_nobody_else(loop, capture, db, conn):
    conn.execute(
        "INSERT INTO oban_sync_logs (job_id, attempted_at, attempt, node, lines, written_at)"
        " SELECT n, now(), 1, 'n', '[]', now() - n * interval '50 minutes'"
        " FROM generate_series(1, 3) AS n"
    )
    follower = JobLogs(capture, db, leads=lambda: False)

    for each in (follower, loop):
        each._prune_at = time.monotonic()

    follower.tick()
    assert count(conn) == 3
    loop.tick()
    assert count(conn) == 1
    assert loop._prune_at > time.monotonic() + 30


def test_deleting_goes_on_until_nothing_is_left(loop, conn, monkeypatch):
    monkeypatch.setattr(stored_logs, "PRUNE_LIMIT", 2)
    conn.execute(
        "INSERT INTO oban_sync_logs (job_id, attempted_at, attempt, node, lines, written_at)"
        " SELECT n, now(), 1, 'n', '[]', now() - interval '1 day' FROM generate_series(1, 5) AS n"
    )
    loop._prune_at = time.monotonic()
    ticks = 0

    while loop.tick() == 0.0:
        ticks += 1

    assert (count(conn), ticks) == (0, 2)


# The capture


def test_many_threads_of_one_job_share_a_log(capture):
    job = a_job()
    ready = threading.Barrier(8)

    def work():
        CURRENT.set(job)
        ready.wait()

        for number in range(50):
            log.info("%d", number)

    with running(capture, job):
        threads = [threading.Thread(target=work) for _ in range(8)]

        for thread in threads:
            thread.start()

        for thread in threads:
            thread.join()

    [run] = capture.changes()
    assert len(run.lines) == 400
    assert not capture._open


def test_logging_from_within_a_message_ends(capture):
    class Chatty:
        def __str__(self):
            log.info("inner")

            return "outer"

    with running(capture, a_job()):
        log.info("%s", Chatty())

    [run] = capture.changes()
    assert "outer" in [line.message for line in run.lines]


def test_a_job_that_logs_nothing_costs_next_to_nothing(capture):
    job = a_job()
    outcome = Outcome(job, JobState.COMPLETED)

    def run():
        capture.begin(job)
        capture.end(job, outcome)

    best = min(timeit.repeat(run, number=20_000, repeat=5)) / 20_000

    # Measured: 0.3 us; a slow machine at a bad moment takes some times that.
    assert best < 2e-6


def test_nothing_is_taken_outside_of_runs(capture):
    job_logs.listen()
    log.info("nobody's")

    assert capture.changes() == []
    assert Host(logs=capture).logs is capture
