"""PostgreSQL, or the way to it, breaks under running nodes."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from itertools import count, pairwise

import psycopg
import pytest

from oban_sync import schema
from tests.chaos import servers, sizes
from tests.chaos.checker import ALWAYS, UNDISTURBED, check, nothing_rescued
from tests.chaos.figures import spread
from tests.chaos.load import Load
from tests.chaos.sizes import sized

TERMINATE = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


# Bounds are those of the promise where it is measured, alone on a machine. The short forms run
# beside other tests, where a process may wait for seconds: theirs only tell waiting from hanging.


@sized(smoke={"outages": [(2.0, 10.0)]}, full={"outages": [(2.0, 2.0), (30.0, 5.0)]}, timeout=400)
def test_a_crash_of_postgresql_stops_the_work_for_no_longer_than_it_takes(
    make_cluster, server_up, figure, size
):
    cluster = make_cluster(pace=size.pace)

    for _ in range(3):
        cluster.start()

    said = []

    with Load(cluster, "Slow", lambda: {"seconds": 0.05}, rate=40):
        for down, within in size.outages:
            cluster.wait(lambda: len(cluster.events("end")) > 20, within=30)
            # So that there is something to start the moment it is back.
            cluster.insert("Slow", *[{"seconds": 0.2}] * 600)
            server_up.halt("immediate")
            cluster.ledger.note("down")
            cluster.idle(down)
            server_up.start()
            back = time.monotonic()
            began = cluster.wait(
                lambda back=back: [e for e in cluster.events("begin") if e.at > back],
                within=30,
                reason="nothing began after PostgreSQL was back",
            )
            took = began[0].at - back
            said.append(f"down {down:g} s: first start {took:.2f} s after its return")

            assert took <= within

    cluster.settle(within=120)
    evidence = cluster.evidence()
    runs = sum(map(len, evidence.executions.values()))
    figure(f"{'; '.join(said)}; {runs} runs of {len(evidence.executions)} jobs")
    check(evidence, *ALWAYS, *UNDISTURBED)


@sized(smoke={"seconds": 6.0}, full={"seconds": 60.0}, timeout=400)
def test_a_storm_of_terminated_connections_loses_nothing_and_half_the_work_gets_done(
    make_cluster, figure, size
):
    cluster = make_cluster(pace=size.pace)

    for _ in range(3):
        cluster.start()

    def ended_in(seconds):
        before = len(cluster.events("end"))
        began = time.monotonic()
        cluster.idle(seconds)

        return len(cluster.events("end")) - before, time.monotonic() - began

    # More than thirty slots can do.
    cluster.insert("Slow", *[{"seconds": 0.2}] * int(size.seconds * 3 * 150))
    cluster.wait(lambda: cluster.events("end"), within=30)
    pace = {"calm": [0, 0.0], "stormy": [0, 0.0]}

    def note(weather, seconds):
        for index, found in enumerate(ended_in(seconds)):
            pace[weather][index] += found

    # In turns: whatever else the machine is at slows both of them down.
    while pace["stormy"][1] < size.seconds:
        note("calm", min(5.0, size.seconds / 3))

        for _ in range(2):
            cluster.execute(TERMINATE)
            note("stormy", cluster.random.uniform(1.0, 5.0 if size.full else 2.0))

        # What the last one stopped is no matter of calm weather.
        cluster.idle(1.0)

    calm, stormy = (jobs / seconds for jobs, seconds in pace.values())
    cluster.settle(within=60)
    evidence = cluster.evidence()
    figure(f"{calm:.0f} jobs per second without it, {stormy:.0f} with it")
    check(evidence, *ALWAYS, *UNDISTURBED)

    assert stormy >= calm / 2


@sized(
    smoke={"stalls": [2.0, 8.0], "within": 15.0},
    full={"stalls": [10.0, 40.0, 100.0], "within": 5.0},
    timeout=900,
)
def test_who_is_cut_off_by_a_black_hole_knows_before_its_jobs_run_elsewhere(
    make_cluster, make_proxy, figure, size, tmp_path
):
    cluster = make_cluster(pace=size.pace)
    proxy = make_proxy(cluster.dsn)
    own = {f"own{number}": 3 for number in range(len(size.stalls))}
    cut_off = cluster.start(dsn=proxy.dsn, queues={"alpha": 10, **own})
    cluster.start()
    said = []
    age = size.pace["refresher"]["max_age"]

    with Load(cluster, "Slow", lambda: {"seconds": 0.1}, rate=20):
        for queue, seconds in zip(own, size.stalls, strict=True):
            # Nobody else has that queue when they start, and they work until all is said: to start
            # another node takes its time.
            over = tmp_path / queue
            args = {"seconds": seconds + 60.0, "over": str(over)}
            jobs = cluster.insert("Watchful", *[args] * 3, queue=queue)
            cluster.wait(lambda jobs=jobs: set(jobs) <= set(cut_off.running), within=30)
            cluster.start(queues={queue: 3})
            token = cluster.fault(cut_off, locked=True)
            since = time.monotonic()
            proxy.stall()
            cluster.idle(seconds)
            proxy.flow()
            cluster.fault_over(token)
            back = time.monotonic()
            began = cluster.wait(
                lambda back=back: [e for e in cut_off.events("begin") if e.at > back],
                within=60,
                reason="the node did not go on",
            )
            assert began[0].at - back <= size.within

            told = [event for event in cluster.events("lease_lost") if event["job"] in jobs]
            taken = [
                event.at
                for event in cluster.events("begin")
                if event["job"] in jobs and event.node != cut_off.name
            ]
            said.append(f"{seconds:g} s: {len(taken)} of its 3 jobs ran elsewhere")

            if told:
                said[-1] += f", it knew after {max(e.at for e in told) - since:.1f} s"

            if taken:
                assert len(told) == 3
                assert max(event.at for event in told) < min(taken)
                said[-1] += f", {min(taken) - max(e.at for e in told):.1f} s before that"
            else:
                assert seconds < age + 10, "its jobs were left behind"

            assert not taken or min(taken) - since > age / 2
            said[-1] += f", it went on after {began[0].at - back:.1f} s"
            over.touch()

    cluster.settle(within=3 * max(size.stalls) + 30)
    check(cluster.evidence(), *ALWAYS)
    figure("; ".join(said))


@sized(
    smoke={"jobs": 300, "inserts": 20, "within": 15.0},
    full={"jobs": 5_000, "inserts": 200, "within": 5.0},
    timeout=600,
)
def test_lost_replies_have_no_double_effect_and_leave_no_job_behind(
    make_cluster, make_proxy, figure, size
):
    cluster = make_cluster(pace=size.pace)
    proxy = make_proxy(cluster.dsn)
    node = cluster.start(dsn=proxy.dsn)
    tags = [f"tag-{number}" for number in range(size.inserts)]
    statements = {
        "turn": "taken AS",
        "outcome": "attempted_at = outcome.fence",
        "insert": 'INSERT INTO "public".oban_jobs',
    }
    lost = {}

    def some(marker):
        numbers = count(cluster.random.randrange(7))

        return lambda text: marker in text and next(numbers) % 7 == 0

    for name, marker in statements.items():
        trap = proxy.lose_replies(some(marker), times=100)

        if name == "insert":
            node.tell(do="enqueue", worker="Quick", tags=tags, args={})
            cluster.wait(lambda: node.events("enqueued"), within=300)
        else:
            cluster.insert("Quick" if name == "turn" else "Failing", *[{}] * size.jobs)

        cluster.settle(within=200 if size.full else 40)
        trap.left = 0
        lost[name] = trap.sprung

    known = {event["tag"]: event["jobs"] for event in node.events("inserted")}
    stored = [tag for (tag,) in cluster.execute("SELECT unnest(tags) FROM oban_jobs")]
    cluster.inserted += [job for jobs in known.values() for job in jobs]
    cluster.wait(lambda: set(cluster.states()) <= {"completed"}, within=30, reason="stuck rows")
    evidence = cluster.evidence()
    check(evidence, *ALWAYS, nothing_rescued)
    twice = [
        job for job, runs in evidence.executions.items() if sum(run.how == "ok" for run in runs) > 1
    ]
    # Jobs that were taken, and that nobody ran, because the node never heard of it.
    stuck = [
        after.at - before.at
        for changes in evidence.history.values()
        for before, after in pairwise(changes)
        if before.state == "executing" and (before.job, before.fence) not in evidence.begun
    ]
    figure(
        f"lost {lost}; {len(twice)} double effects; {len(stuck)} jobs taken unheard, each back "
        f"within {max(stuck, default=0.0):.1f} s; {len(tags) - len(known)} inserts unsure"
    )

    assert twice == []
    assert len(stored) == len(set(stored))
    assert set(known) <= set(stored)
    assert max(stuck, default=0.0) <= size.within
    assert min(lost.values()) > 0


@sized(smoke={"seconds": 6.0}, full={"seconds": 75.0}, timeout=400)
def test_no_lease_is_lost_when_there_are_no_connections_left(make_cluster, server_up, figure, size):
    cluster = make_cluster(pace=size.pace)

    for own in ("one", "two"):
        cluster.start(pool_size=2, queues={own: 2})
        # Jobs that keep the application's pool for themselves, ...
        cluster.insert("Hoarding", *[{"seconds": size.seconds}] * 2, queue=own)

    cluster.wait(lambda: cluster.leader, within=30)
    cluster.wait(lambda: len(cluster.events("begin")) == 4, within=30)

    with ExitStack() as stack:
        # ... and all places of the server's taken.
        taken = _take_all_connections(cluster.dsn, stack)
        cluster.idle(size.seconds)

    cluster.settle(within=60)
    evidence = cluster.evidence()
    check(evidence, *ALWAYS, *UNDISTURBED)
    lapses = len(evidence.of("lapsed"))
    figure(f"{taken} connections taken for {size.seconds:g} s; {lapses} leases lost")

    assert lapses == 0
    assert evidence.of("deposed") == []


def _take_all_connections(dsn, stack):
    """Connect until there is no place left; how many there were."""
    taken = 0

    with suppress(psycopg.OperationalError):
        while True:
            stack.enter_context(psycopg.connect(dsn, autocommit=True))
            taken += 1

    return taken


@sized(smoke={"jobs": 200}, full={"jobs": 5_000}, timeout=400)
def test_nodes_behind_pgbouncer_work_and_the_dead_are_found(make_cluster, figure, size):
    try:
        program = servers.pgbouncer(install=size.full or sizes.MAY_INSTALL)
    except servers.MissingError as error:
        pytest.skip(str(error))

    cluster = make_cluster(pace=size.pace)

    with servers.pooled(cluster.dsn, program) as through:
        for _ in range(3):
            cluster.start(dsn=through, listen_conninfo=cluster.dsn)

        cluster.insert("Quick", *[{}] * size.jobs)
        cluster.settle(within=60)
        check(cluster.evidence(), *ALWAYS, *UNDISTURBED)
        cluster.insert("Slow", *[{"seconds": 2.0}] * 15)
        victim = cluster.wait(
            lambda: next((node for node in cluster.alive if len(node.running) >= 2), None),
            within=30,
        )
        at = victim.kill()
        left = list(victim.running)
        cluster.wait(
            lambda: (
                set(left) <= {event["job"] for event in cluster.events("begin") if event.at > at}
            ),
            within=90,
            reason="the jobs of the killed node did not run again",
        )
        delays = [
            event.at - at
            for event in cluster.events("begin")
            if event.at > at and event["job"] in left
        ]
        cluster.settle(within=60)

    check(cluster.evidence(), *ALWAYS)
    figure(f"{size.jobs} jobs; those of a killed node ran again: {spread(delays)}")

    assert max(delays) <= 10.0


@sized(smoke={"repeats": 1}, full={"repeats": 5}, timeout=600)
def test_a_failover_to_the_standby_loses_nothing(make_cluster, figure, size):
    delays = []

    for _ in range(size.repeats):
        try:
            with servers.streaming_pair() as pair:
                delays.append(_fail_over(make_cluster, pair, size))
        except servers.MissingError as error:
            pytest.skip(str(error))

    figure(f"first start after the kill of the primary: {spread(delays)}")

    assert max(delays) <= 10.0


def _fail_over(make_cluster, pair, size):
    schema.install(pair.primary.dsn)
    cluster = make_cluster(dsn=pair.dsn, pace=size.pace)

    for _ in range(3):
        cluster.start()

    with Load(cluster, "Slow", lambda: {"seconds": 0.05}, rate=40):
        cluster.wait(lambda: len(cluster.events("end")) > 20, within=30)
        cluster.insert("Slow", *[{"seconds": 0.2}] * 600)
        killed = time.monotonic()
        pair.fail_over()
        promoted = time.monotonic()
        cluster.wait(
            lambda: [event for event in cluster.events("begin") if event.at > promoted + 0.5],
            within=60,
            reason="nothing began on the standby",
        )

    cluster.settle(within=90)
    evidence = cluster.evidence()
    check(evidence, *ALWAYS, *UNDISTURBED)
    cluster.end()
    # By the row: a job may begin some moments after it was taken from the old primary.
    taken = [change.at for change in evidence.changes if change.state == "executing"]

    return min(at for at in taken if at > promoted) - killed
