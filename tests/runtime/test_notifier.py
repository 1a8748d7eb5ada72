"""The LISTEN thread: what it does when it hears nothing, and when there is nothing to listen to."""

from __future__ import annotations

import logging

from oban_sync.engine import connections
from oban_sync.runtime.notifier import Notifier
from tests.support.probe import eventually
from tests.support.workers import Echo


def notifier_of(oban):
    return oban._lifecycle._supervisor._notifier


def test_a_deaf_connection_is_found_out_and_made_anew(make_oban, probe, monkeypatch, conn):
    monkeypatch.setattr(Notifier, "DEAF_AFTER", 0.2)
    oban = make_oban(queues={"alpha": 1}).start()
    probe.next("oban.notifier.connected")
    notifier = notifier_of(oban)
    # As behind a pooler: the session that listened is another one by now.
    hears = notifier._hear[notifier._ping]
    notifier._hear[notifier._ping] = lambda payload: None
    oban._lifecycle._supervisor._refresher.wake()
    probe.next("oban.notifier.deaf")
    probe.next("oban.notifier.connected")

    assert notifier.degraded

    notifier._hear[notifier._ping] = hears
    oban._lifecycle._supervisor._refresher.wake()
    eventually(lambda: not notifier.degraded)


def test_a_node_that_hears_nothing_looks_by_itself(make_oban, probe, monkeypatch):
    monkeypatch.setattr(Notifier, "degraded", property(lambda self: True))
    oban = make_oban(queues={"alpha": 1}, stager={"interval": 1000})
    oban.start()
    refresher = oban._lifecycle._supervisor._refresher

    refresher._beat_at = float("-inf")

    assert refresher.tick() <= refresher.DEGRADED_INTERVAL

    probe.next("oban.stager.stage.stop")
    probe.next("oban.stager.stage.stop")


def test_without_a_listener_jobs_and_orders_are_found_by_looking(make_oban, oban, probe):
    one = make_oban(queues={"alpha": 1}, listen_conninfo="off", stager={"interval": 1000}).start()
    Echo.enqueue()
    probe.next("oban.job.stop")
    oban.pause_queue("alpha")
    probe.next("oban.queue.paused")

    assert notifier_of(one) is None


def test_behind_a_pooler_no_session_is_relied_on(make_oban, probe, monkeypatch, conn, caplog):
    monkeypatch.setattr(connections, "is_pooled", lambda conn: True)
    monkeypatch.setattr("oban_sync.assembly.is_pooled", lambda conn: True)

    with caplog.at_level(logging.WARNING, "oban_sync.runtime"):
        oban = make_oban(queues={"alpha": 1}).start()

    oban.enqueue_many(Echo.new() for _ in range(50))

    for _ in range(50):
        probe.next("oban.job.stop")

    assert "a pooler stands before PostgreSQL" in caplog.text
    assert conn.execute("SELECT lock_key FROM oban_sync_nodes").fetchone() == (None,)
    assert conn.execute(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database())"
    ).fetchone() == (0,)


def test_a_listener_that_leads_nowhere_for_now_does_not_keep_a_node_from_starting(
    make_oban, probe, monkeypatch, caplog
):
    monkeypatch.setattr("oban_sync.runtime.supervisor.READY_PERIOD", 0.1)

    with caplog.at_level(logging.WARNING, "oban_sync.runtime"):
        make_oban(queues={"alpha": 1}, listen_conninfo="postgresql://127.0.0.1:1/nowhere").start()

    Echo.enqueue()
    probe.next("oban.job.stop")

    assert "listen_conninfo leads nowhere" in caplog.text


def test_the_session_lock_is_held_while_the_node_lives(make_oban, conn):
    held = (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    oban = make_oban(queues={"alpha": 1}).start()

    assert conn.execute(held).fetchone() == (1,)

    oban.stop()
    eventually(lambda: conn.execute(held).fetchone() == (0,))


def test_a_ping_that_is_heard_before_its_beat_returns_is_not_waited_for(make_oban):
    notifier = notifier_of(make_oban(queues={"alpha": 1}).start())
    notifier._heard_ping({"beats": 70})
    notifier.pinged(70)

    assert notifier._deaf_at == float("inf")

    notifier.pinged(71)
    assert notifier._deaf_at < float("inf")

    notifier._heard_ping({"beats": 71})
    assert notifier._deaf_at == float("inf")
