"""Unique jobs in the table: who wins, what comes back, when a key is free again."""

from __future__ import annotations

import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Thread

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from oban_sync import InvalidJobError, Record, Worker, schema, worker
from oban_sync.core.outcome import of_result
from oban_sync.core.row import whole_of
from oban_sync.core.state import JobState
from oban_sync.core.unique import GROUPS
from oban_sync.engine import batches, fetch, jobs, upkeep
from oban_sync.engine.fetch import Shunned
from oban_sync.engine.statements import statement
from tests.support.factory import Factory
from tests.support.peer_bells import listening
from tests.support.peer_callers import CALLERS
from tests.support.peer_tables import PEERS
from tests.support.probe import eventually

CLAIM = fetch.Claim("alpha", "node", "6b1d6d6e-0000-4000-8000-000000000002")


@worker(queue="alpha", unique=True)
class Once(Worker):
    def process(self, job):
        if job.args.get("fails"):
            raise RuntimeError("trouble")

    def backoff(self, job):
        return 60


@worker(queue="alpha")
class Plain(Worker):
    def process(self, job):
        return None


@pytest.fixture(params=["own", *PEERS])
def any_table(request, dsn, make_oban):
    """An Oban on a table of each kind, and what makes rows in it."""
    name = f"Table_{uuid.uuid4().hex[:12]}"

    with psycopg.connect(dsn, autocommit=True) as conn:
        if request.param != "own":
            PEERS[request.param](conn, name)

        schema.install(dsn, prefix=name)
        conn.execute("SELECT set_config('search_path', %s, false)", [f'"{name}"'])

        yield make_oban(prefix=name), Factory(conn)

        conn.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))


def moved(conn, job_id, state):
    """Put a job into a state, as its life would."""
    conn.execute(
        "UPDATE oban_jobs SET state = %s::oban_job_state, attempted_at = now() WHERE id = %s",
        [state, job_id],
    )


def aged(conn, job_id, seconds):
    """Let a job have been inserted earlier."""
    conn.execute(
        "UPDATE oban_jobs SET inserted_at = inserted_at - make_interval(secs => %s) WHERE id = %s",
        [seconds, job_id],
    )


# What comes back.


def test_a_second_job_that_is_the_same_is_the_first(oban, factory):
    first = Once.enqueue({"a": 1}, priority=3)
    second = Once.enqueue({"a": 1.0}, priority=5)

    assert not first.conflict
    assert second.conflict
    assert (second.id, second.priority, second.state) == (first.id, 3, "available")
    assert second.inserted_at == first.inserted_at
    assert second.args == {"a": 1}
    assert factory.count() == 1


def test_a_stored_job_carries_its_key_as_oban_pro_writes_it(oban):
    stored = Once.enqueue({"a": 1}, meta={"own": 1})
    read = oban.get_job(stored.id)

    assert stored.meta == read.meta
    assert read.meta["own"] == 1
    assert read.meta["uniq"] is True
    assert read.meta["uniq_bmp"] == [0, 1, 2, 3, 4, 7]
    assert len(read.meta["uniq_key"]) == 53


def test_of_many_only_those_are_stored_that_are_not_there(any_table):
    _, factory = any_table
    oban = any_table[0]
    there = Once.enqueue({"n": 2})
    plain = [Plain.new({"n": 1}) for _ in range(2)]
    made = oban.enqueue_many(
        [Once.new({"n": 3}), plain[0], Once.new({"n": 2}), Once.new({"n": 1}), plain[1]]
        + [Once.new({"n": 3}), Once.new({"n": 0})]
    )

    assert [job.conflict for job in made] == [False, False, True, False, False, True, False]
    assert made[2].id == there.id
    assert made[5].id == made[0].id
    assert [job.args["n"] for job in made] == [3, 1, 2, 1, 1, 3, 0]
    assert [job.worker for job in made[:2]] == [f"{__name__}.Once", f"{__name__}.Plain"]

    new = [made[place].id for place in (0, 1, 3, 4, 6)]

    assert new == sorted(new)
    assert min(new) > there.id
    assert factory.count() == 6


def test_ids_of_the_tables_own_come_after_those_of_unique_jobs(any_table):
    oban, factory = any_table
    first = oban.enqueue_many(Once.new({"n": n}) for n in range(50))
    second = oban.enqueue_many(Plain.new({"n": n}) for n in range(50))
    ids = [job.id for job in (*first, *second)]

    assert ids == sorted(ids)
    assert factory.count() == 100


