"""Curves and sums for people, and how queues stand."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise, product

import psycopg
import pytest

from oban_sync import ConfigError
from oban_sync.control import metrics as desk
from oban_sync.control.metrics import (
    OTHER,
    list_metrics,
    metrics_report,
    metrics_summary,
    queue_health,
    step_of,
)
from oban_sync.core.clock import utc_now
from oban_sync.core.sketch import of_met, value_of
from oban_sync.engine import metrics
from oban_sync.engine.metrics import Counted
from tests.support.probe import eventually
from tests.support.workers import Held, a_gate


@pytest.fixture
def add(db):
    """Writes what nodes counted so many seconds ago."""

    def add(jobs=1, *, age=60.0, node="a", period=10, **columns):
        row = {
            "queue": "alpha",
            "worker": "W",
            "state": "completed",
            "exec_time": {},
            "wait_time": {},
            **columns,
        }

        with db.session() as tx:
            metrics.add(
                tx, [Counted(jobs=jobs, **row)], period=period, age=age, name="Oban", node=node
            )

    return add


def time_of(met_bin):
    """The time that is told of one of Oban Met's bins, in seconds."""
    return value_of(*of_met({met_bin: 1})) / 1e9


def counts(series):
    """All of each curve."""
    return {item.label: sum(point.count for point in item.points) for item in series}


def test_curves_are_by_what_was_asked_for(db, add):
    add(3, queue="alpha", worker="W", node="a")
    add(2, queue="beta", worker="W", node="b")
    add(1, queue="beta", worker="V", node="b", state="discarded")

    assert counts(list_metrics(db, by="queue")) == {"alpha": 3, "beta": 3}
    assert counts(list_metrics(db, by="worker")) == {"W": 5, "V": 1}
    assert counts(list_metrics(db, by="node")) == {"a": 3, "b": 3}
    assert counts(list_metrics(db, by="state")) == {"completed": 5, "discarded": 1}


def test_curves_are_of_what_passes_every_filter(db, add):
    add(3, queue="alpha", worker="W", node="a")
    add(2, queue="beta", worker="W", node="b")
    add(1, queue="beta", worker="V", node="b", state="discarded")

    assert counts(list_metrics(db, worker="W", by="queue")) == {"alpha": 3, "beta": 2}
    assert counts(list_metrics(db, node="b", state="discarded")) == {"beta": 1}
    assert counts(list_metrics(db, queue="alpha", worker="V")) == {}


@pytest.mark.parametrize("name", ["queue", "worker", "node", "state"])
def test_an_empty_name_is_that_of_nothing(db, add, name):
    add(5)

    for _ in range(2):
        for by in ("queue", "worker", "node", "state"):
            assert list_metrics(db, by=by, **{name: ""}) == []

        with db.transaction() as tx:
            metrics.spread(tx, after=0.0)


def test_a_curve_has_a_point_for_every_step(db, add):
    add(age=100.0)
    add(age=250.0)
    [found] = list_metrics(db, since=300.0, points=30)
    moments = [point.at for point in found.points]

    assert 30 <= len(moments) <= 31
    assert {(after - before).total_seconds() for before, after in pairwise(moments)} == {10}
    assert abs((datetime.now(UTC) - moments[-1]).total_seconds()) < 12
    assert sum(point.count for point in found.points) == 2
    assert {point.p50 for point in found.points} == {None}


def test_times_are_those_of_all_rows_together(db, add):
    add(50, exec_time={300: 50}, wait_time={10: 50}, node="a", age=300.0)
    add(49, exec_time={400: 49}, node="b", age=300.0)
    add(1, exec_time={500: 1}, node="b", worker="V", age=300.0)
    [found] = list_metrics(db, series="exec_time", since=600.0, points=1)
    [point] = [point for point in found.points if point.count]

    assert point.count == 100
    assert point.p50 == time_of(300)
    assert point.p95 == point.p99 == time_of(400)
    assert point.max == time_of(500)

    [found] = list_metrics(db, series="wait_time", since=600.0, points=1)
    [point] = [point for point in found.points if point.count]
    assert point.max == time_of(10)


def test_rows_of_every_length_are_in_a_curve(db, add):
    add(1, age=60.0)
    add(2, age=3_000.0, period=60)
    add(4, age=50_000.0, period=3_600)

    assert counts(list_metrics(db, since=86_400.0)) == {"alpha": 7}
    assert counts(list_metrics(db, since=3_600.0)) == {"alpha": 3}


def test_what_is_older_is_left_out(db, add):
    add(age=2_000.0)

    assert list_metrics(db, since=900.0) == []


