"""Writing outcomes: fenced, repeated, refused."""

from __future__ import annotations

import logging

import psycopg
import pytest
from psycopg import sql

from oban_sync import DatabaseUnavailableError
from oban_sync.core.job import JobState
from oban_sync.core.outcome import Outcome, Record, Snooze, of_result
from oban_sync.engine import ack, fetch, upkeep
from oban_sync.engine.connections import open_loop_pool
from oban_sync.engine.session import Db, KeptDb


@pytest.fixture
def claim():
    return fetch.Claim("default", "node", "6b1d6d6e-0000-4000-8000-000000000001")


@pytest.fixture
def taken(db, factory, claim):
    """Takes so many new jobs."""

    def take(count=1, **columns):
        for _ in range(count):
            factory.job(**columns)

        jobs = fetch.turn(db, claim, (), count).jobs
        assert len(jobs) == count

        return jobs

    return take


def failed(job, text="boom", **options):
    return Outcome(job, JobState.RETRYABLE, error_text=text, schedule_in=60.0, **options)


def test_taking_a_job_marks_it_with_time_node_and_producer(taken, factory, claim):
    [job] = taken()
    row = factory.row(job.id)

    assert (row["state"], row["attempt"]) == ("executing", 1)
    assert row["attempted_by"] == ["node", claim.owner]
    assert row["attempted_at"] is not None


def test_jobs_are_taken_by_priority_then_time_then_id(db, factory, claim):
    last = factory.job(priority=5)
    late = factory.job(scheduled_at="2026-01-02")
    early = factory.job(scheduled_at="2026-01-01")
    twin = factory.job(scheduled_at="2026-01-01")
    factory.job(queue="other")
    factory.job(state="scheduled")

    assert [job.id for job in fetch.turn(db, claim, (), 10).jobs] == [early, twin, late, last]


def test_no_more_jobs_are_taken_than_asked_for(db, factory, claim):
    for _ in range(5):
        factory.job()

    assert len(fetch.turn(db, claim, (), 2).jobs) == 2
    assert len(fetch.turn(db, claim, (), 0).jobs) == 0
    assert len(fetch.turn(db, claim, (), 100).jobs) == 3


def test_a_job_whose_attempts_are_spent_is_not_taken(db, factory, claim):
    factory.job(attempt=3, max_attempts=3)

    assert fetch.turn(db, claim, (), 5).jobs == []


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda job: of_result(job, None), {"state": "completed", "attempt": 1}),
        (lambda job: of_result(job, Record(5)), {"state": "completed", "attempt": 1}),
        (lambda job: of_result(job, Snooze(60)), {"state": "scheduled", "attempt": 0}),
        (failed, {"state": "retryable", "attempt": 1}),
        (
            lambda job: Outcome(job, JobState.DISCARDED, error_text="x"),
            {"state": "discarded", "attempt": 1},
        ),
        (
            lambda job: Outcome(job, JobState.CANCELLED, error_text="x"),
            {"state": "cancelled", "attempt": 1},
        ),
    ],
    ids=["completed", "recorded", "snoozed", "retryable", "discarded", "cancelled"],
)
def test_every_outcome_is_written(db, factory, claim, taken, make, expected):
    [job] = taken(meta={"kept": 1})
    before = factory.row(job.id)

    assert fetch.turn(db, claim, [make(job)], 0).fenced == []

    row = factory.row(job.id)
    stamp = {"completed": "completed_at", "cancelled": "cancelled_at", "discarded": "discarded_at"}

    assert {key: row[key] for key in expected} == expected
    assert row["meta"]["kept"] == 1

    for state, column in stamp.items():
        assert (row[column] is not None) == (row["state"] == state)

    if row["state"] in ("scheduled", "retryable"):
        assert row["scheduled_at"] > before["scheduled_at"]
    else:
        assert row["scheduled_at"] == before["scheduled_at"]


def test_errors_are_added_at_the_end(db, factory, claim, taken):
    [job] = taken()
    fetch.turn(db, claim, [failed(job, "first")], 0)
    factory._conn.execute("UPDATE oban_jobs SET state = 'available'")
    [job] = fetch.turn(db, claim, (), 1).jobs
    fetch.turn(db, claim, [failed(job, "second")], 0)
    errors = factory.row(job.id)["errors"]

    assert [(error["attempt"], error["error"]) for error in errors] == [(1, "first"), (2, "second")]
    assert job.errors[0]["error"] == "first"


