"""Jobs whose time is up: asked, cancelled, interrupted, given up; and deadlines."""

from __future__ import annotations

import logging
import re
import socket
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from queue import SimpleQueue
from threading import Event

import psycopg
import pytest

from oban_sync import Cancel, Discard, Record, Snooze, current_job, telemetry, worker
from oban_sync.core.errors import JobInterrupt
from oban_sync.core.escalation import Escalation
from oban_sync.core.job import Job
from oban_sync.engine import cancelling
from oban_sync.engine.cancelling import Connections
from oban_sync.runtime import timekeeper as timekeeping
from oban_sync.runtime.executor import bound_of, execute, timeout_of
from oban_sync.runtime.runner import ThreadRunner
from oban_sync.runtime.slots import Slots
from oban_sync.runtime.timekeeper import Timekeeper
from tests.support.probe import eventually
from tests.support.workers import Echo

TIMEOUT = 0.1

#: All steps one after another, and soon.
QUICK = {"cancel_sql": 0.05, "interrupt": 0.1, "replace": 0.4}

#: Only what a thread cannot withstand.
GIVEN_UP = {"cancel_sql": False, "interrupt": False, "replace": 0.05}

_works = {}


@worker(queue="alpha", name="tests.Limited", timeout=TIMEOUT)
class Limited:
    """Does what the test says."""

    def process(self, job):
        return _works[job.args["work"]](job)


@pytest.fixture
def enqueue():
    """Enqueue a job that does as it is told."""

    def enqueue(work, **options):
        name = f"work-{id(work)}"
        _works[name] = work

        return Limited.enqueue({"work": name}, **options)

    yield enqueue

    _works.clear()


@pytest.fixture
def run(make_oban):
    """Start a queue with one place."""

    def run(escalation=QUICK, limit=1, **options):
        queue = {"limit": limit, "escalation": escalation}

        return make_oban(queues={"alpha": queue}, **options).start()

    return run


class Steps:
    """What happened to jobs whose time was up."""

    def __init__(self):
        self.heard = SimpleQueue()
        self.seen = []

    def __call__(self, event, fields):
        self.heard.put((fields.get("step", event), fields))

    def until(self, wanted):
        while True:
            step, fields = self.heard.get(timeout=10)
            self.seen.append(step)

            if step == wanted:
                return fields


@pytest.fixture
def steps():
    steps = Steps()
    telemetry.attach("steps", ["oban.job.timeout", "oban.job.returned"], steps)

    yield steps

    telemetry.detach("steps")


@pytest.fixture
def let_go():
    """Set at the end, for jobs that wait for ever."""
    event = Event()

    yield event

    event.set()


def errors_of(factory, job_id):
    return [error["error"] for error in factory.row(job_id)["errors"]]


def spin(job):
    while True:
        pass


def assert_serves(probe):
    echo = Echo.enqueue()

    while probe.next("oban.job.stop")["job"].id != echo.id:
        pass


# The five ways to be stuck


def test_a_job_in_an_endless_loop_is_interrupted(run, enqueue, steps, probe, factory):
    run()
    job = enqueue(spin)
    steps.until("interrupt")
    probe.next("oban.job.exception", error_type="JobTimeoutError", state="retryable")
    assert_serves(probe)

    assert steps.seen == ["flag", "interrupt"]
    assert factory.states(job.id) == ["retryable"]
    [error] = errors_of(factory, job.id)
    first, _, below = error.partition("\n\n")
    assert first.endswith("JobTimeoutError: it ran for longer than its timeout of 0.1 s")
    assert "in spin" in below
    assert "JobInterrupt: the time of this job is up" in below


def test_a_long_query_is_cancelled(run, enqueue, steps, probe, factory):
    oban = run()

    def query(job):
        with oban.connection() as conn:
            conn.execute("SELECT pg_sleep(60)")

    job = enqueue(query)
    steps.until("cancel_sql")
    probe.next("oban.job.exception", error_type="JobTimeoutError")
    assert_serves(probe)

    assert steps.seen == ["flag", "cancel_sql"]
    assert "QueryCanceled" in errors_of(factory, job.id)[0]


def wait_for_event(job, let_go, ends):
    let_go.wait()