def test_of_many_curves_those_of_most_jobs_stay(db, add, monkeypatch):
    monkeypatch.setattr(desk, "MOST_SERIES", 3)

    for number in range(1, 6):
        add(number, worker=f"W{number}", exec_time={100 + number: number})

    found = list_metrics(db, by="worker", series="exec_time")

    assert counts(found) == {"W5": 5, "W4": 4, OTHER: 6}
    assert list(counts(found)) == ["W5", "W4", OTHER]


def test_a_clock_that_was_set_back_makes_no_endless_curve(db, add):
    add()
    add(age=-10_000_000.0)
    [found] = list_metrics(db)

    assert len(found.points) <= 62


@pytest.mark.parametrize(
    ("since", "points", "step"),
    [
        (300.0, 15, 20),
        (300.0, 60, 10),
        (301.0, 60, 60),
        (900.0, 60, 60),
        (7_200.0, 60, 3_600),
        (60.0, 60, 10),
        (3_600.0, 60, 60),
        (3_600.0, 1_000, 60),
        (1_800.0, 1_000, 60),
        (86_400.0, 60, 3_600),
        (604_800.0, 60, 10_800),
        (86_400.0 * 3_000, 60, 86_400 * 50),
    ],
)
def test_a_step_is_never_shorter_than_what_is_known(since, points, step):
    assert step_of(since, points) == step


