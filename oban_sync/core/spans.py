"""Numbers, lists and times in words, for sentences that people read."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

#: From so many seconds on the next unit is used, whose length is the second number.
_UNITS = ((90.0, 1.0, "second"), (5_400.0, 60.0, "minute"), (129_600.0, 3_600.0, "hour"))

_DAY = 86_400.0

#: Within so much of now the seconds of a time of day are told.
_NEAR = timedelta(hours=1)


def lasting(seconds: float) -> str:
    """``3 minutes``, ``1 second``, ``less than a second``; of what is below 0 the latter."""
    if seconds < 0.95:
        return "less than a second"

    for most, length, unit in _UNITS:
        if seconds < most:
            return counted(round(seconds / length), unit)

    return counted(round(seconds / _DAY), "day")


def counted(number: int, what: str) -> str:
    """``1 job``, ``1,000 jobs``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def listed(words: Iterable[str]) -> str:
    """``a, b and c``; of one or more."""
    *most, last = words

    return f"{', '.join(most)} and {last}" if most else last


def at(moment: datetime, now: datetime) -> str:
    """``14:30 UTC``; with seconds when that is near, with the date when it is another day."""
    moment, now = moment.astimezone(UTC), now.astimezone(UTC)
    form = "%H:%M:%S" if abs(moment - now) < _NEAR else "%H:%M"

    # The year by hand: strftime does not fill up those before 1000 everywhere.
    day = "" if moment.date() == now.date() else f"{moment.date().isoformat()} "

    return f"{day}{moment.strftime(form)} UTC"


def read(text: object) -> datetime | None:
    """A moment as rows and JSON have it; naive ones are in UTC. None of what is no such moment."""
    try:
        moment = datetime.fromisoformat(text)  # type: ignore[arg-type]

        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None
