"""The loop that inserts the jobs of cron entries."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from queue import SimpleQueue

import psycopg
import pytest

from oban_sync import DatabaseUnavailableError, telemetry
from oban_sync.core.cron import Entry, Expression
from oban_sync.core.crontab import SchedulerConfig
from oban_sync.engine import crons
from oban_sync.plugins.cron import Scheduler
from tests.support.probe import eventually

OBAN = "Oban"
NOON = datetime(2026, 5, 5, 12, 0, 0, 4_000, tzinfo=UTC)


def entry(name="e", text="* * * * *", **given):
    given = {"timezone": "Etc/UTC", "worker": "tests.W", "template": {}, **given}

    return Entry(name, Expression.checked("cron", text), **given)


@pytest.fixture
def clock(monkeypatch):
    """Sets the time that nodes are told, as so many seconds after noon."""

    class Clock:
        now = NOON

        def show(self, seconds):
            self.now = NOON + timedelta(seconds=seconds)

    clock = Clock()
    monkeypatch.setattr(crons, "now", lambda tx: clock.now)

    return clock


@pytest.fixture
def make(db):
    """Makes a scheduler that leads, but did not found the cluster."""

    def make(*entries, leads=lambda: True, founded_at=lambda: None, database=db, **given):
        return Scheduler(
            database,
            OBAN,
            given.pop("node", "n"),
            entries,
            SchedulerConfig(**given.pop("options", {})),
            leads=leads,
            founded_at=founded_at,
        )

    return make


@pytest.fixture
def follower(make):
    """Writes entries into the table as a node does that only follows."""

    def follow(*entries):
        assert make(*entries, leads=lambda: False).tick() is None

    return follow


@pytest.fixture
def due_at(conn):
    """Seconds after noon of the jobs that were inserted for an entry, in their order."""

    def due_at(name="e"):
        rows = conn.execute(
            "SELECT meta->>'cron_at' FROM oban_jobs WHERE meta->>'cron_name' = %s ORDER BY id",
            [name],
        ).fetchall()
        noon = NOON.replace(microsecond=0)

        return [(datetime.fromisoformat(at) - noon).total_seconds() for (at,) in rows]

    return due_at


@pytest.fixture
def slots(db):
    """Seconds after noon, outcome and reason of an entry's times, oldest first."""

    def slots(name="e"):
        with db.session() as tx:
            found = crons.list_slots(tx, OBAN, name, most=1_000)

        noon = NOON.replace(microsecond=0)

        return [
            ((slot.due_at - noon).total_seconds(), slot.outcome, slot.reason)
            for slot in reversed(found)
        ]

    return slots


@pytest.fixture
def heard():
    """The fields of every evaluation's end."""
    found = SimpleQueue()
    telemetry.attach(
        "test-scheduler",
        ["oban.scheduler.evaluate.stop", "oban.scheduler.evaluate.exception"],
        lambda event, fields: found.put(fields),
    )

    yield found

    telemetry.detach("test-scheduler")


@pytest.fixture
def node(conn):
    """Another node that has these entries in its code."""

    def node(*names, oban=OBAN):
        conn.execute(
            "INSERT INTO oban_sync_nodes"
            " (uuid, name, node, beats, max_age, unlocked_max_age, crons)"
            " VALUES (gen_random_uuid(), %s, 'other', 1, 60, 6, %s)",
            [oban, list(names)],
        )

    return node


def test_an_entry_runs_once_a_minute(make, clock, due_at, slots, heard):
    scheduler = make(entry())
    scheduler.tick()
    assert due_at() == []

    for seconds in (60, 60.5, 61, 120, 180):
        clock.show(seconds)
        scheduler.tick()

    assert due_at() == [60.0, 120.0, 180.0]
    assert slots() == [(at, "inserted", None) for at in (60.0, 120.0, 180.0)]
    assert [heard.get()["inserted_count"] for _ in range(6)] == [0, 1, 0, 0, 1, 1]


