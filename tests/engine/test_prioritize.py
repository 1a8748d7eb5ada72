"""Raising the priority of waiting jobs: by how many steps, whose, and around those that refuse."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from itertools import pairwise
from threading import Barrier, Thread

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from oban_sync import DatabaseUnavailableError
from oban_sync.core.ageing import check_prioritizer
from oban_sync.engine import prioritize
from oban_sync.engine.session import Db
from oban_sync.engine.statements import numbered


@pytest.fixture
def waiting(conn, factory):
    """Inserts a job that could have started so many seconds ago."""

    def make(ago=0.0, priority=5, state="available", **columns):
        job_id = factory.job(state=state, priority=priority, **columns)
        conn.execute(
            "UPDATE oban_jobs SET scheduled_at = timezone('UTC', now()) - make_interval(secs => %s)"
            " WHERE id = %s",
            [ago, job_id],
        )

        return job_id

    return make


@pytest.fixture
def later(conn):
    """Lets so many seconds pass, for every job."""

    def pass_by(seconds):
        conn.execute(
            """
            UPDATE oban_jobs
            SET scheduled_at = scheduled_at - make_interval(secs => %(seconds)s),
                meta = CASE
                    WHEN meta #> '{oban_sync,raised_at}' IS NULL THEN meta
                    ELSE jsonb_set(meta, '{oban_sync,raised_at}', to_jsonb(
                        (meta #>> '{oban_sync,raised_at}')::numeric - %(seconds)s
                    ))
                END
            """,
            {"seconds": seconds},
        )

    return pass_by


@pytest.fixture
def priorities(conn):
    def of(*ids):
        rows = dict(conn.execute("SELECT id, priority FROM oban_jobs").fetchall())

        return [rows[job_id] for job_id in ids]

    return of


def make(**options):
    return prioritize.Round(check_prioritizer("prioritizer", options))


def went_round(db, found):
    """Step to the end of a round: jobs raised, jobs refused, and how many steps it took."""
    count = refused = steps = 0

    while True:
        done = found.step(db)
        count, refused, steps = count + done.count, refused + done.refused, steps + 1
        assert steps < 1_000

        if not done.more:
            return count, refused, steps


def test_a_job_that_waited_gains_one_step_and_no_other_at_the_same_time(db, waiting, priorities):
    old = waiting(301)
    young = waiting(299)
    ages = make()

    assert went_round(db, ages)[0] == 1
    assert went_round(db, ages)[0] == 0
    assert went_round(db, make())[0] == 0
    assert priorities(old, young) == [4, 5]


@pytest.mark.parametrize(
    ("ago", "priority"), [(299, 5), (301, 4), (359, 4), (361, 3), (421, 2), (601, 0), (90_000, 0)]
)
def test_steps_that_nobody_took_in_time_are_made_up_for(db, waiting, priorities, ago, priority):
    job = waiting(ago)

    went_round(db, make())

    assert priorities(job) == [priority]


def test_a_job_gains_a_step_for_every_interval_however_often_it_is_looked_at(
    db, waiting, priorities, later
):
    job = waiting(290)
    gained = []

    for _ in range(12):
        later(20)
        went_round(db, make())
        gained += priorities(job)

    # At 310, 330, 350 seconds and so on: a step at 300, 360, 420 and 480.
    assert gained == [4, 4, 4, 3, 3, 3, 2, 2, 2, 1, 1, 1]


def test_the_first_priority_is_a_limit(db, waiting, priorities):
    jobs = [waiting(9_000, priority) for priority in (9, 3, 2, 1, 0)]

    assert went_round(db, make(max_priority=2))[0] == 2
    assert priorities(*jobs) == [2, 2, 2, 1, 0]


@pytest.mark.parametrize("state", ["scheduled", "retryable", "executing", "completed", "suspended"])
def test_only_available_jobs_gain_priority(db, waiting, priorities, state):
    job = waiting(9_000, state=state, attempt=1)

    assert went_round(db, make()) == (0, 0, 1)
    assert priorities(job) == [5]


def test_a_queue_has_its_own_wait_else_the_worker_else_there_is_the_default(
    db, waiting, priorities
):
    rules = {
        "queues": {"quick": 60.0, "slow": 3_600.0, "stays": "never"},
        "workers": {"A": 120.0, "B": False},
    }
    jobs = [
        waiting(70, queue="quick", worker="B"),
        waiting(310, queue="slow", worker="A"),
        waiting(9_000, queue="stays", worker="A"),
        waiting(130, worker="A"),
        waiting(9_000, worker="B"),
        waiting(310, worker="C"),
        waiting(290, worker="C"),
    ]

    went_round(db, make(interval=3_600.0, **rules))

    assert priorities(*jobs) == [4, 5, 5, 4, 5, 4, 5]


def test_all_may_stay_but_those_of_some_queues(db, waiting, priorities):
    jobs = [waiting(9_000), waiting(90, queue="quick")]

    went_round(db, make(after="never", queues={"quick": 60.0}))

    assert priorities(*jobs) == [5, 4]


def test_where_no_job_may_rise_nothing_is_looked_for():
    class Silent:
        def session(self):
            raise AssertionError("the database was asked")

    assert went_round(Silent(), make(after="never", workers={"A": False})) == (0, 0, 1)


def test_tables_of_other_obans_are_served_too(db, conn, waiting, priorities):
    conn.execute(
        "ALTER TABLE oban_jobs ALTER priority TYPE smallint, ALTER queue TYPE varchar(128),"
        " ALTER worker TYPE varchar(128), ALTER scheduled_at TYPE timestamp(6)"
    )
    jobs = [waiting(310), waiting(310, queue="b", worker="A"), waiting(310, worker="A")]

    assert went_round(db, make(workers={"A": 3_600.0}, queues={"b": 5.0}, interval=1e6))[0] == 2
    assert priorities(*jobs) == [4, 4, 5]


def test_a_job_that_was_put_off_has_to_wait_anew(db, conn, waiting, priorities, later):
    job = waiting(310)
    went_round(db, make())
    conn.execute("UPDATE oban_jobs SET scheduled_at = timezone('UTC', now())")
    later(290)
    went_round(db, make())

    assert priorities(job) == [4]

    later(20)
    went_round(db, make())

    assert priorities(job) == [3]


def test_a_priority_that_somebody_gives_meanwhile_is_raised_from_there(
    db, conn, waiting, priorities, later
):
    job = waiting(310)
    went_round(db, make())
    conn.execute("UPDATE oban_jobs SET priority = 9")
    went_round(db, make())

    assert priorities(job) == [9]

    later(60)
    went_round(db, make())

    assert priorities(job) == [8]


def test_a_round_of_many_statements_meets_no_job_twice(db, conn, waiting, priorities):
    conn.execute(
        """
        INSERT INTO oban_jobs (worker, queue, priority, scheduled_at)
        SELECT 'W', 'queue' || n % 3, n % 10,
            timezone('UTC', now()) - make_interval(secs => 310 + n % 40)
        FROM generate_series(1, 600) AS n
        """
    )
    count, refused, steps = went_round(db, make(limit=7))
    found = conn.execute("SELECT priority, count(*) FROM oban_jobs GROUP BY 1 ORDER BY 1")

    assert (count, refused) == (540, 0)
    assert steps >= 540 / 7
    assert found.fetchall() == [(0, 120), *((number, 60) for number in range(1, 9))]


def test_jobs_of_one_moment_are_all_met(db, conn):
    conn.execute(
        """
        INSERT INTO oban_jobs (worker, priority, scheduled_at)
        SELECT 'W', 5, date_trunc('day', timezone('UTC', now())) - interval '1 day'
        FROM generate_series(1, 50)
        """
    )

    assert went_round(db, make(limit=10, interval=1e9))[0] == 50


def test_what_else_is_in_meta_stays(db, waiting, factory):
    plain = waiting(310, meta={"a": 1, "oban_sync": {"weight": 3}})
    odd = waiting(310, meta={"oban_sync": "text"})
    went_round(db, make())

    assert factory.row(plain)["meta"]["a"] == 1
    assert factory.row(plain)["meta"]["oban_sync"]["weight"] == 3
    assert factory.row(plain)["meta"]["oban_sync"].keys() == {"weight", "raised_at"}
    assert factory.row(odd)["meta"]["oban_sync"].keys() == {"raised_at"}


@pytest.mark.parametrize(
    "meta",
    ["1", '"x"', "[1]", "null"],
)
def test_a_job_whose_meta_is_no_object_is_left_alone(db, conn, waiting, priorities, meta):
    job, other = waiting(310), waiting(310)
    conn.execute("UPDATE oban_jobs SET meta = %s::text::jsonb WHERE id = %s", [meta, job])

    assert went_round(db, make())[:2] == (1, 0)
    assert priorities(job, other) == [5, 4]


def test_a_job_without_meta_rises(db, conn, waiting, priorities):
    job = waiting(310)
    conn.execute("UPDATE oban_jobs SET meta = NULL")

    assert went_round(db, make())[:2] == (1, 0)
    assert went_round(db, make())[:2] == (0, 0)
    assert priorities(job) == [4]


@pytest.mark.parametrize(
    "raised_at", ['"x"', "null", "[]", "true", "-1e300", "0", "1e400", "9" * 500, "-" + "9" * 500]
)
def test_whatever_stands_for_the_last_step_stops_nobody(db, conn, waiting, priorities, raised_at):
    other = waiting(310)
    odd = waiting(310)
    conn.execute(
        "UPDATE oban_jobs SET meta = %s::text::jsonb WHERE id = %s",
        [f'{{"oban_sync": {{"raised_at": {raised_at}}}}}', odd],
    )

    went_round(db, make())

    assert priorities(other) == [4]
    assert priorities(odd) in ([4], [5])


def test_jobs_scheduled_for_the_ends_of_time_stop_nobody(db, conn, waiting, priorities):
    jobs = [waiting(310, priority=3) for _ in range(3)]
    conn.execute("UPDATE oban_jobs SET scheduled_at = '-infinity' WHERE id = %s", [jobs[0]])
    conn.execute("UPDATE oban_jobs SET scheduled_at = 'infinity' WHERE id = %s", [jobs[1]])

    assert went_round(db, make(interval=1_000.0))[1:2] == (0,)
    assert went_round(db, make(interval=1_000.0))[:2] == (0, 0)
    assert priorities(*jobs) == [0, 3, 2]


def test_a_job_that_somebody_holds_is_passed_over(db, conn, waiting, priorities):
    held, other = waiting(310), waiting(310)

    with conn.transaction():
        conn.execute("SELECT FROM oban_jobs WHERE id = %s FOR UPDATE", [held])

        assert went_round(db, make())[0] == 1

    assert went_round(db, make())[0] == 1
    assert priorities(held, other) == [4, 4]


def test_a_job_that_started_since_it_was_found_is_left_alone(db, conn, waiting, priorities):
    class Meanwhile(Db):
        """Starts the jobs between the look and the raise."""

        asked = 0

        def session(self):
            self.asked += 1

            if self.asked == 3:
                conn.execute("UPDATE oban_jobs SET state = 'executing', attempt = 1")

            return super().session()

    job = waiting(310)

    assert went_round(Meanwhile(db._pool, db.schema), make())[0] == 0
    assert priorities(job) == [5]


def test_two_leaders_raise_every_job_once(db, conn):
    conn.execute(
        """
        INSERT INTO oban_jobs (worker, queue, priority, scheduled_at)
        SELECT 'W', 'queue' || n % 2, 5, timezone('UTC', now()) - interval '330 s'
        FROM generate_series(1, 2000) AS n
        """
    )
    together = Barrier(3)
    counts = []

    def lead():
        together.wait(10.0)
        counts.append(went_round(db, make(limit=20))[0])

    leaders = [Thread(target=lead) for _ in range(3)]

    for leader in leaders:
        leader.start()

    for leader in leaders:
        leader.join(60.0)

    # One may pass over what the others hold, so what is left is raised next time.
    went_round(db, make())
    found = conn.execute("SELECT priority, count(*) FROM oban_jobs GROUP BY 1").fetchall()

    assert found == [(4, 2_000)]
    assert sum(counts) <= 2_000


@pytest.fixture
def refusing(conn):
    """Has PostgreSQL refuse any change of jobs of one worker."""
    conn.execute(
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF OLD.worker = 'Refused' THEN RAISE EXCEPTION 'not this one'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON oban_jobs FOR EACH ROW EXECUTE FUNCTION refuse();
        """
    )


