"""Limits over several nodes, as the nodes themselves and the rows saw them kept."""

from __future__ import annotations

from collections import defaultdict

from tests.chaos.checker import ALWAYS, check
from tests.chaos.load import Load
from tests.chaos.sizes import sized


def most_at_once(runs):
    """How many of the runs went on at one moment, at the most; a dead node's end with it."""
    changes = [(run.begin, 1) for run in runs] + [(run.held_until, -1) for run in runs]
    now = most = 0

    for _, change in sorted(changes):
        now += change
        most = max(most, now)

    return most


@sized(smoke={"repeats": 2}, full={"repeats": 15}, timeout=1200)
def test_a_global_limit_holds_while_nodes_are_killed_and_is_reached(make_cluster, figure, size):
    cluster = make_cluster(pace=size.pace)
    queues = {"alpha": {"limit": 10, "global_limit": 3}}

    for _ in range(4):
        cluster.start(queues=queues, wait=False)

    cluster.wait(lambda: len(cluster.events("started")) == 4, within=60)

    def busy():
        wanted = [node for node in cluster.alive if node.events("started") and node.running]

        return cluster.random.choice(wanted) if wanted else None

    def seconds():
        return {"seconds": cluster.random.uniform(0.05, 0.5)}

    with Load(cluster, "Slow", seconds, rate=9):
        for _ in range(size.repeats):
            victim = cluster.wait(busy, within=60, reason="no node was busy")
            victim.kill()
            left = list(victim.running)
            cluster.start(queues=queues, wait=False)
            cluster.wait(lambda left=left: not cluster.unfinished(left), within=90)

    cluster.settle(within=120)
    evidence = cluster.evidence()
    check(evidence, *ALWAYS)
    runs = [run for several in evidence.executions.values() for run in several]
    nodes = {run.node for run in runs}
    figure(f"{size.repeats} nodes killed, {len(runs)} runs on {len(nodes)} nodes, at once: 3")

    assert most_at_once(runs) == 3


@sized(smoke={"seconds": 6}, full={"seconds": 60}, timeout=600)
def test_a_rate_is_never_passed_in_any_window_and_does_not_starve(make_cluster, figure, size):
    cluster = make_cluster(pace=size.pace)
    queues = {"alpha": {"limit": 8, "rate_limit": {"allowed": 10, "period": 1.0}}}

    for _ in range(3):
        cluster.start(queues=queues, wait=False)

    cluster.wait(lambda: len(cluster.events("started")) == 3, within=60)
    jobs = cluster.insert("Quick", *[{}] * (10 * size.seconds))
    cluster.wait(lambda: not cluster.unfinished(jobs), within=30 + 2 * size.seconds)
    evidence = cluster.evidence()
    check(evidence, *ALWAYS)
    starts = sorted(
        {(change.fence, change.job) for change in evidence.changes if change.state == "executing"}
    )
    times = [fence for fence, _ in starts]
    most = max(
        sum(1 for other in times[index : index + 20] if other - moment < 1_000_000)
        for index, moment in enumerate(times)
    )
    # The first window begins with the first start, and the last one ends after the last.
    rate = len(times) / ((times[-1] - times[0]) / 1_000_000 + 1.0)
    figure(f"{len(times)} starts, {rate:.2f} per second, {most} in a window at the most")

    assert most == 10
    assert rate >= 9.0


@sized(smoke={"keys": 60}, full={"keys": 1000}, timeout=900)
def test_of_each_key_one_runs_at_a_time_and_keys_run_side_by_side(make_cluster, figure, size):
    cluster = make_cluster(pace=size.pace)
    shared = {"allowed": 1, "partition": {"args": "key"}}

    for _ in range(3):
        cluster.start(queues={"alpha": {"limit": 15, "global_limit": shared}}, wait=False)

    cluster.wait(lambda: len(cluster.events("started")) == 3, within=60)
    args = [
        {"key": key, "seconds": cluster.random.uniform(0.0, 0.2)}
        for key in range(size.keys)
        for _ in range(4)
    ]
    cluster.random.shuffle(args)
    # One that would fill the head of the queue.
    args = [{"key": "much", "seconds": 0.05}] * size.keys + args
    jobs = cluster.insert("Slow", *args)
    cluster.settle(within=120 + size.keys)
    evidence = cluster.evidence()
    check(evidence, *ALWAYS)
    by_key = defaultdict(list)

    for job, given in zip(jobs, args, strict=True):
        by_key[given["key"]] += evidence.executions[job]

    at_once = most_at_once([run for runs in by_key.values() for run in runs])
    figure(f"{len(jobs)} jobs of {len(by_key)} keys, {at_once} at once")

    assert {most_at_once(runs) for runs in by_key.values()} == {1}
    assert at_once > 15
