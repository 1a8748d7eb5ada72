"""Changing stored jobs: cancel, retry, delete, update; alone, in races, in others' transactions."""

from __future__ import annotations

import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import psycopg2
import psycopg_pool
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from oban_sync import (
    ConfigError,
    DatabaseUnavailableError,
    InvalidJobError,
    JobNotFoundError,
    SchemaError,
    schema,
)
from oban_sync.control import jobs
from oban_sync.core.job import Job, JobState
from oban_sync.core.outcome import Outcome, of_result
from oban_sync.engine import ack, batches, fetch
from oban_sync.engine.session import Db
from oban_sync.engine.statements import statement
from tests.support.factory import Factory
from tests.support.peer_callers import CALLERS, django_configured
from tests.support.peer_tables import PEERS
from tests.support.probe import eventually

CLAIM = fetch.Claim("default", "node", "6b1d6d6e-0000-4000-8000-000000000001")

WAITING = ["suspended", "scheduled", "available", "retryable"]
FINAL = ["completed", "cancelled", "discarded"]

PAST = datetime(2020, 1, 1, tzinfo=UTC)


def applications(dsn, size):
    """A pool as applications have it, without any setting of ours."""
    return psycopg_pool.ConnectionPool(
        dsn, min_size=0, max_size=size, kwargs={"autocommit": True}, open=True
    )


@pytest.fixture
def desk(dsn, prefix):
    """What the desk works with: the pool of the application."""
    with applications(dsn, 6) as pool:
        yield Db(pool, prefix)


@pytest.fixture
def start(db, factory):
    """Starts one new job."""

    def start(**columns) -> Job:
        job_id = factory.job(**columns)
        [job] = fetch.turn(db, CLAIM, (), 1).jobs
        assert job.id == job_id

        return job

    return start


@pytest.fixture(params=["own", *PEERS])
def home(request, dsn, desk, factory):
    """The desk and the rows of our own tables, and of those that other Obans made."""
    if request.param == "own":
        yield desk, factory
        return

    name = f"Peer_{uuid.uuid4().hex[:12]}"

    with psycopg.connect(dsn, autocommit=True) as conn:
        PEERS[request.param](conn, name)
        schema.install(dsn, prefix=name)
        conn.execute("SELECT set_config('search_path', %s, false)", [f'"{name}"'])

        with applications(dsn, 2) as pool:
            yield Db(pool, name), Factory(conn)

        conn.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))


@contextmanager
def hearing(dsn, prefix, channel):
    """Gives a function that tells what was heard on a channel since it was last called."""
    name = f"{prefix}.oban_{channel}"

    with psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute(sql.SQL("LISTEN {}").format(sql.Identifier(name)))

        def heard():
            # Notifications come in the order of commits, so before this one nothing is missing.
            listener.execute("SELECT pg_notify(%s, 'the end')", [name])
            payloads = []

            while "the end" not in payloads:
                payloads += [
                    note.payload for note in listener.notifies(timeout=5, stop_after=1)
                ] or pytest.fail("nothing was heard")

            return payloads[:-1]

        yield heard


# Cancelling.


@pytest.mark.parametrize("state", WAITING)
def test_a_job_that_waits_is_cancelled_at_once(desk, factory, state):
    job_id = factory.job(state=state, meta={"own": 1})

    assert jobs.cancel_job(desk, job_id) is True

    row = factory.row(job_id)
    assert row["state"] == "cancelled"
    assert row["cancelled_at"] is not None
    assert row["meta"] == {"own": 1}


@pytest.mark.parametrize("state", FINAL)
def test_a_finished_job_is_not_cancelled(desk, factory, dsn, prefix, state):
    job_id = factory.job(state=state)
    before = factory.row(job_id)

    with hearing(dsn, prefix, "signal") as heard:
        assert jobs.cancel_job(desk, job_id, by="ada") is False
        assert heard() == []

    assert factory.row(job_id) == before


def test_an_executing_job_is_asked_in_its_row_and_over_the_channel(
    desk, start, factory, dsn, prefix
):
    job = start(meta={"own": 1})
    before = datetime.now(UTC)

    with hearing(dsn, prefix, "signal") as heard:
        assert jobs.cancel_job(desk, job, by="ada@example.com") is True
        assert heard() == [f'{{"action":"pkill","job_id":{job.id}}}']

    row = factory.row(job.id)
    asked_at = datetime.fromisoformat(row["meta"].pop("cancel_requested_at"))

    assert (row["state"], row["cancelled_at"]) == ("executing", None)
    assert row["meta"] == {"own": 1, "cancel_requested_by": "ada@example.com"}
    assert asked_at.utcoffset() == timedelta(0)
    assert abs(asked_at - before) < timedelta(minutes=1)


