"""The loop that writes what jobs came to."""

from __future__ import annotations

import logging

import pytest

from oban_sync import DatabaseUnavailableError
from oban_sync.core.config import Config
from oban_sync.core.job import JobState
from oban_sync.core.metering import SUMMED, check_metrics
from oban_sync.core.sketch import Sketch
from oban_sync.plugins import metrics as plugin
from oban_sync.plugins.metrics import Ledger, Metrics, tallies_of
from oban_sync.runtime.tally import MOST_CELLS, OTHER, Cell, Part
from tests.support.probe import eventually
from tests.support.various_workers import Various
from tests.support.workers import Echo, Held, a_gate


def cell(jobs=1):
    made = Cell()
    made.jobs = jobs
    made.ran = {490: jobs}

    return made


class Silent:
    """A database that must not be asked."""

    def __getattr__(self, name):
        raise AssertionError(f"{name} was used")


class Away:
    """A database that cannot be reached."""

    def session(self):
        raise DatabaseUnavailableError("it is away")

    def impatient(self, seconds):
        return self


@pytest.fixture
def make(db):
    """Makes a loop, and the tallies that it takes from."""

    def make(database=db, leads=lambda: False, **options):
        options = check_metrics("metrics", options)
        tallies = tallies_of(options)
        config = Config(metrics=options)

        return Metrics(database, tallies, config, node="a", leads=leads), tallies

    return make


@pytest.fixture
def rows(conn):
    """What was written, by worker and state."""

    def rows():
        found = conn.execute(
            "SELECT queue, worker, state, node, name, sum(jobs)::int FROM oban_sync_metrics"
            " GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3"
        )

        return found.fetchall()

    return rows


def past(tallies, slots=1):
    """A slot that is over."""
    return tallies.slot - slots


def test_a_period_is_written_when_it_is_over(make, rows):
    loop, tallies = make()
    tallies.take(Part("alpha", past(tallies), {"W": cell(2), ("W", JobState.RETRYABLE): cell()}))
    tallies.take(Part("beta", tallies.slot, {"W": cell()}))
    pause = loop.tick()

    assert rows() == [
        ("alpha", "W", "completed", "a", "Oban", 2),
        ("alpha", "W", "retryable", "a", "Oban", 1),
    ]
    assert 0.0 < pause <= 10.0 + Metrics.SLACK

    # What is not over is written at a stop.
    loop.closed()

    assert rows()[-1] == ("beta", "W", "completed", "a", "Oban", 1)


def test_with_nothing_to_write_the_database_is_not_asked(make):
    loop, _ = make(Silent())

    loop.tick()
    loop._write(Silent(), loop._ledger.periods())


def test_what_several_queues_counted_is_written_at_once(make, rows, conn):
    loop, tallies = make()

    for queue in ("alpha", "beta", "alpha"):
        tallies.take(Part(queue, past(tallies), {"W": cell()}))

    loop.tick()

    assert [row[5] for row in rows()] == [2, 1]
    [(writers,)] = conn.execute("SELECT count(DISTINCT xmin::text) FROM oban_sync_metrics")
    assert writers == 1


def test_while_postgresql_is_away_counts_wait_and_keep_their_time(make, rows, conn, db):
    loop, tallies = make(Away())
    tallies.take(Part("alpha", past(tallies, 30), {"W": cell(2)}))

    with pytest.raises(DatabaseUnavailableError):
        loop.tick()

    loop._db = db
    loop.tick()

    assert [row[5] for row in rows()] == [2]
    [(age,)] = conn.execute("SELECT extract(epoch FROM now() - started_at) FROM oban_sync_metrics")
    assert 285.0 < age < 315.0


def test_what_waits_is_bounded(make, monkeypatch, caplog):
    monkeypatch.setattr(plugin, "MOST_PERIODS", 3)
    loop, tallies = make(Away())

    for slots in range(1, 6):
        tallies.take(Part("alpha", past(tallies, slots), {"W": cell(2)}))

    with caplog.at_level(logging.WARNING), pytest.raises(DatabaseUnavailableError):
        loop.tick()

    assert len(loop._ledger.periods()) == 3
    assert "4 jobs are in no chart" in caplog.text


