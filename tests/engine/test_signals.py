"""Reading what travels over NOTIFY."""

from __future__ import annotations

import base64
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
