"""Children of a process queue, without a database: a runner, and jobs as a fetch gives them."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import pytest

from oban_sync import ConfigError, NotRunningError, worker
from oban_sync.core import config
from oban_sync.core.clock import from_micros
from oban_sync.core.config import QueueConfig
from oban_sync.core.executors import ExecutorConfig, check_executor
from oban_sync.core.job import KEPT, Job, JobState
from oban_sync.core.lease import Lease
from oban_sync.core.recorded import decode
from oban_sync.runtime import child, child_pool, children, crossing, processes, within_child
from oban_sync.runtime.processes import ProcessRunner
from tests.support import child_workers
from tests.support.probe import eventually

NOW = int(datetime.now(UTC).timestamp() * 1_000_000)

ids = itertools.count(1)


def taken(worker, args=None, *, attempt=1, max_attempts=20, meta=None, tags=None, lease=None):
    """A job as the producer has it after a fetch."""
    return Job.fetched(
        (
            0,
            NOW - 1_000_000,
            next(ids),
            f"tests.child.{worker}",
            json.dumps(args or {}),
            json.dumps(meta or {}),
            "[]",
            tags,
            attempt,
            max_attempts,
            NOW - 2_000_000,
            NOW,
            0,
        ),
        "cpu",
        ["node", "uuid"],
        lease,
    )


def forced(seconds):
    """Meta of a job whose forced deadline is so many seconds after its start."""
    deadline = from_micros(NOW) + timedelta(seconds=seconds)

    return {KEPT: {"forced": True, "deadline_at": deadline.isoformat()}}


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False

    # Dead, and not yet fetched by whoever waits for it.
    return state != "Z"


def is_there(pid):
    return Path(f"/proc/{pid}").exists()


def recorded(outcome):
    assert outcome.state is JobState.COMPLETED, outcome.error_text

    return decode(outcome.meta["return"])


def text_of(path):
    """What a job wrote to a file, once it has."""
    eventually(lambda: path.exists() and path.read_text())

    return path.read_text()


@pytest.fixture
def make_runner():
    """Makes runners, and sees that nothing is left of them."""
    made = []

    def make(limit=1, **options):
        executor = ExecutorConfig("process", **options)
        made.append(ProcessRunner(QueueConfig("cpu", limit, executor=executor)))

        return made[-1]

    yield make

    for runner in made:
        pids = runner._pool.pids()
        runner.close()

        assert runner.join(time.monotonic() + 10)
        assert not [pid for pid in pids if is_there(pid)]


@pytest.fixture(scope="module")
def shared():
    """A runner for tests that leave its children as they were."""
    runner = ProcessRunner(QueueConfig("cpu", 1, executor=ExecutorConfig("process")))
    # Of the same module for all of them, and in whatever order.
    runner.open()

    yield runner

    runner.close()
    runner.join(time.monotonic() + 10)


@pytest.fixture
def behind():
    """Runs jobs on threads beside the test's."""
    with ThreadPoolExecutor(4) as executor:
        yield executor.submit


# What crosses


def test_a_job_runs_in_another_process_and_sees_itself_as_it_was_taken(shared):
    job = taken("report", {"echo": ["ä", None]}, attempt=2, tags=["a"], meta={"k": 1})
    seen = recorded(shared.run(job))

    assert seen["pid"] != os.getpid()
    assert seen["group"] == seen["pid"]
    assert (
        seen
        | {
            "echo": ["ä", None],
            "id": job.id,
            "key": list(job.key),
            "queue": "cpu",
            "attempt": 2,
            "max_attempts": 20,
            "attempted_by": ["node", "uuid"],
            "tags": ["a"],
            "meta": {"k": 1},
            "errors": [],
            "attempted_at": job.attempted_at.isoformat(),
            "scheduled_at": job.scheduled_at.isoformat(),
            "lost": False,
            "cancelled": False,
        }
        == seen
    )


def test_a_job_that_was_looked_at_before_crosses_as_well(shared):
    job = taken("report", {"echo": 1})
    assert (job.args, job.meta, job.errors, job.scheduled_at) != ()

    assert recorded(shared.run(job))["echo"] == 1


def test_what_a_job_returns_need_not_be_pickled(shared):
    assert shared.run(taken("unwritable")).state is JobState.COMPLETED