def test_the_first_request_of_a_run_counts(desk, start, factory, dsn, prefix):
    job = start()

    jobs.cancel_job(desk, job, by="ada")
    first = factory.row(job.id)["meta"]

    with hearing(dsn, prefix, "signal") as heard:
        assert jobs.cancel_job(desk, job, by="eve") is True
        assert len(heard()) == 1

    assert factory.row(job.id)["meta"] == first


def test_a_request_left_from_an_earlier_run_does_not_count(desk, start, factory):
    job = start(meta={"cancel_requested_at": "2020-01-01T00:00:00Z", "cancel_requested_by": "eve"})

    jobs.cancel_job(desk, job)
    meta = factory.row(job.id)["meta"]

    assert set(meta) == {"cancel_requested_at"}
    assert meta["cancel_requested_at"] > "2021"


def test_a_request_in_a_transaction_older_than_the_run_counts_as_of_the_run(
    desk, start, factory, dsn, prefix
):
    with psycopg.connect(dsn) as old:
        old.execute("SELECT now()")
        job = start()
        jobs.cancel_job(desk, job, conn=old)

    row = factory.row(job.id)
    asked_at = datetime.fromisoformat(row["meta"]["cancel_requested_at"])

    assert asked_at >= row["attempted_at"].replace(tzinfo=UTC)


def test_who_cancels_a_waiting_job_is_kept_too(desk, factory):
    job_id = factory.job(meta=None)

    jobs.cancel_job(desk, job_id, by="ada")

    assert factory.row(job_id)["meta"] == {"cancel_requested_by": "ada"}


@pytest.mark.parametrize("meta", [None, Jsonb(None), Jsonb([1]), Jsonb("text"), Jsonb(7)], ids=str)
def test_a_request_finds_its_place_whatever_meta_holds(desk, start, factory, meta):
    job = start(meta=meta)

    assert jobs.cancel_job(desk, job) is True
    assert set(factory.row(job.id)["meta"]) == {"cancel_requested_at"}


def test_a_job_that_completed_first_stays_completed(desk, db, start, factory, conn):
    job = start()

    with ThreadPoolExecutor(1) as thread, conn.transaction():
        # The ack's transaction, which the cancel has to wait for.
        conn.execute("UPDATE oban_jobs SET state = 'completed', completed_at = now()")
        cancelled = thread.submit(jobs.cancel_job, desk, job)
        eventually(lambda: _waits(conn))

    assert cancelled.result(10.0) is False
    assert factory.row(job.id)["meta"] == {}
    assert factory.states(job.id) == ["completed"]


def test_a_job_that_started_first_is_asked_to_stop(desk, factory, conn, dsn, prefix):
    job_id = factory.job()

    with (
        hearing(dsn, prefix, "signal") as heard,
        ThreadPoolExecutor(1) as thread,
    ):
        with conn.transaction():
            conn.execute(
                "UPDATE oban_jobs SET state = 'executing', attempted_at = timezone('UTC', now())"
            )
            cancelled = thread.submit(jobs.cancel_job, desk, job_id)
            eventually(lambda: _waits(conn))

        assert cancelled.result(10.0) is True
        assert heard() == [f'{{"action":"pkill","job_id":{job_id}}}']

    row = factory.row(job_id)
    assert (row["state"], row["cancelled_at"]) == ("executing", None)
    assert "cancel_requested_at" in row["meta"]


def test_an_ack_after_the_request_is_accepted_and_keeps_it(desk, db, start, factory):
    job = start()
    jobs.cancel_job(desk, job)

    with db.session() as tx:
        assert ack.ack(tx, [of_result(job, None)], owner=CLAIM.owner).keys == {job.key}

    row = factory.row(job.id)
    assert row["state"] == "completed"
    assert "cancel_requested_at" in row["meta"]


