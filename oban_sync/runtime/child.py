"""Inside a child of a process queue: run the jobs the parent hands over, one by one.

The parent decides. A child leaves the terminal's group and heeds no SIGTERM, so that a Ctrl-C or a
process manager that signals everybody does not take its job away while the parent lets it finish.
Only the parent sends SIGINT, which interrupts the job as a KeyboardInterrupt; soon after comes
SIGKILL. When the parent is gone, the child ends at once, with all it started.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from threading import Lock, Thread
from types import FrameType
from typing import Any, cast

from oban_sync import telemetry
from oban_sync.core import instances, registry
from oban_sync.core.errors import JobError, NotRunningError, WorkerNotFoundError
from oban_sync.core.job import Job
from oban_sync.core.job_logs import LogsConfig
from oban_sync.core.lease import Lease
from oban_sync.core.outcome import Outcome
from oban_sync.runtime import crossing, executor
from oban_sync.runtime.host import PLAIN, Host
from oban_sync.runtime.job_logs import LISTEN_INTERVAL, Capture, listen
from oban_sync.runtime.loop import Loop

log = logging.getLogger("oban_sync.runtime")

#: What a child says; what it gets are jobs, answers to what it asks, and None for the end.
READY = "ready"
BROKEN = "broken"
BEGUN = "begun"
LOST = "lost"
LOGGED = "logged"
DONE = "done"

#: Seconds between looks at whether the parent lives, besides the word of the kernel, which a copy
#: that was forked from the parent can hold back.
PARENT_INTERVAL = 1.0

#: Seconds between two times that the parent is told what the job logs: what it was not told is lost
#: when this process ends under the job.
LOG_INTERVAL = 0.2


@dataclass(frozen=True, slots=True)
class Plan:
    """What a child has to know besides its jobs.

    Attributes:
        modules: Imported at the start, so that their workers are registered.
        app: ``module:attribute`` of the application, which is there then, or of what makes it.
        setup: ``module:function``, called after that.
        oban: The name of the Oban instance.
        client: Makes an Oban of that name, where the modules made none. Handed over in memory: it
            knows the password of the database.
        gives_sessions: Whether the parent's Oban gives transactional workers a session of the
            application's, which is no thing to be handed over.
        logs: What the parent wants of what jobs log; None for nothing.
    """

    modules: tuple[str, ...] = ()
    app: str | None = None
    setup: str | None = None
    oban: str = "Oban"
    client: Callable[[], object] | None = None
    gives_sessions: bool = False
    logs: LogsConfig | None = None

    def __post_init__(self) -> None:
        # A function need not be one that can be handed over; the parent masks what it is told.
        if self.logs is not None and self.logs.mask is not None:
            object.__setattr__(self, "logs", replace(self.logs, mask=None))


def main(pipe: Connection, plan: Plan) -> None:
    """Run jobs until the parent says the end, or is gone."""
    inmate = _Inmate(pipe)
    inmate.settle()

    try:
        inmate.host = replace(_prepare(plan), logs=inmate.captured(plan.logs))
    except BaseException as error:
        pipe.send_bytes(crossing.message(BROKEN, executor.describe(error)))

        return

    # Modules that are imported may have handlers of their own.
    inmate.heed_the_parent()
    pipe.send_bytes(crossing.message(READY))

    # The end of the pipe is that of the parent. An interrupt that comes between two jobs was meant
    # for the one before, and this child is given up in any case.
    with suppress(EOFError, OSError, KeyboardInterrupt):
        while (order := pipe.recv()) is not None:
            inmate.run(*order)


class _Inmate:
    """The one job that runs here, and how the parent reaches it.

    Attributes:
        host: What the jobs run in.
    """

    def __init__(self, pipe: Connection) -> None:
        self.host: Host = PLAIN
        self._pipe = pipe
        self._asking = Lock()
        self._job: Job | None = None
        self._pid = os.getpid()
        self._logs: Capture | None = None

    def settle(self) -> None:
        """Be what the parent alone signals, and end with it."""
        os.setpgid(0, 0)
        os.set_inheritable(self._pipe.fileno(), False)
        self.heed_the_parent()
        # Blocked by the parent until here; what came meanwhile finds no job and is forgotten.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        Thread(target=_end_with_parent, name="oban-parent", daemon=True).start()

    def heed_the_parent(self) -> None:
        """Heed the parent's signals, and no others."""
        # Handlers rather than SIG_IGN, which the programs a job starts would inherit.
        signal.signal(signal.SIGTERM, _ignore)
        signal.signal(signal.SIGINT, self._interrupt)
        # What a job prints may go to a terminal that this group does not own.
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)

    def captured(self, config: LogsConfig | None) -> Capture | None:
        """Take what the jobs log from now on, and tell the parent."""
        if config is None:
            return None

        listen()
        self._logs = Capture(config, forwards=True)
        _Teller(self._logs, self._say_logged).start()

        return self._logs

    def run(self, fields: crossing.Fields, module: str | None, carried: Mapping[str, str]) -> None:
        """Run a job, and say what it came to."""
        job = crossing.job_of(fields)
        job.leased(cast(Lease, _ParentsLease(partial(self._ask, job))))
        self._job = job

        try:
            outcome = self._outcome(job, module, carried)
            message = _done(job, outcome)
        except BaseException as error:
            message = _done(job, executor.failed(job, error))

        if os.getpid() != self._pid:
            # A copy that the job forked came back from it; the original tells what came of the job.
            os._exit(1)

        for stream in (sys.stdout, sys.stderr):
            # Into a pipe, text would stay here for as long as the child lives.
            with suppress(Exception):
                stream.flush()

        with self._asking:
            self._job = None
            # What it logged last goes before, because nobody listens after.
            self._send_logged()
            self._pipe.send_bytes(message)

    def _outcome(self, job: Job, module: str | None, carried: Mapping[str, str]) -> Outcome:
        try:
            _find(job.worker, module)
        except WorkerNotFoundError as error:
            return executor.failed(job, error, f"{type(error).__name__}: {error}")

        with self._asking:
            self._pipe.send_bytes(crossing.message(BEGUN))

        # Without what the modules and the setup left in this thread's context, as an app context
        # that was pushed for good: jobs on threads do not have it either, and would share it.
        return Context().run(_performed, job, self.host, dict(carried))

    def _ask(self, job: Job, what: str) -> Any:
        """The parent's answer; callable from any thread of the job."""
        with self._asking:
            # To a thread that outlives its job nobody listens, and the next thing that comes is
            # another job.
            if self._job is not job:
                return True

            self._pipe.send_bytes(crossing.message(what))

            return self._pipe.recv()

    def _say_logged(self) -> bool:
        # When the parent is gone, so is this soon.
        with self._asking, suppress(OSError):
            return self._job is not None and self._send_logged()

        return False

    def _send_logged(self) -> bool:
        """Send what was logged since the last time; whether there was anything."""
        runs = [] if self._logs is None else self._logs.changes()

        for run in runs:
            said = {"key": list(run.key), "lines": run.lines, "dropped": run.dropped}
            self._pipe.send_bytes(crossing.message(LOGGED, said))

        return bool(runs)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if (job := self._job) is not None:
            job.ask_to_stop()

            raise KeyboardInterrupt("the job was asked to stop")