def test_ten_thousand_unique_jobs_of_a_generator_come_back_in_order(oban, factory):
    made = oban.enqueue_many(Once.new({"n": n % 9_000}) for n in range(10_000))

    assert [job.args["n"] for job in made] == [n % 9_000 for n in range(10_000)]
    assert [job.conflict for job in made] == [n >= 9_000 for n in range(10_000)]
    assert [job.id for job in made[9_000:]] == [job.id for job in made[:1_000]]
    assert [job.id for job in made[:9_000]] == sorted(job.id for job in made[:9_000])
    assert factory.count() == 9_000


def test_jobs_with_different_rules_are_stored_by_one_statement(oban, conn):
    expired = Once.enqueue({"n": 1}, unique={"period": 60})
    aged(conn, expired.id, 100)
    made = oban.enqueue_many(
        Once.new({"n": 1}, unique={"period": 200}),
        Once.new({"n": 2}, unique={"keys": ["n"], "states": ["scheduled"]}),
        Once.new({"n": 1}, unique={"period": 60}),
        Once.new({"n": 1}, unique={"period": 200}),
    )

    assert [job.conflict for job in made] == [True, False, False, True]
    assert made[0].id == expired.id
    assert made[2].id > expired.id


@pytest.mark.parametrize("kind", CALLERS)
def test_every_kind_of_connection_finds_the_job_that_is_there(dsn, oban, factory, prefix, kind):
    first = Once.enqueue({"a": 1})

    with CALLERS[kind](dsn) as caller:
        found, new = oban.enqueue_many(
            Once.new({"a": 1}, unique={"period": "forever", "replace": ["tags"]}, tags=["new"]),
            Once.new({"a": 2}),
            conn=caller.conn,
        )
        again = oban.enqueue(Once.new({"a": 2}), conn=caller.conn)

        assert (found.id, found.conflict, found.tags) == (first.id, True, ["new"])
        assert (again.id, again.conflict) == (new.id, True)
        assert (found.errors, found.attempted_by, found.args) == ([], [], {"a": 1})
        assert found.inserted_at == first.inserted_at

        caller.rollback()

    assert factory.count() == 1
    assert oban.get_job(first.id).tags == []


def test_a_job_that_was_stored_is_unique_when_it_is_stored_again(oban, factory):
    first = Once.enqueue({"a": 1})
    again = oban.enqueue(first)
    third = oban.enqueue(again)

    assert [job.conflict for job in (first, again, third)] == [False, True, True]
    assert factory.count() == 1


def test_a_job_that_was_read_is_stored_again_without_its_key(oban, db):
    first = Once.enqueue({"a": 1}, meta={"own": 1})
    read = oban.enqueue(oban.get_job(first.id))
    [taken] = fetch.turn(db, CLAIM, (), 1).jobs
    ran = oban.enqueue(taken)

    for job in (read, ran):
        assert not job.conflict
        assert job.meta == oban.get_job(job.id).meta == {"own": 1}


# Whether a job counts.


@pytest.mark.parametrize("state", [*JobState])
@pytest.mark.parametrize("states", [*GROUPS, ["executing"], ["completed", "available"]], ids=str)
def test_a_job_counts_while_it_is_in_one_of_the_states(oban, conn, states, state):
    unique = {"states": states, "period": "forever"}
    first = Once.enqueue({}, unique=unique)
    moved(conn, first.id, state)
    second = Once.enqueue({}, unique=unique)

    assert second.conflict == (state in GROUPS.get(str(states), states))
    assert (second.id == first.id) == second.conflict


def test_a_period_slides_from_the_insertion_on_the_databases_clock(oban, conn):
    first = Once.enqueue({}, unique={"period": 60})
    aged(conn, first.id, 50)

    assert Once.enqueue({}, unique={"period": 60}).id == first.id

    aged(conn, first.id, 11)
    second = Once.enqueue({}, unique={"period": timedelta(minutes=1)})

    assert not second.conflict
    assert Once.enqueue({}, unique={"period": 60}).id == second.id
    # Of those that are within the period of the new one, the first.
    assert Once.enqueue({}, unique={"period": 120}).id in (first.id, second.id)


def test_a_job_whose_period_is_over_keeps_its_meta_but_for_the_key(oban, conn):
    first = Once.enqueue({}, unique={"period": 60}, meta={"own": 1})
    aged(conn, first.id, 61)
    Once.enqueue({}, unique={"period": 60})
    meta = oban.get_job(first.id).meta

    assert (meta["own"], meta["uniq"], meta["uniq_bmp"]) == (1, True, [])


