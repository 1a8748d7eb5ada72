"""Rows of metrics: added to, summed up without losing a job, and deleted."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from oban_sync.core.sketch import Sketch, packed
from oban_sync.engine import metrics
from oban_sync.engine.metrics import Counted


class Row(NamedTuple):
    period: int
    queue: str
    worker: str
    state: str
    node: str
    jobs: int
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

    def rows(columns="period, queue, worker, state, node, jobs, exec_time, wait_time"):
        found = conn.execute(
            f"SELECT {columns} FROM oban_sync_metrics ORDER BY period, started_at, queue, worker"
        ).fetchall()

        return [
            tuple(Sketch.unpacked(one).bins if isinstance(one, bytes) else one for one in row)
            for row in found
        ]

    return rows


@pytest.fixture
def sum_up(db):
    """Sums up until nothing is left; how many rows."""

    def sum_up(period, after=0.0):
        total = 0

        with db.transaction() as tx:
            while found := metrics.sum_up(tx, period=period, after=after):
                total += found

        return total

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
        (10, "alpha", "W", "completed", "a", 5, {490: 3, 491: 2}, {300: 1}),
        (10, "beta", "W", "completed", "a", 1, {}, {}),
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


def test_summing_up_keeps_every_job_and_every_time(add, rows, sum_up):
    for age in (3_600.0, 3_610.0, 3_620.0, 3_720.0):
        add(counted(2, ran={490: 1, 491: 1}, waited={7: 2}), age=age)
        add(counted(1, worker="V", state="discarded"), age=age, node="b")

    assert sum_up(60, after=600.0) == 8

    for period in (60, 3_600):
        summed = [Row(*row) for row in rows()]
        counts = [row for row in summed if row.jobs]
        of_all = [row for row in summed if row.node == ""]
        of_nodes = [row for row in summed if row.queue == ""]

        assert {row.period for row in summed} == {period}
        assert sorted(map(id, counts + of_all + of_nodes)) == sorted(map(id, summed))
        assert sum(row.jobs for row in counts) == 12
        assert {(row.queue, row.worker, row.node) for row in counts} == {
            ("alpha", "W", "a"),
            ("alpha", "V", "b"),
        }

        for times, place in ((of_all, ("alpha", "W", "")), (of_nodes, ("", "", "a"))):
            assert {(row.queue, row.worker, row.node) for row in times} == {place}
            assert sum(row.exec_time[490] for row in times) == 4
            assert sum(row.wait_time[7] for row in times) == 8

        # By the hour, whatever the time is.
        sum_up(3_600, after=-3_600.0)


def test_summing_up_again_changes_nothing(add, rows, sum_up):
    add(counted(2, ran={490: 2}), age=3_600.0)
    sum_up(60)
    before = rows()

    assert sum_up(60) == 0
    assert rows() == before


def test_a_row_that_comes_late_is_added_to_its_minute(add, rows, sum_up, conn):
    add(counted(2, ran={490: 2}), age=3_600.0)
    sum_up(60)
    conn.execute(
        "INSERT INTO oban_sync_metrics (period, started_at, name, node, queue, worker, state, jobs,"
        " exec_time) SELECT 10, started_at, name, node, queue, worker, state, 3, %s"
        " FROM oban_sync_metrics WHERE jobs > 0",
        [packed({491: 3})],
    )
    sum_up(60)

    assert sorted(rows()) == [
        (60, "", "", "completed", "a", 0, {490: 2, 491: 3}, {}),
        (60, "alpha", "W", "completed", "", 0, {490: 2, 491: 3}, {}),
        (60, "alpha", "W", "completed", "a", 5, {}, {}),
    ]


def test_what_is_new_is_not_summed_up(add, rows, sum_up):
    add(counted(), age=30.0)

    assert sum_up(60, after=60.0) == 0
    assert rows("period") == [(10,)]


def test_many_rows_are_summed_up_in_batches(add, rows, db, monkeypatch):
    monkeypatch.setattr(metrics, "BATCH", 3)

    for number in range(7):
        add(counted(worker=f"W{number}"), age=3_600.0)

    with db.transaction() as tx:
        found = [metrics.sum_up(tx, period=60, after=0.0) for _ in range(4)]

    assert found == [3, 3, 1, 0]
    assert len(rows()) == 7


def test_a_row_that_somebody_holds_waits_for_the_next_round(add, rows, db, conn, sum_up):
    add(counted(worker="W1"), counted(worker="W2"), age=3_600.0)

    with conn.transaction():
        conn.execute("SELECT FROM oban_sync_metrics WHERE worker = 'W1' FOR UPDATE")

        assert sum_up(60) == 1

    assert sum_up(60) == 1
    assert [row[0] for row in rows("jobs")] == [1, 1]


def test_what_is_old_is_deleted(add, rows, db):
    add(counted(worker="old"), age=7_200.0)
    add(counted(worker="new"), age=60.0)

    with db.session() as tx:
        assert metrics.prune(tx, keep=3_600.0) == 1

    assert rows("worker") == [("new",)]


def test_junk_in_a_sketch_is_left_out_of_a_curve(add, db, conn):
    add(counted(2, ran={490: 2}))
    conn.execute("UPDATE oban_sync_metrics SET exec_time = '\\x010203'")
    now, [found] = metrics.list_metrics(
        db, since=600.0, step=10, label="queue", exec_time=True, wait_time=True
    )

    assert found.jobs == 2
    assert metrics.sketch_of(found.ran).size == 0
    assert now > found.at
