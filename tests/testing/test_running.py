"""Single jobs without a row."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar

import psycopg
import pytest

from oban_sync import ConfigError, InvalidJobError, Record, Snooze, current_job, testing, worker
from oban_sync.engine import callers
from oban_sync.testing import perform_job, process_job
from tests.testing.workers import RAN, Answering, BadSql, Exact, Failing, Mailer, add

TENANT: ContextVar[str] = ContextVar("tenant")


@worker(queue="mail", name="kit.Looking")
class Looking:
    """Gives itself, and what is around it."""

    def process(self, job):
        return job, current_job(), TENANT.get(None)


def test_it_gives_what_the_worker_returns():
    assert perform_job(Answering, {"what": "record"}) == Record(7)
    assert perform_job(Answering, {"what": "snooze"}) == Snooze(60)
    assert perform_job("kit.Answering", {"what": "cancel"}).reason == "no"
    assert perform_job(add, {"a": 1, "b": 2}) == 3


def test_it_raises_what_the_worker_raises():
    with pytest.raises(ValueError, match="no such mailbox"):
        perform_job(Failing)

    assert current_job() is None


def test_the_job_is_as_its_queue_would_give_it():
    job, current, _ = perform_job(
        Looking, {"to": ("a",)}, attempt=2, queue="other", tags=["x"], meta={"k": 1}
    )

    assert job is current
    assert job.args == {"to": ["a"]}
    assert (job.state, job.attempt, job.queue, job.tags) == ("executing", 2, "other", ["x"])
    assert job.meta == {"k": 1}
    assert job.id is None
    assert job.attempted_at is not None
    assert not job.cancelled()


def test_a_job_that_was_made_may_be_given():
    assert process_job(Answering.new({"what": "record"})) == Record(7)
    assert process_job(add.new(1, b=2)) == 3


def test_nothing_is_stored(oban, factory):
    perform_job(Mailer, {"to": "ann"})

    assert (RAN, factory.count()) == (["ann"], 0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: perform_job(Mailer, {"at": object()}), InvalidJobError, r"args\.at"),
        (lambda: perform_job(Mailer, priority=10), InvalidJobError, "priority"),
        (lambda: perform_job(Mailer, attempt=4), ConfigError, "attempt: .*from 1 to 3"),
        (lambda: perform_job(add, {"a": 1}), TypeError, "missing a required argument: 'b'"),
        (lambda: perform_job(7), ConfigError, "worker: 7 is neither"),
        (lambda: process_job({"a": 1}), ConfigError, "is not a job"),
        (lambda: perform_job(Mailer, oban="Nobody"), Exception, "no Oban named 'Nobody'"),
    ],
    ids=range(7),
)
def test_what_could_not_be_enqueued_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()

    assert RAN == []


def test_it_runs_in_what_the_oban_puts_around_its_jobs(make_oban):
    seen = []

    @contextmanager
    def around(job):
        try:
            yield
        except ValueError as error:
            seen.append((job.worker, str(error)))

            raise

    make_oban(around=around, carry=[TENANT])
    token = TENANT.set("acme")

    try:
        job, _, tenant = perform_job(Looking)
    finally:
        TENANT.reset(token)

    assert tenant == "acme"
    assert job.carried == {"tenant": "acme"}

    with pytest.raises(ValueError, match="no such mailbox"):
        perform_job(Failing)

    assert seen == [("kit.Failing", "no such mailbox")]


@pytest.mark.parametrize("kind", ["psycopg", "psycopg+autocommit", "session+psycopg"])
def test_a_transactional_worker_works_by_what_is_bound(kind, kinds, oban, notes, conn):
    own = kinds.open(kind)

    with testing.bound(oban, own):
        perform_job(Exact, {"text": "kept"})

        with pytest.raises(ValueError, match="after the work"):
            perform_job(Exact, {"text": "undone", "fail": True})

    assert callers.ask(own, "SELECT text FROM notes").rows == [("kept",)]
    assert conn.execute("SELECT count(*) FROM notes").fetchone() == (0,)


def test_a_transactional_worker_works_by_what_is_given(kinds, oban, notes, conn):
    own = kinds.open("psycopg")

    perform_job(Exact, {"text": "kept"}, conn=own)

    assert own.execute("SELECT text FROM notes").fetchall() == [("kept",)]
    assert conn.execute("SELECT count(*) FROM notes").fetchone() == (0,)


def test_an_sql_error_leaves_the_transaction_of_the_test_of_use(oban, kinds, notes):
    conn = kinds.open("psycopg")

    with testing.bound(oban, conn):
        with pytest.raises(psycopg.errors.DivisionByZero):
            testing.perform_job(BadSql)

        assert conn.execute("SELECT count(*) FROM notes").fetchone() == (0,)

        testing.refute_enqueued()