def test_what_was_done_is_told(make, clock, heard):
    scheduler = make(entry(catch_up="all"), entry("f", "0 * * * *", catch_up="none"))
    scheduler.tick()
    heard.get()
    clock.show(2 * 3600 + 130)
    scheduler.tick()
    told = heard.get()

    assert told.pop("duration_ns") > 0
    # Of the entry that missed two hours, a first batch; of the other, that two were missed.
    assert told == {
        "inserted_count": Scheduler.BATCH,
        "skipped_count": 1,
        "late": pytest.approx(2 * 3600 + 70.004),
    }


@pytest.mark.parametrize("seconds", [0.004, 0.5, 29.9, 59.99])
def test_the_next_round_is_right_after_the_minutes_start(make, clock, seconds):
    clock.now = NOON.replace(microsecond=0) + timedelta(seconds=seconds)
    began = time.monotonic()
    pause = make().tick()
    lasted = time.monotonic() - began

    assert 60.0 - seconds - lasted < pause <= 60.0 - seconds + Scheduler.GRACE


def test_a_minute_that_begins_during_a_round_is_not_waited_for(make, clock):
    clock.now = NOON.replace(microsecond=0) + timedelta(seconds=59.9999)

    assert make().tick() == Scheduler.GRACE


def test_a_follower_only_declares(make, clock, db, due_at, heard):
    scheduler = make(entry(), leads=lambda: False)
    assert scheduler.tick() is None
    clock.show(60)
    assert scheduler.tick() is None

    with db.session() as tx:
        assert [row.read() for row in crons.list_entries(tx, OBAN)] == [entry()]

    assert due_at() == []
    assert heard.empty()


def test_a_follower_declares_once(make, clock, conn):
    scheduler = make(entry(), leads=lambda: False)
    scheduler.tick()
    conn.execute("DELETE FROM oban_sync_crons")
    scheduler.tick()

    assert conn.execute("SELECT count(*) FROM oban_sync_crons").fetchone() == (0,)


def test_a_node_without_entries_that_does_not_lead_asks_nothing(make):
    class Silent:
        def __getattr__(self, name):
            raise AssertionError(f"{name} was used")

    assert make(leads=lambda: False, database=Silent()).tick() is None


def test_a_declaration_that_fails_is_tried_again(make, db, clock, conn):
    scheduler = make(entry(), leads=lambda: False)
    conn.execute("ALTER TABLE oban_sync_crons ADD CHECK (entry <> 'e') NOT VALID")

    with pytest.raises(psycopg.errors.CheckViolation):
        scheduler.tick()

    conn.execute("ALTER TABLE oban_sync_crons DROP CONSTRAINT oban_sync_crons_entry_check")
    scheduler.tick()

    assert conn.execute("SELECT count(*) FROM oban_sync_crons").fetchone() == (1,)


def test_the_leader_schedules_what_other_nodes_have_in_their_code(
    make, follower, clock, due_at, node
):
    follower(entry("theirs"), entry("nobodys"), entry("elsewhere"))
    node("theirs", "unknown")
    node("elsewhere", oban="Another")
    scheduler = make(entry("own"))
    scheduler.tick()
    clock.show(60)
    scheduler.tick()

    assert [due_at(name) for name in ("own", "theirs", "nobodys", "elsewhere")] == [
        [60.0],
        [60.0],
        [],
        [],
    ]


def test_an_entry_ends_with_the_last_node_that_has_it(make, follower, clock, due_at, node, conn):
    follower(entry())
    node("e")
    scheduler = make()
    clock.show(60)
    scheduler.tick()
    conn.execute("DELETE FROM oban_sync_nodes")
    clock.show(120)
    scheduler.tick()

    assert due_at() == [60.0]


def test_what_was_made_at_run_time_needs_no_node(make, db, clock, due_at):
    with db.session() as tx:
        crons.insert(tx, OBAN, entry())

    scheduler = make()
    clock.show(60)
    scheduler.tick()

    assert due_at() == [60.0]


