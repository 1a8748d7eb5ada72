"""oban-sync crons: what is inserted by the clock."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import click

from oban_sync.cli.changing import ask, by_option, record, who, yes_option
from oban_sync.cli.completing import cron_names
from oban_sync.cli.options import FAILED, Command
from oban_sync.cli.reach import Verb
from oban_sync.cli.screen import (
    Cell,
    Column,
    Table,
    json_option,
    present,
    print_json,
    show,
    watch_option,
)
from oban_sync.cli.words import at, since
from oban_sync.control import crons as desk
from oban_sync.control.cron_runs import run_cron
from oban_sync.control.transactions import in_transaction
from oban_sync.core.clock import utc_now
from oban_sync.core.cron import Cron, Expression, next_after, zone
from oban_sync.core.cron_words import in_words
from oban_sync.core.errors import ConfigError, nearest
from oban_sync.core.job import Job
from oban_sync.core.redaction import redacted
from oban_sync.oban import Oban


def entry_argument(command: Command) -> Command:
    """Add the name of an entry."""
    return click.argument("entry", shell_complete=cron_names)(command)


@click.option("--words", is_flag=True, help="Say when in words.")
@watch_option
@json_option
def list_entries(oban: Oban, words: bool, watch: float | None, as_json: bool) -> None:
    """List the cron entries: those of the code, and those made at run time."""

    def look() -> tuple[list[Any], object]:
        found = desk.list_crons(oban.db, oban.name)

        return [_table(found, words=words)], [_json(entry) for entry in found]

    present(look, as_json=as_json, watch=watch)


@entry_argument
@click.option(
    "--count",
    type=click.IntRange(1, 1_000),
    default=5,
    show_default=True,
    help="How many times.",
)
@json_option
def next_times(oban: Oban, entry: str, count: int, as_json: bool) -> None:
    """Show the next times of an entry, on its own clock and in UTC."""
    found = _found(oban, entry)
    times = _next(found, count)

    if as_json:
        print_json(
            {
                "name": found.name,
                "expression": found.expression,
                "timezone": found.timezone,
                "words": _words(found),
                "paused": found.paused,
                "times": times,
            }
        )
        return

    now = utc_now()
    own = zone(found.timezone) if times else None
    rows = [
        [moment.astimezone(own).strftime("%a %Y-%m-%d %H:%M %Z"), at(moment), since(moment, now)]
        for moment in times
    ]
    columns = [Column(f"IN {found.timezone}"), Column("UTC"), Column("WHEN")]
    paused = [Cell("It is paused: these times will be skipped.", "yellow")] if found.paused else []
    show([_words(found), *paused, "", Table(columns, rows, empty="It names no time.")])


@entry_argument
@by_option
@json_option
def pause(oban: Oban, entry: str, by: str | None, as_json: bool) -> None:
    """Skip the times of an entry, until it is resumed."""
    by = who(by)
    _change(
        oban,
        "pause",
        entry,
        lambda conn: desk.pause_cron(oban.db, oban.name, entry, by=by, conn=conn),
        "is paused: its times are skipped",
        by,
        as_json,
    )


@entry_argument
@by_option
@json_option
def resume(oban: Oban, entry: str, by: str | None, as_json: bool) -> None:
    """Insert the jobs of an entry again, from its next time on."""
    _change(
        oban,
        "resume",
        entry,
        lambda conn: desk.resume_cron(oban.db, oban.name, entry, conn=conn),
        "is resumed",
        who(by),
        as_json,
    )


@entry_argument
@by_option
@json_option
def run(oban: Oban, entry: str, by: str | None, as_json: bool) -> None:
    """Insert a job of an entry now, one more than at its times."""
    _found(oban, entry)
    by = who(by)

    def along(tx: Any, job: Job) -> None:
        record(tx, oban, "crons:run", f"cron {entry}", by, job=job.id)

    job = run_cron(oban.db, oban.name, entry, by=by, along=along)

    if as_json:
        detail = {"entry": entry, "job": job.id, "conflict": job.conflict}
        print_json({"action": "crons:run", **detail})
    elif job.conflict:
        show([f"Job {job.id} is there already, and jobs of {entry} are unique."])
    else:
        show([f"Job {job.id} of {entry} is {job.state} in queue {job.queue}."])


@entry_argument
@yes_option
@by_option
@json_option
def delete(oban: Oban, entry: str, yes: bool, by: str | None, as_json: bool) -> None:
    """Delete an entry that was made at run time, or that no live node has in its code any more."""
    _found(oban, entry)
    ask(f"Delete cron entry {entry}?", yes=yes)
    _change(
        oban,
        "delete",
        entry,
        lambda conn: desk.delete_cron(oban.db, oban.name, entry, conn=conn),
        "is deleted; its jobs stay",
        who(by),
        as_json,
    )


#: The commands by name.
VERBS: Mapping[str, Verb] = {
    "list": list_entries,
    "next": next_times,
    "pause": pause,
    "resume": resume,
    "run": run,
    "delete": delete,
}


def _change(
    oban: Oban,
    verb: str,
    entry: str,
    change: Callable[[Any], object],
    done: str,
    by: str,
    as_json: bool,
) -> None:
    """Change an entry and write it down, in one transaction, and say so."""
    _found(oban, entry)

    def both(tx: Any) -> None:
        change(tx.conn)
        record(tx, oban, f"crons:{verb}", f"cron {entry}", by)

    in_transaction(oban.db, both)

    if as_json:
        print_json({"action": f"crons:{verb}", "entry": entry})
    else:
        show([f"Cron entry {entry} {done}."])


def _found(oban: Oban, entry: str) -> Cron:
    found = {one.name: one for one in desk.list_crons(oban.db, oban.name)}

    if entry not in found:
        click.echo(f"There is no cron entry {entry!r}.{nearest(entry, found)}", err=True)
        sys.exit(FAILED)

    return found[entry]


def _next(entry: Cron, count: int) -> list[datetime]:
    if entry.problem is not None:
        raise ConfigError("entry", f"{entry.name} cannot be scheduled: {entry.problem}")

    expression = Expression.checked("expression", entry.expression)
    times: list[datetime] = []
    after: datetime | None = utc_now()

    while after is not None and len(times) < count:
        if (after := next_after(expression, entry.timezone, after)) is not None:
            times.append(after)

    return times


def _words(entry: Cron) -> str:
    if entry.problem is not None:
        return f"{entry.expression} {entry.timezone}"

    return in_words(entry.expression, entry.timezone)


def _table(found: Sequence[Cron], *, words: bool) -> Table:
    now = utc_now()

    return Table(
        [
            Column("NAME", shrinks=True),
            Column("WHEN", shrinks=words),
            Column("WORKER", shrinks=True),
            Column("NEXT"),
            Column("LAST"),
            Column("STATE", shrinks=True),
        ],
        [
            [
                entry.name,
                _words(entry) if words else f"{entry.expression} {entry.timezone}",
                entry.worker,
                since(entry.next_at, now),
                _last(entry, now),
                _state(entry),
            ]
            for entry in found
        ],
        empty="No cron entries.",
    )


def _last(entry: Cron, now: datetime) -> str:
    if entry.last_at is None:
        return since(None)

    return f"{entry.last_outcome} {since(entry.last_at, now)}"


def _state(entry: Cron) -> Cell:
    if entry.problem is not None:
        return Cell(f"cannot be scheduled: {entry.problem}", "red")

    if entry.paused:
        return Cell(f"paused by {entry.paused_by}" if entry.paused_by else "paused", "yellow")

    if not entry.dynamic and not entry.declared:
        return Cell("in no live node's code", "yellow")

    return Cell("edited" if entry.edited else "active", "green")


def _json(entry: Cron) -> dict[str, Any]:
    found = {**asdict(entry), "args": redacted(entry.args), "words": _words(entry)}
    found["options"] = redacted(found["options"])

    return found
