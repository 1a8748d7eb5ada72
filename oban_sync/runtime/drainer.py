"""Run jobs on the caller's own thread, for tests and scripts."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from random import Random
from typing import Any, Protocol

from oban_sync.core import clock, modes
from oban_sync.core.checks import check_whole
from oban_sync.core.config import new_identity
from oban_sync.core.errors import ConfigError, ObanError, shown
from oban_sync.core.job import Job, JobState
from oban_sync.core.options import check_name, check_scheduled_at
from oban_sync.core.outcome import Outcome
from oban_sync.engine import ack, callers, drains, logs
from oban_sync.engine import jobs as stored_jobs
from oban_sync.engine.session import Db, reason
from oban_sync.runtime.executor import execute, perform, report_fenced
from oban_sync.runtime.host import Host
from oban_sync.runtime.job_logs import Capture, listen

log = logging.getLogger("oban_sync.runtime")

_COUNTED = (
    JobState.CANCELLED,
    JobState.COMPLETED,
    JobState.DISCARDED,
    JobState.RETRYABLE,
    JobState.SCHEDULED,
)

#: A job that snoozes so often within one drain would do so for ever.
_MOST_SNOOZES = 100

#: So would one that enqueues one for later, which enqueues one for later, and so on.
_MOST_LATER = 1_000

#: Jobs that run inside of one another inline. Each takes some twenty frames of Python's thousand.
_MOST_INSIDE = 40

#: Jobs listed at once.
_BATCH = 100

_inside: ContextVar[int] = ContextVar("oban_sync_inside", default=0)


_FINAL = (JobState.CANCELLED, JobState.COMPLETED, JobState.DISCARDED)


class Desk(Protocol):
    """The part of an Oban that these functions need."""

    @property
    def db(self) -> Db:
        """Where its tables are."""
        ...

    @property
    def host(self) -> Host:
        """What its jobs run in."""
        ...

    @property
    def node(self) -> str:
        """What people call this node."""
        ...


def drain_queue(
    desk: Desk,
    queue: str | Iterable[str] | None = "default",
    *,
    with_recursion: bool = True,
    with_safety: bool = False,
    with_scheduled: bool | datetime | timedelta = True,
    with_limit: int | None = None,
    seed: int | None = None,
) -> dict[str, int]:
    """Run the jobs of a queue here and now, one by one, on this thread. Needs no `start`.

    Made for tests: nothing is left running when it returns. Only committed jobs are seen; inside of
    `testing.bound` those of that transaction too. No node stands behind it: a job that takes longer
    than the lifeline's `rescue_after` may be started by one that runs. Limits of the queue do not
    count, nor do timeouts and forced deadlines: the caller's thread cannot be given up.

    Args:
        desk: The Oban.
        queue: The queue's name, or several, or None for all. Of several queues, the jobs run in the
            order in which they would in one.
        with_recursion: Go on until the queue is empty, with the jobs that jobs enqueue; else run
            only those that are there now.
        with_safety: Record failures and go on. Otherwise the first exception is raised, after it
            was recorded, and jobs not run yet stay as they are. What is no `Exception`, as pytest's
            own outcomes and Ctrl-C, is raised in any case; but SystemExit is a failure.
        with_scheduled: Run scheduled and retryable jobs too, whatever their time; or those whose
            time comes by a datetime, or within a timedelta from now.
        with_limit: Run so many jobs at the most.
        seed: Run them in an order that follows from this number, instead of by priority and time.
            Tests with ``--oban-seed`` do so anyway.

    Returns:
        How many runs ended in each of the states completed, retryable, discarded, cancelled and
        scheduled. One whose outcome was refused, as the job is somebody else's by then or deleted,
        counts in none.

    Raises:
        ObanError: A job snoozed a hundred times, or enqueued one for later that did the same, a
            thousand times, and would do so for ever; or, inside of `testing.bound`, a job rolled
            back the transaction that it was taken in.
        ConfigError: An argument is wrong.
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    most = drains.EVERYTHING
    supply = _Supply(
        desk.db,
        _checked_queues(queue),
        with_scheduled is not False,
        _checked_until(with_scheduled),
        modes.shuffler() if seed is None else Random(seed),  # noqa: S311 - it keeps no secret
    )

    if with_limit is not None:
        most = check_whole("with_limit", with_limit, 1, drains.EVERYTHING)

    drain = _Drain(desk, with_safety=with_safety, early=supply.early)
    # A session that the test is bound to is what its jobs are to work by, and it is the caller's.
    within_session = callers.is_session(callers.bound_to(desk, wholly=True))

    with modes.lending_context(within_session):
        for job_id in supply.again_and_again(drain) if with_recursion else supply.at_once():
            drain.run(job_id)

            if drain.runs >= most:
                break

    return dict(drain.counts)