def test_two_leaders_at_once_insert_every_job_once(make, follower, clock, node, due_at, slots):
    names = [f"e{n}" for n in range(5)]
    follower(*(entry(name, catch_up="all") for name in names))
    node(*names)
    clock.show(15 * 60)
    start = threading.Barrier(2)
    failures = []

    def race(scheduler):
        try:
            start.wait(10.0)
            scheduler.tick()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=race, args=[make(node=f"n{n}")]) for n in range(2)]

    for thread in threads:
        thread.start()

    for thread in threads:
        thread.join(50.0)

    assert failures == []

    for name in names:
        assert due_at(name) == [60.0 * n for n in range(1, 16)]
        assert {outcome for _, outcome, _ in slots(name)} == {"inserted"}


@pytest.mark.parametrize("catch_up", ["none", "last", "all"])
def test_a_minute_is_not_lost_by_a_failover(make, follower, clock, node, due_at, slots, catch_up):
    follower(entry(catch_up=catch_up))
    node("e")
    old, new = make(), make()
    clock.show(60)
    old.tick()
    # The old leader dies just before the minute, and is missed for as long as may be.
    clock.show(132)
    new.tick()

    assert due_at() == [60.0, 120.0]
    assert slots()[-1] == (120.0, "inserted", "late by 12 s")


@pytest.mark.parametrize(
    ("catch_up", "inserted", "skipped"),
    [
        (
            "none",
            [600.0],
            [(540.0, "skipped", "missed and not made up for; such times up to this one: 9")],
        ),
        (
            "last",
            [600.0],
            [(540.0, "skipped", "missed and not made up for; such times up to this one: 9")],
        ),
        ("all", [60.0 * n for n in range(1, 11)], []),
    ],
)
def test_after_an_outage_missed_times_are_made_up_for_as_asked(
    make, clock, due_at, slots, catch_up, inserted, skipped
):
    make(entry(catch_up=catch_up)).tick()
    clock.show(605)
    again = make(entry(catch_up=catch_up))
    again.tick()
    again.tick()

    assert due_at() == inserted
    assert [slot for slot in slots() if slot[1] == "skipped"] == skipped


@pytest.mark.parametrize(("catch_up", "count"), [("none", 0), ("last", 1), ("all", 2)])
def test_a_daily_job_missed_by_a_long_outage(make, clock, due_at, slots, catch_up, count):
    given = entry(text="0 13 * * *", catch_up=catch_up)
    options = {"catch_up_window": 3 * 86_400.0}
    make(given, options=options).tick()
    clock.show(2 * 86_400)
    scheduler = make(given, options=options)
    scheduler.tick()
    scheduler.tick()

    assert due_at() == [3_600.0, 90_000.0][2 - count :]
    assert len(slots()) == {"none": 1, "last": 2, "all": 2}[catch_up]
    assert (slots()[-1][2] or "").startswith("late by" if count else "missed")


def test_times_before_the_window_are_gone(make, clock, due_at, slots):
    make(entry(catch_up="all")).tick()
    clock.show(86_400)
    make(entry(catch_up="all"), options={"catch_up_window": 600.0}).tick()

    assert due_at() == [86_400.0 - 60 * n for n in range(9, -1, -1)]
    assert len(slots()) == 10


def test_a_long_catching_up_goes_on_at_once_and_lets_the_others_pass(
    make, clock, due_at, conn, heard
):
    given = [entry("a", catch_up="all"), entry("b", "50 12 * * *")]
    make(*given).tick()
    heard.get()
    clock.show(50 * 60 + 2)
    scheduler = make(*given)
    pauses = []

    while not pauses or pauses[-1] == 0.0:
        pauses.append(scheduler.tick())

    assert pauses[:-1] == [0.0, 0.0]
    assert [heard.get()["inserted_count"] for _ in range(3)] == [21, 20, 10]
    assert due_at("a") == [60.0 * n for n in range(1, 51)]
    # The one that had nothing to catch up came first.
    [first] = conn.execute(
        "SELECT meta->>'cron_name' FROM oban_jobs ORDER BY id LIMIT 1"
    ).fetchone()
    assert first == "b"