@pytest.mark.parametrize(
    "options",
    [
        {"by": "tag"},
        {"series": "full_count"},
        {"since": 0},
        {"since": 1e12},
        {"points": 0},
        {"points": 5_000},
    ],
)
def test_what_is_wrong_is_refused(db, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        list_metrics(db, **options)


def test_a_summary_tells_of_all_jobs(db, add):
    add(6, age=120.0, exec_time={300: 6}, wait_time={200: 6})
    add(3, age=120.0, state="retryable", exec_time={400: 3})
    add(1, age=120.0, state="discarded", exec_time={500: 1})
    found = metrics_summary(db, since=600.0)

    assert found.jobs == 10
    assert found.failures == 4
    assert found.states == {"completed": 6, "retryable": 3, "discarded": 1}
    assert found.throughput == pytest.approx(10 / 600, rel=0.1)
    assert found.exec_time.p50 == time_of(300)
    assert found.exec_time.max == time_of(500)
    assert found.wait_time.p99 == time_of(200)


@pytest.mark.parametrize("by", ["queue", "worker", "node", "state"])
def test_a_report_has_at_once_what_can_be_asked_for_one_by_one(db, add, by):
    # Whole hours, which do not move while it is asked.
    span = {"since": 3 * 86_400.0, "by": by, "points": 3}
    add(6, exec_time={300: 6}, wait_time={200: 6})
    add(3, worker="V", state="retryable", exec_time={400: 3})
    add(2, queue="beta", state="discarded", exec_time={500: 1}, node="b", age=90_000.0)
    found = metrics_report(db, **span)

    assert found.ran == list_metrics(db, series="exec_time", **span)
    assert found.waited == list_metrics(db, series="wait_time", **span)
    assert sorted(counts(found.failed).values()) == ([2, 3])
    assert found.summary.states == {"completed": 6, "retryable": 3, "discarded": 2}
    assert metrics_report(db, queue="beta", **span).summary.jobs == 2

    few = metrics_report(db, lines=1, **span)
    assert few.summary.exec_time == found.summary.exec_time
    assert few.summary.wait_time == found.summary.wait_time
    first, *rest = counts(found.ran).items()
    assert list(counts(few.ran).items()) == [first, (OTHER, sum(count for _, count in rest))]
    assert few.others == len(rest)
    assert few.failed_others == len(found.failed) - 1
    assert (found.others, found.failed_others) == (0, 0)


def test_times_are_known_by_node_and_by_queue_after_rows_were_summed_up(db, add):
    add(2, queue="alpha", node="a", exec_time={300: 2}, age=600.0)
    add(3, queue="beta", node="a", worker="V", exec_time={400: 3}, age=600.0)
    add(4, queue="beta", node="b", exec_time={500: 4}, age=600.0)
    options = {"series": "exec_time", "since": 7_200.0, "points": 1}
    asked = [
        {"by": "queue"},
        {"by": "worker"},
        {"by": "state"},
        {"by": "node"},
        {"by": "queue", "queue": "beta"},
        {"by": "worker", "queue": "beta"},
        {"by": "state", "queue": "beta"},
        {"by": "queue", "worker": "V"},
        {"by": "queue", "state": "completed"},
        {"by": "state", "node": "a"},
    ]
    before = [list_metrics(db, **options, **more) for more in asked]

    with db.transaction() as tx:
        assert metrics.spread(tx, after=0.0) == 3

    assert [list_metrics(db, **options, **more) for more in asked] == before

    with db.transaction() as tx:
        assert metrics.sum_up(tx, period=60, after=0.0) > 0

    assert [list_metrics(db, **options, **more) for more in asked] == before


@pytest.mark.parametrize(
    ("asked", "counted"),
    [
        ({"by": "queue", "node": "b"}, {"beta": 4}),
        ({"by": "node", "queue": "beta"}, {"a": 3, "b": 4}),
        ({"by": "worker", "state": "retryable"}, {"V": 3}),
        ({"by": "state", "worker": "W"}, {"completed": 6}),
    ],
    ids=lambda value: "-".join(value),
)
def test_of_other_places_numbers_are_known_and_no_times(db, add, asked, counted):
    add(2, queue="alpha", node="a", exec_time={300: 2}, age=600.0)
    add(3, queue="beta", node="a", worker="V", state="retryable", exec_time={400: 3}, age=600.0)
    add(4, queue="beta", node="b", exec_time={500: 4}, age=600.0)
    options = {"series": "exec_time", "since": 7_200.0, "points": 1, **asked}

    # The same of what nodes have just written as of what was summed up.
    for _ in range(2):
        found = list_metrics(db, **options)
        assert counts(found) == counted
        assert {point.p50 for series in found for point in series.points} == {None}

        with db.transaction() as tx:
            metrics.spread(tx, after=0.0)


def test_a_summary_of_nothing_has_no_times(db):
    found = metrics_summary(db)

    assert (found.jobs, found.throughput, found.failures) == (0, 0.0, 0)
    assert found.exec_time.p50 is None


def test_an_oban_has_them(oban, add):
    add()

    assert counts(oban.list_metrics()) == {"alpha": 1}
    assert oban.metrics_summary().jobs == 1
    assert oban.queue_health() == []


# How queues stand


def health_of(db, queue="alpha"):
    [found] = [item for item in queue_health(db) if item.queue == queue]

    return found


def test_jobs_are_counted_by_queue_and_state(db, factory):
    for queue in ("alpha", "beta"):
        factory.job(queue=queue)

    factory.job(queue="alpha", priority=3)
    factory.job(queue="alpha", state="scheduled")
    factory.job(queue="alpha", state="retryable")
    factory.job(queue="alpha", state="completed")
    factory.executing("somebody", queue="alpha")
    found = health_of(db)

    assert (found.available, found.executing, found.scheduled, found.retryable) == (2, 1, 1, 1)
    assert (found.slots, found.busy, found.nodes, found.paused) == (0, 0, 0, False)
    assert health_of(db, "beta").available == 1


def test_the_oldest_is_found_whatever_its_priority(db, factory, conn):
    factory.job(queue="alpha", priority=0)
    job = factory.job(queue="alpha", priority=9)
    conn.execute(
        "UPDATE oban_jobs SET scheduled_at = timezone('UTC', now()) - interval '90 s'"
        " WHERE id = %s",
        [job],
    )

    assert 90.0 <= health_of(db).oldest_age < 100.0


def test_slots_are_those_of_live_nodes(db, factory, conn):
    node = factory.node("alpha")
    factory.node("alpha")
    dead = factory.node("alpha")
    conn.execute(
        "UPDATE oban_sync_nodes SET beat_at = now() - interval '2 min' WHERE uuid = %s", [dead]
    )
    factory.executing(factory.owner(node, "alpha"), queue="alpha")
    factory.executing(factory.owner(dead, "alpha"), queue="alpha")
    found = health_of(db)

    assert (found.slots, found.nodes, found.executing, found.busy) == (20, 2, 2, 1)


def test_a_node_whose_session_has_ended_lives_for_less_long(db, factory, conn):
    silent = factory.node("alpha", lock_key=77, beat_at=utc_now() - timedelta(seconds=20))
    factory.node("alpha", beat_at=utc_now() - timedelta(seconds=20))
    assert health_of(db).nodes == 1

    conn.execute("UPDATE oban_sync_nodes SET beat_at = now() WHERE uuid = %s", [silent])
    assert health_of(db).nodes == 2


def test_what_is_being_stopped_is_no_slot(db, factory, conn):
    node = factory.node("alpha", "beta")
    owner = factory.owner(node, "alpha")
    factory.executing(owner, queue="alpha")
    conn.execute(
        "UPDATE oban_sync_nodes SET info = jsonb_build_object('stopping', ARRAY[%s::text])", [owner]
    )
    found = health_of(db)

    assert (found.slots, found.nodes, found.busy, found.executing) == (0, 0, 0, 1)
    assert health_of(db, "beta").slots == 10

    for said in ("5", '{"stopping": 5}', '{"stopping": null}', "[]"):
        conn.execute("UPDATE oban_sync_nodes SET info = %s", [said])
        assert health_of(db).slots == 10


def test_jobs_that_no_node_takes_are_not_counted(db, factory, conn):
    used_up = factory.job(queue="alpha", attempt=3, max_attempts=3)
    conn.execute(
        "UPDATE oban_jobs SET scheduled_at = timezone('UTC', now()) - interval '1 hour'"
        " WHERE id = %s",
        [used_up],
    )
    factory.job(queue="alpha")
    found = health_of(db)

    assert found.available == 1
    assert found.oldest_age < 60.0


def test_a_queue_is_paused_when_every_node_paused_it(db, factory, conn):
    node = factory.node("alpha")
    factory.node("alpha")
    conn.execute("UPDATE oban_sync_producers SET paused = true WHERE node_uuid = %s", [node])
    assert not health_of(db).paused

    conn.execute("UPDATE oban_sync_producers SET paused = true")
    assert health_of(db).paused


def test_a_queue_that_nobody_runs_is_paused_as_it_was_asked(db, factory, oban):
    factory.job(queue="alpha")
    oban.pause_queue("alpha")
    assert health_of(db).paused

    oban.resume_all_queues()
    assert not health_of(db).paused


def test_throughput_and_the_time_to_drain(db, factory, add):
    for _ in range(10):
        factory.job(queue="alpha")

    assert health_of(db).drain_estimate is None

    add(60, age=40.0)
    found = health_of(db)

    assert found.throughput == pytest.approx(1.0)
    assert found.drain_estimate == pytest.approx(10.0)

    factory.node("beta")
    assert health_of(db, "beta").drain_estimate == 0.0


def test_throughput_is_the_same_whenever_nodes_write_and_whenever_it_is_asked(conn):
    rows = []

    for grid, phase in product(range(10), range(10)):
        # A job a second of a node, whose ten seconds ended so long ago, and are written by now.
        ended = [1.5 + phase + 10 * number for number in range(20)]
        # The rows begin so long ago: where the middle of the ten seconds falls in.
        begun = [grid + math.ceil((age + 5.0 - grid) / 10) * 10 for age in ended]
        rows += [(f"q{grid}-{phase}", age) for age in begun]

    with conn.transaction(), conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO oban_sync_metrics (period, started_at, name, node, queue, worker, state,"
            " jobs) SELECT 10, now() - make_interval(secs => %s), 'Oban', 'a', %s, 'W',"
            " 'completed', 10",
            [(age, queue) for queue, age in rows],
        )
        cursor.executemany(
            "INSERT INTO oban_jobs (worker, queue) VALUES ('W', %s)",
            [(queue,) for queue in {queue for queue, _ in rows}],
        )
        found = conn.execute("SELECT queue, throughput FROM oban_queue_health").fetchall()

    assert len(found) == 100
    assert {queue: told for queue, told in found if told != 1.0} == {}


def test_deep_queues_are_counted_up_to_a_bound(db, conn):
    conn.execute(
        "INSERT INTO oban_jobs (worker, queue) SELECT 'W', 'alpha' FROM generate_series(1, 10500)"
    )

    assert health_of(db).available == 10_000


def test_a_running_node_is_in_it(make_oban, db):
    oban = make_oban(queues={"alpha": 3}).start()

    with a_gate() as gate:
        Held.enqueue({"gate": "gate"})
        gate.wait_until_entered()
        found = eventually(lambda: (row := health_of(db)).busy and row)

    assert (found.slots, found.busy, found.nodes) == (3, 1, 1)
    assert oban.queue_health()[0].queue == "alpha"


def test_who_may_read_the_view_needs_no_other_table(conn, dsn, prefix):
    role = f"reader_{prefix.lower()}"
    conn.execute(f'CREATE ROLE "{role}"')

    try:
        conn.execute(f'GRANT USAGE ON SCHEMA "{prefix}" TO "{role}"')
        conn.execute(f'GRANT SELECT ON oban_queue_health TO "{role}"')
        conn.execute(f'GRANT EXECUTE ON FUNCTION oban_sync_queue_health() TO "{role}"')

        with conn.transaction():
            conn.execute(f'SET LOCAL ROLE "{role}"')
            assert (
                conn.execute(f'SELECT available FROM "{prefix}".oban_queue_health').fetchall() == []
            )

        with conn.transaction():
            conn.execute(f'SET LOCAL ROLE "{role}"')

            with pytest.raises(psycopg.errors.InsufficientPrivilege), conn.transaction():
                conn.execute(f'SELECT FROM "{prefix}".oban_jobs')
    finally:
        conn.execute(f'DROP OWNED BY "{role}"')
        conn.execute(f'DROP ROLE "{role}"')


def test_the_view_is_planned_the_same_whoever_asks(conn, prefix):
    """Compiling it took ten times as long as running it, for who has settings of PostgreSQL's."""
    [(settings,)] = conn.execute(
        "SELECT proconfig FROM pg_proc WHERE proname = 'oban_sync_queue_health'"
        " AND pronamespace = %s::regnamespace",
        [f'"{prefix}"'],
    )

    assert {"jit=off", "enable_seqscan=off", "enable_sort=off"} <= set(settings)