def test_a_job_that_came_back_into_a_state_that_counts_is_found(oban, conn, factory):
    """A new one took its key meanwhile, and has gone itself."""
    unique = {"states": ["available", "retryable"], "period": "forever"}
    first = Once.enqueue({}, unique=unique)
    moved(conn, first.id, "executing")
    second = Once.enqueue({}, unique=unique)
    moved(conn, second.id, "completed")
    moved(conn, first.id, "retryable")

    assert not second.conflict
    assert Once.enqueue({}, unique=unique).id == first.id
    assert factory.count() == 2


# Nobody's statement fails, whatever becomes of a job.

OPEN = [["scheduled"], ["available"], ["executing"], ["retryable"], ["completed", "scheduled"]]


@pytest.mark.parametrize("states", OPEN, ids=str)
def test_a_life_goes_on_beside_a_job_with_the_same_key(oban, db, conn, factory, states):
    """Staging, starting, failing, completing: none may be refused, by whatever Oban it is done."""
    unique = {"states": states, "period": "forever"}
    made = [Once.enqueue({}, unique=unique, schedule_in=0)]

    for state in ("available", "executing", "retryable", "available", "executing", "completed"):
        for job in made:
            moved(conn, job.id, state)

        made += [Once.enqueue({}, unique=unique), Once.enqueue({}, unique=unique, schedule_in=0)]

    conn.execute("UPDATE oban_jobs SET state = 'retryable' WHERE state <> 'completed'")
    shunned = Shunned()

    upkeep.stage(db, ["alpha"], most=100, shunned=shunned)

    assert shunned.ids() == []
    assert factory.count(state="retryable") == 0

    oban.drain_queue("alpha")

    assert factory.count(state="available") == 0


def test_retrying_a_job_while_another_holds_its_key(any_table):
    oban, factory = any_table
    first = Once.enqueue({"a": 1})
    oban.cancel_job(first)
    second = Once.enqueue({"a": 1})

    assert not second.conflict
    assert oban.retry_job(first)
    assert factory.states(first.id, second.id) == ["available", "available"]
    assert oban.get_job(first.id).meta["uniq_bmp"] == []
    assert Once.enqueue({"a": 1}).conflict

    oban.cancel_job(second)

    # The one that was retried counts all the same.
    assert Once.enqueue({"a": 1}).id == first.id


@pytest.mark.parametrize(
    "meta",
    [
        {"uniq_key": "x" * 500_000, "uniq_bmp": [0, 1, 2, 3, 4, 5, 6, 7]},
        {"uniq_key": 5, "uniq_bmp": [1]},
        {"uniq_key": None, "uniq_bmp": [1]},
        {"uniq_key": {"a": 1}, "uniq_bmp": {"a": 1}},
        {"uniq_key": "short", "uniq_bmp": [1]},
        {"uniq_key": "short", "uniq_bmp": []},
        {"uniq_key": f"oban_sync:{'k' * 43}", "uniq_bmp": "1"},
        {"uniq_key": f"oban_sync:{'k' * 43}", "uniq_bmp": 1},
        {"uniq_key": f"oban_sync:{'k' * 43}"},
    ],
    ids=lambda meta: str(meta)[:60],
)
def test_whatever_others_keep_under_these_names_is_stored(conn, factory, meta):
    ids = [factory.job(meta=meta) for _ in range(2)]
    conn.execute("UPDATE oban_jobs SET state = 'completed'")

    assert factory.states(*ids) == ["completed", "completed"]


def test_a_meta_that_is_no_object_is_stored(conn, factory):
    for value in ('["uniq_key"]', '"uniq_key"', "5", "null"):
        conn.execute("INSERT INTO oban_jobs (worker, meta) VALUES ('W', %s)", [value])

    conn.execute("UPDATE oban_jobs SET state = 'completed'")

    assert factory.count(state="completed") == 4


def test_a_row_written_by_hand_with_a_key_of_ours_is_refused_twice(oban, conn, factory):
    meta = json.dumps(Once.enqueue({}).meta)

    with pytest.raises(psycopg.errors.UniqueViolation, match="oban_sync_unique_index"):
        conn.execute("INSERT INTO oban_jobs (worker, meta) VALUES ('W', %s)", [meta])