def test_more_than_a_thousand_are_not_made_up_for(make, clock, slots, caplog):
    make(entry(catch_up="all")).tick()
    clock.show(1_100 * 60)
    scheduler = make(entry(catch_up="all"))
    scheduler.BATCH = 3

    assert scheduler.tick() == 0.0
    assert [outcome for _, outcome, _ in slots()] == ["skipped"] + ["inserted"] * 3
    assert slots()[0][0] == 100 * 60.0
    assert "times missed and not made up for: 1 or more" in caplog.text


def test_what_nobody_can_have_missed_is_not_made_up_for(make, clock, db, due_at):
    scheduler = make(entry(text="30 11 * * *", catch_up="all"))
    scheduler.tick()

    with db.session() as tx:
        crons.insert(tx, OBAN, entry("new", "45 11 * * *", catch_up="all"))

    scheduler.tick()
    assert (due_at(), due_at("new")) == ([], [])


def test_another_expression_counts_from_its_edit_on(make, clock, db, due_at):
    scheduler = make(entry(text="0 * * * *", catch_up="all"))
    scheduler.tick()
    clock.show(600)
    scheduler.tick()
    clock.show(630)

    with db.session() as tx:
        crons.edit(tx, OBAN, "e", {"expression": "*/5 * * * *"})

    for seconds in (660, 900):
        clock.show(seconds)
        scheduler.tick()

    assert due_at() == [900.0]


def test_an_edit_just_before_the_minute_counts_for_it(make, clock, db, due_at, monkeypatch):
    scheduler = make(entry(text="0 * * * *"))
    scheduler.tick()
    list_entries = crons.list_entries

    def edited_behind_our_back(tx, name):
        rows = list_entries(tx, name)
        monkeypatch.undo()
        monkeypatch.setattr(crons, "now", lambda tx: NOON + timedelta(seconds=59.99))
        crons.edit(tx, OBAN, "e", {"expression": "1 12 * * *"})
        monkeypatch.setattr(crons, "now", lambda tx: NOON + timedelta(seconds=60))

        return rows

    monkeypatch.setattr(crons, "list_entries", edited_behind_our_back)
    scheduler.tick()
    scheduler.tick()

    assert due_at() == [60.0]


def test_a_paused_entry_is_skipped_and_not_made_up_for(make, clock, db, due_at, slots):
    scheduler = make(entry(catch_up="all"))
    scheduler.tick()

    with db.session() as tx:
        crons.pause(tx, OBAN, "e", by="anna")

    clock.show(60)
    scheduler.tick()
    clock.show(130)

    with db.session() as tx:
        crons.resume(tx, OBAN, "e")

    scheduler.tick()
    clock.show(180)
    scheduler.tick()

    assert due_at() == [180.0]
    assert slots() == [(60.0, "skipped", "paused by anna"), (180.0, "inserted", None)]


def test_an_entry_that_must_not_overlap_waits(make, clock, due_at, slots, conn):
    scheduler = make(entry(overlap="skip"))

    for seconds in (0, 60, 120):
        clock.show(seconds)
        scheduler.tick()

    conn.execute("UPDATE oban_jobs SET state = 'completed'")
    clock.show(180)
    scheduler.tick()

    assert due_at() == [60.0, 180.0]
    assert slots()[1][1] == "skipped"
    assert slots()[1][2].startswith("overlap: job ")


def test_clocks_that_go_back_insert_nothing_twice(make, clock, due_at):
    scheduler = make(entry())

    for seconds in (0, 60, 59.9, 0, 61, 30, 120):
        clock.show(seconds)
        scheduler.tick()

    assert due_at() == [60.0, 120.0]


