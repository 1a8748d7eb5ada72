"""Taking jobs one by one, whatever their queue, for whoever runs them by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from oban_sync.core import clock
from oban_sync.core.job import Job
from oban_sync.engine import ack
from oban_sync.engine.session import Tx

#: More than any drain will ever find.
EVERYTHING = 2**31 - 1


def ready(
    tx: Tx,
    queues: Sequence[str] | None,
    *,
    early: bool = False,
    until: datetime | None = None,
    passed: Iterable[int] = (),
    most: int = EVERYTHING,
) -> list[int]:
    """The jobs that could be started, in the order of a queue.

    Args:
        tx: Where.
        queues: Of these queues, or of all.
        early: Those too that wait for their time ...
        until: ... where it comes by then.
        passed: Jobs that were tried before.
        most: Most jobs given.
    """
    rows = tx.tuples(
        "job_ready_list",
        queues=None if queues is None else list(queues),
        early=early,
        until=None if until is None else clock.to_wire(until),
        passed=ack.array(passed),
        most=most,
    )

    return [row[0] for row in rows]


def take(tx: Tx, job_id: int, *, node: str, owner: str, early: bool = False) -> Job | None:
    """Start a job; None where it is not available any more, or somebody holds it.

    Args:
        tx: Where.
        job_id: The job.
        node: Who takes it ...
        owner: ... and through which producer.
        early: Though it waits for its time.
    """
    rows = tx.wired("job_take", id=job_id, early=early, node=node, owner=owner)

    if not rows:
        return None

    *columns, queue = rows[0]

    return Job.fetched((*columns, 0), queue, [node, owner])


def newest(tx: Tx) -> int:
    """The id of the job that was stored last, or 0."""
    [(job_id,)] = tx.tuples("job_newest")

    return job_id or 0


def database(tx: Tx) -> str:
    """The name of the database."""
    [(name,)] = tx.tuples("database_name")

    return str(name)


def empty(tx: Tx) -> int:
    """Delete all jobs, and all else that tests leave; how many jobs there were."""
    [(count,)] = tx.tuples("tables_empty")

    return int(count)


def limit_waiting(tx: Tx, seconds: float) -> None:
    """Let the rest of the transaction wait only so long for each row that somebody else holds."""
    tx.tuples("lock_patience", milliseconds=str(int(1_000 * seconds)))
