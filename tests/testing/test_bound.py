"""Everything within the transaction of a test."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import time_machine

from oban_sync import ConfigError, Oban, RateLimit, testing
from oban_sync.engine import callers
from tests.testing.conftest import KINDS, NATIVE
from tests.testing.workers import RAN, Answering, BadSql, Exact, Failing, Mailer, Parent


@pytest.fixture(params=KINDS)
def bound(request, kinds, oban):
    """A connection of each kind, with the Oban bound to it."""
    conn = kinds.open(request.param)

    with testing.bound(oban, conn):
        yield conn


@pytest.fixture(params=NATIVE)
def native(request, kinds, oban, notes):
    conn = kinds.open(request.param)

    with testing.bound(oban, conn):
        yield conn


def notes_by(conn):
    return [row[0] for row in callers.ask(conn, "SELECT text FROM notes").rows]


def test_nothing_of_it_is_seen_outside(bound, oban, factory):
    job = Mailer.enqueue({"to": "ann"})
    oban.enqueue_many(Mailer.new({"to": str(number)}) for number in range(3))

    assert [one.args["to"] for one in oban.list_jobs()] == ["2", "1", "0", "ann"]
    assert oban.get_job(job.id).args == {"to": "ann"}
    assert oban.count_jobs()["available"] == 4
    assert factory.count() == 0


def test_jobs_are_managed_within_it(bound, oban, factory):
    job, other, third = (Mailer.enqueue({"to": to}) for to in "abc")

    assert oban.cancel_job(job)
    assert oban.retry_job(job)
    assert oban.update_job(job, {"priority": 3}).priority == 3
    assert oban.update_job(other, lambda job: {"tags": [*job.tags, "seen"]}).tags == ["seen"]
    assert oban.cancel_many_jobs([job, other]) == 2
    assert oban.delete_job(job)
    assert [(one.id, one.state) for one in oban.list_jobs()] == [
        (third.id, "available"),
        (other.id, "cancelled"),
    ]
    assert factory.count() == 0


def test_queues_and_crons_are_managed_within_it(bound, oban, conn):
    oban.pause_queue("mail", by="a test")
    oban.insert_cron("@hourly", Mailer)

    assert [entry.worker for entry in oban.list_crons()] == ["kit.Mailer"]
    assert oban.list_nodes() == []
    assert conn.execute("SELECT count(*) FROM oban_sync_controls").fetchone() == (0,)
    assert conn.execute("SELECT count(*) FROM oban_sync_crons").fetchone() == (0,)


def test_a_drain_runs_them_with_those_that_they_enqueue(bound, oban, factory):
    Parent.enqueue({"to": ["ann", "bob"]})
    later = Mailer.enqueue({"to": "later"}, schedule_in=3600)

    assert oban.drain_queue("mail")["completed"] == 4
    assert sorted(RAN) == ["ann", "bob", "later"]
    assert oban.get_job(later).state == "completed"
    assert factory.count() == 0


def test_what_runs_came_to_is_written_within_it(bound, oban):
    kept, put_off, ended = (
        Answering.enqueue({"what": what}) for what in ("record", "snooze", "cancel")
    )

    counts = oban.drain_queue("mail", with_scheduled=False)

    assert counts == {
        "cancelled": 1,
        "completed": 1,
        "discarded": 0,
        "retryable": 0,
        "scheduled": 1,
    }
    assert oban.get_job(kept).recorded() == 7
    assert oban.get_job(put_off).scheduled_at > oban.get_job(put_off).inserted_at
    assert oban.get_job(ended).errors[0]["error"] == "no"


def test_a_failure_is_recorded_and_raised(bound, oban):
    job = Failing.enqueue()

    with pytest.raises(ValueError, match="no such mailbox"):
        oban.drain_queue("mail")

    assert oban.get_job(job).state == "retryable"
    assert oban.drain_queue("mail", with_safety=True)["discarded"] == 1
    assert len(oban.get_job(job).errors) == 2


def test_a_unique_job_is_found_within_it(bound, oban):
    first = Mailer.enqueue({"to": "ann"}, unique={"period": 60.0})
    again = Mailer.enqueue({"to": "ann"}, unique={"period": 60.0})

    assert (again.conflict, again.id) == (True, first.id)


def test_an_sql_error_in_a_job_leaves_the_transaction_of_use(native, oban):
    callers.ask(native, "INSERT INTO notes VALUES ('of the test')")
    job = BadSql.enqueue()

    with pytest.raises(psycopg.errors.DivisionByZero):
        oban.drain_queue("mail")

    assert oban.get_job(job).state == "retryable"
    assert notes_by(native) == ["of the test"]


@pytest.mark.parametrize("kind", ["psycopg2", "connection+psycopg2", "session+psycopg2"])
def test_the_same_through_psycopg2(kind, kinds, oban, notes):
    conn = kinds.open(kind)
    bad = Failing.new()

    with testing.bound(oban, conn):
        job = oban.enqueue(bad)

        with pytest.raises(ValueError, match="no such mailbox"):
            oban.drain_queue("mail")

        assert oban.get_job(job).state == "retryable"

        with pytest.raises(ConfigError, match=r"no psycopg 3 connection"), oban.connection():
            pass


def test_what_the_oban_lends_is_the_same_transaction(native, oban):
    with oban.connection() as conn:
        conn.execute("INSERT INTO notes VALUES ('lent')")

    def undone():
        with oban.transaction() as conn:
            conn.execute("INSERT INTO notes VALUES ('undone')")
            Mailer.enqueue({"to": "nobody"})

            raise LookupError

    with pytest.raises(LookupError):
        undone()

    assert notes_by(native) == ["lent"]
    assert oban.list_jobs() == []


def test_a_transactional_worker_works_within_it(native, oban, conn):
    done = Exact.enqueue({"text": "kept"})
    failed = Exact.enqueue({"text": "undone", "fail": True})

    assert oban.drain_queue("mail", with_safety=True, with_scheduled=False)["completed"] == 1
    assert notes_by(native) == ["kept"]
    assert [oban.get_job(job).state for job in (done, failed)] == ["completed", "retryable"]
    assert conn.execute("SELECT count(*) FROM notes").fetchone() == (0,)


def test_other_threads_do_not_take_part(kinds, oban, factory):
    with testing.bound(oban, kinds.open("psycopg")):
        thread = threading.Thread(target=lambda: Mailer.enqueue({"to": "outside"}))
        thread.start()
        thread.join()

        Mailer.enqueue({"to": "inside"})

        assert factory.count() == 1


def test_after_the_block_all_is_as_before(kinds, oban, factory):
    with testing.bound(oban, kinds.open("psycopg")):
        Mailer.enqueue()

    Mailer.enqueue()

    assert factory.count() == len(oban.list_jobs()) == 1


def test_a_connection_that_would_commit_is_refused(oban, dsn):
    with psycopg.connect(dsn, autocommit=True) as conn:
        with (
            pytest.raises(ConfigError, match=r"autocommit mode.*force_rollback"),
            testing.bound(oban, conn),
        ):
            pass

        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE

    with pytest.raises(ConfigError, match="is not a connection"), testing.bound(oban, dsn):
        pass


def test_the_oban_may_be_named_and_what_is_none_is_refused(kinds, oban):
    conn = kinds.open("psycopg")

    with testing.bound("Oban", conn) as found:
        assert found is oban

    with pytest.raises(ConfigError, match="is not an Oban"), testing.bound(7, conn):
        pass


def test_two_obans_may_be_bound_at_once(kinds, oban, make_oban, factory):
    other = make_oban(name="Other")
    conn = kinds.open("psycopg")

    with testing.bound(oban, conn), testing.bound(other, conn):
        Mailer.enqueue()
        other.enqueue(Mailer.new())

        assert len(oban.list_jobs()) == len(other.list_jobs()) == 2

    assert factory.count() == 0


def test_a_stopped_oban_still_works_in_it(kinds, make_oban):
    oban = make_oban()
    oban.stop()

    with testing.bound(oban, kinds.open("psycopg")):
        assert oban.get_job(Mailer.enqueue()).state == "available"


def test_the_time_is_that_of_the_process(kinds, oban):
    start = datetime(2031, 5, 1, 12, tzinfo=UTC)

    with (
        testing.bound(oban, kinds.open("psycopg")),
        time_machine.travel(start, tick=False) as clock,
    ):
        job = Mailer.enqueue({"to": "ann"}, schedule_in=3600)

        assert (job.inserted_at, job.scheduled_at) == (start, start + timedelta(hours=1))
        assert oban.drain_queue("mail", with_scheduled=timedelta(0))["completed"] == 0

        clock.shift(3600)

        assert oban.drain_queue("mail", with_scheduled=timedelta(0))["completed"] == 1
        assert oban.get_job(job).completed_at == start + timedelta(hours=1)


def test_periods_of_unique_jobs_follow_it(kinds, oban):
    unique = {"period": 60.0}

    with (
        testing.bound(oban, kinds.open("psycopg")),
        time_machine.travel(datetime(2031, 5, 1, tzinfo=UTC), tick=False) as clock,
    ):
        first = Mailer.enqueue(unique=unique)
        clock.shift(59)

        assert Mailer.enqueue(unique=unique).id == first.id

        clock.shift(2)

        assert Mailer.enqueue(unique=unique).id != first.id


def test_it_is_the_current_one_of_the_kit(kinds, make_oban):
    other = make_oban(name="Other")

    with testing.bound(other, kinds.open("psycopg")):
        other.enqueue(Mailer.new({"to": "ann"}))

        assert testing.assert_enqueued(worker=Mailer).args == {"to": "ann"}
        assert testing.drain_queue("mail")["completed"] == 1


def test_get_instance_finds_it(kinds, oban):
    with testing.bound(oban, kinds.open("psycopg")):
        assert Oban.get_instance() is oban


def test_rates_are_counted_within_it(kinds, oban, conn):
    limit = RateLimit("kit", allowed=1, period=3600)

    with testing.bound(oban, kinds.open("psycopg")):
        assert (limit.consume(), limit.consume()) == (1, 0)

        limit.reset()

        assert limit.available() == 1

    assert conn.execute("SELECT count(*) FROM oban_sync_rates").fetchone() == (0,)


def test_rates_are_counted_by_pythons_clock(kinds, oban):
    limit = RateLimit("kit", allowed=1, period=3600, algorithm="fixed_window")

    with (
        time_machine.travel(datetime(2031, 5, 1, tzinfo=UTC), tick=False) as clock,
        testing.bound(oban, kinds.open("psycopg")),
    ):
        assert (limit.consume(), limit.consume()) == (1, 0)

        clock.shift(3601)

        assert limit.consume() == 1


def test_rates_need_the_driver_that_they_are_counted_by(kinds, oban):
    limit = RateLimit("kit", allowed=1, period=3600)

    with (
        testing.bound(oban, kinds.open("psycopg2")),
        pytest.raises(ConfigError, match=r"need psycopg 3 below"),
    ):
        limit.consume()


@pytest.mark.parametrize("kind", KINDS)
def test_a_transaction_that_has_failed_is_refused(oban, kind, kinds):
    conn = kinds.open(kind)

    with pytest.raises(Exception, match="division by zero"):
        callers.ask(conn, "SELECT 1 / 0")

    with (
        pytest.raises(ConfigError, match="conn: a statement has failed .*until it is rolled back"),
        testing.bound(oban, conn),
    ):
        pass
