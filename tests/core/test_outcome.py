"""What process may return, and what is written for it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from oban_sync import Cancel, Discard, InvalidJobError, Record, Snooze
from oban_sync.core.backoff import LONGEST_DELAY, retry_delay
from oban_sync.core.job import Job
from oban_sync.core.outcome import of_result


@pytest.mark.parametrize("attempt", range(1, 21))
def test_the_delay_grows_with_the_attempt_and_has_a_tenth_of_jitter(attempt):
    least = 15 + 2**attempt

    assert all(least <= retry_delay(attempt, 20) <= least * 1.1 for _ in range(50))


def test_the_delay_is_stretched_over_many_allowed_attempts():
    assert retry_delay(1000, 1000) <= (15 + 2**20) * 1.1
    assert retry_delay(500, 1000) <= (15 + 2**10) * 1.1
    assert retry_delay(30_000, 32_767) > 15


@pytest.mark.parametrize(
    "delay",
    [-1, -0.001, float("inf"), float("nan"), LONGEST_DELAY + 1, "60", None, True, 10**400],
    ids=lambda value: repr(value).split(" at 0x")[0][:40],
)
def test_a_snooze_that_is_no_delay_is_refused(delay):
    with pytest.raises(ValueError, match="is not a delay"):
        Snooze(delay)


@pytest.mark.parametrize(
    ("delay", "seconds"), [(0, 0.0), (timedelta(minutes=2), 120.0), (1.5, 1.5)]
)
def test_a_snooze_takes_seconds_and_timedeltas(delay, seconds):
    assert Snooze(delay).seconds == seconds


def test_what_is_recorded_must_be_json_and_not_too_large():
    with pytest.raises(InvalidJobError, match="recorded value"):
        Record(object())

    with pytest.raises(InvalidJobError, match="allowed"):
        Record("x" * 100, limit=99)

    assert Record({"a": [1]}).encoded


@pytest.mark.parametrize(
    ("result", "state"),
    [
        (None, "completed"),
        (5, "completed"),
        ({"any": "thing"}, "completed"),
        (False, "completed"),
        (Record(1), "completed"),
        (Snooze(1), "scheduled"),
        (Cancel("no"), "cancelled"),
        (Cancel(), "cancelled"),
        (Discard("no"), "discarded"),
        (Cancel(ValueError("x")), "cancelled"),
    ],
    ids=lambda value: repr(value).split(" at 0x")[0][:40],
)
def test_every_result_has_its_state(result, state):
    outcome = of_result(Job(worker="x"), result)

    assert outcome.state == state
    assert (outcome.error_text is not None) == isinstance(result, (Cancel, Discard))


@pytest.mark.parametrize("meta", ['{"snoozed":2}', '{"snoozed":"two"}', "[]", "nonsense", "{}"])
def test_snoozes_are_counted_whatever_the_meta_holds(meta):
    outcome = of_result(Job(worker="x", meta=meta), Snooze(1, meta={"why": "later"}))

    assert outcome.meta == {"why": "later", "snoozed": 3 if "2" in meta else 1}
    assert not outcome.spent


def test_no_retry_after_is_longer_than_the_most_not_even_the_default():
    assert Snooze.after(None, default=100, at_most=10).seconds == 10
    assert Snooze.after("500", default=1, at_most=10).seconds == 10
