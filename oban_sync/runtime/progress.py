"""What a run says of its progress, and when it is written while the run goes on.

It is not written each time it is said. What was said last goes with the outcome, so that nothing
depends on these writes: one that fails is logged, and the job never hears of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime
from threading import Lock

from oban_sync import telemetry
from oban_sync.core import clock
from oban_sync.core.job import Job
from oban_sync.core.progress import Progress, note_of, steps
from oban_sync.engine import progress
from oban_sync.engine.session import Db, reason

log = logging.getLogger("oban_sync.runtime")

#: Seconds between two writes for a job.
INTERVAL = 0.5

#: Seconds until the next one after one that failed.
PAUSE = 10.0


class Report:
    """What one run has said. Told from any thread of the job.

    Args:
        job: The job as it was started.
        db: Where the tables are, as the calling thread sees them; None for nowhere.
        now: The monotonic clock.
    """

    __slots__ = (
        "_attempt",
        "_db",
        "_due",
        "_failed",
        "_job",
        "_key",
        "_now",
        "_over",
        "_owner",
        "_said",
        "_writing",
    )

    def __init__(
        self, job: Job, db: Callable[[], Db | None], *, now: Callable[[], float] = time.monotonic
    ) -> None:
        # Looked up now, because the job may change every field of what it is given. One that has
        # no row, as in a test of its worker alone, is told but not written.
        self._key = getattr(job, "key", None)
        self._owner = job.attempted_by[1] if len(job.attempted_by) > 1 else None
        self._attempt = job.attempt
        self._job = job
        self._db = db
        self._now = now
        self._due = now()
        self._over = self._failed = False
        self._said: tuple[float, float | None, str | None, datetime] | None = None
        self._writing = Lock()

    @property
    def last(self) -> Progress | None:
        """What it said last."""
        return None if (said := self._said) is None else Progress(*said, self._attempt)

    def tell(self, done: float, total: float | None, note: str | None) -> None:
        """Take what the job says, and write it where it is time for that.

        Raises:
            InvalidJobError: A number is below 0 or none, or the note is no text.
        """
        said = (
            steps("done", done),
            None if total is None else steps("total", total),
            None if note is None else note_of(note),
            clock.utc_now(),
        )

        if self._over:
            return

        self._said = said

        # The hot path: a loop tells it thousands of times in between. A thread that comes while
        # another one writes leaves it at that.
        if self._now() < self._due or not self._writing.acquire(blocking=False):
            return

        try:
            if self._now() >= self._due:
                self._write()
        finally:
            self._writing.release()

    def end(self) -> Progress | None:
        """Take no more; what it said last."""
        self._over = True

        return self.last

    def _write(self) -> None:
        told, written = self.last, False

        if self._key is None or self._owner is None or told is None or self._job.is_disowned:
            return

        pause = INTERVAL

        try:
            if (db := self._db()) is not None:
                written = progress.write(db, self._key, told, owner=self._owner)
        except Exception as error:
            pause = PAUSE
            self._tell_of(error)
        finally:
            # From the end: where it takes long, the job has more to do than to tell of itself.
            self._due = self._now() + pause

        if written:
            telemetry.emit(
                "oban.job.progress",
                {"job": self._job, "done": told.done, "total": told.total, "note": told.note},
            )

    def _tell_of(self, error: Exception) -> None:
        level = logging.DEBUG if self._failed else logging.WARNING
        self._failed = True
        log.log(
            level,
            "the progress of %r could not be written, and is kept until its end: %s",
            self._job,
            reason(error),
        )
