"""The lines of one run of a job, until they are written; and how they are masked."""

from __future__ import annotations

import logging
import time
from collections import deque
from contextlib import suppress
from dataclasses import replace
from threading import RLock, local

from oban_sync.core.job import Job
from oban_sync.core.job_logs import Line, LogsConfig, Mask, Written

log = logging.getLogger("oban_sync.runtime")

#: Seconds between two writes, while there is something to write.
INTERVAL = 0.5

#: Seconds between two writes for one run that goes on.
FOLLOW_INTERVAL = 2.0


class Run:
    """The lines of one run. Filled by any thread of the job, read by the loop.

    Args:
        config: How many there may be.
        taken: What it has from the beginning on, and what it is the run of.
        job: The job, while it runs.

    Attributes:
        size: The bytes that its lines count for.
        unwritten: Whether there are lines that were not taken yet.
        due_at: When they are to be taken, on the monotonic clock, while the run goes on.
    """

    __slots__ = (
        "_config",
        "_dropped",
        "_known",
        "_lines",
        "_lock",
        "due_at",
        "job",
        "size",
        "unwritten",
    )

    def __init__(self, config: LogsConfig, taken: Written, job: Job | None = None) -> None:
        self.job = job
        self.size = sum(line.size for line in taken.lines)
        self.unwritten = bool(taken.lines)
        # A short run is over by then, and written once.
        self.due_at = time.monotonic() + INTERVAL
        self._known = taken
        self._config = config
        self._lines = deque(taken.lines)
        self._dropped = taken.dropped
        # One that may be taken again: an object that is collected meanwhile may log at its end.
        self._lock = RLock()

    @property
    def key(self) -> tuple[int, int]:
        """The id and the start of the run."""
        return self._known.key

    def add(self, line: Line) -> None:
        """Add a line; where there is no room for it, the oldest ones go."""
        size, lines, config = line.size, self._lines, self._config

        with self._lock:
            lines.append(line)
            self.size += size

            while len(lines) > config.most_lines or (
                self.size > config.most_bytes and len(lines) > 1
            ):
                self.size -= lines.popleft().size
                self._dropped += 1

            self.unwritten = True

    def lose(self, dropped: int) -> None:
        """Note lines that were dropped elsewhere."""
        with self._lock:
            self._dropped += dropped

    def taken(self, *, all_of_it: bool) -> Written:
        """What is to be written now.

        Args:
            all_of_it: Its lines stay here, and are written again with those to come. Else they are
                forgotten: somebody else puts them together.
        """
        with self._lock:
            self.unwritten = False
            self.due_at = time.monotonic() + FOLLOW_INTERVAL
            taken = replace(self._known, lines=list(self._lines), dropped=self._dropped)

            if not all_of_it:
                self._lines.clear()
                self._dropped = self.size = 0

        return taken


class _Here(local):
    #: Whether this thread masks a line.
    masks = False


class Masking:
    """Calls what the application masks lines by; whatever that does, it fails no job.

    Args:
        mask: What the application gave.
    """

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._here = _Here()
        self._failed = False

    def __call__(self, text: str) -> str | None:
        """The text as it is to be kept; None where nothing of it is."""
        # What it logs itself would come here again, and again.
        if self._here.masks:
            return None

        self._here.masks = True

        try:
            masked = self._mask(text)
        except Exception as error:
            # Not with its message, which may hold what is to be masked.
            self._tell(f"it raised {type(error).__name__}")
        else:
            if masked is None or isinstance(masked, str):
                return masked

            self._tell(f"it gave {type(masked).__name__}, and no text")
        finally:
            self._here.masks = False

        return None

    def _tell(self, why: str) -> None:
        # Once: there may be thousands, all for one reason.
        if not self._failed:
            self._failed = True

            with suppress(Exception):
                log.warning("lines that jobs log are left out, by logs.mask: %s", why)
