"""Telling Oban Web: what is sent, by whom, and what it may cost."""

from __future__ import annotations

import json
import os
import random
from datetime import UTC, datetime

import psycopg
import pytest

from oban_sync import DatabaseUnavailableError
from oban_sync.core.gossip import Speaker
from oban_sync.core.job import JobState
from oban_sync.engine import metrics, signals
from oban_sync.plugins.broadcast import Broadcaster
from oban_sync.runtime.roster import QueueInfo
from oban_sync.runtime.tally import Cell, Part
from tests.support.probe import eventually
from tests.support.workers import Echo


@pytest.fixture
def heard_raw(dsn, prefix):
    """What was sent on a channel, up to now or once there is something."""
    with psycopg.connect(dsn, autocommit=True) as listener:
        for channel in ("gossip", "metrics", "cronitor"):
            listener.execute(f'LISTEN "{prefix}.oban_{channel}"')

        kept = []

        def heard(channel, *, within=0.5):
            kept.extend(listener.notifies(timeout=within, stop_after=1))
            kept.extend(listener.notifies(timeout=0.05))
            found = [note for note in kept if note.channel == f"{prefix}.oban_{channel}"]

            for note in found:
                kept.remove(note)

            return [note.payload for note in found]

        yield heard


@pytest.fixture
def heard(heard_raw):
    return lambda channel, **options: [json.loads(text) for text in heard_raw(channel, **options)]


@pytest.fixture
def make(db):
    def make(leads=lambda: False, database=db, queues=list, counts=True):
        return Broadcaster(
            database,
            Speaker("MyApp.Oban", "a"),
            instance="Oban",
            queues=queues,
            leads=leads,
            counts=counts,
        )

    return make


def leads():
    return True


@pytest.fixture
def full_counts(make, heard):
    """What the leader tells of how many jobs there are."""

    def told(teller=None):
        (teller or make(leads)).tell([])
        items = [item for note in heard("metrics") for item in note["metrics"]]
        assert {item["series"] for item in items} <= {"full_count"}

        return {(item["queue"], item["state"]): item["value"]["data"] for item in items}

    return told


def part():
    cell = Cell()
    cell.jobs, cell.ran, cell.waited = 2, {490: 2}, {300: 1}

    return Part("alpha", 0, {"W": cell, ("W", JobState.DISCARDED): cell})


def test_what_ran_is_told_by_queue_worker_and_state(make, heard):
    make().tell([part()])
    [told] = heard("metrics")

    assert told["name"] == "MyApp.Oban"
    assert told["node"] == "a"
    assert [(item["series"], item["state"]) for item in told["metrics"]] == [
        ("exec_count", "completed"),
        ("exec_time", "completed"),
        ("wait_time", "completed"),
        ("exec_count", "discarded"),
        ("exec_time", "discarded"),
        ("wait_time", "discarded"),
    ]
    assert told["metrics"][1]["value"] == {"data": {"490": 2}, "size": 2}


def test_what_one_queue_handed_over_twice_is_told_once(make, heard):
    one, other = part(), part()
    make().tell([one, other])
    [told] = heard("metrics")

    assert len(told["metrics"]) == 6
    assert told["metrics"][0]["value"] == {"data": [4]}
    assert told["metrics"][1]["value"] == {"data": {"490": 4}, "size": 4}
    # They are counted for the charts as well, and must be as they were.
    assert one.cells["W"].jobs == 2


def test_the_leader_tells_how_many_jobs_there_are_in_each_state(full_counts, conn, factory):
    for state in JobState:
        factory.job(queue="alpha", state=state.value)

    factory.job(queue="beta", state="scheduled")
    factory.job(queue="beta", state="scheduled")
    conn.execute("ANALYZE oban_jobs")

    assert full_counts() == {
        **{("alpha", state.value): [1] for state in JobState},
        ("beta", "scheduled"): [2],
    }


def test_of_many_jobs_the_leader_tells_about_how_many(full_counts, conn, monkeypatch):
    monkeypatch.setattr(metrics, "MOST_COUNTED", 100)
    conn.execute(
        "INSERT INTO oban_jobs (state, queue, worker, completed_at, scheduled_at) SELECT"
        " (CASE WHEN number % 4 = 0 THEN 'completed' ELSE 'scheduled' END)::oban_job_state,"
        " 'queue' || number % 2, 'W', now(), now() FROM generate_series(1, 4000) AS number"
    )
    conn.execute("ANALYZE oban_jobs")
    monkeypatch.setattr(metrics, "MOST_SAMPLED", 2_000)
    found = full_counts()

    assert found["queue0", "completed"][0] == pytest.approx(1_000, rel=0.5)
    assert found["queue0", "scheduled"][0] == pytest.approx(1_000, rel=0.5)
    assert found["queue1", "scheduled"][0] == pytest.approx(2_000, rel=0.5)
    assert ("queue1", "completed") not in found


