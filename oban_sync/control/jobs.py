"""What people do to jobs that are stored: look, cancel, retry, delete, change.

Every function takes the desk's Db first. `conn` is a connection of the application's, of any kind
that `Oban.enqueue` takes: all of it then happens in that connection's transaction, which stays the
caller's to commit. Without one it happens in a transaction of its own, done again a few times when
that lost a race with another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from oban_sync.core import filters, payload
from oban_sync.core.checks import check_choice, check_whole
from oban_sync.core.errors import (
    InvalidJobError,
    JobNotFoundError,
    shown,
    unknown,
)
from oban_sync.core.filters import Filter
from oban_sync.core.job import Job, JobState
from oban_sync.core.options import CHECKS, check_name, check_tags
from oban_sync.engine import inspect
from oban_sync.engine import jobs as stored_jobs
from oban_sync.engine.retry import conflicts_retried
from oban_sync.engine.session import Db

Result = TypeVar("Result")

#: One job, or several in whatever can be iterated over.
Jobs = Job | int | Iterable[Job | int]

#: Changes, or what makes them of the job as it stands.
Changes = Mapping[str, Any] | Callable[[Job], Mapping[str, Any]]

MOST_LISTED = 10_000

#: Jobs that a search reads, unless it is told another number, and at the most.
MOST_READ = inspect.MOST_READ
MOST_SEARCHED = 10_000_000

MOST_ID = 2**63 - 1

#: What is settled when a job is stored.
_SETTLED = ("deadline", "timeout", "unique", "weight")

#: What may be changed in a stored job, each with its check.
_CHANGEABLE: Mapping[str, Callable[[str, object], Any]] = {
    "args": lambda option, value: payload.encode(value, option),
    "worker": check_name,
    **{option: check for option, check in CHECKS.items() if option not in _SETTLED},
}

#: States from which a job is started again without being retried by hand.
_WAITING = (JobState.AVAILABLE, JobState.RETRYABLE, JobState.SCHEDULED, JobState.SUSPENDED)


def get_job(db: Db, job: Job | int, *, conn: Any = None) -> Job | None:
    """A job as it stands now, or None.

    Args:
        job: Its id, or the job as it stood before.
        conn: Look through this connection, which sees what its transaction has changed.

    Raises:
        InvalidJobError: It is no id, or a job that was not stored.
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    job_id = _checked_id("job", job)

    if conn is not None:
        return stored_jobs.get(conn, db.schema, job_id)

    with db.session() as tx:
        return stored_jobs.get(tx.conn, tx.schema, job_id)


def cancel_job(db: Db, job: Job | int, *, by: str | None = None, conn: Any = None) -> bool:
    """Cancel a job, or ask it to stop when it is executing; see `cancel_many_jobs`.

    Returns:
        Whether there was something to cancel: not when the job had finished, or is not there.
    """
    ids = [_checked_id("job", job)]

    return len(_cancel(db, ids, by=by, conn=conn)) == 1


