"""Nodes that come and go in good order, and work when nothing goes wrong."""

from __future__ import annotations

import time

from tests.chaos.checker import ALWAYS, UNDISTURBED, check, nothing_rescued
from tests.chaos.figures import spread
from tests.chaos.load import Load
from tests.chaos.sizes import sized

GRACE = 1.5

#: Seconds past its grace within which a stop ends, whatever the database does.
PAST_GRACE = 5.0


@sized(smoke={"repeats": 3}, full={"repeats": 60}, timeout=900)
def test_rolling_deploys_cut_no_job_short_and_hand_long_ones_on_at_once(make_cluster, figure, size):
    cluster = make_cluster(pace=size.pace)
    waits = []

    def start():
        return cluster.start(shutdown_grace_period=GRACE)

    def seconds():
        # Some within the grace, and some well beyond it.
        return {"seconds": cluster.random.choice([0.05, 0.3, 0.8, 4.0])}

    nodes = [start(), start()]

    with Load(cluster, "Slow", seconds, rate=8):
        for _ in range(size.repeats):
            nodes.append(start())
            leaving = nodes.pop(0)
            cluster.wait(lambda leaving=leaving: len(leaving.running) >= 2, within=60)
            asked = leaving.terminate()
            assert leaving.joined(within=30) == 0, leaving.said()
            waits.append(time.monotonic() - asked)

    cluster.settle(within=120)
    evidence = cluster.evidence()
    check(evidence, *ALWAYS, nothing_rescued)
    late, cut_short = [], []

    for run in [run for runs in evidence.executions.values() for run in runs]:
        if run.start in evidence.released:
            [back] = [
                change.at
                for change in evidence.history[run.job]
                if change.fence == run.fence and change.state == "available"
            ]
            late.append(back - evidence.losses(run.node)[-1])
            [asked] = [event.at for event in evidence.of("stopping", node=run.node)]

            # A thread goes on after its job was handed back, until the process ends.
            if run.end < asked + GRACE:
                cut_short.append(run)

    figure(
        f"{size.repeats} nodes replaced, each gone after {spread(waits)}; {len(late)} jobs "
        f"handed back, at the latest {max(late, default=0.0):+.2f} s from the exit"
    )

    assert cut_short == []
    assert max(late, default=0.0) <= 1.0
    assert max(waits) <= GRACE + PAST_GRACE


@sized(smoke={"repeats": 1}, full={"repeats": 5}, timeout=400)
def test_a_stop_ends_in_time_while_the_database_is_down(make_cluster, server_up, figure, size):
    cluster = make_cluster(pace=size.pace)
    took = []

    for turn in range(size.repeats):
        grace = cluster.random.choice([0.0, 0.5, 1.0])
        # By both ways to stop.
        node = cluster.start(shutdown_grace_period=grace)
        cluster.insert("Slow", *[{"seconds": 30.0}] * 3)
        cluster.wait(lambda node=node: len(node.running) == 3, within=30)
        server_up.halt("immediate")
        at = time.monotonic()

        if turn % 2 == 0:
            node.terminate()
            node.joined(within=40)
            took.append(time.monotonic() - at - grace)
        else:
            node.tell(do="stop", grace=grace)
            # It is the second one to have stopped: what is not running stops at once.
            stopped = cluster.wait(lambda node=node: node.events("stopped"), within=40)
            took.append(stopped[0]["seconds"] - grace)
            node.kill()

        server_up.start()
        cluster.execute("UPDATE oban_jobs SET state = 'cancelled' WHERE state = 'executing'")

    figure(f"past the grace: {spread(took)}")

    assert max(took) <= PAST_GRACE


@sized(
    smoke={"rounds": 60, "threads": 4, "jobs": 500},
    full={"rounds": 200, "threads": 10, "jobs": 5_000},
    timeout=600,
)
def test_racing_starts_and_stops_lose_nothing(make_cluster, figure, size):
    cluster = make_cluster(pace=size.pace)
    racer = cluster.start()
    cluster.start()

    def seconds():
        return {"seconds": cluster.random.uniform(0.0, 0.2)}

    cluster.insert("Slow", *(seconds() for _ in range(size.jobs)))

    with Load(cluster, "Slow", seconds, rate=20):
        racer.tell(do="churn", rounds=size.rounds, threads=size.threads, grace=0.05)
        cluster.wait(lambda: racer.events("churned"), within=300)

    cluster.settle(within=60)
    evidence = cluster.evidence()
    check(evidence, *ALWAYS)
    assert evidence.of("churn_failed") == []
    assert evidence.of("order_failed") == []
    starts = len(evidence.of("started", node=racer.name))
    figure(f"{starts} starts by {size.threads} threads; {len(evidence.inserted)} jobs")


@sized(smoke={"jobs": 6_000}, full={"jobs": 100_000}, timeout=900)
def test_without_faults_nothing_is_lost_doubled_or_fenced(make_cluster, figure, size):
    cluster = make_cluster(pace=size.pace)

    for _ in range(3):
        cluster.start()

    began = time.monotonic()

    for _ in range(0, size.jobs, 1_000):
        cluster.insert("Quick", *[{}] * 1_000)

    cluster.settle(within=600)
    took = time.monotonic() - began
    evidence = cluster.evidence()
    check(evidence, *ALWAYS, *UNDISTURBED)
    by_node = sorted(len(node.events("begin")) for node in cluster.nodes)
    figure(
        f"{size.jobs} jobs on three nodes, {by_node}, in {took:.1f} s: none lost, doubled or fenced"
    )

    assert len(evidence.executions) == size.jobs
    assert set(evidence.states.values()) == {"completed"}
