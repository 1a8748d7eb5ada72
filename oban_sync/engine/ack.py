"""Writing what runs came to, and handing back what was not finished.

Every write is fenced: it touches a row only while that row is executing, by this producer, the very
start the job was taken with. What is refused by the fence belongs to somebody else by now.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from oban_sync.core import payload
from oban_sync.core.errors import DatabaseUnavailableError, SchemaError
from oban_sync.core.job import Job
from oban_sync.core.outcome import Outcome
from oban_sync.engine.session import Db, Tx, translate

log = logging.getLogger("oban_sync.engine")

#: Errors a job keeps; the oldest go first.
MOST_ERRORS = 100


def ack(tx: Tx, outcomes: Sequence[Outcome], *, owner: str) -> set[int]:
    """Write outcomes of any kind in one statement; the ids of those that the fence let through."""
    return _ack(tx, [outcome.to_row() for outcome in outcomes], owner)


def ack_singly(db: Db, outcomes: Iterable[Outcome], *, owner: str) -> set[int]:
    """Write outcomes one by one, after a batch of them was refused.

    One that is refused alone is written without its error text and meta, so that the job at least
    ends. One that is refused even so is logged and given up: retrying it would stop the queue.

    Returns:
        The ids of those written.

    Raises:
        DatabaseUnavailableError: The connection was lost; nothing is given up, try again.
    """
    written: set[int] = set()

    for outcome in outcomes:
        for row in (outcome.to_row(), outcome.to_row(minimal=True)):
            try:
                with db.session() as tx:
                    written |= _ack(tx, [row], owner)
            except (DatabaseUnavailableError, SchemaError):
                raise
            except psycopg.Error as error:
                log.error("PostgreSQL refused the outcome of %r: %s", outcome.job, error)
            else:
                break

    return written


def release(db: Db, jobs: Sequence[Job], *, owner: str) -> int:
    """Hand back jobs that were started but not finished; their attempt is not spent.

    One that PostgreSQL refuses to hand back is logged, and stays executing.

    Returns:
        How many were handed back; the others were not this producer's any more.

    Raises:
        DatabaseUnavailableError: The connection was lost; some may have been handed back.
    """
    try:
        with db.session() as tx:
            return _release(tx, jobs, owner)
    except psycopg.Error as error:
        if not is_refusal(error):
            raise

        if len(jobs) == 1:
            log.error("PostgreSQL refused to hand back %r: %s", jobs[0], error)

            return 0

    return sum(release(db, [job], owner=owner) for job in jobs)


def reconcile(db: Db, *, queue: str, owner: str, known: Iterable[int]) -> list[int]:
    """Hand back jobs the table says this producer runs, but which it does not know.

    They were taken by a fetch whose reply was lost with its connection. When PostgreSQL refuses it,
    that is logged, and they stay executing.

    Returns:
        The ids of those handed back.

    Raises:
        DatabaseUnavailableError: The connection was lost; try again.
    """
    try:
        with db.session() as tx:
            found = tx.tuples("job_reconcile", queue=queue, owner=owner, known=array(known))
    except psycopg.Error as error:
        if not is_refusal(error):
            raise

        log.error("PostgreSQL refused to hand back jobs of queue %r: %s", queue, error)

        return []

    return [row[0] for row in found]


@dataclass(frozen=True, slots=True)
class Standing:
    """How a job stands whose outcome was not accepted."""

    id: int
    state: str
    fence: str | None
    owner: str | None


def fenced(tx: Tx, outcomes: Sequence[Outcome], *, owner: str) -> list[Outcome]:
    """Of outcomes that changed no row, those that somebody else overtook.

    The others were written before: the reply to their statement was lost with its connection.
    """
    ids = array(outcome.job.id or 0 for outcome in outcomes)
    found = {row.id: row for row in tx.rows(Standing, "job_fence_list", ids=ids)}

    return [
        outcome
        for outcome in outcomes
        if (row := found.get(outcome.job.id or 0)) is None
        or row.fence != outcome.job.fence
        or row.owner != owner
        or row.state != outcome.state.value
    ]


def array(ids: Iterable[int]) -> str:
    """A PostgreSQL array as text: one parameter type whatever the sizes, so one prepared plan."""
    return "{" + ",".join(map(str, ids)) + "}"


def arrays(jobs: Iterable[Job]) -> tuple[str, str]:
    """The ids and the fences of jobs, as array texts."""
    ids: list[str] = []
    fences: list[str] = []

    for job in jobs:
        ids.append(str(job.id))
        fences.append(f'"{job.fence}"')

    return "{" + ",".join(ids) + "}", "{" + ",".join(fences) + "}"


def is_refusal(error: psycopg.Error) -> bool:
    """Whether PostgreSQL refused what a statement holds, as opposed to being unreachable."""
    return translate(error) is None and isinstance(
        error,
        (
            psycopg.DataError,
            psycopg.IntegrityError,
            psycopg.InternalError,
            psycopg.ProgrammingError,
            psycopg.NotSupportedError,
        ),
    )


def _release(tx: Tx, jobs: Sequence[Job], owner: str) -> int:
    ids, fences = arrays(jobs)
    channel = tx.channel("insert")

    return len(tx.tuples("job_release", ids=ids, fences=fences, owner=owner, channel=channel))


def _ack(tx: Tx, rows: list[dict[str, Any]], owner: str) -> set[int]:
    found = tx.tuples("job_ack", outcomes=payload.dumps(rows), owner=owner, most=MOST_ERRORS)

    return {row[0] for row in found}
