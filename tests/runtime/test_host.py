from __future__ import annotations

import logging
from contextlib import contextmanager
from threading import Event

import pytest

from oban_sync import ConfigError, worker
from oban_sync.core.config import Config
from tests.support.probe import eventually


@pytest.fixture
def told():
    return []


def surrounding(told, *, before=None, after=None):
    @contextmanager
    def around(job):
        told.append(f"enter {job.worker}")

        if before is not None:
            raise before

        try:
            yield
        except Exception as error:
            told.append(repr(error))
            raise
        finally:
            told.append("leave")

            if after is not None:
                raise after

    return around


def test_runs_happen_inside_with_backoff_and_the_job_s_error_in_sight(make_oban, told, probe):
    @worker(name="tests.hosted")
    class Hosted:
        def process(self, job):
            told.append("process")

            raise ValueError("boom")

        def backoff(self, job):
            told.append("backoff")

            return 1

    oban = make_oban(queues={"default": 1}, around=surrounding(told)).start()
    Hosted.enqueue()
    probe.next("oban.job.exception")
    oban.stop()

    assert told == ["enter tests.hosted", "process", "backoff", "ValueError('boom')", "leave"]


@pytest.mark.parametrize("timeout", [None, 30], ids=["plain", "timed"])
@pytest.mark.parametrize("threads", [True, False], ids=["threads", "drained"])
def test_what_cannot_be_entered_fails_the_job(make_oban, told, probe, timeout, threads):
    @worker(name="tests.not-hosted", timeout=timeout)
    class NotHosted:
        def process(self, job):
            told.append("process")

    around = surrounding(told, before=RuntimeError("no app"))
    oban = make_oban(queues={"default": 1} if threads else None, around=around)
    stored = NotHosted.enqueue()

    if threads:
        oban.start()
        probe.next("oban.job.exception")
        oban.stop()
        oban = make_oban()
    else:
        oban.drain_queue(with_safety=True, with_scheduled=False)

    assert "process" not in told
    assert "no app" in oban.get_job(stored).errors[0]["error"]


@pytest.mark.parametrize("timeout", [None, 30], ids=["plain", "timed"])
def test_what_fails_while_it_is_left_is_logged_and_the_outcome_stands(
    make_oban, told, probe, caplog, timeout
):
    @worker(name="tests.left", timeout=timeout)
    class Left:
        def process(self, job):
            pass

    around = surrounding(told, after=RuntimeError("teardown"))
    oban = make_oban(queues={"default": 1}, around=around)
    stored = Left.enqueue()

    with caplog.at_level(logging.ERROR, "oban_sync.runtime"):
        oban.start()
        probe.next("oban.job.stop")
        oban.stop()

    assert make_oban().get_job(stored).state == "completed"
    assert "failed after the run" in caplog.text


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("timeout", [None, 30], ids=["plain", "timed"])
def test_what_ends_the_program_while_it_is_left_changes_no_outcome(
    make_oban, told, probe, caplog, timeout, error
):
    @worker(name="tests.left-in-haste", timeout=timeout)
    class Left:
        def process(self, job):
            pass

    oban = make_oban(queues={"default": 1}, around=surrounding(told, after=error))
    stored = Left.enqueue()

    with caplog.at_level(logging.ERROR, "oban_sync.runtime"):
        oban.start()
        assert probe.next("oban.job.stop")["state"] == "completed"
        oban.stop()

    assert make_oban().get_job(stored).state == "completed"
    assert "failed after the run" in caplog.text


@pytest.mark.parametrize("work", [None, ValueError("declined")], ids=["good", "bad"])
def test_a_ctrl_c_while_a_drained_run_is_left_is_raised_and_the_outcome_stands(
    make_oban, told, work
):
    @worker(name="tests.left-by-ctrl-c")
    class Left:
        def process(self, job):
            if work is not None:
                raise work

    oban = make_oban(around=surrounding(told, after=KeyboardInterrupt()))
    stored = Left.enqueue()

    with pytest.raises(KeyboardInterrupt):
        oban.drain_queue("default", with_safety=True)

    done = oban.get_job(stored)
    assert done.state == ("completed" if work is None else "retryable")
    assert ["ValueError: declined" in item["error"] for item in done.errors] == (
        [] if work is None else [True]
    )


TRANSACTIONAL = pytest.mark.parametrize(
    "transactional", [False, True], ids=["plain", "transactional"]
)


@TRANSACTIONAL
@pytest.mark.parametrize("work", [None, ValueError("declined")], ids=["good", "bad"])
def test_a_timeout_that_comes_while_a_run_is_left_changes_no_outcome(
    make_oban, probe, work, transactional
):
    @worker(name="tests.left-slowly", timeout=0.3, transactional=transactional)
    class Slow:
        def process(self, job, *conn):
            if work is not None:
                raise work

    queue = {"limit": 1, "escalation": {"cancel_sql": False, "interrupt": 0.05, "replace": 20}}
    oban = make_oban(queues={"default": queue}, around=lingering(Event()))
    stored = Slow.enqueue()
    oban.start()

    assert probe.next("oban.job.timeout", step="interrupt")["job"].id == stored.id
    ended = probe.next("oban.job.stop" if work is None else "oban.job.exception")
    oban.stop()

    assert ended["state"] == ("completed" if work is None else "retryable")
    done = make_oban().get_job(stored)
    assert done.state == ended["state"]
    assert not any("JobTimeoutError" in item["error"] for item in done.errors)


@TRANSACTIONAL
def test_a_run_that_is_left_for_good_keeps_its_outcome(make_oban, probe, caplog, transactional):
    @worker(name="tests.never-left", timeout=0.3, transactional=transactional)
    class Stuck:
        def process(self, job, *conn):
            pass

    gate = Event()
    queue = {"limit": 1, "escalation": {"cancel_sql": False, "interrupt": False, "replace": 0.05}}
    oban = make_oban(queues={"default": queue}, around=lingering(gate))
    stored = Stuck.enqueue()
    oban.start()

    try:
        assert probe.next("oban.job.stop")["job"].id == stored.id
        # The place is another job's, though that one has not returned.
        other = Stuck.enqueue()
        assert probe.next("oban.job.stop")["job"].id == other.id
        eventually(lambda: oban.get_job(other).state == "completed")
    finally:
        gate.set()

    for _ in range(2):
        probe.next("oban.job.returned")

    assert oban.get_job(stored).state == "completed"
    oban.stop()
    assert "belongs to another run" not in caplog.text


def lingering(gate):
    """Something around runs that takes its time after each, until it is interrupted or let go."""

    @contextmanager
    def around(job):
        try:
            yield
        finally:
            while not gate.wait(0.01):
                pass

    return around


def test_what_is_no_function_is_refused():
    with pytest.raises(ConfigError, match="around"):
        Config.checked({"conninfo": "postgresql://", "around": 7})
