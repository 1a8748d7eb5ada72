"""How queues are wanted to be: what people asked for, over what nodes were configured with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from oban_sync.core.errors import shown

#: Stands for every queue, or every node.
EVERY = "*"

PAUSED = "paused"
LIMIT = "limit"
RUNNING = "running"

#: Most jobs at once that a queue may be given.
MOST_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class Control:
    """One thing that somebody asked for.

    Attributes:
        seq: Its place in time; the newest that fits counts.
        queue: The queue, or ``*``.
        aspect: PAUSED (value: true or false), LIMIT (value: jobs at once), or RUNNING (value:
            false, or the jobs at once that the queue is started with).
        value: What it shall be.
        by: Who asked.
        at: When.
        until: When it ends by itself.
        ended: It has, by the database's clock: it only tells what came before it.
    """

    seq: float
    queue: str
    aspect: str
    value: Any
    by: str | None = None
    at: datetime | None = None
    until: datetime | None = None
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """How one queue shall be on this node.

    Attributes:
        running: Whether it shall run at all.
        limit: Jobs at once.
        paused: Whether it takes no jobs.
        pause: Who paused it, when, and until when.
    """

    running: bool
    limit: int
    paused: bool
    pause: Control | None = None


def checked(aspect: object, value: object) -> Any:
    """The value of a control, from a row or a signal.

    Raises:
        ValueError: The aspect has no such value.
    """
    whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_LIMIT

    if not (
        (aspect == PAUSED and isinstance(value, bool))
        or (aspect == LIMIT and whole)
        or (aspect == RUNNING and (value is False or whole))
    ):
        raise ValueError(f"{shown(aspect)} of a queue cannot be {shown(value)}")

    return value


def wanted(controls: Iterable[Control], queue: str, configured: int | None) -> Wanted:
    """How a queue shall be.

    Args:
        controls: What was asked for, of this node or all.
        queue: The queue.
        configured: Its limit by configuration; None when it is not among the configured ones.
    """
    newest: dict[str, Control] = {}

    for control in sorted(controls, key=lambda control: control.seq):
        if control.queue in (queue, EVERY) and not control.ended:
            newest[control.aspect] = control

            # A start brings a limit, so it counts as one.
            if control.aspect == RUNNING and control.value is not False:
                newest[LIMIT] = control

    running, limit, pause = (newest.get(aspect) for aspect in (RUNNING, LIMIT, PAUSED))
    paused = pause is not None and pause.value is True

    return Wanted(
        running=configured is not None if running is None else running.value is not False,
        limit=(configured or 1) if limit is None else int(limit.value),
        paused=paused,
        pause=pause if paused else None,
    )


def queues_started(controls: Iterable[Control]) -> set[str]:
    """The queues that somebody asked to be started, whether they still shall run or not."""
    return {
        control.queue
        for control in controls
        if control.aspect == RUNNING
        and control.value is not False
        and control.queue != EVERY
        and not control.ended
    }


def asker(by: str) -> str:
    """Who asked for something, with the reason that they gave: ``anna (a new release)``.

    Both are kept as one text, ``anna: a new release``.
    """
    name, _, reason = by.partition(": ")

    return f"{name} ({reason})" if name and reason else by
