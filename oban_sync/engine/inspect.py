"""Looking at many jobs at once, for people: pages and counts. Nothing here changes anything."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from oban_sync.core import filters
from oban_sync.core.filters import Filter, Inside, SlowFilterError
from oban_sync.core.job import Job, JobState
from oban_sync.engine.jobs import COLUMNS
from oban_sync.engine.session import Db, Tx

#: Finished jobs of a state that are read to be counted; beyond these they are estimated.
MOST_COUNTED = 1_000

#: Most jobs that a filter reads: of all, or of each state that has an index.
MOST_READ = 100_000

#: The newest jobs that are looked through before those of states: most pages are filled by some of
#: them, and then no more are read. Half of what may be read at the most.
_FIRST_READ = 20_000

#: Seconds that a search may take, for each `MOST_READ` jobs that it may read.
PATIENCE = 5.0

#: The state of an error of a statement that was cancelled, which is what its time limit does too.
_CANCELLED = "57014"

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


def find_jobs(
    tx: Tx, wanted: Filter, *, before_id: int | None = None, most: int, within: int = MOST_READ
) -> list[Job]:
    """The newest jobs that pass a filter; see `find_ids`.

    Args:
        tx: A transaction: the settings for its plans end with it.
        wanted: The filter.
        before_id: Only jobs older than this one.
        most: Most jobs given.
        within: Most jobs read.

    Raises:
        SlowFilterError: As `find_ids`.
    """
    return load(tx, find_ids(tx, wanted, before_id=before_id, most=most, within=within))


def load(tx: Tx, ids: Sequence[int]) -> list[Job]:
    """Jobs by their ids, the newest first; those that are gone are left out."""
    rows = tx.unprepared("job_find_rows", ids=list(ids)) if ids else []

    return [Job.loaded(**dict(zip(COLUMNS, row, strict=True))) for row in rows]


def find_ids(
    tx: Tx, wanted: Filter, *, before_id: int | None = None, most: int, within: int = MOST_READ
) -> list[int]:
    """The ids of the newest jobs that pass a filter, by reading a bounded number of jobs.

    Of a filter on states these are the jobs of the states, found along their indexes; `within` of
    each, so that of a state with more some may be missing in between. Of others they are the newest
    jobs, and what is older is not found.

    Args:
        tx: A transaction: the settings for its plans end with it.
        wanted: The filter.
        before_id: Only jobs older than this one.
        most: Most ids given.
        within: Most jobs read.

    Raises:
        SlowFilterError: It took longer than `PATIENCE` for each `MOST_READ` jobs; a filter may hold
            conditions that take long for each job, and somebody else waits for the connection.
    """
    seconds = PATIENCE * max(1.0, within / MOST_READ)

    with searching(tx, wanted, before_id=before_id, most=most, seconds=seconds) as search:
        if wanted.ids or not search.indexed:
            return search.newest(within)

        found = search.newest(min(_FIRST_READ, within // 2))

        if len(found) >= most:
            return found

        ids = {*found, *search.along(within)}

        if not reads_states(wanted):
            ids.update(search.newest(within, [JobState.SUSPENDED]))

        return sorted(ids, reverse=True)[:most]


def reads_states(wanted: Filter) -> bool:
    """Whether a filter is answered along the indexes of its states alone."""
    return bool(wanted.states) and JobState.SUSPENDED not in wanted.states


@contextmanager
def searching(
    tx: Tx, wanted: Filter, *, before_id: int | None = None, most: int, seconds: float
) -> Iterator[Search]:
    """Search jobs while the block lasts, with no more than so many seconds for all statements.

    Raises:
        SlowFilterError: It took longer.
    """
    with _patient(tx, seconds) as limit:
        restrict_plans(tx)

        yield Search(tx, wanted, before_id, most, limit)


class Search:
    """The statements by which jobs are searched; each reads a bounded number of them.

    Attributes:
        indexed: The states of the filter that have an index.
    """

    def __init__(
        self,
        tx: Tx,
        wanted: Filter,
        before_id: int | None,
        most: int,
        limit: Callable[[], None],
    ) -> None:
        self.indexed = [state for state in wanted.states if state is not JobState.SUSPENDED]
        self._tx = tx
        self._wanted = wanted
        self._limit = limit
        self._queues = list(wanted.queues) or None
        self._conditions: dict[str, Any] = {
            "queues": self._queues,
            "workers": list(wanted.workers) or None,
            "tags": list(wanted.tags) or None,
            "nodes": list(wanted.nodes) or None,
            "priorities": list(wanted.priorities) or None,
            "args": _path(wanted.args),
            "meta": _path(wanted.meta),
            "before_id": before_id,
            "most": most,
        }

    def newest(self, read: int, states: Sequence[JobState] | None = None) -> list[int]:
        """Those among the newest jobs, of which it stops to read when it has found enough.

        Args:
            read: Most jobs that are read.
            states: In these states; by default in those of the filter.
        """
        states = self._wanted.states if states is None else states
        rows = self._ask(
            "job_find_newest",
            ids=list(self._wanted.ids) or None,
            states=_labels(states) if states else None,
            within=read,
            **self._conditions,
        )

        return [job_id for (job_id,) in rows]

    def along(self, read: int) -> list[int]:
        """Those among the jobs of the indexed states, of which it reads so many of each."""
        states = _labels(self.indexed)
        rows = self._ask("job_find_state", states=states, within=read, **self._conditions)

        return [job_id for (job_id,) in rows]

    def leaves(self, read: int) -> bool:
        """Whether `along` leaves jobs of these states unread."""
        states = _labels(self.indexed)
        [(more,)] = self._ask("job_find_more", states=states, queues=self._queues, within=read)

        return bool(more)

    def unread(self, read: int) -> int | None:
        """The newest job that `newest` leaves unread, having read enough; None without any."""
        rows = self._ask("job_find_unread", before_id=self._conditions["before_id"], within=read)

        return rows[0][0] if rows else None

    def _ask(self, name: str, **params: object) -> list[tuple[Any, ...]]:
        self._limit()

        return self._tx.unprepared(name, **params)


def count_jobs(db: Db, queue: str | None = None) -> dict[JobState, int]:
    """How many jobs there are in each state, of one queue or of all.

    Never reads more than the waiting and executing jobs, and `MOST_COUNTED` finished ones of each
    state; where there are more, the number is the planner's estimate.
    """
    # A transaction, because the settings for its plans must not outlive it.
    with db.looking() as tx:
        restrict_plans(tx)
        rows = tx.unprepared("job_count", queue=queue, most=MOST_COUNTED)
        counts = dict.fromkeys(JobState, 0)

        for name, jobs, exact in rows:
            state = JobState(name)
            counts[state] = jobs if exact else _estimate(tx, state, queue, jobs)

    return counts


def hold_in_states(tx: Tx, ids: Sequence[int], states: Sequence[JobState]) -> list[int]:
    """Those of some jobs that are in certain states, held until the end of the transaction."""
    rows = tx.unprepared(
        "job_hold_states", ids=f"{{{','.join(map(str, ids))}}}", states=_labels(states)
    )

    return [job_id for (job_id,) in rows]


def restrict_plans(tx: Tx) -> None:
    """Let the statements of this transaction go along indexes, and read no whole table."""
    tx.tuples("plan_restrict")


@contextmanager
def _patient(tx: Tx, seconds: float) -> Iterator[Callable[[], None]]:
    """Let statements take so long and no longer, all together; a shorter limit of theirs stays.

    Gives what is to be called before each of them.
    """
    end = time.monotonic() + seconds
    earlier: str | None = None
    started, allowed = end, seconds

    def limit() -> None:
        nonlocal earlier, started, allowed
        left = max(1, round((end - time.monotonic()) * 1000))
        setting, milliseconds = _allow(tx, left)
        earlier = setting if earlier is None else earlier
        started, allowed = time.monotonic(), milliseconds / 1000

    try:
        yield limit

        if earlier is not None:
            _allow(tx, 0, earlier)
    except Exception as error:
        # Others cancel statements as well, for reasons of their own, but hardly at that moment.
        if _is_cancelled(error) and time.monotonic() - started >= allowed * 0.9:
            raise SlowFilterError(
                "filter",
                f"looking for these jobs takes longer than {min(seconds, allowed):.2g} s; name a "
                "state, or fewer values of args and meta",
            ) from error

        raise


def _allow(tx: Tx, milliseconds: int, setting: str | None = None) -> tuple[str, int]:
    """Set how long each further statement may take; what was set before, and what is now."""
    [(before, now, _)] = tx.tuples("search_patience", milliseconds=milliseconds, setting=setting)

    return before, now


def _is_cancelled(error: BaseException) -> bool:
    # SQLAlchemy keeps the driver's error as `orig`, Django as the cause.
    found = (error, getattr(error, "orig", None), error.__cause__)

    return any(
        _CANCELLED in (getattr(one, "sqlstate", None), getattr(one, "pgcode", None))
        for one in found
    )


def _labels(states: Sequence[JobState]) -> str:
    # Text of no type becomes what it has to be; that of a type would have to be cast by each row.
    return f"{{{','.join(states)}}}"


def _path(conditions: Sequence[Inside]) -> str | None:
    """An SQL/JSON path predicate: at each of these places is one of the values, or a list with it.

    Places inside of objects in lists are found as well: lists open by themselves in such paths.
    """
    parts = []

    for keys, values in conditions:
        place = "$" + "".join(f".{json.dumps(key, ensure_ascii=False)}" for key in keys)
        readings = [one for value in values for one in filters.readings(value)]
        parts.append(f"({' || '.join(f'{place} == {reading}' for reading in readings)})")

    return " && ".join(parts) or None


def _estimate(tx: Tx, state: JobState, queue: str | None, least: int) -> int:
    [(line, *_), *_] = tx.tuples("job_estimate", state=state.value, queue=queue)
    found = _ROWS.search(line)
    rows = 0 if found is None else int(found[1])

    # One is the least the planner ever says, also of none.
    return max(least, rows if rows > 1 else 0)
