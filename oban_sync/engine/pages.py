"""What pages of the dashboard look at that nobody else does; nothing here changes anything."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from oban_sync.core.filters import Filter
from oban_sync.core.job import Job, JobState
from oban_sync.engine import inspect
from oban_sync.engine.inspect import Search, restrict_plans
from oban_sync.engine.session import Db

#: Jobs of a state that are counted; beyond these they are estimated.
MOST_COUNTED = 2_000

#: Jobs that are read to fill a page with those that pass a filter; then visitors are asked. By id
#: they lie side by side; along the indexes of states they lie anywhere, which takes twice as long.
MOST_READ = 40_000
MOST_READ_OF_STATES = 20_000

#: Of states, where they are all that is asked for, or whoever asks would wait for it: a fifth of a
#: second.
MOST_READ_IN_DEPTH = 100_000

#: The newest jobs that are looked through before those of states: most pages are filled by these.
FIRST_READ = 10_000


#: States whose index is that of another one.
_SHARED = {JobState.RETRYABLE: JobState.SCHEDULED}


class Through(StrEnum):
    """What visitors let a page look through."""

    #: What takes no longer than a moment.
    LITTLE = ""
    #: The jobs of the states.
    STATES = "states"
    #: All jobs, bit by bit.
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Further:
    """Where to look further, as `find_page` takes it.

    Attributes:
        before_id: Older than this job; None for the newest.
        through: What to look through.
    """

    before_id: int | None
    through: Through


@dataclass(frozen=True, slots=True)
class Found:
    """The jobs of a page.

    Attributes:
        jobs: These, without a gap, and perhaps some more than fit.
        read: How many were looked through at the most, to find them.
        further: Where it goes on; None where no more are to be found, or the page is full.
    """

    jobs: list[Job]
    read: int
    further: Further | None = None


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
    db: Db,
    wanted: Filter,
    *,
    most: int,
    before_id: int | None = None,
    through: Through = Through.LITTLE,
) -> Found:
    """The newest jobs that pass a filter, for a page that shall not wait for them.

    It reads a bounded number of jobs. Where that is not all there are, and too few were found, it
    tells how to go on; whoever follows that to its end has seen all of them, and each once.

    Args:
        db: Where the tables are.
        wanted: The filter.
        most: Most jobs given.
        before_id: Only jobs older than this one.
        through: What to look through.

    Raises:
        SlowFilterError: It took longer than `inspect.PATIENCE`.
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    with db.looking() as tx:
        with inspect.searching(
            tx, wanted, before_id=before_id, most=most, seconds=inspect.PATIENCE
        ) as search:
            if through is Through.ALL or not inspect.reads_states(wanted):
                ids, read, further = _by_id(search, wanted, most)
            else:
                ids, read, further = _of_states(search, wanted, most, before_id, through)

        return Found(inspect.load(tx, ids), read, further)


_Page = tuple[list[int], int, Further | None]


def _by_id(search: Search, wanted: Filter, most: int) -> _Page:
    """Among the newest of all jobs."""
    ids = search.newest(MOST_READ)

    if not wanted or wanted.ids or len(ids) >= most:
        return ids, MOST_READ, None

    last = search.unread(MOST_READ)
    through = Through.ALL if inspect.reads_states(wanted) else Through.LITTLE

    return ids, MOST_READ, None if last is None else Further(last + 1, through)


def _of_states(
    search: Search, wanted: Filter, most: int, before_id: int | None, through: Through
) -> _Page:
    """Among the jobs of some states: if all of these can be read, for their order is another."""
    ids = search.newest(FIRST_READ)

    if len(ids) >= most:
        return ids, FIRST_READ, None

    is_deep = through is Through.STATES or not replace(wanted, states=(), queues=())
    read = MOST_READ_IN_DEPTH if is_deep else MOST_READ_OF_STATES
    # Two of them share one index.
    indexes = {_SHARED.get(state, state) for state in search.indexed}

    if not search.leaves(each := read // len(indexes)):
        return search.along(each), read, None

    if is_deep:
        return _by_id(search, wanted, most)

    return ids, FIRST_READ, Further(before_id, Through.STATES)
