"""What is asked of queues and cron entries in the transaction of whoever asks."""

from __future__ import annotations

import psycopg
import pytest

from oban_sync import ConfigError
from oban_sync.control.transactions import in_transaction
from tests.support.peer_callers import CALLERS


@pytest.fixture
def entry(oban):
    oban.insert_cron("0 9 * * *", "tests.Nightly", entry="nightly")
    oban.insert_cron("0 9 * * *", "tests.Nightly", entry="old")

    return "nightly"


def stand(conn):
    """What was asked of queues, and the entries."""
    orders = conn.execute(
        "SELECT queue, aspect, value FROM oban_sync_controls ORDER BY queue, aspect"
    ).fetchall()
    entries = conn.execute("SELECT entry, paused FROM oban_sync_crons ORDER BY entry").fetchall()

    return orders, entries


@pytest.mark.parametrize("kind", CALLERS)
def test_what_is_asked_for_belongs_to_the_caller_s_transaction(oban, entry, conn, dsn, kind):
    oban.scale_queue("beta", 3)
    before = stand(conn)

    def ask(own):
        oban.pause_queue("alpha", by="anna", until=3600, conn=own)
        oban.scale_queue("alpha", 7, conn=own)
        oban.start_queue("new", 2, paused=True, conn=own)
        oban.stop_queue("gone", conn=own)
        oban.reset_queue("beta", conn=own)
        assert oban.pause_cron(entry, by="anna", conn=own).paused_by == "anna"
        oban.delete_cron("old", conn=own)

    with CALLERS[kind](dsn) as caller:
        ask(caller.conn)
        # Nothing of it is committed.
        assert stand(conn) == before
        caller.rollback()

    assert stand(conn) == before

    with CALLERS[kind](dsn) as caller:
        ask(caller.conn)
        caller.commit()

    orders, entries = stand(conn)
    assert [(queue, aspect, value) for queue, aspect, value in orders] == [
        ("alpha", "limit", 7),
        ("alpha", "paused", True),
        ("gone", "running", False),
        ("new", "paused", True),
        ("new", "running", 2),
    ]
    assert entries == [("nightly", True)]

    with CALLERS[kind](dsn) as caller:
        oban.resume_queue("alpha", conn=caller.conn)
        assert oban.resume_cron(entry, conn=caller.conn).paused is False
        caller.commit()

    orders, entries = stand(conn)
    assert ("alpha", "paused", False) in orders
    assert entries == [("nightly", False)]


def test_nodes_hear_of_it_when_it_is_committed(make_oban, dsn, probe):
    oban = make_oban(queues={"alpha": 1}).start()

    with psycopg.connect(dsn) as own:
        oban.pause_all_queues(conn=own)
        oban.resume_all_queues(conn=own)
        oban.pause_all_queues(conn=own)
        assert not oban.check_queue("alpha").paused
        own.commit()

    probe.next("oban.queue.paused", queue="alpha")


def test_what_is_no_connection_is_refused(oban, entry, conn):
    before = stand(conn)

    for ask in (
        lambda: oban.pause_queue("alpha", conn="postgresql://"),
        lambda: oban.reset_queue("alpha", conn=7),
        lambda: oban.delete_cron(entry, conn=object()),
    ):
        with pytest.raises(ConfigError, match="^conn: "):
            ask()

    assert stand(conn) == before


def test_a_queue_starts_paused_or_not_at_all(oban, conn):
    conn.execute(
        "ALTER TABLE oban_sync_controls ADD CONSTRAINT no_start CHECK (aspect <> 'running')"
    )

    with pytest.raises(psycopg.errors.CheckViolation):
        oban.start_queue("new", 2, paused=True)

    assert stand(conn)[0] == []


def test_what_lost_a_race_is_done_again_and_by_the_caller_on_its_own(db, conn):
    tries = []

    def work(tx):
        tries.append(tx)

        if len(tries) % 2:
            raise psycopg.errors.DeadlockDetected

        return "done"

    assert in_transaction(db, work) == "done"
    assert len(tries) == 2

    with pytest.raises(psycopg.errors.DeadlockDetected):
        in_transaction(db, work, conn=conn)


@pytest.mark.parametrize(("option", "most"), [("by", 255), ("node", 255)])
def test_what_nodes_could_not_be_told_is_refused(oban, conn, option, most):
    oban.pause_queue("alpha", **{option: "日" * most})

    with pytest.raises(ConfigError, match=f"^{option}: has 256 characters"):
        oban.pause_queue("alpha", **{option: "日" * (most + 1)})

    assert len(stand(conn)[0]) == 1


def test_the_longest_of_everything_can_be_told(oban, conn):
    oban.pause_queue("日" * 127, node="日" * 255, by="日" * 255, until=60)

    assert len(stand(conn)[0]) == 1