def run_inline(desk: Desk, jobs: Sequence[Job], *, conn: Any = None) -> list[Job]:
    """Run stored jobs here and now, one by one, on this thread: what ``testing="inline"`` does.

    Those that are not available are passed over, as scheduled ones and ones that were there before.

    Args:
        desk: The Oban.
        jobs: As `enqueue` returned them.
        conn: Run them in the transaction of the connection that they were enqueued by.

    Returns:
        The jobs as they stand after it.

    Raises:
        ObanError: Jobs enqueue jobs without an end, each inside of the one before; or a node on the
            same database was faster.
        BaseException: What the first one raises that fails, after it was recorded; the others are
            not run.
    """
    here = nullcontext() if conn is None else callers.bound(desk, conn, wholly=True)

    with here, clock.virtual(), modes.lending_context(True), _deeper():
        drain, db = _Drain(desk, with_safety=False), desk.db
        ran: list[Job] = []

        for job in jobs:
            if job.conflict or job.id is None or job.state is not JobState.AVAILABLE:
                ran.append(job)
                continue

            drain.run(job.id)

            if drain.missed == job.id:
                raise ObanError(
                    f"job {job.id} ({job.worker}) was taken by a node before it could be run here: "
                    "testing='inline' needs a database on which no queues run, or a test that is "
                    "bound to its transaction (see testing.bound)"
                )

            with db.session() as tx:
                ran.append(stored_jobs.get(tx.conn, tx.schema, job.id) or job)

        return ran


@contextmanager
def _deeper() -> Iterator[None]:
    token = _inside.set(_inside.get() + 1)

    try:
        if _inside.get() > _MOST_INSIDE:
            raise ObanError(
                f"{_MOST_INSIDE} jobs run inside of one another, as each enqueues the next; with "
                "testing='inline' that has to end sooner: use 'manual', and drain the queue"
            )

        yield
    finally:
        _inside.reset(token)


class _Drain:
    """One drain: takes jobs and counts what they came to.

    Attributes:
        counts: Runs by what they came to, where that is written.
        runs: All of them.
        passed: Jobs that are not to be taken: somebody holds them, or they undo their own taking.
        missed: The job that could not be taken just now.
        disturbed: Whether the last run may have changed which jobs come next.
    """

    def __init__(self, desk: Desk, *, with_safety: bool, early: bool = False) -> None:
        self.counts = {state.value: 0 for state in _COUNTED}
        self.runs = 0
        self.passed: set[int] = set()
        self.missed: int | None = None
        self.disturbed = False
        self._early = early
        self._within = callers.bound_to(desk, wholly=True) is not None
        self._db = desk.db
        self._logs, self._host = _logged(desk.host)
        self._node = desk.node
        self._owner = new_identity()
        self._with_safety = with_safety
        self._snoozed: Counter[int | None] = Counter()
        self._lineage = _Lineage()

    def run(self, job_id: int) -> None:
        """Run a job, if it can be taken."""
        with self._db.session() as tx:
            newest = drains.newest(tx)
            job = drains.take(tx, job_id, node=self._node, owner=self._owner, early=self._early)

        if job is None:
            self.missed, self.disturbed = job_id, True

            return

        later = self._lineage.later(job)

        with self._db.apart():
            # The caller's context is the job's, and what the job sets there is not the caller's.
            run = partial(perform, host=self._host, keep_error=True)
            outcome = copy_context().run(partial(execute, job, perform=run))

        self.runs += 1
        written = self._write(outcome) if outcome.written is None else outcome.written
        self._write_logs()

        error, outcome.error = outcome.error, None

        if not written:
            self.passed.add(job_id)
            report_fenced(outcome)
            self._refuse_undone(job, error)

        # It is written by now, so raising loses nothing. What is no Exception is never only a
        # failed job: a Ctrl-C, or how pytest ends a test.
        if error is not None and not (
            self._with_safety and isinstance(error, (Exception, SystemExit))
        ):
            raise error

        self.counts[outcome.state.value] += written
        self._refuse_endless(job, outcome.state)

        with self._db.session() as tx:
            stored = drains.newest(tx)

        self.disturbed = stored != newest or outcome.state not in _FINAL
        self._lineage.stored(newest, stored, later)

        if later >= _MOST_LATER:
            raise ObanError(
                f"job {job.id} ({job.worker}) is the last of {_MOST_LATER:,} of which each was "
                "enqueued by the one before, for later, in one drain; drain with "
                "with_scheduled=False, or a timedelta, to leave it waiting"
            )

    def _write(self, outcome: Outcome) -> bool:
        written = ack.ack_singly(self._db, [outcome], owner=self._owner)

        if written.keys or written.refused:
            return True

        # Somebody holds the row, and is waited for; or has the job.
        with self._db.session() as tx:
            return ack.ack_on(tx.conn, tx.schema, outcome, owner=self._owner)

    def _write_logs(self) -> None:
        """Keep what the run logged: as its outcome, in the transaction that a drain is bound to."""
        if self._logs is None or not (runs := self._logs.changes(everything=True)):
            return

        try:
            logs.write(self._db, runs)
        except Exception as error:
            log.warning("what job %s logged could not be kept: %s", runs[0].key[0], reason(error))

    def _refuse_undone(self, job: Job, error: BaseException | None) -> None:
        """Tell of a job that is as it was before it was taken, which only a rollback can do."""
        if not self._within or job.id is None:
            return

        with self._db.session() as tx:
            found = stored_jobs.get(tx.conn, tx.schema, job.id)

        if found is not None and found.attempt >= job.attempt:
            return

        problem = (
            f"job {job.id} ({job.worker}) rolled back the transaction it was taken in, and what it "
            "came to is lost. It did so with a session, or a savepoint, that had begun before it "
            "was taken: commit or close that before, or give jobs a session of their own"
        )

        if not self._with_safety:
            raise ObanError(problem) from error

        log.warning("%s", problem)

    def _refuse_endless(self, job: Job, state: JobState) -> None:
        if state is JobState.SCHEDULED:
            self._snoozed[job.id] += 1

            if self._snoozed[job.id] >= _MOST_SNOOZES:
                raise ObanError(
                    f"job {job.id} ({job.worker}) snoozed {_MOST_SNOOZES} times in one drain; "
                    "drain with with_scheduled=False to leave it waiting"
                )


