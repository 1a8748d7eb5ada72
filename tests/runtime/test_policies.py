"""What a policy decides, through the database and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from oban_sync import Snooze, job, telemetry, worker


class Limited(Exception):
    def __init__(self, after):
        super().__init__("too many requests")
        self.headers = {"Retry-After": after}


@worker(
    name="tests.policies.Caller",
    queue="alpha",
    max_attempts=3,
    retry_on={ConnectionError: 600, KeyError: lambda job, error: 1 / 0},
    discard_on=[ValueError],
    snooze_on=Limited,
)
class Caller:
    def process(self, job):
        raise {
            "connection": ConnectionError("refused"),
            "value": ValueError("no such customer"),
            "limited": Limited("120"),
            "key": KeyError("k"),
            "other": RuntimeError("odd"),
        }[job.args["what"]]


@pytest.fixture
def drained(make_oban):
    """Runs one job; the row that it leaves."""
    oban = make_oban()

    def run(target, *args, **options):
        stored = oban.enqueue(target.new(*args, **options))
        oban.drain_queue("alpha", with_safety=True, with_scheduled=False)

        return oban.get_job(stored.id)

    return run


def seconds_until(moment):
    return (moment - datetime.now(UTC)).total_seconds()


def test_a_class_of_errors_has_its_own_delay(drained):
    row = drained(Caller, {"what": "connection"})

    assert (row.state, row.attempt) == ("retryable", 1)
    assert 590 < seconds_until(row.scheduled_at) <= 600
    assert "ConnectionError: refused" in row.errors[0]["error"]


def test_one_that_trying_again_cannot_mend_is_given_up_at_once(drained):
    row = drained(Caller, {"what": "value"})

    assert (row.state, row.attempt, len(row.errors)) == ("discarded", 1, 1)
    assert "ValueError: no such customer" in row.errors[0]["error"]
    assert f'File "{__file__}"' in row.errors[0]["error"].splitlines()[1]


def test_one_that_says_when_to_come_back_puts_the_job_off(drained):
    row = drained(Caller, {"what": "limited"})

    assert (row.state, row.attempt, row.errors) == ("scheduled", 0, [])
    assert 110 < seconds_until(row.scheduled_at) <= 120
    assert (row.meta["snoozed"], row.meta["snoozed_on_error"]) == (1, 1)
    assert row.meta["snoozed_because"].endswith("Limited: too many requests")


def test_what_is_not_named_is_retried_as_usual(drained):
    row = drained(Caller, {"what": "other"})

    assert row.state == "retryable"
    assert 10 < seconds_until(row.scheduled_at) < 25


def test_a_policy_that_fails_itself_leaves_a_usual_failure_and_says_so(drained):
    row = drained(Caller, {"what": "key"})

    assert row.state == "retryable"
    assert 10 < seconds_until(row.scheduled_at) < 25
    assert "KeyError: 'k'" in row.errors[0]["error"]
    assert "ZeroDivisionError" in row.errors[0]["error"]


def test_the_last_attempt_is_the_last(drained):
    row = drained(Caller, {"what": "connection"}, max_attempts=1)

    assert (row.state, row.attempt) == ("discarded", 1)


def test_only_what_retry_on_alone_names_is_retried(drained):
    @job(name="tests.policies.only", queue="alpha", retry_on=ConnectionError)
    def only(broken):
        raise ConnectionError if broken else ValueError

    assert drained(only, True).state == "retryable"
    assert drained(only, False).state == "discarded"


def test_a_job_may_snooze_by_what_a_server_says(drained):
    @job(name="tests.policies.polite", queue="alpha")
    def polite():
        return Snooze.after({"Retry-After": "3600"}, at_most=timedelta(minutes=10))

    row = drained(polite)

    assert (row.state, row.attempt) == ("scheduled", 0)
    assert 590 < seconds_until(row.scheduled_at) <= 600
    assert "snoozed_on_error" not in row.meta


def test_telemetry_tells_what_it_came_to(drained):
    heard = []
    telemetry.attach(
        "test-policies",
        ["oban.job.stop", "oban.job.exception"],
        lambda event, fields: heard.append((event, fields["state"])),
    )

    try:
        for what in ("value", "limited", "connection"):
            drained(Caller, {"what": what})
    finally:
        telemetry.detach("test-policies")

    assert heard == [
        ("oban.job.exception", "discarded"),
        ("oban.job.stop", "scheduled"),
        ("oban.job.exception", "retryable"),
    ]
