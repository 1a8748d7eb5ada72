"""The options of a job, each with its one check; the decorators, `new` and `enqueue` share them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from oban_sync.core import backoff, payload
from oban_sync.core.errors import InvalidJobError, shown, unknown
from oban_sync.core.job import Deadline, Job
from oban_sync.core.unique import check_unique

#: Most characters of a queue's or worker's name; the table of Oban allows no more.
MOST_NAME_CHARACTERS = 127

MOST_TAGS = 100
MOST_TAG_CHARACTERS = 255

#: smallint in tables that oban-py made.
MOST_ATTEMPTS = 32_767

#: Starts that one job may count for under a rate limit.
MOST_WEIGHT = 1_000_000


def check_name(option: str, value: object) -> str:
    """A name of a queue or worker: 1 to 127 characters, none of them a control character."""
    if not isinstance(value, str):
        raise InvalidJobError(option, f"{shown(value)} is not a name; give a string")

    if not value.strip():
        raise InvalidJobError(option, f"{shown(value)} is blank; give a name")

    if len(value) > MOST_NAME_CHARACTERS:
        raise InvalidJobError(
            option,
            f"{shown(value)} has {len(value)} characters, {MOST_NAME_CHARACTERS} are allowed",
        )

    if not value.isprintable():
        raise InvalidJobError(option, f"{shown(value)} holds a character that cannot be printed")

    return value


def check_priority(option: str, value: object) -> int:
    """0 (first) to 9."""
    return _whole(option, value, 0, 9, "0 (first) to 9 (last)")


def check_max_attempts(option: str, value: object) -> int:
    """1 or more."""
    return _whole(option, value, 1, MOST_ATTEMPTS, f"1 to {MOST_ATTEMPTS}")


def check_tags(option: str, value: object) -> list[str]:
    """A few labels: trimmed, lowercase, in order, each once; blank ones are dropped."""
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise InvalidJobError(option, f"{shown(value)} is not a list of strings")

    tags: dict[str, None] = {}

    for index, tag in enumerate(value):
        if not isinstance(tag, str):
            raise InvalidJobError(f"{option}[{index}]", f"{shown(tag)} is not a string")

        payload.encode_any(tag, f"{option}[{index}]")

        if len(tag) > MOST_TAG_CHARACTERS:
            raise InvalidJobError(
                f"{option}[{index}]",
                f"{len(tag)} characters, {MOST_TAG_CHARACTERS} are allowed",
            )

        if label := tag.strip().lower():
            tags[label] = None

    if len(tags) > MOST_TAGS:
        raise InvalidJobError(option, f"{len(tags)} tags, {MOST_TAGS} are allowed")

    return list(tags)


def check_meta(option: str, value: object) -> str:
    """A JSON object, as text."""
    return payload.encode(value, option)


def check_schedule_in(option: str, value: object) -> float:
    """Seconds or timedelta from now, not negative."""
    try:
        return backoff.seconds(value)
    except ValueError as error:
        raise InvalidJobError(option, str(error)) from None


def check_scheduled_at(option: str, value: object) -> datetime:
    """An aware datetime."""
    if not isinstance(value, datetime):
        raise InvalidJobError(option, f"{shown(value)} is not a datetime")

    if value.utcoffset() is None:
        raise InvalidJobError(
            option,
            f"{value.isoformat()} has no timezone, so its moment is unknown; "
            "give an aware datetime, as datetime.now(UTC) is",
        )

    # Moments at the edge of what datetime holds cannot be moved to UTC.
    if (
        not timedelta(days=1)
        < value - value.min.replace(tzinfo=value.tzinfo)
        < timedelta(days=3_652_000)
    ):
        raise InvalidJobError(option, f"{value.isoformat()} is out of range")

    return value


def check_timeout(option: str, value: object) -> float:
    """Seconds or timedelta that a run may take, more than 0."""
    return _positive(option, value)


def check_deadline(option: str, value: object) -> Deadline:
    """Seconds or timedelta, or ``{"in": seconds, "force": True}``."""
    force = False

    if isinstance(value, Mapping):
        for key in value:
            if key not in ("in", "force"):
                raise InvalidJobError(f"{option}.{key}", unknown(key, ("in", "force")))

        if not isinstance(force := value.get("force", False), bool):
            raise InvalidJobError(f"{option}.force", f"{shown(force)} is neither True nor False")

        if "in" not in value:
            raise InvalidJobError(f"{option}.in", "is missing; give seconds or a timedelta")

        value, option = value["in"], f"{option}.in"

    return Deadline(_positive(option, value), force)


def check_weight(option: str, value: object) -> int:
    """How much of a queue's rate limit one start uses up."""
    return _whole(option, value, 1, MOST_WEIGHT, f"1 to {MOST_WEIGHT:,}")


#: Every option of a job and its check. The names are those of oban-py.
CHECKS: Mapping[str, Callable[[str, object], Any]] = {
    "deadline": check_deadline,
    "max_attempts": check_max_attempts,
    "meta": check_meta,
    "priority": check_priority,
    "queue": check_name,
    "schedule_in": check_schedule_in,
    "scheduled_at": check_scheduled_at,
    "scheduled_in": check_schedule_in,
    "tags": check_tags,
    "timeout": check_timeout,
    "unique": check_unique,
    "weight": check_weight,
}


@dataclass(frozen=True, slots=True)
class JobOptions:
    """The options of one worker, checked; `job` makes jobs with them."""

    values: Mapping[str, Any]

    @classmethod
    def checked(cls, given: Mapping[str, object]) -> JobOptions:
        """Check options as given.

        Raises:
            InvalidJobError: One is unknown or wrong, or two contradict each other.
        """
        values = {}

        for option, value in given.items():
            check = CHECKS.get(option)

            if check is None:
                raise InvalidJobError(
                    option, f"{unknown(option, CHECKS)} Args go into a dict, before the options."
                )

            if value is not None:
                values["schedule_in" if option == "scheduled_in" else option] = check(option, value)

        if "schedule_in" in values and "scheduled_at" in values:
            raise InvalidJobError(
                "schedule_in", "a job is scheduled either in some time or at a time, not both"
            )

        return cls(values)

    def merged(self, given: Mapping[str, object]) -> JobOptions:
        """These options with others on top; a time given as one kind replaces the other kind."""
        if not given:
            return self

        over = JobOptions.checked(given).values
        under = self.values

        if "schedule_in" in over or "scheduled_at" in over:
            under = {
                name: value
                for name, value in under.items()
                if name not in ("schedule_in", "scheduled_at")
            }

        return JobOptions({**under, **over})

    def job(self, worker: str, args: object) -> Job:
        """A job of the named worker with these options.

        Raises:
            InvalidJobError: The args cannot be stored.
        """
        return Job(
            worker=worker,
            args="{}" if args is None else payload.encode(args, "args"),
            **self.values,
        )


def _positive(option: str, value: object) -> float:
    if (seconds := check_schedule_in(option, value)) <= 0:
        raise InvalidJobError(option, f"{shown(value)} is not allowed; give seconds, more than 0")

    return seconds


def _whole(option: str, value: object, least: int, most: int, allowed: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidJobError(option, f"{shown(value)} is not allowed; give {allowed}")

    return int(value)
