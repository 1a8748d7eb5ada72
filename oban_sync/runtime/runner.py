"""What runs a queue's jobs: threads of this process, or processes of their own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from threading import current_thread
from typing import Protocol

from oban_sync import telemetry
from oban_sync.core.errors import JobError
from oban_sync.core.job import Job, JobState
from oban_sync.core.outcome import Outcome
from oban_sync.engine.cancelling import RUN
from oban_sync.runtime.executor import (
    bound_of,
    came_to,
    describe,
    execute,
    failed,
    outcome_of,
    overrun,
)
from oban_sync.runtime.host import PLAIN, Host
from oban_sync.runtime.timekeeper import Run, Timekeeper

log = logging.getLogger("oban_sync.runtime")


class Runner(Protocol):
    """Runs the jobs of one queue."""

    def open(self) -> None:
        """The queue begins, and may have jobs any moment; returns at once."""
        ...

    def resize(self, limit: int) -> None:
        """The queue runs up to so many jobs at once from now on; returns at once."""
        ...

    def run(self, job: Job) -> Outcome | None:
        """Run a job on the calling slot's thread; never raises.

        Returns:
            What it came to; None when that was told by another way, or is nobody's business.
        """
        ...

    def cancel(self, job: Job) -> None:
        """A job that runs was asked to stop; returns at once, called by the producer's thread."""
        ...

    def abandon(self, job: Job) -> None:
        """A job that runs is about to be handed back, so that nobody here may go on with it."""
        ...

    def close(self) -> None:
        """The queue ended, and runs no more jobs; returns at once."""
        ...

    def join(self, deadline: float) -> bool:
        """Wait until `deadline` on the monotonic clock; tell whether all of it has ended."""
        ...


class ThreadRunner:
    """Runs jobs on the slots' own threads.

    Args:
        timekeeper: Stops those whose time is limited.
        host: What the jobs run in.
    """

    def __init__(self, timekeeper: Timekeeper, host: Host = PLAIN) -> None:
        self._timekeeper = timekeeper
        self._host = replace(host, patient=True)

    def open(self) -> None:
        """Nothing: threads are started when there are jobs."""

    def resize(self, limit: int) -> None:
        """Nothing: the slots are somebody else's."""

    def run(self, job: Job) -> Outcome | None:
        """Run it here and now; None for one that was given up before it returned."""
        return execute(job, perform=self._perform)

    def cancel(self, job: Job) -> None:
        """Nothing: the job sees the request when it looks."""

    def abandon(self, job: Job) -> None:
        """Nothing: a thread cannot be stopped."""

    def close(self) -> None:
        """Watch no more; a job that goes on is stopped by nobody."""
        self._timekeeper.request_stop()

    def join(self, deadline: float) -> bool:
        """As `Loop.join`."""
        return self._timekeeper.join(deadline)

    def _perform(self, job: Job) -> Outcome | None:
        try:
            if (bound := bound_of(job)) is None:
                return outcome_of(job, self._host)

            run = Run(job, bound, current_thread())
            ended = self._timekeeper.watch(run)
        except BaseException as error:
            # By the worker's own `timeout`, or for want of a thread.
            return failed(job, error)

        return _perform_in_time(run, ended, self._host)


def _perform_in_time(run: Run, ended: Callable[[], None], host: Host) -> Outcome | None:
    token = RUN.set(run.connections)

    try:
        outcome = run.stretch.run(partial(_attempted, host), run)
    finally:
        run.connections.close()
        ended()
        RUN.reset(token)

    if run.lost:
        log.warning("%r has returned at last; what it came to was written before", run.job)
        elapsed = time.monotonic_ns() - run.started
        telemetry.emit("oban.job.returned", {"job": run.job, "elapsed": elapsed})

        return None

    if run.settled is not None:
        return run.settled

    if isinstance(outcome, Outcome):
        return outcome

    # It was interrupted once more while that was found out. Nobody watches any more, so what
    # could wait for ever, the application's own code, is not asked again.
    if run.expired:
        return overrun(run.job, run.bound, "It was interrupted.", plain=True)

    return failed(run.job, run.stretch.error or JobError("it ended in a way that is not known"))


def _attempted(host: Host, run: Run) -> Outcome:
    """Run the job and find out what it came to; within the stretch, because that may take long."""
    job = run.job

    with host.entered(job) as stay:
        try:
            outcome = came_to(job, host, judge=partial(_judged, run), told=run.settle)
        except BaseException as error:
            stay.error = error

            if not run.expired:
                outcome = failed(job, error)

            # Also when it was the backoff, or the policy, that took too long.
            if run.expired:
                outcome = overrun(job, run.bound, describe(error))

        stay.outcome = outcome
        # What is around it may take its time now, and be interrupted.
        run.settle(outcome)

    return outcome


def _judged(run: Run, outcome: Outcome) -> Outcome:
    # Jobs that look whether they are to stop give this answer, whatever the reason.
    if run.expired and outcome.state is JobState.CANCELLED:
        return overrun(run.job, run.bound, f"It stopped when asked to: {outcome.error_text}")

    return outcome
