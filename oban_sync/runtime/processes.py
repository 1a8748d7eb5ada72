"""Process queues: the jobs of a queue, run by child processes that are kept ready.

Every slot's thread takes a child of its own, hands it the job and waits. Children share nothing, so
whatever becomes of one concerns no other.
"""

from __future__ import annotations

import itertools
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

from oban_sync import telemetry
from oban_sync.core import registry
from oban_sync.core.carrying import with_kept
from oban_sync.core.config import QueueConfig
from oban_sync.core.errors import JobCrashedError, JobDecodeError, WorkerNotFoundError
from oban_sync.core.executors import MOST_CRASHES
from oban_sync.core.job import KEPT, Job, JobState
from oban_sync.core.outcome import Outcome
from oban_sync.runtime.child import Plan
from oban_sync.runtime.child_pool import ChildPool
from oban_sync.runtime.children import Child, Context, Fate, NoChildError, how_it_ended
from oban_sync.runtime.executor import Bound, bound_of, describe, execute, failed, overrun
from oban_sync.runtime.job_logs import Capture
from oban_sync.runtime.within_child import NAME

#: Children that may end, one after the other, between being given one job and beginning it.
MOST_GONE = 3


def module_of(worker: str) -> str | None:
    """The module that registered a worker in this process; None for one that is not known here."""
    try:
        parts = registry.resolve(worker).origin.split(".")
    except WorkerNotFoundError:
        return None

    # Where the names of the module end, and those within it begin, only the modules can tell.
    ends = range(len(parts) - 1, 0, -1)
    names = (".".join(parts[:end]) for end in ends)

    return next((name for name in names if name in sys.modules), parts[0])