def test_an_ack_never_waits_for_a_cancel_that_is_not_committed(desk, db, start, factory, dsn):
    job = start()

    with psycopg.connect(dsn) as own:
        jobs.cancel_job(desk, job, conn=own)

        with db.session() as tx:
            assert ack.ack(tx, [Outcome(job, JobState.RETRYABLE)], owner=CLAIM.owner).keys == set()

    with db.session() as tx:
        assert ack.ack(tx, [Outcome(job, JobState.CANCELLED)], owner=CLAIM.owner).keys == {job.key}

    assert factory.states(job.id) == ["cancelled"]


def test_many_are_cancelled_and_counted(desk, factory, start, dsn, prefix):
    running = start()
    waiting = [factory.job(state=state) for state in WAITING]
    final = [factory.job(state=state) for state in FINAL]

    with hearing(dsn, prefix, "signal") as heard:
        assert jobs.cancel_many_jobs(desk, iter([*final, *waiting, running, running, 10**12])) == 5
        assert [json.loads(text)["job_id"] for text in heard()] == [running.id]

    assert factory.states(*waiting) == ["cancelled"] * 4


# Retrying.


@pytest.mark.parametrize("state", [*FINAL, "suspended", "scheduled", "retryable"])
def test_a_job_is_made_available_whatever_it_came_to(desk, factory, dsn, prefix, state):
    job_id = factory.job(
        state=state,
        queue='a "quoted" é',
        attempt=3,
        max_attempts=3,
        scheduled_at="2999-01-01",
        completed_at="2026-01-01",
        cancelled_at="2026-01-01",
        discarded_at="2026-01-01",
        meta={"own": 1},
        errors="{}",
    )

    with hearing(dsn, prefix, "insert") as heard:
        assert jobs.retry_job(desk, job_id) is True
        assert [json.loads(text) for text in heard()] == [{"queue": 'a "quoted" é'}]

    row = factory.row(job_id)
    assert (row["state"], row["attempt"], row["max_attempts"]) == ("available", 3, 4)
    assert (row["completed_at"], row["cancelled_at"], row["discarded_at"]) == (None, None, None)
    assert row["scheduled_at"].year < 2999
    assert row["meta"] == {"own": 1}


def test_a_job_with_attempts_left_keeps_its_number_of_them(desk, factory):
    job_id = factory.job(state="retryable", attempt=1, max_attempts=5)
    jobs.retry_job(desk, job_id)

    assert factory.row(job_id)["max_attempts"] == 5


@pytest.mark.parametrize("state", ["available", "executing"])
def test_available_and_executing_jobs_are_not_retried(desk, factory, dsn, prefix, state):
    job_id = factory.job(state=state, meta={"rescued": 1}, scheduled_at="2026-01-01")
    before = factory.row(job_id)

    with hearing(dsn, prefix, "insert") as heard:
        assert jobs.retry_job(desk, job_id) is False
        assert heard() == []

    assert factory.row(job_id) == before


def test_a_retried_job_starts_without_requests_and_deaths_of_earlier_runs(desk, start, factory):
    job_id = factory.job(
        state="discarded",
        meta={
            "own": 1,
            "cancel_requested_at": "2026-01-01T00:00:00Z",
            "cancel_requested_by": "ada",
            "rescued": 3,
            "rescued_start": {"attempt": 1},
            "uniq_bmp": [1, 2],
        },
    )
    jobs.retry_job(desk, job_id)

    assert factory.row(job_id)["meta"] == {"own": 1, "uniq_bmp": []}


@pytest.mark.parametrize("meta", [None, Jsonb(None), Jsonb([1]), Jsonb("text")], ids=str)
def test_a_job_is_retried_whatever_its_meta_holds(desk, factory, meta):
    job_id = factory.job(state="cancelled", meta=meta)
    before = factory.row(job_id)["meta"]

    assert jobs.retry_job(desk, job_id) is True
    assert factory.row(job_id)["meta"] == before


def test_nodes_hear_once_of_each_queue(desk, factory, dsn, prefix):
    made = [factory.job(state="completed", queue=f"q{n % 3}") for n in range(9)]

    with hearing(dsn, prefix, "insert") as heard:
        assert jobs.retry_many_jobs(desk, made) == 9
        assert sorted(heard()) == ['{"queue":"q0"}', '{"queue":"q1"}', '{"queue":"q2"}']


# Deleting.


@pytest.mark.parametrize("state", [*WAITING, *FINAL])
def test_a_job_that_does_not_run_is_deleted(desk, factory, state):
    job_id = factory.job(state=state)

    assert jobs.delete_job(desk, job_id) is True
    assert jobs.delete_job(desk, job_id) is False
    assert factory.count() == 0


