"""Pages and counts of jobs, and that neither reads what it need not."""

from __future__ import annotations

import itertools
import uuid
from contextlib import contextmanager

import psycopg
import psycopg_pool
import pytest
from psycopg import sql

from oban_sync import ConfigError, schema
from oban_sync.control import jobs
from oban_sync.core.job import JobState
from oban_sync.engine import inspect
from oban_sync.engine.session import Db
from oban_sync.engine.statements import statement
from tests.support.factory import Factory
from tests.support.peer_tables import PEERS

#: Half the jobs are finished, and every page of the table holds some of every kind.
SEED = """
INSERT INTO oban_jobs (state, queue, worker, completed_at)
SELECT
    (ARRAY['completed', 'completed', 'completed', 'available', 'scheduled', 'executing']
        )[1 + n % 6]::oban_job_state,
    'queue' || n % 5, 'W', timezone('UTC', now())
FROM generate_series(1, 12000) AS n
"""

MOMENTS = ["empty", "stale", "analyzed", "vacuumed"]


def applications(dsn, size):
    """A pool as applications have it, without any setting of ours."""
    return psycopg_pool.ConnectionPool(
        dsn, min_size=0, max_size=size, kwargs={"autocommit": True}, open=True
    )


@pytest.fixture
def desk(dsn, prefix):
    """What the desk works with: the pool of the application, without settings of ours."""
    with applications(dsn, 2) as pool:
        yield Db(pool, prefix)


@pytest.fixture(params=PEERS)
def peer(request, dsn):
    """The desk and the rows of a schema whose tables another Oban made."""
    name = f"Peer_{uuid.uuid4().hex[:12]}"

    with psycopg.connect(dsn, autocommit=True) as conn:
        PEERS[request.param](conn, name)
        schema.install(dsn, prefix=name)
        conn.execute("SELECT set_config('search_path', %s, false)", [f'"{name}"'])

        with applications(dsn, 2) as pool:
            yield Db(pool, name), Factory(conn)

        conn.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))


def seed(conn, moment):
    if moment == "empty":
        return

    # Statistics of an empty table and 12,000 rows in it: what every queue table comes to.
    conn.execute("ANALYZE oban_jobs")
    conn.execute(SEED)

    if moment != "stale":
        conn.execute("VACUUM ANALYZE oban_jobs" if moment == "vacuumed" else "ANALYZE oban_jobs")


@contextmanager
def planned(tx):
    """Gives what PostgreSQL would do for a statement, as one text."""

    def plan(name, **params):
        text = f"EXPLAIN {statement(name, tx.schema)}"

        return "\n".join(row[0] for row in tx.conn.execute(text, params).fetchall())

    yield plan


def ids(found):
    return [job.id for job in found]


# Pages.


def test_the_newest_jobs_come_first_page_by_page(desk, factory):
    made = [factory.job() for _ in range(7)]
    first = jobs.list_jobs(desk, limit=3)
    second = jobs.list_jobs(desk, limit=3, before_id=first[-1])
    third = jobs.list_jobs(desk, limit=3, before_id=second[-1].id)

    assert [*ids(first), *ids(second), *ids(third)] == made[::-1]
    assert jobs.list_jobs(desk, before_id=made[0]) == []


def test_a_hundred_are_given_unless_said_otherwise(desk, conn):
    conn.execute("INSERT INTO oban_jobs (worker) SELECT 'W' FROM generate_series(1, 120)")

    assert len(jobs.list_jobs(desk)) == 100
    assert len(jobs.list_jobs(desk, limit=10_000)) == 120


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, "abcd"),
        ({"state": "available"}, "a"),
        ({"state": JobState.AVAILABLE}, "a"),
        ({"state": ["available", "completed"]}, "ab"),
        ({"state": tuple(JobState)}, "abcd"),
        ({"state": []}, ""),
        ({"queue": 'q"1'}, "ac"),
        ({"queue": ('q"1', "q2")}, "abc"),
        ({"worker": "app.A"}, "ab"),
        ({"worker": ["app.A", "app.B"]}, "abc"),
        ({"tags": "x,y"}, "a"),
        ({"tags": ["X,Y ", "z"]}, "a"),
        ({"tags": ["z"]}, "ab"),
        ({"tags": []}, "abcd"),
        ({"tags": "nobody's"}, ""),
        ({"args": {"user": {"id": 7}}}, "ad"),
        ({"args": {"user": {"id": 7, "é": "'"}}}, "d"),
        ({"args": {}}, "abcd"),
        ({"state": "completed", "queue": "q2", "worker": "app.A", "tags": ["z"]}, "b"),
    ],
    ids=str,
)
def test_filters_find_what_passes_all_of_them(desk, factory, filters, found):
    made = {
        "a": factory.job(
            queue='q"1', worker="app.A", tags=["x,y", "z"], args={"user": {"id": 7, "x": 1}}
        ),
        "b": factory.job(state="completed", queue="q2", worker="app.A", tags=["z"]),
        "c": factory.job(state="executing", queue='q"1', worker="app.B", tags=None, meta=None),
        "d": factory.job(state="retryable", args={"user": {"id": 7, "é": "'"}}),
    }

    assert ids(jobs.list_jobs(desk, **filters)) == sorted(
        (made[name] for name in found), reverse=True
    )