class ProcessRunner:
    """Runs the jobs of a queue in child processes: a `Runner`.

    Args:
        queue: The queue.
        oban: The name of the Oban instance.
        client: Makes an Oban of that name in a child that has none, so that jobs can enqueue.
            Pickled, and called without arguments.
        imports: Modules that children import, besides those of the registered workers.
        app: Where children find the application, as ``module:attribute``.
        gives_sessions: Whether the Oban gives transactional workers a session of the application's.
        logs: Takes what the jobs log; None where nobody wants it.
    """

    def __init__(
        self,
        queue: QueueConfig,
        *,
        oban: str = "Oban",
        client: Callable[[], object] | None = None,
        imports: Iterable[str] = (),
        app: str | None = None,
        gives_sessions: bool = False,
        logs: Capture | None = None,
    ) -> None:
        self._gives_sessions = gives_sessions
        self._logs = logs
        self._queue = queue.name
        self._app = app
        self._setup = queue.executor.setup
        self._context = cast(Context, multiprocessing.get_context(queue.executor.start_method))
        self._oban = oban
        self._client = client
        self._imports = tuple(imports)
        self._numbers = itertools.count(1)
        self._pool = ChildPool(
            queue.name, queue.limit, most_jobs=queue.executor.most_jobs, start=self._start
        )

    def open(self) -> None:
        """Start children, as many as the queue's limit, in the background."""
        self._pool.open()

    def resize(self, limit: int) -> None:
        """Have so many children from now on; too many end when they are idle."""
        self._pool.resize(limit)

    def run(self, job: Job) -> Outcome | None:
        """Run a job in a child and wait for what it comes to.

        Returns:
            What it came to; None when it was handed back.
        """
        self._pool.open()

        if not self._pool.arrived(job):
            return None

        try:
            return execute(job, perform=self._perform if self._logs is None else self._logged)
        finally:
            self._pool.left(job)

    def cancel(self, job: Job) -> None:
        """Interrupt a job that was asked to stop, and kill its child soon after."""
        self._pool.stop(job, Fate.CANCELLED)

    def abandon(self, job: Job) -> None:
        """Kill the child of a job that is about to be handed back."""
        self._pool.stop(job, Fate.ABANDONED)

    def close(self) -> None:
        """Let all children end, and kill those that still run a job; returns at once."""
        self._pool.close()

    def join(self, deadline: float) -> bool:
        """Wait until `deadline` on the monotonic clock; tell whether all idle children have ended.

        Children with a job end with the slot's thread that waits for it.
        """
        return self._pool.join(deadline)

    def _logged(self, job: Job) -> Outcome | None:
        logs, outcome = self._logs, None

        if logs is None:
            return self._perform(job)

        logs.begin(job)

        try:
            outcome = self._perform(job)
        finally:
            logs.end(job, outcome)

        return outcome

    def _perform(self, job: Job) -> Outcome | None:
        arrived = time.monotonic()
        bound = until = None

        try:
            bound = bound_of(job)
            # A forced deadline comes whether the job has begun or not.
            until = arrived + bound.seconds if bound is not None and bound.forced else None

            return self._run(job, bound, until)
        except NoChildError as error:
            if not self._pool.wants(job) or (until is not None and until <= time.monotonic()):
                return self._unbegun(job, bound)

            return failed(job, error, f"{type(error).__name__}: {error}")
        except BaseException as error:
            return failed(job, error)

    def _run(self, job: Job, bound: Bound | None, until: float | None) -> Outcome | None:
        ended = ""
        carried: dict[str, str] = {}
        telemetry.emit("oban.job.handed", {"job": job, "carried": carried})
        # Whatever it is that handlers gave, it has to get into another process.
        carried = {str(name): str(value) for name, value in carried.items()}
        logged: Callable[[object, object], None] = _unheard

        if self._logs is not None:
            logged = partial(self._logs.add, job)

        for _ in range(MOST_GONE):
            if (child := self._pool.take(job, until)) is None:
                return self._unbegun(job, bound)

            try:
                reply = child.run(
                    job, module_of(job.worker), bound, until, carried=carried, logged=logged
                )
            finally:
                self._pool.give_back(job, child)

            if reply is not None or child.began or child.fate is not None:
                return self._outcome(job, child, bound, reply)

            ended = how_it_ended(child)

        raise NoChildError(
            f"{MOST_GONE} child processes ended before they began the job; the last one {ended}"
        )

    def _outcome(
        self, job: Job, child: Child, bound: Bound | None, reply: Outcome | None
    ) -> Outcome | None:
        if child.fate is Fate.ABANDONED:
            return None

        if reply is not None and (
            child.fate is None
            or reply.state is JobState.COMPLETED
            # Whatever it is, it is in the row.
            or reply.written is not None
        ):
            return reply

        if child.fate is Fate.CANCELLED:
            return _cancelled(job)

        if child.fate is Fate.TIMED_OUT and bound is not None:
            where = None if reply is None else reply.error_text

            return overrun(
                job,
                bound,
                f"It was interrupted here:\n{where}"
                if where
                else "It did not end when it was interrupted, so its process was killed.",
            )

        return _crashed(job, child)

    def _unbegun(self, job: Job, bound: Bound | None) -> Outcome | None:
        """What becomes of a job that is not to be begun any more."""
        if self._pool.is_handed_back(job):
            return None

        if job.cancelled() or bound is None:
            return _cancelled(job)

        return overrun(job, bound, "It was not begun: no child process was ready in time.")

    def _start(self) -> Child:
        # Workers that use this queue by default; those of other queues are imported when they come.
        own = (worker for worker, queue in registry.registered().items() if queue == self._queue)
        modules = sorted({module_of(worker) or "__main__" for worker in own} - {"__main__"})
        plan = Plan(
            modules=tuple(dict.fromkeys([*self._imports, *modules])),
            app=self._app,
            setup=self._setup,
            oban=self._oban,
            client=self._client,
            gives_sessions=self._gives_sessions,
            logs=None if self._logs is None else self._logs.config,
        )

        return Child(self._context, f"{NAME}{self._queue}-{next(self._numbers)}", plan)


def _unheard(_lines: object, _dropped: object) -> None:
    """Nobody wants to know what jobs log."""


def _cancelled(job: Job) -> Outcome:
    return Outcome(job, JobState.CANCELLED, error_text="cancelled; its process was ended")


def _crashed(job: Job, child: Child) -> Outcome:
    """What a job comes to whose child ended under it: the third time it is given up."""
    before = _crashes_of(job)
    crashes = (before if type(before) is int and 0 < before < MOST_CRASHES else 0) + 1
    error = JobCrashedError(f"the process that ran the job {how_it_ended(child)}")
    text = describe(error)

    if crashes >= MOST_CRASHES:
        outcome = Outcome(
            job,
            JobState.DISCARDED,
            error_text=f"{text}\n\nQuarantined: that happened {crashes} times.",
        )
        outcome.error_type = type(error).__name__
        outcome.error_message = str(error)
    else:
        outcome = failed(job, error, text)

    outcome.meta = with_kept(outcome.meta or {}, KEPT, crashes=crashes)

    return outcome


def _crashes_of(job: Job) -> object:
    try:
        return job.kept("crashes")
    except JobDecodeError:
        return None