def test_an_entry_that_is_none_does_not_stop_the_others(
    make, follower, clock, node, due_at, conn, caplog
):
    names = ["a-junk", "b-fine", "c-zone", "d-fine", "e-none"]
    follower(*(entry(name) for name in names))
    node(*names)
    conn.execute("UPDATE oban_sync_crons SET expression = '* * *' WHERE entry = 'a-junk'")
    conn.execute("UPDATE oban_sync_crons SET timezone = 'Mars' WHERE entry = 'c-zone'")
    conn.execute("UPDATE oban_sync_crons SET job = '[]' WHERE entry = 'e-none'")
    scheduler = make()

    for seconds in (60, 120, 180):
        clock.show(seconds)
        assert scheduler.tick() > 1.0

    assert due_at("b-fine") == due_at("d-fine") == [60.0, 120.0, 180.0]
    # Said once, not every minute.
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        f"cron entry {name} cannot be scheduled" for name in ("a-junk", "c-zone", "e-none")
    ]

    conn.execute("UPDATE oban_sync_crons SET expression = '* * * * *' WHERE entry = 'a-junk'")
    clock.show(240)
    scheduler.tick()
    assert due_at("a-junk") == [240.0]


def test_a_job_that_is_refused_is_written_down_and_the_others_go_on(
    make, clock, conn, due_at, slots, caplog
):
    conn.execute("ALTER TABLE oban_jobs ADD CHECK (queue <> 'bad')")
    scheduler = make(entry("a", template={"queue": "bad"}), entry("b"))
    scheduler.tick()

    for seconds in (60, 120):
        clock.show(seconds)
        scheduler.tick()

    assert due_at("b") == [60.0, 120.0]
    assert [outcome for _, outcome, _ in slots("a")] == ["skipped", "skipped"]
    assert "the job was refused" in slots("a")[0][2]


@contextmanager
def locked(dsn, prefix, name):
    with psycopg.connect(dsn) as conn:
        conn.execute(f'SELECT FROM "{prefix}".oban_sync_crons WHERE entry = %s FOR UPDATE', [name])

        yield


def test_an_entry_that_is_locked_is_tried_again_soon(
    make, clock, dsn, prefix, due_at, caplog, monkeypatch
):
    caplog.set_level(logging.ERROR)
    scheduler = make(entry("a"), entry("b"))
    scheduler.tick()
    clock.show(60)
    transaction = scheduler._db.transaction

    @contextmanager
    def impatient():
        with transaction() as tx:
            tx.conn.execute("SET LOCAL lock_timeout = '30ms'")

            yield tx

    monkeypatch.setattr(scheduler._db, "transaction", impatient)

    with locked(dsn, prefix, "a"):
        assert [scheduler.tick() for _ in range(3)] == [1.0, 2.0, 4.0]
        assert (due_at("a"), due_at("b")) == ([], [60.0])

    assert scheduler.tick() > 30.0
    assert due_at("a") == [60.0]
    assert len(caplog.records) == 1


def test_whoever_stops_leading_stops_inserting(make, clock, due_at):
    answers = iter([True, True, True])
    scheduler = make(entry(catch_up="all"), leads=lambda: next(answers, False))
    make(entry(catch_up="all")).tick()
    clock.show(600)

    assert scheduler.tick() is None
    assert len(due_at()) == 2


def test_a_new_term_looks_at_everything_again(make, clock, due_at):
    leads = [True]
    scheduler = make(entry(catch_up="all"), leads=lambda: leads[0])
    scheduler.tick()
    clock.show(60)
    leads[0] = False
    scheduler.tick()
    clock.show(120)
    leads[0] = True
    scheduler.tick()

    assert due_at() == [60.0, 120.0]


def test_a_stop_ends_a_long_catching_up(make, clock, due_at, monkeypatch):
    make(entry(catch_up="all")).tick()
    clock.show(600)
    scheduler = make(entry(catch_up="all"))
    settle = crons.settle

    def settle_and_stop(*args, **given):
        scheduler.request_stop()

        return settle(*args, **given)

    monkeypatch.setattr(crons, "settle", settle_and_stop)
    assert scheduler.tick() is None
    assert due_at() == [60.0]


def test_a_commit_whose_reply_was_lost_inserts_nothing_twice(
    make, db, clock, due_at, monkeypatch, caplog
):
    scheduler = make(entry())
    scheduler.tick()
    clock.show(60)
    transaction = db.transaction
    losses = [1]

    @contextmanager
    def lossy():
        with transaction() as tx:
            yield tx

        if losses:
            losses.pop()
            raise DatabaseUnavailableError("the connection broke")

    monkeypatch.setattr(db, "transaction", lossy)
    scheduler.tick()

    assert losses == []
    assert due_at() == [60.0]


