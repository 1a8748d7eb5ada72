"""One child process, as its parent holds it."""

from __future__ import annotations

import logging
import os
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from multiprocessing import forkserver, process, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, SpawnContext
from threading import Lock
from typing import Any

from oban_sync.core.errors import JobError
from oban_sync.core.job import Job
from oban_sync.core.outcome import Outcome
from oban_sync.runtime import child, crossing
from oban_sync.runtime.executor import Bound

log = logging.getLogger("oban_sync.runtime")

Context = SpawnContext | ForkServerContext

#: How the names of child processes begin.
NAME = "oban-child-"

#: Seconds in which a child has to start and import what it needs.
START_PERIOD = 60.0

#: Seconds that a job gets to tidy up after it was interrupted.
TIDY_PERIOD = 0.5

#: Seconds that an idle child gets to end by itself.
END_PERIOD = 0.5

#: Seconds between looks at whether a child lives, besides the word of the kernel, which a process
#: that the job forked can hold back.
LOOK_INTERVAL = 1.0

#: Seconds in which a killed process is gone, unless it hangs in the kernel.
REAP_PERIOD = 5.0

_ADVICE = (
    "Children import the script that starts Oban, so whatever that does belongs under "
    'if __name__ == "__main__":'
)


class Fate(Enum):
    """Why a child is stopped in the middle of a job."""

    TIMED_OUT = "timed out"
    CANCELLED = "cancelled"
    ABANDONED = "abandoned"


class NoChildError(JobError):
    """A child could not be started, or ended before it could run a job."""


