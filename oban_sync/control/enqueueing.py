"""Storing jobs, in the application's own transactions where it wants that.

Each function takes the Oban it works for: which connection is bound to it, and where its tables
are.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import Any, Protocol

import psycopg

from oban_sync import telemetry
from oban_sync.core import clock, modes
from oban_sync.core.carrying import Carriers
from oban_sync.core.errors import ConfigError, InvalidJobError, shown
from oban_sync.core.job import Job
from oban_sync.core.limits import Limits
from oban_sync.engine import callers
from oban_sync.engine import jobs as stored_jobs
from oban_sync.engine.retry import conflicts_retried
from oban_sync.engine.session import Db

#: Told before jobs are stored. What its handlers add to `carried` goes along with the jobs.
INSERT_START = "oban.job.insert.start"
INSERT_STOP = "oban.job.insert.stop"


class Desk(Protocol):
    """The part of an Oban that these functions need."""

    @property
    def prefix(self) -> str:
        """The schema of the tables."""
        ...

    @property
    def db(self) -> Db:
        """The application pool."""
        ...

    @property
    def limits(self) -> Mapping[str, Limits]:
        """What holds for queues beside their limits on one node, where it is known here."""
        ...

    @property
    def carriers(self) -> Carriers:
        """What jobs take along from where they are enqueued."""
        ...

    @property
    def testing(self) -> str | None:
        """How it behaves in tests; None as in production."""
        ...

    def run_inline(self, jobs: Sequence[Job], *, conn: Any = None) -> list[Job]:
        """Run stored jobs here and now."""
        ...


def enqueue(desk: Desk, job: Job, *, conn: Any = None) -> Job:
    """Store a job.

    Without `conn` it goes through the connection of the surrounding `connection`, `transaction`
    or `bind` block, and else is committed at once. Nodes hear of it when it is committed. In tests
    with ``testing="inline"`` it runs before this returns, and what it raises is raised here.

    Args:
        desk: The Oban.
        job: Made by ``Worker.new(...)``. It stays as it is, and may be stored again.
        conn: Store it in this connection's transaction, which stays the caller's to commit: a
            psycopg 3, psycopg2 or other DB-API connection or cursor, a SQLAlchemy Connection,
            Session or scoped_session, or a Django connection.

    Returns:
        The job as stored, with its id. When it is unique and there already, the one that is
        there, with ``conflict`` true.

    Raises:
        InvalidJobError: Its args or meta were changed into something that cannot be stored, or a
            key that makes it unique is missing.
        ConfigError: `conn` is not a connection.
        DatabaseUnavailableError: PostgreSQL could not be reached.
        SchemaError: The tables are missing.
    """
    return enqueue_many(desk, (job,), conn=conn)[0]


def enqueue_many(
    desk: Desk, jobs: Iterable[Job] | Job, /, *rest: Job, conn: Any = None
) -> list[Job]:
    """Store any number of jobs in one transaction, some thousands by one statement.

    Args:
        desk: The Oban.
        jobs: An iterable of jobs, a generator for instance; or the first of several arguments.
        rest: More jobs.
        conn: As for `enqueue`; a generator is read while its transaction is open. Without it, all
            is read before anything is stored.

    Returns:
        The jobs as stored, in order, with ids in the same order; but for unique ones that are
        there already, which come back as they are, with ``conflict`` true. Of several that are the
        same among the jobs given, the first is stored.

    Raises:
        ConfigError: Something among them is not a job; nothing was stored.
        DatabaseUnavailableError, InvalidJobError, SchemaError: As `enqueue`.
    """
    given = (jobs, *rest) if isinstance(jobs, Job) else jobs

    if conn is None:
        conn = callers.bound_to(desk)

    if desk.testing is None:
        return _store(desk, given, conn)

    with clock.virtual():
        stored = _store(desk, given, conn)

    return desk.run_inline(stored, conn=conn) if desk.testing == modes.INLINE else stored


def _store(desk: Desk, given: Iterable[Job], conn: Any) -> list[Job]:
    jobs = _checked(given, desk.limits)
    carried = desk.carriers.capture() if desk.carriers else None

    if telemetry.listened(INSERT_START) or telemetry.listened(INSERT_STOP):
        return _told(desk, jobs, conn, carried)

    return _stored(desk, jobs, conn, carried)


def _told(desk: Desk, jobs: Iterator[Job], conn: Any, carried: dict[str, Any] | None) -> list[Job]:
    """As `_stored`, for those who follow it, and who may have more to be carried along."""
    if (first := next(jobs, None)) is None:
        return []

    # The same dict to the end: who follows it finds by that what was begun.
    more = dict(carried or {})
    fields = {"queue": first.queue, "worker": first.worker, "carried": more}
    started = time.monotonic_ns()
    telemetry.emit(INSERT_START, {**fields, "monotonic_time": started})

    try:
        stored = _stored(desk, chain((first,), jobs), conn, more or None)
    except BaseException as error:
        ended = {"duration": time.monotonic_ns() - started, "error": error}
        telemetry.emit("oban.job.insert.exception", {**fields, **ended})

        raise

    ended = {"duration": time.monotonic_ns() - started, "jobs": stored}
    telemetry.emit(INSERT_STOP, {**fields, **ended})

    return stored


def _stored(
    desk: Desk, jobs: Iterator[Job], conn: Any, carried: dict[str, Any] | None
) -> list[Job]:
    if conn is not None:
        return stored_jobs.insert(conn, desk.prefix, jobs, carried)

    # All of them, since a transaction that lost a race with another is done again.
    ready = list(jobs)

    def own() -> list[Job]:
        with desk.db.session() as tx:
            # One job needs no transaction around its one statement.
            if len(ready) == 1:
                return stored_jobs.insert(tx.conn, tx.schema, ready, carried, ours=True)

            with tx.conn.transaction():
                return stored_jobs.insert(tx.conn, tx.schema, ready, carried, ours=True)

    return conflicts_retried(own) if any(job.is_unique for job in ready) else own()


@contextmanager
def connection(desk: Desk) -> Iterator[psycopg.Connection[Any]]:
    """Borrow a psycopg connection; jobs enqueued in the block, on this thread, go through it.

    The connection is in autocommit mode, so open a transaction on it where one is wanted.

    Raises:
        DatabaseUnavailableError: PostgreSQL could not be reached.

    Example:
        >>> with oban.connection() as conn, conn.transaction():
        ...     user = conn.execute("INSERT INTO users VALUES ('a@example.com')")
        ...     stored = MailerWorker.enqueue({"to": "a@example.com"})
    """
    with desk.db.borrowed() as conn, callers.bound(desk, conn, ours=True):
        yield conn


@contextmanager
def transaction(desk: Desk) -> Iterator[psycopg.Connection[Any]]:
    """A transaction that the jobs enqueued in the block, on this thread, belong to.

    Inside the block of another `transaction` or `connection` it is a savepoint, or a
    transaction, on the same connection.

    Raises:
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    conn = callers.bound_to(desk)

    if isinstance(conn, psycopg.Connection):
        with conn.transaction():
            yield conn
    else:
        with connection(desk) as own, own.transaction():
            yield own


def bind(desk: Desk, conn: Any) -> AbstractContextManager[None]:
    """Let jobs enqueued in the block, on this thread, go through a connection or session.

    Nothing is committed: that stays with whoever owns it.

    Args:
        desk: The Oban.
        conn: As for `enqueue`.

    Raises:
        ConfigError: It is not a connection.

    Example:
        >>> with oban.bind(session):
        ...     stored = MailerWorker.enqueue({"to": "a@example.com"})
    """
    callers.check(conn)

    return callers.bound(desk, conn)


def _checked(given: Iterable[Job], limits: Mapping[str, Limits]) -> Iterator[Job]:
    if not isinstance(given, Iterable):
        raise ConfigError("jobs", f"{shown(given)} is neither a job nor an iterable of jobs")

    for index, job in enumerate(given):
        if not isinstance(job, Job):
            raise ConfigError(
                f"jobs[{index}]", f"{shown(job)} is not a job; make one with Worker.new(...)"
            )

        limited = limits.get(job.queue)

        if limited is not None and (problem := limited.refusal(job)) is not None:
            raise InvalidJobError("job", problem)

        yield job
