"""What may enter a jsonb column, and how it is made to fit.

Two doors: `encode` is strict, for what the application gives us (args, meta, recorded values), and
says where the trouble is; `clean_text` is lenient, for what we must store whatever it holds
(error texts).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from json import encoder
from typing import Any

from oban_sync.core.errors import InvalidJobError, shown

#: Most bytes of a job's args, and of its meta, as JSON.
MOST_BYTES = 1_000_000

#: Most levels of lists and objects inside one another.
MOST_DEPTH = 100

#: Most characters of one recorded error; the middle of longer ones is left out.
MOST_ERROR_CHARACTERS = 16_000


class _Encoder(json.JSONEncoder):
    def default(self, o: object) -> object:
        if isinstance(o, Mapping):
            return dict(o)

        return super().default(o)


def _made() -> Callable[[object], str]:
    usual = _Encoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    make: Any = getattr(encoder, "c_make_encoder", None)

    if make is None:
        return usual.encode

    # What `usual.encode` makes anew for each value, which takes longer than encoding a small one.
    # It keeps no list of what it is inside of: endless things raise RecursionError, not ValueError.
    try:
        encoded = make(
            None, usual.default, encoder.encode_basestring, None, ":", ",", False, False, False
        )
    except TypeError:
        # It is the standard library's own affair, and another version's may want something else.
        return usual.encode

    return lambda value: "".join(encoded(value, 0))


#: Encode what is known to be JSON already: compact, and without escapes for letters.
dumps = _made()


def encode(value: object, field: str, *, most_bytes: int = MOST_BYTES) -> str:
    """Encode an object for a jsonb column, or say exactly what is wrong with it.

    Raises:
        InvalidJobError: Not JSON, NaN or infinite, holds a NUL or half a surrogate pair, has a key
            that is not a string, is too deep or too large. Names the path, as in ``args.items[3]``.
    """
    if not isinstance(value, (dict, Mapping)):
        raise InvalidJobError(
            field, f"{shown(value)} is not a JSON object; give a dict with string keys"
        )

    return encode_any(value, field, most_bytes=most_bytes)


def encode_any(value: object, field: str, *, most_bytes: int = MOST_BYTES) -> str:
    """As `encode`, for any JSON value."""
    _check(value, field, 0)

    try:
        text = dumps(value)
    except ValueError as error:
        # Python refuses to print integers of more than 4,300 digits.
        raise InvalidJobError(field, f"cannot be written as JSON: {error}") from error

    # A character takes four bytes at the most, so short texts need no counting.
    if len(text) * 4 > most_bytes and (size := len(text.encode())) > most_bytes:
        raise InvalidJobError(
            field,
            f"{size:,} bytes of JSON, {most_bytes:,} are allowed; "
            "store large data elsewhere and pass its key",
        )

    return text


def decode(text: str) -> Any:
    """Parse JSON that comes from a row.

    Raises:
        ValueError: It cannot be read by Python (too deep, or a number of too many digits).
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def clean_text(text: str, *, most: int = MOST_ERROR_CHARACTERS) -> str:
    """Make any text fit for jsonb: no NUL, no half surrogates, and not endless."""
    if len(text) > most:
        head = most * 2 // 3
        tail = most - head
        text = f"{text[:head]}\n... {len(text) - most:,} characters left out ...\n{text[-tail:]}"

    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")

    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _check(value: object, path: str, depth: int) -> None:
    kind = type(value)

    if kind is str:
        _check_text(value, path)  # type: ignore[arg-type]
    elif kind is int or kind is bool or value is None:
        pass
    elif isinstance(value, (dict, Mapping)):
        if depth >= MOST_DEPTH:
            raise InvalidJobError(path, f"deeper than {MOST_DEPTH} levels")

        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidJobError(path, f"the key {shown(key)} is not a string")

            if not _is_plain(key):
                _check_text(key, f"{path}, key {shown(key)}")

            # The paths of most are never wanted.
            if not _is_plain(item):
                _check(item, f"{path}.{key}", depth + 1)
    elif isinstance(value, (list, tuple)):
        if depth >= MOST_DEPTH:
            raise InvalidJobError(path, f"deeper than {MOST_DEPTH} levels")

        for index, item in enumerate(value):
            _check(item, f"{path}[{index}]", depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidJobError(path, f"{value!r} is not JSON; give a finite number or None")
    elif isinstance(value, str):
        _check_text(value, path)
    elif not isinstance(value, int):
        raise InvalidJobError(path, f"{shown(value)} is not JSON{_advice(value)}")


def _is_plain(value: object) -> bool:
    kind = type(value)

    if kind is str:
        return value.isascii() and "\0" not in value  # type: ignore[attr-defined, operator]

    return kind is int or kind is bool or value is None


def _check_text(text: str, path: str) -> None:
    if "\0" in text:
        raise InvalidJobError(path, "holds a NUL character, which PostgreSQL cannot store")

    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidJobError(
                path, f"holds half a surrogate pair at position {error.start}"
            ) from error


def _advice(value: object) -> str:
    if hasattr(value, "isoformat"):
        return "; pass its .isoformat()"

    if isinstance(value, (bytes, bytearray)):
        return "; pass text, as base64 where need be"

    if isinstance(value, (set, frozenset)):
        return "; pass a list"

    return f"; {type(value).__name__} cannot be stored, pass strings, numbers, lists and dicts"
