"""The crontab in the database: entries, and what became of each of their times.

A time is settled in one transaction: its row, whose key nobody else can have, and its job. Who
leads only decides who tries.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from oban_sync.core import payload
from oban_sync.core.cron import CronSlot, Entry
from oban_sync.core.errors import ConfigError
from oban_sync.core.job import Job
from oban_sync.engine import jobs
from oban_sync.engine.session import Tx, is_refusal, reason

log = logging.getLogger("oban_sync.engine")

#: Seconds after its time from which on a job's slot says that it is late.
LATE = 10.0

#: Jobs of an entry that are looked at to see whether one is unfinished.
MOST_UNFINISHED = 50

_MOST_REASON_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Stored:
    """The row of an entry, as it is; see `queries/cron_list.sql`."""

    entry: str
    expression: str
    timezone: str
    catch_up: str
    overlap: str
    worker: str
    job: str
    edited: str
    dynamic: bool
    paused: bool
    paused_by: str | None
    since: datetime
    paused_at: datetime | None = None
    last_at: datetime | None = None
    last_outcome: str | None = None
    declared: bool = False

    @property
    def edits(self) -> Any:
        """What people changed at run time; a mapping, unless somebody wrote something else."""
        return _decoded(self.edited)

    def read(self) -> Entry:
        """The entry as it is to be scheduled.

        Raises:
            ConfigError: The row holds something else than an entry.
        """
        columns = {
            "expression": self.expression,
            "timezone": self.timezone,
            "catch_up": self.catch_up,
            "overlap": self.overlap,
            "worker": self.worker,
        }

        return Entry.read(self.entry, columns, _decoded(self.job), self.edits)


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a time.

    Attributes:
        outcome: ``inserted`` or ``skipped``.
        job: The job that was inserted.
        reason: Why it was skipped, or that it was late.
    """

    outcome: str
    job: Job | None = None
    reason: str | None = None


def now(tx: Tx) -> datetime:
    """What the time is for all nodes, whatever their own clocks say."""
    [(moment,)] = tx.tuples("cron_now")
    assert isinstance(moment, datetime)  # noqa: S101

    return moment


def declare(tx: Tx, name: str, entries: Iterable[Entry]) -> None:
    """Write what the code says of entries.

    What people changed or paused stays. An entry that is due at other times than before is as new:
    none of its times was missed.
    """
    rows = [
        {
            "entry": entry.name,
            "expression": entry.expression.text,
            "timezone": entry.timezone,
            "catch_up": entry.catch_up,
            "overlap": entry.overlap,
            "worker": entry.worker,
            "job": entry.template,
        }
        for entry in entries
    ]
    tx.run("cron_declare", name=name, entries=payload.dumps(rows), now=now(tx))


def insert(tx: Tx, name: str, entry: Entry) -> bool:
    """Make an entry that no code knows; tell whether there was none of that name."""
    return (
        tx.run(
            "cron_insert",
            name=name,
            entry=entry.name,
            expression=entry.expression.text,
            timezone=entry.timezone,
            catch_up=entry.catch_up,
            overlap=entry.overlap,
            worker=entry.worker,
            job=payload.dumps(entry.template),
            now=now(tx),
        )
        > 0
    )


def list_entries(tx: Tx, name: str) -> list[Stored]:
    """All entries of an Oban by name, those that no node declares included."""
    return tx.rows(Stored, "cron_list", name=name)


def edit(tx: Tx, name: str, entry: str, changes: Mapping[str, Any], *, anew: bool = False) -> bool:
    """Change an entry over what the code says of it; tell whether there is one.

    Args:
        changes: Keys of `crontab.CHANGES`, checked.
        anew: Forget what was changed before.
    """
    text = payload.dumps(changes)

    return tx.run("cron_edit", name=name, entry=entry, changes=text, anew=anew, now=now(tx)) > 0


def pause(tx: Tx, name: str, entry: str, *, by: str | None) -> bool:
    """Have an entry's times skipped; tell whether there is one."""
    return tx.run("cron_pause", name=name, entry=entry, by=by) > 0


