"""A job on its way into the table: what the insert statement takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from oban_sync.core import clock, payload
from oban_sync.core.carrying import with_kept
from oban_sync.core.progress import PROGRESS
from oban_sync.core.unique import META_KEYS, Unique

if TYPE_CHECKING:
    from oban_sync.core.job import Job

#: The key of meta under which the library keeps what else it has to know of a job.
KEPT: Final = "oban_sync"


class Row(NamedTuple):
    """A job on its way into the table.

    Attributes:
        job: The job.
        usual: Its plain columns, the same for most of what is stored together: the inside of a JSON
            object ...
        text: ... and its other columns for the insert statement, likewise; what makes it unique is
            not in it.
        meta: The job's meta as it goes into its row.
        unique: What makes it unique, if anything.
        key: The key that comes of it, or nothing.
        deadline: Seconds after the time it is scheduled for within which it has to start.
    """

    job: Job
    usual: str
    text: str
    meta: Any
    unique: Unique | None
    key: str
    deadline: float | None


def row_of(
    job: Job,
    usual: str,
    args: Any,
    meta: Any,
    *,
    schedule_in: float | None,
    scheduled_at: datetime | None,
    deadline: float | None,
    unique: Unique | None,
    carried: Mapping[str, Any] | None,
) -> Row:
    """The row of a job, every value checked by now.

    Args:
        job: The job.
        usual: See `usual_of`.
        args: Its args, as a dict or as text ...
        meta: ... and its meta. What another job's key or run left in there is dropped.
        schedule_in: Seconds after which it is to start.
        scheduled_at: When it is to start.
        deadline: Seconds after that within which it has to.
        unique: What makes it unique, if anything.
        carried: What it carries along from where it is enqueued.

    Raises:
        InvalidJobError: One of them cannot be stored, or a key that makes the job unique was taken
            away.
    """
    if type(args) is not str:
        args = payload.encode(args, "args")

    text = meta if type(meta) is str else payload.encode(meta, "meta")

    if carried is not None:
        meta = text = payload.dumps(with_kept(job.meta, KEPT, carried=carried))

    if '"uniq' in text or (PROGRESS in text and KEPT in text):
        meta = text = payload.dumps(_of_its_own(payload.decode(text)))

    key = ""

    if unique is not None:
        key = unique.key(worker=job.worker, queue=job.queue, args=args, meta=text)
        comma = "" if text == "{}" else ","
        meta = text = f'{text[:-1]}{comma}"uniq":true,"uniq_bmp":{unique.held},"uniq_key":"{key}"}}'

    row = f'"args":{args}' if text == "{}" else f'"args":{args},"meta":{text}'

    if schedule_in is not None:
        row += f',"schedule_in":{payload.dumps(schedule_in)}'

    if scheduled_at is not None:
        row += f',"scheduled_at":"{clock.to_wire(scheduled_at)}"'

    if deadline is not None:
        row += f',"deadline":{payload.dumps(deadline)}'

    return Row(job, usual, row, meta, unique, key, deadline)


def usual_of(queue: str, worker: str, priority: int, max_attempts: int, tags: list[str]) -> str:
    """The plain columns of a job: the inside of a JSON object."""
    try:
        # What is no list is for PostgreSQL to refuse, as it stands.
        if type(tags) is list:
            return _usual(queue, worker, priority, max_attempts, *tags)
    except TypeError:
        # Changed into something that cannot be looked up.
        pass

    return _encoded(queue, worker, priority, max_attempts, tags)


# Most jobs that are stored together have them in common, and to encode them takes longer than the
# rest.
# True is no 1 here: it would be stored for the next job that has one.
@lru_cache(maxsize=256, typed=True)
def _usual(queue: str, worker: str, priority: int, max_attempts: int, *tags: str) -> str:
    return _encoded(queue, worker, priority, max_attempts, tags)


def _encoded(queue: str, worker: str, priority: int, max_attempts: int, tags: object) -> str:
    columns = {
        "queue": queue,
        "worker": worker,
        "tags": tags,
        "priority": priority,
        "max_attempts": max_attempts,
    }

    return payload.dumps(columns)[1:-1]


def texts_of(rows: Sequence[Row], more: Callable[[Row], str] | None = None) -> tuple[str, str]:
    """Rows as a JSON array, and as an object the plain columns that all of them have in common.

    Args:
        rows: One or more.
        more: What else to give than the text of each, if not that.
    """
    usual = rows[0].usual
    texts = [row.text for row in rows] if more is None else [*map(more, rows)]

    # Not those of most: a column that is null in one row would be taken from the others.
    if all(row.usual == usual for row in rows):
        return f"[{{{'},{'.join(texts)}}}]", f"{{{usual}}}"

    both = [f"{row.usual},{text}" for row, text in zip(rows, texts, strict=True)]

    return f"[{{{'},{'.join(both)}}}]", "{}"


def whole_of(rows: Sequence[Row]) -> str:
    """Rows with all that is known of them, as a JSON array."""
    return f"[{','.join(f'{{{row.usual},{with_options(row)}}}' for row in rows)}]"


def with_options(row: Row) -> str:
    """A row's text with what makes it unique."""
    return row.text if row.unique is None else f"{row.text},{row.unique.row}"


def characters_of(row: Row) -> int:
    """How much a row adds to a statement at the most."""
    return len(row.usual) + len(row.text)


def is_simple(row: Row) -> bool:
    """Whether it has neither tags nor a deadline."""
    return not row.job.tags and type(row.job.tags) is list and row.deadline is None


def _of_its_own(meta: Mapping[str, Any]) -> dict[str, Any]:
    """A meta without what belongs to the job it was read from."""
    meta = {name: item for name, item in meta.items() if name not in META_KEYS}

    if isinstance(kept := meta.get(KEPT), dict) and PROGRESS in kept:
        meta[KEPT] = {name: item for name, item in kept.items() if name != PROGRESS}

    return meta
