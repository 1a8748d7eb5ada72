"""Storing jobs, reading them back, and changing those that are stored.

What takes a connection takes any kind, see `callers.run_on`, and works in its transaction. Many
jobs are locked in the order of their ids, so that two callers cannot wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from oban_sync.core import clock, payload
from oban_sync.core.errors import ConfigError
from oban_sync.core.job import Job, Row
from oban_sync.core.row import characters_of, is_simple, texts_of, whole_of, with_options
from oban_sync.engine.batches import Ahead, batches_of, parts_of
from oban_sync.engine.callers import run_on
from oban_sync.engine.sending import Meanwhile, is_plain, run_alone, run_for
from oban_sync.engine.session import translated

#: Times that a unique job is tried whose key was taken when it was inserted, and free when its
#: holder was looked for. Each time another job has come and gone in between.
MOST_TRIES = 200

#: The columns of a job, in the order in which the statements give them.
COLUMNS = (
    "id",
    "state",
    "queue",
    "worker",
    "attempt",
    "max_attempts",
    "priority",
    "args",
    "meta",
    "tags",
    "errors",
    "attempted_by",
    "inserted_at",
    "scheduled_at",
    "attempted_at",
    "completed_at",
    "cancelled_at",
    "discarded_at",
)

#: Columns by their new values, checked; args and meta as JSON, and schedule_in in place of a time.
Changes = Mapping[str, Any]


def insert(
    conn: Any,
    schema: str,
    jobs: Iterable[Job],
    carried: dict[str, Any] | None = None,
    *,
    ours: bool = False,
) -> list[Job]:
    """Store jobs through any kind of connection, in its transaction, in order.

    Of a unique job that is there already, in the table or before it among the jobs, the one that
    was there comes back. Who inserts the same at the moment is waited for.

    Args:
        conn: See `callers.run_on`.
        schema: The schema of the tables.
        jobs: Any iterable; read batch by batch.
        carried: What each of them takes along.
        ours: It is a connection of psycopg's, and nobody else uses it until this returns, the jobs'
            iterable included: PostgreSQL may work on some while the next are made ready.

    Returns:
        A stored copy of each job, with its id and times, in the order given.
    """
    ours = ours and is_plain(conn)
    stored: list[Job] = []
    rows = (job.to_row(carried) for job in jobs)
    batches = Ahead(batches_of(rows, characters_of, ahead=ours))
    # What has come back, and is not made into jobs yet.
    given: list[tuple[list[Row], list[tuple[Any, ...]]]] = []

    def meanwhile() -> None:
        batches.look()
        stored.extend(_copies(given))

    for batch in batches:
        if all(row.unique is None for row in batch):
            found = _insert(conn, schema, batch, meanwhile if ours else None)
            given.append((batch, found))
        else:
            stored.extend(_copies(given))
            stored.extend(_insert_unique(conn, schema, batch, batches.look if ours else None))

    stored.extend(_copies(given))

    return stored


def _copies(given: list[tuple[list[Row], list[tuple[Any, ...]]]]) -> Iterator[Job]:
    while given:
        batch, found = given.pop(0)

        for row, values in zip(batch, found, strict=True):
            yield row.job.stored(row, *values)


def _insert(
    conn: Any, schema: str, batch: list[Row], meanwhile: Meanwhile | None = None
) -> list[tuple[Any, ...]]:
    texts, usual = texts_of(batch)

    if meanwhile is not None and len(batch) == 1 and is_simple(batch[0]):
        return run_alone(conn, "job_insert_one", schema, job=texts[1:-1], usual=usual)

    found = run_for(conn, "job_insert", schema, meanwhile, jobs=texts, usual=usual)
    found.sort(key=itemgetter(0))

    return found


class _Gone(Exception):
    """A job was refused in favour of one that cannot be found any more.

    Attributes:
        ids: What was drawn for the jobs, by their places.
    """

    def __init__(self, ids: dict[int, int]) -> None:
        super().__init__()
        self.ids = ids


def _insert_unique(
    conn: Any, schema: str, batch: list[Row], meanwhile: Meanwhile | None = None
) -> list[Job]:
    places = list(range(len(batch)))
    own = _in_transaction(conn)

    if own is None:
        stored = _try(conn, schema, batch, places, None, again=True, meanwhile=meanwhile)
    else:
        stored = _in_order(own, schema, batch, places, None, meanwhile)

    return [stored[place] for place in places]


def _in_order(
    conn: psycopg.Connection[Any],
    schema: str,
    batch: list[Row],
    places: list[int],
    ids: dict[int, int] | None,
    meanwhile: Meanwhile | None = None,
) -> dict[int, Job]:
    """Insert some of a batch in a transaction, and never a smaller key after a larger one.

    To insert a key that was refused before, while larger ones are held by now, could end in a
    deadlock with somebody who holds it. So all are undone then, and the halves with the smaller and
    with the larger keys done one after the other.
    """
    if len(places) == 1:
        return _try(conn, schema, batch, places, ids, again=True, meanwhile=meanwhile)

    try:
        with conn.transaction():
            return _try(conn, schema, batch, places, ids, again=False, meanwhile=meanwhile)
    except _Gone as gone:
        ids = gone.ids

    ordered = sorted(places, key=lambda place: (batch[place].key, place))
    half = len(ordered) // 2
    smaller = _in_order(conn, schema, batch, sorted(ordered[:half]), ids)

    return smaller | _in_order(conn, schema, batch, sorted(ordered[half:]), ids)


def _in_transaction(conn: Any) -> psycopg.Connection[Any] | None:
    """The connection itself, in the transaction that its statements belong to."""
    own = conn.connection if isinstance(conn, psycopg.Cursor) else conn

    if not isinstance(own, psycopg.Connection):
        return None

    if not own.autocommit and own.info.transaction_status == TransactionStatus.IDLE:
        # Else the savepoint would be a transaction, and committed.
        own.execute("SELECT 1")

    return own if own.info.transaction_status == TransactionStatus.INTRANS else None


def _try(
    conn: Any,
    schema: str,
    batch: list[Row],
    places: list[int],
    ids: dict[int, int] | None,
    *,
    again: bool,
    meanwhile: Meanwhile | None = None,
) -> dict[int, Job]:
    """Insert some of a batch, or find what is there.

    Args:
        places: Which ones, ascending.
        ids: What was drawn for them before.
        again: Whether to try a job again that was refused in favour of one that has gone since.
            What gave way at our wish is tried again in any case: nobody else can take its key.
        meanwhile: What to do during the first statement.

    Raises:
        _Gone: There is such a job, and it is not to be tried again.
    """
    rows = [batch[place] for place in places]
    given = None if ids is None else [ids[place] for place in places]
    found = _insert_free(conn, schema, rows, given, meanwhile)

    if len(found) == len(rows) and found[0][1] is not None:
        return {
            place: row.job.stored(row, *values)
            for place, row, values in zip(places, rows, found, strict=True)
        }

    stored: dict[int, Job] = {}
    drawn = dict(zip(places, dict.fromkeys(row[0] for row in found), strict=True))
    left = places

    tries = 0

    while tries < MOST_TRIES:
        before = len(left)
        times = {row[0]: row for row in found if row[1] is not None}
        taken = [place for place in left if drawn[place] not in times]

        for place in left:
            if (values := times.get(drawn[place])) is not None:
                stored[place] = batch[place].job.stored(batch[place], *values)

        there = dict(_find(conn, schema, batch, taken)) if taken else {}
        stored.update((place, job) for place, job in there.items() if job is not None)
        left = [place for place in taken if place not in stored]

        if not left:
            return stored

        if not again and len(there) < len(taken):
            raise _Gone(drawn)

        # One of several that give way to each other is stored by each try.
        tries = 0 if len(left) < before else tries + 1
        # The ids are kept, so that a later try keeps the order.
        rows = [batch[place] for place in left]
        found = _insert_free(conn, schema, rows, [drawn[place] for place in left])

    # PostgreSQL takes them after all, or says what is in the way.
    inserted = _copies([(rows, _insert(conn, schema, rows))])

    return stored | dict(zip(left, inserted, strict=True))


def _insert_free(
    conn: Any,
    schema: str,
    rows: list[Row],
    ids: list[int] | None = None,
    meanwhile: Meanwhile | None = None,
) -> list[tuple[Any, ...]]:
    """Insert what is not there; the rows of what was inserted, and those of all unless it was all.

    By id, and so in the order of the jobs.
    """
    unique = next((row.unique for row in rows if row.unique is not None), None)
    texts, usual = texts_of(
        rows, lambda row: row.text if row.unique is unique else with_options(row)
    )
    found = run_for(
        conn,
        "job_insert_unique",
        schema,
        meanwhile,
        jobs=texts,
        usual=usual,
        ids=None if ids is None else f"{{{','.join(map(str, ids))}}}",
        count=str(len(rows)),
        states="{}" if unique is None else unique.array,
        period=None if unique is None or unique.period is None else repr(unique.period),
    )
    found.sort(key=itemgetter(0))

    return found


def _find(
    conn: Any, schema: str, batch: list[Row], places: list[int]
) -> Iterator[tuple[int, Job | None]]:
    """The jobs that are there in place of those that were refused; None where one gave way."""
    rows = run_on(
        conn,
        "job_unique_find",
        schema,
        jobs=whole_of([batch[place] for place in places]),
        channel=f"{schema}.oban_insert",
    )

    for position, *columns in rows:
        place = places[position - 1]

        if columns[1] is None:
            yield place, None
        else:
            yield place, _loaded(tuple(columns)).found_for(batch[place])


def get(conn: Any, schema: str, job_id: int) -> Job | None:
    """One job by id, or None, through any kind of connection."""
    rows = run_on(conn, "job_get", schema, id=job_id)

    return _loaded(rows[0]) if rows else None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A job that was cancelled.

    Attributes:
        id: The job.
        executing: Whether it runs, and was only asked to stop.
    """

    id: int
    executing: bool


