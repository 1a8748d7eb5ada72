"""Runs whose work is committed together with their outcome, and so is done exactly once.

The job works inside of a transaction, and what it came to is written in there last, fenced as
every outcome is. Where the process dies before the commit, nothing was done, and the job runs
again; after it, the job is over. Where somebody else has the job by then, the outcome finds no row,
and the work is undone with it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from threading import Event
from typing import Any

from oban_sync.core.errors import JobError, JobInterrupt, NotRunningError
from oban_sync.core.job import Job
from oban_sync.core.outcome import Outcome
from oban_sync.core.registry import Transactional
from oban_sync.engine import ack, callers, cancelling, transactions
from oban_sync.engine.transactions import Begun
from oban_sync.runtime.host import Host

log = logging.getLogger("oban_sync.runtime")

#: Does the job's work by what it is given; tells what that came to, and whether it is to be kept.
Work = Callable[[Any], tuple[Outcome, bool]]

#: Seconds in which it is found out how a commit ended that nobody answered.
SETTLE_PERIOD = 10.0

#: Seconds between looks for that, and between tries for a connection.
PAUSE = 0.1

_NOT_FOUND = (
    "its outcome was not taken, though the job is this run's still, and nothing of its work stays: "
    "the transaction does not see the job as it is. Either it is one in another database than the "
    "Oban's (see session= of the Oban and transactional= of the worker), or the job changed or "
    "deleted its own row in it"
)


class _Undo(Exception):  # noqa: N818 - it is no error, it only ends the transaction
    """The work is not to stay."""


def run(
    job: Job, host: Host, way: Transactional, work: Work, *, told: Callable[[Outcome], None]
) -> Outcome:
    """Do a job's work, and write its outcome with it.

    What is returned is written by then, or refused, which `Outcome.written` tells; or it is that of
    work that was not to be kept, and is yet to be written. A job that has no row, as in a test of
    its worker alone, has only its work committed.

    Args:
        job: A job taken from its queue.
        host: What it runs in.
        way: How it gets its connection.
        work: Its work.
        told: Called at once with an outcome that is written or refused.

    Raises:
        BaseException: Whatever the work raises, and what keeps it from being committed. Nothing of
            it stays.
    """
    settled: Outcome | None = None

    try:
        # Left last of all: what is raised into this thread waits for the end of the transaction.
        with ExitStack() as shield:
            settled = _Run(job, host, way, shield).outcome_of(work)

            if settled.written is not None:
                told(settled)
    except BaseException as error:
        if settled is None:
            raise

        _keep_what_ends_the_program(settled, error)

    return settled


class _Run:
    """One run, from its beginning to what is known of its end."""

    def __init__(self, job: Job, host: Host, way: Transactional, shield: ExitStack) -> None:
        self._job = job
        self._host = host
        self._way = way
        self._shield = shield
        # Looked up now, because the job may change every field of what it is given.
        has_row = hasattr(job, "key") and len(job.attempted_by) > 1
        self._owner = job.attempted_by[1] if has_row else None
        self._outcome: Outcome | None = None
        self._unkept = self._refused = self._wrote = False

    def outcome_of(self, work: Work) -> Outcome:
        """As `run`, without a word about what is raised once that is known."""
        trouble: BaseException | None = None

        try:
            self._work(work)
        except BaseException as error:
            trouble = error

        outcome = self._outcome

        if outcome is not None and self._unkept:
            return outcome

        if outcome is not None and self._refused:
            if self._is_ours_still():
                raise JobError(_NOT_FOUND)

            outcome.written = False

            return outcome

        if trouble is None and not self._wrote:
            trouble = JobError(
                f"what gives {self._job.worker} its connection let an exception vanish"
            )

        if trouble is not None and not self._was_committed(trouble):
            raise trouble

        if outcome is None:
            raise JobError(f"{self._job.worker} came to nothing")

        outcome.written = None if self._owner is None else True

        return outcome

    def _work(self, work: Work) -> None:
        with _begun(self._job, self._host, self._way) as begun:
            try:
                self._outcome, good = work(begun.given)
            finally:
                self._shield.enter_context(cancelling.shielded())

            if not good:
                self._unkept = True

                raise _Undo

            try:
                begun.finish()
                self._write(begun.given, self._outcome)
            except Exception as error:
                transactions.explain(error)

                raise

    def _write(self, conn: Any, outcome: Outcome) -> None:
        owner, schema = self._owner, self._host.schema

        if owner is not None and not ack.ack_on(conn, schema, outcome, owner=owner):
            self._refused = True

            raise _Undo

        self._wrote = True

    def _is_ours_still(self) -> bool:
        """Whether a job whose outcome was refused has not gone to anybody else.

        Looked up by the connection of the Oban, which may see what the application's does not.
        Where there is none, it is taken to be: whoever writes the failure finds the fence.
        """
        # It was handed back, maybe by a stop that has closed the connections since.
        if self._job.is_disowned:
            return False

        db, owner = self._host.db, self._owner

        return db is None or bool(owner and ack.still_ours(db, [self._job], owner=owner))

    def _was_committed(self, error: BaseException) -> bool:
        """Whether a commit was done that ended in an error; waits until that can be told.

        Where it cannot be told in time it is taken for a failure, which does no harm: whoever
        writes that waits for the row in turn, and finds the fence.
        """
        outcome, owner = self._outcome, self._owner

        if outcome is None or owner is None or not self._wrote or ack.is_undone(error):
            return False

        host = replace(self._host, patient=False)
        until = time.monotonic() + SETTLE_PERIOD
        found = None

        while found is None and time.monotonic() < until:
            try:
                with _begun(self._job, host, self._way) as begun:
                    found = ack.is_settled(begun.given, host.schema, outcome, owner=owner)
            except Exception as trouble:
                log.debug("how the commit of %r ended is not known yet: %r", self._job, trouble)

            if found is None:
                Event().wait(PAUSE)

        ended = {True: "it was done", False: "it was not done", None: "how it ended is not known"}
        log.warning("the commit of %r was cut off (%r): %s", self._job, error, ended[found])

        if found:
            _keep_what_ends_the_program(outcome, error)

        return bool(found)


def _keep_what_ends_the_program(outcome: Outcome, error: BaseException) -> None:
    # For whoever runs jobs on the thread that a Ctrl-C comes to.
    if not isinstance(error, (Exception, JobInterrupt)):
        outcome.error = error


@contextmanager
def _begun(job: Job, host: Host, way: Transactional) -> Iterator[Begun]:
    with ExitStack() as stack:
        factory = host.session if way is True else way

        if factory is None:
            if host.transaction is None:
                raise NotRunningError(
                    f"{job.worker} is transactional, and there is no Oban in this process to give "
                    "it a connection; see the setup of process queues"
                )

            conn = _entered(stack, job, host, host.transaction)
            yield stack.enter_context(transactions.begun_on(conn))

            return

        desk = host.desk
        bound = callers.bound_to(desk)

        if callers.is_session(bound):
            yield stack.enter_context(transactions.begun_within(bound))

            return

        begun = _entered(stack, job, host, partial(transactions.begun_by, factory))
        stack.enter_context(callers.bound(desk, begun.given))
        yield begun


def _entered(
    stack: ExitStack, job: Job, host: Host, manager: Callable[[], AbstractContextManager[Any]]
) -> Any:
    """Enter what takes a connection from a pool; waits for one, as long as others have them all."""
    waits = False

    while True:
        try:
            return stack.enter_context(manager())
        except Exception as error:
            may = host.patient and not job.cancelled() and not job.is_disowned

            if not may or not transactions.lacks_connection(error):
                raise

            if not waits:
                log.warning("%r waits for a connection to begin: %s", job, error)

            waits = True

        Event().wait(PAUSE)
