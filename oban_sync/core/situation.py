"""What is known about a job that does not run, as the reasons ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, TypeGuard

from oban_sync.core import controls
from oban_sync.core.clock import utc_now
from oban_sync.core.controls import Control, Wanted
from oban_sync.core.spans import at, lasting, read
from oban_sync.core.state import JobState

#: Seconds for which an order may be on its way to a node that does not say that it follows it.
ORDER_PERIOD = 10.0

#: Seconds between looks for jobs of a node that does not say ...
LOOK_INTERVAL = 1.0

#: ... and between its beats.
BEAT_INTERVAL = 3.0

#: The states of jobs that start by themselves, sooner or later.
WAITING = (JobState.SUSPENDED, JobState.SCHEDULED, JobState.AVAILABLE, JobState.RETRYABLE)


@dataclass(frozen=True, slots=True)
class Line:
    """A queue as one living node runs it, and how it is wanted to be there.

    Attributes:
        node: What people call the node.
        limit: Jobs at once.
        busy: Jobs that run.
        knows: Whether the node knows the job's worker; None where it does not say.
        degraded: Whether it may hear of nothing at the moment.
        look: Seconds within which it finds a job by looking.
        paused: Whether it takes no jobs.
        pause: Who paused it, where that is known.
        stop: Who stopped the queue there, where that is known.
        stops: Whether it takes no more jobs, because the node or the queue is being stopped.
        beat_age: Seconds since the node was heard of.
        silent: Whether that is longer than it should be.
    """

    node: str
    limit: int
    busy: int
    knows: bool | None
    degraded: bool
    look: float
    paused: bool
    pause: Control | None
    stop: Control | None
    stops: bool
    beat_age: float
    silent: bool

    @property
    def full(self) -> bool:
        """Whether all of its slots run jobs."""
        return self.busy >= self.limit


class Situation:
    """The facts about one job.

    Args:
        facts: As `engine.explain.gather` gives them.
        name: The Oban instance that asks.
    """

    def __init__(self, facts: dict[str, Any], name: str) -> None:
        self.facts = facts
        self.job: dict[str, Any] = facts["job"]
        self.state = JobState(self.job["state"])
        self.queue: str = self.job["queue"]
        self.now = read(facts["now"]) or utc_now()
        self._name = name

    @cached_property
    def lines(self) -> list[Line]:
        """What the living nodes that run the queue say of it."""
        return [self._line(said) for said in self.facts["nodes"] if said["lives"]]

    @cached_property
    def staying_lines(self) -> list[Line]:
        """Those that are not being stopped, or all where all are."""
        return [line for line in self.lines if not line.stops] or self.lines

    @cached_property
    def open_lines(self) -> list[Line]:
        """Of these, those that are not paused, or all where all are."""
        return [line for line in self.staying_lines if not line.paused] or self.staying_lines

    @property
    def limits(self) -> dict[str, Any]:
        """What holds for the queue over all nodes, and what is used of it."""
        return self.facts["limits"] or {}

    @property
    def waits(self) -> bool:
        """Whether the job is one that starts by itself, sooner or later."""
        return self.state in WAITING

    @property
    def is_due(self) -> bool:
        """Whether its time has come, though nobody may have noticed."""
        moment = self.moment("scheduled_at")

        return self.state is JobState.AVAILABLE or (
            self.state in (JobState.SCHEDULED, JobState.RETRYABLE)
            and moment is not None
            and moment <= self.now
        )

    def moment(self, field: str) -> datetime | None:
        """A point in time of the job; None where there is none, or none that can be expressed."""
        return read(self.job[field])

    def ago(self, moment: datetime | None) -> str:
        """`` 3 minutes ago``, with the space; nothing where it is not known."""
        return "" if moment is None else f" {lasting(self.since(moment))} ago"

    def since(self, moment: datetime) -> float:
        """Seconds that have gone by."""
        return (self.now - moment).total_seconds()

    def coming(self, moment: datetime) -> str:
        """``in 3 minutes, at 14:30 UTC``."""
        return f"in {lasting(-self.since(moment))}, at {at(moment, self.now)}"

    def wanted(self, name: str, node: str) -> tuple[Wanted, list[Control]]:
        """How the queue shall be on a node, and all that was asked of it there."""
        asked = [
            control
            for control in map(_control, self.facts["controls"])
            if control is not None and control[0] == name and control[1] in (controls.EVERY, node)
        ]
        rows = [control for _, _, control in asked]

        return controls.wanted(rows, self.queue, 1), rows

    def asked_by_anybody(self) -> tuple[Wanted, list[Control]]:
        """The same of all nodes of the instance that asks."""
        return self.wanted(self._name, controls.EVERY)

    def who(self, control: Control, did: str, else_: str) -> str:
        """``anna paused it 3 minutes ago, until 14:30 UTC``; of nobody known, the other words."""
        text = f"{controls.asker(control.by)} {did}" if control.by else else_

        if control.at is not None:
            text += self.ago(control.at)

        return text + (f", until {at(control.until, self.now)}" if control.until else "")

    def _line(self, said: dict[str, Any]) -> Line:
        wanted, rows = self.wanted(said["name"], said["node"])
        lately = any(
            control.aspect == controls.PAUSED
            and control.at is not None
            and self.since(control.at) < ORDER_PERIOD
            for control in rows
        )
        look, beat_age = said["look"], float(said["beat_age"])
        stop = None if wanted.running else last_asked(rows, controls.RUNNING)

        return Line(
            node=said["node"],
            limit=said["limit"],
            busy=said["busy"],
            knows=said["knows"],
            degraded=said["degraded"] is True,
            look=float(look) if is_number(look) else LOOK_INTERVAL,
            # A row that does not fit may be about to; or a signal of another Oban asked for it.
            paused=wanted.paused or (said["paused"] and not lately),
            pause=wanted.pause,
            stop=stop,
            stops=said["stops"] is True or not wanted.running,
            beat_age=beat_age,
            silent=is_silent(beat_age, said["beat"]),
        )


def last_asked(rows: Sequence[Control], aspect: str) -> Control | None:
    """What was asked last of one aspect."""
    return max((row for row in rows if row.aspect == aspect), key=lambda row: row.seq, default=None)


def is_silent(beat_age: float, interval: object) -> bool:
    """Whether a node should have been heard of since.

    Args:
        beat_age: Seconds since it was.
        interval: Seconds between its beats, as it says.
    """
    # Two may be missed, and each takes a moment.
    return beat_age > 2 * (float(interval) if is_number(interval) else BEAT_INTERVAL) + 1


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether JSON gave a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _control(said: dict[str, Any]) -> tuple[str, str, Control] | None:
    """The instance, the node, and what was asked; None of a row that nodes ignore as well."""
    try:
        value = controls.checked(said["aspect"], said["value"])
    except ValueError:
        return None

    control = Control(
        seq=said["seq"],
        queue=said["queue"],
        aspect=said["aspect"],
        value=value,
        by=said["set_by"],
        at=read(said["set_at"]),
        until=read(said["until"]),
        ended=said["ended"],
    )

    return said["name"], said["node"], control