def read_from_socket(job, let_go, ends):
    ends[0].recv(1)


def sleep(job, let_go, ends):
    time.sleep(2)


@pytest.mark.parametrize("stuck", [wait_for_event, read_from_socket, sleep])
def test_a_thread_that_waits_for_the_system_is_given_up(
    run, enqueue, steps, probe, factory, let_go, stuck
):
    ends = socket.socketpair()
    oban = run()
    job = enqueue(lambda job: stuck(job, let_go, ends))

    steps.until("replace")
    failed = probe.next("oban.job.exception", error_type="JobTimeoutError")
    assert_serves(probe)

    assert failed["job"].id == job.id
    assert failed["job"].lease_lost()
    assert failed["duration"] >= TIMEOUT * 1e9
    assert steps.seen == ["flag", "interrupt", "replace"]
    assert factory.states(job.id) == ["retryable"]
    [error] = errors_of(factory, job.id)
    assert f"in {stuck.__name__}" in error
    assert "given up here" in error
    assert "oban_sync/runtime" not in error

    let_go.set()
    ends[1].close()
    steps.until("oban.job.returned")
    ends[0].close()
    eventually(lambda: retired(oban) == 0)

    # What it came to in the end changes nothing.
    assert_serves(probe)
    assert factory.states(job.id) == ["retryable"]
    assert len(errors_of(factory, job.id)) == 1


def producer_of(oban):
    [member] = oban._lifecycle.supervisor.roster._members.values()

    return member.producer


def retired(oban):
    return producer_of(oban).retired


def test_by_default_a_stuck_job_has_failed_within_three_seconds_of_its_timeout(
    make_oban, enqueue, steps, probe, let_go
):
    make_oban(queues={"alpha": 1}).start()
    enqueue(lambda job: let_go.wait())
    failed = probe.next("oban.job.exception", error_type="JobTimeoutError")
    assert_serves(probe)

    assert TIMEOUT * 1e9 < failed["duration"] < (TIMEOUT + 3) * 1e9


# Jobs that look, and jobs that do not want to stop


def test_a_job_that_looks_may_stop_by_itself(run, enqueue, steps, probe, factory):
    run({"interrupt": 20, "replace": 30})
    seen = []

    def looking(job):
        eventually(job.cancelled)
        seen.append(job.timed_out())

        return Cancel("enough")

    job = enqueue(looking)
    probe.next("oban.job.exception", error_type="JobTimeoutError")
    assert_serves(probe)

    assert seen == [True]
    assert factory.states(job.id) == ["retryable"]
    assert "It stopped when asked to: enough" in errors_of(factory, job.id)[0]


@pytest.mark.parametrize(
    ("result", "state"),
    [
        (None, "completed"),
        (Record(1), "completed"),
        (Snooze(600), "scheduled"),
        (Discard("hopeless"), "discarded"),
    ],
    ids=["nothing", "record", "snooze", "discard"],
)
def test_what_a_late_job_decides_itself_counts(run, enqueue, probe, factory, result, state):
    run({"interrupt": 20, "replace": 30})

    def late(job):
        eventually(job.timed_out)

        return result

    job = enqueue(late)
    assert_serves(probe)

    eventually(lambda: factory.states(job.id) == [state])


def test_whatever_a_late_job_raises_is_kept_below_the_timeout(run, enqueue, probe, factory):
    run({"interrupt": 20, "replace": 30})

    def late(job):
        eventually(job.timed_out)

        raise LookupError("the first trouble")

    job = enqueue(late, max_attempts=1)
    probe.next("oban.job.exception", error_type="JobTimeoutError", state="discarded")
    assert_serves(probe)

    [error] = errors_of(factory, job.id)
    assert error.index("JobTimeoutError") < error.index("LookupError: the first trouble")


def test_a_job_that_was_cancelled_by_somebody_is_cancelled(run, enqueue, probe, factory):
    oban = run({"interrupt": 20, "replace": 30})
    begun = Event()

    def looking(job):
        begun.set()
        eventually(job.cancelled)

        return Cancel("asked to")

    job = enqueue(looking, timeout=60)
    assert begun.wait(10)
    oban.cancel_job(job.id)
    assert_serves(probe)

    assert factory.states(job.id) == ["cancelled"]
    assert errors_of(factory, job.id) == ["asked to"]


