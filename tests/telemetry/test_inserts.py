"""What is told of jobs that are stored, and of failures with their exceptions."""

from __future__ import annotations

import pytest

from oban_sync import ConfigError, job, telemetry
from tests.support.workers import Echo

EVENTS = (
    "oban.job.insert.start",
    "oban.job.insert.stop",
    "oban.job.insert.exception",
    "oban.job.error",
)


@job(queue="alpha", name="tests.inserts.fails", max_attempts=1)
def fails():
    raise ValueError("boom")


@pytest.fixture
def heard():
    """What was told, in order."""
    found = []
    telemetry.attach("test-inserts", EVENTS, lambda event, fields: found.append((event, fields)))

    yield found

    telemetry.detach("test-inserts")


def test_storing_jobs_is_told_before_and_after(oban, heard):
    job = Echo.enqueue()
    [(start, before), (stop, after)] = heard

    assert (start, stop) == EVENTS[:2]
    assert (before["queue"], before["worker"]) == ("alpha", "tests.Echo")
    assert [one.id for one in after["jobs"]] == [job.id]
    assert after["duration"] > 0
    assert before["carried"] is after["carried"]


def test_many_jobs_are_told_of_once_whatever_they_come_from(oban, heard):
    stored = oban.enqueue_many(Echo.new() for _ in range(3))

    assert [event for event, _ in heard] == [*EVENTS[:2]]
    assert heard[1][1]["jobs"] == stored
    heard.clear()
    assert oban.enqueue_many([]) == heard == []


def test_what_a_handler_adds_goes_along_with_all_of_them(oban):
    telemetry.attach(
        "test-adds",
        ["oban.job.insert.start"],
        lambda _, fields: fields["carried"].update(trace="abc"),
    )

    try:
        stored = oban.enqueue_many([Echo.new(), Echo.new(meta={"kept": 1})])
    finally:
        telemetry.detach("test-adds")

    assert [job.carried for job in stored] == [{"trace": "abc"}] * 2
    assert oban.get_job(stored[1].id).meta["kept"] == 1


def test_what_cannot_be_stored_is_told_with_its_error(oban, heard):
    with pytest.raises(ConfigError) as caught:
        oban.enqueue_many([Echo.new(), "none"])

    assert [event for event, _ in heard] == [EVENTS[0], EVENTS[2]]
    assert heard[1][1]["error"] is caught.value


def test_a_failure_is_told_with_the_exception_itself(oban, heard):
    stored = fails.enqueue()
    oban.drain_queue("alpha", with_safety=True)
    [fields] = [fields for event, fields in heard if event == "oban.job.error"]

    assert (fields["job"].id, fields["state"]) == (stored.id, "discarded")
    assert repr(fields["error"]) == "ValueError('boom')"
    assert fields["error"].__traceback__ is not None


def test_nothing_is_carried_where_nobody_follows(oban):
    assert Echo.enqueue().meta == {}
