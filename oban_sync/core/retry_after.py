"""How long a server asks to be left alone: the value of Retry-After, wherever it is found."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from oban_sync.core import clock

HEADER = "retry-after"

_NUMBER = re.compile(r"\d+(\.\d*)?")

#: An HTTP date takes thirty; more would only be work for the parser.
_MOST_CHARACTERS = 100


def seconds_of(value: object) -> float | None:
    """Seconds from now, 0 for a moment that has passed, or None where nothing says how long.

    Args:
        value: The header's value, as number, text, timedelta or datetime; headers; a response, or
            an exception that holds one.
    """
    try:
        return _seconds(_found(value))
    except Exception:
        # Foreign objects raise what they like when they are looked at.
        return None


def _found(value: object) -> object:
    """The header's value, by the ways in which clients of HTTP hand it out."""
    if value is None or isinstance(value, (int, float, str, bytes, timedelta, datetime)):
        return value

    if isinstance(value, Mapping):
        return _header(value)

    # Exceptions of some clients and of werkzeug have read it already.
    if (given := _attribute(value, "retry_after")) is not None:
        return given

    # Responses may be false when they tell of an error, so only None means that there is none.
    for holder in (value, _attribute(value, "response")):
        if holder is not None and (headers := _attribute(holder, "headers")) is not None:
            given = _header(headers)

            if given is not None:
                return given

    return None


def _attribute(holder: object, name: str) -> object:
    with suppress(Exception):
        return getattr(holder, name, None)

    return None


def _header(headers: object) -> object:
    get: Callable[[str], object] | None = getattr(headers, "get", None)

    if get is not None:
        for name in ("Retry-After", HEADER):
            if (given := get(name)) is not None:
                return given

    # A plain dict may have it in any case.
    items = headers.items() if isinstance(headers, Mapping) else ()

    for name, given in items:
        if isinstance(name, str) and name.lower() == HEADER:
            return given

    return None


def _seconds(value: object) -> float | None:
    if isinstance(value, bytes):
        value = value.decode("ascii")

    if isinstance(value, str):
        value = _read(value.strip())

    if isinstance(value, datetime):
        # A date without a zone is in UTC, as all of HTTP's are.
        moment = value if value.utcoffset() is not None else value.replace(tzinfo=UTC)
        value = max(timedelta(0), moment - clock.utc_now())

    if isinstance(value, timedelta):
        value = value.total_seconds()

    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None

    try:
        seconds = float(value)
    except OverflowError:
        return math.inf

    return seconds if seconds >= 0 else None


def _read(text: str) -> object:
    if len(text) > _MOST_CHARACTERS:
        return None

    if _NUMBER.fullmatch(text) and text.isascii():
        return float(text)

    return parsedate_to_datetime(text)