def test_every_kind_of_end_crosses(shared):
    snoozed, cancelled, discarded = (
        shared.run(taken("ends", {"how": how})) for how in ("snooze", "cancel", "discard")
    )

    assert (snoozed.state, snoozed.schedule_in, snoozed.spent) == (JobState.SCHEDULED, 60, False)
    assert snoozed.meta == {"why": "later", "snoozed": 1}
    assert (cancelled.state, cancelled.error_text) == (JobState.CANCELLED, "no use")
    assert (discarded.state, discarded.error_text) == (JobState.DISCARDED, "no hope")


def test_a_failure_comes_with_its_traceback_and_the_workers_own_backoff(shared, probe):
    outcome = shared.run(taken("Failing"))

    assert (outcome.state, outcome.schedule_in) == (JobState.RETRYABLE, 1234)
    assert "in process" in outcome.error_text
    assert "OwnError: 1, 2 and half a pair" in outcome.error_text
    assert outcome.to_json()
    told = probe.next("oban.job.exception")
    assert (told["error_type"], told["traceback"]) == ("OwnError", outcome.error_text)


def test_telemetry_is_told_here_and_not_in_the_child(shared, probe):
    job = taken("report")
    shared.run(job)

    assert probe.next("oban.job.start")["job"] is job
    assert probe.next("oban.job.stop")["state"] == "completed"


def test_a_job_in_a_child_can_ask_whether_the_lease_is_lost(shared, behind, tmp_path):
    lease = Lease()
    job = taken("lease", {"asked": str(tmp_path / "asked"), "go_on": str(tmp_path / "go")})
    job.leased(lease)
    running = behind(shared.run, job)
    eventually((tmp_path / "asked").exists)
    lease.generation += 1
    (tmp_path / "go").touch()

    assert recorded(running.result(10)) == [False, True]


def test_what_a_job_says_is_heard_at_once(make_runner, capfd):
    make_runner().run(taken("warn", {"text": "mind the gap"}))
    said = capfd.readouterr()

    assert said.err == "mind the gap\n"
    assert said.out == "printed mind the gap\n"


# Workers that are not there


def test_a_worker_that_nobody_registered_is_a_failed_job(shared):
    outcome = shared.run(taken("Nobody"))

    assert outcome.state is JobState.RETRYABLE
    assert outcome.error_type == "WorkerNotFoundError"
    assert "no worker named 'tests.child.Nobody'" in outcome.error_text


def test_a_worker_defined_in_a_function_is_a_failed_job_that_says_so(shared):
    @worker(name="tests.child.Local")
    class Local:
        def process(self, job):
            return None

    outcome = shared.run(taken("Local"))

    assert outcome.error_type == "WorkerNotFoundError"
    assert "defined no worker 'tests.child.Local'" in outcome.error_text
    assert __name__ in outcome.error_text
    assert shared.run(taken("report")).state is JobState.COMPLETED


def test_a_worker_of_a_module_that_fails_to_import_names_module_and_error(
    shared, monkeypatch, tmp_path
):
    monkeypatch.setattr(processes, "module_of", lambda worker: "tests.support.no_such_module")
    outcome = shared.run(taken("Elsewhere"))

    assert "cannot import 'tests.support.no_such_module'" in outcome.error_text
    assert "ModuleNotFoundError" in outcome.error_text


@pytest.mark.parametrize(
    ("name", "module"),
    [("tests.child.report", child_workers.__name__), ("tests.child.Nowhere", None)],
)
def test_the_module_of_a_worker_is_known_by_its_origin(name, module):
    assert processes.module_of(name) == module


# Time


@pytest.mark.parametrize("how", ["sleep", "wait", "spin"])
def test_a_job_that_takes_too_long_is_killed_within_a_second(make_runner, how, tmp_path):
    runner = make_runner()
    file = tmp_path / "pid"
    runner.run(taken("report"))
    started = time.monotonic()
    outcome = runner.run(taken("Stuck", {"how": how, "file": str(file), "timeout": 0.3}))
    took = time.monotonic() - started

    assert not is_there(int(file.read_text()))
    assert 0.3 <= took < 1.3
    assert (outcome.state, outcome.error_type) == (JobState.RETRYABLE, "JobTimeoutError")
    assert "0.3 s" in outcome.error_text
    assert outcome.spent


