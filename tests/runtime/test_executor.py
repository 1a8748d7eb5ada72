"""One job in, one outcome out, whatever the job does."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from datetime import timedelta
from functools import partial

import pytest

from oban_sync import Cancel, Discard, Record, current_job, telemetry, worker
from oban_sync.core.job import Job
from oban_sync.runtime.executor import Bound, describe, execute, overrun, perform, refuse


class BadText(Exception):
    def __repr__(self):
        return "BadText()"

    def __str__(self):
        raise RuntimeError("no text")


class WorseText(Exception):
    def __str__(self):
        raise SystemExit(3)

    def __repr__(self):
        # Not as bad as its text: pytest itself shows it when a test fails.
        return "WorseText()"


def job_of(cls, *, attempt=1, max_attempts=20, args="{}"):
    fetched = (
        0,
        0,
        1,
        cls.__oban_worker__.name,
        args,
        "{}",
        "[]",
        [],
        attempt,
        max_attempts,
        0,
        0,
        0,
    )

    return Job.fetched(fetched, "default", ["node", "uuid"])


def raising(error):
    @worker(name=f"raising-{id(error)}-{error.__class__.__name__}")
    class Raising:
        def process(self, job):
            raise error

    return Raising


@pytest.mark.parametrize(
    "error",
    [
        ValueError("plain"),
        SystemExit(1),
        KeyboardInterrupt(),
        GeneratorExit(),
        BaseException("base"),
        BadText(),
        WorseText(),
        ValueError("nul \0 and half \ud800 pair"),
        ExceptionGroup("many", [ValueError("a"), BadText()]),
        RecursionError(),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_job_raises_becomes_a_retry_with_its_text(error):
    outcome = execute(job_of(raising(error)))
    row = json.loads(outcome.to_json())

    assert outcome.state == "retryable"
    assert 17 <= outcome.schedule_in <= 19
    assert type(error).__name__ in row["error"]["error"]
    assert "\0" not in row["error"]["error"]
    row["error"]["error"].encode()
    assert row["error"]["attempt"] == 1
    assert row["error"]["at"].endswith("Z")


@pytest.mark.parametrize("error", [BadText(), WorseText()], ids=repr)
def test_an_error_without_a_text_is_logged_and_recorded_all_the_same(error, caplog):
    telemetry.log.attach(failures_only=True)

    with caplog.at_level(logging.WARNING):
        outcome = execute(job_of(raising(error)))

    assert type(error).__name__ in outcome.error_text
    assert type(error).__name__ in caplog.text


def test_the_last_attempt_is_given_up():
    outcome = execute(job_of(raising(ValueError("x")), attempt=3, max_attempts=3))

    assert (outcome.state, outcome.schedule_in) == ("discarded", None)


def test_the_traceback_begins_in_the_workers_own_code_and_shows_no_values():
    @worker(name="leaky")
    class Leaky:
        def process(self, job):
            secret = "s3cret"
            raise ValueError(len(secret))

    text = execute(job_of(Leaky)).error_text

    assert text.splitlines()[1].strip().startswith(f'File "{__file__}"')
    assert "ValueError: 6" in text


@pytest.mark.parametrize(
    ("backoff", "seconds"),
    [
        (lambda self, job: 5, 5.0),
        (lambda self, job: timedelta(minutes=1), 60.0),
        (lambda self, job: 0, 0.0),
        (lambda self, job: 1.5 * job.attempt, 1.5),
    ],
)
def test_the_workers_own_backoff_counts(backoff, seconds):
    cls = raising(ValueError("x"))
    cls.backoff = backoff
    worker(name=f"backoff-{id(backoff)}")(cls)

    assert execute(job_of(cls)).schedule_in == seconds


@pytest.mark.parametrize(
    "backoff",
    [
        lambda self, job: 1 / 0,
        lambda self, job: "soon",
        lambda self, job: None,
        lambda self, job: -5,
        lambda self, job: float("inf"),
        lambda self, job: (_ for _ in ()).throw(SystemExit),
    ],
)
def test_a_backoff_that_fails_is_recorded_and_replaced_by_the_default(backoff):
    cls = raising(ValueError("the first trouble"))
    cls.backoff = backoff
    worker(name=f"bad-backoff-{id(backoff)}")(cls)
    outcome = execute(job_of(cls))

    assert outcome.state == "retryable"
    assert 17 <= outcome.schedule_in <= 19
    assert "the first trouble" in outcome.error_text
    assert "backoff(job) failed" in outcome.error_text


def test_an_unknown_worker_is_a_failure_that_says_what_to_do():
    row = (0, 0, 1, "nobody.Home", "{}", "{}", "[]", [], 1, 20, 0, 0, 0)
    outcome = execute(Job.fetched(row, "default", ["n", "u"]))

    assert outcome.state == "retryable"
    assert "nobody.Home" in outcome.error_text
    assert "imports=" in outcome.error_text


@pytest.mark.parametrize("name", ["", " ", "x" * 500, "a\0b", "os.system"])
def test_a_row_with_any_worker_name_fails_alone(name):
    outcome = execute(Job.fetched((0, 0, 1, name, "{}", "{}", "[]", [], 1, 1, 0, 0, 0), "q", []))

    assert outcome.state == "discarded"


@pytest.mark.parametrize("args", ["[1]", '"text"', "null", "{", "[" * 100_000, "9" * 5000])
def test_args_that_are_no_object_fail_the_job_that_looks_at_them(args):
    @worker(name=f"looking-{args[:8]}")
    class Looking:
        def process(self, job):
            return job.args["x"]

    outcome = execute(job_of(Looking, args=args))

    assert outcome.state == "retryable"
    assert "args" in outcome.error_text


def test_a_coroutine_or_generator_is_a_failure_and_not_silently_completed():
    @worker(name="forgetful")
    class Forgetful:
        def process(self, job):
            return asyncio.sleep(0)

    @worker(name="yielding")
    class Yielding:
        def process(self, job):
            return (number for number in range(3))

    for cls in (Forgetful, Yielding):
        outcome = execute(job_of(cls))

        assert outcome.state == "retryable"
        assert "none of its code ran" in outcome.error_text


@pytest.mark.parametrize("outcome", [Cancel, Record])
def test_returning_the_class_of_an_outcome_is_a_failure_that_says_so(outcome):
    @worker(name=f"returning-{outcome.__name__}")
    class Returning:
        def process(self, job):
            return outcome

    assert "returned the class" in execute(job_of(Returning)).error_text


def test_a_job_may_run_an_event_loop_of_its_own():
    @worker(name="looping")
    class Looping:
        def process(self, job):
            return Record(asyncio.run(asyncio.sleep(0, "slept")))

    assert execute(job_of(Looping)).state == "completed"


def test_a_record_of_something_that_is_no_json_fails_the_job():
    @worker(name="recorder")
    class Recorder:
        def process(self, job):
            return Record({"x": object()})

    assert "recorded value.x" in execute(job_of(Recorder)).error_text


def test_the_current_job_is_there_during_the_run_and_gone_after():
    seen = []

    @worker(name="seeing")
    class Seeing:
        def process(self, job):
            seen.append(current_job())
            return Cancel("enough")

    job = job_of(Seeing)

    assert execute(job).state == "cancelled"
    assert seen == [job]
    assert current_job() is None


def test_events_carry_what_oban_py_calls_them(probe):
    execute(job_of(raising(ValueError("boom"))))
    start = probe.next("oban.job.start")
    stop = probe.next("oban.job.exception")

    assert set(start) == {"job", "monotonic_time"}
    assert set(stop) == {
        "duration",
        "error_message",
        "error_type",
        "job",
        "monotonic_time",
        "queue_time",
        "state",
        "traceback",
    }
    assert (stop["error_type"], stop["error_message"]) == ("ValueError", "boom")


def test_an_exception_that_cannot_be_shown_at_all_is_named():
    class Hopeless(Exception):
        @property
        def __traceback__(self):
            raise RuntimeError

    assert "Hopeless" in describe(Hopeless())


def test_a_run_without_telemetry_tells_nobody_and_keeps_the_error_as_text(probe):
    outcome = perform(job_of(raising(ValueError("boom"))))

    assert (outcome.error_type, outcome.error_message) == ("ValueError", "boom")
    assert outcome.error is None
    assert "ValueError: boom" in outcome.error_text

    execute(job_of(raising(KeyError("the marker"))))
    assert probe.next("oban.job.start")
    assert probe.next("oban.job.exception")["error_type"] == "KeyError"


def test_the_exception_itself_is_kept_for_those_who_raise_it_again():
    error = ValueError("boom")

    assert perform(job_of(raising(error)), keep_error=True).error is error


def test_the_current_job_is_there_for_telemetry_and_for_the_run():
    seen = []

    @worker(name="seen-twice")
    class SeenTwice:
        def process(self, job):
            seen.append(current_job())

    job = job_of(SeenTwice)
    telemetry.attach("seeing", ["oban.job.start"], lambda *_: seen.append(current_job()))

    try:
        execute(job)
    finally:
        telemetry.detach("seeing")

    assert seen == [job, job]
    assert current_job() is None


FORKING = """
import os, sys, time
from oban_sync import telemetry, worker
from oban_sync.core.job import Job
from oban_sync.runtime.executor import execute
from oban_sync.runtime.slots import Slots

