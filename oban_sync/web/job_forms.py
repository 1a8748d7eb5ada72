"""What people fill in to make or change a job, read into what the library takes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from oban_sync.core import payload
from oban_sync.core.errors import InvalidJobError, shown

#: The fields of a job that can be filled in, in the order of the forms.
FIELDS = (
    "worker",
    "queue",
    "args",
    "meta",
    "tags",
    "priority",
    "max_attempts",
    "scheduled_at",
)

_WHOLE = ("priority", "max_attempts")
_JSON = ("args", "meta")


def read(name: str, text: str) -> Any:
    """The value of a field as it was filled in.

    Raises:
        InvalidJobError: It cannot be read.
    """
    text = text.strip()

    if name in _JSON:
        return _json(name, text)

    if name == "tags":
        return [tag for each in text.split(",") if (tag := each.strip())]

    if name in _WHOLE:
        if not re.fullmatch("-?[0-9]{1,9}", text):
            raise InvalidJobError(name, f"{shown(text)} is not a whole number")

        return int(text)

    if name == "scheduled_at":
        return _time(name, text)

    return text


def given(form: Mapping[str, str]) -> dict[str, Any]:
    """What was filled in; fields that were left empty are left out.

    Raises:
        InvalidJobError: A field cannot be read.
    """
    return {name: read(name, text) for name in FIELDS if (text := form.get(name, "")).strip()}


def changed(form: Mapping[str, str]) -> dict[str, Any]:
    """What differs from what the form was filled with, which came along as ``was_``.

    What somebody else changed meanwhile, and this one left alone, stays as it is.

    Raises:
        InvalidJobError: A field cannot be read.
    """
    return {
        name: read(name, text)
        for name in FIELDS
        if (text := form.get(name)) is not None and not is_same(text, form.get(f"was_{name}"))
    }


def is_same(text: str | None, other: str | None) -> bool:
    """Whether two texts are the same for a form."""
    return _lines(text) == _lines(other)


def moment(when: datetime | None) -> str:
    """A time as a field for times takes it, in UTC."""
    return "" if when is None else f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%S}"


def _lines(text: str | None) -> str:
    # Browsers end the lines of a form in their own way.
    return (text or "").replace("\r\n", "\n").strip()


def _json(name: str, text: str) -> Any:
    try:
        found = payload.decode(text or "{}")
    except json.JSONDecodeError as error:
        raise InvalidJobError(
            name, f"is no JSON: {error.msg}, in line {error.lineno}, column {error.colno}"
        ) from None
    except ValueError as error:
        raise InvalidJobError(name, f"is no JSON: {error}") from None

    if not isinstance(found, dict):
        raise InvalidJobError(name, f"{shown(found)} is no JSON object; give one, as {{}}")

    return found


def _time(name: str, text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)

        # The ends of time are none in some zones.
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidJobError(
            name, f"{shown(text)} is no time; give one as 2026-12-24T18:00:00, in UTC"
        ) from None