def test_a_job_that_was_interrupted_tidies_up_and_tells_where_it_was(make_runner, tmp_path):
    outcome = make_runner().run(
        taken(
            "Stuck",
            {
                "how": "sleep",
                "timeout": 0.1,
                "file": str(tmp_path / "pid"),
                "tidy": str(tmp_path / "tidy"),
            },
        )
    )

    assert (tmp_path / "tidy").read_text() == "cancelled: True"
    assert "time.sleep(600)" in outcome.error_text


def test_a_job_that_completes_when_it_is_interrupted_has_completed(make_runner, tmp_path):
    outcome = make_runner().run(
        taken(
            "Stuck",
            {"how": "sleep", "timeout": 0.1, "completes": True, "file": str(tmp_path / "pid")},
        )
    )

    assert outcome.state is JobState.COMPLETED


def test_a_timeout_counts_from_the_beginning_in_the_child(make_runner):
    # Children take longer to start than this.
    outcome = make_runner().run(taken("report", meta={KEPT: {"timeout": 0.05}}))

    assert outcome.state is JobState.COMPLETED


def test_a_forced_deadline_ends_the_job_as_cancelled(make_runner, tmp_path):
    runner = make_runner()
    runner.run(taken("report"))
    outcome = runner.run(
        taken("Stuck", {"how": "sleep", "file": str(tmp_path / "pid")}, meta=forced(0.5))
    )

    assert outcome.state is JobState.CANCELLED
    assert "its deadline, which is forced" in outcome.error_text
    assert "time.sleep(600)" in outcome.error_text


@pytest.mark.parametrize("kept_ready", [True, False])
def test_a_job_is_not_begun_when_its_forced_deadline_comes_before_its_child(
    make_runner, monkeypatch, kept_ready
):
    runner = make_runner(setup="tests.support.child_workers:set_up_slowly")

    if not kept_ready:
        monkeypatch.setattr(runner._pool, "open", lambda: None)

    started = time.monotonic()
    outcome = runner.run(taken("report", meta=forced(0.3)))

    assert 0.3 <= time.monotonic() - started < 2.5
    assert outcome.state is JobState.CANCELLED
    assert "its deadline, which is forced" in outcome.error_text
    assert "not begun" in outcome.error_text


def test_a_forced_deadline_counts_while_the_job_waits_for_a_child(
    make_runner, monkeypatch, tmp_path
):
    runner = make_runner()
    runner.run(taken("report"))
    take = runner._pool.take

    def late(*given):
        Event().wait(1.0)

        return take(*given)

    monkeypatch.setattr(runner._pool, "take", late)
    started = time.monotonic()
    outcome = runner.run(
        taken(
            "Stuck",
            {"how": "sleep", "file": str(tmp_path / "pid")},
            meta=forced(1.5),
        )
    )

    assert outcome.state is JobState.CANCELLED
    assert 1.5 <= time.monotonic() - started < 2.3


def test_the_programs_that_a_job_started_end_with_it(make_runner, tmp_path):
    files = {name: str(tmp_path / name) for name in ("file", "program")}
    make_runner().run(taken("Stuck", {"how": "program", "timeout": 0.1, **files}))

    eventually(lambda: not is_alive(int((tmp_path / "program").read_text())))


def test_a_timeout_disturbs_no_other_job(make_runner, behind, tmp_path):
    runner = make_runner(2)
    files = {"entered": str(tmp_path / "entered"), "leave": str(tmp_path / "leave")}
    other = behind(runner.run, taken("gate", files))
    pid = int(text_of(tmp_path / "entered"))
    runner.run(taken("Stuck", {"how": "wait", "timeout": 0.1, "file": str(tmp_path / "pid")}))

    assert is_alive(pid)
    (tmp_path / "leave").touch()
    assert other.result(10).state is JobState.COMPLETED


def test_a_job_that_left_its_group_is_killed_all_the_same(make_runner, tmp_path):
    file = tmp_path / "pid"
    outcome = make_runner().run(
        taken("leaves_group", {"file": str(file)}, meta={KEPT: {"timeout": 0.2}})
    )

    assert outcome.error_type == "JobTimeoutError"
    assert not is_there(int(file.read_text()))