class Child:
    """A process that runs jobs, one at a time. Started at once; to be ended or reaped.

    `stop` may be called from any thread, everything else by the one that has the child to itself.

    Args:
        context: How it is started.
        name: What it is called among the processes of this program.
        plan: What it has to know.

    Attributes:
        jobs: How many it was given.
        began: Whether it began the last of them.
        exit_code: How it ended, as of `multiprocessing.Process`; None while that is not known.

    Raises:
        NoChildError: It could not be started.
    """

    def __init__(self, context: Context, name: str, plan: child.Plan) -> None:
        self.jobs = 0
        self.began = False
        self.exit_code: int | None = None
        self._said = bytearray()
        self._lock = Lock()
        self._closed = False
        self._over = False
        self._leads_group = False
        self._fate: Fate | None = None
        self._pipe, theirs = context.Pipe()
        self._wakes, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        # No daemon, because its jobs may start processes of their own.
        self._process = context.Process(
            target=child.main, args=(theirs, plan), name=name, daemon=False
        )

        try:
            with _sigint_blocked(context):
                self._process.start()

            # Whoever waits for all children of the program must not wait for these, and a copy of
            # the program must not at its end. It is nobody's but ours to be told how they end.
            getattr(process, "_children", set()).discard(self._process)
        except BaseException as error:
            self._close()

            raise NoChildError(
                f"no child process could be started: {error!r}. {_ADVICE}"
            ) from error
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid or 0

    @property
    def usable(self) -> bool:
        """Whether it lives, and may be given a job."""
        return self._fate is None and not self._over and not wait([self._process.sentinel], 0)

    @property
    def fate(self) -> Fate | None:
        """Why it was stopped, if it was."""
        return self._fate

    def await_ready(self) -> None:
        """Wait until it has imported what it needs.

        Raises:
            NoChildError: It ended, failed to set up, takes too long, or was stopped. It is reaped.
        """
        deadline = time.monotonic() + START_PERIOD

        while self._fate is None and not self._over and time.monotonic() < deadline:
            if (said := self._heard(deadline)) is None:
                continue

            if said[0] == child.READY:
                self._leads_group = True

                return

            self.reap()

            raise NoChildError(f"a child process could not be set up:\n{said[1]}")

        over = self._over
        self.reap()

        if over:
            raise NoChildError(
                f"a child process {how_it_ended(self)} before it could run a job; what it said is "
                f"on stderr. {_ADVICE}"
            )

        raise NoChildError(f"a child process was not ready in {START_PERIOD:g} seconds. {_ADVICE}")

    def run(self, job: Job, module: str | None, bound: Bound | None) -> Outcome | None:
        """Have it run a job. It is usable afterwards unless it ended, or was stopped.

        Args:
            job: The job.
            module: The module that defines its worker.
            bound: How long it may take; a timeout counts from the job's beginning in the child.

        Returns:
            What the job came to by itself; None when the child ended under it.

        Raises:
            Exception: The job cannot be pickled.
        """
        self.began = False

        try:
            self._pipe.send((crossing.fields_of(job), module))
        except OSError:
            self._over = True

        self.jobs += 1
        until = time.monotonic() + bound.seconds if bound is not None and bound.forced else None
        killed = None

        while not self._over:
            if until is not None and until <= time.monotonic():
                self._doom(Fate.TIMED_OUT)

            if self._fate is not None and killed is None:
                until = killed = time.monotonic() + TIDY_PERIOD
                self._signal(signal.SIGINT)

            if killed is not None and killed <= time.monotonic():
                return None

            if (said := self._heard(until)) is None:
                continue

            if said[0] == child.BEGUN:
                self.began = True

                if bound is not None and until is None:
                    until = time.monotonic() + bound.seconds
            elif said[0] == child.LOST:
                with suppress(OSError):
                    self._pipe.send(job.lease_lost())
            elif said[0] == child.DONE:
                try:
                    if said[1]["key"] == list(job.key):
                        return crossing.outcome_of(job, said[1])

                    self._over = True
                except (LookupError, TypeError, ValueError):
                    self._over = True

        return None

    def stop(self, fate: Fate) -> None:
        """Interrupt its job, and kill it soon after; returns at once.

        An abandoned one is killed before this returns: nothing of it may go on.
        """
        with self._lock:
            if self._closed:
                return

            if self._fate is None or fate is Fate.ABANDONED:
                self._fate = fate

            if fate is Fate.ABANDONED:
                self._kill()

            with suppress(BlockingIOError):
                os.write(self._waker, b"!")

    def ask_to_end(self) -> None:
        """Let it end when it is idle; `reap` comes later."""
        with suppress(OSError):
            self._pipe.send(None)

    def end(self, until: float) -> None:
        """Wait for it to end, until a moment on the monotonic clock, and reap it."""
        wait([self._process.sentinel], max(0.0, until - time.monotonic()))
        self.reap()

    def reap(self) -> None:
        """Kill it with all that it started and left in its group, and wait until it is gone."""
        with self._lock:
            if self._closed:
                return

            # How it ended by itself is settled by now; what it started may go on.
            self._kill()

        deadline = time.monotonic() + REAP_PERIOD

        while (code := self._process.exitcode) is None and time.monotonic() < deadline:
            if wait([self._process.sentinel], LOOK_INTERVAL):
                # The kernel closes a process's files a moment before it tells how it ended.
                wait([], 0.005)

        self.exit_code = code
        self._over = True

        if code is None and not wait([self._process.sentinel], 0):
            log.error("child process %s was killed and is not gone", self.pid)

        self._close()

    def _heard(self, until: float | None) -> tuple[str, Any] | None:
        """What it says next; None for nothing, or after a while."""
        if (said := self._next()) is not None or self._over:
            return said

        pause = LOOK_INTERVAL if until is None else until - time.monotonic()
        sources: list[Any] = [self._pipe, self._wakes, self._process.sentinel]
        ready = wait(sources, min(max(0.0, pause), LOOK_INTERVAL))

        if self._wakes in ready:
            os.read(self._wakes, 64)

        if self._pipe in ready:
            try:
                # Never more than there is: the rest of a message may not come, or not in time.
                data = os.read(self._pipe.fileno(), 1 << 20)
            except OSError:
                data = b""

            self._said += data
            self._over = not data

            return self._next()
        elif self._process.sentinel in ready or not (ready or self._process.is_alive()):
            self._over = True

        return None

    def _next(self) -> tuple[str, Any] | None:
        """The next message that has come as a whole."""
        if len(self._said) < 4:
            return None

        start, (size,) = 4, struct.unpack_from("!i", self._said)

        if size == -1 and len(self._said) >= 12:
            start, (size,) = 12, struct.unpack_from("!Q", self._said, 4)

        if size < 0 or len(self._said) < start + size:
            self._over |= size < -1

            return None

        data = bytes(self._said[start : start + size])
        del self._said[: start + size]

        try:
            return crossing.read(data)
        except (TypeError, ValueError, RecursionError):
            # The pipe is in the hands of the job's own code.
            self._over = True

            return None

    def _doom(self, fate: Fate) -> None:
        with self._lock:
            if self._fate is None:
                self._fate = fate

    def _signal(self, number: int) -> None:
        with self._lock, suppress(ProcessLookupError):
            if not self._closed:
                os.kill(self.pid, number)

    def _kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            if self._leads_group:
                os.killpg(self.pid, signal.SIGKILL)
            else:
                os.kill(self.pid, signal.SIGKILL)

    def _close(self) -> None:
        with self._lock:
            if self._closed:
                return

            self._closed = True
            self._pipe.close()
            os.close(self._wakes)
            os.close(self._waker)


def how_it_ended(ended: Child) -> str:
    """Words for the exit code of a child that was reaped."""
    code = ended.exit_code

    if code is None:
        return "ended for an unknown reason"

    if code >= 0:
        return f"ended with exit code {code}"

    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"

    # The kernel says no more to anybody who has to ask by an exit code.
    return f"was killed by {name}{'; out of memory perhaps' if -code == signal.SIGKILL else ''}"


@contextmanager
def _sigint_blocked(context: Context) -> Iterator[None]:
    """Start a process that SIGINT cannot reach until it has made itself ready for it.

    A Ctrl-C goes to all processes of a terminal, and Python would die of it while it starts.
    """
    # Started first, because the one unblocks the signal, and the other would hand the block on to
    # processes that are none of ours. It heeds no SIGINT by itself.
    resource_tracker.ensure_running()

    if context.get_start_method() == "forkserver":
        forkserver.ensure_running()

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
