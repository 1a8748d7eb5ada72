"""Where the scan for available jobs begins."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from oban_sync.core.outcome import of_result
from oban_sync.engine import fetch, scan
from oban_sync.engine.fetch import Claim
from oban_sync.engine.scan import HEAD, LEAST, Scan

OWNER = "6b1d6d6e-0000-4000-8000-000000000003"


@pytest.fixture
def claim():
    return Claim("alpha", "node", OWNER)


@pytest.fixture
def now(monkeypatch):
    clock = SimpleNamespace(now=1_000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(scan, "time", clock)

    return clock


@pytest.fixture
def moved(db, claim, factory, conn, now):
    """After so many jobs that the next turn begins behind them."""
    conn.execute(
        "INSERT INTO oban_jobs (queue, worker, priority)"
        " SELECT 'alpha', 'W', 3 FROM generate_series(1, %s)",
        [LEAST + 50],
    )
    jobs = fetch.turn(db, claim, (), LEAST).jobs
    assert claim.scan.place == (3, jobs[-1]._scheduled_at, jobs[-1].id)

    return jobs


def taken(db, claim, demand):
    return [job.id for job in fetch.turn(db, claim, (), demand).jobs]


def test_a_turn_goes_on_behind_the_one_before(db, claim, moved):
    last = moved[-1].id

    assert taken(db, claim, 20) == list(range(last + 1, last + 21))
    assert taken(db, claim, 20) == list(range(last + 21, last + 41))


def test_a_more_urgent_job_waits_for_the_next_look_at_the_head(db, claim, moved, factory, now):
    urgent = factory.job(queue="alpha", priority=0)

    assert urgent not in taken(db, claim, 10)
    now.now += scan.INTERVAL

    assert taken(db, claim, 10)[0] == urgent


def test_what_was_passed_over_is_found_when_a_turn_comes_back_short(db, claim, moved, factory):
    urgent = factory.job(queue="alpha", priority=0)
    turn = fetch.turn(db, claim, (), 51)

    assert len(turn.jobs) == 50
    assert turn.again_in == 0.0
    assert taken(db, claim, 1) == [urgent]


def test_a_short_turn_from_the_head_is_not_repeated(db, claim, factory):
    factory.job(queue="alpha")
    turn = fetch.turn(db, claim, (), 5)

    assert len(turn.jobs) == 1
    assert turn.again_in is None


def test_a_turn_that_only_writes_leaves_the_place_alone(db, claim, moved):
    place = claim.scan.place
    turn = fetch.turn(db, claim, [of_result(moved[0], None)], 0)

    assert claim.scan.place == place
    assert turn.again_in is None


def test_few_jobs_are_no_reason_to_move_on(db, claim, factory):
    jobs = [factory.job(queue="alpha") for _ in range(3)]

    assert taken(db, claim, 2) == jobs[:2]
    assert claim.scan.place == HEAD


def test_a_slow_look_at_the_head_is_repeated_less_often(now):
    place = Scan()

    for took, rest in ((0.001, scan.INTERVAL), (0.02, 0.2), (30.0, scan.LONGEST_INTERVAL)):
        place.begin()
        assert place.place == HEAD
        now.now += took
        place.end([(0, 1, 1)] * LEAST, LEAST)
        now.now += rest - 0.0001
        place.begin()
        assert place.place == (0, 1, 1)
        now.now += 0.0002


def test_jobs_of_the_same_moment_are_told_apart_by_their_ids(db, claim, conn, now):
    conn.execute(
        "INSERT INTO oban_jobs (queue, worker, scheduled_at)"
        " SELECT 'alpha', 'W', '2026-01-01' FROM generate_series(1, %s)",
        [LEAST + 10],
    )
    first = taken(db, claim, LEAST)

    assert taken(db, claim, 10) == list(range(first[-1] + 1, first[-1] + 11))


def test_a_refused_job_is_not_mistaken_for_the_head(db, claim, moved, conn, factory):
    """What is behind the place is refused; the more urgent one before it must not be blamed."""
    urgent = factory.job(queue="alpha", priority=0)
    [(poison,)] = conn.execute(
        "SELECT min(id) FROM oban_jobs WHERE state = 'available' AND priority = 3"
    ).fetchall()
    conn.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN IF OLD.id = {poison} THEN RAISE 'no'; END IF; RETURN NEW; END $$"
    )
    conn.execute(
        "CREATE TRIGGER refuse BEFORE UPDATE ON oban_jobs FOR EACH ROW EXECUTE FUNCTION refuse()"
    )

    assert urgent in taken(db, claim, 5)
    assert claim.shunned.ids() == [poison]
