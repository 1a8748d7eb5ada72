"""Nodes that die, stand still or are too busy to tell that they live."""

from __future__ import annotations

from collections import Counter

from tests.chaos.checker import ALWAYS, UNDISTURBED, check
from tests.chaos.cluster import FAST
from tests.chaos.figures import spread
from tests.chaos.load import Load
from tests.chaos.sizes import sized

#: Seconds within which the jobs of a killed process run elsewhere.
RESTARTED_WITHIN = 10.0


@sized(smoke={"repeats": 2}, full={"repeats": 20}, timeout=1200)
def test_after_kill_9_the_jobs_of_the_dead_and_no_others_run_again(make_cluster, figure, size):
    cluster = make_cluster(pace=size.pace)

    for _ in range(3):
        cluster.start(wait=False)

    def busy_node(leading):
        wanted = [node for node in cluster.alive if node.events("started")]
        wanted = [node for node in wanted if node.leads == leading]
        cluster.random.shuffle(wanted)

        return next((node for node in wanted if len(node.running) >= 2), None)

    def seconds():
        return {"seconds": cluster.random.uniform(0.2, 2.0)}

    delays = []
    cluster.wait(lambda: len(cluster.events("started")) == 3, within=30)

    with Load(cluster, "Slow", seconds, rate=12):
        for turn in range(size.repeats):
            # Every other time the leader, whose successor has to be found first.
            leading = turn % 2 == 1
            victim = cluster.wait(
                lambda leading=leading: busy_node(leading), within=60, reason="no node was busy"
            )
            at = victim.kill()
            left = set(victim.running)
            began = cluster.wait(
                lambda left=left, at=at: _begun_since(cluster, left, at),
                within=2 * RESTARTED_WITHIN,
                reason=f"jobs {left} of {victim.name} did not run again",
            )
            delays += [moment - at for moment in began]
            cluster.start()
            # One that is there at several deaths in a row is suspected of them, and held back.
            cluster.wait(lambda left=left: not cluster.unfinished(list(left)), within=60)

    cluster.settle(within=60)
    evidence = cluster.evidence()
    check(evidence, *ALWAYS)
    killed = {event["of"] for event in evidence.of("gone")}
    again = [runs for runs in evidence.executions.values() if len(runs) > 1]
    figure(
        f"{size.repeats} nodes killed, {len(delays)} jobs ran again elsewhere: "
        f"{spread(delays)} after the kill; {len(evidence.inserted)} jobs, none lost"
    )

    assert {run.node for runs in again for run in runs[:-1]} <= killed
    # The row tells that its process died, and how often.
    assert all(cluster.row(runs[0].job)["meta"]["rescued"] == len(runs) - 1 for runs in again)
    assert max(delays) <= RESTARTED_WITHIN


def _begun_since(cluster, jobs, at):
    """When each of the jobs began after a moment, once all of them did."""
    began = {}

    for event in cluster.events("begin"):
        if event["job"] in jobs and event.at > at:
            began.setdefault(event["job"], event.at)

    return list(began.values()) if len(began) == len(jobs) else None


@sized(smoke={"neighbours": 2}, full={"neighbours": 5}, timeout=600)
def test_a_job_that_kills_its_process_is_given_up_after_three_deaths(make_cluster, figure, size):
    cluster = make_cluster(pace=size.pace)

    def look_after():
        # As a supervisor of processes does.
        while len(cluster.alive) < 3:
            cluster.start(wait=False).expendable = True

    def ended(jobs):
        look_after()

        return not cluster.unfinished(jobs)

    # The only node at first, so that they are all on it.
    cluster.start().expendable = True
    # One death that spent their only attempt would be the end of them.
    neighbours = cluster.insert("Slow", *[{"seconds": 1.5}] * size.neighbours, max_attempts=1)
    [deadly] = cluster.insert("Deadly", {"seconds": 0.4})
    cluster.wait(lambda: ended([deadly]), within=150, reason="it was not given up")
    deaths = len(cluster.events("gone"))
    cluster.wait(lambda: ended(neighbours), within=150, reason="its neighbours did not finish")
    evidence = cluster.evidence()
    check(evidence, *ALWAYS)
    row = cluster.row(deadly)
    runs = Counter(len(evidence.executions[job]) for job in neighbours)
    figure(f"given up after {deaths} deaths; its neighbours ran {sorted(runs.elements())} times")

    assert (row["state"], row["meta"]["rescued"], deaths) == ("discarded", 3, 3)
    assert "death" in str(row["errors"][-1])
    assert max(runs) > 1, "no neighbour was there when it died"
    assert [cluster.row(job)["state"] for job in neighbours] == ["completed"] * size.neighbours
    assert [cluster.row(job)["attempt"] for job in neighbours] == [1] * size.neighbours


