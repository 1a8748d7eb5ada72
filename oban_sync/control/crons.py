"""Managing cron entries at run time: what is changed counts from the next time on, on every node.

Nothing is sent to anybody: the node that leads reads the table every minute.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from oban_sync.control.transactions import in_transaction
from oban_sync.core import cron, crontab
from oban_sync.core.checks import check_whole
from oban_sync.core.cron import Cron, CronSlot
from oban_sync.core.errors import ConfigError, WorkerNotFoundError, shown, unknown
from oban_sync.core.options import JobOptions
from oban_sync.core.registry import resolve
from oban_sync.engine import crons
from oban_sync.engine.crons import Stored
from oban_sync.engine.session import Db, Tx

#: Most rows given by one call.
MOST_SLOTS = 10_000

_MOST_BY_CHARACTERS = 255


def list_crons(db: Db, name: str) -> list[Cron]:
    """All entries by name: those of the code, those made at run time, and those no node has now."""
    with db.session() as tx:
        rows = crons.list_entries(tx, name)
        now = crons.now(tx)

    return [_shown(row, now) for row in rows]


def insert_cron(
    db: Db,
    name: str,
    /,
    expression: str,
    worker: object,
    *,
    entry: str | None = None,
    timezone: str | None = None,
    **options: Any,
) -> Cron:
    """Make an entry at run time; its first time is the next one.

    It stays until it is deleted, whatever the code of the nodes says.

    Args:
        worker: A class decorated with `@worker`, a function decorated with `@job`, or a name. A
            name need not be registered in this process, but on the nodes that run its jobs.
        entry: Its name; by default the worker's.
        timezone: Whose clocks the expression means; by default Etc/UTC.
        options: args, queue, priority, max_attempts, tags, meta, unique, timeout, deadline, weight,
            catch_up, overlap. Where the worker is registered in this process, they win over the
            decorator's.

    Raises:
        ConfigError: An option is wrong, or there is an entry of that name.
    """
    if "name" in options:
        raise ConfigError("name", "is no option here; give entry= to name the entry")

    given = {**options, "name": entry, "timezone": timezone}
    line = crontab.check_line("cron", expression, worker, given)
    of = line.worker or ""
    made = crontab.entry_of(line, of, _defaults(of), cron.DEFAULT_TIMEZONE)

    with db.session() as tx:
        if not crons.insert(tx, name, made):
            raise ConfigError("entry", f"{shown(made.name)} exists already; give another name")

        return _get(tx, name, made.name)


def update_cron(db: Db, name: str, entry: str, /, **changes: Any) -> Cron:
    """Change an entry; what is not named, or None, stays.

    The change outlives restarts and deploys, and wins over what the code says, until `reset_cron`.
    Another expression or timezone counts from now on: no earlier time of it was missed.

    Args:
        changes: expression, timezone, args, queue, priority, max_attempts, tags, meta, unique,
            timeout, deadline, weight, catch_up, overlap. args, tags and meta are replaced as a
            whole.

    Raises:
        ConfigError: A change is wrong, or there is no such entry.
    """
    checked = crontab.check_changes("cron", changes, crontab.CHANGES)

    return _changed(db, name, entry, lambda tx: crons.edit(tx, name, entry, checked))


def reset_cron(db: Db, name: str, entry: str) -> Cron:
    """Forget the changes of an entry: it is again what the code, or its insertion, says of it.

    Raises:
        ConfigError: There is no such entry.
    """
    return _changed(db, name, entry, lambda tx: crons.edit(tx, name, entry, {}, anew=True))


def pause_cron(db: Db, name: str, entry: str, *, by: str | None = None, conn: Any = None) -> Cron:
    """Have the times of an entry skipped, until it is resumed; restarts do not resume it.

    No job of it is inserted once this is committed. Pausing again changes nothing.

    Args:
        by: Who wants it; shown with the entry, and as the reason of every skipped time.
        conn: Do it in this connection's transaction; by default in one of its own.

    Raises:
        ConfigError: There is no such entry.
    """
    if by is not None and (
        not isinstance(by, str) or len(by) > _MOST_BY_CHARACTERS or not by.isprintable()
    ):
        raise ConfigError(
            "by",
            f"{shown(by)} is not allowed; give text of up to {_MOST_BY_CHARACTERS} characters "
            "that can be printed",
        )

    return _changed(db, name, entry, lambda tx: crons.pause(tx, name, entry, by=by), conn)


def resume_cron(db: Db, name: str, entry: str, *, conn: Any = None) -> Cron:
    """Have the jobs of an entry inserted again, from its next time on.

    What was skipped while it was paused is not made up for.

    Args:
        conn: As of `pause_cron`.

    Raises:
        ConfigError: There is no such entry.
    """
    return _changed(db, name, entry, lambda tx: crons.resume(tx, name, entry), conn)


def delete_cron(db: Db, name: str, entry: str, *, conn: Any = None) -> None:
    """Delete an entry that was made at run time, or that no live node has in its code any more.

    Its jobs stay; what became of its times is kept for as long as that of others.

    Args:
        conn: As of `pause_cron`.

    Raises:
        ConfigError: There is no such entry, or it stands in the code: pause it, or remove it there.
    """
    _check(entry)

    def delete(tx: Tx) -> None:
        if not crons.delete(tx, name, entry):
            # Raises when there is none.
            _get(tx, name, entry)

            raise ConfigError(
                "entry",
                f"{shown(entry)} stands in the code of a node and would come back; pause it, or "
                "remove it from the code",
            )

    in_transaction(db, delete, conn=conn)


def list_cron_slots(db: Db, name: str, entry: str, *, limit: int = 100) -> list[CronSlot]:
    """What became of the times of an entry, newest first: inserted or skipped, by whom, and why.

    Of an entry that was deleted too; none where there never was one.

    Args:
        limit: Most of them, up to 10,000. Old ones are forgotten after `scheduler.keep_slots`.
    """
    _check(entry)
    most = check_whole("limit", limit, 1, MOST_SLOTS)

    with db.session() as tx:
        return crons.list_slots(tx, name, entry, most=most)


def _changed(db: Db, name: str, entry: str, change: Callable[[Tx], bool], conn: Any = None) -> Cron:
    _check(entry)

    def work(tx: Tx) -> Cron:
        change(tx)

        return _get(tx, name, entry)

    return in_transaction(db, work, conn=conn)


def _check(entry: object) -> None:
    if not isinstance(entry, str) or not entry.isprintable():
        raise ConfigError("entry", f"{shown(entry)} is not the name of an entry")


def _get(tx: Tx, name: str, entry: str) -> Cron:
    rows = crons.list_entries(tx, name)

    for row in rows:
        if row.entry == entry:
            return _shown(row, crons.now(tx))

    raise ConfigError("entry", unknown(entry, [row.entry for row in rows]))


def _defaults(worker: str) -> JobOptions:
    try:
        return resolve(worker).options
    except WorkerNotFoundError:
        return JobOptions({})


def _shown(row: Stored, now: datetime) -> Cron:
    entry = problem = None

    try:
        entry = row.read()
        entry.job_at(now)
    except ConfigError as error:
        problem = str(error)

    template = {} if entry is None else dict(entry.template)
    args = template.pop("args", {})
    active = problem is None and not row.paused and (row.dynamic or row.declared)

    return Cron(
        name=row.entry,
        expression=row.expression if entry is None else entry.expression.text,
        timezone=row.timezone if entry is None else entry.timezone,
        worker=row.worker,
        args=args if isinstance(args, dict) else {},
        options=template,
        catch_up=row.catch_up if entry is None else entry.catch_up,
        overlap=row.overlap if entry is None else entry.overlap,
        paused=row.paused,
        paused_by=row.paused_by,
        paused_at=row.paused_at,
        dynamic=row.dynamic,
        declared=row.declared,
        edited=bool(row.edits),
        last_at=row.last_at,
        last_outcome=row.last_outcome,
        next_at=cron.next_after(entry.expression, entry.timezone, now)
        if entry is not None and active
        else None,
        problem=problem,
    )
