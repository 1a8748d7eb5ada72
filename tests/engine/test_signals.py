"""Writing and reading what travels over NOTIFY."""

from __future__ import annotations

import base64
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql

from oban_sync.engine import signals


def packed(value):
    return base64.b64encode(gzip.compress(json.dumps(value).encode(), mtime=0)).decode()


@pytest.mark.parametrize(
    "text",
    [
        '{"queue":"a"}',
        '{"queue" : "a"}',
        packed({"queue": "a"}),
        "Z:" + packed({"queue": "a"}),
        "Z:" + packed({"queue": "a"}).rstrip("="),
    ],
)
def test_every_oban_is_understood(text):
    assert signals.decode(text) == {"queue": "a"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "[]",
        "null",
        "5",
        "{",
        "Z:",
        "Z:!!!",
        "H4sIxxxx",
        "H4sI",
        "[" * 100_000,
        packed([1]),
        "Z:" + base64.b64encode(b"\x1f\x8b" + b"x" * 50).decode(),
    ],
    ids=lambda text: text[:10],
)
def test_junk_is_a_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011 - any of its kinds will do
        signals.decode(text)


def test_a_payload_that_unpacks_to_too_much_is_refused():
    with pytest.raises(ValueError, match="more than"):
        signals.decode(packed({"x": "y" * 2_000_000}))


@given(st.text())
def test_nothing_but_a_value_error_comes_of_any_text(text):
    for form in (text, f"Z:{text}", f"H4sI{text}"):
        try:
            signals.decode(form)
        except ValueError:
            continue


# Writing.


def read_by_oban_py(text):
    """As oban-py 0.7 does it."""
    return json.loads(text if text.startswith("{") else gzip.decompress(base64.b64decode(text)))


def read_by_elixir(text):
    """As Oban for Elixir does it since 2.21; before, it tried base64 and gzip first."""
    if text.startswith("H4sI"):
        text = gzip.decompress(base64.b64decode(text, validate=True)).decode()

    return json.loads(text)


def noise(characters):
    return "".join(f"{n * 2654435761 % 2**32:08x}" for n in range(characters // 8 + 1))[:characters]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"action": "pkill", "job_id": 17},
        {"queue": 'a "quoted" \\ \' é 名 \N{GRINNING FACE}', "n": [1, 2.5, None, True]},
        {"text": "x" * 7_889},
        {"text": "x" * 7_890},
        {"text": "é" * 4_000},
        {"text": "x" * 900_000},
        {"text": noise(9_000)},
    ],
    ids=lambda values: str(values)[:20],
)
def test_what_is_written_is_read_by_every_oban(values):
    text = signals.encode(values)

    assert text.startswith(("{", "H4sI"))
    assert len(text.encode()) <= 7_900

    for read in (signals.decode, read_by_oban_py, read_by_elixir):
        assert read(text) == values


def test_small_payloads_are_plain_and_compact():
    assert signals.encode({"action": "pkill", "job_id": 17}) == '{"action":"pkill","job_id":17}'
    assert signals.encode({"x": "y" * 7_892})[0] == "{"
    assert signals.encode({"x": "y" * 7_893})[:4] == "H4sI"


def test_postgresql_carries_the_largest_of_either_form(conn):
    conn.execute(sql.SQL("LISTEN big"))
    sent = [signals.encode({"x": "y" * 7_892}), signals.encode({"x": noise(10_000)})]

    assert len(sent[1]) > 7_500

    for text in sent:
        conn.execute("SELECT pg_notify('big', %s)", [text])

    assert [note.payload for note in conn.notifies(timeout=5, stop_after=2)] == sent


@pytest.mark.parametrize(
    "values",
    [
        {"x": float("nan")},
        {"x": object()},
        {"x": "\ud800"},
        {1: 2},
        [],
        "text",
        {"x": noise(20_000)},
        {"x": "y" * 1_000_001},
    ],
    ids=lambda values: str(values)[:20],
)
def test_what_cannot_be_sent_is_a_value_error(values):
    with pytest.raises(ValueError):  # noqa: PT011 - any of its kinds will do
        signals.encode(values)


@given(
    st.dictionaries(st.text(st.characters(exclude_characters="\0", codec="utf-8")), st.integers())
)
def test_any_names_come_back_as_they_went(values):
    text = signals.encode(values)

    assert signals.decode(text) == read_by_oban_py(text) == read_by_elixir(text) == values
