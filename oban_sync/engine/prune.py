"""Deleting finished jobs, in short statements that each do a bounded amount of work.

A sweep goes along the index of one state by time. Where it stands it remembers itself, so that
neither the jobs that are kept nor the dead rows of those deleted are gone through again and again.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass

import psycopg

from oban_sync.core.retention import Scope
from oban_sync.engine import ack
from oban_sync.engine.session import Db, is_busy, is_refusal, reason

log = logging.getLogger("oban_sync.engine")

#: Seconds for which a job that cannot be deleted is left out. What refuses is a foreign key mostly,
#: which does not go away in a minute, and there may be as many such jobs as the application likes.
ASIDE_PERIOD = 3_600.0

#: Jobs left out at the most; any further ones are tried in every sweep.
MOST_ASIDE = 100_000

#: Fewest jobs looked at by one statement, however few are to be deleted by one.
LEAST_WINDOW = 1_000

#: Seconds of looking at jobs in vain that a sweep may cost without a rest, and how many times as
#: long it rests after more: a twentieth of one connection goes into what cannot be deleted.
FREE_WASTE = 1.0
REST_FACTOR = 20.0
LONGEST_REST = 3_600.0

#: Seconds within which a statement has to end for the next to take on more.
QUICK = 1.0

_START = "-infinity"
_END = "infinity"


class Aside:
    """Jobs that PostgreSQL would not let us delete, left out for a while."""

    def __init__(self) -> None:
        self._until: dict[int, float] = {}

    def __contains__(self, job_id: int) -> bool:
        until = self._until.get(job_id)

        if until is None:
            return False

        if until > time.monotonic():
            return True

        del self._until[job_id]

        return False

    def add(self, job_id: int) -> None:
        """Leave a job out from now on."""
        if len(self._until) >= MOST_ASIDE:
            now = time.monotonic()
            self._until = {key: until for key, until in self._until.items() if until > now}

        if len(self._until) < MOST_ASIDE:
            self._until[job_id] = time.monotonic() + ASIDE_PERIOD


@dataclass(frozen=True, slots=True)
class Pruned:
    """What one step did.

    Attributes:
        count: Jobs deleted.
        refused: Jobs that could not be deleted, and are left out for a while.
        more: Whether the sweep goes on; otherwise it has come to its end, and the next step begins
            another one.
    """

    count: int = 0
    refused: int = 0
    more: bool = False


class Sweep:
    """Passes over the finished jobs of a scope, oldest first, one after another.

    Args:
        scope: Which jobs.
        limit: Most jobs deleted by one statement.
        aside: Jobs to leave out; several sweeps share it.
    """

    def __init__(self, scope: Scope, *, limit: int, aside: Aside) -> None:
        self._scope = scope
        self._limit = limit
        self._aside = aside
        self._rest_until = 0.0
        self.restart()

    def restart(self) -> None:
        """Forget where the sweep stands; the next step begins it anew."""
        self._window = max(self._limit, LEAST_WINDOW)
        self._size = self._limit
        self._pending: list[int] = []
        self._after = self._last = _START
        self._full = True
        self._progress = False
        self._wasted = 0.0
        self._refused = 0
        # With a number to keep: what is too many is found first, from the newest one on.
        self._keep = self._scope.keep
        self._before = _END
        self._upto: str | None = None
        self._upto_id: int | None = None

    def step(self, db: Db) -> Pruned:
        """Delete up to `limit` jobs, or look for some.

        A job that PostgreSQL refuses to delete, or that cannot be deleted in time, is found and
        left out for an hour, and its neighbours are deleted.

        Raises:
            DatabaseUnavailableError: The connection was lost; the jobs may or may not be deleted.
                The next step goes on where this one was.
        """
        if time.monotonic() < self._rest_until:
            return Pruned()

        try:
            if self._keep is not None:
                return self._look_for_head(db, self._keep)

            if not self._pending:
                self._look(db)
        except psycopg.errors.QueryCanceled as error:
            log.warning(
                "%s jobs could not be looked through, trying again in a minute: %s",
                self._scope.state,
                reason(error),
            )
            self.restart()
            self._rest_until = time.monotonic() + 60.0

            return Pruned()

        count, refused = self._delete(db) if self._pending else (0, 0)
        self._progress |= count > 0
        more = bool(self._pending) or self._advance()

        if not more:
            self._end()

        return Pruned(count, refused, more)

    def _look_for_head(self, db: Db, keep: int) -> Pruned:
        started = time.monotonic()

        with db.session() as tx:
            [(seen, edge, newer, upto, upto_id)] = tx.tuples(
                "job_surplus_head",
                state=self._scope.state,
                before=self._before,
                most=self._window,
                keep=keep,
                **self._ages(),
            )

        self._wasted += time.monotonic() - started

        if upto is not None:
            self._upto, self._upto_id = upto, upto_id
            self._keep = None
        elif seen < self._window:
            self._end()

            return Pruned()
        elif edge == self._before:
            # They all ended at one moment, and only together can they be put in order.
            self._window *= 2
        else:
            self._keep = keep - newer
            self._before = edge

        return Pruned(more=True)

    def _look(self, db: Db) -> None:
        started = time.monotonic()

        with db.session() as tx:
            [(ids, seen, last)] = tx.tuples(
                "job_prunable_list",
                state=self._scope.state,
                after=self._after,
                most=self._window,
                least_age=self._scope.least_age,
                upto=self._upto,
                upto_id=self._upto_id,
                **self._ages(),
            )

        self._pending = [job_id for job_id in ids or () if job_id not in self._aside]
        self._full = seen >= self._window
        self._last = last or self._after
        self._progress = False

        if seen:
            share = 1.0 - len(self._pending) / seen
            self._wasted += (time.monotonic() - started) * share

    def _advance(self) -> bool:
        """Go on to the jobs after those just looked at; whether there may be any."""
        if self._last != self._after:
            self._after = self._last
            self._window = max(self._limit, LEAST_WINDOW)
        elif not self._progress:
            # More jobs than fit into the window ended at one moment, and all of those seen stay.
            self._window *= 2

        return self._full

    def _end(self) -> None:
        if self._refused > 1:
            log.error(
                "%d more %s jobs cannot be deleted either", self._refused - 1, self._scope.state
            )

        rest = min(LONGEST_REST, REST_FACTOR * self._wasted)
        self._rest_until = time.monotonic() + (rest if self._wasted > FREE_WASTE else 0.0)
        self.restart()

    def _delete(self, db: Db) -> tuple[int, int]:
        """Delete some of the pending jobs: how many were, and how many refused.

        After a failure fewer are tried, down to the one that caused it, and then more again.
        """
        batch = self._pending[: self._size]
        started = time.monotonic()

        try:
            with db.session() as tx:
                count = tx.run(
                    "job_prune", ids=ack.array(batch), state=self._scope.state, upto=self._last
                )
        except psycopg.Error as error:
            if not _is_of_a_row(error):
                raise

            self._wasted += time.monotonic() - started
            self._size = max(1, len(batch) // 2)

            if (culprit := _culprit(error, batch)) is None:
                return 0, 0

            self._set_aside(culprit, error)
            self._pending.remove(culprit)

            return 0, 1

        del self._pending[: len(batch)]

        if time.monotonic() - started < QUICK:
            self._size = min(self._limit, self._size * 2)

        return count, 0

    def _set_aside(self, job_id: int, error: psycopg.Error) -> None:
        self._aside.add(job_id)
        self._refused += 1
        # There may be thousands, all for one reason.
        log.log(
            logging.ERROR if self._refused == 1 else logging.DEBUG,
            "job %s cannot be deleted, set aside for an hour: %s",
            job_id,
            reason(error),
        )

    def _ages(self) -> dict[str, object]:
        return {
            "queues": list(self._scope.queues),
            "queue_ages": list(self._scope.queues.values()),
            "workers": list(self._scope.workers),
            "worker_ages": list(self._scope.workers.values()),
            "age": self._scope.age,
        }


def _is_of_a_row(error: psycopg.Error) -> bool:
    """Whether a statement about fewer jobs might do better."""
    if isinstance(error, psycopg.errors.InsufficientPrivilege) and not error.diag.context:
        return False

    return is_refusal(error) or is_busy(error) or isinstance(error, psycopg.errors.QueryCanceled)


def _culprit(error: psycopg.Error, batch: list[int]) -> int | None:
    """Which job of a batch caused an error; None where that has to be found by trying."""
    if len(batch) == 1:
        return batch[0]

    # The name of the table, too: a row deleted along with the job may have been what was refused.
    if (
        isinstance(error, psycopg.errors.ForeignKeyViolation)
        and '"oban_jobs"' in (error.diag.message_primary or "")
        and (found := re.search(r"\(id\)=\((\d+)\)", error.diag.message_detail or ""))
        and (job_id := int(found[1])) in batch
    ):
        return job_id

    return None
