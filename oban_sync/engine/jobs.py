"""Storing jobs and reading them back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from psycopg.rows import dict_row

from oban_sync.core.job import Job
from oban_sync.engine.connections import run_on
from oban_sync.engine.session import Tx, cursor_on
from oban_sync.engine.statements import statement

#: Jobs stored by one statement ...
MOST_JOBS = 5_000

#: ... and characters of JSON, whatever their number: PostgreSQL's own limit is 256 MB.
MOST_CHARACTERS = 16_000_000


def insert(conn: Any, schema: str, jobs: Iterable[Job]) -> list[Job]:
    """Store jobs through any kind of connection, in its transaction, in order.

    Args:
        conn: See `connections.run_on`.
        schema: The schema of the tables.
        jobs: Any iterable; read batch by batch.

    Returns:
        A stored copy of each job, with its id and times, in the order given.
    """
    stored: list[Job] = []

    for batch, rows in _batches(jobs):
        found = run_on(conn, "job_insert", schema, jobs=f"[{','.join(rows)}]")
        found.sort()
        stored.extend(job.stored(*row) for job, row in zip(batch, found, strict=True))

    return stored


def get(tx: Tx, job_id: int) -> Job | None:
    """One job by id, or None."""
    with cursor_on(tx.conn, dict_row) as cursor:
        row = cursor.execute(statement("job_get", tx.schema), {"id": job_id}).fetchone()

    return None if row is None else Job.loaded(**row)


def _batches(jobs: Iterable[Job]) -> Iterator[tuple[list[Job], list[str]]]:
    batch: list[Job] = []
    rows: list[str] = []
    characters = 0

    for job in jobs:
        row = job.to_row()

        if batch and (len(batch) >= MOST_JOBS or characters + len(row) > MOST_CHARACTERS):
            yield batch, rows

            batch, rows, characters = [], [], 0

        batch.append(job)
        rows.append(row)
        characters += len(row)

    if batch:
        yield batch, rows