def test_numbers_are_not_told_where_another_oban_tells_them(full_counts, make, factory):
    factory.job(queue="alpha")

    assert full_counts(make(leads, counts=False)) == {}


def test_what_cannot_be_counted_does_not_keep_the_rest_from_being_told(
    make, heard, factory, monkeypatch, caplog
):
    factory.job(queue="alpha")
    monkeypatch.setattr(metrics, "MOST_COUNTED", "x")
    teller = make(leads)
    teller.tell([part()])
    teller.tell([part()])

    assert len(heard("metrics")) == 2
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "Oban Web is not told" in warnings[0].getMessage()


def test_others_do_not(make, heard, factory):
    factory.job(queue="alpha")
    make().tell([])

    assert heard("metrics", within=0.1) == []


def test_the_leader_tells_the_crontab_as_it_is_now(make, heard, make_oban):
    with make_oban() as oban:
        oban.insert_cron("0 9 * * MON-FRI", Echo, entry="daily", timezone="Europe/Berlin")
        oban.insert_cron("*/5 * * * *", Echo, entry="often")
        oban.insert_cron("*/7 * * * *", Echo, entry="paused")
        oban.pause_cron("paused")
        oban.update_cron("often", expression="*/6 * * * *")

    teller = make(leads)
    teller.tell([])
    teller.tell([])
    [told] = heard("cronitor")
    assert told["name"] == "MyApp.Oban"
    assert told["crontab"] == [
        ["0 9 * * MON-FRI", "tests.Echo", {"name": "daily", "timezone": "Europe/Berlin"}],
        ["*/6 * * * *", "tests.Echo", {"name": "often"}],
    ]


def test_a_queue_that_was_stopped_is_told_no_more(make, heard):
    def queues():
        made = {"name": "Oban", "node": "a", "limit": 2, "paused": False, "running": [1]}
        at = datetime(2026, 11, 1, tzinfo=UTC)

        return [
            QueueInfo(queue="alpha", uuid="u", started_at=at, **made),
            QueueInfo(queue="beta", uuid="v", started_at=at, stopping=True, **made),
        ]

    make(queues=queues).tell([])
    [told] = heard("gossip")

    assert [check["queue"] for check in told["checks"]] == ["alpha"]


def test_what_cannot_be_carried_even_packed_is_left_out(make, heard, factory):
    chance = random.Random(1)
    name = "".join(chr(chance.randrange(0x4E00, 0x9000)) for _ in range(9_000))
    cell = Cell()
    cell.jobs = 1
    make().tell([Part("alpha", 0, {name: cell}), part()])

    assert {item["worker"] for note in heard("metrics") for item in note["metrics"]} == {"W"}


def test_a_thousand_running_jobs_are_told_packed(make, heard_raw):
    running = list(range(1_000_000_000, 1_000_001_000))

    def queues():
        at = datetime(2026, 11, 1, tzinfo=UTC)

        return [
            QueueInfo("alpha", "Oban", "a", 1_000, False, running, at, "u"),
            QueueInfo("beta", "Oban", "a", 2, False, [1], at, "v"),
        ]

    make(queues=queues).tell([])
    told = {
        check["queue"]: check["running"]
        for text in heard_raw("gossip")
        for check in signals.decode(text)["checks"]
    }

    assert told == {"alpha": running, "beta": [1]}


def test_what_cannot_be_sent_is_no_reason_to_fail(make):
    class Away:
        def session(self):
            raise DatabaseUnavailableError("it is away")

        looking = session

    make(leads, database=Away()).tell([part()])


def test_a_node_tells_of_its_queues_and_jobs(make_oban, heard):
    make_oban(
        queues={"alpha": 3}, metrics={"broadcast": True, "name": "MyApp.Oban"}, node="here"
    ).start()
    Echo.enqueue()

    def told(channel, wanted):
        return eventually(lambda: [item for item in heard(channel) if wanted(item)])[0]

    [check] = told("gossip", lambda item: item["checks"])["checks"]

    assert check["name"] == "MyApp.Oban"
    assert check["node"] == "here"
    assert check["queue"] == "alpha"
    assert check["local_limit"] == 3
    assert check["paused"] is False
    assert check["started_at"].endswith("+00:00")

    def counts_a_run(item):
        return any(metric["series"] == "exec_count" for metric in item["metrics"])

    told("metrics", counts_a_run)


def test_by_default_nobody_is_told(make_oban):
    oban = make_oban(queues={"alpha": 3}).start()
    [loop] = [item for item in oban._lifecycle.supervisor._writers if item.name == "metrics"]

    assert loop._teller is None


def test_processes_of_a_host_are_told_apart(make_oban, heard):
    make_oban(queues={"alpha": 3}, metrics={"broadcast": True}).start()
    [told] = eventually(lambda: heard("gossip"))[:1]

    assert told["checks"][0]["node"].endswith(f".{os.getpid()}")