def cancel_many_jobs(db: Db, jobs: Jobs, *, by: str | None = None, conn: Any = None) -> int:
    """Cancel jobs, so that they do not run, or not again.

    A job that waits is cancelled at once. One that is executing cannot be stopped from outside:
    the request is recorded in its row, its node hears of it when this is committed, and by its next
    beat at the latest, and the job sees it in ``job.cancelled()``. It ends as cancelled, unless it
    completes all the same. Jobs that finished are left alone, and cancelling twice is harmless.

    Args:
        jobs: Jobs or ids, one or any number; those that are not there are passed over.
        by: Who asks; kept in the job's meta as ``cancel_requested_by``.
        conn: Do it in this connection's transaction; nodes hear of it when that is committed.

    Returns:
        How many were cancelled, or asked to stop.

    Raises:
        InvalidJobError: Something among them is no id, or a job that was not stored.
        ConfigError: `conn` is not a connection.
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    return len(_cancel(db, _checked_ids(jobs), by=by, conn=conn))


def retry_job(db: Db, job: Job | int, *, conn: Any = None) -> bool:
    """Make a job available again; see `retry_many_jobs`.

    Returns:
        Whether it was: not when it is available or executing, or is not there.
    """
    return retry_many_jobs(db, [_checked_id("job", job)], conn=conn) == 1


def retry_many_jobs(db: Db, jobs: Jobs, *, conn: Any = None) -> int:
    """Make jobs available again, whatever they came to, and those that wait for their time.

    They may start at once, and have one attempt left at least. Errors of earlier runs stay;
    requests to cancel, and how often a job's process died, are forgotten. A deadline counts anew,
    from now. A unique job is run again though another one with its key may be there. Available and
    executing jobs are left alone.

    Args:
        jobs: Jobs or ids, one or any number; those that are not there are passed over.
        conn: Do it in this connection's transaction; nodes hear of it when that is committed.

    Returns:
        How many were made available.

    Raises:
        InvalidJobError, ConfigError, DatabaseUnavailableError: As `cancel_many_jobs`.
    """
    ids = _checked_ids(jobs)

    return len(_in_transaction(db, conn, lambda own: stored_jobs.retry(own, db.schema, ids)))


def delete_job(db: Db, job: Job | int, *, conn: Any = None) -> bool:
    """Delete a job; see `delete_many_jobs`.

    Returns:
        Whether it was: not when it is executing, or is not there.
    """
    return delete_many_jobs(db, [_checked_id("job", job)], conn=conn) == 1


def delete_many_jobs(db: Db, jobs: Jobs, *, conn: Any = None) -> int:
    """Delete jobs for good. Executing ones are left alone: cancel them first.

    Args:
        jobs: Jobs or ids, one or any number; those that are not there are passed over.
        conn: Do it in this connection's transaction.

    Returns:
        How many were deleted.

    Raises:
        InvalidJobError, ConfigError, DatabaseUnavailableError: As `cancel_many_jobs`.
    """
    ids = _checked_ids(jobs)

    return len(_in_transaction(db, conn, lambda own: stored_jobs.delete(own, db.schema, ids)))


def update_job(db: Db, job: Job | int, changes: Changes, *, conn: Any = None) -> Job:
    """Change a stored job; see `update_many_jobs`.

    Returns:
        The job as it stands now.

    Raises:
        JobNotFoundError: There is no such job.

    Example:
        >>> urgent = oban.update_job(job, {"priority": 0, "queue": "urgent"})
        >>> tagged = oban.update_job(job, lambda job: {"tags": [*job.tags, "seen"]})
    """
    job_id = _checked_id("job", job)
    updated = update_many_jobs(db, [job_id], changes, conn=conn)

    if not updated:
        raise JobNotFoundError(f"there is no job {job_id}")

    return updated[0]


def update_many_jobs(db: Db, jobs: Jobs, changes: Changes, *, conn: Any = None) -> list[Job]:
    """Change stored jobs: only what is given is written, whatever else happens to them meanwhile.

    Changeable are args, max_attempts, meta, priority, queue, scheduled_at or schedule_in, tags and
    worker, checked as for new jobs. meta is merged, key by key: what is not given stays. With a new
    time a job moves between scheduled and available as it asks for, and its deadline moves along;
    one that finished stays so. A job that is executing goes on with what it was started with. A
    unique job keeps the key that it was stored with, whatever is changed.

    Args:
        jobs: Jobs or ids, one or any number; those that are not there are passed over.
        changes: A dict, or what makes one of each job. A callable gets the job as it stands, which
            nobody else can change before the changes are written; it may be called again when the
            transaction lost a race. An empty dict leaves the job alone.
        conn: Do it in this connection's transaction; for a callable it has to be in one.

    Returns:
        The jobs as they stand now, in the order given, each once.

    Raises:
        InvalidJobError: A change is unknown or wrong, or `max_attempts` is less than a job needs;
            also as `cancel_many_jobs`. Nothing was changed.
        ConfigError: `conn` is not a connection, or is in no transaction and `changes` a callable.
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    ids = _checked_ids(jobs)
    reading = callable(changes)
    change = _of_each(changes) if callable(changes) else _of_all(changes)
    updated = _in_transaction(
        db, conn, lambda own: stored_jobs.update(own, db.schema, ids, change, reading=reading)
    )
    found = {job.id: job for job in updated}

    return [found[job_id] for job_id in dict.fromkeys(ids) if job_id in found]


