"""What the code may say of cron entries, checked, and the entries that come of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from oban_sync.core import options, payload
from oban_sync.core.checks import Check, check_choice, check_options, check_seconds
from oban_sync.core.cron import (
    CATCH_UP,
    DEFAULT_TIMEZONE,
    OVERLAP,
    PUNCTUAL,
    Entry,
    Expression,
    check_timezone,
)
from oban_sync.core.errors import ConfigError, InvalidJobError, shown, unknown
from oban_sync.core.job import Deadline
from oban_sync.core.options import JobOptions, check_name
from oban_sync.core.unique import Unique, check_unique

#: Options that an entry has from its worker as they are given there. Those with a default of their
#: own are written out, so that a row tells what its jobs will be like.
_OF_THE_WORKER = ("deadline", "schedule_in", "unique", "weight")

#: Seconds; a year of a time per minute is looked through in a blink.
MOST_WINDOW = 366 * 86_400.0


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """The loop that inserts the jobs of cron entries.

    Attributes:
        timezone: Whose clocks entries mean that do not say.
        catch_up_window: Seconds for which missed times can be made up for.
        keep_slots: Seconds for which it is kept what became of each time.
    """

    timezone: str = DEFAULT_TIMEZONE
    catch_up_window: float = 86_400.0
    keep_slots: float = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class Line:
    """What was said of one entry, checked; what was left open is None.

    Attributes:
        expression: When.
        worker: The worker's name; None where a decorator says it.
        name: The entry's name.
        timezone: Whose clocks the expression means.
        catch_up: As `Entry.catch_up`.
        overlap: As `Entry.overlap`.
        job: What it says of its jobs: some options of `cron.TEMPLATE`.
    """

    expression: Expression
    worker: str | None
    name: str | None
    timezone: str | None
    catch_up: str
    overlap: str
    job: Mapping[str, Any]


class Registered(Protocol):
    """What an entry takes from its worker."""

    @property
    def name(self) -> str:
        """The worker's name."""
        ...

    @property
    def options(self) -> JobOptions:
        """The options of its jobs."""
        ...


def check_scheduler(option: str, value: object) -> SchedulerConfig:
    """The options of the scheduler."""
    return check_options(
        option,
        value,
        SchedulerConfig,
        {
            "timezone": check_timezone,
            "catch_up_window": _window,
            "keep_slots": lambda option, value: check_seconds(option, value, least=3_600.0),
        },
    )


def check_cron(option: str, value: object) -> tuple[Line, ...]:
    """What a decorator may say: an expression, a mapping with ``expr`` and more, or a list of such.

    Raises:
        ConfigError: Something in it is wrong; names the path.
    """
    if isinstance(value, (list, tuple)):
        return tuple(_check_entry(f"{option}[{index}]", item) for index, item in enumerate(value))

    return (_check_entry(option, value),)


def check_crontab(option: str, value: object) -> tuple[Line, ...]:
    """Pairs of an expression and a worker, each with a mapping of options if need be.

    The worker is a class decorated with `@worker`, a function decorated with `@job`, or the name of
    one that is registered by the time of the start.

    Raises:
        ConfigError: Something in it is wrong; names the path.
    """
    if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
        raise ConfigError(
            option, f'{shown(value)} is not a list; give [("0 9 * * *", Worker, {{"args": {{}}}})]'
        )

    return tuple(_check_line(f"{option}[{index}]", item) for index, item in enumerate(value))


def check_line(option: str, expression: object, worker: object, given: object) -> Line:
    """One line of a crontab, from its parts."""
    return _line(option, expression, _worker_name(option, worker), given)


def check_changes(
    option: str, given: Mapping[Any, object], checks: Mapping[str, Check]
) -> dict[str, Any]:
    """Options of an entry, as JSON can hold them; those that are None are left out."""
    values: dict[str, Any] = {}

    for key, value in given.items():
        if key not in checks:
            raise ConfigError(f"{option}.{key}", unknown(key, checks))

        if value is not None:
            values[key] = checks[key](f"{option}.{key}", value)

    return values


def entries(lines: Iterable[tuple[Registered, Line]], timezone: str) -> list[Entry]:
    """The entries of lines, each with its name.

    An entry without one is named after its worker; where that is taken, eight characters that stand
    for what the line says are added. They change with the line, so give names to several entries of
    one worker: what people changed at run time is kept by name.

    Raises:
        ConfigError: Two entries have the same name, or a line stands twice.
    """
    made: dict[str, Entry] = {}
    seen = set()

    for worker, line in lines:
        entry = entry_of(line, worker.name, worker.options, timezone)

        if line.name is None:
            digest = _digest(worker.name, line)

            if digest in seen:
                raise ConfigError(
                    "cron", f"{line.expression.text!r} for {worker.name} stands twice"
                )

            seen.add(digest)

            if entry.name in made:
                entry = entry_of(line, worker.name, worker.options, timezone, suffix=digest)

        if entry.name in made:
            raise ConfigError(
                "cron", f"two entries are named {shown(entry.name)}; give one another name"
            )

        made[entry.name] = entry

    return list(made.values())


