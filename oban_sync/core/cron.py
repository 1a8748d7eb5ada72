"""Cron expressions, the times they name in a time zone, and the entries of a crontab.

Pure: what the time is now is always given. What a definition may say is checked in `crontab`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, available_timezones

from oban_sync.core.checks import check_choice
from oban_sync.core.errors import ConfigError, nearest, shown
from oban_sync.core.job import Job
from oban_sync.core.options import JobOptions, check_name

if TYPE_CHECKING:
    from oban_sync.core.walls import Walls

NICKNAMES: Mapping[str, str] = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

#: Once per start of the cluster; the only expression that names no times.
REBOOT = "@reboot"

CATCH_UP = ("none", "last", "all")
OVERLAP = ("allow", "skip")

DEFAULT_TIMEZONE = "Etc/UTC"

#: Seconds after its time within which an entry still runs whatever its `catch_up`: another node
#: may have to be elected first.
PUNCTUAL = 60.0

#: Most missed times of one entry that are looked at or made up for.
MOST_TIMES = 1_000

#: What an entry says of its jobs: options of a job, in a form that JSON can hold.
TEMPLATE = (
    "args",
    "deadline",
    "max_attempts",
    "meta",
    "priority",
    "queue",
    "schedule_in",
    "tags",
    "timeout",
    "unique",
    "weight",
)

_MOST_CHARACTERS = 255
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)

#: Looks at times that turn out not to exist before the search for the next one is given up.
_MOST_LOOKS = 2_000


@dataclass(frozen=True, slots=True)
class Expression:
    """A cron expression that was checked.

    Attributes:
        text: As it was given, with single spaces.
        fields: Minute, hour, day of month, month, day of week; none for ``@reboot``.
    """

    text: str
    fields: tuple[str, ...]

    @classmethod
    def checked(cls, option: str, value: object) -> Expression:
        """Five fields as cron has them, or a nickname.

        As in cron, a job is due when the day of month or the day of week fits, unless one of them
        starts with ``*``: then both have to.

        Raises:
            ConfigError: It is none, or no time ever fits it.
        """
        if not isinstance(value, str):
            raise ConfigError(option, f"{shown(value)} is no cron expression; give a string")

        try:
            return _parsed(value)
        except ValueError as error:
            raise ConfigError(
                option,
                f'{shown(value)} is no cron expression: {error}; give five fields, as "0 9 * * '
                f'MON-FRI", or one of {", ".join([*NICKNAMES, REBOOT])}.'
                f"{nearest(value, [*NICKNAMES, REBOOT]) if value.startswith('@') else ''}",
            ) from None

    @property
    def is_reboot(self) -> bool:
        """Whether it stands for the start of the cluster."""
        return not self.fields

    @property
    def is_interval(self) -> bool:
        """Whether it means a rhythm more than a time of the day: minute or hour start with ``*``.

        The two differ when clocks change.
        """
        return any(part.startswith("*") for part in self.fields[:2])


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a crontab: which worker, when, and with what.

    Attributes:
        name: Identifies the entry within its Oban.
        expression: When.
        timezone: Whose clocks the expression means.
        worker: The worker's name.
        template: The options of its jobs that are named in `TEMPLATE`.
        catch_up: What becomes of times that were missed: ``none``, the ``last``, or ``all`` run.
        overlap: ``skip``: not while a job of the entry is unfinished; else ``allow``.
    """

    name: str
    expression: Expression
    timezone: str
    worker: str
    template: Mapping[str, Any]
    catch_up: str = "last"
    overlap: str = "allow"

    @classmethod
    def read(
        cls, name: str, columns: Mapping[str, object], template: object, edited: object
    ) -> Entry:
        """An entry as a table has it, with the edits of people on top.

        Raises:
            ConfigError: The row holds something else than an entry; the template is checked by
                `job_at`.
        """
        if not isinstance(template, Mapping) or not isinstance(edited, Mapping):
            raise ConfigError("job", "the job and the edits of an entry are JSON objects")

        said = {**columns, **{key: edited[key] for key in columns.keys() & edited.keys()}}

        return cls(
            name,
            Expression.checked("expression", said["expression"]),
            check_timezone("timezone", said["timezone"]),
            check_name("worker", columns["worker"]),
            {**template, **{key: edited[key] for key in TEMPLATE if key in edited}},
            check_choice("catch_up", said["catch_up"], *CATCH_UP),
            check_choice("overlap", said["overlap"], *OVERLAP),
        )

    def job_at(self, due_at: datetime) -> Job:
        """A job for one time of the entry, marked as Oban for Elixir and oban-py mark theirs.

        Raises:
            InvalidJobError: The template is none.
        """
        values = dict(self.template)
        args = values.pop("args", None)
        meta = values.pop("meta", None)
        own = {
            "cron": True,
            "cron_at": due_at.astimezone(UTC).isoformat(),
            "cron_expr": self.expression.text,
            "cron_name": self.name,
            "cron_tz": self.timezone,
        }
        options = {**values, "meta": {**meta, **own} if isinstance(meta, Mapping) else meta or own}

        return JobOptions.checked(options).job(self.worker, args)


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be done for an entry.

    Attributes:
        times: When its jobs were due, oldest first.
        passed_at: The newest of the times that were missed and are not made up for.
        passed: How many those are.
        more: Whether there were even more before; only so many are looked at.
    """

    times: list[datetime] = field(default_factory=list)
    passed_at: datetime | None = None
    passed: int = 0
    more: bool = False


@dataclass(frozen=True, slots=True)
class Cron:
    """An entry of the crontab as it stands in the table.

    Attributes:
        name: Identifies it.
        expression: When it is due; what people changed at run time counts.
        timezone: Whose clocks the expression means.
        worker: The worker's name.
        args: The args of its jobs.
        options: The other options of its jobs: queue, priority, max_attempts, tags, meta, unique,
            timeout, deadline, weight.
        catch_up: What becomes of missed times: ``none``, ``last`` or ``all``.
        overlap: ``allow``, or ``skip`` while a job of the entry is unfinished.
        paused: Whether its times are skipped.
        paused_by: Who paused it, where that was told.
        paused_at: When it was paused.
        dynamic: Whether it was made at run time; else it stands in the code.
        declared: Whether a node that lives has it in its code.
        edited: Whether it was changed at run time.
        last_at: The newest of its times that was settled.
        last_outcome: What became of that: ``inserted`` or ``skipped``.
        next_at: When it is due next; None while it is paused, is nobody's, or has no such time.
        problem: Why it cannot be scheduled, when its row holds something wrong.
    """

    name: str
    expression: str
    timezone: str
    worker: str
    args: dict[str, Any]
    options: dict[str, Any]
    catch_up: str
    overlap: str
    paused: bool
    paused_by: str | None
    paused_at: datetime | None
    dynamic: bool
    declared: bool
    edited: bool
    last_at: datetime | None
    last_outcome: str | None
    next_at: datetime | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class CronSlot:
    """One time of an entry, and what became of it.

    Attributes:
        due_at: The time.
        outcome: ``inserted`` or ``skipped``.
        job_id: The job that was inserted; it may be pruned by now.
        node: What people call the node that led then.
        settled_at: When it was dealt with.
        reason: Why it was skipped, or that it was late.
    """

    due_at: datetime
    outcome: str
    job_id: int | None
    node: str
    settled_at: datetime
    reason: str | None


def check_timezone(option: str, value: object) -> str:
    """The name of a time zone that this machine knows.

    Raises:
        ConfigError: Names the nearest one.
    """
    if not isinstance(value, str):
        raise ConfigError(option, f"{shown(value)} is no time zone; give a name, as Europe/Berlin")

    try:
        zone(value)
    except (LookupError, OSError, ValueError):
        known = available_timezones()
        advice = nearest(value, known) or (
            "" if known else " This machine has no time zones; install the package tzdata."
        )
        raise ConfigError(
            option,
            f"{shown(value)} is no time zone of this machine; give a name, as Europe/Berlin."
            f"{advice}",
        ) from None

    return value


@lru_cache(maxsize=512)
def zone(name: str) -> tzinfo:
    """A time zone by name; UTC is known to machines without any.

    Raises:
        LookupError: There is none of that name.
        OSError, ValueError: It cannot be the name of one.
    """
    if name in (DEFAULT_TIMEZONE, "UTC"):
        return UTC

    # What they stand for differs from machine to machine, or counts leap seconds.
    if name.startswith(("right/", "localtime", "posixrules")):
        raise LookupError(name)

    return ZoneInfo(name)


def due(entry: Entry, *, after: datetime, now: datetime, window: float) -> Due:
    """What is to be done for an entry, of whose times everything up to `after` is settled.

    Args:
        after: Earlier times do not count, nor does this one.
        now: The time now; this one counts.
        window: Seconds for which missed times can be made up for.
    """
    after = max(after, now - timedelta(seconds=window))
    times = due_between(entry.expression, entry.timezone, after, now, MOST_TIMES + 1)
    kept = [at for at in times if at > now - timedelta(seconds=PUNCTUAL)]

    if entry.catch_up == "all":
        kept = times[-MOST_TIMES:]
    elif entry.catch_up == "last" and not kept:
        kept = times[-1:]

    passed = times[: len(times) - len(kept)]

    return Due(kept, passed[-1] if passed else None, len(passed), len(times) > MOST_TIMES)


def due_between(
    expression: Expression, timezone: str, after: datetime, upto: datetime, most: int
) -> list[datetime]:
    """The times an expression names later than one moment and not later than another, in UTC.

    Where clocks change, an entry for a time of the day runs once: a time that is skipped right
    after the gap, one that is repeated the first time. An interval follows the clock: what is
    skipped is skipped, what is repeated is repeated.

    Args:
        most: Of more times than these the newest count; the work is bounded by it too.

    Returns:
        Aware datetimes, oldest first.
    """
    if expression.is_reboot:
        return []

    after, upto = after.astimezone(UTC), upto.astimezone(UTC)
    walls = _walls(expression, years=1)
    found: list[datetime] = []
    step = _HOUR

    # From the newest on, so that a long outage of a busy entry is not walked through.
    while after < upto and len(found) < most:
        start = max(after, upto - step)
        found = [*_between(walls, expression, zone(timezone), start, upto), *found]
        upto, step = start, min(2 * step, _DAY)

    return found[-most:]


def next_after(expression: Expression, timezone: str, after: datetime) -> datetime | None:
    """The first time an expression names after a moment, in UTC; None where there is none."""
    if expression.is_reboot:
        return None

    after = after.astimezone(UTC)
    where = zone(timezone)
    # Some before, where clocks are set back soon.
    walls = _walls(expression, years=50).after(_earliest_wall(after, where))

    for wall in islice(walls, _MOST_LOOKS):
        if times := [at for at in _moments(wall, expression, where) if at > after]:
            # When an hour is repeated, the next wall time need not be the next moment.
            after = max(after, times[0] - _DAY)

            return _between(_walls(expression, years=1), expression, where, after, times[0])[0]

    return None


@lru_cache(maxsize=4_096)
def _parsed(text: str) -> Expression:
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"more than {_MOST_CHARACTERS} characters")

    given = " ".join(text.split())

    if given.lower() == REBOOT:
        return Expression(REBOOT, ())

    fields = tuple(NICKNAMES.get(given.lower(), given).split())

    if len(fields) != 5:
        raise ValueError("a nickname nobody knows" if "@" in given else f"{len(fields)} fields")

    # Random and hashed values would differ from node to node; croniter knows them by these letters.
    if any(part[:1] in "hHrR" for part in ",".join(fields).split(",")) or not given.isascii():
        raise ValueError("a field that cron does not have")

    if given.lower() not in NICKNAMES:
        # Here, because it takes long to import.
        from oban_sync.core import walls

        walls.check(fields)

    return Expression(given, fields)


def _walls(expression: Expression, *, years: int) -> Walls:
    # Here, because it takes long to import.
    from oban_sync.core.walls import Walls

    return Walls(expression.fields, years=years)


def _between(
    walls: Walls, expression: Expression, where: tzinfo, after: datetime, upto: datetime
) -> list[datetime]:
    times: set[datetime] = set()
    last = _latest_wall(upto, where)

    for wall in walls.after(_earliest_wall(after, where)):
        if wall > last:
            break

        times.update(at for at in _moments(wall, expression, where) if after < at <= upto)

    return sorted(times)


def _earliest_wall(after: datetime, where: tzinfo) -> datetime:
    """No moment after this one has a wall time as early as this, for a day."""
    return after.replace(tzinfo=None) + min(_offset(after, where), _offset(after + _DAY, where))


def _latest_wall(upto: datetime, where: tzinfo) -> datetime:
    """No moment up to this one has a later wall time, for a day back."""
    return upto.replace(tzinfo=None) + max(_offset(upto, where), _offset(upto - _DAY, where))


def _moments(wall: datetime, expression: Expression, where: tzinfo) -> list[datetime]:
    """When an entry is due by this time on the wall: the two rules for changing clocks."""
    first = wall.replace(tzinfo=where)
    second = first.replace(fold=1)
    before, behind = first.utcoffset(), second.utcoffset()

    if before is None or behind is None or before == behind:
        return [first.astimezone(UTC)]

    if before > behind:
        moments = [first.astimezone(UTC), second.astimezone(UTC)]

        return moments if expression.is_interval else moments[:1]

    return [] if expression.is_interval else [_end_of_gap(wall, before, behind, where)]


def _end_of_gap(wall: datetime, before: timedelta, behind: timedelta, where: tzinfo) -> datetime:
    early, late = (wall - behind).replace(tzinfo=UTC), (wall - before).replace(tzinfo=UTC)

    while late - early > timedelta(seconds=1):
        middle = early + timedelta(seconds=(late - early) // timedelta(seconds=2))

        if _offset(middle, where) == behind:
            late = middle
        else:
            early = middle

    return late


def _offset(moment: datetime, where: tzinfo) -> timedelta:
    return moment.astimezone(where).utcoffset() or timedelta()
