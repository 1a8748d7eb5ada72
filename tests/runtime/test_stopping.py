"""Stopping: in order, within the deadline, and with everything handed back."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from oban_sync import NotRunningError, Oban, telemetry, worker
from oban_sync.runtime.slots import Slots
from tests.support.probe import eventually
from tests.support.workers import Echo, Held, a_gate


@pytest.fixture
def gate():
    with a_gate() as gate:
        yield gate


@pytest.fixture
def held(make_oban, gate):
    """An Oban with one running job, and one more waiting for the only slot."""
    oban = make_oban(queues={"alpha": 1}).start()
    job = Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()

    return oban, job


def test_a_running_job_finishes_before_stop_returns(held, gate, factory):
    oban, job = held
    waiting = Echo.enqueue()
    stopper = threading.Thread(target=oban.stop)
    stopper.start()
    gate.release.set()
    stopper.join(10)

    assert not stopper.is_alive()
    assert factory.states(job.id, waiting.id) == ["completed", "available"]
    assert not oban.running


def test_a_job_that_takes_too_long_is_handed_back_unspent(held, gate, factory, probe):
    oban, job = held

    assert oban.stop(grace=0.1) is False

    row = factory.row(job.id)

    assert (row["state"], row["attempt"]) == ("available", 0)
    assert [item.id for item in probe.next("oban.producer.release")["jobs"]] == [job.id]

    # What the abandoned run comes to later changes nothing.
    gate.release.set()
    probe.next("oban.job.stop")

    assert factory.row(job.id) == row


def test_a_job_handed_back_wakes_the_other_nodes(held, make_oban, probe, gate):
    oban, job = held
    make_oban(name="Other", queues={"alpha": 1}, stager={"interval": 1000}).start()
    probe.next("oban.notifier.connected")
    oban.stop(grace=0.0)

    again = probe.next("oban.job.start", within=10)["job"]

    while again.attempted_by == []:
        again = probe.next("oban.job.start", within=10)["job"]

    assert again.id == job.id
    gate.release.set()


def test_a_second_stop_shortens_the_grace_of_the_first(held, gate, factory):
    oban, job = held
    stopper = threading.Thread(target=lambda: oban.stop(grace=1000))
    stopper.start()
    oban.stop(grace=0)
    stopper.join(10)

    assert not stopper.is_alive()
    assert factory.states(job.id) == ["available"]


def test_stop_is_safe_before_the_start_and_twice(make_oban):
    oban = make_oban(queues={"alpha": 1})

    assert oban.stop() is True
    assert oban.start().running
    assert oban.stop() is True
    assert oban.stop() is True


def test_an_oban_can_be_started_again(make_oban, probe):
    oban = make_oban(queues={"alpha": 1})

    for _ in range(3):
        oban.start()
        Echo.enqueue()
        probe.next("oban.job.stop")
        oban.stop()


def test_enqueueing_after_the_stop_says_what_to_do(make_oban):
    oban = make_oban()
    Echo.enqueue()
    oban.stop()

    with pytest.raises(NotRunningError, match="stopped"):
        Echo.enqueue()


def test_a_connection_of_the_caller_may_enqueue_after_the_stop(make_oban, dsn, conn, factory):
    make_oban().stop()
    Echo.enqueue(conn=conn)

    assert factory.count() == 1


def test_the_context_manager_starts_and_stops(make_oban, probe):
    with make_oban(queues={"alpha": 1}) as oban:
        assert oban.running
        Echo.enqueue()
        probe.next("oban.job.stop")

    assert not oban.running


def test_no_outcome_is_lost_when_a_busy_node_stops(make_oban, factory, probe):
    oban = make_oban(queues={"alpha": 10})
    oban.enqueue_many(Echo.new({"n": n}) for n in range(3_000))
    oban.start()
    probe.next("oban.job.stop")

    assert oban.stop() is True
    assert factory.count(state="executing") == 0
    assert factory.count(state="completed") + factory.count(state="available") == 3_000
    assert factory.count(attempt=1) == factory.count(state="completed") > 0


def test_the_stop_order_lets_the_notifier_end_last_and_the_producers_quiet_first(
    make_oban, monkeypatch
):
    from oban_sync.runtime.notifier import Notifier
    from oban_sync.runtime.producer import Producer
    from oban_sync.runtime.stager import Stager

    calls = []

    for cls, method in (
        (Producer, "quiet"),
        (Stager, "request_stop"),
        (Producer, "drain"),
        (Notifier, "request_stop"),
    ):
        original = getattr(cls, method)

        def spy(self, *args, _name=f"{cls.__name__}.{method}", _original=original, **kwargs):
            calls.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(cls, method, spy)

    make_oban(queues={"alpha": 1}).start().stop()

    assert calls == [
        "Producer.quiet",
        "Producer.drain",
        "Stager.request_stop",
        "Notifier.request_stop",
    ]


def test_a_slow_drain_that_outlives_two_stager_intervals_still_writes_its_outcome(
    held, gate, factory
):
    oban, job = held

    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(oban.stop, 30)
        # The stager has ended by the time the producers drain; the outcome goes its way without it.
        deadline = time.monotonic() + 5
        while any(item.name == "oban-stager" for item in threading.enumerate()):
            assert time.monotonic() < deadline
            threading.Event().wait(0.01)

        gate.release.set()

        assert stopped.result(10) is True

    assert factory.states(job.id) == ["completed"]


def test_racing_starts_and_stops_end_with_nothing_running(make_oban):
    oban = make_oban(queues={"alpha": 2, "beta": 1})
    failures = []

    def act(target):
        try:
            target()
        except Exception as error:
            failures.append(error)

    for _ in range(5):
        targets = [oban.start, oban.stop, oban.start, lambda: oban.stop(grace=0), oban.start]
        random.shuffle(targets)
        threads = [threading.Thread(target=act, args=(target,)) for target in targets]

        for thread in threads:
            thread.start()

        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()

    oban.stop()

    assert not oban.running
    assert failures == []


@worker(queue="alpha", name="tests.Stopper")
class Stopper:
    def process(self, job):
        assert Oban.get_instance().stop() is False


def test_a_job_may_stop_its_own_oban(make_oban, factory):
    oban = make_oban(queues={"alpha": 2}).start()
    job = Stopper.enqueue()
    eventually(lambda: not oban.running)
    oban.stop()

    assert factory.states(job.id) == ["completed"]


@pytest.mark.parametrize("event", ["oban.producer.turn", "oban.stager.stage.stop"])
def test_a_handler_on_a_loops_thread_may_stop_the_oban(make_oban, factory, event):
    oban = make_oban(queues={"alpha": 2})
    oban.enqueue_many(Echo.new() for _ in range(10))
    telemetry.attach("stopper", [event], lambda event, fields: oban.stop())

    try:
        oban.start()
        eventually(lambda: not oban.running)
        oban.stop()
    finally:
        telemetry.detach("stopper")

    assert factory.count(state="executing") == 0


def test_a_start_that_fails_leaves_the_one_that_runs_alone(make_oban, probe, monkeypatch):
    oban = make_oban(queues={"alpha": 1}).start()
    monkeypatch.setattr(oban._assembly, "build", lambda: 1 / 0)
    oban.start()
    Echo.enqueue()

    assert probe.next("oban.job.stop")["state"] == "completed"


def test_a_duty_at_work_does_not_keep_jobs_from_being_handed_back(
    held, factory, monkeypatch, probe
):
    from oban_sync.engine import upkeep

    oban, job = held
    working, done = threading.Event(), threading.Event()
    original = upkeep.stage

    def stage(*args, **kwargs):
        working.set()
        done.wait(20)

        return original(*args, **kwargs)

    monkeypatch.setattr(upkeep, "stage", stage)
    factory.job(queue="alpha", state="scheduled", scheduled_at="2020-01-01")
    assert working.wait(10)
    stopper = threading.Thread(target=oban.stop, kwargs={"grace": 0.0})
    stopper.start()
    probe.next("oban.producer.release")

    assert stopper.is_alive()

    done.set()
    stopper.join(10)

    assert factory.states(job.id) == ["available"]


def test_a_stop_does_not_wait_for_ever_for_a_start_that_hangs(monkeypatch):
    from oban_sync.runtime import lifecycle

    monkeypatch.setattr(lifecycle, "PATIENCE", 0.1)
    building, go_on, closed = threading.Event(), threading.Event(), threading.Event()
    one = lifecycle.Lifecycle()

    def build():
        building.set()
        go_on.wait(20)

    starter = threading.Thread(target=one.start, args=(build, lambda: None))
    starter.start()
    building.wait(10)

    assert one.stop(closed.set, grace=0.0) is False
    assert not closed.is_set()

    go_on.set()
    starter.join(10)

    assert closed.wait(10)


def test_a_job_handed_back_before_it_began_is_not_begun(make_oban, factory, probe, monkeypatch):
    handed_over, go_on = threading.Event(), threading.Event()
    original = Slots._serve_batch

    def late(self, batch):
        handed_over.set()
        go_on.wait(10)
        original(self, batch)

    monkeypatch.setattr(Slots, "_serve_batch", late)
    oban = make_oban(queues={"alpha": 1}).start()
    job = Echo.enqueue()
    assert handed_over.wait(10)
    oban.stop(grace=0.0)
    assert factory.states(job.id) == ["available"]

    go_on.set()
    make_oban(queues={"alpha": 1}).start()
    probe.next("oban.job.start")
    probe.next("oban.job.stop")

    assert factory.row(job.id)["attempt"] == 1
    assert not [name for name, _ in probe._kept if name == "oban.job.start"]
