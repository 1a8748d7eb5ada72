"""Run jobs on the caller's own thread, for tests and scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
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
from oban_sync.engine import ack, callers, drains
from oban_sync.engine import jobs as stored_jobs
from oban_sync.engine.session import Db
from oban_sync.runtime.executor import execute, perform, report_fenced
from oban_sync.runtime.host import Host

_COUNTED = (
    JobState.CANCELLED,
    JobState.COMPLETED,
    JobState.DISCARDED,
    JobState.RETRYABLE,
    JobState.SCHEDULED,
)

#: A job that snoozes so often within one drain would do so for ever.
_MOST_SNOOZES = 100


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
            was recorded, and jobs not run yet stay available.
        with_scheduled: Run scheduled and retryable jobs too, whatever their time; or those whose
            time comes by a datetime, or within a timedelta from now.
        with_limit: Run so many jobs at the most.
        seed: Run them in an order that follows from this number, instead of by priority and time.
            Tests with ``--oban-seed`` do so anyway.

    Returns:
        How many runs ended in each of the states completed, retryable, discarded, cancelled and
        scheduled.

    Raises:
        ObanError: A job snoozed a hundred times, and would do so for ever.
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
    drain = _Drain(desk, with_safety=with_safety)

    if with_limit is not None:
        most = check_whole("with_limit", with_limit, 1, drains.EVERYTHING)

    for job_id in supply.again_and_again(drain.passed) if with_recursion else supply.at_once():
        drain.run(job_id)

        if sum(drain.counts.values()) >= most:
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
        BaseException: What the first one raises that fails, after it was recorded; the others are
            not run.
    """
    here = nullcontext() if conn is None else callers.bound(desk, conn, wholly=True)

    with here, clock.virtual():
        drain, db = _Drain(desk, with_safety=False), desk.db
        ran: list[Job] = []

        for job in jobs:
            if job.conflict or job.id is None or job.state is not JobState.AVAILABLE:
                ran.append(job)
                continue

            drain.run(job.id)

            with db.session() as tx:
                ran.append(stored_jobs.get(tx.conn, tx.schema, job.id) or job)

        return ran


class _Drain:
    """One drain: takes jobs and counts what they came to.

    Attributes:
        counts: Runs by what they came to.
        passed: Jobs that could not be taken; nobody waits for them.
    """

    def __init__(self, desk: Desk, *, with_safety: bool) -> None:
        self.counts = {state.value: 0 for state in _COUNTED}
        self.passed: set[int] = set()
        self._db = desk.db
        self._host = desk.host
        self._node = desk.node
        self._owner = new_identity()
        self._with_safety = with_safety
        self._snoozed: Counter[int | None] = Counter()

    def run(self, job_id: int) -> None:
        """Run a job, if it can be taken."""
        with self._db.session() as tx:
            job = drains.take(tx, job_id, node=self._node, owner=self._owner)

        if job is None:
            self.passed.add(job_id)

            return

        with self._db.apart():
            outcome = execute(job, perform=partial(perform, host=self._host, keep_error=True))

        if outcome.written is None:
            self._write(outcome)
        elif not outcome.written:
            report_fenced(outcome)

        error, outcome.error = outcome.error, None

        # It is written by now, so raising loses nothing. A Ctrl-C is never only a failed job.
        if error is not None and (not self._with_safety or isinstance(error, KeyboardInterrupt)):
            raise error

        self.counts[outcome.state.value] += 1
        self._refuse_endless(job, outcome.state)

    def _write(self, outcome: Outcome) -> None:
        written = ack.ack_singly(self._db, [outcome], owner=self._owner)

        if written.keys or written.refused:
            return

        # Somebody holds the row, and is waited for; or has the job.
        with self._db.session() as tx:
            if not ack.ack_on(tx.conn, tx.schema, outcome, owner=self._owner):
                report_fenced(outcome)

    def _refuse_endless(self, job: Job, state: JobState) -> None:
        if state is JobState.SCHEDULED:
            self._snoozed[job.id] += 1

            if self._snoozed[job.id] >= _MOST_SNOOZES:
                raise ObanError(
                    f"job {job.id} ({job.worker}) snoozed {_MOST_SNOOZES} times in one drain; "
                    "drain with with_scheduled=False to leave it waiting"
                )


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

    def again_and_again(self, passed: set[int]) -> Iterator[int]:
        """The next job, for as long as there is one but for those that were passed over."""
        while found := self._found(passed, 1 if self.shuffler is None else drains.EVERYTHING):
            yield found[0]

    def at_once(self) -> Iterator[int]:
        """The jobs that are there now, each once."""
        yield from self._found((), drains.EVERYTHING)

    def _found(self, passed: Iterable[int], most: int) -> list[int]:
        with self.db.session() as tx:
            if self.early:
                drains.hasten(tx, self.queues, self.until)

            found = drains.ready(tx, self.queues, passed=passed, most=most)

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