@pytest.mark.parametrize(
    "theft",
    [
        "state = 'available'",
        "state = 'cancelled'",
        "attempted_at = attempted_at + interval '1 microsecond'",
        "attempted_by = ARRAY['node', 'another']",
    ],
)
@pytest.mark.parametrize("make", [lambda job: of_result(job, None), failed], ids=["plain", "other"])
def test_an_outcome_is_refused_once_the_job_is_somebody_elses(
    db, factory, claim, taken, theft, make
):
    mine, stolen = taken(2)
    factory._conn.execute(f"UPDATE oban_jobs SET {theft} WHERE id = %s", [stolen.id])
    before = factory.row(stolen.id)
    outcomes = [make(mine), make(stolen)]

    assert fetch.turn(db, claim, outcomes, 0).fenced == [outcomes[1]]
    assert factory.row(stolen.id) == before
    assert factory.row(mine.id)["state"] == outcomes[0].state


def test_a_deleted_job_is_fenced_and_no_trouble(db, factory, claim, taken):
    [job] = taken()
    factory._conn.execute("DELETE FROM oban_jobs")
    outcome = of_result(job, None)

    assert fetch.turn(db, claim, [outcome], 0).fenced == [outcome]


@pytest.mark.parametrize("make", [lambda job: of_result(job, None), failed], ids=["plain", "other"])
def test_an_outcome_whose_reply_was_lost_may_be_written_again(db, factory, claim, taken, make):
    [job] = taken()
    fetch.turn(db, claim, [make(job)], 0)
    before = factory.row(job.id)

    assert fetch.turn(db, claim, [make(job)], 0).fenced == []
    assert factory.row(job.id) == before


def test_jobs_of_a_fetch_whose_reply_was_lost_go_back_unspent(db, factory, claim, taken):
    lost, known = taken(2)
    [foreign] = taken_by_another(db, factory)

    back, _ = ack.reconcile(db, queue="default", owner=claim.owner, known=[known.key])

    assert back == [lost.id]
    assert factory.states(lost.id, known.id, foreign.id) == ["available", "executing", "executing"]
    assert factory.row(lost.id)["attempt"] == 0


def taken_by_another(db, factory):
    factory.job()

    return fetch.turn(db, fetch.Claim("default", "other", "other-uuid"), (), 1).jobs


def test_a_lost_job_that_somebody_holds_is_told_to_be_left(db, dsn, prefix, factory, claim, taken):
    held, lost = taken(2)

    with psycopg.connect(dsn) as other:
        other.execute(f'SELECT FROM "{prefix}".oban_jobs WHERE id = %s FOR UPDATE', [held.id])

        assert ack.reconcile(db, queue="default", owner=claim.owner, known=[]) == (
            [lost.id],
            False,
        )

    assert ack.reconcile(db, queue="default", owner=claim.owner, known=[]) == ([held.id], True)


def test_a_lost_job_is_found_in_whatever_queue_it_was_put_since(db, factory, claim, taken):
    [lost] = taken(1)
    factory._conn.execute("UPDATE oban_jobs SET queue = 'elsewhere'")

    assert ack.reconcile(db, queue="default", owner=claim.owner, known=[])[0] == [lost.id]


def test_a_lost_job_that_was_asked_to_stop_is_cancelled(db, factory, claim, taken):
    [lost] = taken(1)
    factory._conn.execute(
        """UPDATE oban_jobs SET meta = '{"cancel_requested_at": "2999-01-01T00:00:00.000000Z"}'"""
    )
    ack.reconcile(db, queue="default", owner=claim.owner, known=[])

    assert factory.states(lost.id) == ["cancelled"]


def test_jobs_handed_back_are_available_and_their_attempt_is_not_spent(db, factory, claim, taken):
    mine, stolen = taken(2)
    factory._conn.execute("UPDATE oban_jobs SET attempted_at = now() WHERE id = %s", [stolen.id])

    assert ack.release(db, [mine, stolen], owner=claim.owner) == []
    assert factory.states(mine.id, stolen.id) == ["available", "executing"]
    assert factory.row(mine.id)["attempt"] == 0


REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF {condition} THEN RAISE check_violation USING MESSAGE = 'refused by the test'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON oban_jobs FOR EACH ROW EXECUTE FUNCTION refuse();
"""


def refuse(factory, condition):
    for statement in REFUSE.format(condition=condition).split(";\nCREATE TRIGGER"):
        text = (
            statement if "FUNCTION refuse() RETURNS" in statement else f"CREATE TRIGGER{statement}"
        )
        factory._conn.execute(text)


def test_an_outcome_the_database_refuses_does_not_hold_up_its_neighbours(
    db, factory, claim, taken, caplog
):
    jobs = taken(5)
    waiting = factory.job()
    refuse(factory, f"NEW.id = {jobs[2].id} AND NEW.meta ? 'recorded'")
    outcomes = [of_result(job, Record("x")) for job in jobs]

    with caplog.at_level(logging.ERROR):
        turn = fetch.turn(db, claim, outcomes, 1)

    assert [job.id for job in turn.jobs] == [waiting]
    assert factory.states(*(job.id for job in jobs)) == ["completed"] * 5
    # The one that was refused ended all the same, without what could not be written.
    assert "recorded" not in factory.row(jobs[2].id)["meta"]
    assert "refused by the test" in caplog.text


def test_an_outcome_that_is_refused_in_any_form_is_given_up_and_logged(
    db, factory, claim, taken, caplog
):
    good, bad = taken(2)
    refuse(factory, f"NEW.id = {bad.id}")

    outcomes = [of_result(good, None), of_result(bad, None)]

    assert fetch.turn(db, claim, outcomes, 0).refused == [outcomes[1]]
    assert factory.states(good.id, bad.id) == ["completed", "executing"]
    assert f"Job {bad.id}" in caplog.text


def test_a_job_that_cannot_be_taken_is_set_aside_and_the_queue_goes_on(db, factory, claim, caplog):
    first, poison, third = (factory.job() for _ in range(3))
    refuse(factory, f"NEW.id = {poison}")

    assert [job.id for job in fetch.turn(db, claim, (), 10).jobs] == [first, third]
    assert claim.shunned.ids() == [poison]

    later = factory.job()

    assert [job.id for job in fetch.turn(db, claim, (), 10).jobs] == [later]
    assert factory.states(poison) == ["available"]
    assert f"job {poison}" in caplog.text


def test_a_job_that_cannot_be_handed_back_does_not_keep_its_neighbours(
    db, factory, claim, taken, caplog
):
    first, poison, third = taken(3)
    refuse(factory, f"NEW.id = {poison.id}")

    assert ack.release(db, [first, poison, third], owner=claim.owner) == []
    assert factory.states(first.id, poison.id, third.id) == ["available", "executing", "available"]
    assert ack.reconcile(db, queue="default", owner=claim.owner, known=[]) == ([], True)
    assert caplog.text.count("refused to hand back") == 2


def test_a_row_that_cannot_be_staged_is_set_aside_and_the_others_are_staged(db, factory, caplog):
    due = {"state": "scheduled", "scheduled_at": "2020-01-01"}
    ids = [factory.job(**due) for _ in range(20)]
    poison = ids[13]
    refuse(factory, f"NEW.id = {poison}")
    shunned = fetch.Shunned()

    first = upkeep.stage(db, ["default"], most=100, shunned=shunned)
    second = upkeep.stage(db, ["default"], most=100, shunned=shunned)

    assert shunned.ids() == [poison]
    assert first.staged + second.staged == 19
    assert second.awake == ["default"]
    assert factory.count(state="available") == 19
    assert f"job {poison}" in caplog.text


def test_a_row_with_impossible_times_is_taken_like_any_other(db, factory, claim):
    for moment in ("-infinity", "0044-03-15 BC", "2020-01-01"):
        factory.job(scheduled_at=moment, inserted_at="infinity")

    assert len(fetch.turn(db, claim, (), 10).jobs) == 3


def test_a_row_with_nulls_where_oban_allows_them_is_taken(db, factory, claim):
    factory.job(tags=None, meta=None, attempted_by=None)
    [job] = fetch.turn(db, claim, (), 1).jobs

    assert (job.tags, job.meta) == ([], {})
    assert fetch.turn(db, claim, [of_result(job, Snooze(1))], 0).fenced == []
    assert factory.row(job.id)["meta"] == {"snoozed": 1}


def test_only_so_many_errors_are_kept(db, factory, claim, taken, monkeypatch):
    monkeypatch.setattr(ack, "MOST_ERRORS", 3)
    [job] = taken(max_attempts=50)

    for number in range(5):
        fetch.turn(db, claim, [failed(job, str(number))], 0)
        factory._conn.execute("UPDATE oban_jobs SET state = 'available'")
        [job] = fetch.turn(db, claim, (), 1).jobs

    assert [error["error"] for error in factory.row(job.id)["errors"]] == ["2", "3", "4"]


@pytest.mark.parametrize("make", [lambda job: of_result(job, None), failed], ids=["plain", "other"])
def test_an_outcome_whose_row_is_held_by_another_transaction_waits_alone(
    db, dsn, prefix, factory, claim, taken, make
):
    held, free = taken(2)
    waiting = factory.job()
    outcomes = [make(held), make(free)]

    with psycopg.connect(dsn) as other:
        other.execute(
            sql.SQL("SELECT FROM {}.oban_jobs WHERE id = %s FOR UPDATE").format(
                sql.Identifier(prefix)
            ),
            [held.id],
        )
        turn = fetch.turn(db, claim, outcomes, 1)
        later = fetch.turn(db, claim, turn.left, 0, carefully=True)

        assert ack.release(db, [held], owner=claim.owner) == [held]

    assert (turn.left, turn.fenced, [job.id for job in turn.jobs]) == ([outcomes[0]], [], [waiting])
    assert later.left == [outcomes[0]]
    assert factory.states(held.id, free.id) == ["executing", outcomes[1].state]
    assert fetch.turn(db, claim, later.left, 0, carefully=True).left == []
    assert factory.states(held.id) == [outcomes[0].state]


def test_reading_the_fields_of_a_job_changes_nothing_that_is_written(db, factory, claim, taken):
    for make in (lambda job: of_result(job, None), failed, lambda job: of_result(job, Record(1))):
        [job] = taken()
        wanted = job.id
        assert job.attempted_at.tzinfo is not None
        assert job.scheduled_at >= job.inserted_at
        assert [job.args, job.meta, job.errors] == [{}, {}, []]
        job.id = None
        outcome = make(job)

        assert fetch.turn(db, claim, [outcome], 0).fenced == []
        assert factory.states(wanted) == [outcome.state]


@pytest.mark.parametrize("count", ["9" * 4_300, "9" * 4_299, "-5", "1.5", "true", '"x"'])
def test_no_counter_in_a_row_makes_a_snooze_unwritable(db, factory, claim, count):
    job_id = factory.job()
    factory._conn.execute(f"UPDATE oban_jobs SET meta = '{{\"snoozed\": {count}}}'")
    [job] = fetch.turn(db, claim, (), 1).jobs
    fetch.turn(db, claim, [of_result(job, Snooze(60))], 0)

    assert factory.row(job_id)["state"] == "scheduled"
    assert factory.row(job_id)["meta"] == {"snoozed": 1}


def test_a_meta_changed_after_its_check_costs_only_itself(db, factory, claim, taken, caplog):
    good, bad = taken(2)
    meta = {"a": 1}
    snooze = Snooze(60, meta=meta)
    outcomes = [of_result(good, Snooze(60)), of_result(bad, snooze)]
    outcomes[1].meta["a"] = object()

    assert fetch.turn(db, claim, outcomes, 0).refused == []
    assert factory.states(good.id, bad.id) == ["scheduled", "scheduled"]
    assert factory.row(bad.id)["meta"] == {}
    assert "is no JSON" in caplog.text


def test_outcomes_too_large_for_one_statement_take_several(db, factory, claim, taken, monkeypatch):
    monkeypatch.setattr(ack, "MOST_CHARACTERS", 3_000)
    outcomes = [of_result(job, Record("x" * 1_000)) for job in taken(5)]
    turns = 0

    while outcomes:
        outcomes = fetch.turn(db, claim, outcomes, 0).left
        turns += 1

    assert turns > 1
    assert factory.count(state="completed") == 5


def test_errors_in_any_shape_take_one_more(db, factory, claim):
    shapes = [
        "ARRAY[ARRAY['{}', '{}']]::jsonb[]",
        '\'[5:6]={"{}","{}"}\'::jsonb[]',
        "ARRAY['1', 'null']::jsonb[]",
        "'{}'::jsonb[]",
    ]

    for shape in shapes:
        job_id = factory.job()
        factory._conn.execute(f"UPDATE oban_jobs SET errors = {shape} WHERE id = %s", [job_id])
        [job] = fetch.turn(db, claim, (), 1).jobs

        assert fetch.turn(db, claim, [failed(job, "new")], 0).refused == []
        assert factory.row(job_id)["errors"][-1]["error"] == "new"


def test_a_job_taken_twice_is_known_by_its_start(db, factory, claim, taken):
    [first] = taken()
    factory._conn.execute("UPDATE oban_jobs SET state = 'available'")
    fetch.turn(db, claim, (), 1)

    # The second start was never heard of; an unwritten outcome of the first does not make it known.
    back, _ = ack.reconcile(db, queue="default", owner=claim.owner, known=[first.key])

    assert back == [first.id]
    assert factory.states(first.id) == ["available"]


@pytest.mark.parametrize("kind", [Db, KeptDb])
def test_a_column_changed_under_a_live_session_sets_no_job_aside(dsn, prefix, factory, claim, kind):
    with open_loop_pool(dsn, name="test", size=1) as pool:
        db = kind(pool, prefix)
        change_a_column_under(db, factory, claim)
        db.give_back()


def change_a_column_under(db, factory, claim):
    factory.job()
    assert len(fetch.turn(db, claim, (), 1).jobs) == 1
    factory._conn.execute("ALTER TABLE oban_jobs ALTER worker TYPE varchar")
    job_id = factory.job()

    with pytest.raises(DatabaseUnavailableError, match="anew"):
        fetch.turn(db, claim, (), 1)

    assert claim.shunned.ids() == []
    assert [job.id for job in fetch.turn(db, claim, (), 1).jobs] == [job_id]


def test_a_trigger_that_misses_its_own_table_is_a_refusal_and_not_a_missing_schema(
    db, factory, claim
):
    good, poison = factory.job(), factory.job(priority=-0)
    refuse(factory, f"NEW.id = {poison} AND EXISTS (SELECT FROM no_such_table)")

    assert [job.id for job in fetch.turn(db, claim, (), 5).jobs] == []
    assert set(claim.shunned.ids()) == {good, poison}


def test_a_job_whose_change_is_silently_passed_over_is_set_aside(db, factory, claim, monkeypatch):
    first, silent, third = (factory.job() for _ in range(3))
    factory._conn.execute(
        "CREATE FUNCTION ignore() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN IF NEW.id = {silent} THEN RETURN NULL; END IF; RETURN NEW; END $$"
    )
    factory._conn.execute(
        "CREATE TRIGGER ignore BEFORE UPDATE ON oban_jobs FOR EACH ROW EXECUTE FUNCTION ignore()"
    )
    turn = fetch._turn_in_parts(db, claim, (), 5)

    assert [job.id for job in turn.jobs] == [first, third]
    assert claim.shunned.ids() == [silent]


def test_what_was_set_aside_is_tried_again_later(monkeypatch):
    monkeypatch.setattr(fetch, "SHUN_PERIOD", 0.0)
    shunned = fetch.Shunned()
    shunned.add(5)

    assert shunned.ids() == []


def test_what_is_logged_of_a_refusal_does_not_quote_the_row(db, factory, claim, caplog):
    factory.job(args={"card": "s3cret"})
    factory._conn.execute("ALTER TABLE oban_jobs ADD CHECK (state <> 'executing')")
    fetch.turn(db, claim, (), 5)

    assert "cannot be started" in caplog.text
    assert "s3cret" not in caplog.text