def cancel(conn: Any, schema: str, ids: Iterable[int], *, by: str | None = None) -> list[Cancelled]:
    """Cancel jobs that wait, and ask those that run to stop; finished ones are left alone.

    Args:
        conn: See `callers.run_on`.
        schema: The schema of the tables.
        ids: The jobs; those that are not there are passed over.
        by: Who asks.
    """
    channel = f"{schema}.oban_signal"
    changed: list[Cancelled] = []

    with _together(conn, schema):
        for part in parts_of(ids):
            rows = run_on(conn, "job_cancel", schema, ids=part, by=by, channel=channel)
            changed.extend(Cancelled(*row) for row in rows)

    return changed


def retry(conn: Any, schema: str, ids: Iterable[int]) -> list[int]:
    """Make jobs available again; available and executing ones are left alone.

    Returns:
        The ids of those changed.
    """
    channel = f"{schema}.oban_insert"

    with _together(conn, schema):
        return [
            row[0]
            for part in parts_of(ids)
            for row in run_on(conn, "job_retry", schema, ids=part, channel=channel)
        ]


def delete(conn: Any, schema: str, ids: Iterable[int]) -> list[int]:
    """Delete jobs; executing ones are left alone.

    Returns:
        The ids of those deleted.
    """
    with _together(conn, schema):
        return [
            row[0] for part in parts_of(ids) for row in run_on(conn, "job_delete", schema, ids=part)
        ]