def test_another_unique_index_of_the_table_refuses_as_ever(oban, conn, factory):
    conn.execute("CREATE UNIQUE INDEX own ON oban_jobs ((args ->> 'n'))")
    Plain.enqueue({"n": 1})

    with pytest.raises(psycopg.errors.UniqueViolation, match='"own"'):
        oban.enqueue_many(Once.new({"n": 2}), Once.new({"n": 1}))

    assert factory.count() == 1


def test_a_job_whose_holder_is_never_seen_is_tried_so_often_and_then_told(oban, conn, monkeypatch):
    Once.enqueue({})
    tries = []
    monkeypatch.setattr(jobs, "_find", lambda *_: tries.append(1) or ())

    with pytest.raises(psycopg.errors.UniqueViolation, match="oban_sync_unique_index"):
        Once.enqueue({})

    assert len(tries) == jobs.MOST_TRIES


def test_in_a_transaction_nothing_is_held_while_a_job_is_tried_again(dsn, oban, monkeypatch):
    """Who holds one key and waits for a smaller one may be waited for by its holder."""
    there = Once.enqueue({"n": 0})
    real, held = jobs._find, []

    def gone(conn, schema, batch, places):
        if not held:
            held.append(len(places))

            return ()

        return real(conn, schema, batch, places)

    tries = []
    insert = jobs._insert_free
    monkeypatch.setattr(jobs, "_find", gone)
    monkeypatch.setattr(
        jobs, "_insert_free", lambda *given: tries.append(len(given[2])) or insert(*given)
    )

    with psycopg.connect(dsn) as own:
        made = oban.enqueue_many([Once.new({"n": n}) for n in range(3)], conn=own)

        assert own.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS

    assert tries == [3, 1, 2]
    assert [job.conflict for job in made] == [True, False, False]
    assert made[0].id == there.id
    assert oban.get_job(made[2].id).args == {"n": 2}


# Replacing.


def test_named_fields_of_a_waiting_job_are_replaced(any_table):
    oban, factory = any_table
    fields = ["args", "max_attempts", "meta", "priority", "queue", "scheduled_at", "tags", "worker"]
    unique = {"fields": ["args"], "keys": ["id"], "replace": fields, "period": "forever"}
    at = datetime(2040, 1, 1, tzinfo=UTC)
    first = Once.enqueue({"id": 1, "n": 1}, unique=unique, meta={"a": 1, "b": 1})
    found = Plain.enqueue(
        {"id": 1, "n": 2},
        unique=unique,
        meta={"b": 2},
        max_attempts=5,
        priority=3,
        queue="beta",
        scheduled_at=at,
        tags=["t"],
    )

    for job in (found, oban.get_job(first.id)):
        assert job.id == first.id
        assert (job.args, job.queue, job.worker) == ({"id": 1, "n": 2}, "beta", Plain.new().worker)
        assert (job.priority, job.max_attempts, job.tags) == (3, 5, ["t"])
        assert (job.scheduled_at, job.state) == (at, "scheduled")
        assert {name: job.meta[name] for name in ("a", "b")} == {"a": 1, "b": 2}
        assert job.meta["uniq_key"] == first.meta["uniq_key"]

    assert found.conflict
    assert factory.count() == 1


def test_only_what_is_named_for_its_state_is_replaced(oban, conn):
    unique = {"replace": {"scheduled": ["priority"], "executing": ["tags"]}}
    first = Once.enqueue({}, unique=unique, schedule_in=60)

    def asked(**options):
        found = Once.enqueue({}, unique=unique, **options)

        return found.priority, found.tags

    assert asked(priority=7, tags=["a"]) == (7, [])
    moved(conn, first.id, "executing")
    assert asked(priority=8, tags=["b"]) == (7, ["b"])
    moved(conn, first.id, "retryable")
    assert asked(priority=9, tags=["c"]) == (7, ["b"])


def test_a_job_that_becomes_available_by_it_is_rung_for(dsn, oban, prefix):
    unique = {"replace": ["scheduled_at"], "period": "forever"}
    Once.enqueue({}, unique=unique, schedule_in=3600)

    with listening(dsn, prefix) as bells:
        assert Once.enqueue({}, unique=unique, schedule_in=60).state == "scheduled"
        assert bells() == []
        assert Once.enqueue({}, unique=unique).state == "available"
        assert bells() == [{"queue": "alpha"}]
        assert Once.enqueue({}, unique=unique, schedule_in=60).state == "scheduled"


