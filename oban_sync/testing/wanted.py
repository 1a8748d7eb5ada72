"""What a test wants of a job, how far a job is from it, and how to say so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from oban_sync.core import payload, registry
from oban_sync.core.checks import check_seconds
from oban_sync.core.errors import ConfigError, shown, unknown
from oban_sync.core.job import Job
from oban_sync.core.options import CHECKS, check_name, check_tags
from oban_sync.testing.running import registration_of

#: Jobs that a failure tells of.
MOST_SHOWN = 5

#: Seconds by which a time may be off.
DELTA = 1.0

#: A field of a job that is not as it is wanted: its name, what it is, and what it should be.
Difference = tuple[str, object, object]

_MISSING = object()

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of a job; None is anything.

    Attributes:
        fields: By name: what the job's have to hold, or to be.
        delta: How far a time may be off.
    """

    fields: Mapping[str, Any]
    delta: timedelta

    @classmethod
    def checked(cls, *, delta: float | timedelta = DELTA, **given: Any) -> Wanted:
        """What a test asks for, as a job would show it.

        Raises:
            ConfigError: It could be true of no job.
        """
        fields: dict[str, Any] = {}

        for name, value in given.items():
            if value is None:
                continue

            if (check := _CHECKS.get(name)) is None:
                raise ConfigError(name, unknown(name, _CHECKS))

            fields[name] = check(name, value)

        if "scheduled_in" in fields and "scheduled_at" in fields:
            raise ConfigError("scheduled_in", "give either scheduled_in or scheduled_at")

        if isinstance(delta, timedelta):
            delta = delta.total_seconds()

        return cls(fields, timedelta(seconds=check_seconds("delta", delta)))

    def differences(self, job: Job) -> list[Difference]:
        """What of a job is not as it is wanted."""
        found: list[Difference] = []

        for name, wanted in self.fields.items():
            if name in ("args", "meta"):
                found.extend(_partly(name, getattr(job, name), wanted))
            elif name == "tags":
                if not set(wanted) <= set(job.tags):
                    found.append((name, job.tags, wanted))
            elif name in ("scheduled_at", "scheduled_in"):
                is_so = _when(job) if name == "scheduled_at" else _waits(job)

                if abs(is_so - wanted) > self.delta:
                    found.append((name, _Plain(is_so), _Plain(wanted)))
            elif getattr(job, name) != wanted:
                found.append((name, getattr(job, name), wanted))

        return found

    def __str__(self) -> str:
        width = max(map(len, self.fields), default=0)
        lines = [f"    {name:{width}}  {_text(value)}" for name, value in self.fields.items()]

        return "\n".join(lines)


def told(jobs: Sequence[Job], wanted: Wanted) -> str:
    """How many jobs there are, and the nearest to what is wanted, with what is wrong with them."""
    if not jobs:
        return "There are no jobs at all."

    near = sorted(
        ((wanted.differences(job), job) for job in jobs),
        key=lambda item: (_distance(item[0]), -(item[1].id or 0)),
    )[:MOST_SHOWN]
    some = "It is" if len(jobs) == 1 else "The nearest" if len(near) < len(jobs) else "They are"
    count = "There is 1 job." if len(jobs) == 1 else f"There are {len(jobs)} jobs."

    return "\n".join([f"{count} {some}:", *(line for item in near for line in _lines(*item))])


def listed(jobs: Iterable[Job]) -> str:
    """Jobs, each on a line of its own, with its args."""
    return "\n".join(_head(job) + f"\n        args {shown(job.args, most=200)}" for job in jobs)


def _lines(differences: list[Difference], job: Job) -> Iterator[str]:
    yield ""
    yield _head(job)

    width = max((len(name) for name, _, _ in differences), default=0)

    for name, is_so, wanted in differences:
        actual = "is missing" if is_so is _MISSING else f"is {shown(is_so, most=200)}"
        yield f"        {name:{width}}  {actual}, not {shown(wanted, most=200)}"


def _head(job: Job) -> str:
    return f"    job {job.id}: {job.worker}, {job.state.value} in queue {job.queue!r}"


def _distance(differences: list[Difference]) -> int:
    # Of another worker, a job is farther off than any of the right one.
    return sum(100 if name == "worker" else 1 for name, _, _ in differences)


def _partly(path: str, is_so: object, wanted: object) -> Iterator[Difference]:
    if not (isinstance(wanted, dict) and isinstance(is_so, dict)):
        if not _same(is_so, wanted):
            yield path, is_so, wanted

        return

    for key, value in wanted.items():
        if key in is_so:
            yield from _partly(f"{path}.{key}", is_so[key], value)
        else:
            yield f"{path}.{key}", _MISSING, value


def _same(one: object, other: object) -> bool:
    """Whether they are the same in JSON, where 1 and true are not, as they are in Python."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))

    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)

    return one == other and isinstance(one, bool) is isinstance(other, bool)


def _when(job: Job) -> datetime:
    return job.scheduled_at or _NEVER


def _waits(job: Job) -> timedelta:
    # Not from now: how long the test took since then is of no account.
    return _when(job) - (job.inserted_at or _NEVER)


class _Plain:
    """A time as it is written in messages."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __repr__(self) -> str:
        return str(self._value)


def _text(value: object) -> str:
    return str(value) if isinstance(value, (datetime, timedelta)) else shown(value, most=200)


def worker_name(option: str, value: object) -> str:
    """The name of a worker class or a function, or the name itself."""
    found: registry.Registration | None = registration_of(value)

    return check_name(option, value) if found is None else found.name


def _object(option: str, value: object) -> Any:
    return payload.decode(payload.encode(value, option))


def _seconds(option: str, value: object) -> timedelta:
    return timedelta(seconds=CHECKS["schedule_in"](option, value))


def _tags(option: str, value: object) -> list[str]:
    return check_tags(option, [value] if isinstance(value, str) else value)


_CHECKS: dict[str, Any] = {
    "worker": worker_name,
    "args": _object,
    "queue": check_name,
    "tags": _tags,
    "priority": CHECKS["priority"],
    "max_attempts": CHECKS["max_attempts"],
    "meta": _object,
    "scheduled_at": CHECKS["scheduled_at"],
    "scheduled_in": _seconds,
}