def test_a_stop_with_postgresql_away_gives_up_what_is_left(make, caplog):
    loop, tallies = make(Away())
    tallies.take(Part("alpha", past(tallies), {"W": cell(2)}))

    with caplog.at_level(logging.WARNING):
        loop.closed()

    assert "2 jobs are in no chart: it is away" in caplog.text


def test_what_postgresql_refuses_is_given_up(make, rows, caplog, conn):
    loop, tallies = make()
    conn.execute("ALTER TABLE oban_sync_metrics ADD CHECK (jobs < 5)")
    tallies.take(Part("alpha", past(tallies, 2), {"W": cell(7)}))
    tallies.take(Part("alpha", past(tallies, 1), {"W": cell(1)}))
    loop.tick()

    assert [row[5] for row in rows()] == [1]
    assert "are given up" in caplog.text


def test_more_workers_than_anybody_looks_at_are_written_together():
    ledger = Ledger()

    for number in range(MOST_CELLS + 20):
        ledger.add(Part("alpha", 0, {f"W{number}": cell()}))

    ledger.add(Part("alpha", 0, {"W7": cell()}))
    rows = {row.worker: row.jobs for row in ledger.rows(0)}

    assert len(rows) == MOST_CELLS + 1
    assert rows[OTHER] == 20
    assert rows["W7"] == 2


def test_several_slots_make_a_period():
    ledger = Ledger(10)

    for slot in (100, 105, 109, 110):
        ledger.add(Part("alpha", slot, {"W": cell()}))

    assert ledger.periods() == [10, 11]
    assert ledger.ended(109) == []
    assert ledger.ended(110) == [10]
    assert ledger.middle(10) == 105.0
    assert [row.jobs for row in ledger.rows(10)] == [3]


def test_the_leader_sums_up_and_deletes(make, conn, monkeypatch):
    loop, tallies = make(leads=lambda: True, keep=200_000)

    for seconds in (30, 1_800, 1_810, 20_000, 100_000, 250_000):
        conn.execute(
            "INSERT INTO oban_sync_metrics (period, started_at, name, node, queue, worker, state,"
            " jobs) VALUES (10, to_timestamp(floor(extract(epoch FROM now()) / 60) * 60"
            " - %s), 'Oban', 'a', 'alpha', 'W', 'completed', 1)",
            [seconds],
        )

    loop._upkeep._due_at = 0.0
    loop.tick()
    found = conn.execute(
        "SELECT period, sum(jobs)::int FROM oban_sync_metrics WHERE scope = 'states'"
        " GROUP BY 1 ORDER BY 1"
    )

    assert found.fetchall() == [(10, 1), (60, 2), (3_600, 1), (10_800, 1)]
    assert loop._upkeep._due_at > 0.0


def test_between_two_rounds_the_leader_makes_rows_that_charts_read(make, rows, conn):
    loop, tallies = make(leads=lambda: True)
    tallies.take(Part("alpha", past(tallies, 5), {"W": cell(2)}))
    loop.tick()
    loop._upkeep._spread_at = 0.0
    loop.tick()
    found = conn.execute("SELECT DISTINCT scope, period FROM oban_sync_metrics").fetchall()

    assert sorted(found) == [(scope, 10) for scope in sorted(SUMMED)]
    assert loop._upkeep._spread_at > 0.0


@pytest.mark.parametrize("due", ["_spread_at", "_due_at"])
def test_a_round_that_fails_is_not_tried_again_at_once(make, monkeypatch, due):
    loop, _ = make(leads=lambda: True)
    monkeypatch.setattr(plugin, "_SPREAD", lambda tx: 1 / 0)
    setattr(loop._upkeep, due, 0.0)

    with pytest.raises(ZeroDivisionError):
        loop.tick()

    loop.tick()


