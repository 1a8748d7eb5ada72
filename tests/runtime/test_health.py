"""The health of a running node, for probes."""

from __future__ import annotations

import threading

from oban_sync.core.health import Health
from tests.support.probe import eventually
from tests.support.workers import Held, a_gate


def test_an_oban_that_only_enqueues_is_well(oban):
    assert oban.health() == Health(True, True, [], running=False)


def test_a_node_is_well_while_it_runs(make_oban):
    oban = make_oban(queues={"alpha": 2})

    assert oban.health().problems == ["it was not started, so these queues do not run here: alpha"]

    oban.start()
    found = eventually(lambda: (health := oban.health()).leader and health)

    assert found.ok
    assert found.alive
    assert not found.degraded
    assert found.queues == ("alpha",)
    assert 0.0 <= found.beat_age < 10.0

    oban.stop()

    assert oban.health().problems == ["it was stopped"]


def test_under_test_nothing_has_to_run(make_oban):
    assert make_oban(queues={"alpha": 2}, testing="manual").start().health().ok


def test_a_thread_that_ended_is_named(make_oban):
    oban = make_oban(queues={"alpha": 2}).start()
    roster = oban._lifecycle.supervisor.roster
    producer = roster._members["alpha"].producer
    # As if it had died: its thread is over, and nobody asked it to stop.
    producer.drain(deadline=0.0, flush_deadline=0.0)
    assert eventually(lambda: not producer.alive)
    producer._stopping.clear()
    found = oban.health()
    producer._stopping.set()

    assert not found.alive
    assert found.problems == ["the thread queue-alpha has ended"]


def test_a_node_whose_lease_ended_is_not_well(make_oban):
    oban = make_oban(queues={"alpha": 2}).start()
    lease = oban._lifecycle.supervisor._lease
    lease._over = True
    found = oban.health()

    assert found.alive
    assert not found.ok
    assert "others may take its own" in found.problems[0]


def test_a_node_that_is_being_stopped_is_alive_and_not_well(make_oban):
    oban = make_oban(queues={"alpha": 2}).start()

    with a_gate() as gate:
        Held.enqueue({"gate": "gate"})
        gate.wait_until_entered()
        stop = threading.Thread(target=oban.stop, kwargs={"grace": 30.0})
        stop.start()
        found = eventually(lambda: not (health := oban.health()).ok and health)

    stop.join()

    assert found.alive
    assert found.problems == ["it is being stopped, and takes no jobs"]
