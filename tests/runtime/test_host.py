from __future__ import annotations

import logging
from contextlib import contextmanager

import pytest

from oban_sync import ConfigError, worker
from oban_sync.core.config import Config


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


def test_what_is_no_function_is_refused():
    with pytest.raises(ConfigError, match="around"):
        Config.checked({"conninfo": "postgresql://", "around": 7})
