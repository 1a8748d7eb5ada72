"""Looking at many jobs at once, for people: pages and counts. Nothing here changes anything."""

from __future__ import annotations

import re
from collections.abc import Sequence

from oban_sync.core.job import Job, JobState
from oban_sync.engine.jobs import COLUMNS
from oban_sync.engine.session import Db, Tx

#: Finished jobs of a state that are read to be counted; beyond these they are estimated.
MOST_COUNTED = 1_000

_ROWS = re.compile(r" rows=(\d+)")


def list_jobs(
    tx: Tx,
    *,
    states: Sequence[str] | None = None,
    queues: Sequence[str] | None = None,
    workers: Sequence[str] | None = None,
    tags: Sequence[str] | None = None,
    args: str | None = None,
    before_id: int | None = None,
    most: int,
) -> list[Job]:
    """The newest jobs that pass every filter; None is no filter, args are JSON that is contained.

    Those on states read the jobs of these states only; the others read the table from its newest
    job on, until the page is full.
    """
    # A prepared statement would come to be planned once for all filters, and read the table.
    rows = tx.unprepared(
        "job_list",
        states=None if states is None else f"{{{','.join(states)}}}",
        queues=None if queues is None else list(queues),
        workers=None if workers is None else list(workers),
        tags=None if tags is None else list(tags),
        args=args,
        before_id=before_id,
        most=most,
    )

    return [Job.loaded(**dict(zip(COLUMNS, row, strict=True))) for row in rows]


def count_jobs(db: Db, queue: str | None = None) -> dict[JobState, int]:
    """How many jobs there are in each state, of one queue or of all.

    Never reads more than the waiting and executing jobs, and `MOST_COUNTED` finished ones of each
    state; where there are more, the number is the planner's estimate.
    """
    # A transaction, because the settings for its plans must not outlive it.
    with db.looking() as tx:
        tx.tuples("plan_restrict")
        rows = tx.unprepared("job_count", queue=queue, most=MOST_COUNTED)
        counts = dict.fromkeys(JobState, 0)

        for name, jobs, exact in rows:
            state = JobState(name)
            counts[state] = jobs if exact else _estimate(tx, state, queue, jobs)

    return counts


def _estimate(tx: Tx, state: JobState, queue: str | None, least: int) -> int:
    [(line, *_), *_] = tx.tuples("job_estimate", state=state.value, queue=queue)
    found = _ROWS.search(line)
    rows = 0 if found is None else int(found[1])

    # One is the least the planner ever says, also of none.
    return max(least, rows if rows > 1 else 0)