def test_a_job_that_postgresql_refuses_is_set_aside_and_its_neighbours_rise(
    db, conn, refusing, caplog
):
    rows = conn.execute(
        """
        INSERT INTO oban_jobs (worker, priority, scheduled_at)
        SELECT CASE n WHEN 77 THEN 'Refused' ELSE 'W' END, 5,
            timezone('UTC', now()) - make_interval(secs => 310)
        FROM generate_series(1, 100) AS n
        RETURNING id
        """
    ).fetchall()
    ages = make()
    count, refused, _ = went_round(db, ages)

    assert (count, refused) == (99, 1)
    assert went_round(db, ages)[:2] == (0, 0)
    assert f"job {rows[76][0]} cannot gain priority" in caplog.text
    assert "not this one" in caplog.text
    assert caplog.text.count("cannot gain") == 1


def test_a_statement_that_takes_too_long_is_tried_with_fewer_jobs(db, conn, waiting):
    class One(Db):
        """Always the same session, whose settings a test has changed."""

        def __init__(self, tx):
            super().__init__(db._pool, db.schema)
            self._tx = tx

        def session(self):
            return nullcontext(self._tx)

    conn.execute(
        """
        CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_sleep(0.05); RETURN NEW; END $$;
        CREATE TRIGGER dawdle BEFORE UPDATE ON oban_jobs FOR EACH ROW EXECUTE FUNCTION dawdle();
        """
    )

    for _ in range(12):
        waiting(310)

    with db.session() as tx:
        tx.conn.execute("SET statement_timeout = '200ms'")

        try:
            assert went_round(One(tx), make(interval=1e6))[:2] == (12, 0)
        finally:
            tx.conn.execute("RESET statement_timeout")


