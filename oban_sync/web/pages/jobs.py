"""The list of jobs: found by a filter, and dealt with one by one or all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, cast

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue

from oban_sync.control import jobs as control
from oban_sync.core.errors import ConfigError
from oban_sync.core.filters import KEYS, Filter, FilterError, SlowFilterError, parse
from oban_sync.core.job import JobState
from oban_sync.engine import pages as engine
from oban_sync.engine.inspect import hold_in_states
from oban_sync.engine.pages import Through
from oban_sync.engine.retry import conflicts_retried
from oban_sync.engine.session import Db
from oban_sync.web import formats, forms, replies, searches
from oban_sync.web.access import performs
from oban_sync.web.actions import Action
from oban_sync.web.menu import Entry
from oban_sync.web.seen import Seen, link
from oban_sync.web.site import here, note, visit

MENU = Entry("jobs", "Jobs", "j")

#: Jobs on one page.
PER_PAGE = 30

#: Most jobs that one action changes.
MOST_AT_ONCE = 1_000

#: Queues that are named at the side.
MOST_QUEUES = 30

#: Characters of a filter: it stands in the addresses of all that a page leads to, and servers take
#: none that are much longer.
MOST_TYPED = 4_000

#: Terms of a filter that can be taken away one by one.
MOST_TERMS = 30


@dataclass(frozen=True, slots=True)
class Verb:
    """Something to do with jobs.

    Attributes:
        action: The right it takes.
        past: What is said when it is done.
        states: The states in which it changes a job; others are left alone.
        do: Does it, on a connection, and gives how many jobs it changed.
    """

    action: Action
    past: str
    states: tuple[JobState, ...]
    do: Callable[[Db, list[int], Any], int]


CANCEL = Verb(
    Action.JOBS_CANCEL,
    "cancelled, or asked to stop",
    (
        JobState.SUSPENDED,
        JobState.SCHEDULED,
        JobState.AVAILABLE,
        JobState.EXECUTING,
        JobState.RETRYABLE,
    ),
    lambda db, ids, conn: control.cancel_many_jobs(db, ids, by=visit().who, conn=conn),
)
RETRY = Verb(
    Action.JOBS_RETRY,
    "made available again",
    tuple(state for state in JobState if state not in (JobState.AVAILABLE, JobState.EXECUTING)),
    lambda db, ids, conn: control.retry_many_jobs(db, ids, conn=conn),
)
DELETE = Verb(
    Action.JOBS_DELETE,
    "deleted",
    tuple(state for state in JobState if state is not JobState.EXECUTING),
    lambda db, ids, conn: control.delete_many_jobs(db, ids, conn=conn),
)
RUN = Verb(
    Action.JOBS_RUN,
    "made available now",
    (JobState.SUSPENDED, JobState.SCHEDULED, JobState.RETRYABLE),
    RETRY.do,
)


def register(blueprint: Blueprint) -> None:
    """Add the rules."""
    blueprint.get("/jobs")(jobs)
    blueprint.post("/jobs/cancel")(cancel_jobs)
    blueprint.post("/jobs/retry")(retry_jobs)
    blueprint.post("/jobs/delete")(delete_jobs)


def jobs() -> ResponseReturnValue:
    """A page of the list."""
    site = here()
    text = request.args.get("q", "").strip()
    before = _before()
    wanted, problem, status = Filter(), None, 200
    found = engine.Found([], 0)

    try:
        wanted = wanted_by(text)
        found = _search(wanted, before)
    except SlowFilterError as error:
        problem, status = error.problem, 503
    except FilterError as error:
        problem, status = error.problem, 400

    counts = site.kept("counts", lambda: engine.count_states(site.db))
    shown = [Seen(job, site.hider) for job in found.jobs[:PER_PAGE]]
    is_full = len(found.jobs) > PER_PAGE
    is_all = before is None and found.further is None and not is_full

    return replies.page(
        "jobs",
        status=status,
        text=text,
        problem=problem,
        unreadable=status == 400,
        wanted=wanted,
        terms=_shown_terms(wanted),
        more_terms=_count(wanted) - MOST_TERMS,
        jobs=shown,
        before=before,
        older=_place(shown[-1].id, _through()) if is_full else None,
        further=found.further and _place(found.further.before_id, found.further.through),
        read=found.read,
        counts=counts,
        states=[(state, _with(wanted, "states", state)) for state in formats.STATES],
        queues=site.kept("queues", _queues),
        queue_link=lambda queue: _with(wanted, "queues", queue),
        link=link,
        most_at_once=MOST_AT_ONCE,
        # How many match, where that is known without counting them.
        matching=len(found.jobs) if is_all else None,
        verbs=_verbs({job.state for job in shown}),
        verbs_of_all=_verbs(wanted.states or JobState),
    )


@performs(Action.JOBS_CANCEL)
def cancel_jobs() -> ResponseReturnValue:
    """Cancel those that were ticked, or all that match."""
    return _in_bulk(CANCEL)


@performs(Action.JOBS_RETRY)
def retry_jobs() -> ResponseReturnValue:
    """Make them available again."""
    return _in_bulk(RETRY)


@performs(Action.JOBS_DELETE)
def delete_jobs() -> ResponseReturnValue:
    """Delete them."""
    return _in_bulk(DELETE)


def _verbs(states: Iterable[JobState]) -> set[str]:
    """What can be done with jobs of these states."""
    return {
        verb.action.value.partition(":")[2]
        for verb in (CANCEL, RETRY, DELETE)
        if any(state in verb.states for state in states)
    }


def _search(wanted: Filter, before: int | None) -> engine.Found:
    """The jobs of a page and one more; and where to look further, if too few were found."""

    def find() -> engine.Found:
        return engine.find_page(
            here().db, wanted, most=PER_PAGE + 1, before_id=before, through=_through()
        )

    if not wanted:
        return find()

    with searches.turn():
        return find()


def _through() -> Through:
    """What the visitor lets the page look through."""
    return Through(forms.choice("through", set(Through), Through.LITTLE))


def _place(before: int | None, through: Through) -> dict[str, str | int | None]:
    """A place in the list, as it stands in an address."""
    return {"before": before, "through": through or None}


def wanted_by(text: str) -> Filter:
    """A filter as somebody typed it.

    Raises:
        FilterError: It cannot be read, is too long, or would tell what is hidden.
    """
    if len(text) > MOST_TYPED:
        raise FilterError("filter", f"{len(text):,} characters, {MOST_TYPED:,} are allowed here")

    wanted = parse(text)

    if (refusal := here().hider.refusal(wanted)) is not None:
        raise FilterError("filter", refusal)

    return wanted


def carry_out(verb: Verb, chosen: list[int], subject: str, **detail: Any) -> int:
    """Do something with jobs, and write that down, in one transaction; how many changed.

    Those that are in another state than the verb is for stay as they are: who may only run what
    waits must not run again what is done.
    """
    db = here().db

    def work() -> int:
        with db.transaction() as tx:
            changed = verb.do(db, hold_in_states(tx, chosen, verb.states), tx.conn)

            if changed:
                note(tx, verb.action, subject, changed=changed, **detail)

            return changed

    return conflicts_retried(work)


def _in_bulk(verb: Verb) -> ResponseReturnValue:
    which = request.form.get("which")

    if which == "all":
        return _all_that_match(verb)

    if which is not None:
        # Enter in one of the boxes is no wish to do something with jobs.
        return replies.failed("Nothing was done; press one of the buttons.")

    ids = _ids(request.form.getlist("ids"))

    if not ids:
        return replies.failed("No job was selected.")

    subject = f"job {ids[0]}" if len(ids) == 1 else formats.count(len(ids), "job")
    changed = carry_out(verb, ids, subject, ids=ids)

    if changed:
        return replies.done(f"{formats.count(changed, 'job')} {verb.past}.")

    return replies.failed("Nothing was changed: their states do not allow it, or they are gone.")


def _all_that_match(verb: Verb) -> ResponseReturnValue:
    text = request.form.get("q", "")
    wanted = wanted_by(text)

    if not wanted:
        raise ConfigError("filter", "is empty; say which jobs are meant, as states:discarded")

    # Others would be found again and again, and stand in the way of those that can be changed.
    states = tuple(state for state in verb.states if not wanted.states or state in wanted.states)

    if not states:
        return replies.failed("Nothing was changed: in their state there is nothing to do.")

    with searches.turn():
        found = control.search_ids(here().db, replace(wanted, states=states))

    ids = found[:MOST_AT_ONCE]
    # What is in args is nobody's business who reads the audit.
    said = wanted.masked
    changed = carry_out(verb, ids, f"jobs {said}", ids=ids, filter=said) if ids else 0
    left = len(found) - len(ids)
    told = f"{formats.count(changed, 'job')} {verb.past}."

    if left:
        more = "or more " if len(found) >= control.MOST_LISTED else ""
        told += f" {left:,} {more}are left; {MOST_AT_ONCE:,} are dealt with at a time."

    return replies.done(told) if changed else replies.failed(f"No job that matches: {told}")


def _ids(given: list[str]) -> list[int]:
    ids = [_id(each) for each in given[:MOST_AT_ONCE]]

    return list(dict.fromkeys(each for each in ids if each is not None))


def _id(text: str) -> int | None:
    # Longer ones are not even read: Python refuses that from some length on.
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(control.MOST_ID)):
        return None

    return number if (number := int(text)) <= control.MOST_ID else None


def _before() -> int | None:
    if not (text := request.args.get("before", "")):
        return None

    if (number := _id(text)) is None:
        abort(400, "That is no id of a job.")

    return number


def _with(wanted: Filter, key: str, value: str) -> tuple[str, bool]:
    """Where a value leads that stands for itself, and whether it is what is shown.

    A second time, it leads away from it.
    """
    chosen = [str(each) for each in getattr(wanted, key)] == [str(value)]

    try:
        other = wanted.without(key)
        other = other if chosen else other.adding(key, value)
    except FilterError:
        return url_for(".jobs"), False

    return url_for(".jobs", q=other.text or None), chosen


def _shown_terms(wanted: Filter) -> list[tuple[str, str]]:
    # They are no part of what refreshes itself.
    partial = request.headers.get("HX-Request") == "true"

    return [] if partial else list(islice(_terms(wanted), MOST_TERMS))


def _terms(wanted: Filter) -> Iterator[tuple[str, str]]:
    """Each value of a filter, with the way to the list without it."""
    for name in KEYS:
        for one in getattr(wanted, name):
            if name in ("args", "meta"):
                path, values = one
                alone = _holding(name, (path, values))
                left = tuple(each for each in getattr(wanted, name) if each[0] != path)
                less = replace(wanted, **cast(Any, {name: left}))
            else:
                alone = _holding(name, one)
                less = wanted.without(name, one)

            yield alone.text, url_for(".jobs", q=less.text or None)


def _count(wanted: Filter) -> int:
    """How many `_terms` there are."""
    return sum(len(getattr(wanted, name)) for name in KEYS)


def _holding(name: str, one: object) -> Filter:
    return Filter(**cast(Any, {name: (one,)}))


def _queues() -> list[tuple[str, int, bool]]:
    """The queues that nodes run: name, jobs at once over all nodes, whether all pause it."""
    found: dict[str, tuple[int, bool]] = {}

    for node in here().oban.list_nodes():
        for queue in node.queues:
            limit, paused = found.get(queue.queue, (0, True))
            found[queue.queue] = (limit + queue.limit, paused and queue.paused)

    return [(name, *found[name]) for name in sorted(found)][:MOST_QUEUES]
