"""One child process, as its parent holds it."""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum
from multiprocessing import forkserver, process, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.reduction import ForkingPickler
from threading import Lock
from types import MappingProxyType
from typing import Any

from oban_sync.core.errors import JobError
from oban_sync.core.job import Job
from oban_sync.core.outcome import Outcome
from oban_sync.runtime import child, crossing
from oban_sync.runtime.executor import Bound

log = logging.getLogger("oban_sync.runtime")

Context = SpawnContext | ForkServerContext

#: Seconds in which a child has to start and import what it needs.
START_PERIOD = 60.0

#: Seconds in which a child has to take a job, import what that needs, and begin it.
BEGIN_PERIOD = 60.0

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
    'Put what the script does under if __name__ == "__main__": children import the script that '
    "starts Oban, and would do it again"
)

_MEDDLED = "something else than the library wrote to its pipe"


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
        problem: Why it was taken for broken, if it was.
        exit_code: How it ended, as of `multiprocessing.Process`; None while that is not known.

    Raises:
        NoChildError: It could not be started.
    """

    def __init__(self, context: Context, name: str, plan: child.Plan) -> None:
        self.jobs = 0
        self.began = False
        self.problem: str | None = None
        self.exit_code: int | None = None
        self._said = bytearray()
        self._unsent = bytearray()
        self._lock = Lock()
        self._closed = False
        self._over = False
        self._gone = False
        self._leads_group = False
        self._fate: Fate | None = None
        self._pipe, theirs = context.Pipe()
        self._wakes, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        # One that does not read must not keep its slot from looking at the time.
        os.set_blocking(self._pipe.fileno(), False)
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

    def await_ready(self, until: float | None = None) -> None:
        """Wait until it has imported what it needs.

        Args:
            until: When to stop it at the latest, on the monotonic clock.

        Raises:
            NoChildError: It ended, failed to set up, takes too long, or was stopped. It is reaped.
        """
        deadline = time.monotonic() + START_PERIOD

        while self._fate is None and not self._over and time.monotonic() < deadline:
            if until is not None and until <= time.monotonic():
                self._doom(Fate.TIMED_OUT)
                break

            if (said := self._heard(deadline if until is None else until)) is None:
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

    def run(
        self,
        job: Job,
        module: str | None,
        bound: Bound | None,
        until: float | None,
        *,
        carried: Mapping[str, str] = MappingProxyType({}),
        logged: Callable[[object, object], None] = lambda _lines, _dropped: None,
    ) -> Outcome | None:
        """Have it run a job. It is usable afterwards unless it ended, or was stopped.

        One that does not begin the job in `BEGIN_PERIOD` is taken for broken.

        Args:
            job: The job.
            module: The module that defines its worker.
            bound: How long it may take; a timeout counts from the job's beginning in the child.
            until: When it has to end, on the monotonic clock; None for as `bound` says.
            carried: What is told to those who follow the run in there.
            logged: Called with what it logs: lines, and how many it dropped; they may be anything.

        Returns:
            What the job came to by itself; None when the child ended under it.

        Raises:
            Exception: The job cannot be pickled.
        """
        self.began = False

        self._send((crossing.fields_of(job), module, dict(carried)))
        self.jobs += 1
        begins_by = time.monotonic() + BEGIN_PERIOD
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
                # Not before what it said was read: one that has begun may have changed things.
                if not self.began and begins_by <= time.monotonic():
                    self._break(f"it did not begin the job in {BEGIN_PERIOD:g} seconds")

                continue

            if said[0] == child.BEGUN:
                self.began = True

                if bound is not None and until is None:
                    until = time.monotonic() + bound.seconds
            elif said[0] == child.LOST:
                self._send(job.lease_lost())
            elif said[0] == child.LOGGED:
                # Of the job before this, it comes too late.
                with suppress(LookupError, TypeError):
                    if said[1]["key"] == list(job.key):
                        logged(said[1]["lines"], said[1]["dropped"])
            else:
                # Anything else is by the job's own code, or by a copy of it.
                with suppress(LookupError, TypeError, ValueError):
                    if said[0] == child.DONE and said[1]["key"] == list(job.key):
                        return crossing.outcome_of(job, said[1])

                self._break(_MEDDLED)

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
        self._send(None)

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
        self._gone = code is not None

        if code is None and not wait([self._process.sentinel], 0):
            log.error("child process %s was killed and is not gone", self.pid)

        self._close()

    def _heard(self, until: float | None) -> tuple[str, Any] | None:
        """What it says next; None for nothing, or after a while."""
        if (said := self._next()) is not None or self._over:
            return said

        pause = LOOK_INTERVAL if until is None else until - time.monotonic()
        ready = self._ready(min(max(0.0, pause), LOOK_INTERVAL))
        seen = ready.get(self._pipe.fileno(), 0)

        if self._wakes in ready:
            os.read(self._wakes, 64)

        if seen & select.POLLOUT:
            self._write()

        if seen & ~select.POLLOUT:
            self._read()

            return self._next()

        if self._process.sentinel in ready:
            self._over = True
        elif not ready and not self._process.is_alive():
            self._over = self._gone = True

        return None

    def _ready(self, pause: float) -> dict[int, int]:
        """What can be read or written within a while: descriptors with what poll says of them."""
        poll = select.poll()

        for source in (self._wakes, self._process.sentinel):
            poll.register(source, select.POLLIN)

        poll.register(self._pipe.fileno(), select.POLLIN | (select.POLLOUT if self._unsent else 0))

        return dict(poll.poll(1000 * pause))

    def _send(self, what: object) -> None:
        """Send as much as the pipe takes; the rest goes while it is listened to."""
        self._unsent += crossing.framed(bytes(ForkingPickler.dumps(what)))
        self._write()

    def _write(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: os.write(self._pipe.fileno(), self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            # Its end is closed, which reading tells after what it said last.
            self._unsent.clear()

    def _read(self) -> None:
        # Never more than there is: the rest of a message may not come, or not in time.
        try:
            data = os.read(self._pipe.fileno(), 1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""

        self._said += data
        self._over = self._over or not data

    def _next(self) -> tuple[str, Any] | None:
        """The next message that has come as a whole."""
        try:
            data = crossing.unframed(self._said)

            return None if data is None else crossing.read(data)
        except ValueError:
            self._break(_MEDDLED)

            return None

    def _break(self, problem: str) -> None:
        self.problem = problem
        self._over = True

    def _doom(self, fate: Fate) -> None:
        with self._lock:
            if self._fate is None:
                self._fate = fate

    def _signal(self, number: int) -> None:
        with self._lock, suppress(ProcessLookupError):
            if not self._closed:
                os.kill(self.pid, number)

    def _kill(self) -> None:
        if self._leads_group:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

        # The job may have taken it to another group. The id of one that is gone may be another's.
        if not self._gone:
            with suppress(ProcessLookupError, PermissionError):
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

    if ended.problem is not None:
        return f"was killed, because {ended.problem}"

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