def test_a_lost_connection_does_not_lose_the_place(db, waiting, priorities):
    class Shaky(Db):
        broken = 0

        def session(self):
            self.broken += 1

            if self.broken % 2:
                raise DatabaseUnavailableError("gone")

            return super().session()

    jobs = [waiting(310, priority=priority, queue=queue) for priority in (1, 5) for queue in "ab"]
    shaky, ages = Shaky(db._pool, db.schema), make(limit=1)
    count = 0

    for _ in range(100):
        try:
            done = ages.step(shaky)
        except DatabaseUnavailableError:
            continue

        count += done.count

        if not done.more:
            break

    assert count == 4
    assert priorities(*jobs) == [0, 0, 4, 4]


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    moments=st.lists(st.floats(0.5, 400.0), min_size=1, max_size=8),
    after=st.sampled_from([0.0, 60.0, 300.0]),
    interval=st.sampled_from([10.0, 60.0, 97.0]),
    priority=st.integers(0, 9),
    most=st.integers(0, 9),
)
def test_at_any_time_a_job_has_gained_what_its_wait_is_worth(
    db, conn, factory, later, moments, after, interval, priority, most
):
    conn.execute("DELETE FROM oban_jobs")
    job = factory.job(state="available", priority=priority)
    ages = prioritize.Round(
        check_prioritizer(
            "prioritizer", {"after": after, "interval": interval, "max_priority": most}
        )
    )
    waited = 0.0

    for moment in moments:
        later(moment)
        waited += moment
        # Where a step is due within this very test, either is right.
        margin = min((waited - after) % interval, interval - (waited - after) % interval)

        if margin < 2.0:
            later(4.0)
            waited += 4.0

        went_round(db, ages)
        steps = math.floor((waited - after) / interval) + 1 if waited >= after else 0
        wanted = max(most, priority - steps) if priority > most else priority

        assert factory.row(job)["priority"] == wanted