def test_of_a_job_that_gives_way_nothing_is_replaced(oban, conn):
    unique = {"period": 60, "replace": ["priority"]}
    first = Once.enqueue({}, unique=unique, priority=3)
    aged(conn, first.id, 61)

    assert not Once.enqueue({}, unique=unique, priority=7).conflict
    assert oban.get_job(first.id).priority == 3


def test_replaced_attempts_are_never_fewer_than_a_job_needs(oban, conn):
    unique = {"replace": ["max_attempts"]}
    first = Once.enqueue({}, unique=unique)
    conn.execute("UPDATE oban_jobs SET attempt = 5 WHERE id = %s", [first.id])

    assert Once.enqueue({}, unique=unique, max_attempts=2).max_attempts == 6


def test_of_several_in_one_batch_the_last_replaces(oban):
    unique = {"replace": ["priority"], "period": "forever"}
    made = oban.enqueue_many(Once.new({}, unique=unique, priority=n) for n in range(5))

    assert {job.id for job in made} == {made[0].id}
    assert oban.get_job(made[0].id).priority == 4


def test_changing_a_unique_job_leaves_its_key(oban):
    first = Once.enqueue({"a": 1})
    changed = oban.update_job(first, {"args": {"a": 2}, "meta": {"uniq_key": "x", "own": 1}})

    assert changed.meta == {**first.meta, "own": 1}
    assert Once.enqueue({"a": 1}).id == first.id
    assert not Once.enqueue({"a": 2}).conflict


@pytest.mark.parametrize("option", ["deadline", "timeout", "unique", "weight"])
def test_what_is_settled_when_a_job_is_stored_cannot_be_changed(oban, option):
    job = Once.enqueue({})

    with pytest.raises(InvalidJobError, match=f"^{option}: unknown"):
        oban.update_job(job, {option: 1})


# Deadlines, which the insert statements reckon.


@pytest.mark.parametrize("unique", [False, True])
@pytest.mark.parametrize("time", [{}, {"schedule_in": 90}, {"scheduled_at": datetime.max}], ids=str)
def test_a_deadline_counts_from_the_time_a_job_is_scheduled_for(any_table, unique, time):
    oban, _ = any_table

    if "scheduled_at" in time:
        time = {"scheduled_at": datetime(9998, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)}

    job = Once.enqueue({}, unique=unique, deadline=5 * 365 * 86_400 + 0.1, meta={"own": 1}, **time)
    read = oban.get_job(job.id)
    kept = read.meta["oban_sync"]
    clear = datetime.max.replace(tzinfo=UTC)

    if job.scheduled_at.year < 9000:
        clear = job.scheduled_at + timedelta(seconds=5 * 365 * 86_400 + 0.1)

    assert job.meta == read.meta
    assert kept["deadline"] == 5 * 365 * 86_400 + 0.1
    assert kept["deadline_at"] == clear.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert read.meta["own"] == 1


def test_a_job_without_a_deadline_has_none(oban):
    assert oban.get_job(Plain.enqueue({}).id).meta == {}


def test_a_deadline_moves_when_a_job_is_retried_moved_or_stored_again(oban, conn):
    first = Plain.enqueue({}, deadline=60, timeout=5)
    conn.execute(
        "UPDATE oban_jobs SET meta = jsonb_set(meta, '{oban_sync,deadline_at}', '\"2020\"'),"
        " state = 'cancelled'"
    )
    assert oban.retry_job(first)
    retried = oban.get_job(first.id)

    assert deadline_of(retried) == retried.scheduled_at + timedelta(seconds=60)
    assert retried.meta["oban_sync"]["timeout"] == 5

    updated = oban.update_job(first, {"schedule_in": 600, "meta": {"own": 1}})

    assert deadline_of(updated) == updated.scheduled_at + timedelta(seconds=60)
    assert updated.meta["own"] == 1

    again = oban.enqueue(oban.get_job(first.id))

    assert deadline_of(again) == again.scheduled_at + timedelta(seconds=60)
    assert again.meta == oban.get_job(again.id).meta


def test_a_replaced_time_moves_the_deadline(oban):
    unique = {"replace": ["scheduled_at"], "period": "forever"}
    Once.enqueue({}, unique=unique, deadline=60)
    found = Once.enqueue({}, unique=unique, schedule_in=600, deadline=5)

    assert deadline_of(found) == found.scheduled_at + timedelta(seconds=60)

    unique = {"replace": ["meta"], "period": "forever"}
    found = Once.enqueue({}, unique=unique, deadline=5)

    assert deadline_of(found) == found.scheduled_at + timedelta(seconds=5)