def test_a_loop_that_tries_everything_again_is_interrupted(run, enqueue, steps, probe):
    run()

    def stubborn(job):
        while True:
            with suppress(Exception):
                spin(job)

    enqueue(stubborn)
    probe.next("oban.job.exception", error_type="JobTimeoutError")

    assert_serves(probe)


def test_a_job_that_swallows_the_exception_meets_it_again(run, enqueue, steps, probe, monkeypatch):
    monkeypatch.setattr(timekeeping, "REPEAT", 0.02)
    run({"interrupt": 0.1, "cancel_sql": 0.1, "replace": 20})
    swallowed = []

    def stubborn(job):
        while len(swallowed) < 3:
            try:
                spin(job)
            except JobInterrupt:
                swallowed.append(job.id)

        spin(job)

    enqueue(stubborn)
    probe.next("oban.job.exception", error_type="JobTimeoutError")
    assert_serves(probe)

    # It is told of once.
    assert steps.until("interrupt")
    assert len(swallowed) == 3
    assert steps.heard.empty()


def test_a_given_up_thread_is_interrupted_until_it_comes_back(
    run, enqueue, steps, probe, monkeypatch
):
    monkeypatch.setattr(timekeeping, "REPEAT", 0.02)
    oban = run({"interrupt": 0.0, "cancel_sql": 0.0, "replace": 0.05})
    swallowed = []

    def stubborn(job):
        while len(swallowed) < 6:
            try:
                spin(job)
            except JobInterrupt:
                swallowed.append(job.id)

    enqueue(stubborn)
    steps.until("replace")
    assert_serves(probe)
    steps.until("oban.job.returned")

    eventually(lambda: retired(oban) == 0)


# The places


def test_beyond_the_most_that_are_replaced_a_place_stays_taken(
    run, enqueue, steps, probe, factory, let_go
):
    oban = run({**GIVEN_UP, "most_replaced": 1})
    first = enqueue(lambda job: let_go.wait())
    steps.until("replace")
    second = enqueue(lambda job: let_go.wait())
    steps.until("replace")

    eventually(lambda: factory.states(first.id, second.id) == ["retryable"] * 2)
    assert retired(oban) == 2
    waiting = Echo.enqueue()
    # Both are looked at by the same thread, the second one later.
    producer_of(oban).wake()
    eventually(lambda: producer_of(oban)._demand() == 0)
    assert factory.states(waiting.id) == ["available"]

    let_go.set()

    while probe.next("oban.job.stop")["job"].id != waiting.id:
        pass

    eventually(lambda: retired(oban) == 0)


def test_all_places_are_served_again_after_all_threads_were_given_up(
    run, enqueue, steps, probe, let_go, factory
):
    oban = run(GIVEN_UP, limit=3)

    for _ in range(3):
        for _ in range(3):
            enqueue(lambda job: let_go.wait())

        for _ in range(3):
            steps.until("replace")

    assert retired(oban) == 9
    barrier = threading.Barrier(3)

    @worker(queue="alpha", name="tests.Meeting")
    class Meeting:
        def process(self, job):
            barrier.wait(10)

    oban.enqueue_many(Meeting.new() for _ in range(3))
    eventually(lambda: factory.count(worker="tests.Meeting", state="completed") == 3)


def test_the_queue_may_be_scaled_while_threads_are_given_up(
    run, enqueue, steps, probe, let_go, factory
):
    oban = run(GIVEN_UP, limit=3)
    enqueue(lambda job: let_go.wait())
    steps.until("replace")
    oban.scale_queue("alpha", limit=1)
    probe.next("oban.queue.scaled")
    assert_serves(probe)
    let_go.set()
    eventually(lambda: retired(oban) == 0)

    assert_serves(probe)


# Stopping


def test_a_stop_says_that_a_given_up_thread_still_lives(run, enqueue, steps, let_go, factory):
    oban = run(GIVEN_UP)
    job = enqueue(lambda job: let_go.wait())
    steps.until("replace")

    assert oban.stop(grace=5.0) is False
    assert factory.states(job.id) == ["retryable"]

    let_go.set()
    steps.until("oban.job.returned")


