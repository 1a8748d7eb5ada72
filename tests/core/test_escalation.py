"""The steps against jobs that run for too long, as options."""

from __future__ import annotations

from datetime import timedelta

import pytest

from oban_sync import ConfigError
from oban_sync.core.escalation import Escalation, check_escalation


def test_what_is_not_given_keeps_its_default():
    assert check_escalation("x", {}) == Escalation()
    assert check_escalation("x", {"replace": 5, "interrupt": None}) == Escalation(replace=5.0)


def test_by_default_a_job_has_failed_within_three_seconds_of_its_timeout():
    steps = Escalation()

    assert 0 < steps.cancel_sql < steps.interrupt < steps.replace < 3


def test_seconds_may_be_given_as_text_and_as_a_timedelta():
    given = {"cancel_sql": "0.25", "interrupt": timedelta(seconds=1), "most_replaced": "3"}

    assert check_escalation("x", given) == Escalation(0.25, 1.0, 2.0, 3)


def test_steps_may_come_together_and_may_be_left_out():
    assert check_escalation("x", dict.fromkeys(("cancel_sql", "interrupt", "replace"), 0)) == (
        Escalation(0.0, 0.0, 0.0)
    )
    assert check_escalation("x", {"interrupt": False}) == Escalation(interrupt=None)
    # What comes before and after the one left out is compared all the same.
    assert check_escalation("x", {"interrupt": False, "cancel_sql": 2}).cancel_sql == 2.0


def test_an_escalation_is_taken_as_it_is():
    steps = Escalation(1.0, 2.0, 3.0)

    assert check_escalation("x", steps) is steps


@pytest.mark.parametrize(
    ("given", "option", "words"),
    [
        (5, "e", ["5", "cancel_sql"]),
        (True, "e", ["mapping"]),
        ({"cancel_sql": -1}, "e.cancel_sql", ["-1", "0 or more", "False"]),
        ({"interrupt": "soon"}, "e.interrupt", ["'soon'"]),
        ({"interrupt": True}, "e.interrupt", ["True"]),
        ({"replace": float("inf")}, "e.replace", ["inf"]),
        ({"replace": float("nan")}, "e.replace", ["nan"]),
        ({"replace": 0.5}, "e.replace", ["0.5", "interrupt", "1 s"]),
        ({"cancel_sql": 1.5}, "e.interrupt", ["1 s", "cancel_sql", "1.5"]),
        ({"interrupt": False, "cancel_sql": 2.5}, "e.replace", ["cancel_sql", "2.5"]),
        ({"most_replaced": -1}, "e.most_replaced", ["-1"]),
        ({"most_replaced": 1.5}, "e.most_replaced", ["1.5"]),
        ({"interupt": 1}, "e.interupt", ["Did you mean 'interrupt'?"]),
    ],
)
def test_a_wrong_step_is_an_error_that_names_it(given, option, words):
    with pytest.raises(ConfigError) as caught:
        check_escalation("e", given)

    assert caught.value.option == option

    for word in words:
        assert word in str(caught.value)
