"""Numbers, lists and times in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from oban_sync.core.spans import at, counted, lasting, listed, read

NOON = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "less than a second"),
        (0.4, "less than a second"),
        (1, "1 second"),
        (59.6, "60 seconds"),
        (95, "2 minutes"),
        (3_600, "60 minutes"),
        (7_200, "2 hours"),
        (86_400, "24 hours"),
        (10 * 86_400, "10 days"),
        (5_000 * 86_400, "5,000 days"),
    ],
)
def test_a_stretch_of_time_is_told_in_the_unit_that_says_most(seconds, words):
    assert lasting(seconds) == words


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (NOON + timedelta(seconds=5), "12:00:05 UTC"),
        (NOON + timedelta(hours=2), "14:00 UTC"),
        (NOON - timedelta(hours=2), "10:00 UTC"),
        (NOON + timedelta(days=1), "2026-11-30 12:00 UTC"),
        (NOON.astimezone(timezone(timedelta(hours=9))), "12:00:00 UTC"),
    ],
)
def test_a_moment_is_told_as_exactly_as_it_is_near(moment, words):
    assert at(moment, NOON) == words


def test_one_is_counted_without_a_plural():
    assert [counted(1, "job"), counted(1_234, "job")] == ["1 job", "1,234 jobs"]


def test_a_list_of_words_ends_with_an_and():
    assert [listed(["a"]), listed(["a", "b"]), listed("abc")] == ["a", "a and b", "a, b and c"]


@pytest.mark.parametrize("text", [None, 5, "", "infinity", "12026-01-01T00:00:00", "0044-03-15 BC"])
def test_what_is_no_moment_that_can_be_expressed_is_none(text):
    assert read(text) is None


def test_a_moment_without_a_timezone_is_in_utc():
    assert read("2026-11-29T12:00:00") == read("2026-11-29T14:00:00+02:00") == NOON
