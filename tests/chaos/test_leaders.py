"""One leader at a time, and cron rows exactly once whoever leads."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from tests.chaos import clock
from tests.chaos.checker import ALWAYS, check, cron_exactly_once, leaders_by_moment
from tests.chaos.figures import spread
from tests.chaos.sizes import sized

#: Seconds within which a time of an entry has its job, whoever died meanwhile.
CRON_WITHIN = 10.0


@sized(
    smoke={"apart": 1.0, "seconds": 8.0},
    full={"apart": 5.0, "seconds": 120.0},
    timeout=300,
)
def test_nodes_started_one_after_the_other_have_exactly_one_leader(make_cluster, figure, size):
    cluster = make_cluster(pace=size.pace)
    cluster.start()
    cluster.wait(lambda: cluster.events("elected"), within=30)
    since = time.monotonic() + 0.5

    for _ in range(2):
        cluster.idle(size.apart)
        cluster.start()

    cluster.idle(size.seconds)
    evidence = cluster.evidence()
    check(evidence, *ALWAYS)
    leaders = leaders_by_moment(evidence, 0.1, since, time.monotonic() - 1.0)
    figure(f"{len(leaders)} moments, leaders at each: {sorted(set(leaders))}")

    assert len(leaders) > size.seconds * 5
    assert set(leaders) == {1}
    assert len(evidence.of("elected")) == 1


@sized(
    smoke={"seconds": 3.0, "minutes": 6, "repeats": 2},
    full={"seconds": 15.0, "minutes": 30, "repeats": 10},
    timeout=900,
)
def test_cron_rows_come_exactly_once_though_leaders_are_killed(make_cluster, figure, size):
    cluster = make_cluster(pace=size.pace)
    # Both clocks agree at a full minute, a little ahead.
    epoch = float(int(time.time() // 60) * 60)
    minute = (size.seconds, epoch)
    entries = [("* * * * *", "Tick", {"name": "each", "catch_up": "all"})]

    def start(wait=False):
        return cluster.start(wait=wait, minute=minute, cron=entries)

    def shown():
        return clock.fast(datetime.now(UTC), *minute)

    for _ in range(3):
        start()

    cluster.wait(lambda: cluster.leader, within=30)
    cluster.wait(lambda: cluster.events("begin"), within=30, reason="no cron job came")
    kill_at = sorted(cluster.random.sample(range(1, size.minutes - 1), size.repeats))
    first = _minute(shown()) + timedelta(minutes=1)

    for number in range(size.minutes):
        until = first + timedelta(minutes=number)
        # Just before the minute: the successor has to notice, to be elected, and to catch up.
        early = cluster.random.uniform(0.05, 0.5) if number in kill_at else 0.0
        cluster.idle(clock.real(until, *minute) - early - time.time())

        if number in kill_at:
            leader = cluster.wait(lambda: cluster.leader, within=30)
            leader.kill()
            start()

    last = first + timedelta(minutes=size.minutes - 1)
    # The last one is late, if its leader was killed.
    cluster.idle(CRON_WITHIN if kill_at[-1] == size.minutes - 1 else size.seconds / 2)
    found, late = _cron_rows(cluster, minute)
    due = [("each", first + timedelta(minutes=number)) for number in range(size.minutes)]
    within = {key: delay for key, delay in late.items() if first <= key[1] <= last}
    trouble = cron_exactly_once([key for key in found if first <= key[1] <= last], due)
    figure(
        f"{size.minutes} minutes of {size.seconds:g} s, {size.repeats} leaders killed just before "
        f"one: {len(trouble)} rows missed or doubled; late by {spread(within.values())}"
    )
    check(cluster.evidence(), *ALWAYS)

    assert trouble == []
    assert max(within.values()) <= CRON_WITHIN


@sized(
    smoke={"seconds": 2.0, "minutes": 5, "times": 2},
    full={"seconds": 2.0, "minutes": 60, "times": 20},
    timeout=300,
)
def test_cron_rows_come_exactly_once_though_replies_are_lost(
    make_cluster, make_proxy, figure, size
):
    cluster = make_cluster(pace=size.pace)
    proxy = make_proxy(cluster.dsn)
    minute = (size.seconds, float(int(time.time() // 60) * 60))
    cluster.start(
        dsn=proxy.dsn,
        minute=minute,
        cron=[("* * * * *", "Tick", {"name": "each", "catch_up": "all"})],
    )
    cluster.wait(lambda: cluster.events("begin"), within=30, reason="no cron job came")
    trap = proxy.lose_replies(
        lambda text: "INSERT INTO" in text and "oban_sync_cron_slots" in text, times=size.times
    )
    first = _minute(clock.fast(datetime.now(UTC), *minute)) + timedelta(minutes=1)
    last = first + timedelta(minutes=size.minutes - 1)
    cluster.idle(clock.real(last, *minute) - time.time() + 1.0)
    due = [("each", first + timedelta(minutes=number)) for number in range(size.minutes)]
    found, _ = _cron_rows(cluster, minute)
    trouble = cron_exactly_once([key for key in found if first <= key[1] <= last], due)
    figure(f"{size.minutes} minutes, {trap.sprung} replies lost: {len(trouble)} rows wrong")
    check(cluster.evidence(), *ALWAYS)

    assert trouble == []
    assert trap.sprung == size.times


def _cron_rows(cluster, minute):
    """Entry and time of every cron job, and by how many seconds each was late."""
    rows = cluster.execute(
        "SELECT job.meta ->> 'cron_name', (job.meta ->> 'cron_at')::timestamptz,"
        " extract(epoch FROM history.at)::float8"
        " FROM oban_jobs AS job"
        " JOIN chaos.history AS history ON history.job = job.id AND history.operation = 'INSERT'"
        " WHERE job.worker = 'chaos.Tick'"
    )

    return (
        [(entry, due) for entry, due, _ in rows],
        {(entry, due): at - clock.real(due, *minute) for entry, due, at in rows},
    )


def _minute(moment):
    return moment.replace(second=0, microsecond=0)
