"""What the checker judges by: ledgers, the history of the rows, and the rows at the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tests.chaos.ledger import Event

#: Who notes what is done to the nodes.
CHAOS = "chaos"

Start = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a row, as the trigger saw it.

    Attributes:
        seq: Its place among all changes.
        at: When, in seconds on the monotonic clock of this machine.
        operation: INSERT, UPDATE or DELETE.
        job: The row's id.
        state, attempt, owner: The row's, after it.
        fence: The time of the row's last start.
        rescued: How many deaths of its process the row tells of.
        errors: How many entries its errors have.
    """

    seq: int
    at: float
    operation: str
    job: int
    state: str | None = None
    attempt: int | None = None
    fence: int | None = None
    owner: str | None = None
    rescued: int = 0
    errors: int = 0

    def __str__(self) -> str:
        return f"{self.at:.3f} {self.operation} {self.state} attempt={self.attempt}" + (
            f" rescued={self.rescued}" if self.rescued else ""
        )


@dataclass(slots=True)
class Execution:
    """A run of a job, as its process saw it.

    Attributes:
        job, fence: The start it belongs to.
        node: The process.
        begin: When it began.
        end: When it ended; infinite when its process never said.
        how: ``ok``, or the exception that it raised.
        held_until: Until when nobody else may run the job: its end, the death of its process, or
            the loss of its lease.
    """

    job: int
    fence: int
    node: str
    begin: float
    end: float = float("inf")
    how: str = ""
    held_until: float = float("inf")

    @property
    def start(self) -> Start:
        """Which start of which job it is the run of."""
        return (self.job, self.fence)

    def __str__(self) -> str:
        return f"{self.node} {self.begin:.3f} to {self.end:.3f} {self.how}".rstrip()


@dataclass
class Evidence:
    """All there is to judge by.

    Attributes:
        events: Of all ledgers.
        changes: Of all rows, in order.
        states: The state of every row at the end, by id.
        inserted: The jobs whose insert is known to be committed.
    """

    events: Sequence[Event]
    changes: Sequence[Change] = ()
    states: dict[int, str] = field(default_factory=dict)
    inserted: Iterable[int] = ()

    @cached_property
    def executions(self) -> dict[int, list[Execution]]:
        """The runs of every job, in the order of their beginnings."""
        found: dict[tuple[str, int, int], list[Execution]] = defaultdict(list)

        for event in self.of("begin"):
            run = Execution(event["job"], event["fence"], event.node, event.at)
            found[event.node, *run.start].append(run)

        for event in self.of("end"):
            run = found[event.node, event["job"], event["fence"]][-1]
            run.end, run.how = event.at, event["how"]

        by_job: dict[int, list[Execution]] = defaultdict(list)

        for run in sorted((run for runs in found.values() for run in runs), key=_begin):
            run.held_until = min([run.end, *self._losses(run)])
            by_job[run.job].append(run)

        return dict(by_job)

    @cached_property
    def history(self) -> dict[int, list[Change]]:
        """The changes of every job, in order."""
        by_job: dict[int, list[Change]] = defaultdict(list)

        for change in self.changes:
            by_job[change.job].append(change)

        return dict(by_job)

    @cached_property
    def released(self) -> set[Start]:
        """The starts that their own node gave back."""
        return {(job, fence) for event in self.of("released") for job, fence in event["jobs"]}

    @cached_property
    def fenced(self) -> dict[Start, str]:
        """The starts whose outcome was refused, and what it would have been."""
        return {(event["job"], event["fence"]): event["state"] for event in self.of("fenced")}

    @cached_property
    def begun(self) -> dict[Start, Execution]:
        """The runs by their start."""
        return {run.start: run for runs in self.executions.values() for run in runs}

    def of(self, *names: str, node: str | None = None) -> list[Event]:
        """The events of these names, by time."""
        return [
            event
            for name in names
            for event in self._by_name.get(name, ())
            if node is None or event.node == node
        ]

    def story(self, job: int) -> str:
        """All that is known of a job, for a message."""
        lines = [f"    {change}" for change in self.history.get(job, ())]
        lines += [f"    ran on {run}" for run in self.executions.get(job, ())]

        return "\n".join(lines)

    def losses(self, node: str) -> list[float]:
        """When a node lost its lease: by a fault, by its own word, or with its process."""
        return self._lost.get(node, [])

    @cached_property
    def _by_name(self) -> dict[str, list[Event]]:
        by_name: dict[str, list[Event]] = defaultdict(list)

        for event in sorted(self.events, key=lambda event: event.at):
            by_name[event.name].append(event)

        return by_name

    @cached_property
    def _lost(self) -> dict[str, list[float]]:
        losses: dict[str, list[float]] = defaultdict(list)
        over = {event["token"]: event.at for event in self.of("fault_over")}

        for event in self.of("fault"):
            lost = event.at + event["lease"]

            if lost <= over.get(event["token"], float("inf")):
                losses[event["of"]].append(lost)

        for event in self.of("lapsed"):
            losses[event.node].append(event.at)

        for event in self.of("gone"):
            losses[event["of"]].append(event.at)

        return losses

    def _losses(self, run: Execution) -> Iterator[float]:
        yield from (at for at in self.losses(run.node) if at >= run.begin)

        if run.start in self.released:
            # What the node notes comes after the row, and by then another may run the job.
            yield from (
                change.at
                for change in self.history.get(run.job, ())
                if change.fence == run.fence and change.state != "executing"
            )


def _begin(run: Execution) -> float:
    return run.begin
