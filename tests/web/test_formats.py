"""How numbers, times and texts are written."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oban_sync.core import spans
from oban_sync.core.job import JobState
from oban_sync.web import formats

NOW = datetime(2026, 11, 29, 8, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0, "0 s"),
        (0.0000004, "0 µs"),
        (0.000012, "12 µs"),
        (0.0123, "12.3 ms"),
        (0.34, "340 ms"),
        (0.9996, "1 s"),
        (12.44, "12.4 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min"),
        (200, "3 min 20 s"),
        (3_600, "1 h"),
        (187_200, "2 d 4 h"),
        (40_000_000, "1 y 3 mo"),
        (-5, "-5 s"),
    ],
)
def test_a_span_of_time(seconds, text):
    assert formats.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "just now"),
        (1, "1 second ago"),
        (200, "3 minutes ago"),
        # As the sentences about jobs round it.
        (280, "5 minutes ago"),
        (89, "89 seconds ago"),
        (0.96, "1 second ago"),
        (86_400 * 400, "400 days ago"),
        (-200, "in 3 minutes"),
        (86_400 * 2, "2 days ago"),
        (-0.5, "just now"),
    ],
)
def test_how_long_ago_something_was(seconds, text):
    assert formats.ago(NOW - timedelta(seconds=seconds), NOW) == text


@given(st.floats(1, 1e9))
def test_a_span_in_words_is_what_sentences_about_jobs_say(seconds):
    assert formats.words(-seconds) == formats.words(seconds) == spans.lasting(seconds)


def test_a_time_without_a_zone_is_in_utc():
    assert formats.ago(NOW.replace(tzinfo=None), NOW) == "just now"
    assert formats.at(NOW) == "2026-11-29 08:00:00 UTC"
    assert formats.at(None) == formats.ago(None) == "–"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (999, "999"),
        (1_000, "1k"),
        (1_234, "1.2k"),
        (999_960, "1M"),
        (999_940, "999.9k"),
        (12_345_678, "12.3M"),
        (4e9, "4G"),
        (0.25, "0.25"),
    ],
)
def test_a_number_where_there_is_little_room(value, text):
    assert formats.compact(value) == text


def test_numbers_in_full():
    assert formats.number(1_234_567) == "1,234,567"
    assert formats.number(2.0) == "2"
    assert formats.number(2.25) == "2.2"
    assert formats.count(1, "job") == "1 job"
    assert formats.count(1_200, "job") == "1,200 jobs"
    assert formats.count(2, "entry", "entries") == "2 entries"
    assert formats.percent(0.425) == "42 %"
    assert formats.percent(None) == "–"


@given(st.text(), st.integers(2, 80))
def test_a_short_text_is_short_and_can_be_seen(text, most):
    short = formats.short(text, most)

    assert len(short) <= most
    assert short.isprintable()


@pytest.mark.parametrize(
    ("text", "block", "line"),
    [
        ("a\tb\r\nc\n", "a\tb\r\nc\n", "a b c "),
        ("a\rb", "a\\u000db", "a b"),
        ("\x1b[31mred\x00", "\\u001b[31mred\\u0000", "\\u001b[31mred\\u0000"),
        ("\u202egnp.exe", "\\u202egnp.exe", "\\u202egnp.exe"),
        ("\u200b\ufeff", "\\u200b\\ufeff", "\\u200b\\ufeff"),
        ("a\u2028b", "a\\u2028b", "a b"),
        ("\U000e0001", "\\udb40\\udc01", "\\udb40\\udc01"),
        ("é 日本 🎉 a\u00a0b", "é 日本 🎉 a\u00a0b", "é 日本 🎉 a b"),
        (7, "7", "7"),
    ],
)
def test_what_is_not_printable_is_written_out(text, block, line):
    assert formats.block(text) == block
    assert formats.line(text) == line
    assert formats.short(str(text), 99) == line.strip()


@given(st.recursive(st.text(), st.lists))
def test_json_in_a_block_stays_the_same_json(value):
    assert json.loads(formats.block(json.dumps(value, ensure_ascii=False))) == value


@given(st.text())
def test_a_line_is_one_line_of_what_can_be_seen(text):
    assert formats.line(text).isprintable()


@pytest.mark.parametrize(
    ("by", "text"),
    [
        ("admin: DB maintenance", "admin (DB maintenance)"),
        ("admin: a: b", "admin (a: b)"),
        ("admin", "admin"),
        (": x", ": x"),
        ("x: ", "x: "),
        (None, ""),
    ],
)
def test_who_did_something_and_why(by, text):
    assert formats.by(by) == text


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("", ""),
        (None, ""),
        ("ValueError: x", "ValueError: x"),
        (
            "Traceback (most recent call last):\n  File 'x'\n    y\nValueError: x\nmore",
            "ValueError: x",
        ),
        ("Traceback (most recent call last):\n  File 'x'", "Traceback (most recent call last):"),
        ("** (RuntimeError) boom\n    lib/x.ex:1", "** (RuntimeError) boom"),
        (7, "7"),
    ],
)
def test_the_line_that_says_what_went_wrong(error, line):
    assert formats.first_line(error) == line


def test_a_time_says_what_machines_and_people_read():
    assert formats.since(NOW, kind="at") == (
        '<time datetime="2026-11-29T08:00:00.000+00:00" title="2026-11-29 08:00:00 UTC" '
        'data-time="at">2026-11-29 08:00:00 UTC</time>'
    )
    assert "–" in formats.since(None)


def test_every_state_has_its_place():
    assert sorted(formats.STATES) == sorted(JobState)


def test_a_worker_s_name_is_taken_apart():
    assert formats.name_of("app.mail.Mailer") == ("app.mail.", "Mailer")
    assert formats.name_of("Mailer") == ("", "Mailer")