def deadline_of(job):
    return datetime.fromisoformat(job.meta["oban_sync"]["deadline_at"])


# A model: what is in the table, by number of the key.

#: Where a job may go from where it is; from its end it comes back only by a retry.
WAYS = {
    "suspended": ["available", "scheduled"],
    "scheduled": ["available", "suspended", "cancelled"],
    "available": ["executing", "scheduled", "cancelled"],
    "executing": ["available", "cancelled", "completed", "discarded", "retryable", "scheduled"],
    "retryable": ["available", "cancelled"],
}

ASKED = st.tuples(st.integers(0, 1), st.booleans(), st.sampled_from([60, "forever"]))
PICK = st.integers(0, 99)
STEPS = st.one_of(
    st.tuples(st.just("enqueue"), ASKED),
    st.tuples(st.just("enqueue"), ASKED),
    st.tuples(st.just("enqueue many"), st.lists(ASKED, min_size=2, max_size=4)),
    st.tuples(st.just("move"), st.tuples(PICK, PICK)),
    st.tuples(st.just("move"), st.tuples(PICK, PICK)),
    st.tuples(st.just("retry"), PICK),
    st.tuples(st.just("age"), st.none()),
)
STATES = st.sampled_from([*GROUPS]) | st.lists(
    st.sampled_from([*JobState]), min_size=1, unique=True
)


class Model:
    """Jobs as they should be: a new one counts them, in its states and its period."""

    def __init__(self, states, replace):
        self.states = states
        self.replace = replace
        self.rows = {}

    def same(self, number, period):
        return {
            job_id
            for job_id, row in self.rows.items()
            if row["number"] == number
            and row["state"] in self.states
            and (period == "forever" or row["age"] < period)
        }

    def enqueued(self, job, asked, priority):
        number, later, period = asked

        if there := self.same(number, period):
            assert job.conflict
            assert job.id in there
            row = self.rows[job.id]

            if row["state"] in self.replace:
                row["priority"] = priority
        else:
            assert not job.conflict
            assert job.id not in self.rows
            state = "scheduled" if later else "available"
            self.rows[job.id] = {"number": number, "state": state, "age": 0, "priority": priority}


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(STATES, st.data(), st.lists(STEPS, max_size=14))
def test_a_new_job_is_stored_exactly_when_the_model_has_none_that_is_the_same(
    oban, conn, states, data, steps
):
    conn.execute("TRUNCATE oban_jobs")
    listed = [str(state) for state in GROUPS.get(str(states), states)]
    replace = data.draw(st.sets(st.sampled_from(listed)))
    model = Model(listed, replace)
    options = {"states": states, "replace": {state: ["priority"] for state in replace}}

    def new(asked, priority):
        number, later, period = asked
        when = {"schedule_in": 3600} if later else {}

        return Once.new(
            {"n": number}, unique={**options, "period": period}, priority=priority, **when
        )

    for turn, (step, what) in enumerate(steps):
        priority = turn % 10
        ids = sorted(model.rows)

        if step == "enqueue":
            model.enqueued(oban.enqueue(new(what, priority)), what, priority)
        elif step == "enqueue many":
            made = oban.enqueue_many(new(asked, priority) for asked in what)

            for job, asked in zip(made, what, strict=True):
                model.enqueued(job, asked, priority)
        elif step == "age":
            conn.execute("UPDATE oban_jobs SET inserted_at = inserted_at - interval '40 s'")

            for row in model.rows.values():
                row["age"] += 40
        elif step == "move" and ids:
            job_id = ids[what[0] % len(ids)]
            ways = WAYS.get(model.rows[job_id]["state"])

            if ways:
                model.rows[job_id]["state"] = ways[what[1] % len(ways)]
                moved(conn, job_id, model.rows[job_id]["state"])
        elif step == "retry" and ids:
            job_id = ids[what % len(ids)]

            if oban.retry_job(job_id):
                model.rows[job_id]["state"] = "available"

    rows = conn.execute("SELECT id, state::text, priority FROM oban_jobs ORDER BY id").fetchall()

    assert rows == [
        (job_id, row["state"], row["priority"]) for job_id, row in sorted(model.rows.items())
    ]


# At the same time.


def waits(conn, pid):
    return conn.execute(
        "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s", [pid]
    ).fetchone() == (True,)


