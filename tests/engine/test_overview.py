"""What the pages on queues and nodes look at."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from oban_sync.engine import overview


def ago(seconds):
    return (datetime.now(UTC) - timedelta(seconds=seconds)).replace(tzinfo=None)


@pytest.fixture
def failed(factory, conn):
    def make(state, seconds, *errors, **columns):
        job_id = factory.job(
            state=state,
            attempt=1,
            attempted_at=ago(seconds + 1),
            discarded_at=ago(seconds) if state == "discarded" else None,
            **columns,
        )
        texts = [json.dumps({"attempt": 1, "error": error}) for error in errors]
        conn.execute("UPDATE oban_jobs SET errors = %s::jsonb[] WHERE id = %s", [texts, job_id])

        return job_id

    return make


def test_failures_are_given_newest_first_with_their_last_error(db, failed, factory):
    old = failed("discarded", 90, "first", "ValueError: last")
    new = failed("retryable", 10, "KeyError: 'x'", queue="mailers", max_attempts=5)
    factory.job(state="scheduled")
    factory.job(state="completed")
    found = overview.recent_failures(db)

    assert [failure.id for failure in found] == [new, old]
    assert [failure.error for failure in found] == ["KeyError: 'x'", "ValueError: last"]
    assert (found[0].queue, found[0].state, found[0].max_attempts) == ("mailers", "retryable", 5)
    assert found[1].failed_at.utcoffset() == timedelta(0)


def test_only_so_many_failures_are_given(db, failed):
    ids = [failed("discarded", seconds, "x") for seconds in (30, 20, 10)]

    assert [failure.id for failure in overview.recent_failures(db, most=2)] == ids[:0:-1]


def test_of_a_long_error_the_middle_is_left_out(db, failed):
    failed("discarded", 1, f"begin{'x' * 100_000}end")
    [failure] = overview.recent_failures(db)

    assert failure.error.startswith("begin")
    assert failure.error.endswith("end")
    assert len(failure.error) == 2 * overview.MOST_CHARACTERS + 1


def test_a_job_without_errors_or_times_is_given(db, factory):
    factory.job(state="discarded")
    [failure] = overview.recent_failures(db)

    assert failure.error is None


def test_busy_slots_are_counted_by_producer(db, factory):
    node = factory.node("alpha", "beta")
    alpha, beta = factory.owner(node, "alpha"), factory.owner(node, "beta")

    for _ in range(2):
        factory.executing(alpha)

    factory.executing(beta, queue="beta")
    factory.executing("gone")
    factory.job(queue="alpha")

    assert overview.busy(db) == {
        (alpha, "alpha"): 2,
        (beta, "beta"): 1,
        ("gone", "alpha"): 1,
    }
    assert overview.busy(db, "beta") == {(beta, "beta"): 1}


def test_orders_are_given_as_they_were_asked_for(db, oban, conn):
    oban.pause_queue("alpha", by="anna", until=3600)
    oban.scale_queue("beta", 7, node="n1")
    oban.stop_queue("beta")
    conn.execute(
        "INSERT INTO oban_sync_controls (name, queue, node, aspect, value, until)"
        " VALUES ('Oban', 'gamma', '*', 'paused', 'true', now() - interval '1 h'),"
        " ('Oban', 'delta', '*', 'limit', '\"odd\"', NULL),"
        " ('Other', 'x', '*', 'paused', 'true', NULL)"
    )
    found = overview.list_orders(db, "Oban")

    assert [
        (order.control.queue, order.node, order.control.aspect, order.control.value)
        for order in found
    ] == [
        ("alpha", "*", "paused", True),
        ("beta", "n1", "limit", 7),
        ("beta", "*", "running", False),
        ("gamma", "*", "paused", True),
    ]
    assert [order.control.ended for order in found] == [False, False, False, True]
    assert (found[0].control.by, found[0].control.until > datetime.now(UTC)) == ("anna", True)