def resume(tx: Tx, name: str, entry: str) -> bool:
    """Have an entry's jobs inserted again; tell whether there is one."""
    return tx.run("cron_resume", name=name, entry=entry, now=now(tx)) > 0


def delete(tx: Tx, name: str, entry: str) -> bool:
    """Delete an entry that stands in no live node's code; tell whether there was one."""
    return tx.run("cron_delete", name=name, entry=entry) > 0


def list_slots(tx: Tx, name: str, entry: str, *, most: int) -> list[CronSlot]:
    """What became of an entry's times, newest first."""
    return tx.rows(CronSlot, "cron_slot_list", name=name, entry=entry, most=most)


def prune(tx: Tx, name: str, *, max_age: float, most: int) -> int:
    """Forget what became of old times; how many."""
    return tx.run("cron_slot_prune", name=name, max_age=max_age, most=most)


def settle(
    tx: Tx, name: str, seen: Stored, due_at: datetime, *, node: str, late: float, skip: str | None
) -> Settled | None:
    """Insert the job of one time of an entry, or write why there is none. Needs a transaction.

    A unique job that is there already is a reason, too.

    The entry's row is locked, so that a pause holds from the moment it is committed, and so that
    two nodes which both believe to lead see each other's jobs.

    Args:
        seen: The entry as it was when the time was worked out.
        node: What people call this node.
        late: Seconds that have gone by since the time.
        skip: Why not to insert a job.

    Returns:
        None where nothing was to be done: the time was settled before, or the entry is gone, or it
        was changed since it was seen.
    """
    rows = tx.rows(Stored, "cron_lock", name=name, entry=seen.entry)

    if not rows or rows[0].since != seen.since:
        return None

    slot: dict[str, Any] = {"name": name, "entry": seen.entry, "due_at": due_at}
    job, why = _wanted(tx, name, rows[0], due_at) if skip is None else (None, skip)
    outcome = "inserted" if job is not None else "skipped"

    if not tx.run("cron_slot_insert", **slot, outcome=outcome, node=node, reason=why):
        return None

    if job is None:
        return Settled("skipped", reason=why)

    settled = _inserted(tx, seen.entry, job, late)
    tx.run(
        "cron_slot_update",
        **slot,
        outcome=settled.outcome,
        job_id=None if settled.job is None else settled.job.id,
        reason=settled.reason,
    )

    return settled


def _wanted(tx: Tx, name: str, row: Stored, due_at: datetime) -> tuple[Job | None, str | None]:
    """The job for a time, or why there is to be none."""
    if row.paused:
        return None, _short(f"paused by {row.paused_by}" if row.paused_by else "paused")

    try:
        entry = row.read()
        job = entry.job_at(due_at)
    except ConfigError as error:
        log.error("cron entry %s holds no job: %s", row.entry, error)

        return None, _short(f"the entry holds no job: {error}")

    if entry.overlap == "skip":
        for job_id, state in tx.tuples(
            "cron_unfinished", name=name, entry=row.entry, most=MOST_UNFINISHED
        ):
            return None, f"overlap: job {job_id} is {state}"

    return job, None


def _inserted(tx: Tx, entry: str, job: Job, late: float) -> Settled:
    try:
        with tx.conn.transaction():
            [stored] = jobs.insert(tx.conn, tx.schema, [job])
    except psycopg.Error as error:
        if not is_refusal(error):
            raise

        log.error("cron entry %s: PostgreSQL refuses its job: %s", entry, reason(error))

        return Settled("skipped", reason=_short(f"the job was refused: {reason(error)}"))

    if stored.conflict:
        return Settled("skipped", reason=f"unique: job {stored.id} is {stored.state}")

    return Settled("inserted", stored, f"late by {late:.0f} s" if late >= LATE else None)


def _decoded(text: str) -> Any:
    try:
        return payload.decode(text)
    except ValueError:
        return None


def _short(text: str) -> str:
    return payload.clean_text(text, most=_MOST_REASON_CHARACTERS)
