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


def hasten(tx: Tx, queues: Sequence[str] | None, until: datetime | None = None) -> int:
    """Make waiting jobs available before their time; how many there were.

    Args:
        tx: Where.
        queues: Of these queues, or of all.
        until: Only those whose time comes by then.
    """
    [(count,)] = tx.tuples(
        "job_hasten",
        queues=None if queues is None else list(queues),
        until=None if until is None else clock.to_wire(until),
    )

    return int(count)


def ready(
    tx: Tx, queues: Sequence[str] | None, *, passed: Iterable[int] = (), most: int = EVERYTHING
) -> list[int]:
    """The jobs that could be started, in the order of a queue.

    Args:
        tx: Where.
        queues: Of these queues, or of all.
        passed: Jobs that were tried before.
        most: Most jobs given.
    """
    rows = tx.tuples(
        "job_ready_list",
        queues=None if queues is None else list(queues),
        passed=ack.array(passed),
        most=most,
    )

    return [row[0] for row in rows]


def take(tx: Tx, job_id: int, *, node: str, owner: str) -> Job | None:
    """Start a job; None where it is not available any more, or somebody holds it."""
    rows = tx.wired("job_take", id=job_id, node=node, owner=owner)

    if not rows:
        return None

    *columns, queue = rows[0]

    return Job.fetched((*columns, 0), queue, [node, owner])


def database(tx: Tx) -> str:
    """The name of the database."""
    [(name,)] = tx.tuples("database_name")

    return str(name)


def empty(tx: Tx) -> int:
    """Delete all jobs, and all else that tests leave; how many jobs there were."""
    [(count,)] = tx.tuples("tables_empty")

    return int(count)
