"""Starts the parts in order, all or none, and stops them in reverse within one deadline."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from threading import Thread

from oban_sync.runtime.loop import Loop
from oban_sync.runtime.notifier import Notifier
from oban_sync.runtime.producer import Producer
from oban_sync.runtime.stager import Stager

log = logging.getLogger("oban_sync.runtime")

#: Seconds past the grace period in which what finished is still written.
FLUSH_PERIOD = 2.0

#: Seconds past the grace period after which a stop waits for nothing more. A last statement may
#: have been waiting for a connection when the flush period ended.
END_PERIOD = 3.5

#: Seconds a loop gets to end that only has to finish its statement.
LOOP_PERIOD = 2.5

#: Seconds a start waits for the notifier; without it, jobs are found by polling.
READY_PERIOD = 5.0


class Supervisor:
    """The running parts of one Oban.

    Started: notifier, producers, stager. Stopped: producers go quiet first; then the stager ends,
    the producers drain, and the notifier ends last.
    """

    def __init__(self, notifier: Notifier, producers: Sequence[Producer], stager: Stager) -> None:
        self._notifier = notifier
        self._producers = producers
        self._stager = stager
        self._deadline = float("inf")

    def start(self) -> None:
        """Start every part; when one cannot be started, stop those that were and raise."""
        try:
            self._notifier.start()

            if not self._notifier.ready.wait(READY_PERIOD):
                log.warning("notifier is not ready yet; until it is, jobs are found by polling")

            for producer in self._producers:
                producer.start()

            self._stager.start()
        except BaseException:
            self.stop(grace=0.0)
            raise

    def stop(self, *, grace: float) -> bool:
        """Stop every part; running jobs may finish within `grace` seconds.

        Returns within grace + 5 seconds, with the database up or down. Another call, from any
        thread, may shorten the grace of one in progress.

        Returns:
            Whether every thread has ended.
        """
        self.hasten(grace=grace)

        for producer in self._producers:
            producer.quiet()

        ended = self._ended(self._stager)

        for producer in self._producers:
            producer.drain(deadline=self._deadline, flush_deadline=self._deadline + FLUSH_PERIOD)

        ended &= self._joined()
        ended &= self._ended(self._notifier)

        return ended

    def hasten(self, *, grace: float) -> None:
        """Bring the deadline of a stop forward to `grace` seconds from now."""
        deadline = time.monotonic() + grace

        if deadline < self._deadline:
            self._deadline = deadline

            for producer in self._producers:
                if producer.stopping:
                    producer.drain(deadline=deadline, flush_deadline=deadline + FLUSH_PERIOD)

    def runs_on(self, thread: Thread) -> bool:
        """Whether a thread is one of these parts', or runs one of their jobs."""
        parts: list[Loop] = [self._notifier, self._stager, *self._producers]

        return any(part.runs_on(thread) for part in parts)

    def _joined(self) -> bool:
        # The deadline is read anew for each, since another call may have brought it forward.
        return all([item.join(self._deadline + END_PERIOD) for item in self._producers])

    def _ended(self, loop: Loop) -> bool:
        loop.request_stop()
        now = time.monotonic()

        # A loop has only to finish its statement; past the end of it all, nothing is waited for.
        return loop.join(min(now + LOOP_PERIOD, max(self._deadline + END_PERIOD, now + 0.1)))