def test_a_listed_job_is_whole(desk, factory):
    job_id = factory.job(
        state="completed",
        args={"n": 1},
        meta={"m": 2},
        tags=["t"],
        attempt=1,
        attempted_by=["node", "uuid"],
        completed_at="2026-01-02 03:04:05.678901",
    )
    [listed] = jobs.list_jobs(desk)
    read = jobs.get_job(desk, job_id)

    for name in ("id", "state", "args", "meta", "tags", "errors", "attempted_by", "completed_at"):
        assert getattr(listed, name) == getattr(read, name)

    assert listed.completed_at.isoformat() == "2026-01-02T03:04:05.678901+00:00"


@pytest.mark.parametrize(
    ("filters", "told"),
    [
        ({"state": "complete"}, "state: .*Did you mean 'completed'"),
        ({"state": ["available", "x"]}, r"state\[1\]: "),
        ({"state": 7}, "state: 7"),
        ({"queue": ""}, "queue: "),
        ({"worker": ["a", None]}, r"worker\[1\]: "),
        ({"tags": [7]}, r"tags\[0\]: "),
        ({"args": [1]}, "args: "),
        ({"args": {"x": "a\0b"}}, r"args\.x: "),
        ({"limit": 0}, "limit: 0"),
        ({"limit": 10_001}, "limit: 10001"),
        ({"limit": True}, "limit: True"),
        ({"before_id": "7"}, "before_id: "),
    ],
    ids=str,
)
def test_a_wrong_filter_is_refused_by_name(desk, filters, told):
    with pytest.raises(ConfigError, match=told):
        jobs.list_jobs(desk, **filters)


def test_unfinished_jobs_are_found_without_reading_the_finished(desk, conn):
    conn.execute(
        "INSERT INTO oban_jobs (worker, state) SELECT 'W', 'completed'"
        " FROM generate_series(1, 12000)"
    )
    conn.execute("INSERT INTO oban_jobs (worker, state) VALUES ('W', 'retryable')")
    conn.execute("ANALYZE oban_jobs")
    nothing = dict.fromkeys(("queues", "workers", "tags", "args", "before_id"))

    with desk.session() as tx, planned(tx) as plan:
        for states in ("{available}", "{executing}", "{scheduled,retryable}"):
            found = plan("job_list", states=states, most=100, **nothing)
            assert "Seq Scan" not in found
            assert "oban_jobs_pkey" not in found


def test_the_plan_is_made_for_the_filters_however_often_one_asks(desk, conn):
    for _ in range(8):
        assert jobs.list_jobs(desk, state="available") == []

    with desk.session() as tx:
        found = tx.conn.execute("SELECT statement FROM pg_prepared_statements").fetchall()

    assert not [text for (text,) in found if "LIMIT" in text]


# Counts.


