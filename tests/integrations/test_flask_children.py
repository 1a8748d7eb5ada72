"""Flask applications in the children of process queues."""

from __future__ import annotations

import json
import os
import time

import pytest

from oban_sync.core.config import QueueConfig
from oban_sync.core.executors import ExecutorConfig
from oban_sync.core.job import Job, JobState
from oban_sync.core.recorded import decode
from oban_sync.runtime.processes import ProcessRunner


@pytest.fixture
def run():
    """Run a job in a child that imports the application; gives what it recorded.

    The test's own process does not import it: its context would stay there for other tests.
    """
    runner = ProcessRunner(
        QueueConfig("cpu", 1, executor=ExecutorConfig("process")),
        imports=["tests.support.pushed_app"],
    )

    def run(what):
        outcome = runner.run(taken("tests.pushed.leave", {"what": what}))
        assert outcome.state is JobState.COMPLETED, outcome.error_text

        return decode(outcome.meta["return"])

    yield run

    runner.close()
    assert runner.join(time.monotonic() + 10)


def taken(worker, args):
    row = (
        0,
        1_000_000,
        1,
        worker,
        json.dumps(args),
        "{}",
        "[]",
        None,
        1,
        20,
        1_000_000,
        1_000_000,
        0,
    )

    return Job.fetched(row, "cpu", ["node", "uuid"], None)


@pytest.mark.timeout(120)
def test_a_context_that_the_module_has_pushed_is_not_that_of_its_jobs(run):
    first, second = run("by the first"), run("by the second")

    # One child has run both.
    assert first["pid"] == second["pid"] != os.getpid()
    assert (first["app"], second["app"]) == ("pushed", "pushed")
    assert (first["g"], second["g"]) == (None, None)
    assert (first["torn_down"], second["torn_down"]) == (0, 1)
    assert (first["tenant"], second["tenant"]) == ("none", "none")