def test_a_start_of_the_cluster_is_settled_once(make, follower, node, clock, due_at, slots):
    boot = entry(text="@reboot")
    started = NOON - timedelta(seconds=3)
    founder = make(boot, founded_at=lambda: started)
    founder.tick()
    clock.show(60)
    founder.tick()
    # A node that comes later founds nothing, and the same start is no other one.
    make(boot).tick()
    make(boot, founded_at=lambda: started).tick()

    assert due_at() == [-2.996]
    assert slots() == [(-2.996, "inserted", None)]

    # All nodes were away.
    clock.show(600)
    make(boot, founded_at=lambda: NOON + timedelta(seconds=599)).tick()
    assert len(due_at()) == 2


def test_a_start_that_must_be_waited_for_is_not_missed(make, clock, due_at):
    leads, founded = [False], [None]
    scheduler = make(entry(text="@reboot"), leads=lambda: leads[0], founded_at=lambda: founded[0])
    scheduler.tick()
    leads[0] = True
    scheduler.tick()
    assert due_at() == []

    founded[0] = NOON
    scheduler.tick()
    assert len(due_at()) == 1


def test_an_entry_for_the_start_that_is_made_later_waits_for_the_next(make, db, clock, due_at):
    founder = make(founded_at=lambda: NOON)
    founder.tick()

    with db.session() as tx:
        crons.insert(tx, OBAN, entry(text="@reboot"))

    founder.tick()
    assert due_at() == []

    make(founded_at=lambda: NOON + timedelta(seconds=60)).tick()
    assert len(due_at()) == 1


def test_an_entry_for_the_start_may_be_paused(make, follower, db, clock, due_at, slots):
    follower(entry(text="@reboot"))

    with db.session() as tx:
        crons.pause(tx, OBAN, "e", by=None)

    make(entry(text="@reboot"), founded_at=lambda: NOON).tick()
    assert due_at() == []
    assert [outcome for _, outcome, _ in slots()] == ["skipped"]


def test_old_times_are_forgotten_now_and_then(make, clock, conn, slots):
    scheduler = make(entry(), options={"keep_slots": 3_600.0})
    old = (
        "INSERT INTO oban_sync_cron_slots (name, entry, due_at, outcome, node, settled_at)"
        " SELECT 'Oban', 'gone', now() - n * interval '1 day', 'inserted', 'n',"
        " now() - n * interval '1 day'"
        " FROM generate_series(1, 4) AS n"
    )
    scheduler.PRUNE_BATCH = 2
    conn.execute(old)
    scheduler.tick()
    assert len(slots("gone")) == 2

    # A full batch is followed by another with the next round, and then there is an hour's rest.
    scheduler.tick()
    scheduler.tick()
    assert slots("gone") == []
    conn.execute(old)
    scheduler.tick()
    assert len(slots("gone")) == 4


def test_forgetting_that_fails_holds_up_nothing(make, clock, conn, due_at, monkeypatch, caplog):
    def fail(*args, **given):
        raise psycopg.errors.QueryCanceled("too slow")

    monkeypatch.setattr(crons, "prune", fail)
    scheduler = make(entry())
    assert scheduler.tick() > 0.0
    clock.show(60)
    scheduler.tick()

    assert due_at() == [60.0]
    assert caplog.text.count("could not be forgotten") == 1


def test_the_loop_runs_on_a_thread_of_its_own(make, db, due_at, conn):
    # By the real clock: the minute that has just begun was missed.
    with db.session() as tx:
        crons.declare(tx, OBAN, [entry()])

    conn.execute("UPDATE oban_sync_crons SET since = date_trunc('minute', now()) - interval '1 s'")
    leads = [False]
    scheduler = make(entry(), leads=lambda: leads[0])
    scheduler.start()

    try:
        leads[0] = True
        scheduler.wake()
        eventually(lambda: due_at())
    finally:
        scheduler.request_stop()
        assert scheduler.join(time.monotonic() + 10.0)
