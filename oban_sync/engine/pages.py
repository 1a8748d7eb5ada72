"""What pages of the dashboard look at that nobody else does; nothing here changes anything."""

from __future__ import annotations

from dataclasses import dataclass

from oban_sync.core.filters import Filter
from oban_sync.core.job import Job, JobState
from oban_sync.engine import inspect
from oban_sync.engine.inspect import restrict_plans
from oban_sync.engine.session import Db

#: Jobs of a state that are counted; beyond these they are estimated.
MOST_COUNTED = 2_000

#: Jobs that are read to fill a page with those that pass a filter; then visitors are asked. By id
#: they lie side by side; along the indexes of states they lie anywhere, which takes twice as long.
MOST_READ = 40_000
MOST_READ_OF_STATES = 20_000


@dataclass(frozen=True, slots=True)
class Found:
    """The jobs of a page.

    Attributes:
        jobs: These, and perhaps some more.
        read: How many were looked through at the most, to find them.
        by_id: Whether these were the newest of all, and not the jobs of some states.
        further: Whether there are others, and where it goes on, as `find_page` takes it; None where
            no more are to be found, or the page is full.
    """

    jobs: list[Job]
    read: int
    by_id: bool
    further: Further | None


@dataclass(frozen=True, slots=True)
class Further:
    """Where to look further.

    Attributes:
        before_id: Older than this job; None for the newest.
        by_id: Whether to look through all jobs.
    """

    before_id: int | None
    by_id: bool


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


def find_page(
    db: Db, wanted: Filter, *, most: int, before_id: int | None = None, by_id: bool = False
) -> Found:
    """The newest jobs that pass a filter, for a page that shall not wait for them.

    Of a filter on states it reads the jobs of these, of any other the newest jobs, and no more than
    `MOST_READ_OF_STATES` or `MOST_READ`. Where that is not all there are, and too few were found,
    it tells how to go on.

    Args:
        db: Where the tables are.
        wanted: The filter.
        most: Most jobs given.
        before_id: Only jobs older than this one.
        by_id: Look through all jobs by id, whatever the filter is on.

    Raises:
        SlowFilterError: It took too long.
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    by_id = by_id or bool(wanted.ids) or not inspect.reads_states(wanted)
    read = MOST_READ if by_id else MOST_READ_OF_STATES // len(wanted.states)

    with db.looking() as tx:
        jobs = inspect.find_jobs(
            tx, wanted, before_id=before_id, most=most, within=read, by_id=by_id
        )
        further = None

        if wanted and len(jobs) < most:
            if not by_id:
                if inspect.leaves_some(tx, wanted, within=read):
                    further = Further(before_id, True)
            elif last := inspect.find_unread(tx, wanted, before_id=before_id, within=read):
                further = Further(last + 1, True)

    return Found(jobs, read * (1 if by_id else len(wanted.states)), by_id, further)