def test_a_job_that_runs_is_not_deleted(desk, start, factory):
    job = start()
    other = factory.job()

    assert jobs.delete_job(desk, job) is False
    assert jobs.delete_many_jobs(desk, [job, other]) == 1
    assert factory.states(job.id) == ["executing"]


def test_a_job_that_is_started_meanwhile_is_not_deleted(desk, factory, conn):
    job_id = factory.job()

    with ThreadPoolExecutor(1) as thread, conn.transaction():
        conn.execute("UPDATE oban_jobs SET state = 'executing'")
        deleted = thread.submit(jobs.delete_job, desk, job_id)
        eventually(lambda: _waits(conn))

    assert deleted.result(10.0) is False
    assert factory.states(job_id) == ["executing"]


# Updating.


def test_every_changeable_column_is_changed(desk, factory):
    job_id = factory.job(meta={"kept": 1, "both": 1}, args={"old": 1}, attempt=2)
    updated = jobs.update_job(
        desk,
        job_id,
        {
            "args": {"text": 'a "quoted" \\ é', "n": [1, 2.5, None]},
            "max_attempts": 7,
            "meta": {"both": 2, "new": {"x": 1}},
            "priority": 9,
            "queue": "other",
            "scheduled_at": PAST,
            "tags": ["B", "a", "b"],
            "worker": "app.Other",
        },
    )

    for job in (updated, jobs.get_job(desk, updated)):
        assert job.args == {"text": 'a "quoted" \\ é', "n": [1, 2.5, None]}
        assert job.meta == {"kept": 1, "both": 2, "new": {"x": 1}}
        assert (job.max_attempts, job.priority, job.queue) == (7, 9, "other")
        assert (job.scheduled_at, job.tags, job.worker) == (PAST, ["b", "a"], "app.Other")
        assert (job.id, job.state, job.attempt) == (job_id, "available", 2)


def test_what_is_not_given_stays_as_somebody_else_changed_it_meanwhile(desk, factory, conn):
    job_id = factory.job(meta={"a": 1})

    with ThreadPoolExecutor(1) as thread, conn.transaction():
        conn.execute("""UPDATE oban_jobs SET args = '{"n": 2}', meta = '{"a": 1, "theirs": 2}'""")
        updating = thread.submit(jobs.update_job, desk, job_id, {"meta": {"ours": 3}})
        eventually(lambda: _waits(conn))

    updated = updating.result(10.0)

    assert updated.args == {"n": 2}
    assert updated.meta == {"a": 1, "theirs": 2, "ours": 3}


def test_no_change_of_many_callers_is_lost(desk, factory):
    job_id = factory.job(args={"n": 0})
    begin = threading.Barrier(4)

    def count(_):
        begin.wait(10.0)

        for _ in range(5):
            jobs.update_job(desk, job_id, lambda job: {"args": {"n": job.args["n"] + 1}})

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(count, range(4)))

    assert factory.row(job_id)["args"] == {"n": 20}


def test_a_callable_gets_each_job_and_may_leave_it_alone(desk, factory):
    first, second = factory.job(tags=["a"]), factory.job(tags=["b"], args={"n": 2})
    seen = []

    def change(job):
        seen.append(job.id)

        return {"tags": [*job.tags, "seen"]} if job.id == second else {}

    updated = jobs.update_many_jobs(desk, [second, first, 10**12, second], change)

    assert seen == [first, second]
    assert [(job.id, job.tags) for job in updated] == [(second, ["b", "seen"]), (first, ["a"])]


def test_a_callable_that_fails_changes_nothing(desk, factory):
    first, second = factory.job(), factory.job()

    def change(job):
        if job.id == second:
            raise RuntimeError("not this one")

        return {"priority": 3}

    with pytest.raises(RuntimeError, match="not this one"):
        jobs.update_many_jobs(desk, [first, second], change)

    assert factory.row(first)["priority"] == 0