def test_a_job_meets_its_timeout_while_the_node_stops(run, enqueue, steps, factory):
    oban = run()
    begun = Event()

    def stuck(job):
        begun.set()
        spin(job)

    job = enqueue(stuck)
    assert begun.wait(10)

    assert oban.stop(grace=10.0) is True
    assert steps.until("interrupt")
    assert factory.states(job.id) == ["retryable"]


def test_a_job_that_was_handed_back_is_not_failed_by_its_timeout(
    run, enqueue, steps, let_go, factory, probe
):
    oban = run({"cancel_sql": False, "interrupt": False, "replace": 0.3})
    begun = Event()

    def stuck(job):
        begun.set()
        let_go.wait()

    job = enqueue(stuck)
    assert begun.wait(10)
    oban.stop(grace=0.0)
    row = factory.row(job.id)

    assert (row["state"], row["attempt"], row["errors"]) == ("available", 0, [])

    let_go.set()


def test_an_outcome_during_an_outage_is_written_later(
    run, enqueue, steps, probe, factory, let_go, monkeypatch
):
    oban = run(GIVEN_UP)
    producer = producer_of(oban)
    begun = Event()
    session = producer._db.session

    def down():
        raise psycopg.OperationalError("down")

    def stuck(job):
        monkeypatch.setattr(producer._db, "session", down)
        begun.set()
        let_go.wait()

    job = enqueue(stuck)
    assert begun.wait(10)
    steps.until("replace")
    probe.next("oban.loop.exception")
    assert factory.states(job.id) == ["executing"]
    monkeypatch.setattr(producer._db, "session", session)

    eventually(lambda: factory.states(job.id) == ["retryable"])


# Where a timeout comes from


def fetched(name="tests.Limited", meta="{}", attempted_at=0, attempt=1):
    row = (0, 0, 1, name, "{}", meta, "[]", [], attempt, 20, 0, attempted_at, 0)

    return Job.fetched(row, "alpha", ["node", "uuid"])


def kept(**values):
    import json

    return json.dumps({"oban_sync": values})


def test_the_timeout_of_the_job_goes_before_the_workers():
    assert timeout_of(fetched()) == TIMEOUT
    assert timeout_of(fetched(meta=kept(timeout=7))) == 7.0
    assert timeout_of(fetched("tests.Echo")) is None
    assert timeout_of(fetched("tests.Echo", meta=kept(timeout=1.5))) == 1.5
    assert bound_of(fetched("tests.Echo")) is None


@pytest.mark.parametrize("junk", [0, -1, "5", True, [], {}])
def test_a_stored_timeout_that_is_none_is_left_out(junk, caplog):
    assert timeout_of(fetched(meta=kept(timeout=junk))) == TIMEOUT
    assert "left out" in caplog.text


def test_meta_that_cannot_be_read_is_the_jobs_own_to_find_out():
    job = fetched("tests.Echo", meta='{"oban_sync": ')

    assert bound_of(job) is None
    assert execute(job).state == "completed"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda self, job: "soon", "'soon'"),
        (lambda self, job: 0, "more than 0"),
        (lambda self, job: -1, "-1"),
        (lambda self, job: float("nan"), "nan"),
        (lambda self, job: 1 / 0, "ZeroDivisionError"),
        (lambda self, job: sys.exit(3), "SystemExit"),
    ],
)
def test_a_worker_whose_timeout_is_none_fails_and_says_so(given, words, probe):
    @worker(name=f"tests.mistimed-{id(given)}")
    class Mistimed:
        timeout = given

        def process(self, job):
            raise AssertionError("it must not run")

    keeper = Timekeeper("t", Escalation(), retire=pytest.fail, told=pytest.fail)
    outcome = ThreadRunner(keeper).run(fetched(f"tests.mistimed-{id(given)}"))

    assert outcome.state == "retryable"
    assert words in outcome.error_text
    assert probe.next("oban.job.exception")
    assert not keeper.started


def test_the_thread_starts_with_the_first_job_whose_time_is_limited():
    keeper = Timekeeper("t", Escalation(), retire=pytest.fail, told=pytest.fail)
    runner = ThreadRunner(keeper)

    assert runner.run(fetched("tests.Echo")).plain
    assert not keeper.started
    assert runner.run(fetched("tests.Echo", meta=kept(timeout=60))).plain
    assert keeper.started

    keeper.request_stop()
    assert keeper.join(time.monotonic() + 10)


