"""Start and stop of one Oban, from any thread, in any order."""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Lock, Thread, current_thread

from oban_sync.runtime.supervisor import Supervisor

#: Seconds past the grace period for which a stop waits for a start or another stop to end.
PATIENCE = 4.5


class Lifecycle:
    """Holds the running parts, if any.

    A process that was forked while they ran starts clean: the threads did not come along, and the
    parent's connections are not touched.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = Lock()
        self._supervisor: Supervisor | None = None
        self._inherited: list[Supervisor | None] = []

    @property
    def running(self) -> bool:
        """Whether the parts run in this process."""
        self._clean_after_fork()

        return self._supervisor is not None

    @property
    def supervisor(self) -> Supervisor | None:
        """The running parts, if they run in this process."""
        self._clean_after_fork()

        return self._supervisor

    def start(self, build: Callable[[], Supervisor | None], undo: Callable[[], None]) -> bool:
        """Build and start the parts unless they run; tell whether this call started them.

        Args:
            build: Makes the parts, or returns None when there is nothing to run. Called while no
                other start or stop is going on.
            undo: Closes what `build` opened, when it or the start fails.
        """
        self._clean_after_fork()

        with self._lock:
            if self._supervisor is not None:
                return False

            try:
                supervisor = build()

                if supervisor is None:
                    return False

                supervisor.start()
            except BaseException:
                undo()
                raise

            self._supervisor = supervisor

            return True

    def stop(self, close: Callable[[], None], *, grace: float) -> bool | None:
        """Stop the parts within `grace` seconds plus 5.

        A call while another one is stopping shortens that one's grace, and waits for it.

        Args:
            close: Closes what the parts used. Called in any case, after them, while no other start
                or stop is going on.
            grace: Seconds for running jobs.

        Called on one of the parts' own threads, by a job for instance, it returns at once. While a
        start hangs on the network it waits for that as long as for a stop, and then goes on without
        its caller.

        Returns:
            Whether every thread ended; None when nothing ran.
        """
        self._clean_after_fork()
        self.hasten(grace=grace)

        # It cannot wait for itself: the stop goes on without it, and lets it finish.
        itself = self._supervisor is not None and self._supervisor.runs_on(current_thread())

        if itself or not self._lock.acquire(timeout=grace + PATIENCE):
            Thread(
                target=self._stop,
                args=(close,),
                kwargs={"grace": grace},
                name="oban-stop",
                daemon=True,
            ).start()

            return False

        try:
            return self._stop_now(close, grace=grace)
        finally:
            self._lock.release()

    def _stop(self, close: Callable[[], None], *, grace: float) -> None:
        with self._lock:
            self._stop_now(close, grace=grace)

    def _stop_now(self, close: Callable[[], None], *, grace: float) -> bool | None:
        try:
            return None if self._supervisor is None else self._supervisor.stop(grace=grace)
        finally:
            self._supervisor = None
            close()

    def hasten(self, *, grace: float) -> None:
        """Cut the grace of a stop in progress, or of the next one, to `grace` seconds from now."""
        if (supervisor := self._supervisor) is not None:
            supervisor.hasten(grace=grace)

    def _clean_after_fork(self) -> None:
        if self._pid != os.getpid():
            # The lock may have been held by a thread of the parent, which will never release it.
            self._pid = os.getpid()
            self._lock = Lock()
            # Kept, so that nothing of it is closed by being forgotten: it is the parent's.
            self._inherited.append(self._supervisor)
            self._supervisor = None
