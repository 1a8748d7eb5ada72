"""Who is taken for dead, and who is not."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest

from oban_sync import DatabaseUnavailableError
from oban_sync.core.loops import LifelineConfig
from oban_sync.engine import nodes
from oban_sync.plugins.lifeline import Lifeline
from tests.support.probe import eventually


@pytest.fixture
def lifeline(db):
    return Lifeline(db, str(uuid4()), LifelineConfig(), leads=lambda: True)


def look(lifeline, *, later=0.0):
    """Look, as if so many seconds had passed since the look before."""
    lifeline._looked_at -= min(later, lifeline.interval)

    for watch in lifeline._watches.values():
        watch.since -= later

        if watch.unlocked_since is not None:
            watch.unlocked_since -= later

    return lifeline.tick()


@pytest.fixture
def node(factory):
    """Another node with a job, whose session is gone."""
    uuid = factory.node("alpha", lock_key=77)

    return uuid, factory.executing(factory.owner(uuid, "alpha"))


def test_a_node_whose_process_died_is_found_within_seconds(lifeline, factory, node, probe):
    _, job = node
    look(lifeline)

    assert factory.states(job) == ["executing"]

    look(lifeline, later=5.5)

    assert factory.states(job) == ["executing"]

    look(lifeline, later=0.6)

    assert factory.states(job) == ["available"]

    told = probe.next("oban.lifeline.rescue.stop", rescued_count=1)

    assert told["jobs"] == [job]
    assert "session is gone" in told["reason"]


def test_a_process_that_merely_stalls_keeps_its_jobs(lifeline, factory, node, dsn):
    _, job = node

    with psycopg.connect(dsn, autocommit=True) as session:
        nodes.hold_lock(nodes.Tx(session, "pg_catalog"), 77)
        look(lifeline)
        look(lifeline, later=50)

        assert factory.states(job) == ["executing"]

        # But not for ever: it may be cut off, or stopped for good.
        look(lifeline, later=11)

        assert factory.states(job) == ["available"]


def test_without_a_session_to_judge_by_a_node_gets_the_long_time(lifeline, factory):
    uuid = factory.node("alpha", lock_key=None)
    job = factory.executing(factory.owner(uuid, "alpha"))
    look(lifeline)
    look(lifeline, later=59)

    assert factory.states(job) == ["executing"]

    look(lifeline, later=2)

    assert factory.states(job) == ["available"]


def test_a_beat_starts_the_watch_anew(lifeline, factory, node, conn):
    _, job = node
    look(lifeline)
    conn.execute("UPDATE oban_sync_nodes SET beats = beats + 1")
    look(lifeline, later=7)
    look(lifeline, later=5)

    assert factory.states(job) == ["executing"]


def test_a_lock_that_is_free_for_a_moment_only_kills_nobody(lifeline, factory, node, dsn):
    _, job = node

    with psycopg.connect(dsn, autocommit=True) as session:
        nodes.hold_lock(nodes.Tx(session, "pg_catalog"), 77)
        look(lifeline)

    # PostgreSQL frees it when its session has ended, which nobody waits for by closing it.
    held = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 77"
    eventually(lambda: factory._conn.execute(held).fetchone() is None)

    # Its beats are late, and just now its connection is being made anew.
    look(lifeline, later=8)

    assert factory.states(job) == ["executing"]

    look(lifeline, later=1.1)

    assert factory.states(job) == ["available"]


def test_the_owner_says_how_long_it_may_be_silent(lifeline, factory):
    uuid = factory.node("alpha", lock_key=77, unlocked_max_age=20, max_age=30)
    job = factory.executing(factory.owner(uuid, "alpha"))
    look(lifeline)
    look(lifeline, later=19)

    assert factory.states(job) == ["executing"]

    look(lifeline, later=2)

    assert factory.states(job) == ["available"]


def test_after_a_gap_of_its_own_the_lifeline_watches_anew(lifeline, factory, node):
    _, job = node
    look(lifeline)
    lifeline._looked_at -= 60
    look(lifeline, later=100)

    assert factory.states(job) == ["executing"]


def test_after_a_restart_of_postgresql_everybody_is_watched_anew(lifeline, factory, node):
    _, job = node
    look(lifeline)
    lifeline._server = "another start"
    look(lifeline, later=100)

    assert factory.states(job) == ["executing"]


def test_after_a_failed_look_everybody_is_watched_anew(lifeline, factory, node, monkeypatch):
    _, job = node
    look(lifeline)
    original, failures = nodes.watch, [DatabaseUnavailableError("away")]

    def watch(tx, uuid):
        if failures:
            raise failures.pop()

        return original(tx, uuid)

    monkeypatch.setattr(nodes, "watch", watch)
    look(lifeline, later=100)

    assert factory.states(job) == ["executing"]


def test_the_row_of_a_node_without_jobs_goes_too(lifeline, factory, conn, node):
    look(lifeline)
    look(lifeline, later=7)

    assert conn.execute("SELECT count(*) FROM oban_sync_nodes").fetchone() == (0,)


def test_a_full_batch_is_followed_by_the_next_at_once(db, factory):
    uuid = factory.node("alpha", lock_key=77)
    jobs = [factory.executing(factory.owner(uuid, "alpha")) for _ in range(3)]
    lifeline = Lifeline(db, "me", LifelineConfig(limit=2), leads=lambda: True)
    look(lifeline)

    assert look(lifeline, later=7) == 0.0
    assert look(lifeline) is None
    assert factory.states(*jobs) == ["available"] * 3


def test_jobs_of_unknown_owners_are_the_leaders(db, factory):
    job = factory.executing("nobody", attempted_at="2026-01-01")
    look(Lifeline(db, "me", LifelineConfig(), leads=lambda: False))

    assert factory.states(job) == ["executing"]

    look(Lifeline(db, "me", LifelineConfig(), leads=lambda: True))

    assert factory.states(job) == ["available"]


def test_two_that_find_the_same_node_dead_rescue_it_once(db, factory, node):
    _, job = node
    both = [Lifeline(db, name, LifelineConfig(), leads=lambda: True) for name in ("a", "b")]

    for lifeline in both:
        look(lifeline)

    for lifeline in both:
        look(lifeline, later=7)

    assert factory.row(job)["meta"]["rescued"] == 1
