"""The crontab's tables: entries, edits, and times that are settled once."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.types.json import Json
from psycopg_pool import ConnectionPool

from oban_sync.core.cron import Entry, Expression
from oban_sync.engine import crons
from oban_sync.engine.session import Db

OBAN = "Oban"
NOON = datetime(2026, 5, 5, 12, tzinfo=UTC)


def entry(name="e", text="0 12 * * *", timezone="Etc/UTC", **given):
    template = given.pop("template", {"queue": "alpha", "args": {"a": 1}, "meta": {"m": 1}})

    return Entry(name, Expression.checked("cron", text), timezone, "tests.W", template, **given)


@pytest.fixture
def clock(monkeypatch):
    """Sets the time that nodes are told."""

    def show(moment):
        monkeypatch.setattr(crons, "now", lambda tx: moment)

    show(NOON)

    return show


@pytest.fixture
def declare(db):
    def declare(*entries):
        with db.transaction() as tx:
            crons.declare(tx, OBAN, entries)

    return declare


@pytest.fixture
def stored(db):
    """The one entry, as it stands."""

    def stored(name="e"):
        with db.session() as tx:
            [found] = [row for row in crons.list_entries(tx, OBAN) if row.entry == name]

        return found

    return stored


@pytest.fixture
def settle(db, stored):
    def settle(due_at=NOON, *, seen=None, late=0.0, skip=None, node="n"):
        seen = seen or stored()

        with db.transaction() as tx:
            return crons.settle(tx, OBAN, seen, due_at, node=node, late=late, skip=skip)

    return settle


@pytest.fixture
def slots(db):
    def slots(name="e"):
        with db.session() as tx:
            return crons.list_slots(tx, OBAN, name, most=100)

    return slots


def test_the_time_is_the_databases(db):
    with db.session() as tx:
        first, second = crons.now(tx), crons.now(tx)

    assert first.utcoffset() is not None
    assert first < second < first + timedelta(minutes=1)


def test_an_entry_is_read_as_it_was_declared(declare, stored, clock):
    given = entry(timezone="Europe/Berlin", catch_up="all", overlap="skip")
    declare(given)

    assert stored().read() == given
    assert (stored().dynamic, stored().declared, stored().paused) == (False, False, False)
    assert (stored().since, stored().last_at, stored().last_outcome) == (NOON, None, None)


def test_declaring_the_same_again_writes_nothing(declare, conn, clock):
    declare(entry("a"), entry("b"))
    before = conn.execute("SELECT entry, xmin, since FROM oban_sync_crons ORDER BY 1").fetchall()
    clock(NOON + timedelta(hours=1))
    declare(entry("b"), entry("a"))

    assert (
        before
        == conn.execute("SELECT entry, xmin, since FROM oban_sync_crons ORDER BY 1").fetchall()
    )


def test_declaring_keeps_what_people_did(db, declare, stored, clock):
    declare(entry())

    with db.session() as tx:
        assert crons.edit(tx, OBAN, "e", {"priority": 7, "catch_up": "none"})
        assert crons.pause(tx, OBAN, "e", by="anna")

    declare(entry(template={"queue": "beta"}, catch_up="all"))
    found = stored()

    assert (found.paused, found.paused_by) == (True, "anna")
    assert found.read().template == {"queue": "beta", "priority": 7}
    assert found.read().catch_up == "none"


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        ({"text": "0 13 * * *"}, True),
        ({"timezone": "Europe/Berlin"}, True),
        ({"catch_up": "all", "overlap": "skip", "template": {"queue": "beta"}}, False),
    ],
    ids=str,
)
def test_an_entry_counts_anew_when_the_code_gives_it_other_times(
    declare, stored, clock, change, anew
):
    declare(entry())
    clock(NOON + timedelta(hours=1))
    declare(entry(**change))

    assert stored().since == (NOON + timedelta(hours=1) if anew else NOON)


def test_an_expression_of_the_code_that_is_edited_over_changes_nothing(db, declare, stored, clock):
    declare(entry())

    with db.session() as tx:
        crons.edit(tx, OBAN, "e", {"expression": "0 15 * * *"})

    clock(NOON + timedelta(hours=1))
    declare(entry(text="0 13 * * *"))

    assert stored().since == NOON
    assert stored().read().expression.text == "0 15 * * *"


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        ({"expression": "0 13 * * *"}, True),
        ({"timezone": "Europe/Berlin"}, True),
        ({"expression": "0 12 * * *"}, False),
        ({"args": {"a": 2}}, False),
    ],
    ids=str,
)
def test_an_entry_counts_anew_when_an_edit_gives_it_other_times(
    db, declare, stored, clock, change, anew
):
    declare(entry())
    later = NOON + timedelta(hours=1)
    clock(later)

    with db.session() as tx:
        crons.edit(tx, OBAN, "e", change)

    assert stored().since == (later if anew else NOON)


def test_forgetting_an_edit_counts_anew_too(db, declare, stored, clock):
    declare(entry())

    with db.session() as tx:
        crons.edit(tx, OBAN, "e", {"expression": "0 13 * * *", "queue": "beta"})
        clock(NOON + timedelta(hours=1))
        assert crons.edit(tx, OBAN, "e", {}, anew=True)

    assert stored().since == NOON + timedelta(hours=1)
    assert stored().read() == entry()


def test_null_within_args_survives_an_edit(db, declare, stored):
    declare(entry())

    with db.session() as tx:
        crons.edit(tx, OBAN, "e", {"args": {"x": None, "y": [None]}})

    assert stored().read().template["args"] == {"x": None, "y": [None]}


def test_what_is_not_there_cannot_be_changed(db):
    with db.session() as tx:
        assert not crons.edit(tx, OBAN, "e", {})
        assert not crons.pause(tx, OBAN, "e", by=None)
        assert not crons.resume(tx, OBAN, "e")
        assert not crons.delete(tx, OBAN, "e")
        assert crons.list_entries(tx, OBAN) == []


def test_an_entry_made_at_run_time_is_not_made_twice(db, stored, declare):
    with db.session() as tx:
        assert crons.insert(tx, OBAN, entry())
        assert not crons.insert(tx, OBAN, entry(text="0 13 * * *"))
        assert crons.insert(tx, "Another", entry())

    assert stored().dynamic
    assert stored().read() == entry()

    # Once the code knows it, it is the code's.
    declare(entry(text="0 14 * * *"))
    assert not stored().dynamic


def test_an_entry_is_declared_while_a_node_has_it(conn, declare, stored):
    declare(entry("e"), entry("f"))
    conn.execute(
        "INSERT INTO oban_sync_nodes (uuid, name, node, beats, max_age, unlocked_max_age, crons)"
        " VALUES ('1', 'Oban', 'n', 1, 60, 6, '{e}'), ('2', 'Another', 'n', 1, 60, 6, '{f}')"
    )

    assert (stored("e").declared, stored("f").declared) == (True, False)


def test_a_time_is_settled_by_its_job(settle, stored, slots, declare, factory):
    declare(entry())
    done = settle(late=3.0, node="here")
    [slot] = slots()
    row = factory.row(done.job.id)

    assert (done.outcome, done.reason) == ("inserted", None)
    assert (slot.due_at, slot.outcome, slot.job_id) == (NOON, "inserted", done.job.id)
    assert (slot.node, slot.reason) == ("here", None)
    assert (row["queue"], row["worker"], row["args"]) == ("alpha", "tests.W", {"a": 1})
    assert row["state"] == "available"
    assert row["meta"] == {
        "m": 1,
        "cron": True,
        "cron_at": "2026-05-05T12:00:00+00:00",
        "cron_expr": "0 12 * * *",
        "cron_name": "e",
        "cron_tz": "Etc/UTC",
    }
    assert (stored().last_at, stored().last_outcome) == (NOON, "inserted")


def test_a_late_job_says_so(settle, slots, declare):
    declare(entry())

    assert settle(late=12.4).reason == "late by 12 s"
    assert slots()[0].reason == "late by 12 s"


def test_a_time_is_settled_once(settle, declare, factory, slots):
    declare(entry())
    settle()

    assert settle() is None
    assert settle(skip="missed") is None
    assert factory.count() == 1
    assert [slot.outcome for slot in slots()] == ["inserted"]


def test_a_time_that_is_given_up_has_no_job(settle, declare, factory, slots):
    declare(entry())
    settle(skip="missed")

    assert settle() is None
    assert factory.count() == 0
    assert [(slot.outcome, slot.reason, slot.job_id) for slot in slots()] == [
        ("skipped", "missed", None)
    ]


def test_nothing_of_a_settling_that_fails_stays(db, stored, declare, factory, slots):
    declare(entry())

    def fail():
        with db.transaction() as tx:
            crons.settle(tx, OBAN, stored(), NOON, node="n", late=0.0, skip=None)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert factory.count() == 0
    assert slots() == []


def test_two_nodes_at_once_insert_one_job(settle, stored, declare, factory):
    declare(entry())
    seen = stored()
    start = threading.Barrier(4)
    done = []

    def race(node):
        start.wait(10.0)

        for minute in range(10):
            done.append(settle(NOON + timedelta(minutes=minute), seen=seen, node=node))

    threads = [threading.Thread(target=race, args=[f"n{n}"]) for n in range(4)]

    for thread in threads:
        thread.start()

    for thread in threads:
        thread.join(30.0)

    assert len(done) == 40
    assert len([one for one in done if one is not None]) == 10
    assert factory.count() == 10


def test_a_pause_holds_from_the_moment_it_is_committed(db, settle, stored, declare, factory, slots):
    declare(entry())
    seen = stored()

    with db.session() as tx:
        crons.pause(tx, OBAN, "e", by="anna")
        # Who paused first is who answers for it.
        crons.pause(tx, OBAN, "e", by="bert")

    assert settle(seen=seen).reason == "paused by anna"
    assert factory.count() == 0
    assert slots()[0].outcome == "skipped"


def test_what_was_skipped_by_a_pause_is_not_made_up_for(db, stored, settle, declare, clock):
    declare(entry())
    seen = stored()
    later = NOON + timedelta(hours=1)
    clock(later)

    with db.session() as tx:
        crons.pause(tx, OBAN, "e", by=None)
        crons.resume(tx, OBAN, "e")
        assert stored().since == later
        clock(later + timedelta(hours=1))
        # Of what was not paused, nothing is forgotten.
        crons.resume(tx, OBAN, "e")
        assert stored().since == later

    # And what was worked out before is not settled any more.
    assert settle(seen=seen) is None


@pytest.mark.parametrize("change", ["expression", "gone"])
def test_a_time_of_an_entry_that_was_changed_since_is_left_alone(
    db, settle, stored, declare, clock, slots, change
):
    declare(entry())
    seen = stored()
    clock(NOON + timedelta(seconds=1))

    with db.session() as tx:
        if change == "gone":
            crons.delete(tx, OBAN, "e")
        else:
            crons.edit(tx, OBAN, "e", {"expression": "0 13 * * *"})

    assert settle(seen=seen) is None
    assert slots() == []


def test_the_jobs_args_are_those_of_the_moment(db, settle, stored, declare, factory):
    declare(entry())
    seen = stored()

    with db.session() as tx:
        crons.edit(tx, OBAN, "e", {"args": {"a": 2}, "queue": "beta", "max_attempts": 3})

    row = factory.row(settle(seen=seen).job.id)

    assert (row["args"], row["queue"], row["max_attempts"]) == ({"a": 2}, "beta", 3)


@pytest.mark.parametrize(
    ("state", "runs"),
    [
        ("available", False),
        ("scheduled", False),
        ("executing", False),
        ("retryable", False),
        ("suspended", False),
        ("completed", True),
        ("cancelled", True),
        ("discarded", True),
    ],
)
def test_an_entry_may_wait_for_its_last_job(settle, declare, conn, factory, state, runs):
    declare(entry(overlap="skip"))
    first = settle().job.id
    conn.execute("UPDATE oban_jobs SET state = %s::text::oban_job_state", [state])
    second = settle(NOON + timedelta(minutes=1))

    if runs:
        assert second.outcome == "inserted"
    else:
        assert second.reason == f"overlap: job {first} is {state}"
        assert factory.count() == 1


def test_an_entry_waits_for_a_job_across_times_that_were_skipped(settle, declare, conn):
    declare(entry(overlap="skip"))
    settle()
    settle(NOON + timedelta(minutes=1), skip="missed")

    assert settle(NOON + timedelta(minutes=2)).outcome == "skipped"
    conn.execute("DELETE FROM oban_jobs")
    assert settle(NOON + timedelta(minutes=3)).outcome == "inserted"


def test_entries_overlap_unless_they_are_told_not_to(settle, declare):
    declare(entry())
    settle()

    assert settle(NOON + timedelta(minutes=1)).outcome == "inserted"


def test_an_entry_without_a_job_is_settled_by_saying_so(settle, declare, conn, slots, caplog):
    declare(entry())
    conn.execute("""UPDATE oban_sync_crons SET job = '{"priority": "high"}'""")
    done = settle()

    assert done.outcome == "skipped"
    assert done.reason.startswith("the entry holds no job: priority: 'high'")
    assert slots()[0].reason == done.reason
    assert "cron entry e holds no job" in caplog.text


def test_a_job_that_is_refused_is_settled_by_saying_so(settle, declare, conn, slots, caplog):
    declare(entry())
    conn.execute("ALTER TABLE oban_jobs ADD CHECK (queue <> 'alpha')")
    done = settle()

    assert (done.outcome, done.job) == ("skipped", None)
    assert "violates check constraint" in slots()[0].reason
    assert "refuses its job" in caplog.text


def test_a_unique_job_that_is_there_already_is_settled_by_saying_so(
    settle, declare, factory, slots
):
    template = {"queue": "alpha", "unique": {"period": "forever", "fields": ["worker"]}}
    declare(entry(text="* * * * *", template=template))
    first = settle()
    second = settle(NOON + timedelta(minutes=1))

    assert (first.outcome, second.outcome, second.job) == ("inserted", "skipped", None)
    assert second.reason == f"unique: job {first.job.id} is available"
    assert [(slot.outcome, slot.job_id) for slot in slots()] == [
        ("skipped", None),
        ("inserted", first.job.id),
    ]
    assert factory.count() == 1


def test_a_lock_that_is_held_too_long_is_told(db, stored, declare, conn):
    declare(entry())
    seen = stored()

    def settle_soon():
        with db.transaction() as tx:
            tx.conn.execute("SET LOCAL lock_timeout = '20ms'")
            crons.settle(tx, OBAN, seen, NOON, node="n", late=0.0, skip=None)

    with conn.transaction():
        conn.execute("SELECT FROM oban_sync_crons FOR UPDATE")

        with pytest.raises(psycopg.errors.LockNotAvailable):
            settle_soon()


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("expression = 'junk'", "expression: 'junk'"),
        ("timezone = 'Mars/Base'", "timezone: 'Mars/Base'"),
        ("catch_up = 'some'", "catch_up"),
        ("overlap = ''", "overlap"),
        ("worker = ''", "worker"),
        ("job = '[1]'", "job"),
        ("job = 'null'", "job"),
        ("edited = '5'", "job"),
        ("""edited = '{"expression": 5}'""", "expression: 5"),
        ("""edited = '{"timezone": null}'""", "timezone"),
        ("job = ('{\"a\":' || repeat('9', 5000) || '}')::jsonb", "job"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_row_that_is_no_entry_is_listed_and_says_what_is_wrong(
    declare, stored, conn, assignment, words
):
    declare(entry(), entry("fine"))
    conn.execute(f"UPDATE oban_sync_crons SET {assignment} WHERE entry = 'e'")

    with pytest.raises(ValueError, match=f"^{words}"):
        stored().read()

    assert stored("fine").read() == entry("fine")


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "20000-01-01", "0044-03-15 BC"])
def test_times_that_python_cannot_express_hide_no_entry(
    declare, stored, settle, slots, conn, moment
):
    declare(entry())
    settle()
    conn.execute("UPDATE oban_sync_crons SET since = %s, paused_at = %s", [moment, moment])
    conn.execute("UPDATE oban_sync_cron_slots SET due_at = %s, settled_at = %s", [moment, moment])

    assert stored().read() == entry()
    assert stored().last_at.year in (1970, 9000)
    assert slots()[0].due_at == stored().last_at


@pytest.mark.parametrize("junk", ["'[]'", "'5'", "'null'", "'\"x\"'"])
def test_an_edit_replaces_edits_that_are_none(db, declare, stored, conn, junk):
    declare(entry())
    conn.execute(f"UPDATE oban_sync_crons SET edited = {junk}")

    with db.session() as tx:
        crons.edit(tx, OBAN, "e", {"queue": "beta"})

    assert stored().edits == {"queue": "beta"}


def test_an_entry_in_the_code_of_a_node_cannot_be_deleted(db, conn, declare):
    declare(entry("e"), entry("f"))
    conn.execute(
        "INSERT INTO oban_sync_nodes (uuid, name, node, beats, max_age, unlocked_max_age, crons)"
        " VALUES ('1', 'Oban', 'n', 1, 60, 6, '{e}')"
    )

    with db.session() as tx:
        assert not crons.delete(tx, OBAN, "e")
        assert crons.delete(tx, OBAN, "f")
        assert [row.entry for row in crons.list_entries(tx, OBAN)] == ["e"]


def test_old_times_are_forgotten_but_for_what_is_still_needed(db, declare, conn, slots):
    declare(entry("busy"), entry("idle"))
    conn.execute(
        """
        INSERT INTO oban_sync_cron_slots (name, entry, due_at, outcome, node, settled_at)
        SELECT
            'Oban', entry, now() - days * interval '1 day', outcome, 'n',
            now() - days * interval '1 day'
        FROM (VALUES
            ('busy', 1, 'skipped'), ('busy', 20, 'skipped'), ('busy', 40, 'skipped'),
            ('busy', 50, 'inserted'), ('busy', 60, 'inserted'),
            ('idle', 80, 'skipped'), ('idle', 90, 'skipped'),
            ('gone', 1, 'inserted'), ('gone', 40, 'inserted')
        ) AS slot (entry, days, outcome)
        """
    )
    conn.execute(
        "INSERT INTO oban_sync_cron_slots (name, entry, due_at, outcome, node)"
        " VALUES ('Another', 'busy', now() - interval '90 days', 'inserted', 'n'),"
        # Made up for after a long outage.
        " ('Oban', 'busy', now() - interval '70 days', 'skipped', 'n')"
    )

    with db.session() as tx:
        assert crons.prune(tx, OBAN, max_age=30 * 86_400.0, most=3) == 3
        assert crons.prune(tx, OBAN, max_age=30 * 86_400.0, most=3) == 1
        assert crons.prune(tx, OBAN, max_age=30 * 86_400.0, most=3) == 0
        assert crons.prune(tx, "Nobody", max_age=30 * 86_400.0, most=3) == 0
        today = datetime.now(UTC)

    def ages(name):
        return [(today - slot.due_at).days for slot in slots(name)]

    assert ages("busy") == [1, 20, 50, 70]
    assert ages("idle") == [80]
    assert ages("gone") == [1]
    assert conn.execute(
        "SELECT count(*) FROM oban_sync_cron_slots WHERE name = 'Another'"
    ).fetchone() == (1,)


def test_entries_are_managed_through_the_applications_pool_too(dsn, prefix):
    with ConnectionPool(dsn, min_size=1, kwargs={"prepare_threshold": None}, open=True) as pool:
        db = Db(pool, prefix)

        with db.transaction() as tx:
            crons.declare(tx, OBAN, [entry()])
            crons.insert(tx, OBAN, entry("dynamic"))

        with db.transaction() as tx:
            [_, row] = crons.list_entries(tx, OBAN)
            done = crons.settle(tx, OBAN, row, NOON, node="n", late=0.0, skip=None)

        with db.session() as tx:
            assert crons.list_slots(tx, OBAN, "e", most=5)[0].job_id == done.job.id


def test_values_that_look_like_sql_stay_values(db, stored, conn):
    name = "a'b\"c%s{}\\"

    with db.session() as tx:
        crons.insert(tx, OBAN, entry(name, template={"args": {name: name}}))

    conn.execute("UPDATE oban_sync_crons SET edited = %s", [Json({"queue": name})])
    assert stored(name).read().template == {"args": {name: name}, "queue": name}