def _performed(job: Job, host: Host, carried: dict[str, str]) -> Outcome:
    telemetry.emit("oban.child.start", {"job": job, "carried": carried})
    outcome = executor.perform(job, host)
    telemetry.emit("oban.child.stop", {"job": job, "state": outcome.state.value})

    return outcome


def _done(job: Job, outcome: Outcome) -> bytes:
    return crossing.message(DONE, {**crossing.content_of(outcome), "key": list(job.key)})


class _Teller(Loop):
    """Tells the parent what the job logs, while it runs."""

    def __init__(self, capture: Capture, tell: Callable[[], bool]) -> None:
        super().__init__("logs", interval=LOG_INTERVAL)
        self._capture = capture
        self._say = tell

    def tick(self) -> float | None:
        """Tell what there is."""
        listen()
        self._capture.on_news(None)

        # Of several lines, the parent is not told one by one.
        if self._say():
            return self.interval

        # In this order: what is logged between the two wakes the loop.
        self._capture.on_news(self.wake)

        if self._capture.waits():
            # Of a thread that outlives its job, between two jobs, nobody is told.
            self._capture.on_news(None)

            return self.interval

        return LISTEN_INTERVAL


class _ParentsLease:
    """The part of a lease that jobs ask for, answered by the parent at each look."""

    generation = 0

    def __init__(self, ask: Callable[[str], Any]) -> None:
        self._ask = ask

    @property
    def ended(self) -> bool:
        """Whether somebody else may have been given the job by now."""
        return bool(self._ask(LOST))


