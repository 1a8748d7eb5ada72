"""The heartbeat: what becomes of a node and its jobs when beats fail, and when they work again."""

from __future__ import annotations

import time

import pytest

from oban_sync import DatabaseUnavailableError, worker
from oban_sync.engine import fetch, nodes
from tests.support.probe import eventually
from tests.support.workers import Echo, Held, a_gate

LOST: dict[int, list[bool]] = {}


@worker(queue="alpha", name="tests.Watchful")
class Watchful:
    """Notes what `lease_lost` says before and after the gate."""

    gate = None

    def process(self, job):
        seen = LOST.setdefault(job.id, [])
        seen.append(job.lease_lost())
        self.gate.pass_through()
        seen.append(job.lease_lost())


@pytest.fixture
def gate():
    with a_gate() as gate:
        yield gate


@pytest.fixture
def node(make_oban):
    return make_oban(queues={"alpha": 2}).start()


def parts(oban):
    supervisor = oban._lifecycle._supervisor

    return supervisor._refresher, supervisor.roster._members["alpha"].producer


def lapse(oban, monkeypatch, probe):
    """Let beats fail, and the lease end; gives back what lets them work again."""
    refresher, _ = parts(oban)
    refresher._lease.renew(time.monotonic() - 100)
    original = nodes.beat

    def fail(*args):
        raise DatabaseUnavailableError("away")

    monkeypatch.setattr(nodes, "beat", fail)
    refresher.wake()
    probe.next("oban.node.lapsed")

    return lambda: monkeypatch.setattr(nodes, "beat", original)


def test_a_node_whose_lease_ended_takes_no_jobs_until_it_is_renewed(
    node, monkeypatch, probe, factory
):
    renew = lapse(node, monkeypatch, probe)
    job = Echo.enqueue()
    # The stager still goes round, and finds the job, and wakes the queue.
    probe.next("oban.stager.stage.stop", queues=["alpha"])
    probe.next("oban.stager.stage.stop", queues=["alpha"])

    assert factory.states(job.id) == ["available"]

    renew()

    assert probe.next("oban.node.renewed")["lost"] is False
    probe.next("oban.job.stop")


def test_a_running_job_can_tell_that_its_lease_was_lost_and_that_it_was_not(
    node, monkeypatch, probe, gate
):
    Watchful.gate = gate
    job = Watchful.enqueue()
    gate.wait_until_entered()
    _, producer = parts(node)
    [running] = producer._running.copy()
    renew = lapse(node, monkeypatch, probe)

    assert running.lease_lost() is True

    renew()
    # Nobody took it, so it is vouched for again.
    eventually(lambda: not running.lease_lost())
    gate.release.set()
    probe.next("oban.job.stop")

    assert LOST[job.id] == [False, False]


def test_a_job_that_was_taken_meanwhile_stays_lost_and_its_late_outcome_counts(
    node, monkeypatch, probe, gate, db, factory, conn
):
    job = Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()
    refresher, producer = parts(node)
    [running] = producer._running.copy()
    renew = lapse(node, monkeypatch, probe)
    producer.pause(True)

    with db.session() as tx:
        [seen] = nodes.watch(tx, "me")[1]

    nodes.rescue(db, seen, why="it looked dead", most=10, shunned=nodes.Shunned())
    renew()

    assert probe.next("oban.node.renewed")["lost"] is True
    eventually(lambda: not producer._unverified)
    assert running.lease_lost() is True
    assert [listed.node for listed in node.list_nodes()] == [refresher._identity.node]

    gate.release.set()
    eventually(lambda: factory.states(job.id) == ["completed"])

    assert factory.row(job.id)["attempt"] == 1


def test_a_job_that_runs_elsewhere_by_now_is_not_written(
    node, monkeypatch, probe, gate, conn, factory
):
    job = Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()
    conn.execute(
        "UPDATE oban_jobs SET attempted_at = timezone('UTC', now()),"
        " attempted_by = ARRAY['other', 'another producer']"
    )
    gate.release.set()
    probe.next("oban.job.fenced")

    assert factory.states(job.id) == ["executing"]