def entry_of(
    line: Line, worker: str, defaults: JobOptions, timezone: str, *, suffix: str = ""
) -> Entry:
    """The entry of one line.

    Args:
        worker: The worker's name.
        defaults: The options of the worker's jobs.
        timezone: For a line that does not say.
        suffix: Added to the name.

    Raises:
        ConfigError: The worker's jobs all have the same time.
    """
    if "scheduled_at" in defaults.values:
        raise ConfigError(
            "cron", f"the jobs of {worker} are all for one time; take away its scheduled_at"
        )

    # Its args come with the job of each time, and so does what they have to hold.
    known = {key: value for key, value in defaults.values.items() if key != "unique"}
    job = JobOptions(known).job(worker, None)
    said = defaults.values
    template = {
        "args": {},
        "max_attempts": job.max_attempts,
        # Not the job's, which holds what the library makes of other options.
        "meta": payload.decode(said.get("meta", "{}")),
        "priority": job.priority,
        "queue": job.queue,
        "tags": job.tags,
        **{key: as_json(said[key]) for key in _OF_THE_WORKER if key in said},
        **line.job,
    }
    name = line.name or worker

    return Entry(
        f"{name}-{suffix}" if suffix else name,
        line.expression,
        line.timezone or timezone,
        worker,
        template,
        line.catch_up,
        line.overlap,
    )


def as_json(value: object) -> Any:
    """An option of a job that was checked, in a form that JSON holds and its check takes again."""
    match value:
        case Unique():
            return value.as_options()
        case Deadline():
            return {"in": value.seconds, "force": value.force}
        case _:
            return value


def _line(option: str, expression: object, worker: str | None, given: object) -> Line:
    if not isinstance(given, Mapping):
        raise ConfigError(option, f"{shown(given)} is not a mapping of options")

    values = check_changes(option, given, CHECKS)

    return Line(
        Expression.checked(option, expression),
        worker,
        values.pop("name", None),
        values.pop("timezone", None),
        values.pop("catch_up", "last"),
        values.pop("overlap", "allow"),
        values,
    )


def _check_entry(option: str, value: object) -> Line:
    if isinstance(value, str):
        return _line(option, value, None, {})

    if not isinstance(value, Mapping):
        raise ConfigError(
            option,
            f'{shown(value)} is not allowed; give an expression, or {{"expr": "0 9 * * *", '
            '"timezone": "Europe/Berlin"}',
        )

    if "expr" not in value:
        raise ConfigError(f"{option}.expr", 'is missing; give an expression, as "0 9 * * *"')

    rest = {key: item for key, item in value.items() if key != "expr"}

    return _line(option, value["expr"], None, rest)


def _check_line(option: str, value: object) -> Line:
    if not isinstance(value, (tuple, list)) or len(value) not in (2, 3):
        raise ConfigError(
            option,
            f"{shown(value)} is not allowed; give an expression, a worker, and options if need be",
        )

    return check_line(option, value[0], value[1], value[2] if len(value) == 3 else {})


def _worker_name(option: str, worker: object) -> str:
    if isinstance(worker, str):
        return _config_check(check_name)(option, worker)  # type: ignore[no-any-return]

    own = vars(worker) if hasattr(worker, "__dict__") else {}
    found = own.get("__oban_worker__") or own.get("registration")

    if found is None:
        raise ConfigError(
            option,
            f"{shown(worker)} is not a worker; give a class decorated with @worker, a function "
            "decorated with @job, or the name of one",
        )

    if getattr(worker, "defaults", found.options) is not found.options:
        raise ConfigError(
            option, f"{shown(worker)} has options of its own; give them as the third of the line"
        )

    name: str = found.name

    return name


def _digest(worker: str, line: Line) -> str:
    # As oban-py does it. Only what was said: defaults may change from version to version.
    said = {"timezone": line.timezone, "catch_up": line.catch_up, "overlap": line.overlap}
    left_open = {"timezone": None, "catch_up": "last", "overlap": "allow"}
    options = {key: value for key, value in said.items() if value != left_open[key]}
    text = json.dumps({**options, **line.job}, sort_keys=True, separators=(",", ":"))

    return hashlib.sha256(f"{line.expression.text}:{worker}:{text}".encode()).hexdigest()[:8]


def _config_check(check: Check) -> Check:
    """The check of a job's option, where nobody makes a job yet."""

    def checked(option: str, value: object) -> Any:
        try:
            return check(option, value)
        except InvalidJobError as error:
            raise ConfigError(error.option, error.problem) from None

    return checked


def _json_check(check: Check) -> Check:
    checked = _config_check(check)

    return lambda option, value: as_json(checked(option, value))


def _object(option: str, value: object) -> Any:
    return payload.decode(payload.encode(value, option))


def _window(option: str, value: object) -> float:
    seconds = check_seconds(option, value, least=PUNCTUAL)

    if seconds > MOST_WINDOW:
        raise ConfigError(
            option, f"{shown(value)} is not allowed; give {MOST_WINDOW:,.0f} seconds at the most"
        )

    return seconds


#: What may be said of an entry's jobs ...
JOB_CHECKS: dict[str, Check] = {
    "args": _config_check(_object),
    "queue": _config_check(check_name),
    "priority": _config_check(options.check_priority),
    "max_attempts": _config_check(options.check_max_attempts),
    "tags": _config_check(options.check_tags),
    "meta": _config_check(_object),
    "unique": _json_check(check_unique),
    "timeout": _config_check(options.check_timeout),
    "deadline": _json_check(options.check_deadline),
    "weight": _config_check(options.check_weight),
}

#: ... of an entry at run time ...
CHANGES: dict[str, Check] = {
    "expression": lambda option, value: Expression.checked(option, value).text,
    "timezone": check_timezone,
    "catch_up": lambda option, value: check_choice(option, value, *CATCH_UP),
    "overlap": lambda option, value: check_choice(option, value, *OVERLAP),
    **JOB_CHECKS,
}

#: ... and in the code, beside its expression.
CHECKS: dict[str, Check] = {
    "name": _config_check(check_name),
    **{name: check for name, check in CHANGES.items() if name != "expression"},
}
