"""Managing cron entries at run time."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from oban_sync import ConfigError, job, worker
from oban_sync.control.crons import (
    delete_cron,
    insert_cron,
    list_cron_slots,
    list_crons,
    pause_cron,
    reset_cron,
    resume_cron,
    update_cron,
)
from oban_sync.core.cron import Entry, Expression
from oban_sync.engine import crons

OBAN = "Oban"


@worker(name="tests.control.Report", queue="reports", priority=2, oban="nobody's")
class Report:
    def process(self, job):
        return None


@job(name="tests.control.add", oban="nobody's")
def add(a, b):
    return a + b


@pytest.fixture
def declared(db, conn):
    """An entry of the code, and a node that has it."""
    template = {"queue": "alpha", "args": {"a": 1}, "priority": 1}
    given = Entry(
        "coded", Expression.checked("cron", "0 9 * * *"), "Europe/Berlin", "tests.W", template
    )

    with db.session() as tx:
        crons.declare(tx, OBAN, [given])

    conn.execute(
        "INSERT INTO oban_sync_nodes (uuid, name, node, beats, max_age, unlocked_max_age, crons)"
        " VALUES ('1', 'Oban', 'n', 1, 60, 6, '{coded}')"
    )

    return "coded"


def test_an_entry_of_the_code_is_shown(db, declared):
    [found] = list_crons(db, OBAN)

    assert (found.name, found.expression, found.timezone) == ("coded", "0 9 * * *", "Europe/Berlin")
    assert (found.worker, found.args) == ("tests.W", {"a": 1})
    assert found.options == {"queue": "alpha", "priority": 1}
    assert (found.catch_up, found.overlap) == ("last", "allow")
    assert (found.dynamic, found.declared, found.edited, found.paused) == (
        False,
        True,
        False,
        False,
    )
    assert (found.paused_by, found.paused_at, found.problem) == (None, None, None)
    assert (found.last_at, found.last_outcome) == (None, None)
    assert timedelta(0) < found.next_at - datetime.now(UTC) <= timedelta(hours=25)
    assert list_crons(db, "Another") == []


def test_an_entry_is_made_for_a_registered_worker(db):
    made = insert_cron(
        db,
        OBAN,
        "@hourly",
        Report,
        args={"day": 1},
        timezone="America/New_York",
        catch_up="all",
        overlap="skip",
        tags=["T"],
    )

    assert (made.name, made.worker) == ("tests.control.Report", "tests.control.Report")
    assert (made.expression, made.timezone) == ("@hourly", "America/New_York")
    assert (made.catch_up, made.overlap, made.args) == ("all", "skip", {"day": 1})
    assert (made.options["queue"], made.options["priority"]) == ("reports", 2)
    assert made.options["tags"] == ["t"]
    assert (made.dynamic, made.declared, made.edited) == (True, False, False)
    assert made.next_at is not None
    assert list_crons(db, OBAN) == [made]

    other = insert_cron(db, OBAN, "@daily", add, entry="sum", args={"a": 1, "b": 2})
    assert (other.name, other.worker, other.timezone) == ("sum", "tests.control.add", "Etc/UTC")


def test_an_entry_is_made_for_a_worker_that_only_other_nodes_know(db):
    made = insert_cron(db, OBAN, "@daily", "MyApp.Elsewhere", queue="beta")

    assert (made.name, made.worker) == ("MyApp.Elsewhere", "MyApp.Elsewhere")
    assert made.options["queue"] == "beta"


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (("@dayly", "W"), {}, "Did you mean '@daily'?"),
        (("@daily", object), {}, "not a worker"),
        (("@daily", ""), {}, "blank"),
        (("@daily", "W"), {"timezone": "Mars"}, "cron.timezone"),
        (("@daily", "W"), {"priority": 10}, "cron.priority"),
        (("@daily", "W"), {"prioritty": 1}, "Did you mean 'priority'?"),
        (("@daily", "W"), {"entry": "coded"}, "'coded' exists already"),
        (("@daily", "W"), {"entry": "a\0"}, "cron.name"),
    ],
    ids=str,
)
def test_a_wrong_entry_is_not_made(db, declared, arguments, options, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        insert_cron(db, OBAN, *arguments, **options)

    assert [found.name for found in list_crons(db, OBAN)] == ["coded"]


def test_an_entry_is_changed_and_changed_back(db, declared):
    before = list_crons(db, OBAN)[0]
    update_cron(db, OBAN, "coded", args={"a": 2}, expression="@hourly")
    changed = update_cron(
        db,
        OBAN,
        "coded",
        timezone="Etc/UTC",
        queue="beta",
        priority=9,
        max_attempts=3,
        tags=["t"],
        meta={"m": 1},
        catch_up="none",
        overlap="skip",
        args=None,
    )

    assert (changed.expression, changed.timezone) == ("@hourly", "Etc/UTC")
    assert (changed.catch_up, changed.overlap, changed.args) == ("none", "skip", {"a": 2})
    assert changed.options == {
        "queue": "beta",
        "priority": 9,
        "max_attempts": 3,
        "tags": ["t"],
        "meta": {"m": 1},
    }
    assert (changed.edited, changed.next_at.minute) == (True, 0)
    assert reset_cron(db, OBAN, "coded") == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"expression": "junk"}, "cron.expression: 'junk'"),
        ({"worker": "os.system"}, "cron.worker: unknown"),
        ({"args": [1]}, "cron.args"),
        ({"name": "other"}, "cron.name: unknown"),
        ({"overlap": "queue"}, "cron.overlap"),
    ],
    ids=str,
)
def test_a_wrong_change_changes_nothing(db, declared, changes, words):
    before = list_crons(db, OBAN)

    with pytest.raises(ConfigError, match=re.escape(words)):
        update_cron(db, OBAN, "coded", priority=5, **changes)

    assert list_crons(db, OBAN) == before


def test_a_pause_says_who_and_when(db, declared):
    paused = pause_cron(db, OBAN, "coded", by="anna")
    again = pause_cron(db, OBAN, "coded", by="bert")

    assert (paused.paused, paused.paused_by, paused.next_at) == (True, "anna", None)
    assert abs(datetime.now(UTC) - paused.paused_at) < timedelta(minutes=1)
    assert again == paused

    resumed = resume_cron(db, OBAN, "coded")
    assert (resumed.paused, resumed.paused_by, resumed.paused_at) == (False, None, None)
    assert resumed.next_at is not None


@pytest.mark.parametrize("by", [5, "a\0b", "x" * 256])
def test_who_pauses_must_be_storable(db, declared, by):
    with pytest.raises(ConfigError, match="^by: "):
        pause_cron(db, OBAN, "coded", by=by)


def test_an_entry_made_at_run_time_is_deleted(db):
    insert_cron(db, OBAN, "@daily", Report)
    delete_cron(db, OBAN, "tests.control.Report")

    assert list_crons(db, OBAN) == []


def test_an_entry_of_the_code_is_not_deleted_while_a_node_has_it(db, conn, declared):
    with pytest.raises(ConfigError, match="pause it"):
        delete_cron(db, OBAN, declared)

    conn.execute("DELETE FROM oban_sync_nodes")
    [left] = list_crons(db, OBAN)
    assert (left.declared, left.next_at) == (False, None)

    delete_cron(db, OBAN, declared)
    assert list_crons(db, OBAN) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda db, entry: update_cron(db, OBAN, entry, priority=1),
        lambda db, entry: reset_cron(db, OBAN, entry),
        lambda db, entry: pause_cron(db, OBAN, entry),
        lambda db, entry: resume_cron(db, OBAN, entry),
        lambda db, entry: delete_cron(db, OBAN, entry),
    ],
    ids=["update", "reset", "pause", "resume", "delete"],
)
def test_an_entry_that_is_not_there_is_told_with_the_nearest(db, declared, call):
    with pytest.raises(ConfigError, match=r"^entry: unknown.*Did you mean 'coded'"):
        call(db, "coted")

    for name in (None, "a\0b", 5):
        with pytest.raises(ConfigError, match="^entry: "):
            call(db, name)


def test_what_became_of_each_time_can_be_read(db, declared):
    noon = datetime(2026, 5, 5, 12, tzinfo=UTC)

    for minutes, skip in ((0, None), (1, "missed"), (2, None)):
        with db.transaction() as tx:
            [row] = crons.list_entries(tx, OBAN)
            due_at = noon + timedelta(minutes=minutes)
            crons.settle(tx, OBAN, row, due_at, node="n", late=12.0, skip=skip)

    newest, skipped, oldest = list_cron_slots(db, OBAN, declared)

    assert (newest.outcome, newest.node, newest.reason) == ("inserted", "n", "late by 12 s")
    assert (skipped.outcome, skipped.job_id, skipped.reason) == ("skipped", None, "missed")
    assert oldest.due_at == noon
    assert oldest.job_id < newest.job_id
    assert list_cron_slots(db, OBAN, declared, limit=1) == [newest]
    assert list_cron_slots(db, OBAN, "unknown") == []
    assert list_crons(db, OBAN)[0].last_at == newest.due_at

    with pytest.raises(ConfigError, match="^limit: "):
        list_cron_slots(db, OBAN, declared, limit=0)


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("expression = 'junk'", "expression: 'junk' is no cron expression"),
        ("""job = '{"args": [1]}'""", "args: [1] is not a JSON object"),
        ("""edited = '{"priority": 99}'""", "priority: 99"),
        ("edited = '[1]'", "job: "),
    ],
)
def test_a_row_that_is_no_entry_is_shown_with_what_is_wrong(
    db, conn, declared, assignment, problem
):
    conn.execute(f"UPDATE oban_sync_crons SET {assignment}")
    [found] = list_crons(db, OBAN)

    assert found.problem.startswith(problem)
    assert (found.next_at, type(found.args), type(found.options)) == (None, dict, dict)

    # And it can be repaired.
    update_cron(db, OBAN, declared, expression="@daily", args={}, priority=0)
    assert list_crons(db, OBAN)[0].problem is None


def test_the_name_of_an_entry_is_its_entry(oban):
    with pytest.raises(ConfigError, match=r"name: .*entry="):
        oban.insert_cron("* * * * *", "tests.Nobody", name="daily")
