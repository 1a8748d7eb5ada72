"""Writes what jobs came to and how long they took, and keeps what was written small."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

from oban_sync import telemetry
from oban_sync.core.config import Config
from oban_sync.core.errors import DatabaseUnavailableError
from oban_sync.core.job import JobState
from oban_sync.core.metering import (
    FINE_AGE,
    HOUR,
    HOUR_AGE,
    LONG,
    MINUTE,
    MINUTE_AGE,
    RAW_AGE,
    MetricsConfig,
)
from oban_sync.engine import metrics
from oban_sync.engine.metrics import Counted
from oban_sync.engine.retry import conflicts_retried
from oban_sync.engine.session import Db, Tx, is_refusal, reason
from oban_sync.plugins.broadcast import INTERVAL
from oban_sync.runtime.loop import Loop
from oban_sync.runtime.tally import MOST_CELLS, OTHER, Cell, Part, Tallies

log = logging.getLogger("oban_sync.plugins")

#: Periods that wait for PostgreSQL; of more, the oldest are given up. An hour, by default.
MOST_PERIODS = 360


def tallies_of(options: MetricsConfig) -> Tallies | None:
    """What producers count into, if they are to: by the second where somebody is told by then."""
    if not options.enabled:
        return None

    return Tallies(INTERVAL if options.broadcast else options.interval)


class Teller(Protocol):
    """Tells somebody else what was counted, each time that it is collected."""

    def tell(self, parts: Sequence[Part]) -> None:
        """Tell it; never raises."""
        ...


class Ledger:
    """What was counted and is yet to be written, by period.

    Args:
        slots: How many slots of the tallies a period has.
    """

    def __init__(self, slots: int = 1) -> None:
        self._slots = slots
        self._periods: dict[int, dict[tuple[str, str, JobState], Cell]] = {}

    def add(self, part: Part) -> None:
        """Count what a queue handed over."""
        cells = self._periods.setdefault(part.slot // self._slots, {})

        for key, cell in part.cells.items():
            worker, state = (key, JobState.COMPLETED) if isinstance(key, str) else key
            place = (part.queue, worker, state)

            if place not in cells and len(cells) >= MOST_CELLS:
                place = (part.queue, OTHER, state)

            # Into one of its own: whoever else is told of the part counts it as well.
            cells.setdefault(place, Cell()).add(cell)

    def periods(self) -> list[int]:
        """The numbers of the periods there are, oldest first."""
        return sorted(self._periods)

    def ended(self, slot: int) -> list[int]:
        """Of these, those that are over when this slot goes on."""
        return [number for number in self.periods() if (number + 1) * self._slots <= slot]

    def middle(self, number: int) -> float:
        """The middle of a period, as the number of a slot."""
        return (number + 0.5) * self._slots

    def rows(self, number: int) -> list[Counted]:
        """What was counted in a period."""
        return [
            Counted(queue, worker, state.value, cell.jobs, cell.ran, cell.waited)
            for (queue, worker, state), cell in self._periods[number].items()
        ]

    def forget(self, number: int) -> int:
        """A period is dealt with; how many jobs were counted in it."""
        return sum(cell.jobs for cell in self._periods.pop(number).values())


class Metrics(Loop):
    """Write what this node counts, once per period in which there was anything.

    The leader also sums up what all nodes wrote, and deletes what is old. While PostgreSQL cannot
    be reached everything waits, and is then written under the time it belongs to.

    Args:
        db: The loops' pool.
        tallies: What the node counts.
        config: The options of the node.
        node: What people call the node.
        leads: Whether this node leads.
        teller: Is told each time what was counted, if there is one.
    """

    #: Seconds past the end of a slot, so that producers have counted what ended with it.
    SLACK = 0.05

    #: Seconds that the last write waits for a connection.
    LAST_PATIENCE = 1.0

    def __init__(
        self,
        db: Db,
        tallies: Tallies,
        config: Config,
        *,
        node: str,
        leads: Callable[[], bool],
        teller: Teller | None = None,
    ) -> None:
        super().__init__("metrics", interval=tallies.length)
        self._db = db
        self._tallies = tallies
        self._name = config.name
        self._node = node
        self._teller = teller
        self._period = round(config.metrics.interval)
        self._ledger = Ledger(max(1, round(self._period / tallies.length)))
        self._upkeep = Upkeep(db, config, leads=leads, stopping=lambda: self.stopping)

    def tick(self) -> float | None:
        """Take what was counted, and write what is over."""
        parts = self._collect()

        if self._teller is not None:
            self._teller.tell(parts)

        self._write(self._db, self._ledger.ended(self._tallies.slot))

        self._upkeep.run_if_due()

        return self._tallies.seconds_left + self.SLACK

    def closed(self) -> None:
        """Write what is left, once."""
        self._collect()

        try:
            self._write(self._db.impatient(self.LAST_PATIENCE), self._ledger.periods())
        except DatabaseUnavailableError as error:
            left = sum(self._ledger.forget(number) for number in self._ledger.periods())
            log.warning("%d jobs are in no chart: %s", left, error)

    def _collect(self) -> list[Part]:
        parts = self._tallies.collect()

        for part in parts:
            self._ledger.add(part)

        if excess := self._ledger.periods()[:-MOST_PERIODS]:
            lost = sum(self._ledger.forget(number) for number in excess)
            log.warning("%d jobs are in no chart: PostgreSQL could not be reached for long", lost)

        return parts

    def _write(self, db: Db, numbers: Iterable[int]) -> None:
        for number in numbers:
            rows = self._ledger.rows(number)

            with telemetry.span("oban.metrics.write", name=self._name) as seen:
                seen(row_count=len(rows))

                try:
                    self._add(db, number, rows)
                except Exception as error:
                    if not is_refusal(error):
                        raise

                    # It would be refused again, and keep the others waiting.
                    log.warning("metrics of %g s are given up: %s", self._period, reason(error))

            self._ledger.forget(number)

    def _add(self, db: Db, number: int, rows: Sequence[Counted]) -> None:
        def work() -> None:
            age = self._tallies.age_of(self._ledger.middle(number))

            with db.session() as tx:
                metrics.add(
                    tx, rows, period=self._period, age=age, name=self._name, node=self._node
                )

        conflicts_retried(work)


#: What the leader does, the last ones after a minute more: who looks in the meantime at a span that
#: reaches just so far back finds short periods.
_SPREAD = partial(metrics.spread, after=RAW_AGE)
_SUMS = (
    partial(metrics.sum_up, period=MINUTE, after=FINE_AGE + MINUTE),
    partial(metrics.sum_up, period=HOUR, after=MINUTE_AGE + MINUTE),
    partial(metrics.sum_up, period=LONG, after=HOUR_AGE + MINUTE),
)


class Upkeep:
    """Keeps what all nodes counted small, on the node that leads: puts it where charts find
    it in few rows, sums it up, and deletes what is old.

    Args:
        db: The loops' pool.
        config: The options of the node.
        leads: Whether this node leads.
        stopping: Whether it is time to end.
    """

    #: Seconds between two rounds that spread what nodes wrote, and between two of all the others.
    SPREAD_INTERVAL = 15.0
    INTERVAL = 60.0

    def __init__(
        self, db: Db, config: Config, *, leads: Callable[[], bool], stopping: Callable[[], bool]
    ) -> None:
        self._db = db
        self._name = config.name
        self._keep = config.metrics.keep
        self._leads = leads
        self._stopping = stopping
        self._spread_at = time.monotonic() + self.SPREAD_INTERVAL
        self._due_at = time.monotonic() + self.INTERVAL

    def run_if_due(self) -> None:
        """Do a round, if it is time and this node leads."""
        now = time.monotonic()

        if now < min(self._spread_at, self._due_at) or not self._leads():
            return

        is_whole = now >= self._due_at
        # First: what fails would fail again at every tick.
        self._spread_at = now + self.SPREAD_INTERVAL

        if is_whole:
            self._due_at = now + self.INTERVAL

        with telemetry.span("oban.metrics.sum", name=self._name) as seen:
            summed = pruned = 0
            seen(summed_count=0, pruned_count=0)

            for work in (_SPREAD, *(_SUMS if is_whole else ())):
                for rows in self._batches(work):
                    summed += rows
                    seen(summed_count=summed)

            if is_whole:
                for rows in self._batches(partial(metrics.prune, keep=self._keep)):
                    pruned += rows
                    seen(pruned_count=pruned)

    def _batches(self, work: Callable[[Tx], int]) -> Iterable[int]:
        """Do something until it finds no whole batch; how much it found each time."""
        more = True

        while more and not self._stopping() and self._leads():

            def once() -> int:
                with self._db.transaction() as tx:
                    return work(tx)

            rows = conflicts_retried(once)
            more = rows >= metrics.BATCH

            yield rows