def test_runs_that_ended_do_not_pile_up_until_their_time():
    keeper = Timekeeper("t", Escalation(), retire=pytest.fail, told=pytest.fail)
    runner = ThreadRunner(keeper)

    for _ in range(1_000):
        runner.run(fetched("tests.Echo", meta=kept(timeout=3_600)))

    assert len(keeper._heap) <= 2 * timekeeping.MOST_ENDED

    keeper.request_stop()
    assert keeper.join(time.monotonic() + 10)


def test_the_backoff_and_the_policy_see_a_timeout(run, enqueue, probe, factory, steps, let_go):
    @worker(queue="alpha", name="tests.Patient", timeout=TIMEOUT)
    class Patient:
        def process(self, job):
            let_go.wait()

        def backoff(self, job):
            assert current_job() is job

            return 600

    run(GIVEN_UP)
    job = Patient.enqueue()
    steps.until("replace")
    eventually(lambda: factory.states(job.id) == ["retryable"])
    row = factory.row(job.id)

    assert (row["scheduled_at"] - row["attempted_at"]).total_seconds() > 590


def test_the_last_attempt_of_a_stuck_job_is_given_up(run, enqueue, probe, factory, let_go):
    run(GIVEN_UP)
    job = enqueue(lambda job: let_go.wait(), max_attempts=1)
    probe.next("oban.job.exception", state="discarded")

    eventually(lambda: factory.states(job.id) == ["discarded"])


def test_a_job_that_was_given_up_may_run_again_while_its_thread_is_stuck(
    run, enqueue, probe, factory, let_go, steps
):
    run(GIVEN_UP)

    def stuck_once(job):
        if job.attempt == 1:
            let_go.wait()

    oban_job = enqueue(stuck_once)
    steps.until("replace")
    eventually(lambda: factory.states(oban_job.id) == ["retryable"])
    factory._conn.execute("UPDATE oban_jobs SET scheduled_at = now() - interval '1 day'")
    probe.next("oban.job.stop", state="completed")
    eventually(lambda: factory.states(oban_job.id) == ["completed"])
    let_go.set()
    steps.until("oban.job.returned")

    assert factory.row(oban_job.id)["attempt"] == 2


def test_a_step_that_fails_does_not_keep_the_others_from_being_taken(
    run, enqueue, probe, steps, monkeypatch, caplog
):
    def broken(self):
        raise RuntimeError("broken")

    monkeypatch.setattr(Connections, "any", property(broken))
    run()
    enqueue(spin)
    steps.until("interrupt")
    assert_serves(probe)

    assert "is left out" in caplog.text


def test_no_exception_comes_while_a_request_to_cancel_is_on_its_way(
    run, enqueue, steps, probe, monkeypatch
):
    sent, answered = Event(), Event()
    seen = []

    def slow(self):
        sent.set()
        answered.wait(10)

        return False

    monkeypatch.setattr(cancelling.Registered, "cancel", slow)
    oban = run({"cancel_sql": 0, "interrupt": 0, "replace": 20})

    def working(job):
        with oban.connection():
            # Calls, at each of which an exception would be met.
            for _ in range(1_000):
                sent.wait(0.0005)

            seen.append(sent.is_set())
            answered.set()
            spin(job)

    with oban.connection():
        # So that there is one for the job at once.
        enqueue(working, timeout=0.5)

    steps.until("interrupt")
    assert_serves(probe)

    assert seen == [True]


def test_a_statement_begun_after_the_first_cancel_is_cancelled_too(
    run, enqueue, steps, probe, factory
):
    oban = run({"cancel_sql": 0, "interrupt": 2, "replace": 20})

    def query(job):
        with oban.connection() as conn:
            eventually(job.cancelled)
            Event().wait(0.2)
            conn.execute("SELECT pg_sleep(60)")

    job = enqueue(query, timeout=0.3)
    steps.until("cancel_sql")
    assert_serves(probe)

    # What it raised, or the interrupt, which is let in as soon as the request was answered.
    assert re.search("QueryCanceled|JobInterrupt", errors_of(factory, job.id)[0])