def test_a_child_whose_parent_is_gone_ends_its_own_group_and_no_other(monkeypatch):
    class Gone:
        pid = os.getppid()

        def join(self, _timeout):
            pass

        def is_alive(self):
            return False

    killed = []

    def kill(pid, number):
        killed.append((pid, number))

        raise SystemExit

    # As after the job joined a group.
    monkeypatch.setattr(os, "getpgrp", lambda: 12345)
    monkeypatch.setattr(os, "killpg", lambda *given: killed.append(given))
    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(multiprocessing, "parent_process", Gone)

    with pytest.raises(SystemExit):
        child._end_with_parent()

    assert killed == [(os.getpid(), signal.SIGKILL)] * 2


# Children that do not read


def test_a_child_that_does_not_take_its_job_is_replaced(make_runner, monkeypatch):
    runner = make_runner()
    stopped = recorded(runner.run(taken("report")))["pid"]
    monkeypatch.setattr(children, "BEGIN_PERIOD", 1.5)
    os.kill(stopped, signal.SIGSTOP)
    # More than the pipe takes.
    seen = recorded(runner.run(taken("report", {"echo": "x" * 900_000})))

    assert (seen["pid"] != stopped, len(seen["echo"])) == (True, 900_000)
    assert not is_there(stopped)


def test_children_that_never_take_a_job_fail_it_with_the_reason(make_runner, monkeypatch):
    runner = make_runner()
    runner.run(taken("report"))
    monkeypatch.setattr(children, "BEGIN_PERIOD", 0.0)
    monkeypatch.setattr(children, "LOOK_INTERVAL", 0.0)
    take = runner._pool.take

    def stopped(*given):
        given = take(*given)
        os.kill(given.pid, signal.SIGSTOP)

        return given

    monkeypatch.setattr(runner._pool, "take", stopped)
    outcome = runner.run(taken("report"))

    assert outcome.error_type == "NoChildError"
    assert "it did not begin the job in 0 seconds" in outcome.error_text


def test_a_job_can_be_cancelled_while_its_child_does_not_read(make_runner, behind):
    runner = make_runner()
    stopped = recorded(runner.run(taken("report")))["pid"]
    os.kill(stopped, signal.SIGSTOP)
    job = taken("report", {"echo": "x" * 900_000})
    running = behind(runner.run, job)
    eventually(lambda: job in runner._pool._busy)
    job.ask_to_stop()
    runner.cancel(job)

    assert running.result(5).state is JobState.CANCELLED
    assert not is_there(stopped)


# What else may come through the pipe


def done(job_key):
    told = {"state": "completed", "spent": True, "key": job_key}
    told |= dict.fromkeys(["meta", "error_text", "error_type", "error_message", "schedule_in"])

    return crossing.framed(crossing.message(child.DONE, told))


@pytest.mark.parametrize(
    "data",
    [
        done([1, 2]),
        crossing.framed(b"5"),
        crossing.framed(b'["what", 1]'),
        crossing.framed(b'["done", 1]'),
        crossing.framed(b"[" * 100_000),
        b"\xff\xff\xff\x00",
    ],
    ids=["other job", "no pair", "no word", "no outcome", "too deep", "no length"],
)
def test_a_child_is_ended_that_says_what_no_child_says(make_runner, data):
    runner = make_runner()
    outcome = runner.run(taken("says", {"data": data.hex()}))

    assert outcome.error_type == "JobCrashedError"
    assert "something else than the library wrote to its pipe" in outcome.error_text
    assert runner.run(taken("report")).state is JobState.COMPLETED


def test_half_a_word_keeps_nobody_from_looking_at_the_time(make_runner):
    outcome = make_runner().run(
        taken("says", {"data": b"\0\0\0\x40ab".hex()}, meta={KEPT: {"timeout": 0.2}})
    )

    assert outcome.error_type == "JobTimeoutError"


def test_data_crosses_in_parts_whatever_its_length():
    stream = bytearray()
    given = [b"", b"a" * 70_000]

    for part in b"".join(map(crossing.framed, given)):
        stream.append(part)

        if (data := crossing.unframed(stream)) is not None:
            assert data == given.pop(0)

    assert not given
    assert not stream