@pytest.mark.parametrize("many", [False, True])
def test_when_the_winner_rolls_back_the_one_that_waited_inserts(dsn, oban, conn, factory, many):
    given = [Once.new({"n": n}) for n in ((1, 2) if many else (1,))]

    with (
        psycopg.connect(dsn) as winner,
        psycopg.connect(dsn) as waiter,
        ThreadPoolExecutor(1) as threads,
    ):
        [lost] = oban.enqueue_many([Once.new({"n": 1})], conn=winner)
        waiting = threads.submit(oban.enqueue_many, given, conn=waiter)
        eventually(lambda: waits(conn, waiter.info.backend_pid))
        winner.rollback()
        made = waiting.result(10.0)
        waiter.commit()

    assert not any(job.conflict for job in made)
    assert lost.id not in [job.id for job in made]
    assert factory.count() == len(given)


@pytest.mark.parametrize("many", [False, True])
def test_when_the_winner_commits_the_one_that_waited_gets_its_job(dsn, oban, conn, factory, many):
    given = [Once.new({"n": n}) for n in ((1, 2) if many else (1,))]

    with (
        psycopg.connect(dsn) as winner,
        psycopg.connect(dsn) as waiter,
        ThreadPoolExecutor(1) as threads,
    ):
        [won] = oban.enqueue_many([Once.new({"n": 1})], conn=winner)
        waiting = threads.submit(oban.enqueue_many, given, conn=waiter)
        eventually(lambda: waits(conn, waiter.info.backend_pid))
        winner.commit()
        made = waiting.result(10.0)
        waiter.commit()

    assert (made[0].id, made[0].conflict) == (won.id, True)
    assert factory.count() == len(given)


def test_in_repeatable_read_the_one_that_waited_is_told_to_begin_again(dsn, oban, conn):
    with (
        psycopg.connect(dsn) as winner,
        psycopg.connect(dsn) as waiter,
        ThreadPoolExecutor(1) as threads,
    ):
        waiter.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        waiter.execute("SELECT 1")
        oban.enqueue(Once.new(), conn=winner)
        waiting = threads.submit(oban.enqueue, Once.new(), conn=waiter)
        eventually(lambda: waits(conn, waiter.info.backend_pid))
        winner.commit()

        with pytest.raises(psycopg.errors.SerializationFailure):
            waiting.result(10.0)

        waiter.rollback()

        assert oban.enqueue(Once.new(), conn=waiter).conflict


def test_two_that_insert_the_same_keys_the_other_way_round_do_not_block_each_other(
    dsn, oban, factory
):
    """Eight at once, each in one transaction, in orders of their own."""
    start = threading.Barrier(8)

    def insert(seed):
        from random import Random

        numbers = list(range(200)) * 2
        Random(seed).shuffle(numbers)
        start.wait(10.0)

        with psycopg.connect(dsn) as own:
            return oban.enqueue_many([Once.new({"n": n}) for n in numbers], conn=own)

    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(insert, range(8)))

    assert factory.count() == 200
    assert sum(not job.conflict for batch in made for job in batch) == 200
    assert {job.id for batch in made for job in batch} == {
        job.id for batch in made for job in batch if not job.conflict
    }


def test_a_deadlock_between_transactions_of_ours_is_tried_again(dsn, oban, factory, monkeypatch):
    """Batches are one statement each: two of them may wait for each other."""
    monkeypatch.setattr(batches, "MOST_AHEAD", 1)
    both = threading.Barrier(2)
    first_of_each = threading.Event()
    real = jobs.run_for
    seen = set()

    def slowly(conn, name, schema, meanwhile, /, **params):
        found = real(conn, name, schema, meanwhile, **params)
        me = threading.get_ident()

        if name == "job_insert_unique" and me not in seen and not first_of_each.is_set():
            seen.add(me)
            both.wait(10.0)
            first_of_each.set()

        return found

    monkeypatch.setattr(jobs, "run_for", slowly)

    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(oban.enqueue_many, [Once.new({"n": 1}), Once.new({"n": 2})])
        other = threads.submit(oban.enqueue_many, [Once.new({"n": 2}), Once.new({"n": 1})])
        made = [*one.result(20.0), *other.result(20.0)]

    assert factory.count() == 2
    assert len({job.id for job in made}) == 2


# The plan.