def _logged(host: Host) -> tuple[Capture | None, Host]:
    """What takes the lines of a drain's runs, which it writes itself; and the host with that."""
    if host.logs is None:
        return None, host

    listen()
    capture = Capture(host.logs.config)

    return capture, replace(host, logs=capture)


class _Lineage:
    """Which jobs were stored while which job ran, as far as the order of their ids tells."""

    def __init__(self) -> None:
        self._newest: list[int] = []
        self._later: list[int] = []

    def later(self, job: Job) -> int:
        """How many jobs, of which each has stored the next, were not due; with this one."""
        place = bisect_left(self._newest, job.id or 0)
        before = self._later[place] if place < len(self._later) else 0

        return before + (job.scheduled_at is not None and job.scheduled_at > clock.utc_now())

    def stored(self, before: int, after: int, later: int) -> None:
        """Note that those with ids above the one, up to the other, come of such a job."""
        for newest, count in ((before, 0), (after, later)):
            if newest > (self._newest[-1] if self._newest else -1):
                self._newest.append(newest)
                self._later.append(count)


@dataclass(frozen=True, slots=True)
class _Supply:
    """Where a drain's jobs come from.

    Attributes:
        db: Where the tables are.
        queues: Of these queues, or of all.
        early: Whether those are taken too whose time has not come ...
        until: ... unless it comes later than this.
        shuffler: Puts them into another order.
    """

    db: Db
    queues: list[str] | None
    early: bool
    until: datetime | None
    shuffler: Random | None

    def again_and_again(self, drain: _Drain) -> Iterator[int]:
        """The next job, for as long as there is one but for those that were passed over."""
        # Not one by one: in a transaction that goes on, each listing reads all that ran before.
        while found := self._found(
            drain.passed, _BATCH if self.shuffler is None else drains.EVERYTHING
        ):
            for place, job_id in enumerate(found):
                yield job_id

                # A job may have changed those that were listed; the first one is as it was listed.
                if drain.missed == job_id and place == 0:
                    drain.passed.add(job_id)

                if drain.disturbed:
                    break

    def at_once(self) -> Iterator[int]:
        """The jobs that are there now, each once."""
        yield from self._found((), drains.EVERYTHING)

    def _found(self, passed: Iterable[int], most: int) -> list[int]:
        with self.db.session() as tx:
            found = drains.ready(
                tx,
                self.queues,
                early=self.early,
                until=self.until,
                passed=passed,
                most=most,
            )

        if self.shuffler is not None:
            # What it makes of them must not depend on anything but the seed.
            found.sort()
            self.shuffler.shuffle(found)

        return found


def _checked_queues(queue: object) -> list[str] | None:
    if queue is None:
        return None

    if isinstance(queue, str) or not isinstance(queue, Iterable):
        return [check_name("queue", queue)]

    return [check_name(f"queue[{index}]", one) for index, one in enumerate(queue)]


def _checked_until(given: object) -> datetime | None:
    if isinstance(given, bool):
        return None

    if isinstance(given, timedelta):
        return clock.utc_now() + given

    if isinstance(given, datetime):
        return check_scheduled_at("with_scheduled", given)

    raise ConfigError(
        "with_scheduled",
        f"{shown(given)} is not allowed; give True, False, a datetime, or a timedelta from now",
    )
