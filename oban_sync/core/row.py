"""A job on its way into the table: what the insert statement takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from oban_sync.core import payload
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
        text: A JSON object for the insert statement; what makes it unique is not in it.
        meta: The job's meta as it goes into its row.
        unique: What makes it unique, if anything.
        key: The key that comes of it, or nothing.
        deadline: Seconds after the time it is scheduled for within which it has to start.
    """

    job: Job
    text: str
    meta: Any
    unique: Unique | None
    key: str
    deadline: float | None


def row_of(
    job: Job,
    columns: Mapping[str, Any],
    args: Any,
    meta: Any,
    *,
    unique: Unique | None,
    carried: Mapping[str, Any] | None,
) -> Row:
    """The row of a job, every value checked by now.

    Args:
        job: The job.
        columns: Its plain columns, as JSON.
        args: Its args, as a dict or as text ...
        meta: ... and its meta. What another job's key or run left in there is dropped.
        unique: What makes it unique, if anything.
        carried: What it carries along from where it is enqueued.

    Raises:
        InvalidJobError: One of them cannot be stored, or a key that makes the job unique was taken
            away.
    """
    row, deadline = payload.dumps(columns), columns["deadline"]

    if type(args) is not str:
        args = payload.encode(args, "args")

    text = meta if type(meta) is str else payload.encode(meta, "meta")

    if carried is not None:
        meta = text = payload.dumps(with_kept(job.meta, KEPT, carried=carried))

    if '"uniq' in text or (PROGRESS in text and KEPT in text):
        meta = text = payload.dumps(_of_its_own(payload.decode(text)))

    if unique is None:
        return Row(job, f'{row[:-1]},"args":{args},"meta":{text}}}', meta, None, "", deadline)

    key = unique.key(worker=job.worker, queue=job.queue, args=args, meta=text)
    comma = "" if text == "{}" else ","
    text = f'{text[:-1]}{comma}"uniq":true,"uniq_bmp":{unique.held},"uniq_key":"{key}"}}'

    row = f'{row[:-1]},"args":{args},"meta":{text}}}'

    return Row(job, row, text, unique, key, deadline)


def _of_its_own(meta: Mapping[str, Any]) -> dict[str, Any]:
    """A meta without what belongs to the job it was read from."""
    meta = {name: item for name, item in meta.items() if name not in META_KEYS}

    if isinstance(kept := meta.get(KEPT), dict) and PROGRESS in kept:
        meta[KEPT] = {name: item for name, item in kept.items() if name != PROGRESS}

    return meta