@pytest.mark.parametrize("moment", ["empty", "stale", "analyzed"])
@pytest.mark.parametrize("name", ["job_insert_unique", "job_unique_find"])
def test_keys_are_looked_up_through_their_indexes(db, oban, conn, name, moment):
    if moment != "empty":
        conn.execute("ANALYZE oban_jobs")
        conn.execute(
            "INSERT INTO oban_jobs (state, worker, meta)"
            " SELECT (ARRAY['completed', 'available'])[1 + mod(n, 2)]::oban_job_state, 'W',"
            " jsonb_build_object('uniq', true, 'uniq_bmp',"
            " CASE WHEN mod(n, 50) = 1 THEN '[]'::jsonb ELSE '[0,1,2,3,7]' END,"
            " 'uniq_key', 'oban_sync:' || rpad(md5(n::text), 43, 'x'))"
            " FROM generate_series(1, 12000) AS n"
        )

    if moment == "analyzed":
        conn.execute("ANALYZE oban_jobs")

    rows = whole_of([Once.new({"a": 1}).to_row()])
    given = {
        "job_insert_unique": {
            "jobs": rows,
            "usual": "{}",
            "ids": None,
            "count": "1",
            "states": "{available}",
            "period": None,
        },
        "job_unique_find": {"jobs": rows, "channel": "c"},
    }[name]

    with db.session() as tx:
        text = f"EXPLAIN (FORMAT JSON) {statement(name, db.schema)}"
        [(found,)] = tx.conn.execute(text, given).fetchall()

    nodes = list(walked(found[0]["Plan"]))
    scans = [node for node in nodes if node.get("Relation Name") == "oban_jobs"]

    assert not [node for node in scans if node["Node Type"] == "Seq Scan"]
    assert "oban_sync_yielded_index" in {node.get("Index Name") for node in nodes}

    if name == "job_unique_find":
        assert "oban_sync_unique_index" in {node.get("Index Name") for node in nodes}


def walked(plan):
    yield plan

    for inner in plan.get("Plans", []):
        yield from walked(inner)


@pytest.mark.parametrize("unique", [{"states": ["executing"]}, {"period": 1e-9}], ids=str)
def test_many_that_do_not_count_for_each_other_are_all_stored(oban, unique):
    stored = oban.enqueue_many([Plain.new({"id": 1}, unique=unique) for _ in range(15)])

    assert len({job.id for job in stored}) == 15


def test_nothing_is_replaced_in_a_state_that_it_was_not_given_for(dsn, prefix, oban, monkeypatch):
    unique = {"replace": {"available": ["args"]}, "fields": ["worker"]}
    first = Plain.enqueue({"v": 1}, unique=unique)
    find = jobs._find

    with psycopg.connect(dsn) as other:
        other.execute("SELECT set_config('search_path', %s, false)", [f'"{prefix}"'])
        other.commit()
        started = []

        def late(*given):
            if not started:
                # A producer takes the job, and commits once somebody waits for the row.
                started.append(
                    other.execute(
                        "UPDATE oban_jobs SET state = 'executing', attempt = 1 WHERE id = %s "
                        "RETURNING pg_backend_pid()",
                        [first.id],
                    ).fetchone()[0]
                )
                committing = Thread(target=commits_when_waited_for, args=(dsn, other, started[0]))
                committing.start()
                result = list(find(*given))
                committing.join(10)

                return result

            return find(*given)

        monkeypatch.setattr(jobs, "_find", late)
        found = Plain.enqueue({"v": 2}, unique=unique)

    assert (found.id, found.conflict, found.args) == (first.id, True, {"v": 1})


def commits_when_waited_for(dsn, conn, pid):
    with psycopg.connect(dsn, autocommit=True) as looking:
        eventually(
            lambda: looking.execute(
                "SELECT true FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))", [pid]
            ).fetchone()
        )

    conn.commit()


def test_a_late_outcome_is_written_though_another_has_the_key_by_now(oban, db, conn):
    stored = Once.enqueue({"id": 1})
    [run] = fetch.turn(db, CLAIM, (), 1).jobs
    # As a third death leaves it, of a node that was only slow.
    conn.execute(
        "UPDATE oban_jobs SET state = 'discarded', discarded_at = now(), meta = meta || "
        "jsonb_build_object('rescued', 3, 'rescued_start', jsonb_build_object("
        "'at', to_jsonb(attempted_at), 'attempt', attempt))"
    )
    other = Once.enqueue({"id": 1})
    turn = fetch.turn(db, CLAIM, [of_result(run, Record(5))], 0)

    assert (turn.refused, turn.fenced, turn.left) == ([], [], [])
    assert not other.conflict
    assert oban.get_job(stored.id).state == "completed"
    assert oban.get_job(stored.id).recorded() == 5
