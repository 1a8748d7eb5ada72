"""Expressions in words: right, and there for every expression that is accepted."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oban_sync import ConfigError
from oban_sync.core.cron import Expression
from oban_sync.core.cron_words import in_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # Times of a day.
        ("0 9 * * MON-FRI", "At 09:00 on Monday to Friday"),
        ("30 4 * * *", "At 04:30 every day"),
        ("0 9,17 * * *", "At 09:00 and 17:00 every day"),
        ("0,30 9-11 * * *", "At 09:00, 09:30, 10:00, 10:30, 11:00 and 11:30 every day"),
        ("*/15 9 * * *", "At 09:00, 09:15, 09:30 and 09:45 every day"),
        ("5 0 * 8 *", "At 00:05 every day in August"),
        # Intervals.
        ("* * * * *", "Every minute"),
        ("0-59 0-23 * * *", "Every minute"),
        ("*/1 * * * *", "Every minute"),
        ("*/5 * * * *", "Every 5 minutes"),
        ("0,30 * * * *", "Every 30 minutes"),
        ("0 * * * *", "Every hour, on the hour"),
        ("5 * * * *", "Every hour, at minute 5"),
        ("5,20 * * * *", "Every hour, at minutes 5 and 20"),
        ("*/7 * * * *", "Every hour, at every 7th minute from 0 to 56"),
        ("10-20 * * * *", "Every hour, at every minute from 10 to 20"),
        ("*/15 9-17 * * MON-FRI", "Every 15 minutes from 09:00 to 17:45 on Monday to Friday"),
        ("* 9-17 * * *", "Every minute from 09:00 to 17:59"),
        ("30 9-17 * * *", "Every hour from 09:30 to 17:30"),
        ("5,20 9-17 * * *", "Every hour from 9 to 17, at minutes 5 and 20"),
        ("0 */2 * * *", "Every 2 hours from 00:00 on"),
        ("*/10 */6 * * *", "Every 10 minutes of the hours 0, 6, 12 and 18"),
        ("1,2,4 */6 * * *", "At minutes 1, 2 and 4 of the hours 0, 6, 12 and 18"),
        ("0 * * * MON", "Every hour, on the hour, on Monday"),
        ("*/5 * * 6 *", "Every 5 minutes, in June"),
        # Days.
        ("0 0 1 * *", "At 00:00 on the 1st of every month"),
        ("0 0 1,15 * *", "At 00:00 on the 1st and 15th of every month"),
        ("0 0 1-7 * *", "At 00:00 on the 1st to the 7th of every month"),
        ("0 0 */2 * *", "At 00:00 on every 2nd day from the 1st to the 31st of every month"),
        ("0 0 L * *", "At 00:00 on the last day of every month"),
        ("0 0 1,L * *", "At 00:00 on the 1st and the last day of every month"),
        ("0 0 29 2 *", "At 00:00 on the 29th of February"),
        ("0 0 1 JAN-MAR *", "At 00:00 on the 1st of January to March"),
        ("0 0 1 */6 *", "At 00:00 on the 1st of January and July"),
        ("0 0 1-31 * *", "At 00:00 on the 1st to the 31st of every month"),
        ("0 0 * * 0", "At 00:00 on Sunday"),
        ("0 0 * * 7", "At 00:00 on Sunday"),
        ("0 0 * * sat,sun,wed", "At 00:00 on Wednesday, Saturday and Sunday"),
        ("0 0 * * FRI-MON", "At 00:00 on Friday to Monday"),
        ("0 0 * * 6-7", "At 00:00 on Saturday to Sunday"),
        ("0 0 * * 1/2", "At 00:00 on Monday, Wednesday, Friday and Sunday"),
        ("0 0 * * 0-6", "At 00:00 on Sunday to Saturday"),
        ("0 0 * * 5#2", "At 00:00 on the second Friday of every month"),
        ("0 0 * * L5", "At 00:00 on the last Friday of every month"),
        ("0 0 * 6 MON#1", "At 00:00 on the first Monday of June"),
        ("0 0 * 6 MON", "At 00:00 on Monday in June"),
        # Both days: either is enough, unless one begins with a star.
        ("0 0 13 * FRI", "At 00:00 on the 13th of every month or on Friday"),
        ("0 0 13 6 FRI", "At 00:00 on the 13th or on Friday, in June"),
        (
            "0 0 */2 * FRI",
            "At 00:00 on every 2nd day from the 1st to the 31st of every month, but only on Friday",
        ),
        # Nicknames.
        ("@hourly", "Every hour, on the hour"),
        ("@daily", "At 00:00 every day"),
        ("@weekly", "At 00:00 on Sunday"),
        ("@monthly", "At 00:00 on the 1st of every month"),
        ("@yearly", "At 00:00 on the 1st of January"),
        # Too strange to be said.
        ("0 22-2 * * *", "By 0 22-2 * * *"),
    ],
)
def test_an_expression_is_said_in_words(text, words):
    assert in_words(text) == f"{words}, UTC"


def test_it_says_whose_clocks_are_meant():
    assert in_words("0 9 * * MON-FRI", "Europe/Berlin") == (
        "At 09:00 on Monday to Friday, Europe/Berlin"
    )
    assert in_words("0 9 * * *", "UTC") == in_words("0 9 * * *", "Etc/UTC")


def test_a_start_has_no_clock():
    assert in_words("@reboot", "Europe/Berlin") == "Once, when the first node starts"


def test_what_is_no_expression_is_shown_as_it_is():
    assert in_words("61 * * * *") == "61 * * * *"
    assert in_words("<script>") == "<script>"


FIELD = st.text(alphabet="0123456789*/-,#?LWl", min_size=1, max_size=8)


@given(st.lists(FIELD, min_size=5, max_size=5).map(" ".join))
@example("0 0 ? * MON")
@example("0 0 15W * *")
@example("59/15 23/7 31/2 12/3 7/2")
@example("0-0 1-1 1-1 1-1 1-1")
@example("0 0 L,1 * *")
@example("0 0 * * L7")
@example("0 0 * * 7#1")
def test_every_expression_that_is_accepted_has_words(text):
    try:
        expression = Expression.checked("cron", text)
    except ConfigError:
        return

    words = in_words(expression)

    assert words.endswith(", UTC")
    assert words.isprintable()