def _prepare(plan: Plan) -> Host:
    """Have everything there that the jobs may need, and tell what they run in."""
    for module in plan.modules:
        try:
            importlib.import_module(module)
        except BaseException as error:
            # Only its own workers miss it, and each job of them says so.
            log.warning("%s cannot be imported by a child process: %r", module, error)

    if plan.client is not None:
        try:
            instances.get(plan.oban)
        except NotRunningError:
            plan.client()

    for place in filter(None, (plan.app, plan.setup)):
        name, _, attribute = place.partition(":")
        found = getattr(importlib.import_module(name), attribute)

        # An application that the module has made is there by now; a factory is to be called.
        if inspect.isroutine(found):
            found()

    try:
        host = cast(Host, getattr(instances.get(plan.oban), "host", PLAIN))
    except NotRunningError:
        host = PLAIN

    if plan.gives_sessions and host.session is None:
        # Rather than a connection, to a worker that expects a session.
        return replace(host, session=partial(_no_session, plan.oban))

    return host


def _no_session(oban: str) -> None:
    raise JobError(
        f"Oban {oban!r} has a session= in the process that started this child, and none in here; "
        "make the Oban in a module that children import (imports=, or the setup of the queue), or "
        "give the worker itself what makes sessions: transactional=..."
    )


def _find(worker: str, module: str | None) -> None:
    """See that a worker is registered here.

    Args:
        worker: Its name.
        module: The module that registered it in the parent; nothing else is ever imported.

    Raises:
        WorkerNotFoundError: It cannot be had here.
    """
    if module is None:
        registry.resolve(worker)
    elif _is_registered(worker):
        return
    elif module == "__main__":
        raise WorkerNotFoundError(
            f"{worker!r} is defined in the program's main module, where child processes do not "
            "find it; define it at the top level of a module that can be imported"
        )
    else:
        try:
            importlib.import_module(module)
        except BaseException as error:
            raise WorkerNotFoundError(
                f"the child process cannot import {module!r}, which defines {worker!r}:\n"
                f"{executor.describe(error)}"
            ) from error

        if not _is_registered(worker):
            raise WorkerNotFoundError(
                f"the child process imported {module!r}, and that defined no worker {worker!r}; "
                "define it at the top level of the module, not within a function"
            )


def _is_registered(worker: str) -> bool:
    with suppress(WorkerNotFoundError):
        return bool(registry.resolve(worker))

    return False


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()

    if parent is None:
        return

    ours = os.getppid() == parent.pid

    while True:
        parent.join(PARENT_INTERVAL)

        if not parent.is_alive() or (os.getppid() != parent.pid if ours else _is_gone(parent.pid)):
            # With everything that the job started. The group that has this name, because the job
            # may have joined another, which is none of ours.
            with suppress(ProcessLookupError):
                os.killpg(os.getpid(), signal.SIGKILL)

            os.kill(os.getpid(), signal.SIGKILL)


def _is_gone(pid: int | None) -> bool:
    try:
        os.kill(pid or 0, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False

    return False


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Handle a signal, so that nothing comes of it."""
