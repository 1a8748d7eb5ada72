"""What is kept of what jobs log: its options, and lines out of records."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from oban_sync import ConfigError
from oban_sync.core import payload
from oban_sync.core.config import Config
from oban_sync.core.job_logs import (
    MOST_LINE,
    Line,
    LogsConfig,
    check_logs,
    line_of,
    lines_of,
    read_lines,
)


def record(message, *args, level=logging.INFO, name="app.mail", exc_info=None, stack=None):
    return logging.LogRecord(name, level, "file", 1, message, args, exc_info, sinfo=stack)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (True, LogsConfig()),
        (False, LogsConfig(enabled=False)),
        ("false", LogsConfig(enabled=False)),
        ("warning", LogsConfig(level=logging.WARNING)),
        ({"level": "DEBUG"}, LogsConfig(level=logging.DEBUG)),
        ({"level": 25}, LogsConfig(level=25)),
        ({"most_lines": 5, "most_bytes": 1000}, LogsConfig(most_lines=5, most_bytes=1000)),
        ({"keep": 60, "only_failures": True}, LogsConfig(keep=60.0, only_failures=True)),
        ({"mask": str.lower}, LogsConfig(mask=str.lower)),
    ],
    ids=str,
)
def test_options_say_what_is_kept(given, expected):
    assert check_logs("logs", given) == expected
    assert Config.checked({"conninfo": "host=h", "logs": given}).logs == expected


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("loud", "logs"),
        (7, "logs"),
        ({"level": "loud"}, "logs.level"),
        ({"level": True}, "logs.level"),
        ({"most_lines": 0}, "logs.most_lines"),
        ({"most_bytes": 10}, "logs.most_bytes"),
        ({"keep": "long"}, "logs.keep"),
        ({"lines": 3}, "logs.lines"),
        ({"mask": "s3cret"}, "logs.mask"),
    ],
    ids=str,
)
def test_a_wrong_option_is_named(given, named):
    with pytest.raises(ConfigError) as caught:
        check_logs("logs", given)

    assert caught.value.option == named


def test_a_line_has_its_level_logger_and_message():
    line = line_of(record("sent %d to %s", 2, "ann", level=logging.WARNING))

    assert (line.level, line.logger, line.message) == ("warning", "app.mail", "sent 2 to ann")


def test_arguments_that_do_not_fit_lose_no_line():
    assert line_of(record("sent %d", "two")).message == "sent %d (its arguments do not fit)"


def test_a_traceback_and_a_stack_follow_the_message():
    try:
        raise ValueError("boom")
    except ValueError:
        line = line_of(record("failed", exc_info=sys.exc_info(), stack="Stack (most recent call)"))

    assert line.message.startswith("failed\nTraceback")
    assert "ValueError: boom" in line.message
    assert line.message.endswith("Stack (most recent call)")


def test_a_text_is_masked_whole_before_anything_is_cut():
    secret = "s3cret" * 10
    text = "x" * (MOST_LINE // 2 - 30) + secret + "y" * MOST_LINE

    assert "s3c" in line_of(record(text)).message

    line = line_of(record(text), mask=lambda given: given.replace(secret, "***"))

    assert "s3c" not in line.message
    assert "***" in line.message
    assert line_of(record("drop this"), mask=lambda given: None) is None


def test_a_traceback_is_masked_with_its_line():
    try:
        raise ValueError("s3cret")
    except ValueError:
        given = record("failed", exc_info=sys.exc_info())

    line = line_of(given, mask=lambda text: text.replace("s3cret", "***"))

    assert line.message.endswith("ValueError: ***")


def test_a_line_is_fit_for_jsonb_whatever_it_holds():
    line = line_of(record("a\0b \udc80 " + "x" * 100_000, name="n\0" + "l" * 1_000))

    assert "\0" not in line.message + line.logger
    assert len(line.message) < MOST_LINE + 100
    json.loads(payload.dumps([line]).encode())


def test_what_is_no_line_is_left_out():
    good = [1.5, "info", "app", "text"]

    assert lines_of([good, None, [1], [1, 2, 3, 4], {"at": 1}, "text"]) == [Line(*good)]
    assert (
        lines_of([[time, "info", "app", "x"] for time in (10**400, float("nan"), -1, 1e13)]) == []
    )
    assert lines_of("nonsense") == []
    assert [line.message for line in read_lines([good, [9e11, "info", "app", "never"]])] == ["text"]