def list_jobs(
    db: Db,
    *,
    state: str | Iterable[str] | None = None,
    queue: str | Iterable[str] | None = None,
    worker: str | Iterable[str] | None = None,
    tags: str | Iterable[str] | None = None,
    args: Mapping[str, Any] | None = None,
    limit: int = 100,
    before_id: Job | int | None = None,
) -> list[Job]:
    """A page of jobs, the newest first.

    Filters on unfinished states are quick. The others read the table from its newest job on until
    the page is full: for rare jobs in a large table that may take long.

    Args:
        state: In this state, or one of these.
        queue: In this queue, or one of these.
        worker: Of the worker of this name, or one of these.
        tags: With this tag, or all of these.
        args: Whose args contain these, at any depth: ``{"user": {"id": 7}}``.
        limit: Most jobs given, 1 to 10,000.
        before_id: Only jobs older than this one: the last of the page before.

    Raises:
        ConfigError: A filter is none; names it, and what is allowed.
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    states = [one.value for one in JobState]

    with db.session() as tx:
        return inspect.list_jobs(
            tx,
            states=_several("state", state, lambda at, one: check_choice(at, one, *states)),
            queues=_several("queue", queue, check_name),
            workers=_several("worker", worker, check_name),
            tags=None if tags is None else check_tags("tags", _one_or_more(tags)),
            args=None if args is None else payload.encode(args, "args"),
            before_id=None if before_id is None else _checked_id("before_id", before_id),
            most=check_whole("limit", limit, 1, MOST_LISTED),
        )


def search_jobs(
    db: Db,
    wanted: str | Filter = "",
    *,
    limit: int = 100,
    before_id: Job | int | None = None,
    within: int = MOST_READ,
) -> list[Job]:
    """A page of jobs that pass a filter as people type it, the newest first.

    Reads a bounded number of jobs, however many there are. A filter on states looks at the jobs of
    these states, at `within` of each; any other at the newest `within` jobs, so that of rare ones
    the older are not found. With `before_id` it goes on from there. It may take 5 seconds, or as
    long as 20,000 jobs a second take, whichever is more.

    Args:
        wanted: As ``queues:mailers states:discarded args.user.id:7``; see `core.filters.parse`.
        limit: Most jobs given, 1 to 10,000.
        before_id: Only jobs older than this one: the last of the page before.
        within: Most jobs read, 1 to 10,000,000: a million take about a second.

    Raises:
        FilterError: The filter cannot be read: quotes the term, and says what is allowed. Or it
            takes too long.
        ConfigError: Another argument is wrong.
        DatabaseUnavailableError: PostgreSQL could not be reached.

    Example:
        >>> failed = oban.search_jobs("queues:mailers states:discarded,retryable")
    """
    checked = _filter(wanted)
    most = check_whole("limit", limit, 1, MOST_LISTED)
    before = None if before_id is None else _checked_id("before_id", before_id)
    read = check_whole("within", within, 1, MOST_SEARCHED)

    with db.looking() as tx:
        return inspect.find_jobs(tx, checked, before_id=before, most=most, within=read)


def search_ids(db: Db, wanted: str | Filter, *, limit: int = MOST_LISTED) -> list[int]:
    """The ids of the newest jobs that pass a filter; as `search_jobs`, for what is done to many.

    Args:
        wanted: The filter.
        limit: Most ids given, 1 to 10,001: one more than are dealt with at once.

    Raises:
        FilterError, ConfigError: As `search_jobs`.
    """
    checked = _filter(wanted)
    most = check_whole("limit", limit, 1, MOST_LISTED + 1)

    with db.looking() as tx:
        return inspect.find_ids(tx, checked, most=most)


def count_jobs(db: Db, queue: str | None = None) -> dict[JobState, int]:
    """How many jobs there are in each state; every state is a key.

    Exact for available, scheduled, retryable and executing jobs. Finished jobs are not read beyond
    the newest 1,000 of each state: where there are more, and for suspended jobs, the number is the
    planner's estimate, as good as the table's statistics are new.

    Args:
        queue: Only of this queue; by default of all.

    Raises:
        ConfigError: That is no name of a queue.
        DatabaseUnavailableError: PostgreSQL could not be reached.

    Example:
        >>> waiting = oban.count_jobs()["available"]
    """
    return inspect.count_jobs(db, None if queue is None else check_name("queue", queue))


def _cancel(db: Db, ids: list[int], *, by: str | None, conn: Any) -> list[stored_jobs.Cancelled]:
    by = None if by is None else check_name("by", by)

    return _in_transaction(db, conn, lambda own: stored_jobs.cancel(own, db.schema, ids, by=by))


def _in_transaction(db: Db, conn: Any, work: Callable[[Any], Result]) -> Result:
    if conn is not None:
        return work(conn)

    def own() -> Result:
        with db.transaction() as tx:
            return work(tx.conn)

    return conflicts_retried(own)


def _of_all(changes: object) -> Callable[[Job], stored_jobs.Changes]:
    checked = _checked_changes(changes)

    def change(job: Job) -> stored_jobs.Changes:
        _check_attempts(job, checked)

        return checked

    return change


def _of_each(make: Callable[[Job], object]) -> Callable[[Job], stored_jobs.Changes]:
    def change(job: Job) -> stored_jobs.Changes:
        made = make(job)

        try:
            checked = _checked_changes(made)
        except InvalidJobError as error:
            raise InvalidJobError(error.option, f"{error.problem} (job {job.id})") from error

        _check_attempts(job, checked)

        return checked

    return change


def _checked_changes(changes: object) -> dict[str, Any]:
    if not isinstance(changes, Mapping):
        raise InvalidJobError("changes", f"{shown(changes)} is not a dict of what to change")

    values: dict[str, Any] = {}

    for option, value in changes.items():
        if (check := _CHANGEABLE.get(option)) is None:
            raise InvalidJobError(str(option), unknown(option, _CHANGEABLE))

        values["schedule_in" if option == "scheduled_in" else option] = check(option, value)

    if "schedule_in" in values and "scheduled_at" in values:
        raise InvalidJobError(
            "schedule_in", "a job is scheduled either in some time or at a time, not both"
        )

    return values


def _check_attempts(job: Job, changes: Mapping[str, Any]) -> None:
    # A job that waits with no attempt left would wait for ever.
    least = job.attempt + (1 if job.state in _WAITING else 0)

    if changes.get("max_attempts", least) < least:
        raise InvalidJobError(
            "max_attempts",
            f"{changes['max_attempts']} is not enough for job {job.id}, which is "
            f"{job.state.value} and was started {job.attempt} times; give {least} or more",
        )


def _checked_ids(jobs: object) -> list[int]:
    if isinstance(jobs, (Job, int)):
        return [_checked_id("jobs", jobs)]

    if not isinstance(jobs, Iterable):
        raise InvalidJobError("jobs", f"{shown(jobs)} is neither a job, an id, nor several of them")

    return [_checked_id(f"jobs[{index}]", job) for index, job in enumerate(jobs)]


def _checked_id(place: str, job: object) -> int:
    if isinstance(job, Job):
        if job.id is None:
            raise InvalidJobError(
                place, f"{shown(job)} is not stored, so it has no id; give what enqueue returned"
            )

        job = job.id

    if isinstance(job, bool) or not isinstance(job, int) or not 0 <= job <= MOST_ID:
        raise InvalidJobError(
            place, f"{shown(job)} is neither a job nor an id; ids are 0 to {MOST_ID}"
        )

    return job


def _filter(wanted: object) -> Filter:
    return wanted if isinstance(wanted, Filter) else filters.parse(wanted)  # type: ignore[arg-type]


def _several(option: str, value: object, check: Callable[[str, object], str]) -> list[str] | None:
    if value is None:
        return None

    if isinstance(value, str) or not isinstance(value, Iterable):
        return [check(option, value)]

    return [check(f"{option}[{index}]", one) for index, one in enumerate(value)]


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value
