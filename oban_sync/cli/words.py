"""How the commands write times, spans and numbers, and how they read them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import click

from oban_sync.core.clock import utc_now

#: What stands where there is nothing to say.
NOTHING = "-"

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}

_STEPS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"))

_BARS = "▁▂▃▄▅▆▇█"
_PLAIN_BARS = "_.:-=+*#"

#: Longest span that is taken, about a hundred years.
_MOST_SECONDS = 3_155_760_000.0


def span(seconds: float | None) -> str:
    """A span of time in few characters: ``340 ms``, ``12.4 s``, ``3 min 20 s``, ``2 d 4 h``."""
    if seconds is None:
        return NOTHING

    if seconds < 0:
        return f"-{span(-seconds)}"

    if seconds < 0.9995:
        return f"{seconds * 1_000:.3g} ms" if seconds else "0 s"

    if seconds < 59.95:
        return f"{seconds:.1f} s".replace(".0 ", " ")

    left = round(seconds)

    for (step, mark), (smaller, below) in zip(_STEPS, _STEPS[1:], strict=False):
        if left >= step:
            rest = int(left % step // smaller)

            return f"{left // step:.0f} {mark}" + (f" {rest} {below}" if rest else "")

    return f"{left} s"


def since(moment: datetime | None, now: datetime | None = None) -> str:
    """How far away a moment is: ``3 min ago``, ``in 5 s``."""
    if moment is None:
        return NOTHING

    seconds = ((now or utc_now()) - moment).total_seconds()
    # Milliseconds are of no use here, and would never stand still.
    text = span(float(round(abs(seconds))))

    return f"{text} ago" if seconds >= 0 else f"in {text}"


def at(moment: datetime | None) -> str:
    """A moment, in UTC and to the second."""
    if moment is None:
        return NOTHING

    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "seconds") + " UTC"


def number(value: float | None) -> str:
    """A number with separators; of a fraction as much as is of interest."""
    if value is None:
        return NOTHING

    return f"{int(value):,}" if float(value).is_integer() else f"{value:,.3g}"


def rate(per_second: float | None) -> str:
    """How often something happens, in the unit that gives a number people can imagine."""
    if not per_second:
        return NOTHING if per_second is None else "0/s"

    for factor, unit in ((1.0, "s"), (60.0, "min"), (3_600.0, "h")):
        if per_second * factor >= 1:
            return f"{number(round(per_second * factor, 1))}/{unit}"

    return f"{number(round(per_second * 86_400, 1))}/d"


def curve(values: Sequence[float], *, plain: bool = False) -> str:
    """A curve of one character per value, from nothing to the highest of them.

    Args:
        values: Numbers from 0 up.
        plain: Draw it by ASCII characters.
    """
    bars = _PLAIN_BARS if plain else _BARS
    highest = max(values, default=0)

    if highest <= 0:
        return bars[0] * len(values)

    # What is more than nothing is seen to be.
    return "".join(
        bars[0] if value <= 0 else bars[max(1, round(value / highest * (len(bars) - 1)))]
        for value in values
    )


def seconds_of(text: str) -> float | None:
    """``90``, ``90s``, ``15m``, ``2h``, ``1d``, ``1w`` as seconds; None of anything else."""
    found = re.fullmatch(r"([0-9]{1,10}(?:\.[0-9]{1,6})?) ?([a-z]{0,3})", text.strip().lower())

    if found is None or found[2] not in _UNITS:
        return None

    seconds = float(found[1]) * _UNITS[found[2]]

    return seconds if seconds <= _MOST_SECONDS else None


def span_given(text: str) -> float:
    """The seconds of a span that an option was given."""
    if (seconds := seconds_of(text)) is None:
        raise click.BadParameter(f"{text!r} is no span of time; give one as 90, 15m, 2h or 1d")

    return seconds


def end_given(text: str) -> datetime:
    """As `moment_given`, for the end of something: a bare number is refused."""
    if text.strip().isdecimal():
        raise click.BadParameter(f"{text} of what? Give {text}s, {text}m, {text}h or {text}d")

    return moment_given(text)


def moment_given(text: str) -> datetime:
    """The moment that an option was given, as a span from now or as it is."""
    if (seconds := seconds_of(text)) is not None:
        return utc_now() + timedelta(seconds=seconds)

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no time; give a span from now, as 30m or 2h, or a moment, as "
            "2026-12-24T18:00+01:00"
        ) from None

    if moment.utcoffset() is None:
        raise click.BadParameter(f"{text!r} names no zone; add Z, or an offset as +01:00")

    return moment