@sized(smoke={"jobs": 6}, full={"jobs": 10}, timeout=600)
def test_a_node_that_stood_still_past_its_lease_overwrites_nothing(make_cluster, figure, size):
    cluster = make_cluster(pace=size.pace)
    sleeper = cluster.start()
    # Two statements write outcomes: of success alone, and of everything else.
    args = [{"seconds": 2.0, "succeeds_at": 1 + number % 2} for number in range(size.jobs)]
    jobs = cluster.insert("Slow", *args)
    cluster.wait(lambda: len(sleeper.running) == size.jobs, within=20)
    at = sleeper.suspend()
    other = cluster.start()
    cluster.wait(
        lambda: len(other.running) == size.jobs,
        within=60 + 2 * size.pace["refresher"]["max_age"],
        reason="its jobs did not run elsewhere",
    )
    taken = max(other.running.values()) - at
    # All of its runs end at once now, while the other node is in the middle of them.
    sleeper.resume()
    cluster.wait(lambda: len(sleeper.events("fenced")) == size.jobs, within=30)
    assert len(other.running) == size.jobs, "they came too late to do harm"
    # And it is a node like any other again.
    cluster.wait(lambda: sleeper.events("renewed"), within=30)
    cluster.settle()
    evidence = cluster.evidence()
    check(evidence, *ALWAYS)
    figure(f"its jobs ran elsewhere within {taken:.1f} s; {len(jobs)} late outcomes, all refused")

    assert [len(evidence.executions[job]) for job in jobs] == [2, 3] * (size.jobs // 2)


@sized(smoke={"jobs": 5}, full={"jobs": 10}, timeout=600)
def test_a_late_outcome_of_a_job_that_nobody_took_is_accepted(make_cluster, figure, size):
    cluster = make_cluster(pace=size.pace)
    sleeper = cluster.start()
    # It judges who lives, but does not run that queue.
    cluster.start(queues={"other": 1})
    jobs = cluster.insert("Slow", *[{"seconds": 2.0}] * size.jobs)
    cluster.wait(lambda: len(sleeper.running) == size.jobs, within=20)
    sleeper.suspend()
    cluster.wait(
        lambda: cluster.states().get("available") == size.jobs,
        within=60 + 2 * size.pace["refresher"]["max_age"],
        reason="they were not rescued",
    )
    sleeper.resume()
    cluster.settle()
    evidence = cluster.evidence()
    check(evidence, *ALWAYS)
    again = sum(len(evidence.executions[job]) - 1 for job in jobs)
    figure(f"{len(jobs)} late outcomes, {again} jobs run again all the same")

    assert [cluster.row(job)["attempt"] for job in jobs] == [1] * size.jobs


LONG = {**FAST, "refresher": {"interval": 0.25, "max_age": 1.5, "unlocked_max_age": 1.0}}


@sized(
    smoke={"jobs": 20, "nodes": 2, "seconds": 15.0},
    full={"jobs": 300, "nodes": 3, "seconds": 40.0, "pace": FAST},
    timeout=300,
)
def test_a_job_ten_times_as_long_as_the_lease_runs_once(make_cluster, figure, size):
    pace = size.pace if size.full else LONG
    cluster = make_cluster(pace=pace)

    for _ in range(size.nodes):
        cluster.start(queues={"alpha": 100}, wait=False)

    cluster.insert("Slow", *[{"seconds": size.seconds}] * size.jobs)
    cluster.settle(within=size.seconds + 60)
    evidence = cluster.evidence()
    check(evidence, *ALWAYS, *UNDISTURBED)
    age = pace["refresher"]["max_age"]
    figure(f"{size.jobs} jobs of {size.seconds:g} s with a lease of {age:g} s: each ran once")


GRIP = {**FAST, "refresher": {"interval": 0.5, "max_age": 10.0, "unlocked_max_age": 1.5}}


@sized(smoke={"seconds": 5.0}, full={"seconds": 30.0}, timeout=300)
def test_a_job_that_holds_the_interpreter_is_not_taken_for_dead(make_cluster, figure, size):
    cluster = make_cluster(pace=size.pace if size.full else GRIP)
    cluster.start()
    gripping = cluster.insert("Gripping", {"seconds": size.seconds})
    quick = cluster.insert("Slow", *[{"seconds": 1.0}] * 5)
    cluster.wait(lambda: cluster.events("begin"), within=20)
    cluster.start()
    cluster.settle(within=size.seconds + 60)
    evidence = cluster.evidence()
    check(evidence, *ALWAYS, *UNDISTURBED)
    [run] = evidence.executions[gripping[0]]
    figure(f"held for {run.end - run.begin:.1f} s; it and {len(quick)} others ran once")

    assert run.end - run.begin >= size.seconds
