"""Which line of an error says what went wrong."""

from __future__ import annotations

import traceback

import pytest

from oban_sync.core.causes import ADDED, cause_of
from oban_sync.core.job import Job
from oban_sync.runtime import executor


def text_of(error):
    return "".join(traceback.format_exception(error)).rstrip()


def raised(work):
    try:
        work()
    except BaseException as error:
        return text_of(error)

    raise AssertionError("it did not raise")


def plainly():
    raise ValueError("no such address")


def in_several_lines():
    raise ValueError("outer says\n  several\nlines")


def with_a_note():
    error = ValueError("real problem")
    error.add_note("see runbook 7")

    raise error


def as_the_cause():
    try:
        raise KeyError("inner")
    except KeyError as error:
        raise ValueError("outer\nand more") from error


def meanwhile():
    try:
        raise KeyError("inner\nof two lines")
    except KeyError:
        plainly()


def quoting_another():
    raise RuntimeError(f"the other process failed:\n{raised(plainly)}")


def in_a_group():
    raise ExceptionGroup("two of them", [ValueError("one"), KeyError("two")])


@pytest.mark.parametrize(
    ("work", "line"),
    [
        (plainly, "ValueError: no such address"),
        (in_several_lines, "ValueError: outer says"),
        (with_a_note, "ValueError: real problem"),
        (as_the_cause, "ValueError: outer"),
        (meanwhile, "ValueError: no such address"),
        (quoting_another, "RuntimeError: the other process failed:"),
        (in_a_group, "ExceptionGroup: two of them (2 sub-exceptions)"),
    ],
)
def test_of_a_traceback_it_is_the_line_behind_its_frames(work, line):
    assert cause_of(raised(work)) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("  \n", ""),
        ("not started: its deadline was at 11:00", "not started: its deadline was at 11:00"),
        ("** (RuntimeError) no\n    lib/a.ex:1", "** (RuntimeError) no"),
        (
            "JobTimeoutError: it ran for more than 1 s\nIt did not stop, and its thread was given "
            "up here:\n  File 'x'\n    y\nAnd its backoff or policy did not answer, so",
            "JobTimeoutError: it ran for more than 1 s",
        ),
        ("And its policy failed", "And its policy failed"),
        (
            "Traceback (most recent call last):\n  File 'x'",
            "Traceback (most recent call last):",
        ),
    ],
)
def test_of_another_text_it_is_the_first_line(text, line):
    assert cause_of(text) == line


def test_what_the_library_adds_is_not_it():
    other = raised(as_the_cause)

    for begin in ADDED:
        assert cause_of(f"{raised(plainly)}\n{begin}:\n{other}") == "ValueError: no such address"


def test_what_a_job_comes_to_has_it_though_its_backoff_fails():
    registration = type("R", (), {"backoff": lambda self, job: {}["minutes"]})()
    _, note = executor._delay(Job(worker="W", queue="alpha"), registration)

    assert "KeyError" in note
    assert cause_of(raised(plainly) + note) == "ValueError: no such address"
