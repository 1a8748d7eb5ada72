"""PostgreSQL restarted, killed or cut off while jobs run: nothing is lost, nothing runs twice."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import suppress

import psycopg
import pytest

from oban_sync import DatabaseUnavailableError, Oban, Record, schema, worker
from tests.support.private import private_server
from tests.support.probe import Gate, eventually

RUNS: Counter[int] = Counter()
GATE = Gate()
_lock = threading.Lock()


@worker(queue="alpha")
class Counted:
    def process(self, job):
        with _lock:
            RUNS[job.id] += 1

        return Record(job.args["n"]) if job.args["n"] % 3 == 0 else None


@worker(queue="alpha")
class Held:
    def process(self, job):
        GATE.pass_through()


@pytest.fixture
def server():
    """A server of this test's own, which keeps every commit as a real one does."""
    with private_server() as server:
        schema.install(server.dsn)

        yield server


@pytest.fixture
def oban(server):
    RUNS.clear()
    GATE.__init__()
    oban = Oban(server.dsn, queues={"alpha": 10}, stager={"interval": 0.2})

    yield oban

    GATE.release.set()
    oban.stop(grace=5)


def query(server, text, *params):
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        return conn.execute(text, params).fetchall()


def states(server):
    return dict(query(server, "SELECT state::text, count(*) FROM oban_jobs GROUP BY 1"))


def wait_until_done(server, count, *, within=40.0):
    def done():
        with suppress(psycopg.OperationalError):
            return states(server).get("completed", 0) == count

    eventually(done, within=within)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_under_load_loses_nothing_and_work_resumes_by_itself(server, oban, mode):
    oban.enqueue_many(Counted.new({"n": n}) for n in range(4_000))
    oban.start()
    eventually(lambda: len(RUNS) > 200)
    server.restart(mode)

    wait_until_done(server, 4_000)

    # Outcomes are kept until they are written, so no job that finished is run again.
    assert len(RUNS) == 4_000
    again = {job_id for job_id, runs in RUNS.items() if runs > 1}
    assert again == set()


@pytest.mark.timeout(120)
def test_every_connection_terminated_again_and_again_loses_nothing(server, oban):
    oban.enqueue_many(Counted.new({"n": n}) for n in range(4_000))
    oban.start()

    with psycopg.connect(server.dsn, autocommit=True) as conn:
        for _ in range(10):
            before = len(RUNS)
            eventually(lambda seen=before: len(RUNS) > min(seen + 50, 3_999))
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )

    wait_until_done(server, 4_000)

    assert len(RUNS) == 4_000
    assert set(RUNS.values()) == {1}
    assert query(server, "SELECT DISTINCT attempt FROM oban_jobs") == [(1,)]


@pytest.mark.timeout(120)
def test_a_job_that_finishes_during_an_outage_is_written_afterwards(server, oban):
    oban.start()
    job = Held.enqueue()
    GATE.wait_until_entered()
    server.halt("immediate")
    GATE.release.set()

    with pytest.raises(DatabaseUnavailableError):
        oban.enqueue(Counted.new({"n": 1}))

    server.start()
    wait_until_done(server, 1)

    assert query(server, "SELECT attempt FROM oban_jobs WHERE id = %s", job.id) == [(1,)]

    # And the node is as good as new: it hears, fetches and finishes.
    Counted.enqueue({"n": 1})
    wait_until_done(server, 2)


@pytest.mark.timeout(120)
def test_stop_returns_in_time_while_the_database_is_down(server, oban):
    oban.start()
    Held.enqueue()
    GATE.wait_until_entered()
    server.halt("immediate")
    started = time.monotonic()
    oban.stop(grace=0.5)

    # This bound is the promise itself: grace + 5 s.
    assert time.monotonic() - started < 5.5
    assert not oban.running

    server.start()

    assert states(server) == {"executing": 1}
    GATE.release.set()


@pytest.mark.timeout(120)
def test_a_start_while_the_database_is_down_fails_and_a_later_one_works(server, oban):
    server.halt("fast")

    with pytest.raises(DatabaseUnavailableError):
        oban.start()

    server.start()
    Counted.enqueue({"n": 1})
    oban.start()
    wait_until_done(server, 1)


@pytest.mark.timeout(120)
def test_enqueueing_works_at_once_after_a_restart(server, oban):
    Counted.enqueue({"n": 1})
    server.restart("fast")

    # The pooled connection is dead; that is noticed before it is used.
    Counted.enqueue({"n": 2})

    assert states(server) == {"available": 2}


@pytest.mark.timeout(120)
def test_a_fetch_whose_reply_is_lost_strands_no_job(server, oban, monkeypatch):
    from oban_sync.engine import fetch

    original = fetch._ack_and_fetch
    cuts = iter(range(3))

    def cut_off(tx, claim, plain, demand):
        result = original(tx, claim, plain, demand)

        if result.jobs and next(cuts, None) is not None:
            raise psycopg.OperationalError("the reply was lost")

        return result

    monkeypatch.setattr(fetch, "_ack_and_fetch", cut_off)
    oban.enqueue_many(Counted.new({"n": n}) for n in range(100))
    oban.start()
    wait_until_done(server, 100)

    assert next(cuts, None) is None
    assert query(server, "SELECT DISTINCT attempt FROM oban_jobs") == [(1,)]
