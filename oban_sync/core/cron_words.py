"""Cron expressions in words, for people who do not read them every day.

Pure, and never wrong for want of words: what is too strange to be said is shown as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from oban_sync.core.cron import DEFAULT_TIMEZONE, Expression

_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)

#: As cron counts them.
_DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")

_MONTH_NUMBERS = {name[:3].lower(): number for number, name in enumerate(_MONTHS, 1)}
_DAY_NUMBERS = {name[:3].lower(): number for number, name in enumerate(_DAYS)}

_NTH = {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth"}

#: Times of a day that are named one by one.
_MOST_TIMES = 6

_UTC = (DEFAULT_TIMEZONE, "UTC")

_RANGE = re.compile(r"(?P<first>\w+)(?:-(?P<last>\w+))?(?:/(?P<step>\d+))?", re.ASCII)
_NEAREST = re.compile(r"(?:(\d+)w|w(\d+))", re.ASCII)
_OF_MONTH = re.compile(r"(?:(?P<day>\w+)#(?P<nth>[1-5])|l(?P<last>\w+))", re.ASCII)


class _UnsaidError(ValueError):
    """There are no words for it."""


@dataclass(frozen=True, slots=True)
class _Field:
    """One of the five fields.

    Attributes:
        text: As it stands there, in small letters.
        values: What it lets through.
        ranges: It is a list of so many ranges without steps, each of first and last.
        low: The least that it may let through.
        high: The most.
    """

    text: str
    values: tuple[int, ...]
    ranges: tuple[tuple[int, int], ...]
    low: int
    high: int

    @property
    def is_any(self) -> bool:
        """Whether it lets everything through, and says so."""
        return self.text in ("*", "?", "*/1")

    @property
    def is_whole(self) -> bool:
        """Whether it lets everything through, however it says that."""
        return len(self.values) == self.high - self.low + 1

    @property
    def rhythm(self) -> int | None:
        """How far its values are apart, where that is the same around the clock."""
        size = self.high - self.low + 1
        step = self.values[1] - self.values[0] if len(self.values) > 1 else size
        fits = self.values == tuple(range(self.low, self.high + 1, step))

        return step if fits and size % step == 0 and step < size else None

    @property
    def span(self) -> tuple[int, int] | None:
        """Its first and last value, where none between them is left out."""
        first, last = self.values[0], self.values[-1]

        return (first, last) if len(self.values) == last - first + 1 else None


def in_words(expression: Expression | str, timezone: str = DEFAULT_TIMEZONE) -> str:
    """When an expression is due: ``At 09:00 on Monday to Friday, Europe/Berlin``.

    Args:
        expression: A checked one, or its text; of one that is wrong the text itself is given.
        timezone: Whose clocks it means.
    """
    if isinstance(expression, str):
        text = expression

        try:
            expression = Expression.checked("expression", text)
        except ValueError:
            return text

    if expression.is_reboot:
        return "Once, when the first node starts"

    where = "UTC" if timezone in _UTC else timezone

    try:
        said = _said(expression.fields)
    except _UnsaidError:
        said = f"By {' '.join(expression.fields)}"

    return f"{said}, {where}"


def _said(fields: Sequence[str]) -> str:
    minute = _parsed(fields[0], 0, 59)
    hour = _parsed(fields[1], 0, 23)
    times, are_times = _times(minute, hour)
    days = _days(fields[2].lower(), fields[3], fields[4].lower())

    if not days:
        return f"{times} every day" if are_times else times

    if days.startswith("in "):
        return f"{times} every day {days}" if are_times else f"{times}, {days}"

    return f"{times}, {days}" if "," in times and not are_times else f"{times} {days}"


def _times(minute: _Field, hour: _Field) -> tuple[str, bool]:
    """The times of a day, and whether they are named one by one."""
    first = minute.values[0]
    single = len(minute.values) == 1

    if not hour.is_whole and len(minute.values) * len(hour.values) <= _MOST_TIMES:
        return f"At {_listed(_clock(h, m) for h in hour.values for m in minute.values)}", True

    often = _often(minute)

    if hour.is_whole:
        if often:
            return often, False

        at = "on the hour" if minute.values == (0,) else f"at {_minutes(minute)}"

        return f"Every hour, {at}", False

    if hour.span is not None:
        begin, end = hour.span

        if often or single:
            last = minute.values[-1]

            every = often or "Every hour"

            return f"{every} from {_clock(begin, first)} to {_clock(end, last)}", False

        return f"Every hour from {begin} to {end}, at {_minutes(minute)}", False

    if hour.rhythm is not None and single:
        return f"Every {hour.rhythm} hours from {_clock(hour.values[0], first)} on", False

    hours = f"the hours {_listed(map(str, hour.values))}"

    return (f"{often} of {hours}" if often else f"At {_minutes(minute)} of {hours}"), False


def _often(minute: _Field) -> str | None:
    step = minute.rhythm

    if step is None:
        return None

    return "Every minute" if step == 1 else f"Every {step} minutes"


def _minutes(minute: _Field) -> str:
    values = minute.values

    if len(values) == 1:
        return f"minute {values[0]}"

    step = values[1] - values[0]

    if len(values) > 3 and values == tuple(range(values[0], values[-1] + 1, step)):
        every = "every minute" if step == 1 else f"every {_ordinal(step)} minute"

        return f"{every} from {values[0]} to {values[-1]}"

    return f"minutes {_listed(map(str, values))}"


def _days(dom: str, month: str, dow: str) -> str:
    months = _months(_parsed(month, 1, 12, _MONTH_NUMBERS))
    every_dom, every_dow = (text in ("*", "?", "*/1") for text in (dom, dow))
    of = f"of {months}" if months else "of every month"

    if every_dom and every_dow:
        return f"in {months}" if months else ""

    if every_dow:
        return f"on {_dom(dom)} {of}"

    week, of_month = _dow(dow)

    if every_dom:
        if of_month:
            return f"on {week} {of}"

        return f"on {week} in {months}" if months else f"on {week}"

    tail = f"in {months}" if months else "of every month"

    # As in cron: one of the two is enough, unless either begins with a star.
    if dom.startswith("*") or dow.startswith("*"):
        return f"on {_dom(dom)} {of}, but only on {week}"

    if months:
        return f"on {_dom(dom)} or on {week}, {tail}"

    return f"on {_dom(dom)} {tail} or on {week}"


def _months(field: _Field) -> str:
    if field.is_any:
        return ""

    return _named(field, lambda number: _MONTHS[number - 1])


def _dom(text: str) -> str:
    if text == "l":
        return "the last day"

    if (found := _NEAREST.fullmatch(text)) is not None:
        return f"the weekday nearest to the {_ordinal(int(found[1] or found[2]))}"

    last = ",l" in f",{text}" and "," in text
    kept = ",".join(part for part in text.split(",") if part != "l") if last else text
    field = _parsed(kept, 1, 31)
    values = field.values
    step = values[1] - values[0] if len(values) > 1 else 0

    if len(values) > 3 and step > 1 and values == tuple(range(values[0], values[-1] + 1, step)):
        said = (
            f"every {_ordinal(step)} day from the {_ordinal(values[0])} to the "
            f"{_ordinal(values[-1])}"
        )
    else:
        said = f"the {_named(field, _ordinal, 'the ')}"

    return f"{said} and the last day" if last else said


def _dow(text: str) -> tuple[str, bool]:
    """Days of the week, and whether they are certain ones of a month."""
    found = [_OF_MONTH.fullmatch(part) for part in text.split(",")]

    if all(found):
        return f"the {_listed(_nth(match) for match in found if match is not None)}", True

    if (around := _RANGE.fullmatch(text)) is not None and around["last"] and not around["step"]:
        first, last = (_number(around[end], _DAY_NUMBERS) % 7 for end in ("first", "last"))

        # Friday to Monday is a range as well.
        if first != last:
            return f"{_DAYS[first]} to {_DAYS[last]}", False

    field = _parsed(text, 0, 7, _DAY_NUMBERS)
    # Sunday has two numbers, and the week that people speak of begins on Monday.
    days = sorted({(value - 1) % 7 for value in field.values})

    if len(days) == 7:
        return "every day of the week", False

    return _listed(_DAYS[(day + 1) % 7] for day in days), False


def _nth(match: re.Match[str]) -> str:
    name = match["day"] or match["last"]
    number = _number(name, _DAY_NUMBERS)

    if not 0 <= number <= 7:
        raise _UnsaidError(name)

    day = _DAYS[number % 7]

    return f"last {day}" if match["last"] else f"{_NTH[int(match['nth'])]} {day}"


def _named(field: _Field, name: Callable[[int], str], article: str = "") -> str:
    """The values of a field by name: ranges as such, else one by one."""
    if field.ranges and all(first < last for first, last in field.ranges):
        return _listed(f"{name(first)} to {article}{name(last)}" for first, last in field.ranges)

    return _listed(name(value) for value in field.values)


def _parsed(text: str, low: int, high: int, names: Mapping[str, int] | None = None) -> _Field:
    text = text.lower()
    top = 6 if (low, high) == (0, 7) else high
    values: set[int] = set()
    ranges: list[tuple[int, int]] = []
    parts = text.split(",")

    for part in parts:
        if part in ("*", "?") or part.startswith("*/"):
            _, _, every = part.partition("/")

            if every and (not every.isdecimal() or int(every) < 1):
                raise _UnsaidError(text)

            values.update(range(low, top + 1, int(every or 1)))
            continue

        found = _RANGE.fullmatch(part)

        if found is None:
            raise _UnsaidError(text)

        first = _number(found["first"], names)
        step = int(found["step"] or 1)

        if found["last"] is not None:
            last = _number(found["last"], names)
        else:
            last = high if found["step"] else first

        # What goes around, and what means all by naming one twice, would take more words.
        if step < 1 or not low <= first <= last <= high or (found["last"] and first == last):
            raise _UnsaidError(text)

        values.update(range(first, last + 1, step))

        if step == 1:
            ranges.append((first, last))

    kept = tuple(ranges) if len(ranges) == len(parts) else ()

    return _Field(text, tuple(sorted(values)), kept, low, high)


def _number(text: str, names: Mapping[str, int] | None) -> int:
    if text.isdecimal():
        return int(text)

    if names is None or text not in names:
        raise _UnsaidError(text)

    return names[text]


def _clock(hour: int, minute: int) -> str:
    return f"{hour:02}:{minute:02}"


def _ordinal(number: int) -> str:
    ending = "th" if 10 < number % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")

    return f"{number}{ending}"


def _listed(names: Iterable[str]) -> str:
    *others, last = names

    return f"{', '.join(others)} and {last}" if others else last