where, events = sys.argv[1], os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
forked = []

def fork():
    if (pid := os.fork()) == 0:
        raise ValueError("in the copy")

    forked.append(pid)

@worker(name="tests.Forking")
class Forking:
    def process(self, job):
        if where == "job":
            fork()

def run(job):
    execute(job)

    if where == "slot":
        fork()

telemetry.attach("t", ["oban.job.stop", "oban.job.exception"], lambda *_: os.write(events, b"!"))
row = (0, 0, 1, "tests.Forking", "{}", "{}", "[]", [], 1, 20, 0, 0, 0)
slots = Slots("forking", 1, run)
slots.grow(1)
slots.submit([Job.fetched(row, "default", ["node", "uuid"])])
deadline = time.monotonic() + 10

while not forked or (ended := os.waitpid(forked[0], os.WNOHANG))[0] == 0:
    if time.monotonic() > deadline:
        os.kill(forked[0], 9)
        os.write(2, b"the copy lives on")
        os._exit(2)

    time.sleep(0.01)

sys.stdout.write(str(os.waitstatus_to_exitcode(ended[1])))
slots.close()
"""


@pytest.mark.parametrize("where", ["job", "slot"])
def test_a_copy_of_the_process_that_comes_back_from_a_job_ends(tmp_path, where):
    events = tmp_path / "events"
    done = subprocess.run(
        [sys.executable, "-c", FORKING, where, str(events)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "1"), done.stderr
    assert events.read_text() == "!"


def test_an_outcome_that_is_told_by_another_way_is_reported_by_nobody(probe):
    assert execute(job_of(raising(ValueError())), perform=lambda job: None) is None

    execute(job_of(raising(KeyError("the marker"))))
    assert probe.next("oban.job.exception")["error_type"] == "KeyError"


def test_whatever_runs_jobs_may_fail_itself():
    def broken(job):
        raise SystemExit(3)

    outcome = execute(job_of(raising(ValueError())), perform=broken)

    assert outcome.state == "retryable"
    assert "SystemExit: 3" in outcome.error_text


def test_a_job_that_its_queue_refuses_has_failed_with_the_reason(probe):
    job = job_of(raising(ValueError()))
    outcome = execute(job, perform=partial(refuse, "args lack the key 'tenant'"))

    assert (outcome.state, outcome.error_text) == ("retryable", "args lack the key 'tenant'")
    assert probe.next("oban.job.exception")["error_message"] == "args lack the key 'tenant'"


def test_a_discard_is_told_by_its_reason(probe):
    @worker(name="hopeless")
    class Hopeless:
        def process(self, job):
            return Discard("hopeless")

    execute(job_of(Hopeless))
    told = probe.next("oban.job.exception")

    assert (told["error_type"], told["error_message"]) == ("Discard", "hopeless")


def test_a_policy_that_fails_is_recorded_and_left_out(caplog):
    def delay(job, error):
        raise LookupError("no such delay")

    @worker(name="bad-policy", retry_on={ValueError: delay})
    class BadPolicy:
        def process(self, job):
            raise ValueError("the first trouble")

    outcome = execute(job_of(BadPolicy))

    assert outcome.state == "retryable"
    assert 17 <= outcome.schedule_in <= 19
    assert "the first trouble" in outcome.error_text
    assert "its policy failed" in outcome.error_text
    assert "no such delay" in outcome.error_text
    assert "LookupError" in caplog.text


def test_an_overrun_is_a_failure_of_its_own_kind_with_what_is_known_below_it():
    outcome = overrun(job_of(raising(ValueError())), Bound(1.5), "it was killed")
    first, last = outcome.error_text.split("\n\n")

    assert outcome.state == "retryable"
    assert outcome.error_type == "JobTimeoutError"
    assert first.endswith("JobTimeoutError: it ran for longer than its timeout of 1.5 s")
    assert last == "it was killed"


def test_an_overrun_of_a_forced_deadline_is_no_failure():
    outcome = overrun(job_of(raising(ValueError())), Bound(0.0, forced=True))

    assert (outcome.state, outcome.schedule_in) == ("cancelled", None)
    assert outcome.error_text.endswith("its deadline, which is forced, came before its end")
