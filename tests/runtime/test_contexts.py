"""Context variables that jobs set on the threads of a queue."""

from __future__ import annotations

import threading
from contextvars import ContextVar

import pytest

from oban_sync import current_job, worker
from tests.support.probe import eventually

tenant: ContextVar[str] = ContextVar("tests_tenant", default="none")

SEEN: list[tuple[str, str]] = []


@worker(queue="alpha", name="tests.contexts.Leaving", max_attempts=1)
class Leaving:
    """Takes a tenant for the rest of its thread's life, as it thinks."""

    def process(self, job):
        SEEN.append((threading.current_thread().name, tenant.get()))
        tenant.set(job.args["tenant"])
        # Bookkeeping of ours is kept in variables too.
        assert current_job() is job

        if job.args.get("fails"):
            raise ValueError("declined")


@worker(queue="alpha", name="tests.contexts.Enqueueing")
class Enqueueing:
    """Enqueues another job."""

    def process(self, job):
        Leaving.enqueue({"tenant": "whoever"}, queue="beta")


@pytest.fixture(autouse=True)
def _forget():
    SEEN.clear()


@pytest.mark.parametrize("timeout", [None, 30], ids=["plain", "timed"])
@pytest.mark.parametrize("fails", [False, True], ids=["good", "bad"])
def test_what_a_job_sets_is_not_there_for_the_next_one(make_oban, probe, timeout, fails):
    oban = make_oban(queues={"alpha": 1}).start()

    for name in ("acme", "other"):
        Leaving.enqueue({"tenant": name, "fails": fails}, timeout=timeout)

    for _ in range(2):
        probe.next("oban.job.exception" if fails else "oban.job.stop")

    oban.stop()

    # It was the same thread.
    assert len({thread for thread, _ in SEEN}) == 1
    assert [value for _, value in SEEN] == ["none", "none"]


def test_what_a_job_sets_is_not_taken_along_by_those_of_the_next_one(make_oban, factory):
    oban = make_oban(queues={"alpha": 1}, carry=[tenant]).start()
    first = Leaving.enqueue({"tenant": "acme"})
    eventually(lambda: oban.get_job(first).state == "completed")
    second = Enqueueing.enqueue()
    eventually(lambda: oban.get_job(second).state == "completed")
    [found] = oban.list_jobs(queue="beta")

    assert found.carried == {}
