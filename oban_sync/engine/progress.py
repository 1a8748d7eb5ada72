"""Keeping how far a running job has come in its row."""

from __future__ import annotations

from oban_sync.core import clock, payload
from oban_sync.core.progress import Progress
from oban_sync.engine.ack import Key
from oban_sync.engine.session import Db

#: Seconds to wait for a connection: the job waits too.
PATIENCE = 1.0


def write(db: Db, key: Key, progress: Progress, *, owner: str) -> bool:
    """Write a job's progress, so that everybody sees it at once.

    Args:
        db: Where the tables are.
        key: The id and the start of the run.
        progress: What it said.
        owner: The producer that started it.

    Returns:
        Whether it was written; else the run is over, or somebody holds the row at the moment.

    Raises:
        DatabaseUnavailableError: There is no connection to be had, or it broke.
    """
    job_id, fence = key

    with db.impatient(PATIENCE).session() as tx:
        changed = tx.run(
            "job_progress",
            id=job_id,
            fence=clock.to_wire(clock.from_micros(fence)),
            owner=owner,
            progress=payload.dumps(progress.kept()),
        )

    return changed > 0
