"""What jobs logged, in its table: written by the nodes that run them, read by people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC

from oban_sync.core import clock
from oban_sync.core.job_logs import AttemptLog, Written, dumped, read_lines
from oban_sync.engine.session import Db, Tx

#: Runs of one job that are shown; a job that snoozes may have any number.
MOST_RUNS = 100

#: Rows deleted by one statement.
PRUNE_LIMIT = 5_000


def write(db: Db, runs: Sequence[Written]) -> None:
    """Keep what runs logged so far, in one statement; what was kept of them before is replaced.

    Raises:
        DatabaseUnavailableError: There is no connection to be had, or it broke.
    """
    text = dumped(
        {
            "job_id": run.key[0],
            "attempted_at": clock.to_wire(clock.from_micros(run.key[1])),
            "attempt": run.attempt,
            "node": run.node,
            "lines": run.lines,
            "dropped": run.dropped,
        }
        for run in runs
    )

    with db.session() as tx:
        tx.run("log_write", runs=text)


def list_logs(tx: Tx, job_id: int, *, most_lines: int | None = None) -> list[AttemptLog]:
    """What the runs of a job logged, in the order of their starts; the last hundred at the most.

    Args:
        tx: Where the table is.
        job_id: The job.
        most_lines: Most lines of all runs together: those of the newest runs, and of these the last
            ones. The others count as dropped. None for all.
    """
    rows = tx.tuples("log_list", job_id=job_id, most=MOST_RUNS, lines=most_lines)

    return [
        AttemptLog(
            attempt=attempt,
            attempted_at=attempted_at.replace(tzinfo=UTC),
            node=node,
            dropped=dropped + omitted,
            lines=read_lines(json.loads(lines) if isinstance(lines, str) else lines),
        )
        for attempt, attempted_at, node, dropped, omitted, lines in reversed(rows)
    ]


def prune(db: Db, *, keep: float) -> bool:
    """Delete some of what was written longer ago than `keep` seconds; whether there may be more."""
    with db.session() as tx:
        return tx.run("log_prune", keep=keep, most=PRUNE_LIMIT) >= PRUNE_LIMIT
