"""How queues are wanted to be."""

from __future__ import annotations

import pytest

from oban_sync.core.controls import Control, Wanted, checked, queues_started, wanted


def controls(*given):
    return [Control(seq, *rest) for seq, rest in enumerate(given)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], (True, 5, False)),
        ([("a", "paused", True)], (True, 5, True)),
        ([("*", "paused", True)], (True, 5, True)),
        ([("b", "paused", True)], (True, 5, False)),
        ([("a", "paused", True), ("*", "paused", False)], (True, 5, False)),
        ([("*", "paused", True), ("a", "paused", False)], (True, 5, False)),
        ([("a", "paused", False), ("*", "paused", True)], (True, 5, True)),
        ([("a", "limit", 9)], (True, 9, False)),
        ([("a", "running", False)], (False, 5, False)),
        ([("a", "running", 3)], (True, 3, False)),
        ([("a", "limit", 9), ("a", "running", 3)], (True, 3, False)),
        ([("a", "running", 3), ("a", "limit", 9)], (True, 9, False)),
        ([("a", "running", 3), ("a", "running", False)], (False, 3, False)),
    ],
)
def test_the_newest_that_fits_counts(given, expected):
    found = wanted(controls(*given), "a", 5)

    assert (found.running, found.limit, found.paused) == expected


def test_the_order_is_that_of_seq_and_not_of_the_rows():
    rows = controls(("a", "paused", True), ("a", "paused", False))

    assert wanted(reversed(rows), "a", 5).paused is False


def test_a_queue_that_is_not_configured_runs_only_when_started():
    assert wanted([], "a", None).running is False
    assert wanted(controls(("a", "running", 4)), "a", None) == Wanted(True, 4, False)
    assert queues_started(controls(("a", "running", 4), ("b", "running", False))) == {"a"}


def test_a_pause_tells_who_wanted_it():
    pause = Control(1, "*", "paused", True, by="anna")

    assert wanted([pause], "a", 5).pause is pause
    assert wanted([pause, Control(2, "a", "paused", False)], "a", 5).pause is None


@pytest.mark.parametrize(
    ("aspect", "value"),
    [
        ("paused", 1),
        ("paused", None),
        ("limit", True),
        ("limit", 0),
        ("limit", 10_001),
        ("limit", "3"),
        ("running", True),
        ("running", {"limit": 3}),
        ("color", "red"),
        (None, None),
    ],
)
def test_what_makes_no_sense_is_refused(aspect, value):
    with pytest.raises(ValueError, match="cannot be"):
        checked(aspect, value)