def test_the_row_of_a_node_goes_with_its_orderly_stop(node, conn):
    assert len(node.list_nodes()) == 1

    node.stop()

    assert conn.execute("SELECT count(*) FROM oban_sync_nodes").fetchone() == (0,)
    assert conn.execute("SELECT count(*) FROM oban_sync_leaders").fetchone() == (0,)


def test_the_row_stays_when_jobs_were_left_behind(node, conn, gate, monkeypatch):
    from oban_sync.engine import ack

    def fail(*args, **kwargs):
        raise DatabaseUnavailableError("away")

    Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()
    monkeypatch.setattr(ack, "release", fail)

    assert node.stop(grace=0.0) is False
    # Whoever is left finds it, and gives the job back.
    assert conn.execute("SELECT count(*) FROM oban_sync_nodes").fetchone() == (1,)


def test_no_job_is_taken_before_the_cluster_knows_whose_it_is(
    make_oban, monkeypatch, probe, conn, factory
):
    original = nodes.beat
    monkeypatch.setattr("oban_sync.runtime.supervisor.READY_PERIOD", 0.1)

    def fail(*args):
        raise DatabaseUnavailableError("away")

    monkeypatch.setattr(nodes, "beat", fail)
    make_oban(queues={"alpha": 1}).start()
    job = Echo.enqueue()
    probe.next("oban.stager.stage.stop", queues=["alpha"])
    probe.next("oban.stager.stage.stop", queues=["alpha"])

    assert factory.states(job.id) == ["available"]

    monkeypatch.setattr(nodes, "beat", original)
    probe.next("oban.job.stop")


def test_a_beat_needs_no_connection_of_the_pool(make_oban, probe, dsn, prefix, conn):
    oban = make_oban(queues={"alpha": 1}, refresher={"interval": 0.05}).start()
    pool = oban._assembly._loops[next(iter(oban._assembly._loops))]
    held = [pool.getconn(5) for _ in range(pool.max_size)]

    try:
        before = conn.execute("SELECT beats FROM oban_sync_nodes").fetchone()[0]
        eventually(
            lambda: conn.execute("SELECT beats FROM oban_sync_nodes").fetchone()[0] > before + 3
        )
    finally:
        for item in held:
            pool.putconn(item)


def test_every_start_is_another_node(make_oban):
    oban = make_oban(queues={"alpha": 1}).start()
    [first] = oban.list_nodes()
    oban.stop()
    oban.start()
    [second] = oban.list_nodes()

    assert first.uuid != second.uuid
    assert first.queues[0].uuid != second.queues[0].uuid


def test_the_first_node_knows_that_it_is_alone(make_oban):
    first = make_oban(queues={"alpha": 1}).start()
    second = make_oban(queues={"alpha": 1}).start()

    assert [parts(oban)[0].alone for oban in (first, second)] == [True, False]


def test_jobs_that_were_on_their_way_when_the_lease_ended_are_not_begun(
    make_oban, probe, monkeypatch, factory
):
    original = fetch.turn
    lapses = iter([None])

    def turn(*args, **kwargs):
        done = original(*args, **kwargs)

        if done.jobs and next(lapses, "no more") is None:
            # Somebody else may have been given them: the lease ended, and was renewed since.
            parts(oban)[0]._lease.generation += 1

        return done

    monkeypatch.setattr(fetch, "turn", turn)
    oban = make_oban(queues={"alpha": 1}).start()
    job = Echo.enqueue()

    assert [item.id for item in probe.next("oban.producer.release")["jobs"]] == [job.id]
    probe.next("oban.job.stop")
    eventually(lambda: factory.states(job.id) == ["completed"])

    assert factory.row(job.id)["attempt"] == 1


def test_a_job_that_was_handed_back_while_it_ran_knows_it(make_oban, probe, gate):
    oban = make_oban(queues={"alpha": 1}).start()
    Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()
    [running] = parts(oban)[1]._running.copy()
    oban.stop(grace=0.0)

    assert running.lease_lost() is True
