"""Storing jobs, reading them back, and changing those that are stored.

What takes a connection takes any kind, see `callers.run_on`, and works in its transaction. Many
jobs are locked in the order of their ids, so that two callers cannot wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from oban_sync.core import clock, payload
from oban_sync.core.errors import ConfigError
from oban_sync.core.job import Job
from oban_sync.engine.callers import run_on
from oban_sync.engine.session import translated

Item = TypeVar("Item")

#: Jobs stored or changed by one statement ...
MOST_JOBS = 5_000

#: ... and characters of JSON, whatever their number: PostgreSQL's own limit is 256 MB.
MOST_CHARACTERS = 16_000_000

#: The columns of a job, in the order in which the statements give them.
COLUMNS = (
    "id",
    "state",
    "queue",
    "worker",
    "attempt",
    "max_attempts",
    "priority",
    "args",
    "meta",
    "tags",
    "errors",
    "attempted_by",
    "inserted_at",
    "scheduled_at",
    "attempted_at",
    "completed_at",
    "cancelled_at",
    "discarded_at",
)

#: Columns by their new values, checked; args and meta as JSON, and schedule_in in place of a time.
Changes = Mapping[str, Any]


def insert(conn: Any, schema: str, jobs: Iterable[Job]) -> list[Job]:
    """Store jobs through any kind of connection, in its transaction, in order.

    Args:
        conn: See `callers.run_on`.
        schema: The schema of the tables.
        jobs: Any iterable; read batch by batch.

    Returns:
        A stored copy of each job, with its id and times, in the order given.
    """
    stored: list[Job] = []

    for batch, rows in _batches(jobs, Job.to_row):
        found = run_on(conn, "job_insert", schema, jobs=f"[{','.join(rows)}]")
        found.sort()
        stored.extend(job.stored(*row) for job, row in zip(batch, found, strict=True))

    return stored


def get(conn: Any, schema: str, job_id: int) -> Job | None:
    """One job by id, or None, through any kind of connection."""
    rows = run_on(conn, "job_get", schema, id=job_id)

    return _loaded(rows[0]) if rows else None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A job that was cancelled.

    Attributes:
        id: The job.
        executing: Whether it runs, and was only asked to stop.
    """

    id: int
    executing: bool


def cancel(conn: Any, schema: str, ids: Iterable[int], *, by: str | None = None) -> list[Cancelled]:
    """Cancel jobs that wait, and ask those that run to stop; finished ones are left alone.

    Args:
        conn: See `callers.run_on`.
        schema: The schema of the tables.
        ids: The jobs; those that are not there are passed over.
        by: Who asks.
    """
    channel = f"{schema}.oban_signal"
    changed: list[Cancelled] = []

    with _together(conn, schema):
        for part in _parts(ids):
            rows = run_on(conn, "job_cancel", schema, ids=part, by=by, channel=channel)
            changed.extend(Cancelled(*row) for row in rows)

    return changed


def retry(conn: Any, schema: str, ids: Iterable[int]) -> list[int]:
    """Make jobs available again; available and executing ones are left alone.

    Returns:
        The ids of those changed.
    """
    channel = f"{schema}.oban_insert"

    with _together(conn, schema):
        return [
            row[0]
            for part in _parts(ids)
            for row in run_on(conn, "job_retry", schema, ids=part, channel=channel)
        ]


def delete(conn: Any, schema: str, ids: Iterable[int]) -> list[int]:
    """Delete jobs; executing ones are left alone.

    Returns:
        The ids of those deleted.
    """
    with _together(conn, schema):
        return [
            row[0] for part in _parts(ids) for row in run_on(conn, "job_delete", schema, ids=part)
        ]


def update(
    conn: Any,
    schema: str,
    ids: Iterable[int],
    changes: Callable[[Job], Changes],
    *,
    reading: bool,
) -> list[Job]:
    """Change columns of jobs, each while its row is held.

    Args:
        conn: See `callers.run_on`.
        schema: The schema of the tables.
        ids: The jobs; those that are not there are passed over.
        changes: What to change in a job.
        reading: Whether that depends on what the job holds, which then must not change in between.

    Returns:
        The jobs as they stand now, by id, those without changes included.

    Raises:
        ConfigError: `reading`, and each statement of the connection is a transaction of its own.
    """
    updated: list[Job] = []

    with _together(conn, schema):
        for part in _parts(ids):
            updated.extend(_update(conn, schema, part, changes, reading))

    return updated


def _update(
    conn: Any, schema: str, ids: str, changes: Callable[[Job], Changes], reading: bool
) -> list[Job]:
    held = run_on(conn, "job_hold", schema, ids=ids)
    jobs = {row[0]: _loaded(row) for row in held}
    rows = {job_id: change for job_id, job in jobs.items() if (change := changes(job))}
    written: dict[int, Job] = {}

    for _, texts in _batches(rows.items(), lambda item: _change_row(*item)):
        found = run_on(
            conn,
            "job_update",
            schema,
            changes=f"[{','.join(texts)}]",
            transaction=held[0][-1] if reading else "",
            channel=f"{schema}.oban_insert",
        )
        written.update((row[0], _loaded(row)) for row in found)

    if rows and reading and not written:
        raise ConfigError(
            "conn",
            "each statement on it is a transaction of its own, so others could change a job after "
            "it was read; begin a transaction, or give the changes as a dict",
        )

    # Without a transaction a job may be gone by now.
    left = {job_id: job for job_id, job in jobs.items() if job_id not in rows} | written

    return [left[job_id] for job_id in jobs if job_id in left]


def _change_row(job_id: int, changes: Changes) -> str:
    values = {"id": job_id, **changes}
    texts = [f'"{name}":{values.pop(name)}' for name in ("args", "meta") if name in values]

    if "scheduled_at" in values:
        values["scheduled_at"] = clock.to_wire(values["scheduled_at"])

    return ",".join([payload.dumps(values)[:-1], *texts]) + "}"


def _loaded(row: tuple[Any, ...]) -> Job:
    return Job.loaded(**dict(zip(COLUMNS, row, strict=False)))


@contextmanager
def _together(conn: Any, schema: str) -> Iterator[None]:
    """Make several statements one transaction, on a connection that would make each its own."""
    own = conn.connection if isinstance(conn, psycopg.Cursor) else conn

    if (
        not isinstance(own, psycopg.Connection)
        or not own.autocommit
        or own.info.transaction_status != TransactionStatus.IDLE
    ):
        yield
        return

    with translated(schema), own.transaction():
        yield


def _parts(ids: Iterable[int]) -> Iterator[str]:
    """The ids in order, each once, as arrays that statements take."""
    ordered = sorted(set(ids))

    for start in range(0, len(ordered), MOST_JOBS):
        yield f"{{{','.join(map(str, ordered[start : start + MOST_JOBS]))}}}"


def _batches(
    items: Iterable[Item], encoded: Callable[[Item], str]
) -> Iterator[tuple[list[Item], list[str]]]:
    batch: list[Item] = []
    rows: list[str] = []
    characters = 0

    for item in items:
        row = encoded(item)

        if batch and (len(batch) >= MOST_JOBS or characters + len(row) > MOST_CHARACTERS):
            yield batch, rows

            batch, rows, characters = [], [], 0

        batch.append(item)
        rows.append(row)
        characters += len(row)

    if batch:
        yield batch, rows
