"""Jobs that are made ready while PostgreSQL stores others."""

from __future__ import annotations

from datetime import datetime

import psycopg
import psycopg_pool
import pytest

from oban_sync import InvalidJobError, Worker, worker
from oban_sync.core.job import Job
from oban_sync.core.row import usual_of
from oban_sync.engine import batches, sending


@worker(queue="alpha")
class Sent(Worker):
    def process(self, job):
        return None


@pytest.fixture(autouse=True)
def two_at_a_time(monkeypatch):
    monkeypatch.setattr(batches, "MOST_AHEAD", 2)


def test_what_comes_back_belongs_to_its_job(oban):
    made = oban.enqueue_many(
        Sent.new({"n": n}, schedule_in=60 if n % 3 == 0 else None) for n in range(7)
    )

    assert [job.id for job in made] == sorted({job.id for job in made})

    for n, job in enumerate(made):
        read = oban.get_job(job.id)

        assert job.args == read.args == {"n": n}
        assert job.state == read.state == ("available" if n % 3 else "scheduled")
        assert job.inserted_at == read.inserted_at == made[0].inserted_at
        assert job.scheduled_at == read.scheduled_at
        assert (job.scheduled_at == job.inserted_at) == (n % 3 != 0)


def test_the_next_jobs_are_made_ready_while_some_are_stored(oban, monkeypatch):
    seen = []
    real = sending._result
    to_row = Job.to_row

    def row(job, carried=None):
        seen.append(job.args["n"])

        return to_row(job, carried)

    monkeypatch.setattr(Job, "to_row", row)
    monkeypatch.setattr(sending, "_result", lambda conn: seen.append("waits") or real(conn))
    oban.enqueue_many([Sent.new({"n": n}) for n in range(4)])

    # A batch ends when the next one's first job is known.
    assert seen == [0, 1, 2, 3, "waits", "waits"]


@pytest.mark.parametrize("unique", [False, True])
def test_what_cannot_be_stored_stores_nothing_and_leaves_the_connection_of_use(
    make_oban, factory, unique
):
    oban = make_oban(pool_size=1)
    jobs = [Sent.new({"n": n}, unique=unique) for n in range(7)]
    jobs[4].args["n"] = object()

    with oban.connection() as conn:
        backend = conn.info.backend_pid

    with pytest.raises(InvalidJobError, match=r"args\.n"):
        oban.enqueue_many(jobs)

    assert factory.count() == 0
    assert len(oban.enqueue_many(jobs[:4])) == 4

    with oban.connection() as conn:
        assert conn.info.backend_pid == backend


def test_what_postgresql_refuses_is_raised_and_nothing_is_stored(oban, factory):
    jobs = [Sent.new({"n": n}) for n in range(7)]
    jobs[3].queue = ""

    with pytest.raises(psycopg.errors.CheckViolation, match="queue_length"):
        oban.enqueue_many(jobs)

    assert factory.count() == 0
    assert len(oban.enqueue_many(jobs[:3])) == 3


def test_jobs_that_are_unlike_each_other_keep_their_own_columns(oban):
    options = [
        {"queue": "alpha", "priority": 1},
        {"queue": "beta", "tags": ["a", 'b "c"']},
        {"max_attempts": 3, "meta": {"m": 1}},
    ]

    for given in (options[:2], options[1:], options[::-1]):
        for job in oban.enqueue_many([Sent.new({}, **each) for each in given]):
            read = oban.get_job(job.id)

            for name in ("queue", "priority", "tags", "max_attempts", "meta", "worker"):
                assert getattr(job, name) == getattr(read, name)


def test_a_column_taken_away_is_not_taken_from_other_jobs(oban, factory):
    jobs = [Sent.new({}), Sent.new({})]
    jobs[1].queue = None

    with pytest.raises(psycopg.errors.NotNullViolation, match="queue"):
        oban.enqueue_many(jobs)

    assert factory.count() == 0


def test_columns_in_common_are_told_apart_by_their_kinds():
    # By equality True is 1, and would be given for it from then on.
    assert '"priority":true' in usual_of("q", "W", True, 20, [])
    assert '"priority":1,' in usual_of("q", "W", 1, 20, [])
    assert '"tags":"ab"' in usual_of("q", "W", 1, 20, "ab")
    assert '"queue":["q"]' in usual_of(["q"], "W", 1, 20, [])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"meta": {"m": [1, None]}, "priority": 9, "max_attempts": 1},
        {"schedule_in": 60.5},
        {"scheduled_at": "2031-07-01 12:30:15.123456+00"},
        {"tags": ["a", 'b "c" \\ {}']},
        {"deadline": 60, "schedule_in": 1},
        {"timeout": 5, "weight": 2},
    ],
    ids=str,
)
def test_one_job_is_stored_as_it_would_be_among_others(oban, conn, options):
    if "scheduled_at" in options:
        options = {"scheduled_at": datetime.fromisoformat(options["scheduled_at"])}

    job = Sent.new({"text": 'a "quoted" \\ é 名'}, **options)
    made = [oban.enqueue(job), *oban.enqueue_many([job, job])]
    rows = [
        conn.execute(
            "SELECT state, queue, worker, args, meta #- '{oban_sync,deadline_at}', tags, priority,"
            " max_attempts, attempt, errors, scheduled_at - inserted_at > interval '0',"
            " CASE WHEN %s THEN scheduled_at END FROM oban_jobs WHERE id = %s",
            ["scheduled_at" in options, one.id],
        ).fetchone()
        for one in made
    ]

    assert rows[0] == rows[1] == rows[2]

    for one in made:
        read = oban.get_job(one.id)

        assert (one.meta, one.tags, one.state) == (read.meta, read.tags, read.state)
        assert (one.inserted_at, one.scheduled_at) == (read.inserted_at, read.scheduled_at)


def test_letters_arrive_whatever_an_applications_pool_encodes_them_in(dsn, make_oban, oban):
    with psycopg_pool.ConnectionPool(
        dsn, min_size=1, kwargs={"autocommit": True, "client_encoding": "LATIN1"}
    ) as pool:
        ours = make_oban(conninfo=None, pool=pool)
        made = [ours.enqueue(Sent.new({"é": "ü"})), *ours.enqueue_many([Sent.new({"é": "ü"})] * 5)]

    assert [oban.get_job(job.id).args for job in made] == [{"é": "ü"}] * 6
