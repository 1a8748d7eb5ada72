"""When waiting jobs gain priority: the options of the prioritizer, and a queue's rule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from oban_sync.core.checks import check_flag, check_options, check_seconds, check_whole
from oban_sync.core.errors import ConfigError, InvalidJobError, shown
from oban_sync.core.options import check_name

#: Words for a wait that no job reaches; False says the same.
NEVER = ("never", "forever", "infinity")

#: Seconds of a hundred years; nobody waits for longer.
LONGEST = 36_525 * 86_400.0


@dataclass(frozen=True, slots=True)
class Waits:
    """How long jobs have to wait for their first step, in seconds; `math.inf` for ever.

    Attributes:
        others: Those of all other workers.
        workers: Those of workers that have their own.
    """

    others: float
    workers: Mapping[str, float] = field(default_factory=dict)

    @property
    def least(self) -> float:
        """Seconds before which none of the jobs gains anything."""
        return min(self.others, *self.workers.values(), math.inf)


@dataclass(frozen=True, slots=True)
class PrioritizerConfig:
    """The loop that raises the priority of jobs that have been available for long.

    A job that is available `after` seconds after the time it was scheduled for gains a step of
    priority, and another for every `interval` from then on. Its wait is that of its queue in
    `queues`, else of its worker in `workers`, else `after`.

    Attributes:
        enabled: Whether it does.
        interval: Seconds between rounds, and between two steps of one job.
        limit: Most jobs looked at and raised by one statement; a round goes on until all are.
        after: Seconds until the first step; `math.inf` for never.
        max_priority: How far a job can rise, 0 being the first.
        queues: Waits by queue.
        workers: Waits by worker.
    """

    enabled: bool = False
    interval: float = 60.0
    limit: int = 10_000
    after: float = 300.0
    max_priority: int = 0
    queues: Mapping[str, float] = field(default_factory=dict)
    workers: Mapping[str, float] = field(default_factory=dict)

    @property
    def least_wait(self) -> float:
        """Seconds before which no job gains anything."""
        return min(self.after, *self.queues.values(), *self.workers.values(), math.inf)

    def waits(self, queue: str) -> Waits:
        """How long the jobs of a queue have to wait."""
        if (own := self.queues.get(queue)) is not None:
            return Waits(own)

        return Waits(self.after, self.workers)


def check_prioritizer(option: str, value: object) -> PrioritizerConfig:
    """The options of the prioritizer; a mapping turns it on, unless it holds ``enabled: False``."""
    if isinstance(value, (bool, str)):
        return PrioritizerConfig(enabled=check_flag(option, value))

    if isinstance(value, Mapping):
        value = {"enabled": True, **value}

    return check_options(
        option,
        value,
        PrioritizerConfig,
        {
            "enabled": check_flag,
            "interval": lambda path, given: check_seconds(path, given, least=0.01),
            "limit": lambda path, given: check_whole(path, given, 1, 100_000),
            "after": _check_wait,
            "max_priority": lambda path, given: check_whole(path, given, 0, 9),
            "queues": _check_waits,
            "workers": _check_waits,
        },
    )


def _check_waits(option: str, value: object) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise ConfigError(
            option, f'{shown(value)} is not a mapping; give seconds or "never" by name'
        )

    return {
        _check_name(option, name): _check_wait(f'{option}["{name}"]', given)
        for name, given in value.items()
    }


def _check_wait(option: str, value: object) -> float:
    if value is False or (isinstance(value, str) and value.strip().lower() in (*NEVER, "false")):
        return math.inf

    if isinstance(value, timedelta):
        value = value.total_seconds()

    if value == math.inf:
        return math.inf

    try:
        wait = check_seconds(option, value)
    except ConfigError:
        raise ConfigError(
            option,
            f'{shown(value)} is not allowed; give seconds, 0 or more, a timedelta, or "never"',
        ) from None

    return wait if wait < LONGEST else math.inf


def _check_name(option: str, value: object) -> str:
    try:
        return check_name(option, value)
    except InvalidJobError as error:
        raise ConfigError(option, error.problem) from None