def test_a_backoff_that_never_returns_costs_a_given_up_job_no_outcome(
    run, probe, factory, let_go, monkeypatch
):
    monkeypatch.setattr(timekeeping, "DECISION_PERIOD", 0.1)

    @worker(queue="alpha", name="tests.Undecided", timeout=TIMEOUT)
    class Undecided:
        def process(self, job):
            let_go.wait()

        def backoff(self, job):
            let_go.wait()

            return 1

    run(GIVEN_UP)
    job = Undecided.enqueue()
    eventually(lambda: factory.states(job.id) == ["retryable"])
    row = factory.row(job.id)

    assert (row["scheduled_at"] - row["attempted_at"]).total_seconds() > 10
    assert "JobTimeoutError" in row["errors"][0]["error"]
    assert "did not answer" in row["errors"][0]["error"]
    assert_serves(probe)


@pytest.mark.parametrize("text", [True, False])
def test_an_error_that_never_tells_its_text_costs_neither_outcome_nor_place(
    run, enqueue, probe, factory, let_go, text
):
    class Silent(Exception):
        def __str__(self):
            if text:
                let_go.wait()

            return "at last"

    @worker(queue="alpha", name="tests.Silent", timeout=TIMEOUT)
    class Silently:
        def process(self, job):
            raise Silent

        def backoff(self, job):
            if not text and not job.cancelled():
                let_go.wait()

            return 600

    run(GIVEN_UP)
    job = Silently.enqueue()
    eventually(lambda: factory.states(job.id) == ["retryable"])
    row = factory.row(job.id)

    assert "JobTimeoutError" in row["errors"][0]["error"]
    assert (row["scheduled_at"] - row["attempted_at"]).total_seconds() > 590
    assert_serves(probe)


def test_a_backoff_that_takes_too_long_is_interrupted_with_its_job(run, probe, factory):
    @worker(queue="alpha", name="tests.Endless", timeout=TIMEOUT)
    class Endless:
        def process(self, job):
            raise ValueError("the reason")

        def backoff(self, job):
            spin(job)

    run({"cancel_sql": False, "interrupt": 0.05, "replace": 20})
    job = Endless.enqueue()
    eventually(lambda: factory.states(job.id) == ["retryable"])
    [text] = errors_of(factory, job.id)

    assert "JobTimeoutError" in text
    assert "ValueError: the reason" in text
    assert_serves(probe)


def test_a_log_that_does_not_answer_keeps_no_step_from_being_taken(
    run, enqueue, steps, factory, let_go
):
    class Stuck(logging.Handler):
        # Not `emit`, around which a lock would hold up the next record, wherever it is logged.
        def handle(self, record):
            if "is asked to stop" in record.getMessage():
                let_go.wait()

    handler = Stuck()
    timekeeping.log.addHandler(handler)

    try:
        run(GIVEN_UP)
        job = enqueue(lambda job: let_go.wait())
        steps.until("replace")
        eventually(lambda: factory.states(job.id) == ["retryable"])
    finally:
        timekeeping.log.removeHandler(handler)


def test_without_a_further_thread_what_takes_long_is_done_at_once(
    run, enqueue, steps, probe, factory, let_go, monkeypatch
):
    class NoThread:
        def __init__(self, **options):
            pass

        def start(self):
            raise RuntimeError("can't start new thread")

    run(GIVEN_UP)
    monkeypatch.setattr(timekeeping, "Thread", NoThread)
    job = enqueue(lambda job: let_go.wait())
    steps.until("replace")

    eventually(lambda: factory.states(job.id) == ["retryable"])


def test_a_job_fails_whose_time_nobody_can_watch(monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Timekeeper, "start", start)
    keeper = Timekeeper("t", Escalation(), retire=pytest.fail, told=pytest.fail)
    outcome = ThreadRunner(keeper).run(fetched())

    assert outcome.state == "retryable"
    assert "can't start new thread" in outcome.error_text


