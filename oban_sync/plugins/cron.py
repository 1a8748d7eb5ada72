"""Inserts the jobs of cron entries at their times, on the node that leads."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from oban_sync import telemetry
from oban_sync.core import cron
from oban_sync.core.cron import Due, Entry
from oban_sync.core.crontab import SchedulerConfig
from oban_sync.core.errors import ConfigError, DatabaseUnavailableError, SchemaError
from oban_sync.engine import crons
from oban_sync.engine.crons import Settled, Stored
from oban_sync.engine.retry import conflicts_retried, until_available
from oban_sync.engine.session import Db
from oban_sync.runtime.loop import Loop

log = logging.getLogger("oban_sync.plugins")

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Plan:
    row: Stored
    due: Due
    is_reboot: bool = False


@dataclass(slots=True)
class _Tally:
    inserted: int = 0
    skipped: int = 0
    late: float = 0.0
    failed: bool = False
    left_over: bool = False

    def count(self, settled: Settled | None, late: float = 0.0) -> None:
        if settled is None:
            return

        if settled.outcome == "inserted":
            self.inserted += 1
            self.late = max(self.late, late)
        else:
            self.skipped += 1


class Scheduler(Loop):
    """Settle every time of every entry: insert its job, or write down why not.

    Which entries there are is in the table. Every node writes those of its own code there when it
    starts; the leader schedules all that were made at run time or stand in the code of a node that
    lives, whether it knows their workers or not. The time is the database's.

    A time is settled once, whoever believes to lead. Those that were missed, by a failover or an
    outage, are made up for as `catch_up` says. An entry that cannot be read, or whose job is
    refused, does not hold up the others.

    Args:
        db: Where the tables are.
        name: The Oban instance.
        node: What people call this node.
        entries: Those of this node's code.
        leads: Whether this node leads, at the moment of asking.
        founded_at: When the cluster started, if that was just now; asked until it says so.
    """

    #: Seconds between looks of a node that does not lead; the election wakes it.
    INTERVAL = 60.0

    #: Times of one entry that are settled in one round, so that a long catching up of one does not
    #: make the others late.
    BATCH = 20

    #: Seconds that a minute of the database's clock takes; less where a test has it run.
    MINUTE = 60.0

    #: Seconds after a minute's start at which it is looked for what is due: timers may be early.
    GRACE = 0.005

    #: Seconds until another try, when an entry was locked or a statement timed out; doubles up to
    #: the longest.
    FIRST_RETRY = 1.0
    LONGEST_RETRY = 32.0

    #: Seconds between rounds of forgetting old times, and most of them in one round.
    PRUNE_INTERVAL = 3_600.0
    PRUNE_BATCH = 5_000

    def __init__(
        self,
        db: Db,
        name: str,
        node: str,
        entries: Sequence[Entry],
        options: SchedulerConfig,
        *,
        leads: Callable[[], bool],
        founded_at: Callable[[], datetime | None],
    ) -> None:
        super().__init__("scheduler", interval=self.INTERVAL)
        self._db = db
        self._oban = name
        self._node = node
        self._entries = {entry.name: entry for entry in entries}
        self._options = options
        self._leads = leads
        self._founded_at = founded_at
        self._declared = not entries
        # Up to when the times of an entry are known to be settled, so that quiet entries are not
        # looked through for the whole window every minute; and since when the entry is as it was.
        self._settled: dict[str, tuple[datetime, datetime]] = {}
        self._reboots: set[str] | None = None
        self._started_at = datetime.max
        self._complaints: dict[str, str] = {}
        self._retry = self.FIRST_RETRY
        self._prune_after = 0.0

    def tick(self) -> float | None:
        """Declare this node's entries, once; settle what is due, when leading."""
        if not self._declared:
            self._reach(self._declare)
            self._declared = True

        if not self._leads():
            self._settled.clear()

            return None

        with telemetry.span("oban.scheduler.evaluate") as seen:
            return self._evaluate(seen)

    def _evaluate(self, seen: Callable[..., None]) -> float | None:
        rows, now, read_at = self._reach(self._read)
        plans = self._plans(rows, now)
        tally = _Tally()
        seen(inserted_count=0, skipped_count=0, late=0.0)

        # Those with the most to catch up come last: the others are to be on time.
        for plan in sorted(plans, key=lambda plan: len(plan.due.times)):
            self._carry_out(plan, now, tally)
            seen(inserted_count=tally.inserted, skipped_count=tally.skipped, late=tally.late)

            if self._over:
                return None

        self._prune()

        if tally.left_over:
            return 0.0

        # The minute after the one that was looked at, which may have begun during the work.
        left = self.MINUTE * (1.0 - (now.second + now.microsecond / 1e6) / 60.0)
        pause = max(0.0, left - (time.monotonic() - read_at)) + self.GRACE

        if not tally.failed:
            self._retry = self.FIRST_RETRY

            return pause

        retry, self._retry = self._retry, min(2 * self._retry, self.LONGEST_RETRY)

        return min(pause, retry)

    @property
    def _over(self) -> bool:
        return self.stopping or not self._leads()

    def _plans(self, rows: list[Stored], now: datetime) -> list[_Plan]:
        plans = []
        reboots = []

        for row in rows:
            if not (row.dynamic or row.declared or row.entry in self._entries):
                continue

            try:
                entry = row.read()
                due = cron.due(
                    entry,
                    after=self._settled_upto(row, now),
                    now=now,
                    window=self._options.catch_up_window,
                )
            except Exception as error:
                self._complain(row.entry, "cannot be scheduled", error)
                continue

            if entry.expression.is_reboot:
                reboots.append(row)
            else:
                plans.append(_Plan(row, due))

        return [*plans, *self._plans_of_the_start(reboots)]

    def _settled_upto(self, row: Stored, now: datetime) -> datetime:
        # What an edit made of the entry was not looked through yet.
        since, moment = self._settled.get(row.entry, (None, row.since))
        # Of a clock that had run ahead; what it settled too early stays settled.
        last_at = row.last_at if row.last_at is not None and row.last_at <= now else row.since

        return max(row.since, last_at, moment if since == row.since else row.since)

    def _plans_of_the_start(self, rows: list[Stored]) -> list[_Plan]:
        """Once per start of the cluster, for the entries that there are at the first look."""
        if self._reboots is None and (moment := self._founded_at()) is not None:
            self._reboots = {row.entry for row in rows}
            self._started_at = moment

        due = Due([self._started_at])

        return [_Plan(row, due, is_reboot=True) for row in rows if row.entry in self._pending]

    @property
    def _pending(self) -> set[str]:
        return set() if self._reboots is None else self._reboots

    def _carry_out(self, plan: _Plan, now: datetime, tally: _Tally) -> None:
        row, due = plan.row, plan.due

        try:
            if due.passed_at is not None:
                tally.count(self._settle(row, due.passed_at, 0.0, self._passed(row, due)))

            for due_at in due.times[: self.BATCH]:
                if self._over:
                    return

                late = 0.0 if plan.is_reboot else (now - due_at).total_seconds()
                tally.count(self._settle(row, due_at, late, None), late)
        except (DatabaseUnavailableError, SchemaError):
            raise
        except Exception as error:
            tally.failed = True
            self._complain(row.entry, "could not be settled and is tried again", error)

            return

        self._complaints.pop(row.entry, None)

        if plan.is_reboot:
            self._pending.discard(row.entry)
        elif len(due.times) > self.BATCH:
            tally.left_over = True
        else:
            self._settled[row.entry] = (row.since, now)

    def _passed(self, row: Stored, due: Due) -> str:
        count = f"{due.passed} or more" if due.more else f"{due.passed}"
        log.warning("cron entry %s: times missed and not made up for: %s", row.entry, count)

        return f"missed and not made up for; such times up to this one: {count}"

    def _settle(
        self, row: Stored, due_at: datetime, late: float, skip: str | None
    ) -> Settled | None:
        def settle() -> Settled | None:
            with self._db.transaction() as tx:
                return crons.settle(
                    tx, self._oban, row, due_at, node=self._node, late=late, skip=skip
                )

        return self._reach(settle)

    def _declare(self) -> None:
        with self._db.transaction() as tx:
            crons.declare(tx, self._oban, self._entries.values())

    def _read(self) -> tuple[list[Stored], datetime, float]:
        with self._db.session() as tx:
            rows = crons.list_entries(tx, self._oban)

            return rows, crons.now(tx), time.monotonic()

    def _prune(self) -> None:
        if time.monotonic() < self._prune_after:
            return

        def prune() -> int:
            with self._db.session() as tx:
                max_age = self._options.keep_slots

                return crons.prune(tx, self._oban, max_age=max_age, most=self.PRUNE_BATCH)

        try:
            full = self._reach(prune) >= self.PRUNE_BATCH
        except (DatabaseUnavailableError, SchemaError):
            raise
        except Exception:
            log.exception("old times of cron entries could not be forgotten")
            full = False

        # After a full batch there is more, but the next minute is soon enough.
        self._prune_after = 0.0 if full else time.monotonic() + self.PRUNE_INTERVAL

    def _reach(self, work: Callable[[], Result]) -> Result:
        return until_available(
            lambda: conflicts_retried(work), stopping=self._stopping, what=self.name, log=log
        )

    def _complain(self, entry: str, what: str, error: Exception) -> None:
        """Log what is wrong with an entry, once for as long as it is the same."""
        text = f"{what}: {error}"

        if self._complaints.get(entry) != text:
            self._complaints[entry] = text
            unexpected = None if isinstance(error, ConfigError) else error
            log.error("cron entry %s %s", entry, text, exc_info=unexpected)
