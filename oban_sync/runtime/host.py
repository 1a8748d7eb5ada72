"""What an application puts around the runs of its jobs, on whatever thread or process they run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from oban_sync.core.carrying import NOTHING, Carriers
from oban_sync.core.errors import JobDecodeError
from oban_sync.core.job import Job
from oban_sync.core.outcome import Outcome
from oban_sync.engine.session import Db
from oban_sync.runtime.job_logs import Capture
from oban_sync.runtime.progress import Report

log = logging.getLogger("oban_sync.runtime")


@dataclass(frozen=True, slots=True)
class Host:
    """What runs happen in.

    Attributes:
        around: Gives a context manager for a run.
        carriers: Put in place what jobs brought along, before `around` is entered.
        transaction: Opens a transaction for a transactional run, on a psycopg connection; inside
            of one that is bound to the thread, as in tests, a savepoint of that.
        session: Makes the session of a transactional run instead; the application's.
        schema: The schema of the tables.
        patient: Whether a transactional run waits for a connection for as long as it takes, because
            somebody vouches meanwhile that its job is held.
        logs: Takes what the runs log; None where nobody wants it.
    """

    around: Callable[[Job], AbstractContextManager[object]] | None = None
    carriers: Carriers = NOTHING
    transaction: Callable[[], AbstractContextManager[Any]] | None = None
    session: Callable[[], Any] | None = None
    schema: str = "public"
    patient: bool = False
    logs: Capture | None = None

    @property
    def desk(self) -> object:
        """The Oban that `transaction` is a method of: whose enqueues belong to such a run."""
        return getattr(self.transaction, "__self__", None)

    @property
    def db(self) -> Db | None:
        """Where that Oban has its tables, as the calling thread sees them; None without one."""
        return getattr(self.desk, "db", None)

    def report_of(self, job: Job) -> Report:
        """What the progress of a job is told to that runs in here."""
        return Report(job, lambda: self.db)

    def entered(self, job: Job) -> Stay:
        """What a run happens in; to be entered on its thread.

        Entering raises what the application raises. Leaving raises nothing of it but a
        KeyboardInterrupt: the run is over, and what it came to stands.
        """
        job.reporting(self.report_of)

        return Stay(self, job)


class Stay:
    """One run's stay with its host.

    Attributes:
        error: What the run raised, for those around it to see.
        outcome: What it came to.
    """

    __slots__ = ("_host", "_job", "_stack", "error", "outcome")

    def __init__(self, host: Host, job: Job) -> None:
        self._host = host
        self._job = job
        self._stack: ExitStack | None = None
        self.error: BaseException | None = None
        self.outcome: Outcome | None = None

    def __enter__(self) -> Stay:
        host = self._host

        if host.logs is not None:
            host.logs.begin(self._job)

        # The hot path: most have nothing around them.
        if host.around is None and not host.carriers:
            return self

        try:
            with ExitStack() as stack:
                if host.carriers:
                    stack.enter_context(host.carriers.restored(_carried(self._job)))

                if host.around is not None:
                    stack.enter_context(host.around(self._job))

                self._stack = stack.pop_all()
        except BaseException:
            if host.logs is not None:
                host.logs.end(self._job, None)

            raise

        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._stack is not None:
                self._leave(self._stack, self.error if error is None else error)
        finally:
            if (logs := self._host.logs) is not None:
                logs.end(self._job, self.outcome)

    def _leave(self, stack: ExitStack, error: BaseException | None) -> None:
        try:
            stack.__exit__(
                type(error) if error is not None else None,
                error,
                error.__traceback__ if error is not None else None,
            )
        except BaseException as trouble:
            # The run's own error comes back here from a context manager that lets it pass.
            if trouble is error:
                return

            log.exception("what is around %r failed after the run", self._job)

            # For whoever runs jobs on the thread that a Ctrl-C comes to.
            if isinstance(trouble, KeyboardInterrupt):
                raise


def _carried(job: Job) -> dict[str, object]:
    try:
        return job.carried if job.keeps else {}
    except JobDecodeError:
        # It is the job's to find out, when it looks.
        return {}


#: Nothing is around the runs.
PLAIN = Host()
