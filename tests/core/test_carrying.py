from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar

import pytest

from oban_sync import ConfigError, InvalidJobError, current_job, worker
from oban_sync.core.config import Config

TENANT: ContextVar[object] = ContextVar("tenant")


@contextmanager
def tenant(value):
    token = TENANT.set(value)

    try:
        yield
    finally:
        TENANT.reset(token)


@pytest.mark.parametrize("carry", [[TENANT], {"tenant": TENANT}], ids=["list", "mapping"])
def test_a_variable_is_taken_along_and_set_where_the_job_runs(make_oban, carry):
    seen = []

    @worker(name="tests.carried")
    class Carried:
        def process(self, job):
            seen.append((TENANT.get("none"), job.carried, current_job().carried))

    oban = make_oban(carry=carry)

    with tenant("acme"):
        stored = Carried.enqueue({"a": 1}, meta={"mine": 1})

    assert stored.carried == oban.get_job(stored).carried == {"tenant": "acme"}
    assert stored.meta["mine"] == 1

    oban.drain_queue()

    assert seen == [("acme", {"tenant": "acme"}, {"tenant": "acme"})]
    assert TENANT.get("none") == "none"


def test_where_it_is_not_set_nothing_is_kept(make_oban):
    @worker(name="tests.carries-nothing")
    class Bare:
        def process(self, job):
            assert TENANT.get("none") == "none"

    oban = make_oban(carry=[TENANT])
    stored = Bare.enqueue()

    assert stored.carried == {}
    assert stored.meta == {}
    assert oban.drain_queue()["completed"] == 1


def test_what_a_job_enqueues_carries_on(make_oban):
    seen = []

    @worker(name="tests.carries-on")
    class On:
        def process(self, job):
            seen.append(TENANT.get("none"))

            if job.args["left"]:
                On.enqueue({"left": job.args["left"] - 1})

    oban = make_oban(carry=[TENANT])

    with tenant("acme"):
        On.enqueue({"left": 2})

    oban.drain_queue()

    assert seen == ["acme"] * 3


def test_unique_jobs_are_the_same_whatever_they_carry(make_oban):
    @worker(name="tests.carried-once", unique={"fields": ["worker", "meta"]}, timeout=5)
    class Once:
        def process(self, job):
            pass

    make_oban(carry=[TENANT])

    with tenant("acme"):
        first = Once.enqueue(meta={"a": 1})

    with tenant("other"):
        again = Once.enqueue(meta={"a": 1})

    assert again.conflict
    assert again.id == first.id
    assert again.carried == {"tenant": "acme"}


def test_what_cannot_be_stored_is_refused_by_name(make_oban):
    make_oban(carry=[TENANT])

    @worker(name="tests.carries-objects")
    class Objects:
        def process(self, job):
            pass

    with tenant(object()), pytest.raises(InvalidJobError, match=r"carry\.tenant"):
        Objects.enqueue()


@pytest.mark.parametrize("carry", [7, ["tenant"], {"tenant": 7}, {"": TENANT}, {1: TENANT}])
def test_what_is_no_carrier_is_refused(carry):
    with pytest.raises(ConfigError, match="carry"):
        Config.checked({"conninfo": "postgresql://", "carry": carry})


def test_a_job_that_brings_what_is_not_known_here_runs(make_oban):
    @worker(name="tests.carried-from-elsewhere")
    class Elsewhere:
        def process(self, job):
            assert job.carried == {"tenant": "acme"}

    make_oban(carry=[TENANT])

    with tenant("acme"):
        Elsewhere.enqueue()

    assert make_oban(carry=[]).drain_queue()["completed"] == 1
