"""The cron entries: when they are due, what became of their times, and dealing with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from flask import Blueprint, abort, url_for
from flask.typing import ResponseReturnValue
from markupsafe import Markup

from oban_sync.control.cron_runs import run_cron as insert_now
from oban_sync.control.transactions import in_transaction
from oban_sync.core import cron as times
from oban_sync.core.clock import utc_now
from oban_sync.core.cron import Cron, CronSlot, Expression
from oban_sync.core.cron_words import in_words
from oban_sync.core.errors import ConfigError
from oban_sync.core.job import Job
from oban_sync.engine import crons as engine
from oban_sync.engine.session import Tx
from oban_sync.web import formats, forms, replies, svg
from oban_sync.web.access import performs
from oban_sync.web.actions import Action
from oban_sync.web.lately import lately
from oban_sync.web.menu import Entry
from oban_sync.web.seen import link
from oban_sync.web.site import here, note, visit

MENU = Entry("crons", "Crons", "c")

#: Times to come that are shown.
NEXT = 5

#: Times gone by that are shown.
MOST_SLOTS = 100

#: What the reason of a time begins with that was missed and not made up for.
_MISSED = "missed"

#: Seconds after which somebody should have dealt with a time.
_PATIENCE = 120.0

#: Times that nobody has dealt with are looked for in the last day, up to so many.
_WINDOW = timedelta(days=1)
_MOST_OVERDUE = 10


@dataclass(frozen=True, slots=True)
class Row:
    """An entry as pages show it.

    Attributes:
        cron: The entry.
        words: When it is due, in words.
        active: Whether its times come to something.
        overdue: Times that should have been dealt with by now, and were not.
    """

    cron: Cron
    words: str
    active: bool
    overdue: int


@dataclass(frozen=True, slots=True)
class Slot:
    """One time of an entry as its page shows it.

    Attributes:
        slot: The time, and what became of it.
        late: Seconds between the time and when it was dealt with.
        missed: Whether it was missed, and with it maybe others before.
    """

    slot: CronSlot
    late: float
    missed: bool

    @property
    def kind(self) -> str:
        """What became of it, in a word."""
        return _MISSED if self.missed else self.slot.outcome


def register(blueprint: Blueprint) -> None:
    """Add the rules."""
    blueprint.get("/crons")(crons)
    blueprint.get("/cron")(cron)
    blueprint.post("/crons/pause")(pause_cron)
    blueprint.post("/crons/resume")(resume_cron)
    blueprint.post("/crons/run")(run_cron)
    blueprint.post("/crons/delete")(delete_cron)


def crons() -> ResponseReturnValue:
    """The list."""
    rows = _rows()

    return replies.page("crons", rows=rows, overdue=sum(bool(row.overdue) for row in rows))


def cron() -> ResponseReturnValue:
    """One entry."""
    name = forms.asked_name("name")
    row = next((row for row in _rows() if row.cron.name == name), None)

    if row is None:
        abort(404, "There is no cron entry of that name.")

    slots = _slots(name)

    return replies.page(
        "cron",
        row=row,
        cron=row.cron,
        next_times=_next(row),
        slots=slots,
        history=_history(slots),
        missed=sum(slot.missed for slot in slots),
        skipped=sum(slot.slot.outcome == "skipped" for slot in slots),
        jobs=link("meta.cron_name", name),
        args=here().hider.pretty(row.cron.args),
        options=here().hider.pretty(row.cron.options),
        most=MOST_SLOTS,
    )


@performs(Action.CRONS_PAUSE)
def pause_cron() -> ResponseReturnValue:
    """Have its times skipped."""
    name = forms.named("entry", "a cron entry")
    by = forms.reason(visit().who)
    detail = {"reason": forms.field("reason")} if forms.field("reason") else {}
    _change(
        Action.CRONS_PAUSE,
        name,
        lambda conn: here().oban.pause_cron(name, by=by, conn=conn),
        **detail,
    )

    return replies.done(f"Entry {name} is paused: its times are skipped.")


@performs(Action.CRONS_RESUME)
def resume_cron() -> ResponseReturnValue:
    """Have its jobs inserted again."""
    name = forms.named("entry", "a cron entry")
    _change(Action.CRONS_RESUME, name, lambda conn: here().oban.resume_cron(name, conn=conn))

    return replies.done(f"Entry {name} goes on, from its next time.")


@performs(Action.CRONS_RUN)
def run_cron() -> ResponseReturnValue:
    """Insert a job of it now."""
    name = forms.named("entry", "a cron entry")

    def along(tx: Tx, job: Job) -> None:
        note(tx, Action.CRONS_RUN, f"cron {name}", job=job.id, conflict=job.conflict)

    job = insert_now(here().db, here().oban.name, name, by=visit().who, along=along)

    if job.conflict:
        return replies.failed(f"Nothing was inserted: job {job.id} of it is {job.state.value}.")

    return replies.done(f"Job {job.id} of entry {name} was inserted.")


@performs(Action.CRONS_DELETE)
def delete_cron() -> ResponseReturnValue:
    """Delete an entry that no code has."""
    name = forms.named("entry", "a cron entry")
    _change(Action.CRONS_DELETE, name, lambda conn: here().oban.delete_cron(name, conn=conn))

    return replies.done(f"Entry {name} is deleted.", to=url_for(".crons"))


def _change(action: Action, entry: str, change: Callable[[Any], object], **detail: object) -> None:
    """Change an entry, and write that down, in one transaction."""

    def both(tx: Tx) -> None:
        change(tx.conn)
        note(tx, action, f"cron {entry}", **detail)

    in_transaction(here().db, both)


def _rows() -> list[Row]:
    site = here()
    found: list[Row] = lately("crons", lambda: [_row(each) for each in site.oban.list_crons()])

    return found


def _row(entry: Cron) -> Row:
    active = entry.problem is None and not entry.paused and (entry.dynamic or entry.declared)

    return Row(
        entry,
        in_words(entry.expression, entry.timezone),
        active,
        _overdue(entry) if active else 0,
    )


def _overdue(entry: Cron) -> int:
    """Times that nobody has dealt with: no node leads, or it cannot do what it should.

    Of an entry that never had a time nobody knows since when it should have had some.
    """
    if entry.last_at is None:
        return 0

    now = utc_now()
    upto = now - timedelta(seconds=_PATIENCE)
    after = max(entry.last_at, now - _WINDOW)

    if after >= upto:
        return 0

    expression = Expression.checked("expression", entry.expression)

    return len(times.due_between(expression, entry.timezone, after, upto, _MOST_OVERDUE))


def _next(row: Row) -> list[tuple[datetime, str]]:
    """The next times, each as it is and on the clocks that the entry means."""
    found: list[tuple[datetime, str]] = []

    if row.cron.problem is not None:
        return found

    try:
        expression = Expression.checked("expression", row.cron.expression)
        where = times.zone(row.cron.timezone)
    except (ConfigError, LookupError, OSError, ValueError):
        return found

    at: datetime | None = utc_now()

    while at is not None and len(found) < NEXT:
        at = times.next_after(expression, row.cron.timezone, at)

        if at is not None:
            local = at.astimezone(where)
            found.append((at, f"{local:%A}, {local.day} {local:%B %Y, %H:%M}"))

    return found


def _slots(name: str) -> list[Slot]:
    site = here()

    # By the engine: a row made by hand may have a name that nobody could ask for.
    with site.db.session() as tx:
        found = engine.list_slots(tx, site.oban.name, name, most=MOST_SLOTS)

    return [
        Slot(
            slot,
            max(0.0, (slot.settled_at - slot.due_at).total_seconds()),
            slot.outcome == "skipped" and (slot.reason or "").startswith(_MISSED),
        )
        for slot in found
    ]


def _history(slots: Iterable[Slot]) -> Markup | None:
    """The times gone by as bars, the newest to the right: the higher, the later."""
    bars = [
        svg.Bar(
            slot.late,
            f"b-{slot.kind}",
            f"{formats.at(slot.slot.due_at)}: {slot.kind}, {formats.duration(slot.late)} late",
        )
        for slot in slots
    ]

    if not bars:
        return None

    return svg.bars(bars[::-1], label="What became of its last times, and how late")