@pytest.mark.parametrize(
    ("state", "changes", "then"),
    [
        ("available", {"schedule_in": 60}, "scheduled"),
        ("available", {"schedule_in": timedelta(0)}, "available"),
        ("available", {"scheduled_at": PAST}, "available"),
        ("available", {"priority": 1}, "available"),
        ("scheduled", {"scheduled_in": 60}, "scheduled"),
        ("scheduled", {"scheduled_in": 0}, "available"),
        ("scheduled", {"scheduled_at": PAST}, "available"),
        ("scheduled", {"priority": 1}, "scheduled"),
        ("retryable", {"scheduled_at": PAST}, "retryable"),
        ("completed", {"schedule_in": 60}, "completed"),
        ("executing", {"schedule_in": 60}, "executing"),
    ],
    ids=str,
)
def test_a_new_time_moves_a_job_between_scheduled_and_available(
    desk, factory, dsn, prefix, state, changes, then
):
    job_id = factory.job(state=state, scheduled_at="2026-01-01")

    with hearing(dsn, prefix, "insert") as heard:
        assert jobs.update_job(desk, job_id, changes).state == then
        woken = then == "available" and "priority" not in changes
        assert heard() == ['{"queue":"default"}'] * woken

    if "schedule_in" in changes or "scheduled_in" in changes:
        assert factory.row(job_id)["scheduled_at"] > datetime(2026, 1, 2)


def test_an_available_job_in_another_queue_wakes_that_one(desk, factory, dsn, prefix):
    made = [factory.job(), factory.job(state="retryable"), factory.job()]

    with hearing(dsn, prefix, "insert") as heard:
        jobs.update_many_jobs(desk, made, {"queue": "é"})
        assert [json.loads(text) for text in heard()] == [{"queue": "é"}]


@pytest.mark.parametrize("meta", [None, Jsonb([1]), Jsonb("text")], ids=str)
def test_meta_that_is_no_object_gives_way(desk, factory, meta):
    job_id = factory.job(meta=meta)

    assert jobs.update_job(desk, job_id, {"meta": {"a": 1}}).meta == {"a": 1}
    assert jobs.update_job(desk, factory.job(meta=meta), {"priority": 1}).priority == 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"priority": 10}, "priority: 10"),
        ({"priority": None}, "priority: None"),
        ({"prioritty": 1}, "Did you mean 'priority'"),
        ({"state": "completed"}, "state: unknown; allowed are args"),
        ({1: 2}, "1: unknown"),
        ({"args": {"at": PAST}}, r"args\.at"),
        ({"args": []}, "args: "),
        ({"meta": {"x": float("nan")}}, r"meta\.x"),
        ({"tags": "one"}, "tags: "),
        ({"queue": ""}, "queue: "),
        ({"worker": "a\nb"}, "worker: "),
        ({"max_attempts": 0}, "max_attempts: 0"),
        ({"scheduled_at": datetime(2030, 1, 1)}, "scheduled_at: .*timezone"),
        ({"schedule_in": -1}, "schedule_in: "),
        ({"schedule_in": 1, "scheduled_at": PAST}, "not both"),
        (["priority"], "changes: "),
        (None, "changes: "),
    ],
    ids=str,
)
def test_a_wrong_change_is_refused_and_nothing_is_changed(desk, factory, changes, told):
    job_id = factory.job()
    before = factory.row(job_id)

    with pytest.raises(InvalidJobError, match=told):
        jobs.update_job(desk, job_id, changes)

    with pytest.raises(InvalidJobError, match=rf"(?s){told}.*job {job_id}"):
        jobs.update_job(desk, job_id, lambda job: changes)

    assert factory.row(job_id) == before


@pytest.mark.parametrize(
    ("state", "attempt", "least"),
    [("available", 2, 3), ("retryable", 2, 3), ("executing", 2, 2), ("completed", 2, 2)],
)
def test_no_fewer_attempts_are_allowed_than_a_job_needs(desk, factory, state, attempt, least):
    other = factory.job()
    job_id = factory.job(state=state, attempt=attempt)

    with pytest.raises(InvalidJobError, match=f"job {job_id}.*give {least} or more"):
        jobs.update_many_jobs(desk, [other, job_id], {"max_attempts": least - 1})

    assert factory.row(other)["max_attempts"] == 20
    assert jobs.update_job(desk, job_id, {"max_attempts": least}).max_attempts == least


def test_a_job_that_is_not_there_cannot_be_updated(desk, factory):
    with pytest.raises(JobNotFoundError, match="there is no job 123"):
        jobs.update_job(desk, 123, {"priority": 1})

    assert jobs.update_many_jobs(desk, [123], {"priority": 1}) == []


# Which jobs.