@pytest.mark.parametrize("fails", [True, False])
def test_a_copy_that_a_job_forked_and_that_comes_back_ends_without_a_word(make_runner, fails):
    runner = make_runner()
    outcome = runner.run(taken("forks_and_returns", {"fails": fails}, meta={KEPT: {"timeout": 9}}))

    assert recorded(outcome) == 1
    assert runner.run(taken("report")).state is JobState.COMPLETED


# Asked to stop, and handed back


def test_a_cancelled_job_is_killed(make_runner, behind, tmp_path):
    runner = make_runner()
    job = taken("Stuck", {"how": "spin", "file": str(tmp_path / "pid")})
    running = behind(runner.run, job)
    pid = int(text_of(tmp_path / "pid"))
    asked = time.monotonic()
    job.ask_to_stop()
    runner.cancel(job)

    assert running.result(10).state is JobState.CANCELLED
    assert time.monotonic() - asked < 1.0
    assert not is_there(pid)


def test_a_job_cancelled_before_its_child_is_there_is_not_begun(make_runner):
    job = taken("report")
    job.ask_to_stop()

    assert make_runner().run(job).state is JobState.CANCELLED


def test_an_abandoned_job_is_killed_at_once_and_comes_to_nothing(
    make_runner, behind, tmp_path, probe
):
    runner = make_runner()
    job = taken("Stuck", {"how": "wait", "file": str(tmp_path / "pid")})
    running = behind(runner.run, job)
    pid = int(text_of(tmp_path / "pid"))
    job.disowned()
    runner.abandon(job)
    eventually(lambda: not is_alive(pid), within=0.5)

    assert running.result(10) is None


def test_an_abandoned_job_that_has_no_child_yet_comes_to_nothing(make_runner, behind, monkeypatch):
    runner = make_runner()
    starts = Event()
    new_child = runner._pool._start

    def delayed():
        starts.set()
        assert released.wait(10)

        return new_child()

    released = Event()
    monkeypatch.setattr(runner._pool, "_start", delayed)
    job = taken("report")
    running = behind(runner.run, job)
    assert starts.wait(10)
    job.disowned()
    runner.abandon(job)
    released.set()

    assert running.result(10) is None


def test_closing_kills_children_with_jobs_and_waits_for_nothing(make_runner, behind, tmp_path):
    runner = make_runner(2)
    running = behind(runner.run, taken("Stuck", {"how": "spin", "file": str(tmp_path / "pid")}))
    pid = int(text_of(tmp_path / "pid"))
    started = time.monotonic()
    runner.close()

    assert time.monotonic() - started < 0.5
    assert running.result(10) is None
    assert runner.join(time.monotonic() + 10)
    assert not is_there(pid)
    assert runner.run(taken("report")) is None