def test_a_given_up_job_stays_disowned_when_the_lease_is_renewed(
    run, enqueue, steps, let_go, monkeypatch
):
    oban = run(GIVEN_UP)
    told = Event()
    original = Timekeeper._conclude
    monkeypatch.setattr(Timekeeper, "_conclude", lambda *given: (told.wait(10), original(*given)))
    enqueue(lambda job: let_go.wait())
    job = steps.until("replace")["job"]
    producer = producer_of(oban)
    producer.verify()
    eventually(lambda: producer._mailbox.empty() and not producer._unverified)

    assert job.lease_lost()

    told.set()


def test_telemetry_tells_for_how_long_it_ran(run, enqueue, steps, probe, caplog):
    with caplog.at_level(logging.WARNING):
        run()
        job = enqueue(spin)
        fields = steps.until("flag")
        assert_serves(probe)

    assert set(fields) == {"job", "step", "elapsed"}
    assert fields["job"].id == job.id
    assert fields["elapsed"] >= TIMEOUT * 1e9
    assert "is asked to stop: it ran for longer than its timeout" in caplog.text


# Connections


def test_a_statement_of_our_own_that_waits_for_a_lock_is_cancelled(
    run, enqueue, steps, probe, factory, conn
):
    oban = run(pool_size=1)

    def waiting(job):
        held.wait(10)
        oban.enqueue(Echo.new(queue="elsewhere"))

    held = Event()
    job = enqueue(waiting, timeout=0.5)
    eventually(lambda: factory.states(job.id) == ["executing"])

    with conn.transaction():
        conn.execute("LOCK TABLE oban_jobs IN SHARE MODE")
        held.set()
        steps.until("cancel_sql")

    probe.next("oban.job.exception", error_type="JobTimeoutError")
    assert_serves(probe)

    assert "QueryCanceled" in errors_of(factory, job.id)[0]
    assert oban.get_job(job.id)


def test_interrupts_at_any_moment_cost_the_pool_no_connection(
    run, enqueue, steps, probe, monkeypatch
):
    monkeypatch.setattr(timekeeping, "REPEAT", 0.01)
    oban = run({"cancel_sql": False, "interrupt": 0, "replace": 30}, limit=2, pool_size=2)
    rounds = Counter()

    def busy(job):
        while rounds[job.id] < 60:
            rounds[job.id] += 1

            with suppress(JobInterrupt), oban.connection() as conn:
                conn.execute("SELECT 1")

            with suppress(JobInterrupt):
                oban.enqueue(Echo.new(queue="elsewhere"))

    for _ in range(2):
        enqueue(busy, timeout=0.01)

    for _ in range(2):
        steps.until("interrupt")

    eventually(lambda: not producer_of(oban).running)

    # Both are there.
    with oban.connection() as one, oban.connection() as other:
        assert one.execute("SELECT 1").fetchone() == other.execute("SELECT 1").fetchone()


# Deadlines

STARTED = 800_000_000_000_000


def at(seconds):
    """A deadline so many seconds after the start."""
    from datetime import timedelta

    from oban_sync.core.clock import from_micros

    return (from_micros(STARTED) + timedelta(seconds=seconds)).isoformat()


def test_a_job_started_after_its_deadline_is_cancelled_instead(probe):
    job = fetched(meta=kept(deadline_at=at(-1)), attempted_at=STARTED)
    outcome = execute(job)

    assert outcome.state == "cancelled"
    assert outcome.error_text == f"not started: its deadline was at {at(-1)}"
    assert probe.next("oban.job.start")
    assert probe.next("oban.job.stop")["state"] == "cancelled"


@pytest.mark.parametrize("deadline", [at(60), at(60).replace("+00:00", ""), "soon", 5, None, []])
def test_a_job_started_before_its_deadline_runs(deadline):
    job = fetched("tests.Echo", meta=kept(deadline_at=deadline), attempted_at=STARTED)

    assert execute(job).state == "completed"


def test_only_a_forced_deadline_bounds_a_run_and_the_earlier_of_two_counts():
    def bound(name="tests.Echo", **values):
        return bound_of(fetched(name, meta=kept(**values), attempted_at=STARTED))

    assert bound(deadline_at=at(5)) is None
    forced = bound(deadline_at=at(5), forced=True)
    assert (forced.seconds, forced.forced) == (5.0, True)
    assert not bound(deadline_at=at(5), forced=True, timeout=3).forced
    assert bound(deadline_at=at(5), forced=True, timeout=7).forced


