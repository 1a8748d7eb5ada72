"""The loop that deletes finished jobs: who does it, how long a round goes on, what it tells."""

from __future__ import annotations

import time
from queue import SimpleQueue

import psycopg
import pytest

from oban_sync import DatabaseUnavailableError, telemetry
from oban_sync.core.retention import PrunerConfig, check_pruner
from oban_sync.plugins.pruner import Pruner
from tests.support.probe import eventually


@pytest.fixture
def make(db):
    """Makes a pruner that leads."""

    def make(leads=lambda: True, database=db, **options):
        return Pruner(database, check_pruner("pruner", options), leads=leads)

    return make


@pytest.fixture
def heard():
    """The fields of every round's end."""
    found = SimpleQueue()
    telemetry.attach(
        "test-pruner",
        ["oban.pruner.prune.stop", "oban.pruner.prune.exception"],
        lambda event, fields: found.put(fields),
    )

    yield found

    telemetry.detach("test-pruner")


@pytest.fixture
def backlog(conn):
    """Inserts so many jobs that ended days ago."""

    def insert(count, state="completed", **columns):
        conn.execute(
            f"""
            INSERT INTO oban_jobs (worker, state, {state}_at)
            SELECT 'W', '{state}', timezone('UTC', now()) - interval '3 days' - n * interval '1 s'
            FROM generate_series(1, %s) AS n
            """,
            [count],
        )

    return insert


class Silent:
    """A database that must not be asked."""

    def __getattr__(self, name):
        raise AssertionError(f"{name} was used")


def test_a_round_goes_on_until_nothing_is_left(make, backlog, factory, heard):
    backlog(2_500)
    backlog(30, "cancelled")
    backlog(40, "discarded")
    kept = factory.job(state="available")
    pruner = make(limit=1_000)

    assert [pruner.tick() for _ in range(3)] == [0.0, 0.0, None]
    assert [heard.get()["pruned_count"] for _ in range(3)] == [1_070, 1_000, 500]
    assert factory.count() == 1
    assert factory.states(kept) == ["available"]

    assert pruner.tick() is None
    assert heard.get() | {"duration_ns": 0} == {
        "pruned_count": 0,
        "refused_count": 0,
        "duration_ns": 0,
    }


def test_a_batch_that_is_just_full_is_looked_behind(make, backlog, factory):
    backlog(1_000)
    pruner = make(limit=1_000)

    assert [pruner.tick(), pruner.tick()] == [0.0, None]
    assert factory.count() == 0


def test_every_round_begins_at_the_oldest_again(make, backlog, factory):
    pruner = make()

    for _ in range(3):
        backlog(5)

        assert pruner.tick() is None
        assert factory.count() == 0


def test_only_the_leader_asks_the_database(make, heard):
    pruner = make(leads=lambda: False, database=Silent())

    assert pruner.tick() is None
    assert heard.empty()


def test_turned_off_it_asks_nothing(heard):
    config = check_pruner("pruner", False)
    pruner = Pruner(Silent(), config, leads=lambda: True)

    assert pruner.tick() is None
    assert heard.empty()


def test_where_everything_is_kept_it_asks_nothing(make):
    assert make(database=Silent(), max_age="forever").tick() is None


def test_whoever_stops_leading_stops_deleting(make, backlog, factory):
    backlog(2_500)
    answers = iter([True, True, False])
    pruner = make(leads=lambda: next(answers, False), limit=1_000)

    assert pruner.tick() == 0.0
    assert factory.count() == 1_500

    assert pruner.tick() is None
    assert factory.count() == 1_500

    again = make(limit=1_000)
    pruner._leads = again._leads

    while pruner.tick() == 0.0:
        pass

    assert factory.count() == 0


def test_a_stop_ends_a_round_between_two_statements(make, backlog, factory):
    backlog(2_500)
    pruner = make(limit=1)
    pruner.start()

    eventually(lambda: factory.count() < 2_500)
    pruner.request_stop()

    assert pruner.join(time.monotonic() + 5.0)
    assert factory.count() > 0


def test_two_leaders_at_once_do_no_harm(make, backlog, factory, heard):
    backlog(3_000)
    pruners = [make(limit=100, interval=60.0) for _ in range(2)]

    for pruner in pruners:
        pruner.start()

    pruned = 0

    while pruned < 3_000:
        fields = heard.get(timeout=20.0)
        assert "error" not in fields
        pruned += fields["pruned_count"]

    for pruner in pruners:
        pruner.request_stop()

    assert all(pruner.join(time.monotonic() + 5.0) for pruner in pruners)
    assert pruned == 3_000
    assert factory.count() == 0


def test_jobs_that_refuse_are_counted(make, conn, backlog, heard):
    backlog(5)
    conn.execute("CREATE TABLE invoices (job_id bigint REFERENCES oban_jobs (id))")
    conn.execute("INSERT INTO invoices SELECT min(id) FROM oban_jobs")
    pruner = make()
    refused = pruned = 0

    while pruner.tick() == 0.0:
        pass

    while not heard.empty():
        fields = heard.get()
        refused += fields["refused_count"]
        pruned += fields["pruned_count"]

    assert (pruned, refused) == (4, 1)


def test_it_waits_for_the_database_and_goes_on_where_it_was(make, db, conn, backlog, factory):
    backlog(2_500)
    pruner = make(limit=1_000)
    pruner.tick()
    conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND application_name LIKE 'test%'"
    )

    while pruner.tick() == 0.0:
        pass

    assert factory.count() == 0


def test_a_stop_ends_its_wait_for_the_database(make, db):
    class Away(type(db)):
        def session(self):
            pruner.request_stop()

            raise DatabaseUnavailableError("away")

    pruner = make(database=Away(db._pool, db.schema))

    with pytest.raises(DatabaseUnavailableError):
        pruner.tick()


def test_an_error_is_told_and_the_next_tick_tries_all_again(make, conn, backlog, heard, factory):
    backlog(3)
    conn.execute("ALTER TABLE oban_jobs RENAME COLUMN completed_at TO ended_at")
    pruner = make()

    with pytest.raises(Exception, match="completed_at"):
        pruner.tick()

    assert "error" in heard.get()

    conn.execute("ALTER TABLE oban_jobs RENAME COLUMN ended_at TO completed_at")
    pruner.tick()

    assert factory.count() == 0


def test_a_deadlock_with_somebody_else_is_tried_again(make, backlog, factory, monkeypatch):
    backlog(3)
    failures = [psycopg.errors.DeadlockDetected("deadlock detected")] * 2
    run = psycopg.Cursor.execute

    def execute(cursor, query, *args, **options):
        if "DELETE" in str(query) and failures:
            raise failures.pop()

        return run(cursor, query, *args, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", execute)

    assert make().tick() is None
    assert factory.count() == 0


def test_it_is_called_pruner_and_has_its_interval(make):
    pruner = make(interval=5.0)

    assert (pruner.name, pruner.interval) == ("pruner", 5.0)
    assert Pruner(Silent(), PrunerConfig(), leads=lambda: True).interval == 30.0
