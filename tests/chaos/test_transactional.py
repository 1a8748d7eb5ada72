"""Transactional workers whose process is killed at any moment of their work and of its commit."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from tests.chaos.checker import ALWAYS, check
from tests.chaos.cluster import FAST
from tests.chaos.sizes import sized

#: The queue, how many jobs there are for each kill, and the seconds that one works: so few that
#: there is nearly always one that is just being committed.
WAYS = {
    "threads": ({"limit": 8}, 40, (0.0, 0.1)),
    "children": ({"limit": 3, "executor": "process"}, 12, (0.02, 0.2)),
}


@pytest.mark.parametrize("way", WAYS)
@sized(smoke={"repeats": 3}, full={"repeats": 100, "pace": FAST}, timeout=1800)
def test_work_is_done_exactly_once_though_its_process_dies_at_any_moment(
    make_cluster, figure, size, way
):
    queue, count, seconds = WAYS[way]
    cluster = make_cluster(pace=size.pace)
    chance = cluster.random
    # Nothing in it would keep an effect from being there twice.
    cluster.execute("CREATE TABLE effects (job bigint NOT NULL, part text NOT NULL)")

    def start(**options):
        cluster.start(queues={"alpha": queue}, pool_size=4, **options)

    def args():
        again = chance.random() < 0.1

        return {"seconds": chance.uniform(*seconds), "succeeds_at": 2 if again else 1}

    def victim():
        busy = [node for node in cluster.alive if node.running]

        # All of them may have just finished.
        return chance.choice(busy or cluster.alive)

    for _ in range(3):
        start()

    for _ in range(size.repeats):
        ended = len(cluster.events("end")) + chance.randrange(count // 2)
        cluster.insert("Paying", *(args() for _ in range(count)))
        cluster.wait(lambda ended=ended: len(cluster.events("end")) >= ended, within=60)
        cluster.idle(chance.uniform(0.0, 0.02))
        victim().kill()
        # While the others go on with the jobs of the dead.
        start(wait=False)
        # A job that is there at three deaths in a row would be given up, as it should be.
        cluster.settle(within=60)

    # The jobs that theirs enqueued, which are no more and no fewer.
    enqueued = cluster.execute(
        "SELECT id, (args ->> 'of')::bigint FROM oban_jobs WHERE args ? 'of'"
    )
    paid = list(cluster.inserted)
    cluster.inserted += [row[0] for row in enqueued]
    cluster.settle(within=60)
    evidence = cluster.evidence()
    check(evidence, *ALWAYS)

    effects = Counter(cluster.execute("SELECT job, part FROM effects"))
    once = Counter((job, part) for job in paid for part in ("debit", "credit"))
    killed = {event["of"] for event in evidence.of("gone")}
    runs = [run for job in paid for run in evidence.executions[job]]
    cut = [run for run in runs if run.node in killed and not run.how]
    undone = [
        first
        for job in paid
        for first, _ in pairwise(evidence.executions[job])
        if first.how == "ok"
    ]
    figure(
        f"{size.repeats} kills, {len(paid)} jobs in {len(runs)} runs: {len(cut)} were cut off in "
        f"their work, {len(undone)} between its end and the commit; every effect is there once"
    )

    assert {evidence.states[job] for job in paid} == {"completed"}
    assert effects == once
    assert Counter(of for _, of in enqueued) == Counter(paid)
    assert cut, "no process died in the middle of a job"