# Crashes


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"number": signal.SIGKILL}, "killed by SIGKILL; out of memory perhaps"),
        ({"number": signal.SIGSEGV}, "killed by SIGSEGV"),
        ({"code": 3}, "exit code 3"),
        ({"code": 0}, "exit code 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_crash_is_recorded_and_spends_the_attempt(make_runner, args, words):
    runner = make_runner()
    outcome = runner.run(taken("die", {k: int(v) for k, v in args.items()}, meta={KEPT: {"x": 1}}))

    assert (outcome.state, outcome.spent) == (JobState.RETRYABLE, True)
    assert outcome.schedule_in >= 15
    assert words in outcome.error_text
    assert outcome.error_type == "JobCrashedError"
    assert outcome.meta == {KEPT: {"crashes": 1}}
    assert runner.run(taken("report")).state is JobState.COMPLETED


def test_the_third_crash_gives_the_job_up(make_runner):
    outcome = make_runner().run(taken("die", {"code": 1}, attempt=5, meta={KEPT: {"crashes": 2}}))

    assert outcome.state is JobState.DISCARDED
    assert "Quarantined: that happened 3 times" in outcome.error_text
    assert outcome.meta == {KEPT: {"crashes": 3}}


def test_a_crash_disturbs_no_other_job(make_runner, behind, tmp_path):
    runner = make_runner(2)
    files = {"entered": str(tmp_path / "entered"), "leave": str(tmp_path / "leave")}
    other = behind(runner.run, taken("gate", files))
    text_of(tmp_path / "entered")
    runner.run(taken("die", {"number": int(signal.SIGKILL)}))
    (tmp_path / "leave").touch()

    assert other.result(10).state is JobState.COMPLETED


def test_a_crash_is_seen_though_a_copy_of_the_process_lives_on(make_runner, tmp_path):
    outcome = make_runner().run(taken("forks", {"file": str(tmp_path / "pid")}))

    try:
        assert "exit code 3" in outcome.error_text
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_an_idle_child_that_was_killed_costs_no_job_anything(make_runner):
    runner = make_runner()
    first = recorded(runner.run(taken("report")))["pid"]
    os.kill(first, signal.SIGKILL)
    outcome = runner.run(taken("report"))

    assert recorded(outcome)["pid"] != first
    assert not is_there(first)


def test_every_job_comes_to_something_while_children_are_killed_at_random(make_runner, behind):
    runner = make_runner(2)
    over = Event()

    def kill():
        while not over.wait(0.03):
            for pid in random.sample(runner._pool.pids(), min(1, len(runner._pool.pids()))):
                with suppress(ProcessLookupError):
                    os.kill(pid, random.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP]))
                    os.kill(pid, signal.SIGKILL)

    killing = behind(kill)
    deadline = time.monotonic() + 2

    def several():
        states = []

        while time.monotonic() < deadline:
            outcome = runner.run(taken("report"))
            told = outcome.error_type
            assert outcome.state is JobState.COMPLETED or told in (
                "JobCrashedError",
                "NoChildError",
            )
            states.append(outcome.state)

        return states

    first, second = behind(several), behind(several)
    states = first.result(30) + second.result(30)
    over.set()
    killing.result(10)

    assert states
    assert runner.run(taken("report")).state is JobState.COMPLETED


def test_a_thread_that_outlives_its_job_takes_no_other_job_away(shared, tmp_path):
    shared.run(taken("straggles", {"file": str(tmp_path / "asked")}))
    eventually((tmp_path / "asked").exists)

    assert shared.run(taken("report")).state is JobState.COMPLETED
    assert (tmp_path / "asked").read_text() == "True"


def test_a_job_whose_owner_is_in_doubt_for_a_moment_is_begun_all_the_same(make_runner, monkeypatch):
    runner = make_runner()
    job = taken("report")
    new_child = runner._pool._start

    def in_doubt():
        # As the producer does while it asks whether the job is still its own.
        eventually(lambda: job in runner._pool._present)
        job.disowned()

        return new_child()

    monkeypatch.setattr(runner._pool, "_start", in_doubt)

    assert runner.run(job).state is JobState.COMPLETED


# The children


def test_children_are_ready_before_the_first_job(make_runner):
    runner = make_runner(2)
    runner.open()
    pids = eventually(lambda: len(runner._pool.pids()) == 2 and runner._pool.pids())
    started = time.monotonic()

    assert recorded(runner.run(taken("report")))["pid"] in pids
    assert time.monotonic() - started < 0.1


def test_applications_that_wait_for_all_their_children_do_not_meet_these(shared):
    pid = recorded(shared.run(taken("report")))["pid"]

    assert pid not in [child.pid for child in multiprocessing.active_children()]


def test_a_child_runs_one_job_after_the_other(shared):
    assert len({recorded(shared.run(taken("report")))["pid"] for _ in range(5)}) == 1


def test_a_child_is_replaced_after_so_many_jobs(make_runner):
    runner = make_runner(most_jobs=2)
    pids = [recorded(runner.run(taken("report")))["pid"] for _ in range(4)]

    assert pids[0] == pids[1] != pids[2] == pids[3]
    eventually(lambda: not is_there(pids[0]))


def test_a_queue_that_grows_has_more_children_and_one_that_shrinks_fewer(make_runner):
    runner = make_runner(1)
    runner.open()
    eventually(lambda: len(runner._pool.pids()) == 1)
    runner.resize(2)
    both = eventually(lambda: len(runner._pool.pids()) == 2 and runner._pool.pids())
    runner.resize(1)

    assert len(runner._pool.pids()) == 1
    eventually(lambda: sum(map(is_there, both)) == 1)


def test_the_setup_is_called_once_in_every_child(make_runner):
    runner = make_runner(setup="tests.support.child_workers:set_up")

    assert [recorded(runner.run(taken("report")))["set_ups"] for _ in range(2)] == [1, 1]


