"""What pages of the dashboard look at that nobody else does; nothing here changes anything."""

from __future__ import annotations

from dataclasses import dataclass

from oban_sync.core.job import JobState
from oban_sync.engine.inspect import restrict_plans
from oban_sync.engine.session import Db

#: Jobs of a state that are counted; beyond these they are estimated.
MOST_COUNTED = 2_000


@dataclass(frozen=True, slots=True)
class Count:
    """How many jobs there are in a state.

    Attributes:
        jobs: How many.
        exact: Whether they were counted.
    """

    jobs: int
    exact: bool


def count_states(db: Db) -> dict[JobState, Count]:
    """How many jobs there are in each state, for a page that asks every other second.

    Reads `MOST_COUNTED` jobs of each state at the most. Where there are more, the number is the
    planner's, from when the table was last analyzed, and no less than what was counted.
    """
    with db.looking() as tx:
        restrict_plans(tx)
        rows = tx.unprepared("page_counts", most=MOST_COUNTED)

    counts = dict.fromkeys(JobState, Count(0, True))

    for name, jobs, exact, estimate in rows:
        counts[JobState(name)] = Count(jobs if exact else max(jobs, estimate or 0), exact)

    return counts