SEED = """
INSERT INTO oban_jobs (state, queue, worker, priority, scheduled_at)
SELECT
    CASE n % 3 WHEN 0 THEN 'completed' ELSE 'available' END::oban_job_state,
    'queue' || n % 3, 'W', n % 7, timezone('UTC', now()) - (n * 7919 % 12000) * interval '1 s'
FROM generate_series(1, 12000) AS n
"""

STATEMENTS = {
    "job_priority_list": (
        {"max_priority": 0, "least_wait": 300.0},
        {"oban_jobs_available_index"},
    ),
    "job_waiting_list": (
        {
            "queue": "queue1",
            "priority": 3,
            "after": "-infinity",
            "after_id": 0,
            "most": 100,
            "workers": ["A"],
            "worker_waits": [60.0],
            "wait": 300.0,
            "least_wait": 60.0,
        },
        {"oban_jobs_available_index"},
    ),
    "job_raise": (
        {
            "ids": "{1,2,3}",
            "waits": "{1,2,3}",
            "priority": 3,
            "max_priority": 0,
            "interval": 60.0,
        },
        {"oban_jobs_pkey"},
    ),
}


def nodes(plan):
    yield plan

    for inner in plan.get("Plans", []):
        yield from nodes(inner)


@pytest.mark.parametrize("moment", ["empty", "stale", "analyzed"])
@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_goes_along_its_index(db, conn, name, moment):
    params, indexes = STATEMENTS[name]

    if moment != "empty":
        conn.execute("ANALYZE oban_jobs")
        conn.execute(SEED)

    if moment == "analyzed":
        conn.execute("ANALYZE oban_jobs")

    text, order = numbered(name, db.schema)
    values = sql.SQL(", ").join(sql.Literal(params[key]) for key in order)

    with db.transaction() as tx:
        tx.conn.execute(f"PREPARE guarded AS {text}".encode())

        try:
            [(found,)] = tx.conn.execute(
                sql.SQL("EXPLAIN (FORMAT JSON) EXECUTE guarded ({})").format(values)
            ).fetchall()
        finally:
            tx.conn.execute("DEALLOCATE guarded")

    plan = (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]
    found = list(nodes(plan))
    through = [node for node in found if "Index Name" in node]
    whole = [node for node in through if "Index Cond" not in node]

    assert {node["Index Name"] for node in through} == indexes
    # The first job of all is at the beginning of the index.
    assert len(whole) == (1 if name == "job_priority_list" else 0)
    assert not [node for node in found if node["Node Type"] == "Seq Scan"]

    if name != "job_raise":
        assert {node["Node Type"] for node in through} <= {"Index Scan", "Index Only Scan"}
        assert not [
            outer
            for outer, inner in pairwise(found)
            if outer["Node Type"] == "Sort" and "Index Name" in inner
        ]