def test_a_forced_deadline_stops_a_job_and_cancels_it(run, steps, factory, conn):
    @worker(queue="alpha", name="tests.Unlimited")
    class Unlimited:
        def process(self, job):
            spin(job)

    run()
    conn.execute(
        "INSERT INTO oban_jobs (queue, worker, meta) SELECT 'alpha', 'tests.Unlimited',"
        " jsonb_build_object('oban_sync', jsonb_build_object('forced', true, 'deadline_at',"
        " now() + interval '0.3 s'))"
    )
    fields = steps.until("interrupt")
    eventually(lambda: factory.count(state="cancelled") == 1)
    row = factory.row(fields["job"].id)

    assert fields["job"].cancelled()
    assert not fields["job"].timed_out()
    assert "JobTimeoutError: its deadline, which is forced" in row["errors"][0]["error"]
    assert row["attempt"] == 1


def test_a_job_stuck_past_its_forced_deadline_is_cancelled_all_the_same(
    run, steps, factory, conn, let_go
):
    @worker(queue="alpha", name="tests.Stuck")
    class Stuck:
        def process(self, job):
            let_go.wait()

    run(GIVEN_UP)
    conn.execute(
        "INSERT INTO oban_jobs (queue, worker, meta) SELECT 'alpha', 'tests.Stuck',"
        " jsonb_build_object('oban_sync', jsonb_build_object('forced', true, 'deadline_at',"
        " now() + interval '0.2 s'))"
    )
    steps.until("replace")
    eventually(lambda: factory.count(state="cancelled") == 1)
    let_go.set()
    steps.until("oban.job.returned")


# Without a node


def test_a_drain_runs_on_the_callers_thread_and_stops_nothing(make_oban, enqueue, steps):
    oban = make_oban()
    enqueue(lambda job: Event().wait(2 * TIMEOUT) and None)

    assert oban.drain_queue("alpha")["completed"] == 1
    assert steps.heard.empty()


# Many at once


def test_every_short_run_has_one_outcome_and_no_place_is_lost(monkeypatch):
    """Thousands of runs that take about as long as they may, on every step of the ladder."""
    monkeypatch.setattr(timekeeping, "REPEAT", 0.0005)
    told, lost, escaped = SimpleQueue(), [], []
    monkeypatch.setattr(threading, "excepthook", escaped.append)

    @worker(name="tests.Short", timeout=0.001)
    class Short:
        def process(self, job):
            until = time.monotonic() + (job.id % 7) * 0.0004

            try:
                while time.monotonic() < until:
                    if job.id % 3:
                        with suppress(Exception):
                            sum(range(20))
                    else:
                        Event().wait(0.0005)
            finally:
                sum(range(50))

        def backoff(self, job):
            return 1

    def retire(run):
        slots.retire(run.thread)
        told.put(slots.replace)

    def run(job):
        try:
            if (outcome := runner.run(job)) is not None:
                told.put(outcome)
        except BaseException as error:
            escaped.append(error)

    steps = Escalation(cancel_sql=0.0, interrupt=0.0, replace=0.001)
    keeper = Timekeeper("stress", steps, retire=retire, told=told.put)
    runner = ThreadRunner(keeper)
    slots = Slots("stress", 3, run)
    waiting = [number for number in range(1, 2_001)]
    running, outcomes = set(), Counter()

    while waiting or running:
        while waiting and len(running) < 3:
            row = (0, 0, waiting.pop(), "tests.Short", "{}", "{}", "[]", [], 1, 20, 0, 0, 0)
            job = Job.fetched(row, "alpha", ["node", "uuid"])
            running.add(job.id)
            slots.grow(len(running))
            slots.submit([job])

        message = told.get(timeout=10)

        if callable(message):
            lost.append(message())
        else:
            running.remove(message.job.id)
            outcomes[message.state.value] += 1

    slots.close()
    keeper.request_stop()

    assert slots.join(time.monotonic() + 10)
    assert keeper.join(time.monotonic() + 10)
    assert not escaped
    assert sum(outcomes.values()) == 2_000
    assert set(outcomes) == {"completed", "retryable"}
    assert slots.retired == 0
