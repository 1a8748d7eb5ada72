"""What runs a queue's jobs: threads of this process, or processes of their own."""

from __future__ import annotations

from typing import Protocol

from oban_sync.core.job import Job
from oban_sync.core.outcome import Outcome
from oban_sync.runtime.executor import execute


class Runner(Protocol):
    """Runs the jobs of one queue."""

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


class ThreadRunner:
    """Runs jobs on the slots' own threads."""

    def run(self, job: Job) -> Outcome | None:
        """Run it here and now."""
        return execute(job)

    def cancel(self, job: Job) -> None:
        """Nothing: the job sees the request when it looks."""

    def abandon(self, job: Job) -> None:
        """Nothing: a thread cannot be stopped."""

    def close(self) -> None:
        """Nothing: there is nothing to close."""
