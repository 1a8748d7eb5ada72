"""What a lost connection may have taken: jobs that are executing, and that nobody here knows."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from oban_sync.core.job import Job
from oban_sync.core.outcome import Outcome
from oban_sync.engine import ack
from oban_sync.engine.session import Db

log = logging.getLogger("oban_sync.runtime")

#: Seconds for which a statement may go on whose connection is lost: the statement timeout of the
#: loops' connections, and a little more.
UNSURE_PERIOD = 12.0

#: Seconds before another try at rows that another transaction held.
RETRY_PAUSE = 0.2


class Doubts:
    """Of one producer: whether it may have been given jobs that it never heard of.

    Attributes:
        until: When the last look at them is due, on the monotonic clock; 0 without a doubt.
    """

    __slots__ = ("_given_up", "until")

    def __init__(self) -> None:
        self.until = 0.0
        self._given_up: list[ack.Key] = []

    def begin(self) -> None:
        """A statement was cut off, and PostgreSQL may still be at it: it notices a lost client
        only when it answers.
        """
        self.until = time.monotonic() + UNSURE_PERIOD

    def gave_up(self, outcomes: Iterable[Outcome]) -> None:
        """These could not be written in any form, so their jobs stay executing."""
        self._given_up.extend(outcome.job.key for outcome in outcomes)

    @property
    def due(self) -> bool:
        """Whether the last look is due."""
        return 0.0 < self.until <= time.monotonic()

    def reconcile(
        self, db: Db, *, queue: str, owner: str, running: Iterable[Job], outcomes: Iterable[Outcome]
    ) -> None:
        """Hand back what the table says this producer runs, and nobody here knows."""
        settled = time.monotonic() >= self.until
        known = [job.key for job in running]
        known += [outcome.job.key for outcome in outcomes]
        known += self._given_up
        back, all_of_them = ack.reconcile(db, queue=queue, owner=owner, known=known)

        if not all_of_them:
            self.until = max(self.until, time.monotonic() + RETRY_PAUSE)
        elif settled:
            self.until = 0.0

        if back:
            log.warning("queue %r handed back %d jobs whose fetch was cut off", queue, len(back))