def test_what_was_handed_over_is_not_changed_by_counting_it():
    ledger = Ledger()
    one, other = Cell(), Cell()
    one.jobs, other.jobs = 3, 4
    ledger.add(Part("alpha", 0, {"W": one}))
    ledger.add(Part("alpha", 0, {"W": other}))

    assert (one.jobs, other.jobs) == (3, 4)
    assert [row.jobs for row in ledger.rows(0)] == [7]


def test_who_does_not_lead_sums_up_nothing(make):
    loop, _ = make(Silent())
    loop._upkeep._due_at = 0.0

    loop.tick()


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_what_jobs_come_to_is_counted_and_written_at_the_stop(make_oban, rows, factory, executor):
    oban = make_oban(queues={"alpha": {"limit": 3, "executor": executor}}, node="here").start()
    jobs = [Echo.enqueue() for _ in range(3)]
    jobs += [Various.enqueue({"do": what}) for what in ("fail", "snooze", "cancel")]
    jobs.append(Various.enqueue({"do": "fail"}, max_attempts=1))
    eventually(
        lambda: (
            factory.states(*[job.id for job in jobs])
            == ["completed"] * 3 + ["retryable", "scheduled", "cancelled", "discarded"]
        ),
        # Children have to be started, which takes long beside other tests.
        within=30.0,
    )
    oban.stop()

    assert rows() == [
        ("alpha", "tests.Echo", "completed", "here", "Oban", 3),
        ("alpha", "tests.Various", "cancelled", "here", "Oban", 1),
        ("alpha", "tests.Various", "discarded", "here", "Oban", 1),
        ("alpha", "tests.Various", "retryable", "here", "Oban", 1),
        ("alpha", "tests.Various", "scheduled", "here", "Oban", 1),
    ]


def test_a_job_that_finishes_during_the_stop_is_counted(make_oban, rows):
    oban = make_oban(queues={"alpha": 1}).start()

    with a_gate() as gate:
        Held.enqueue({"gate": "gate"})
        gate.wait_until_entered()
        oban._lifecycle.supervisor.roster.quiet()
        gate.release.set()
        oban.stop(grace=10.0)

    assert [row[1:3] + row[5:] for row in rows()] == [("tests.Held", "completed", 1)]


def test_how_long_jobs_ran_and_waited_is_known(make_oban, conn):
    oban = make_oban(queues={"alpha": 1}).start()

    with a_gate() as gate:
        Held.enqueue({"gate": "gate"})
        gate.wait_until_entered()
        gate.release.set()

    job = Echo.enqueue()
    eventually(lambda: oban.get_job(job.id).state == "completed")
    oban.stop()
    found = conn.execute("SELECT exec_time, wait_time FROM oban_sync_metrics").fetchall()

    assert len(found) == 2

    for exec_time, wait_time in found:
        assert Sketch.unpacked(exec_time).size == 1
        assert Sketch.unpacked(wait_time).size == 1


def test_turned_off_nothing_is_counted(make_oban, rows, factory):
    oban = make_oban(queues={"alpha": 1}, metrics=False).start()
    job = Echo.enqueue()
    eventually(lambda: factory.states(job.id) == ["completed"])
    producer = oban._lifecycle.supervisor.roster._members["alpha"].producer

    assert producer._tally is None

    oban.stop()

    assert rows() == []


def test_a_queue_that_is_stopped_leaves_nothing_behind(make_oban, rows, factory):
    oban = make_oban(queues={"alpha": 1}).start()
    job = Echo.enqueue()
    eventually(lambda: factory.states(job.id) == ["completed"])
    oban.stop_queue("alpha")
    eventually(lambda: oban.check_all_queues() == [])
    oban.stop()

    assert [row[5] for row in rows()] == [1]


def test_the_loop_itself_writes_while_the_node_runs(make_oban, rows):
    oban = make_oban(queues={"alpha": 1}, metrics={"interval": 1}).start()
    Echo.enqueue()

    assert eventually(rows)[0][5] == 1
    assert oban.health().ok
