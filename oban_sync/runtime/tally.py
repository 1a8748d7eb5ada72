"""Counting what jobs come to, where their outcomes come by: on the threads of the producers.

Every producer counts for itself, so nothing is locked. What it counted in a slot of time is handed
over as a whole, and never touched again: when the next slot begins, when the loop that writes it
asks, and when the producer ends.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from datetime import datetime
from queue import Empty, SimpleQueue
from typing import NamedTuple

from oban_sync.core import clock
from oban_sync.core.job import Job, JobState
from oban_sync.core.outcome import Outcome
from oban_sync.core.sketch import BINS_PER_E, Bins, merge

#: Workers and states that are counted apart in one slot of time; the others count together.
MOST_CELLS = 1_000

#: The worker that these others count as.
OTHER = "(other)"

#: What is kept while nobody takes it; more is thrown away.
MOST_PARTS = 10_000

# Asking the enum takes longer than all else that is done with it here.
_COMPLETED = JobState.COMPLETED

_log, _ceil = math.log, math.ceil


class Cell:
    """Outcomes that are counted together.

    Attributes:
        jobs: How many.
        ran: A sketch of how long they ran, of those of which that is known.
        waited: A sketch of how long they waited from when they were due to their start.
    """

    __slots__ = ("jobs", "ran", "waited")

    def __init__(self) -> None:
        self.jobs = 0
        self.ran: Bins = {}
        self.waited: Bins = {}

    def add(self, other: Cell) -> None:
        """Count all that another one counted."""
        self.jobs += other.jobs
        merge(self.ran, other.ran)
        merge(self.waited, other.waited)


#: A worker and a state. Of most it is just the worker: looking up an enum takes long.
Key = str | tuple[str, JobState]


class Part(NamedTuple):
    """What one queue counted in one slot of time.

    Attributes:
        queue: The queue.
        slot: The slot's number; see `Tallies`.
        cells: By worker, of completed ones; by worker and state, of others.
    """

    queue: str
    slot: int
    cells: dict[Key, Cell]


class Tally:
    """Counts the outcomes of one queue; all but `ask` is the producer's, on its own thread.

    Args:
        queue: The queue.
        tallies: Where it belongs to.
        tell: Lets the producer call something on its thread, soon.
    """

    __slots__ = ("_cells", "_queue", "_slot", "_tallies", "_tell", "_until")

    def __init__(
        self, queue: str, tallies: Tallies, tell: Callable[[Callable[[], None]], object]
    ) -> None:
        self._queue = queue
        self._tallies = tallies
        self._tell = tell
        self._cells: dict[Key, Cell] = {}
        self._slot = 0
        self._until = 0

    def count(self, outcome: Outcome) -> None:
        """Count an outcome, at this moment. The hot path."""
        if (now := time.monotonic_ns()) >= self._until:
            self._begin_slot(now)

        job = outcome.job
        state = outcome.state
        key = job.worker if state is _COMPLETED else (job.worker, state)

        try:
            cell = self._cells[key]
        except (KeyError, TypeError):
            cell = self._cell(job.worker, state)

        cell.jobs += 1

        if (duration := outcome.duration_ns) > 0:
            number = _ceil(_log(duration) * BINS_PER_E)
            bins = cell.ran
            bins[number] = bins.get(number, 0) + 1

        due = _due(job)
        # Times that nobody looked at are as they came: microseconds.
        waited = (job.key[1] - due) * 1_000 if type(due) is int else _waited(job, due)

        if waited is not None:
            # It may have started a moment before it was due, by the clock of another node.
            number = _ceil(_log(waited) * BINS_PER_E) if waited > 1 else 0
            bins = cell.waited
            bins[number] = bins.get(number, 0) + 1

    def close(self) -> None:
        """Hand over what is left; nothing is counted any more."""
        self._hand_over()
        self._tallies.forget(self)

    def ask(self, number: int) -> bool:
        """Ask for what was counted, from any thread.

        Returns:
            Whether there is anything, so that the number will be handed over after it.
        """
        if not self._cells:
            return False

        def answer() -> None:
            self._hand_over()
            self._tallies.take(number)

        self._tell(answer)

        return True

    def _begin_slot(self, now: int) -> None:
        self._hand_over()
        self._slot, self._until = self._tallies.slot_at(now)

    def _hand_over(self) -> None:
        cells, self._cells = self._cells, {}

        if cells:
            self._tallies.take(Part(self._queue, self._slot, cells))

    def _cell(self, worker: object, state: JobState) -> Cell:
        # A job may have put anything in its place.
        name = worker if type(worker) is str else OTHER

        if len(self._cells) >= MOST_CELLS:
            name = OTHER

        return self._cells.setdefault(name if state is _COMPLETED else (name, state), Cell())


class Tallies:
    """The tallies of a node's queues, and what they have handed over.

    Time is cut into slots of equal length, which have numbers; not at the same moments in every
    process, so that they do not write all at once.

    Args:
        length: Seconds of a slot.
    """

    #: Seconds that asking waits for answers; what comes later is taken the next time.
    PATIENCE = 0.25

    def __init__(self, length: float) -> None:
        self.length = length
        self._length_ns = round(length * 1e9)
        self._began = time.monotonic_ns() - random.randrange(self._length_ns)  # noqa: S311
        self._open: set[Tally] = set()
        self._taken: SimpleQueue[Part | int] = SimpleQueue()
        self._asked = 0

    def open(self, queue: str, tell: Callable[[Callable[[], None]], object]) -> Tally:
        """A tally for a queue; see `Tally`."""
        tally = Tally(queue, self, tell)
        self._open.add(tally)

        return tally

    def forget(self, tally: Tally) -> None:
        """A tally's producer ended."""
        self._open.discard(tally)

    def take(self, part: Part | int) -> None:
        """Take over what was counted, or the number of an answer; from any thread."""
        if isinstance(part, int) or self._taken.qsize() < MOST_PARTS:
            self._taken.put(part)

    def slot_at(self, moment: int) -> tuple[int, int]:
        """The number of the slot of a moment, and when it ends: nanoseconds, monotonic."""
        number = (moment - self._began) // self._length_ns

        return number, self._began + (number + 1) * self._length_ns

    @property
    def slot(self) -> int:
        """The number of the slot that is going on."""
        return self.slot_at(time.monotonic_ns())[0]

    def age_of(self, number: float) -> float:
        """Seconds since a slot began."""
        return (time.monotonic_ns() - self._began) / 1e9 - number * self.length

    @property
    def seconds_left(self) -> float:
        """Until the slot that is going on ends."""
        now = time.monotonic_ns()

        return (self.slot_at(now)[1] - now) / 1e9

    def collect(self) -> list[Part]:
        """What was counted up to now. Only for the one loop that writes it."""
        self._asked += 1
        # The set may be changed meanwhile; a copy of it is made in one step.
        asked = sum([tally.ask(self._asked) for tally in self._open.copy()])
        parts: list[Part] = []
        patient_until = time.monotonic() + self.PATIENCE

        while True:
            try:
                if asked:
                    taken = self._taken.get(timeout=max(0.0, patient_until - time.monotonic()))
                else:
                    taken = self._taken.get_nowait()
            except Empty:
                return parts

            if isinstance(taken, Part):
                parts.append(taken)
            elif taken == self._asked:
                asked -= 1


#: When a job was due, as it stands in it.
_due = Job.scheduled_at.raw


def _waited(job: Job, due: object) -> int | None:
    """Nanoseconds between the time a job was due and its start; None where that cannot be told."""
    if not isinstance(due, datetime):
        return None

    try:
        return (job.key[1] - clock.to_micros(due)) * 1_000
    except (TypeError, OverflowError):
        # A job may have put a time without a zone in its place.
        return None
