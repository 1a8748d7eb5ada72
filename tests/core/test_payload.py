"""What may enter a jsonb column."""

from __future__ import annotations

import json
from collections import OrderedDict
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oban_sync import InvalidJobError
from oban_sync.core import payload, recorded

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": NAN}, "args.a"),
        ({"a": float("inf")}, "args.a"),
        ({"a": [1, {"b": "x\0y"}]}, "args.a[1].b"),
        ({"a": "\ud800"}, "args.a"),
        ({"a\0": 1}, "args, key"),
        ({"\udfff": 1}, "args, key"),
        ({1: "a"}, "args"),
        ({"a": {None: 1}}, "args.a"),
        ({"a": {("x",): 1}}, "args.a"),
        ({"when": datetime(2026, 1, 1, tzinfo=UTC)}, "args.when"),
        ({"price": Decimal("1.5")}, "args.price"),
        ({"raw": b"x"}, "args.raw"),
        ({"ids": {1, 2}}, "args.ids"),
        ({"deep": object()}, "args.deep"),
        ({"n": 10**5000}, "args"),
        ([1, 2], "args"),
        ("text", "args"),
        (None, "args"),
    ],
)
def test_what_is_not_json_is_refused_with_its_path(value, path):
    with pytest.raises(InvalidJobError) as caught:
        payload.encode(value, "args")

    assert caught.value.option.startswith(path)


def test_advice_says_how_to_pass_a_datetime():
    with pytest.raises(InvalidJobError, match="isoformat"):
        payload.encode({"when": datetime(2026, 1, 1, tzinfo=UTC)}, "args")


def test_a_value_that_contains_itself_is_refused():
    value: dict[str, object] = {}
    value["self"] = value

    with pytest.raises(InvalidJobError, match="deeper than 100 levels"):
        payload.encode(value, "args")


def test_depth_is_bounded_exactly():
    def nested(levels):
        value: object = 1
        for _ in range(levels):
            value = [value]
        return value

    payload.encode({"a": nested(payload.MOST_DEPTH - 1)}, "args")

    with pytest.raises(InvalidJobError, match="deeper"):
        payload.encode({"a": nested(payload.MOST_DEPTH)}, "args")


@pytest.mark.parametrize("letter", ["x", "é", "\N{GRINNING FACE}"])
def test_size_is_counted_in_bytes_and_bounded_exactly(letter):
    frame = len('{"a":""}')
    fits = (payload.MOST_BYTES - frame) // len(letter.encode())

    payload.encode({"a": letter * fits}, "args")

    with pytest.raises(InvalidJobError, match="1,000,000 are allowed"):
        payload.encode({"a": letter * (fits + 1)}, "args")


def test_a_value_whose_repr_raises_is_still_refused_clearly():
    class Broken:
        def __repr__(self):
            raise RuntimeError

    with pytest.raises(InvalidJobError, match="<Broken>"):
        payload.encode({"a": Broken()}, "args")


@pytest.mark.parametrize("mapping", [OrderedDict(b=1), MappingProxyType({"b": 1})], ids=repr)
def test_other_mappings_and_tuples_are_stored_as_objects_and_lists(mapping):
    text = payload.encode({"a": mapping, "c": (1, 2)}, "args")

    assert json.loads(text) == {"a": {"b": 1}, "c": [1, 2]}


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(
    SCALARS.filter(lambda item: item not in (float("inf"), float("-inf"))),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(TEXT, VALUES, max_size=5))
def test_every_json_object_survives_encoding(value):
    assert payload.decode(payload.encode(value, "args")) == value


@given(VALUES)
def test_every_json_value_survives_recording(value):
    assert recorded.decode(recorded.encode(value)) == value


@given(st.binary(max_size=60))
def test_a_damaged_recorded_value_is_a_value_error_and_nothing_else(data):
    import base64

    text = base64.b64encode(b"\x83" + data).decode()

    try:
        recorded.decode(text)
    except ValueError:
        return


def test_a_recorded_value_that_unpacks_to_too_much_is_refused():
    import base64
    import zlib

    bomb = b"\x83P" + (10**9).to_bytes(4, "big") + zlib.compress(b"x" * 1000)

    with pytest.raises(ValueError, match="allowed"):
        recorded.decode(base64.b64encode(bomb).decode())

    # To zlib a size of zero means no limit at all.
    bomb = b"\x83P" + bytes(4) + zlib.compress(b"x" * 1000)

    with pytest.raises(ValueError, match="allowed"):
        recorded.decode(base64.b64encode(bomb).decode())


@given(st.text())
def test_any_text_can_be_cleaned_for_storage(text):
    clean = payload.clean_text(text, most=50)

    assert "\0" not in clean
    clean.encode()
    assert len(clean) < 50 + 60


def test_a_long_error_keeps_its_beginning_and_its_end():
    clean = payload.clean_text("START" + "x" * 100_000 + "END")

    assert clean.startswith("START")
    assert clean.endswith("END")
    assert "characters left out" in clean
