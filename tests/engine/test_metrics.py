"""Rows of metrics: added to, summed up without losing a job, and deleted."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from oban_sync.core.metering import SUMMED
from oban_sync.core.sketch import Sketch, packed
from oban_sync.engine import metrics
from oban_sync.engine.metrics import Counted, Look


class Row(NamedTuple):
    scope: str
    period: int
    queue: str
    worker: str
    state: str
    node: str
    jobs: int
    failed: int
    exec_time: dict
    wait_time: dict


def counted(jobs=1, *, queue="alpha", worker="W", state="completed", ran=None, waited=None):
    return Counted(queue, worker, state, jobs, ran or {}, waited or {})


@pytest.fixture
def add(db):
    """Writes what a node counted so many seconds ago."""

    def add(*rows, age=5.0, period=10, name="Oban", node="a"):
        with db.session() as tx:
            return metrics.add(tx, rows, period=period, age=age, name=name, node=node)

    return add


@pytest.fixture
def rows(conn):
    """All rows, with these columns."""

    def rows(columns=None, scope=None):
        found = conn.execute(
            f"SELECT {columns or ', '.join(Row._fields)} FROM oban_sync_metrics"
            " WHERE scope = coalesce(%s, scope)"
            " ORDER BY scope, period, started_at, queue, worker",
            [scope],
        ).fetchall()

        return [
            tuple(Sketch.unpacked(one).bins if isinstance(one, bytes) else one for one in row)
            for row in found
        ]

    return rows


@pytest.fixture
def spread(db):
    """Makes rows of every scope until nothing is left to be done; of how many."""

    def spread(after=0.0):
        total = 0

        while True:
            with db.transaction() as tx:
                found = metrics.spread(tx, after=after)

            if not found:
                return total

            total += found

    return spread


@pytest.fixture
def sum_up(db):
    """Sums up until nothing is left; how many rows."""

    def sum_up(period, after=0.0):
        total = 0

        while True:
            with db.transaction() as tx:
                found = metrics.sum_up(tx, period=period, after=after)

            if not found:
                return total

            total += found

    return sum_up


def test_what_is_written_twice_is_added(add, rows):
    first = counted(2, ran={490: 2}, waited={300: 1})
    second = counted(3, ran={490: 1, 491: 2})

    # In the past, so that no new period begins between the two.
    assert add(first, counted(queue="beta"), age=100.0) == 2
    [(at, *_), *_] = rows("extract(epoch FROM started_at)")
    [(now,)] = rows("extract(epoch FROM now())")[:1]
    add(second, age=float(now - at) - 5.0)

    assert rows() == [
        ("raw", 10, "alpha", "W", "completed", "a", 5, 0, {245: 3, 246: 2}, {150: 1}),
        ("raw", 10, "beta", "W", "completed", "a", 1, 0, {}, {}),
    ]


def test_a_period_is_one_by_the_clock_of_postgresql(add, rows):
    add(counted(), age=3_600.0)
    [(at, age)] = rows(
        "extract(epoch FROM started_at)::int, extract(epoch FROM now() - started_at)"
    )

    assert at % 10 == 0
    assert 3_599.0 < age < 3_611.0


def test_names_that_jsonb_cannot_hold_are_mended(add, rows):
    add(counted(worker="W\0\ud800"))

    assert rows("worker") == [("W\N{REPLACEMENT CHARACTER}?",)]


def test_every_job_and_every_time_is_in_each_scope_once(add, rows, spread):
    add(counted(2, ran={490: 1, 488: 1}, waited={7: 2}), age=3_600.0)
    add(counted(1, worker="V", state="discarded", ran={490: 1}), age=3_600.0)
    add(counted(4, ran={490: 4}), age=3_600.0, node="b")

    assert spread() == 3
    assert rows() == [
        ("each", 10, "alpha", "V", "discarded", "a", 1, 1, {}, {}),
        ("each", 10, "alpha", "W", "completed", "a", 2, 0, {}, {}),
        ("each", 10, "alpha", "W", "completed", "b", 4, 0, {}, {}),
        ("nodes", 10, "", "", "completed", "a", 2, 0, {244: 1, 245: 1}, {4: 2}),
        ("nodes", 10, "", "", "completed", "b", 4, 0, {245: 4}, {}),
        ("nodes", 10, "", "", "discarded", "a", 1, 1, {245: 1}, {}),
        ("outcomes", 10, "alpha", "", "completed", "", 6, 0, {244: 1, 245: 5}, {4: 2}),
        ("outcomes", 10, "alpha", "", "discarded", "", 1, 1, {245: 1}, {}),
        ("queues", 10, "alpha", "", "", "", 7, 1, {244: 1, 245: 6}, {4: 2}),
        ("states", 10, "", "", "completed", "", 6, 0, {244: 1, 245: 5}, {4: 2}),
        ("states", 10, "", "", "discarded", "", 1, 1, {245: 1}, {}),
        ("workers", 10, "alpha", "V", "", "", 1, 1, {245: 1}, {}),
        ("workers", 10, "alpha", "W", "", "", 6, 0, {244: 1, 245: 5}, {4: 2}),
    ]


@pytest.mark.parametrize("scope", SUMMED)
def test_summing_up_keeps_every_job_and_every_time(add, rows, spread, sum_up, scope):
    for age in (3_600.0, 3_610.0, 3_620.0, 3_720.0):
        add(counted(2, ran={490: 1, 492: 1}, waited={7: 2}), age=age)
        add(counted(1, worker="V", state="discarded"), age=age, node="b")

    spread()

    # By hours and more whatever the time is.
    for period, after in ((60, 600.0), (3_600, -3_600.0), (10_800, -10_800.0)):
        assert sum_up(period, after) > 0
        found = [Row(*row) for row in rows(scope=scope)]
        times = 0 if scope == "each" else 4

        assert {row.period for row in found} == {period}
        assert sum(row.jobs for row in found) == 12
        assert sum(row.failed for row in found) == 4
        assert sum(row.exec_time.get(245, 0) for row in found) == times
        assert sum(row.wait_time.get(4, 0) for row in found) == 2 * times


def test_what_nodes_wrote_by_the_second_is_known_by_ten(add, rows, spread):
    for age in (3_600.0, 3_600.5):
        add(counted(ran={490: 1}), age=age, period=1)

    spread()

    assert {row[0] for row in rows("period")} == {10}
    assert sum(row[0] for row in rows("jobs", scope="states")) == 2


def test_doing_it_again_changes_nothing(add, rows, spread, sum_up):
    add(counted(2, ran={490: 2}), age=3_600.0)
    spread()
    sum_up(60)
    before = rows()

    assert spread() == sum_up(60) == 0
    assert rows() == before


def test_a_row_that_comes_late_is_added_to_its_minute(add, rows, spread, sum_up, conn):
    add(counted(2, ran={490: 2}), age=3_600.0)
    spread()
    sum_up(60)
    conn.execute(
        "INSERT INTO oban_sync_metrics (period, started_at, name, node, queue, worker, state, jobs,"
        " exec_time) SELECT 10, started_at, name, node, queue, worker, state, 3, %s"
        " FROM oban_sync_metrics WHERE scope = 'each'",
        [packed({246: 3})],
    )
    spread()
    sum_up(60)

    assert rows() == [
        ("each", 60, "alpha", "W", "completed", "a", 5, 0, {}, {}),
        ("nodes", 60, "", "", "completed", "a", 5, 0, {245: 2, 246: 3}, {}),
        ("outcomes", 60, "alpha", "", "completed", "", 5, 0, {245: 2, 246: 3}, {}),
        ("queues", 60, "alpha", "", "", "", 5, 0, {245: 2, 246: 3}, {}),
        ("states", 60, "", "", "completed", "", 5, 0, {245: 2, 246: 3}, {}),
        ("workers", 60, "alpha", "W", "", "", 5, 0, {245: 2, 246: 3}, {}),
    ]


def test_what_is_new_is_left_alone(add, rows, spread, sum_up):
    add(counted(), age=30.0)

    assert spread(after=60.0) == 0
    assert rows("scope, period") == [("raw", 10)]

    assert spread() == 1
    assert sum_up(60, after=60.0) == 0
    assert {row[0] for row in rows("period")} == {10}


def test_many_rows_are_dealt_with_in_batches(add, rows, db, monkeypatch):
    monkeypatch.setattr(metrics, "BATCH", 3)

    for number in range(7):
        add(counted(worker=f"W{number}"), age=3_600.0)

    with db.transaction() as tx:
        found = [metrics.spread(tx, after=0.0) for _ in range(4)]

    assert found == [3, 3, 1, 0]
    assert rows("jobs", scope="states") == [(7,)]


def test_a_row_that_somebody_holds_waits_for_the_next_round(add, rows, conn, spread):
    add(counted(worker="W1"), counted(worker="W2"), age=3_600.0)

    with conn.transaction():
        conn.execute("SELECT FROM oban_sync_metrics WHERE worker = 'W1' FOR UPDATE")

        assert spread() == 1

    assert spread() == 1
    assert [row[0] for row in rows("jobs", scope="workers")] == [1, 1]


def test_what_is_old_is_deleted(add, rows, db):
    add(counted(worker="old"), age=7_200.0)
    add(counted(worker="new"), age=60.0)

    with db.session() as tx:
        assert metrics.prune(tx, keep=3_600.0) == 1

    assert rows("worker") == [("new",)]


def test_what_is_kept_is_kept_to_its_end(add, rows, db, spread, sum_up):
    for age in (86_400.0 + 100.0, 86_400.0 + 10_000.0):
        add(counted(), age=age)

    spread()
    sum_up(10_800)

    with db.session() as tx:
        metrics.prune(tx, keep=86_400.0 + 5_000.0)

    assert sum(row[0] for row in rows("jobs", scope="states")) >= 1


@pytest.mark.parametrize("moment", ["-infinity", "infinity"])
def test_a_row_of_no_time_keeps_nothing_from_being_done(add, rows, db, conn, spread, moment):
    add(counted(), age=600.0)
    conn.execute(
        "INSERT INTO oban_sync_metrics (period, started_at, name, node, queue, worker, state, jobs)"
        " VALUES (10, %s, 'Oban', 'a', 'alpha', 'W', 'completed', 7)",
        [moment],
    )
    spread()

    with db.session() as tx:
        now = metrics.now(tx)
        look = Look(int(now) - 900, 10, "queue")
        [found] = metrics.measured(tx, look, ran=True, waited=True)
        [whole] = metrics.whole(tx, look)

    assert found.jobs == whole.jobs == 1
    assert len(rows(scope="raw")) == 1


def test_junk_in_a_sketch_is_left_out_of_a_curve(add, db, conn):
    add(counted(2, ran={490: 2}))
    conn.execute("UPDATE oban_sync_metrics SET exec_time = '\\x010203'")

    with db.session() as tx:
        now = metrics.now(tx)
        [found] = metrics.measured(tx, Look(int(now) - 600, 10, "queue"), ran=True, waited=True)

    assert found.jobs == 2
    assert metrics.sketch_of(found.ran).size == 0
    assert metrics.quantiles_of(found.ran, 0.5) == [None, None]
    assert now > found.at