def test_every_state_is_counted(desk, factory):
    for number, state in enumerate(JobState):
        for n in range(number):
            factory.job(state=state, queue=f"q{n % 2}")

    counts = jobs.count_jobs(desk)
    exact = {state: number for number, state in enumerate(JobState)}

    assert list(counts) == list(JobState)
    assert counts == exact
    assert counts["available"] == exact[JobState.AVAILABLE]
    assert jobs.count_jobs(desk, "q1") == {state: number // 2 for state, number in exact.items()}
    assert set(jobs.count_jobs(desk, "elsewhere").values()) == {0}


def test_an_empty_table_has_no_jobs_whatever_the_planner_thinks(desk, conn):
    assert set(jobs.count_jobs(desk).values()) == {0}

    conn.execute("ANALYZE oban_jobs")

    assert set(jobs.count_jobs(desk).values()) == {0}


def test_unfinished_jobs_are_counted_and_many_finished_ones_estimated(desk, conn):
    seed(conn, "stale")

    assert {state: jobs.count_jobs(desk)[state] for state in ("available", "executing")} == {
        "available": 2000,
        "executing": 2000,
    }
    assert jobs.count_jobs(desk)["completed"] >= inspect.MOST_COUNTED

    conn.execute("ANALYZE oban_jobs")
    counts = jobs.count_jobs(desk)

    assert (counts["available"], counts["scheduled"], counts["executing"]) == (2000, 2000, 2000)
    assert (counts["retryable"], counts["cancelled"], counts["discarded"]) == (0, 0, 0)
    assert 5_400 <= counts["completed"] <= 6_600
    assert counts["suspended"] == 0


def test_a_queues_jobs_are_counted_and_estimated_too(desk, conn):
    seed(conn, "analyzed")
    counts = jobs.count_jobs(desk, "queue3")

    assert (counts["available"], counts["scheduled"], counts["executing"]) == (400, 400, 400)
    assert 900 <= counts["completed"] <= 1_500
    assert jobs.count_jobs(desk, "elsewhere")["completed"] == 0


def test_finished_jobs_are_exact_up_to_the_number_that_is_read(desk, factory, monkeypatch):
    monkeypatch.setattr(inspect, "MOST_COUNTED", 3)

    for state, number in (("completed", 2), ("cancelled", 3), ("discarded", 4)):
        for _ in range(number):
            factory.job(state=state, queue="own")

    counts = jobs.count_jobs(desk)

    assert counts["completed"] == 2
    assert counts["cancelled"] >= 3
    assert counts["discarded"] >= 3


@pytest.mark.parametrize("queue", [None, "queue1"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_no_count_reads_the_table_or_all_finished_jobs(desk, conn, moment, queue):
    seed(conn, moment)

    with desk.transaction() as tx, planned(tx) as plan:
        tx.tuples("plan_restrict")
        found = plan("job_count", queue=queue, most=inspect.MOST_COUNTED)

        assert "Seq Scan on oban_jobs" not in found
        assert "Bitmap" not in found
        assert "Sort" not in found

        # Once it is done, so much was read and no more.
        text = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement('job_count', tx.schema)}"
        [(plans,)] = tx.conn.execute(
            text, {"queue": queue, "most": inspect.MOST_COUNTED}
        ).fetchall()
        read = [
            node["Actual Rows"] for node in nodes(plans[0]["Plan"]) if "completed_at" in index(node)
        ]

    assert read == ([0] if moment == "empty" else [inspect.MOST_COUNTED])


def test_counting_leaves_no_settings_behind(desk, dsn, prefix):
    names = ["enable_seqscan", "enable_bitmapscan", "enable_sort"]

    for options in ({"autocommit": True}, {}, {"cursor_factory": psycopg.ClientCursor}):
        with psycopg_pool.ConnectionPool(dsn, min_size=1, max_size=1, kwargs=options) as pool:
            jobs.count_jobs(Db(pool, prefix), "some")
            jobs.list_jobs(Db(pool, prefix), state="available", tags=["a"], queue=["q"], args={})

            with pool.connection() as conn:
                for name in names:
                    assert conn.execute(f"SHOW {name}").fetchone() == ("on",)


def test_pages_and_counts_work_on_tables_that_others_made(peer):
    desk, factory = peer
    made = [factory.job(state=state, tags=["t"], args={"n": 1}) for state in JobState]
    counts = jobs.count_jobs(desk)

    assert ids(jobs.list_jobs(desk, tags="t", args={"n": 1})) == made[::-1]
    assert ids(jobs.list_jobs(desk, state="suspended")) == [made[0]]
    assert {counts[state] for state in JobState if state != "suspended"} == {1}


@pytest.mark.parametrize("wrong", ["", 7, "a\0b"], ids=repr)
def test_a_queue_of_no_name_is_refused(desk, wrong):
    with pytest.raises(ConfigError, match="^queue: "):
        jobs.count_jobs(desk, wrong)


def nodes(plan):
    return [plan, *itertools.chain.from_iterable(nodes(one) for one in plan.get("Plans", []))]


def index(node):
    return node.get("Index Name", "")
