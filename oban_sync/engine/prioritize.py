"""Raising the priority of jobs that wait, in statements that each do a bounded amount of work.

A round goes through the waiting jobs once, by queue and from the first priority to the last. What
it raises ends up behind it, so it meets no job twice, and dead rows are not gone through again.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import psycopg

from oban_sync.core.ageing import PrioritizerConfig
from oban_sync.engine import ack
from oban_sync.engine.prune import Aside
from oban_sync.engine.session import Db, is_busy, is_refusal, reason

log = logging.getLogger("oban_sync.engine")

_START = ("-infinity", 0)


@dataclass(frozen=True, slots=True)
class Raised:
    """What one step did.

    Attributes:
        count: Jobs that gained priority.
        refused: Jobs that PostgreSQL would not let us change, and are left out for a while.
        more: Whether the round goes on; otherwise the next step begins another one.
    """

    count: int = 0
    refused: int = 0
    more: bool = False


class Round:
    """Rounds through the waiting jobs of all queues, one after another.

    Args:
        config: Which jobs, and how far they rise.
    """

    def __init__(self, config: PrioritizerConfig) -> None:
        self._config = config
        self._aside = Aside()
        self.restart()

    def restart(self) -> None:
        """Forget where the round stands; the next step begins it anew."""
        self._size = self._config.limit
        #: Queues and priorities still to go through; None before the first look.
        self._left: list[tuple[str, int]] | None = None
        self._after = _START
        #: Jobs that were looked at and have waited, with their waits.
        self._pending: list[tuple[int, float]] = []
        self._is_full = False

    def step(self, db: Db) -> Raised:
        """Look for jobs, or raise up to `limit` of those found.

        A job that PostgreSQL refuses to change, or that cannot be changed in time, is found and
        left out for an hour, and its neighbours are raised.

        Raises:
            DatabaseUnavailableError: The connection was lost. The next step goes on where this one
                was; no job gains a step twice.
        """
        if self._left is None:
            self._left = self._look_for_priorities(db)

        if self._left and not self._pending:
            self._look(db, *self._left[0])

        count, refused = self._raise(db, self._left[0][1]) if self._pending else (0, 0)

        if not self._pending and self._left and not self._is_full:
            del self._left[0]
            self._after = _START

        if self._left:
            return Raised(count, refused, more=True)

        self.restart()

        return Raised(count, refused)

    def _look_for_priorities(self, db: Db) -> list[tuple[str, int]]:
        if self._config.least_wait == math.inf:
            return []

        with db.session() as tx:
            found = tx.tuples(
                "job_priority_list",
                max_priority=self._config.max_priority,
                least_wait=self._config.least_wait,
            )

        return [
            (queue, priority)
            for queue, priority in found
            if self._config.waits(queue).least < math.inf
        ]

    def _look(self, db: Db, queue: str, priority: int) -> None:
        waits = self._config.waits(queue)
        after, after_id = self._after

        with db.session() as tx:
            [(ids, own, seen, last, last_id)] = tx.tuples(
                "job_waiting_list",
                queue=queue,
                priority=priority,
                after=after,
                after_id=after_id,
                most=self._config.limit,
                workers=list(waits.workers),
                worker_waits=list(waits.workers.values()),
                wait=waits.others,
                least_wait=waits.least,
            )

        self._pending = [
            (job_id, wait)
            for job_id, wait in zip(ids, own, strict=True)
            if job_id not in self._aside
        ]
        self._is_full = seen >= self._config.limit

        if last is not None:
            self._after = (last, last_id)

    def _raise(self, db: Db, priority: int) -> tuple[int, int]:
        """Raise some of the pending jobs: how many were, and how many refused.

        After a failure fewer are tried, down to the one that caused it, and then more again.
        """
        batch = self._pending[: self._size]

        try:
            with db.session() as tx:
                count = tx.run(
                    "job_raise",
                    ids=ack.array(job_id for job_id, _ in batch),
                    waits="{" + ",".join(repr(wait) for _, wait in batch) + "}",
                    priority=priority,
                    max_priority=self._config.max_priority,
                    interval=self._config.interval,
                )
        except psycopg.Error as error:
            if not _is_of_a_row(error):
                raise

            self._size = max(1, len(batch) // 2)

            if len(batch) > 1:
                return 0, 0

            self._aside.add(batch[0][0])
            log.error(
                "job %s cannot gain priority, set aside for an hour: %s", batch[0][0], reason(error)
            )
            del self._pending[0]

            return 0, 1

        del self._pending[: len(batch)]
        self._size = min(self._config.limit, self._size * 2)

        return count, 0


def _is_of_a_row(error: psycopg.Error) -> bool:
    """Whether a statement about fewer jobs might do better."""
    if isinstance(error, psycopg.errors.InsufficientPrivilege) and not error.diag.context:
        return False

    return is_refusal(error) or is_busy(error) or isinstance(error, psycopg.errors.QueryCanceled)
