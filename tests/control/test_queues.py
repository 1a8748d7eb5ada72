"""Pausing, resuming, starting, stopping and scaling queues, of one node and of all."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from oban_sync import ConfigError, DatabaseUnavailableError
from oban_sync.core.controls import Control
from oban_sync.engine import nodes
from oban_sync.engine.session import Db
from oban_sync.runtime.producer import Producer
from tests.support.probe import eventually
from tests.support.workers import Echo, Held, a_gate


@pytest.fixture
def gate():
    with a_gate() as gate:
        yield gate


@pytest.fixture
def node(make_oban):
    """Makes nodes that run alpha."""

    def node(name="one", **options):
        return make_oban(node=name, queues={"alpha": 2}, **options).start()

    return node


def info(oban, queue="alpha"):
    return oban.check_queue(queue)


def signal(conn, prefix, **payload):
    """What a node of another kind sends."""
    conn.execute("SELECT pg_notify(%s, %s)", [f"{prefix}.oban_signal", json.dumps(payload)])


def deaf(oban):
    """Let a node hear nothing, so that only its beats tell it anything."""
    notifier = oban._lifecycle._supervisor._notifier

    for channel in list(notifier._hear):
        if "oban_sync_" not in channel:
            notifier._hear[channel] = lambda payload: None


def beat(oban):
    oban._lifecycle._supervisor._refresher.wake()


def test_a_paused_queue_takes_no_jobs_until_it_is_resumed(node, oban, probe, factory):
    one = node()
    oban.pause_queue("alpha", by="anna")
    probe.next("oban.queue.paused", queue="alpha")
    job = Echo.enqueue()
    paused = info(one)

    assert (paused.paused, paused.paused_by, paused.paused_until) == (True, "anna", None)
    assert datetime.now(UTC) - paused.paused_at < timedelta(minutes=1)
    assert factory.states(job.id) == ["available"]

    oban.resume_queue("alpha")
    probe.next("oban.job.stop")

    assert info(one).paused is False


def test_running_jobs_go_on_while_their_queue_is_paused(node, oban, probe, gate, factory):
    node()
    job = Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()
    oban.pause_queue("alpha")
    probe.next("oban.queue.paused")
    gate.release.set()
    probe.next("oban.job.stop")
    eventually(lambda: factory.states(job.id) == ["completed"])


def test_a_node_that_starts_later_honours_a_pause(node, oban, probe, factory):
    oban.pause_queue("alpha")
    later = node()
    job = Echo.enqueue()

    assert info(later).paused is True

    # Another queue of the same node shows that it does look for jobs.
    oban.start_queue(queue="beta", limit=1)
    Echo.enqueue(queue="beta")

    assert probe.next("oban.job.stop")["job"].queue == "beta"
    assert factory.states(job.id) == ["available"]


def test_a_pause_outlives_every_node(node, oban, make_oban):
    first = node()
    oban.pause_queue("alpha")
    first.stop()

    assert info(node()).paused is True


def test_a_pause_of_one_node_leaves_the_others_running(node, oban, probe):
    one, two = node("one"), node("two")
    oban.pause_queue("alpha", node="one")
    probe.next("oban.queue.paused")

    assert info(one).paused is True

    Echo.enqueue()
    job = probe.next("oban.job.stop")["job"]

    assert job.attempted_by[0] == "two"
    assert info(two).paused is False


def test_a_pause_ends_by_itself_when_it_was_given_an_end(node, oban, probe, conn):
    one = node()
    until = datetime.now(UTC) + timedelta(hours=1)
    oban.pause_queue("alpha", until=until)
    probe.next("oban.queue.paused")
    beat(one)
    eventually(lambda: info(one).paused_until == until)
    conn.execute("UPDATE oban_sync_controls SET until = now() - interval '1 s'")
    beat(one)
    probe.next("oban.queue.resumed")


def test_all_queues_are_paused_and_resumed_at_once(make_oban, oban, probe):
    one = make_oban(queues={"alpha": 1, "beta": 1}).start()
    oban.pause_queue("beta")
    oban.pause_all_queues(by="night shift")
    eventually(lambda: all(item.paused for item in one.check_all_queues()))
    oban.resume_all_queues()
    eventually(lambda: not any(item.paused for item in one.check_all_queues()))


def test_a_scaled_queue_runs_more_or_fewer_jobs_at_once(node, oban, probe, gate):
    one = node()
    oban.scale_queue(queue="alpha", limit=4)
    probe.next("oban.queue.scaled", limit=4)
    jobs = [Held.enqueue({"gate": "gate"}) for _ in range(5)]
    eventually(lambda: len(info(one).running) == 4)

    oban.scale_queue(queue="alpha", limit=1)
    probe.next("oban.queue.scaled", limit=1)
    gate.release.set()

    for _ in jobs:
        probe.next("oban.job.stop")

    assert info(one).limit == 1
    assert one._lifecycle._supervisor.roster._members["alpha"].producer._slots.size == 1


def test_a_scaled_down_queue_never_runs_more_than_its_limit(node, oban, probe, factory):
    node()
    oban.scale_queue(queue="alpha", limit=10)
    probe.next("oban.queue.scaled", limit=10)
    oban.enqueue_many(Echo.new() for _ in range(200))
    oban.scale_queue(queue="alpha", limit=1)
    probe.next("oban.queue.scaled", limit=1)
    oban.enqueue_many(Echo.new() for _ in range(200))
    eventually(lambda: factory.count(state="completed", attempt=1) == 400)


def test_a_queue_is_started_and_stopped_on_every_node(node, oban, probe, factory):
    one, two = node("one"), node("two")
    oban.start_queue(queue="beta", limit=3)

    for _ in range(2):
        probe.next("oban.queue.started", queue="beta", limit=3)

    Echo.enqueue(queue="beta")
    probe.next("oban.job.stop")

    assert info(one, "beta").limit == info(two, "beta").limit == 3

    # The row comes with the next beat at the latest.
    eventually(lambda: any(queue.queue == "beta" for queue in oban.list_nodes()[0].queues))
    oban.stop_queue(queue="beta")

    for _ in range(2):
        probe.next("oban.queue.stopped", queue="beta")

    job = Echo.enqueue(queue="beta")
    eventually(lambda: info(one, "beta") is None or info(one, "beta").stopping)
    Echo.enqueue()

    assert probe.next("oban.job.stop")["job"].queue == "alpha"
    assert factory.states(job.id) == ["available"]


def test_a_configured_queue_that_was_stopped_stays_so_on_nodes_that_start_later(node, oban, probe):
    oban.stop_queue(queue="alpha")
    later = node()
    eventually(lambda: info(later) is None)
    oban.start_queue(queue="alpha", limit=7)
    eventually(lambda: info(later) is not None)

    assert info(later).limit == 7


def test_a_queue_started_paused_takes_nothing(node, oban, probe, factory):
    one = node()
    oban.start_queue(queue="beta", limit=1, paused=True)
    probe.next("oban.queue.started")
    job = Echo.enqueue(queue="beta")
    Echo.enqueue()
    probe.next("oban.job.stop")

    assert info(one, "beta").paused is True
    assert factory.states(job.id) == ["available"]


def test_jobs_of_a_stopped_queue_may_finish(node, oban, probe, gate, factory):
    one = node()
    job = Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()
    oban.stop_queue(queue="alpha")
    probe.next("oban.queue.stopped")

    assert info(one).stopping is True
    assert info(one).running == [job.id]

    gate.release.set()
    eventually(lambda: factory.states(job.id) == ["completed"])


def test_jobs_of_a_stopped_queue_that_do_not_finish_are_handed_back(
    make_oban, oban, probe, gate, factory
):
    make_oban(queues={"alpha": 1}, shutdown_grace_period=0.1).start()
    job = Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()
    oban.stop_queue(queue="alpha")
    probe.next("oban.producer.release")

    assert factory.states(job.id) == ["available"]


def test_an_order_whose_signal_is_lost_is_followed_at_the_next_beat(node, oban, probe):
    one = node()
    deaf(one)
    oban.pause_queue("alpha")
    oban.scale_queue(queue="alpha", limit=9)
    beat(one)
    probe.next("oban.queue.paused")

    eventually(lambda: (info(one).paused, info(one).limit) == (True, 9))


def test_a_cancel_whose_signal_is_lost_is_heard_at_the_next_beat(node, oban, gate):
    one = node()
    deaf(one)
    job = Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()
    oban.cancel_job(job.id)
    producer = one._lifecycle._supervisor.roster._members["alpha"].producer
    beat(one)
    eventually(lambda: any(running.cancelled() for running in producer._running.copy()))


def test_a_cancel_is_heard_at_once(node, oban, gate):
    one = node(refresher={"interval": 1000, "max_age": 9000, "unlocked_max_age": 9000})
    job = Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()
    oban.cancel_job(job.id)
    producer = one._lifecycle._supervisor.roster._members["alpha"].producer
    eventually(lambda: any(running.cancelled() for running in producer._running.copy()))


# Signals of nodes of other kinds, as captured from them


def test_the_signals_of_other_nodes_are_followed(node, conn, prefix, probe):
    one = node()
    signal(conn, prefix, action="pause", ident="any", queue="alpha")
    probe.next("oban.queue.paused")
    signal(conn, prefix, action="resume", ident="any", queue="*")
    probe.next("oban.queue.resumed")
    signal(conn, prefix, action="scale", ident="any", limit=7, queue="alpha")
    probe.next("oban.queue.scaled", limit=7)
    signal(conn, prefix, action="scale", ident="Oban.one", limit=8, local_only=True, queue="alpha")
    probe.next("oban.queue.scaled", limit=8)
    signal(conn, prefix, action="start", ident="any", limit=3, queue="extra", paused=False)
    probe.next("oban.queue.started", queue="extra")
    signal(conn, prefix, action="stop", ident="any", queue="extra")
    probe.next("oban.queue.stopped", queue="extra")

    assert info(one).limit == 8


def test_a_signal_for_another_node_or_instance_is_not_followed(node, conn, prefix, probe):
    one = node()

    for ident in ("Oban.two", "Other.one", "Oban.one.more", "", None, 5):
        signal(conn, prefix, action="pause", ident=ident, queue="alpha")

    signal(conn, prefix, action="scale", ident="Oban.one", limit=7, queue="alpha")
    probe.next("oban.queue.scaled", limit=7)

    assert info(one).paused is False


def test_a_signal_of_another_kind_of_node_outlives_the_beats_and_yields_to_a_newer_row(
    node, oban, conn, prefix, probe
):
    one = node()
    signal(conn, prefix, action="pause", ident="any", queue="alpha")
    probe.next("oban.queue.paused")

    for _ in range(3):
        beat(one)
        probe.next("oban.refresher.refresh.stop")

    assert info(one).paused is True

    oban.resume_queue("alpha")
    probe.next("oban.queue.resumed")
    beat(one)
    probe.next("oban.refresher.refresh.stop")

    assert info(one).paused is False


def test_a_row_that_was_read_before_an_order_does_not_undo_it(node, probe):
    """A beat is on its way with what was asked before, when the next order is heard."""
    one = node(refresher={"interval": 1000, "max_age": 9000, "unlocked_max_age": 9000})
    roster = one._lifecycle._supervisor.roster
    start = {"action": "start", "ident": "any", "queue": "beta", "limit": 3}
    roster.announced(2, start)
    roster.heard(start)
    probe.next("oban.queue.started", queue="beta")
    roster.apply([Control(1, "beta", "running", False)])

    assert "beta" in roster.names

    # And the row itself, of which the order was the signal, and then a newer one.
    roster.apply([Control(2, "beta", "running", 3)])
    assert roster._heard == []

    roster.apply([Control(3, "beta", "running", False)])
    assert "beta" not in roster.names


@pytest.mark.parametrize("seq", ["1e999", "-1", "0", "1e18", "NaN"])
def test_an_order_that_no_row_could_follow_is_not_announced(node, conn, prefix, probe, seq):
    """Or a forged pause would outlast every resuming."""
    one = node()
    payload = f'{{"order":{seq},"signal":{{"action":"pause","ident":"any","queue":"alpha"}}}}'
    conn.execute("SELECT pg_notify(%s, %s)", [f"{prefix}.oban_sync", payload])

    assert probe.next("oban.notifier.junk")
    assert one._lifecycle._supervisor.roster._announced == []


def test_a_kill_signal_asks_the_job_to_stop(node, conn, prefix, gate, oban):
    one = node()
    job = Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()
    signal(conn, prefix, action="pkill", job_id=job.id)
    producer = one._lifecycle._supervisor.roster._members["alpha"].producer
    eventually(lambda: any(running.cancelled() for running in producer._running.copy()))


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"action": "dance"},
        {"action": ["pause"]},
        {"action": "pause"},
        {"action": "pause", "queue": 5},
        {"action": "pause", "queue": ""},
        {"action": "pause", "queue": "x" * 200},
        {"action": "scale", "queue": "alpha"},
        {"action": "scale", "queue": "alpha", "limit": "many"},
        {"action": "scale", "queue": "alpha", "limit": -1},
        {"action": "scale", "queue": "alpha", "limit": 1e300},
        {"action": "start", "queue": "alpha", "limit": None},
        {"action": "pkill"},
        {"action": "pkill", "job_id": "five"},
        {"action": "pkill", "job_id": None},
    ],
    ids=str,
)
def test_junk_on_the_signal_channel_is_ignored(node, conn, prefix, probe, payload):
    one = node()
    signal(conn, prefix, **payload)
    signal(conn, prefix, action="scale", ident="any", queue="alpha", limit=5)
    probe.next("oban.queue.scaled", limit=5)

    assert probe.next("oban.notifier.junk")
    assert info(one).paused is False


@pytest.mark.parametrize(
    "payload",
    [
        '{"action":"pkill","job_id":1e999}',
        '{"action":"pkill","job_id":Infinity}',
        '{"action":"stop","queue":"*"}',
        '{"action":"start","queue":"*","limit":1}',
        '{"action":"scale","queue":"*","limit":1}',
    ],
)
def test_no_payload_costs_the_listener_its_connection(node, conn, prefix, probe, payload):
    one = node()
    before = one._lifecycle._supervisor._notifier._conn
    conn.execute("SELECT pg_notify(%s, %s)", [f"{prefix}.oban_signal", payload])
    assert probe.next("oban.notifier.junk")

    assert one._lifecycle._supervisor._notifier._conn is before
    assert info(one).limit == 2


def test_signals_cannot_fill_the_memory(node, conn, prefix, probe, monkeypatch):
    monkeypatch.setattr("oban_sync.runtime.roster.MOST_WISHES", 10)
    one = node()

    for number in range(30):
        signal(conn, prefix, action="pause", ident="any", queue=f"unknown {number}")

    signal(conn, prefix, action="pause", ident="any", queue="alpha")
    probe.next("oban.queue.paused")

    assert len(one._lifecycle._supervisor.roster._heard) == 10


def test_a_pause_that_ended_before_any_beat_could_tell_is_over(
    node, oban, conn, probe, monkeypatch
):
    one = node()
    original = nodes.beat

    def fail(*args, **kwargs):
        raise DatabaseUnavailableError("away")

    monkeypatch.setattr(nodes, "beat", fail)
    oban.pause_queue("alpha", until=3600)
    probe.next("oban.queue.paused")
    conn.execute("UPDATE oban_sync_controls SET until = now() - interval '1 s'")
    monkeypatch.setattr(nodes, "beat", original)
    beat(one)
    probe.next("oban.queue.resumed")


def test_a_queue_that_gets_no_thread_is_started_at_a_later_beat(node, oban, probe, monkeypatch):
    one = node()
    original = Producer.start
    failures = iter([RuntimeError("can't start new thread")] * 2)

    def start(self):
        if (error := next(failures, None)) is not None:
            raise error

        original(self)

    monkeypatch.setattr(Producer, "start", start)
    oban.start_queue(queue="beta", limit=1)
    probe.next("oban.queue.started")
    Echo.enqueue(queue="beta")

    for _ in range(3):
        beat(one)
        probe.next("oban.refresher.refresh.stop")

    assert probe.next("oban.job.stop")["job"].queue == "beta"


def test_a_queue_started_anew_leaves_the_duties_a_connection(node, oban, probe, gate):
    one = node()
    Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()
    oban.stop_queue(queue="alpha")
    probe.next("oban.queue.stopped")
    oban.start_queue(queue="alpha", limit=1)
    probe.next("oban.queue.started")
    producer = one._lifecycle._supervisor.roster._members["alpha"].producer

    assert type(producer._db) is Db


def test_our_signals_hold_only_the_keys_that_every_kind_of_node_knows(oban, conn, prefix):
    conn.execute(f'LISTEN "{prefix}.oban_signal"')
    oban.pause_queue("alpha", by="anna", until=60)
    oban.resume_all_queues()
    oban.scale_queue(queue="alpha", limit=7, node="web@host")
    oban.start_queue(queue="alpha", limit=3)
    oban.stop_queue(queue="alpha")

    assert [json.loads(item.payload) for item in conn.notifies(timeout=5, stop_after=5)] == [
        {"action": "pause", "ident": "any", "queue": "alpha"},
        {"action": "resume", "ident": "any", "queue": "*"},
        {"action": "scale", "ident": "Oban.web@host", "limit": 7, "queue": "alpha"},
        {"action": "start", "ident": "any", "limit": 3, "queue": "alpha"},
        {"action": "stop", "ident": "any", "queue": "alpha"},
    ]


def test_an_order_takes_those_away_that_it_makes_void(oban, conn):
    oban.pause_queue("alpha", node="one")
    oban.pause_queue("alpha")
    oban.pause_queue("beta")
    oban.scale_queue(queue="beta", limit=3)
    oban.resume_all_queues()

    assert conn.execute(
        "SELECT queue, node, aspect, value FROM oban_sync_controls ORDER BY seq"
    ).fetchall() == [("beta", "*", "limit", 3), ("*", "*", "paused", False)]


def test_a_row_that_makes_no_sense_is_passed_over(node, oban, conn, probe):
    conn.execute(
        "INSERT INTO oban_sync_controls (name, queue, node, aspect, value)"
        " VALUES ('Oban', 'alpha', '*', 'limit', '\"many\"')"
    )
    one = node()
    oban.pause_queue("alpha")
    probe.next("oban.queue.paused")

    assert info(one).limit == 2


def test_a_queue_follows_its_configuration_again_once_it_is_reset(node, oban, conn, probe):
    one = node()
    oban.scale_queue("alpha", 7, by="anna")
    probe.next("oban.queue.scaled", limit=7)
    oban.pause_queue("alpha")
    probe.next("oban.queue.paused")
    oban.reset_queue("alpha")
    probe.next("oban.queue.resumed")
    eventually(lambda: (info(one).limit, info(one).paused) == (2, False))

    oban.pause_all_queues()
    probe.next("oban.queue.paused")
    oban.reset_queue("*")
    probe.next("oban.queue.resumed")

    assert conn.execute("SELECT count(*) FROM oban_sync_controls").fetchone() == (0,)


def test_a_limit_given_as_text_is_stored_as_a_number(node, oban, probe):
    node()
    oban.scale_queue("alpha", "5")
    probe.next("oban.queue.scaled", limit=5)
    oban.start_queue("beta", "3")
    probe.next("oban.queue.started", limit=3)


def test_whoever_pauses_is_named_at_once(node, oban, probe):
    node(refresher={"interval": 1000, "max_age": 9000, "unlocked_max_age": 9000})
    oban.pause_queue("alpha", by="anna")

    assert probe.next("oban.queue.paused")["by"] == "anna"


@pytest.mark.parametrize(
    ("call", "option"),
    [
        (lambda oban: oban.pause_queue("alpha", until=0), "until"),
        (lambda oban: oban.pause_queue("alpha", until=datetime(2026, 1, 1, tzinfo=UTC)), "until"),
        (lambda oban: oban.pause_queue(""), "queue"),
        (lambda oban: oban.pause_queue(5), "queue"),
        (lambda oban: oban.pause_queue("alpha", node=""), "node"),
        (lambda oban: oban.pause_queue("alpha", by=5), "by"),
        (lambda oban: oban.pause_queue("alpha", until=-1), "until"),
        (lambda oban: oban.pause_queue("alpha", until=datetime(2026, 1, 1)), "until"),
        (lambda oban: oban.scale_queue(queue="alpha", limit=0), "limit"),
        (lambda oban: oban.scale_queue(queue="alpha", limit=True), "limit"),
        (lambda oban: oban.start_queue(queue="alpha", limit=10_001), "limit"),
        (lambda oban: oban.scale_queue(queue="*", limit=5), "queue"),
        (lambda oban: oban.stop_queue(queue="*"), "queue"),
    ],
)
def test_a_wrong_order_is_refused_by_name(oban, call, option):
    with pytest.raises(ConfigError) as caught:
        call(oban)

    assert caught.value.option == option


def test_the_nodes_and_their_queues_are_listed(node, oban):
    one = node("one")
    node("two")
    eventually(lambda: any(listed.leader for listed in oban.list_nodes()))
    listed = oban.list_nodes()

    assert [item.node for item in listed] == ["one", "two"]
    assert [item.leader for item in listed].count(True) == 1
    assert [(queue.queue, queue.limit) for queue in listed[0].queues] == [("alpha", 2)]
    assert listed[0].queues[0].uuid == info(one).uuid

    one.stop()

    assert [item.node for item in oban.list_nodes()] == ["two"]


def test_a_queue_that_does_not_run_here_is_none(node, oban):
    assert node().check_queue("beta") is None
    assert oban.check_all_queues() == []