def update(
    conn: Any,
    schema: str,
    ids: Iterable[int],
    changes: Callable[[Job], Changes],
    *,
    reading: bool,
) -> list[Job]:
    """Change columns of jobs, each while its row is held.

    Args:
        conn: See `callers.run_on`.
        schema: The schema of the tables.
        ids: The jobs; those that are not there are passed over.
        changes: What to change in a job.
        reading: Whether that depends on what the job holds, which then must not change in between.

    Returns:
        The jobs as they stand now, by id, those without changes included.

    Raises:
        ConfigError: `reading`, and each statement of the connection is a transaction of its own.
    """
    updated: list[Job] = []

    with _together(conn, schema):
        for part in parts_of(ids):
            updated.extend(_update(conn, schema, part, changes, reading))

    return updated


def _update(
    conn: Any, schema: str, ids: str, changes: Callable[[Job], Changes], reading: bool
) -> list[Job]:
    held = run_on(conn, "job_hold", schema, ids=ids)
    jobs = {row[0]: _loaded(row) for row in held}
    rows = {job_id: change for job_id, job in jobs.items() if (change := changes(job))}
    written: dict[int, Job] = {}

    for texts in batches_of((_change_row(*item) for item in rows.items()), len):
        found = run_on(
            conn,
            "job_update",
            schema,
            changes=f"[{','.join(texts)}]",
            transaction=held[0][-1] if reading else "",
            channel=f"{schema}.oban_insert",
        )
        written.update((row[0], _loaded(row)) for row in found)

    if rows and reading and not written:
        raise ConfigError(
            "conn",
            "each statement on it is a transaction of its own, so others could change a job after "
            "it was read; begin a transaction, or give the changes as a dict",
        )

    # Without a transaction a job may be gone by now.
    left = {job_id: job for job_id, job in jobs.items() if job_id not in rows} | written

    return [left[job_id] for job_id in jobs if job_id in left]


def _change_row(job_id: int, changes: Changes) -> str:
    values = {"id": job_id, **changes}
    texts = [f'"{name}":{values.pop(name)}' for name in ("args", "meta") if name in values]

    if "scheduled_at" in values:
        values["scheduled_at"] = clock.to_wire(values["scheduled_at"])

    return ",".join([payload.dumps(values)[:-1], *texts]) + "}"


def _loaded(row: tuple[Any, ...]) -> Job:
    return Job.loaded(**dict(zip(COLUMNS, row, strict=False)))


@contextmanager
def _together(conn: Any, schema: str) -> Iterator[None]:
    """Make several statements one transaction, on a connection that would make each its own."""
    own = conn.connection if isinstance(conn, psycopg.Cursor) else conn

    if (
        not isinstance(own, psycopg.Connection)
        or not own.autocommit
        or own.info.transaction_status != TransactionStatus.IDLE
    ):
        yield
        return

    with translated(schema), own.transaction():
        yield
