"""The base of every background thread."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread, current_thread
from typing import Any

from oban_sync import telemetry
from oban_sync.core.errors import DatabaseUnavailableError
from oban_sync.engine.session import is_busy, reason

log = logging.getLogger("oban_sync.runtime")


class Loop:
    """Call `tick` on a thread of its own, every `interval` seconds and when woken, until stopped.

    A subclass writes `tick`, and perhaps `opened` and `closed`, which run on the same thread before
    the first and after the last tick. A wake that arrives during a tick causes another one; several
    merge. A tick that raises is logged and tried again after a growing pause: nothing kills the
    thread but a stop.
    """

    #: Share of the interval added or removed at random, so that nodes do not tick in step.
    JITTER = 0.1

    #: Seconds before the first new try after a failure; doubles up to the longest.
    FIRST_PAUSE = 0.1
    LONGEST_PAUSE = 2.0

    #: Seconds after which a loop looks again in any case, whatever it was told to wait for.
    LONGEST_REST = 3_600.0

    def __init__(self, name: str, *, interval: float) -> None:
        self.name = name
        self.interval = interval
        self._stopping = Event()
        self._wakened = Event()
        self._failures = 0
        self._thread: Thread | None = None

    def tick(self) -> float | None:
        """Do one round of work; return seconds until the next, or None for `interval`."""
        raise NotImplementedError

    def opened(self) -> None:
        """Make what only this thread uses."""

    def closed(self) -> None:
        """Give up what `opened` and the ticks made."""

    def start(self) -> None:
        """Start the thread; the first tick follows at once."""
        # A daemon, because the interpreter must be able to exit without a stop.
        thread = Thread(target=self._run, name=f"oban-{self.name}", daemon=True)
        self._thread = thread

        try:
            thread.start()
        except BaseException:
            self._thread = None
            raise

    def wake(self) -> None:
        """Bring the next tick forward; callable from any thread."""
        self._wakened.set()

    def request_stop(self) -> None:
        """Return at once; the running tick, if any, is allowed to finish."""
        self._stopping.set()
        self.wake()

    def join(self, deadline: float) -> bool:
        """Wait until `deadline` on the monotonic clock; tell whether the thread has ended."""
        if self._thread is current_thread():
            return False

        if self._thread is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))

        return not self.alive

    def runs_on(self, thread: Thread) -> bool:
        """Whether this is the loop's thread."""
        return thread is self._thread

    @property
    def started(self) -> bool:
        """Whether it was started, whatever became of it since."""
        return self._thread is not None

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        """Whether a stop was requested."""
        return self._stopping.is_set()

    @property
    def finished(self) -> bool:
        """Whether no further tick is wanted."""
        return self.stopping

    def _run(self) -> None:
        try:
            self._guarded(self.opened)

            while not self.finished:
                self._clear_wakes()
                pause = self._guarded_tick()

                # A stop that came after the check above may have had its wake cleared.
                if not self.finished:
                    self._rest(pause)
        finally:
            self._guarded(self.closed)

    def _clear_wakes(self) -> None:
        # Before the work: a wake during the tick must cause another one.
        self._wakened.clear()

    def _rest(self, pause: float) -> None:
        self._wakened.wait(pause)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException:
            self._tell(logging.ERROR, "%s failed to %s", self.name, work.__name__, exc_info=True)

    def _guarded_tick(self) -> float:
        try:
            pause = self.tick()
        except BaseException as error:
            return self._failed(error)

        if self._failures:
            self._tell(
                logging.WARNING, "%s works again; failed tries: %d", self.name, self._failures
            )
            self._failures = 0

        if pause is None:
            pause = self.interval * random.uniform(1 - self.JITTER, 1 + self.JITTER)  # noqa: S311

        return min(pause, self.LONGEST_REST)

    def _failed(self, error: BaseException) -> float:
        self._failures += 1
        telemetry.emit("oban.loop.exception", {"loop": self.name, "error": error})

        if isinstance(error, DatabaseUnavailableError):
            if self._failures == 1:
                self._tell(logging.WARNING, "%s is waiting for PostgreSQL: %s", self.name, error)
        elif is_busy(error):
            self._tell(logging.WARNING, "%s is tried again: %s", self.name, reason(error))
        else:
            self._tell(logging.ERROR, "%s failed, trying again", self.name, exc_info=error)

        pause = min(self.LONGEST_PAUSE, self.FIRST_PAUSE * 2.0 ** min(self._failures - 1, 10))

        return pause * random.uniform(1 - self.JITTER, 1 + self.JITTER)  # noqa: S311

    def _tell(self, level: int, message: str, *args: object, exc_info: Any = None) -> None:
        # A filter or handler of the application's log may raise, and must not end the thread.
        with suppress(BaseException):
            log.log(level, message, *args, exc_info=exc_info)
