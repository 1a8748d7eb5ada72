"""How the dashboard writes numbers, times and states. Pure: text in, text out."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from oban_sync.core import controls, spans
from oban_sync.core.causes import cause_of
from oban_sync.core.clock import utc_now
from oban_sync.core.job import JobState

_MARKS = (
    (86_400 * 365.25, "y"),
    (86_400 * 30.44, "mo"),
    (86_400, "d"),
    (3_600, "h"),
    (60, "min"),
    (1, "s"),
)

#: States in the order in which jobs pass through them.
STATES: tuple[JobState, ...] = (
    JobState.SUSPENDED,
    JobState.SCHEDULED,
    JobState.AVAILABLE,
    JobState.EXECUTING,
    JobState.RETRYABLE,
    JobState.COMPLETED,
    JobState.CANCELLED,
    JobState.DISCARDED,
)

_MOST_SHORT = 60

#: What may not be printable; most text is ASCII, and is passed over quickly.
_ODD = re.compile(r"(?:[^\x20-\x7e\t\r\n]|\r(?!\n))+")

#: Whatever parts words or lines, as far as it is seen as a space.
_SPACES = re.compile(r"\r\n|\s")


def number(value: float | None) -> str:
    """``12,345``; an en dash for nothing."""
    if value is None:
        return "–"

    if isinstance(value, float) and not value.is_integer():
        return f"{value:,.1f}" if abs(value) >= 1 else f"{value:.2g}"

    return f"{int(value):,}"


def compact(value: float | None) -> str:
    """``12.3k``, where there is little room."""
    if value is None:
        return "–"

    for step, mark in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # What would be rounded to a thousand of one is one of the next.
        if abs(value) >= step * 0.99995:
            text = f"{value / step:.1f}".removesuffix(".0")

            return f"{text}{mark}"

    return number(value)


def duration(seconds: float | None) -> str:
    """A span of time as short as can be: ``340 ms``, ``12.4 s``, ``3 min 20 s``, ``2 d 4 h``."""
    if seconds is None:
        return "–"

    if seconds < 0:
        return f"-{duration(-seconds)}"

    if seconds == 0:
        return "0 s"

    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"

    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"

    if seconds < 59.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"

    return _two(seconds)


def _two(seconds: float) -> str:
    left = round(seconds)

    for index, (step, mark) in enumerate(_MARKS):
        if left >= step:
            first, rest = divmod(left, step)
            text = f"{first:.0f} {mark}"

            if index + 1 < len(_MARKS):
                smaller, name = _MARKS[index + 1]

                if second := int(rest // smaller):
                    text += f" {second} {name}"

            return text

    return "0 s"


def words(seconds: float) -> str:
    """A span of time in words, rounded as the sentences about jobs round it: ``3 minutes``."""
    return spans.lasting(abs(seconds))


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    """``3 minutes ago``, or ``in 3 minutes``; an en dash for never."""
    if moment is None:
        return "–"

    seconds = ((now or utc_now()) - _aware(moment)).total_seconds()

    if abs(seconds) < 0.95:
        return "just now"

    return f"{words(seconds)} ago" if seconds > 0 else f"in {words(seconds)}"


def at(moment: datetime | None) -> str:
    """``2026-11-29 07:51:32 UTC``."""
    if moment is None:
        return "–"

    return f"{_aware(moment).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def iso(moment: datetime) -> str:
    """As machines read it."""
    return _aware(moment).astimezone(UTC).isoformat(timespec="milliseconds")


def since(moment: datetime | None, *, kind: str = "ago") -> Markup:
    """A time as people see it, which goes on by itself where scripts run.

    Args:
        moment: The time.
        kind: ``ago`` for words, ``for`` for how long it has been, ``at`` for the time itself,
            ``clock`` for that without its day.
    """
    if moment is None:
        return Markup('<span class="faint">–</span>')

    text = {"ago": ago, "at": at, "for": _for, "clock": _clock}[kind](moment)

    return Markup('<time datetime="{}" title="{}" data-time="{}">{}</time>').format(
        iso(moment), at(moment), kind, text
    )


def _for(moment: datetime) -> str:
    return duration(max(0.0, round((utc_now() - _aware(moment)).total_seconds())))


def _clock(moment: datetime) -> str:
    return f"{_aware(moment).astimezone(UTC):%H:%M:%S.%f}"[:-3]


def count(number_of: int, one: str, many: str | None = None) -> str:
    """``1 job``, ``2 jobs``."""
    return f"{number_of:,} {one if number_of == 1 else many or f'{one}s'}"


def percent(fraction: float | None) -> str:
    """``42 %``."""
    return "–" if fraction is None else f"{fraction * 100:.0f} %"


def block(text: object) -> str:
    """A text of many lines in which all can be seen: what is not printable is written out.

    Characters that turn the direction of a text, or show nothing, could make it look like another
    one. They become ``\\u202e``, as JSON has it, so that JSON stays the same JSON. Ends of lines,
    tabs and blanks of all kinds stay as they are.
    """
    return _ODD.sub(_written_out, str(text))


def line(text: object) -> str:
    """The same of one line: what ends lines is a blank in it."""
    return block(_SPACES.sub(" ", str(text)))


def short(text: str | None, most: int = _MOST_SHORT) -> str:
    """A `line` that is cut where it is too long for its place."""
    if not text:
        return ""

    plain = line(text[: most * 2]).strip()

    return plain if len(text) <= most and len(plain) <= most else f"{plain[: most - 1]}…"


def by(text: str | None) -> str:
    """Who did something, with the reason that they gave: ``anna (a new release)``."""
    return controls.asker(line(text or ""))


def name_of(worker: str) -> tuple[str, str]:
    """A worker's name in two: the modules, with a dot at the end, and the name itself."""
    modules, dot, name = worker.rpartition(".")

    return f"{modules}{dot}", name


def first_line(error: Any) -> str:
    """The line of an error that says what went wrong."""
    return short(cause_of(str(error or "")), 200)


def _written_out(found: re.Match[str]) -> str:
    return "".join(
        char if char.isprintable() or unicodedata.category(char) == "Zs" else _escaped(char)
        for char in found[0]
    )


def _escaped(char: str) -> str:
    # Beyond four digits JSON writes two halves.
    half = char.encode("utf-16-be", "surrogatepass").hex()

    return "".join(f"\\u{half[at : at + 4]}" for at in range(0, len(half), 4))


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