OPERATIONS = {
    "cancel": (jobs.cancel_job, jobs.cancel_many_jobs),
    "retry": (jobs.retry_job, jobs.retry_many_jobs),
    "delete": (jobs.delete_job, jobs.delete_many_jobs),
    "update": (
        lambda *given, **options: jobs.update_job(*given, {"priority": 1}, **options),
        lambda *given, **options: jobs.update_many_jobs(*given, {"priority": 1}, **options),
    ),
}


@pytest.mark.parametrize("wrong", [True, None, -1, 2**63, "7", 7.0, [7], Job(worker="W")], ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_no_job_is_refused_by_its_place(desk, factory, name, wrong):
    job_id = factory.job(state="scheduled")
    before = factory.row(job_id)
    one, many = OPERATIONS[name]

    with pytest.raises(InvalidJobError, match="^job: "):
        one(desk, wrong)

    with pytest.raises(InvalidJobError, match=r"^jobs\[1\]: "):
        many(desk, [job_id, wrong])

    assert factory.row(job_id) == before


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_neither_one_nor_many_is_refused(desk, name):
    with pytest.raises(InvalidJobError, match="^jobs: "):
        OPERATIONS[name][1](desk, 7.5)


@pytest.mark.parametrize("name", OPERATIONS)
def test_none_one_and_many_are_taken(desk, factory, name):
    many = OPERATIONS[name][1]

    def amount(result):
        return len(result) if isinstance(result, list) else result

    def made():
        return jobs.get_job(desk, factory.job(state="scheduled"))

    assert amount(many(desk, [])) == 0
    assert amount(many(desk, made())) == 1
    assert amount(many(desk, made().id)) == 1
    assert amount(many(desk, (job for job in [made(), made().id, made()]))) == 3


@pytest.mark.parametrize("name", OPERATIONS)
def test_twelve_thousand_are_changed_in_one_transaction(desk, conn, factory, name):
    conn.execute(
        "INSERT INTO oban_jobs (worker, state)"
        " SELECT 'W', 'scheduled' FROM generate_series(1, 12000)"
    )
    ids = [row[0] for row in conn.execute("SELECT id FROM oban_jobs").fetchall()]
    result = OPERATIONS[name][1](desk, reversed(ids))

    assert (len(result) if isinstance(result, list) else result) == 12_000
    assert factory.count(state="scheduled", priority=0) == 0

    if name != "delete":
        assert conn.execute("SELECT count(DISTINCT xmin::text) FROM oban_jobs").fetchall() == [(1,)]


def test_changes_of_any_size_are_split(desk, factory, monkeypatch):
    monkeypatch.setattr(batches, "MOST_CHARACTERS", 1_000)
    made = [factory.job() for _ in range(9)]
    updated = jobs.update_many_jobs(desk, made, lambda job: {"args": {"text": "x" * 400}})

    assert [job.id for job in updated] == made
    assert {job.args["text"] for job in updated} == {"x" * 400}


def test_who_asks_has_a_name(desk, factory):
    job_id = factory.job()

    for wrong in ("", "a\0b", 7):
        with pytest.raises(InvalidJobError, match="^by: "):
            jobs.cancel_job(desk, job_id, by=wrong)

    assert factory.states(job_id) == ["available"]


@pytest.mark.parametrize("moment", ["empty", "stale", "analyzed"])
@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("job_cancel", {"ids": "{1,2,3}", "by": None, "channel": "c"}),
        ("job_retry", {"ids": "{1,2,3}", "channel": "c"}),
        ("job_delete", {"ids": "{1,2,3}"}),
        ("job_hold", {"ids": "{1,2,3}"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_few_of_many_jobs_are_changed_without_reading_the_others(desk, conn, name, params, moment):
    if moment != "empty":
        conn.execute("ANALYZE oban_jobs")
        conn.execute(
            "INSERT INTO oban_jobs (worker, state)"
            " SELECT 'W', 'completed' FROM generate_series(1, 12000)"
        )

    if moment == "analyzed":
        conn.execute("ANALYZE oban_jobs")

    with desk.session() as tx:
        text = f"EXPLAIN {statement(name, desk.schema)}"
        plan = "\n".join(row[0] for row in tx.conn.execute(text, params).fetchall())

    assert "oban_jobs_pkey" in plan
    assert "Seq Scan on oban_jobs" not in plan


# In the transactions of others.


@pytest.mark.parametrize("kind", CALLERS)
def test_it_all_belongs_to_the_callers_transaction(desk, dsn, prefix, factory, kind):
    waiting = factory.job(state="scheduled", scheduled_at="2999-01-01")
    running = factory.job(state="executing", meta=None)
    failed = factory.job(state="discarded")
    finished = factory.job(state="completed")
    changed = factory.job(tags=["a"])

    def work(conn):
        assert jobs.cancel_many_jobs(desk, [waiting, running], by='a "b"', conn=conn) == 2
        assert jobs.retry_job(desk, failed, conn=conn) is True
        assert jobs.delete_job(desk, finished, conn=conn) is True

        updated = jobs.update_job(
            desk, changed, lambda job: {"tags": [*job.tags, "b"], "args": {"é": "%s"}}, conn=conn
        )
        assert (updated.tags, updated.args) == (["a", "b"], {"é": "%s"})
        assert jobs.get_job(desk, changed, conn=conn).tags == ["a", "b"]

    with (
        CALLERS[kind](dsn) as caller,
        hearing(dsn, prefix, "signal") as signals,
        hearing(dsn, prefix, "insert") as inserts,
    ):
        work(caller.conn)
        caller.rollback()
        assert (signals(), inserts()) == ([], [])

    before = ["scheduled", "executing", "discarded", "completed", "available"]
    assert factory.states(waiting, running, failed, finished, changed) == before
    assert factory.row(running)["meta"] is None
    assert factory.row(changed)["tags"] == ["a"]

    with (
        CALLERS[kind](dsn) as caller,
        hearing(dsn, prefix, "signal") as signals,
        hearing(dsn, prefix, "insert") as inserts,
    ):
        work(caller.conn)
        caller.commit()
        assert signals() == [f'{{"action":"pkill","job_id":{running}}}']
        assert inserts() == ['{"queue":"default"}']

    assert factory.states(waiting, running, failed) == ["cancelled", "executing", "available"]
    assert factory.row(running)["meta"]["cancel_requested_by"] == 'a "b"'
    assert factory.row(changed)["args"] == {"é": "%s"}
    assert factory.count() == 4


def test_an_autocommit_connection_is_given_one_transaction(desk, factory, dsn, monkeypatch):
    monkeypatch.setattr(batches, "MOST_JOBS", 2)
    made = [factory.job() for _ in range(5)]

    with psycopg.connect(dsn, autocommit=True) as conn:
        for given in (conn, conn.cursor()):
            updated = jobs.update_many_jobs(
                desk, made, lambda job: {"priority": job.priority + 1}, conn=given
            )

        def break_off(job):
            if job.id == made[-1]:
                raise RuntimeError("enough")

            return {"priority": 9}

        with pytest.raises(RuntimeError, match="enough"):
            jobs.update_many_jobs(desk, made, break_off, conn=conn)

    assert [job.priority for job in updated] == [2] * 5
    assert factory.count(priority=2) == 5


def test_a_callable_needs_a_transaction_where_we_can_make_none(desk, factory, dsn):
    job_id = factory.job()
    own = psycopg2.connect(dsn)
    own.autocommit = True

    try:
        for conn in (own, own.cursor()):
            with pytest.raises(ConfigError, match="^conn: .*begin a transaction"):
                jobs.update_job(desk, job_id, lambda job: {"priority": 1}, conn=conn)

        assert factory.row(job_id)["priority"] == 0
        assert jobs.update_job(desk, job_id, {"priority": 2}, conn=own).priority == 2
        assert jobs.update_job(desk, job_id, lambda job: {}, conn=own).priority == 2
    finally:
        own.close()

    with django_configured(dsn) as connection, pytest.raises(ConfigError, match="^conn: "):
        jobs.update_job(desk, job_id, lambda job: {"priority": 1}, conn=connection)


def test_a_lost_connection_and_missing_tables_are_told_as_such(desk, dsn, db):
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.close()

        for one, _ in OPERATIONS.values():
            with pytest.raises(DatabaseUnavailableError):
                one(desk, 1, conn=conn)

    with applications(dsn, 1) as pool:
        for one, _ in OPERATIONS.values():
            with pytest.raises(SchemaError, match="oban-sync install"):
                one(Db(pool, "nowhere"), 1)


def test_a_terminated_autocommit_connection_is_told_as_unavailable(desk, dsn, conn):
    with psycopg.connect(dsn, autocommit=True) as own:
        conn.execute("SELECT pg_terminate_backend(%s)", [own.info.backend_pid])

        with pytest.raises(DatabaseUnavailableError):
            jobs.cancel_job(desk, 1, conn=own)


def test_callers_in_opposite_orders_never_fail(desk, factory, conn):
    made = [factory.job(state="completed") for _ in range(60)]
    begin = threading.Barrier(4)

    def work(number):
        given = made if number % 2 else made[::-1]
        begin.wait(10.0)

        for _ in range(5):
            jobs.retry_many_jobs(desk, given)
            jobs.update_many_jobs(desk, given, lambda job: {"priority": number})
            jobs.cancel_many_jobs(desk, given)

        return True

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(4)))


def test_a_lost_race_is_run_again(factory, conn, dsn, prefix):
    job_id = factory.job()
    options = {"autocommit": True, "options": "-c default_transaction_isolation=serializable"}

    with (
        psycopg_pool.ConnectionPool(dsn, min_size=1, kwargs=options) as pool,
        ThreadPoolExecutor(1) as thread,
    ):
        desk = Db(pool, prefix)

        for work in (
            lambda: jobs.update_job(desk, job_id, lambda job: {"tags": [*job.tags, "b"]}).tags,
            lambda: jobs.cancel_job(desk, job_id),
            lambda: jobs.retry_job(desk, job_id),
            lambda: jobs.delete_job(desk, job_id),
        ):
            with conn.transaction():
                conn.execute("UPDATE oban_jobs SET priority = priority + 1, tags = '{a}'")
                working = thread.submit(work)
                eventually(lambda: _waits(conn))

            assert working.result(10.0) in (True, ["a", "b"])

    assert factory.count() == 0


# On the tables of other Obans.


def test_everything_works_on_tables_that_others_made(home):
    desk, factory = home
    waiting = factory.job()
    running = factory.job(state="executing", attempt=1)
    failed = factory.job(state="discarded", attempt=20)
    spent = factory.job(state="discarded", attempt=32_767, max_attempts=32_767)
    gone = factory.job(state="completed")

    assert jobs.cancel_many_jobs(desk, [waiting, running], by="ada") == 2
    assert jobs.retry_many_jobs(desk, [failed, spent]) == 2
    assert jobs.delete_job(desk, gone) is True

    updated = jobs.update_job(
        desk,
        running,
        {
            "args": {"a": 1},
            "max_attempts": 32_767,
            "meta": {"b": 2},
            "priority": 3,
            "queue": "other",
            "schedule_in": 10,
            "tags": ["c"],
            "worker": "W",
        },
    )

    assert (updated.args, updated.tags, updated.priority) == ({"a": 1}, ["c"], 3)
    assert set(updated.meta) == {"b", "cancel_requested_at", "cancel_requested_by"}
    assert factory.states(waiting, running, failed) == ["cancelled", "executing", "available"]

    for job_id in (failed, spent):
        row = factory.row(job_id)
        assert row["attempt"] < row["max_attempts"]
        assert jobs.get_job(desk, job_id).errors == []


def test_attempts_up_to_the_columns_limit_can_be_retried(desk, factory):
    spent = factory.job(state="discarded", attempt=2**31 - 1, max_attempts=2**31 - 1)

    assert jobs.retry_job(desk, spent) is True

    row = factory.row(spent)
    assert (row["attempt"], row["max_attempts"]) == (2**31 - 2, 2**31 - 1)


def test_rows_with_nulls_where_elixir_leaves_them_are_read_and_changed(desk, factory):
    job_id = factory.job(meta=None, tags=None, attempted_by=None)
    job = jobs.get_job(desk, job_id)

    assert (job.meta, job.tags, job.attempted_by) == ({}, [], [])
    assert jobs.update_job(desk, job_id, lambda job: {"tags": [*job.tags, "x"]}).tags == ["x"]


def test_a_job_is_got_by_its_id_or_itself(desk, factory):
    job = jobs.get_job(desk, factory.job(args={"n": 1}))

    assert job.args == {"n": 1}
    assert jobs.get_job(desk, job).id == job.id
    assert jobs.get_job(desk, 10**12) is None

    with pytest.raises(InvalidJobError, match="^job: "):
        jobs.get_job(desk, "7")


def _waits(conn) -> bool:
    found = conn.execute(
        "SELECT FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
        " AND transactionid = pg_current_xact_id_if_assigned()::xid"
    )

    return bool(found.fetchall())
