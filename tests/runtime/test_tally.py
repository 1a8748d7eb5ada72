"""Counting on the threads of producers, and handing over what was counted."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from oban_sync.core import clock
from oban_sync.core.job import Job, JobState
from oban_sync.core.outcome import Outcome
from oban_sync.core.sketch import Sketch, met_bin_of, of_met
from oban_sync.runtime import tally as tally_module
from oban_sync.runtime.tally import MOST_CELLS, OTHER, Tallies

STARTED = clock.to_micros(datetime(2026, 11, 1, tzinfo=UTC))


def ran(worker="W", state=JobState.COMPLETED, *, duration_ns=5_000_000, waited_us=250):
    """The outcome of a job as it comes out of a mailbox."""
    row = (0, STARTED - waited_us, 1, worker, "{}", "{}", "[]", None, 1, 20, STARTED, STARTED, 0)
    outcome = Outcome(Job.fetched(row, "alpha", []), state)
    outcome.duration_ns = duration_ns

    return outcome


class Mailbox(list):
    """Of a producer whose thread is the test's."""

    def empty(self):
        while self:
            self.pop(0)()


@pytest.fixture
def tallies():
    return Tallies(3_600.0)


@pytest.fixture
def mailbox():
    return Mailbox()


@pytest.fixture
def tally(tallies, mailbox):
    return tallies.open("alpha", mailbox.append)


def test_jobs_are_counted_by_worker_and_state(tally, tallies):
    for outcome in (ran(), ran(), ran("V"), ran(state=JobState.RETRYABLE)):
        tally.count(outcome)

    tally.close()
    [part] = tallies.collect()

    assert part.queue == "alpha"
    assert {key: cell.jobs for key, cell in part.cells.items()} == {
        "W": 2,
        "V": 1,
        ("W", JobState.RETRYABLE): 1,
    }


def test_times_go_into_sketches(tally, tallies):
    tally.count(ran(duration_ns=5_000_000, waited_us=250))
    tally.count(ran(duration_ns=0, waited_us=-10))
    tally.close()
    [part] = tallies.collect()
    cell = part.cells["W"]

    assert cell.ran == {met_bin_of(5_000_000): 1}
    assert cell.waited == {met_bin_of(250_000): 1, 0: 1}
    assert Sketch(of_met(cell.ran)).max == pytest.approx(5e6, rel=0.04)


def test_a_time_that_was_looked_at_counts_the_same(tally, tallies):
    outcome = ran(waited_us=250)
    assert outcome.job.scheduled_at is not None

    tally.count(outcome)
    tally.close()
    [part] = tallies.collect()

    assert part.cells["W"].waited == {met_bin_of(250_000): 1}


@pytest.mark.parametrize("junk", [None, "soon", datetime(2026, 11, 1)])
def test_a_time_that_a_job_spoiled_is_left_out(tally, tallies, junk):
    outcome = ran()
    outcome.job._scheduled_at = junk

    tally.count(outcome)
    tally.close()
    [part] = tallies.collect()

    assert part.cells["W"].jobs == 1
    assert part.cells["W"].waited == {}


@pytest.mark.parametrize("junk", [None, 7, ["W"]])
def test_a_worker_that_a_job_spoiled_counts_as_another(tally, tallies, junk):
    outcome = ran()
    outcome.job.worker = junk

    tally.count(outcome)
    tally.count(ran(state=JobState.CANCELLED))
    tally.close()
    [part] = tallies.collect()

    assert part.cells[OTHER].jobs == 1


def test_too_many_workers_are_counted_together(tally, tallies):
    for number in range(MOST_CELLS + 50):
        tally.count(ran(f"W{number}"))

    tally.close()
    [part] = tallies.collect()

    assert len(part.cells) == MOST_CELLS + 1
    assert part.cells[OTHER].jobs == 50


def test_asking_brings_what_was_counted_up_to_now(tally, tallies, mailbox, monkeypatch):
    tally.count(ran())
    monkeypatch.setattr(Tallies, "PATIENCE", 0.0)
    assert tallies.collect() == []

    mailbox.empty()
    [part] = tallies.collect()
    assert part.cells["W"].jobs == 1

    tally.count(ran())
    tally.close()
    [part] = tallies.collect()
    assert part.cells["W"].jobs == 1


def test_a_queue_that_counted_nothing_is_not_woken(tally, tallies, mailbox):
    started = time.monotonic()

    assert tallies.collect() == []
    assert mailbox == []
    assert time.monotonic() - started < Tallies.PATIENCE


def test_an_answer_that_comes_late_is_not_taken_for_a_later_one(
    tally, tallies, mailbox, monkeypatch
):
    monkeypatch.setattr(Tallies, "PATIENCE", 0.0)
    tally.count(ran())
    assert tallies.collect() == []
    # Its answer comes now, and another one is asked for.
    mailbox.empty()
    tally.count(ran("V"))
    parts = tallies.collect()
    mailbox.empty()
    parts += tallies.collect()

    assert [list(part.cells) for part in parts] == [["W"], ["V"]]


def test_a_slot_that_ended_is_handed_over_with_its_number(tally, tallies, monkeypatch):
    now = time.monotonic_ns()
    monkeypatch.setattr(tally_module, "time", SimpleNamespace(monotonic_ns=lambda: now))
    first = tallies.slot
    tally.count(ran())
    now += 3_600 * 10**9
    tally.count(ran())
    monkeypatch.undo()
    tally.close()
    parts = tallies.collect()

    assert [part.slot for part in parts] == [first, first + 1]
    assert [part.cells["W"].jobs for part in parts] == [1, 1]


def test_what_nobody_takes_does_not_pile_up(tallies, monkeypatch):
    monkeypatch.setattr(tally_module, "MOST_PARTS", 3)

    for _ in range(10):
        tally = tallies.open("alpha", list().append)
        tally.count(ran())
        tally.close()

    assert len(tallies.collect()) == 3


def test_slots_are_numbered_without_gaps(tallies):
    number, ends = tallies.slot_at(time.monotonic_ns())

    assert tallies.slot_at(ends - 1)[0] == number
    assert tallies.slot_at(ends)[0] == number + 1
    assert 0 < tallies.seconds_left <= 3_600.0
    assert tallies.age_of(number) == pytest.approx(3_600.0 - tallies.seconds_left, abs=0.1)