def test_a_setup_that_fails_fails_jobs_with_its_error_and_not_for_ever(
    make_runner, monkeypatch, caplog
):
    monkeypatch.setattr(child_pool, "FIRST_PAUSE", 0.01)
    runner = make_runner(setup="tests.support.child_workers:fail_to_set_up")
    outcome = runner.run(taken("report"))

    assert (outcome.state, outcome.error_type) == (JobState.RETRYABLE, "NoChildError")
    assert "RuntimeError: no such model" in outcome.error_text
    # The keeper tries no more, and says so once at the most.
    assert sum("has no child process" in record.message for record in caplog.records) <= 1
    assert runner._pool.pids() == []


def test_children_of_a_fork_server_do_as_well(make_runner, tmp_path):
    runner = make_runner(start_method="forkserver")

    assert recorded(runner.run(taken("report")))["pid"] != os.getpid()
    assert "SIGSEGV" in runner.run(taken("die", {"number": int(signal.SIGSEGV)})).error_text

    stuck = taken("Stuck", {"how": "spin", "timeout": 0.2, "file": str(tmp_path / "pid")})

    assert runner.run(stuck).error_type == "JobTimeoutError"
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_an_interrupt_from_the_terminal_reaches_no_child(make_runner):
    runner = make_runner()
    pid = recorded(runner.run(taken("report")))["pid"]

    assert os.getpgid(pid) != os.getpgid(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(pid, number)

    assert recorded(runner.run(taken("report")))["pid"] == pid


def test_queues_are_not_started_within_a_child(monkeypatch):
    threads = [QueueConfig("a", 1)]
    within_child.refuse_within_child(threads)
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, False)
    within_child.refuse_within_child(threads)

    with pytest.raises(NotRunningError, match='if __name__ == "__main__"'):
        within_child.refuse_within_child([QueueConfig("a", 1, executor=ExecutorConfig("process"))])

    monkeypatch.setattr(multiprocessing.current_process(), "name", f"{within_child.NAME}cpu-1")

    with pytest.raises(NotRunningError, match="child process"):
        within_child.refuse_within_child(threads)


# The option


@pytest.mark.parametrize(
    ("given", "checked"),
    [
        ("thread", ExecutorConfig()),
        ("process", ExecutorConfig("process")),
        ({"kind": "thread"}, ExecutorConfig()),
        (
            {"kind": "process", "start_method": "forkserver", "most_jobs": 5, "setup": "a.b:c"},
            ExecutorConfig("process", "forkserver", 5, "a.b:c"),
        ),
    ],
)
def test_an_executor_is_a_word_or_a_mapping(given, checked):
    assert check_executor("executor", given) == checked


@pytest.mark.parametrize(
    ("given", "option", "words"),
    [
        ("proces", "executor", "Did you mean 'process'?"),
        (4, "executor", '"kind": "process"'),
        ({"kind": "threads"}, "executor.kind", "Did you mean 'thread'?"),
        ({"most_jobs": 3}, "executor.kind", "is missing"),
        ({"kind": "thread", "most_jobs": 3}, "executor.most_jobs", "is for processes"),
        ({"kind": "process", "start_methd": "spawn"}, "executor.start_methd", "'start_method'?"),
        ({"kind": "process", "start_method": "fork"}, "executor.start_method", "threads hold"),
        ({"kind": "process", "start_method": "spwan"}, "executor.start_method", "'spawn'?"),
        ({"kind": "process", "most_jobs": 0}, "executor.most_jobs", "from 1 to"),
        ({"kind": "process", "setup": "a.b.c"}, "executor.setup", "module:function"),
        ({"kind": "process", "setup": "a b:c"}, "executor.setup", "module:function"),
    ],
    ids=str,
)
def test_a_wrong_executor_is_an_error_that_names_the_option(given, option, words):
    with pytest.raises(ConfigError) as caught:
        check_executor("executor", given)

    assert caught.value.option == option
    assert words in str(caught.value)


def test_the_executor_is_an_option_of_a_queue():
    [queue] = config.check_queues("queues", {"media": {"limit": 2, "executor": "process"}})

    assert queue.executor == ExecutorConfig("process")
