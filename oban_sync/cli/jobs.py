"""oban-sync jobs: look at jobs, and cancel, retry, delete and add them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from oban_sync.cli import job_views
from oban_sync.cli.changing import ask, by_option, record, who, yes_option
from oban_sync.cli.completing import queue_names, worker_names
from oban_sync.cli.options import FAILED, Command
from oban_sync.cli.reach import Verb
from oban_sync.cli.screen import (
    json_option,
    pause,
    present,
    print_json,
    show,
    watch_option,
)
from oban_sync.cli.words import moment_given
from oban_sync.control import jobs as desk
from oban_sync.control import logs
from oban_sync.control.explain import explain_job
from oban_sync.core import filters, registry
from oban_sync.core.errors import ConfigError, JobNotFoundError, WorkerNotFoundError
from oban_sync.core.filters import Filter
from oban_sync.core.job import Job, JobState
from oban_sync.core.options import JobOptions, check_name
from oban_sync.core.spans import counted
from oban_sync.core.state import INCOMPLETE
from oban_sync.oban import Oban

#: Ids of a command that are kept with its entry in the audit.
_MOST_AUDITED = 100

#: Seconds between two looks at the log of a job that runs.
_FOLLOWED_EVERY = 1.0

#: Most that one command deals with.
MOST = desk.MOST_LISTED

_FINAL = (JobState.COMPLETED, JobState.CANCELLED, JobState.DISCARDED)


def filter_option(command: Command) -> Command:
    """Add ``--filter``."""
    return click.option(
        "--filter",
        "wanted",
        metavar="FILTER",
        help="As 'queues:mailers states:discarded args.user.id:7'.",
    )(command)


def many(command: Command) -> Command:
    """Add what says which jobs are meant: ids, ``--filter`` or ``--all``."""
    for option in (
        json_option,
        by_option,
        yes_option,
        click.option("--all", "every", is_flag=True, help="All jobs, instead of a filter."),
        filter_option,
        click.argument("ids", nargs=-1, type=click.IntRange(0, desk.MOST_ID), metavar="[ID]..."),
    ):
        command = option(command)

    return command


@filter_option
@click.option(
    "--limit",
    type=click.IntRange(1, MOST),
    default=20,
    show_default=True,
    help="Most jobs shown.",
)
@click.option(
    "--before",
    "before_id",
    type=click.IntRange(0, desk.MOST_ID),
    metavar="ID",
    help="Only jobs older than this one: the last of the page before.",
)
@click.option(
    "--within",
    type=click.IntRange(1, desk.MOST_SEARCHED),
    default=desk.MOST_READ,
    show_default=True,
    metavar="N",
    help="Jobs that are read, of each state that is asked for or else of all.",
)
@click.option("--args", is_flag=True, help="Show args as well; passwords and the like are hidden.")
@watch_option
@json_option
def list_jobs(
    oban: Oban,
    wanted: str | None,
    limit: int,
    before_id: int | None,
    within: int,
    args: bool,
    watch: float | None,
    as_json: bool,
) -> None:
    """List jobs, the newest first.

    A filter is made of terms: states: queues: workers: tags: nodes: priorities: ids: args.KEY:
    meta.KEY: with one value behind the colon, or several with commas between them. A job has to
    pass all terms. Without states: only the newest 100,000 jobs are looked at, or --within others.
    Hidden values can be looked for: whoever reaches the database could read them as well.
    """
    checked = filters.parse(wanted or "")

    def look() -> tuple[list[Any], object]:
        found = desk.search_jobs(oban.db, checked, limit=limit, before_id=before_id, within=within)
        more = [f"More: --before {found[-1].id}"] if len(found) == limit else []

        return (
            [job_views.jobs_table(found, args=args), *(["", *more] if more and not watch else [])],
            [job_views.job_json(job, args=args) for job in found],
        )

    present(look, as_json=as_json, watch=watch)


@click.argument(
    "ids", nargs=-1, required=True, type=click.IntRange(0, desk.MOST_ID), metavar="ID..."
)
@click.option("--reveal", is_flag=True, help="Show passwords and the like as well.")
@json_option
def show_jobs(oban: Oban, ids: tuple[int, ...], reveal: bool, as_json: bool) -> None:
    """Show all there is of jobs: times, args, meta, errors, results, and why they do not run.

    Exits with 1 when one of them is not there.
    """
    found = [(job_id, oban.get_job(job_id)) for job_id in dict.fromkeys(ids)]
    jobs = [(job, _explained(oban, job)) for _, job in found if job is not None]

    if as_json:
        whole = [job_views.whole_json(job, why, reveal=reveal) for job, why in jobs]
        print_json(whole[0] if len(ids) == 1 and whole else whole)
    else:
        for number, (job, why) in enumerate(jobs):
            show([*([""] if number else []), *job_views.job_page(job, why, reveal=reveal)])

    _tell_missing([job_id for job_id, job in found if job is None])


@many
def cancel_jobs(oban: Oban, by: str | None, **given: Any) -> None:
    """Cancel jobs: those that wait at once; those that run are asked to stop.

    By ids, or all that a filter finds, up to 10,000 by one command. Finished jobs are left alone.
    """
    by = who(by)

    def cancel(ids: Sequence[int], conn: Any) -> int:
        return desk.cancel_many_jobs(oban.db, ids, by=by, conn=conn)

    _change(oban, "cancel", "Cancelled", cancel, INCOMPLETE, by, asks=True, **given)


@many
def retry_jobs(oban: Oban, by: str | None, **given: Any) -> None:
    """Run jobs again now, whatever became of them, and those that wait for their time.

    By ids, or all that a filter finds, up to 10,000 by one command. Jobs that run are left alone.
    """
    states = (JobState.SUSPENDED, JobState.SCHEDULED, JobState.RETRYABLE, *_FINAL)

    def retry(ids: Sequence[int], conn: Any) -> int:
        return desk.retry_many_jobs(oban.db, ids, conn=conn)

    _change(oban, "retry", "Made available", retry, states, who(by), asks=False, **given)


@many
def delete_jobs(oban: Oban, by: str | None, **given: Any) -> None:
    """Delete jobs for good. Jobs that run are left alone: cancel them first.

    By ids, or all that a filter finds, up to 10,000 by one command.
    """
    states = tuple(state for state in JobState if state is not JobState.EXECUTING)

    def delete(ids: Sequence[int], conn: Any) -> int:
        return desk.delete_many_jobs(oban.db, ids, conn=conn)

    _change(oban, "delete", "Deleted", delete, states, who(by), asks=True, **given)


@click.argument("job_id", type=click.IntRange(1, desk.MOST_ID), metavar="ID")
@json_option
def explain(oban: Oban, job_id: int, as_json: bool) -> None:
    """Say why a job does not run, or what became of it."""
    explained = explain_job(oban.db, oban.name, job_id)

    if as_json:
        print_json(job_views.explanation_json(explained))
    else:
        show(job_views.explanation_lines(explained))


@click.argument("job_id", type=click.IntRange(1, desk.MOST_ID), metavar="ID")
@click.option("--attempt", type=click.IntRange(1), metavar="N", help="Only of this attempt.")
@click.option("--follow", is_flag=True, help="Go on until the job is finished, or Ctrl-C.")
@json_option
def show_logs(oban: Oban, job_id: int, attempt: int | None, follow: bool, as_json: bool) -> None:
    """Show what a job logged, attempt by attempt.

    Of a job that runs it is what it logged until a few seconds ago. Exits with 1 when there is
    nothing.
    """
    if follow and as_json:
        raise click.UsageError("--json prints one document, so there is nothing to --follow")

    if as_json:
        print_json(job_views.logs_json(_runs(oban, job_id, attempt)))
        return

    seen: dict[datetime, int] = {}

    try:
        while True:
            # Before the look at what it logged, so that nothing is missed of one that ends now.
            job = oban.get_job(job_id) if follow else None
            _print_new(_runs(oban, job_id, attempt), seen)

            if job is None or job.state in _FINAL:
                break

            pause(_FOLLOWED_EVERY)
    except KeyboardInterrupt:
        return

    if not seen:
        click.echo(_why_no_log(oban, job_id, attempt), err=True)
        sys.exit(FAILED)


def _why_no_log(oban: Oban, job_id: int, attempt: int | None) -> str:
    if oban.get_job(job_id) is None:
        return f"There is no job {job_id}."

    of = "" if attempt is None or not oban.job_logs(job_id) else f" of attempt {attempt}"

    return f"Job {job_id} has no log{of}."


@click.argument("worker", shell_complete=worker_names)
@click.argument("args", default="{}", metavar="[ARGS]")
@click.option("--queue", shell_complete=queue_names, help="[default: the worker's, or default]")
@click.option("--priority", type=click.IntRange(0, 9), help="0 (first) to 9 (last).")
@click.option("--max-attempts", type=click.IntRange(1, 32_767), help="Most times it is started.")
@click.option("--tag", "tags", multiple=True, help="May be given several times.")
@click.option("--meta", metavar="JSON", help="An object.")
@click.option(
    "--at", "when", type=moment_given, metavar="WHEN", help="As 10m, or 2026-12-24T18:00Z."
)
@by_option
@json_option
def add_job(
    oban: Oban,
    worker: str,
    args: str,
    tags: tuple[str, ...],
    meta: str | None,
    when: datetime | None,
    by: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Store a job of a worker, with ARGS as a JSON object.

    The worker need not be known here. Where it is, by --app, its own options count for what is
    not given.
    """
    options = {key: value for key, value in given.items() if value is not None}

    if tags:
        options["tags"] = list(tags)

    if meta is not None:
        options["meta"] = _object("meta", meta)

    if when is not None:
        options["scheduled_at"] = when

    stored = oban.enqueue(_made(worker, _object("args", args), options))

    if not stored.conflict:
        detail = {"worker": stored.worker, "queue": stored.queue}
        record(oban.db, oban, "jobs:add", f"job {stored.id}", who(by), **detail)

    if as_json:
        print_json({**job_views.job_json(stored, args=False), "conflict": stored.conflict})
    elif stored.conflict:
        show([f"Job {stored.id} is there already, and the worker's jobs are unique."])
    else:
        show([f"Job {stored.id} is {stored.state} in queue {stored.queue}."])


#: The commands by name.
VERBS: Mapping[str, Verb] = {
    "list": list_jobs,
    "show": show_jobs,
    "cancel": cancel_jobs,
    "retry": retry_jobs,
    "delete": delete_jobs,
    "explain": explain,
    "logs": show_logs,
    "add": add_job,
}


def _change(
    oban: Oban,
    verb: str,
    done: str,
    change: Callable[[Sequence[int], Any], int],
    states: Sequence[JobState],
    by: str,
    *,
    asks: bool,
    ids: tuple[int, ...],
    wanted: str | None,
    every: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Do something to the jobs that are meant, ask before, and write it down."""
    if ids and (wanted is not None or every):
        raise click.UsageError("give ids, or --filter, or --all; not several of them")

    found = list(dict.fromkeys(ids)) or _found(oban, _meant(wanted, every), states)
    more = len(found) > MOST
    found = found[:MOST]

    if not found:
        _tell(verb, 0, 0, more=False, as_json=as_json, text="No job matches.")
        sys.exit(FAILED)

    if asks or not ids:
        named = _named(found) if ids else _matching(found, more=more)
        ask(f"{verb.capitalize()} {named}?", yes=yes)

    with oban.db.transaction() as tx:
        changed = change(found, tx.conn)

        if changed:
            subject = f"job {found[0]}" if len(found) == 1 else counted(changed, "job")
            record(
                tx,
                oban,
                f"jobs:{verb}",
                subject,
                by,
                filter=None if wanted is None else filters.parse(wanted).masked,
                all=every or None,
                jobs=changed,
                ids=found[:_MOST_AUDITED],
            )

    left = len(found) - changed
    text = f"{done} {counted(changed, 'job')}."

    if left:
        text += f" {counted(left, 'job')} of these could not be, or {'is' if left == 1 else 'are'} "
        text += "not there."

    if more:
        text += f" More match: up to {MOST:,} are dealt with at once; run it again for the rest."

    _tell(verb, changed, left, more=more, as_json=as_json, text=text)

    if not changed:
        sys.exit(FAILED)


def _tell(verb: str, changed: int, left: int, *, more: bool, as_json: bool, text: str) -> None:
    if as_json:
        print_json({"action": f"jobs:{verb}", "changed": changed, "left": left, "more": more})
    else:
        show([text])


def _named(found: list[int]) -> str:
    if len(found) > 5:
        return counted(len(found), "job")

    return f"job{'' if len(found) == 1 else 's'} {', '.join(map(str, found))}"


def _matching(found: list[int], *, more: bool) -> str:
    if more:
        return f"the newest {len(found):,} jobs of those that match"

    return f"the {counted(len(found), 'job')} that match{'es' if len(found) == 1 else ''}"


def _meant(wanted: str | None, every: bool) -> Filter:
    if wanted is not None and every:
        raise click.UsageError("--filter and --all contradict each other; give one of them")

    checked = filters.parse(wanted or "")

    if not checked and not every:
        raise click.UsageError(
            "which jobs? Give ids, or --filter 'queues:mailers states:discarded', or --all"
        )

    return checked


def _found(oban: Oban, wanted: Filter, states: Sequence[JobState]) -> list[int]:
    """The jobs that a filter means, of those in states in which something can be done to them."""
    kept = [state for state in states if not wanted.states or state in wanted.states]

    if not kept:
        return []

    narrowed = wanted.without("states").adding("states", *kept)

    return desk.search_ids(oban.db, narrowed, limit=MOST + 1)


def _explained(oban: Oban, job: Job) -> Any:
    try:
        return explain_job(oban.db, oban.name, job)
    except JobNotFoundError:
        # It was deleted in between.
        return None


def _runs(oban: Oban, job_id: int, attempt: int | None) -> list[Any]:
    return [run for run in logs.job_logs(oban.db, job_id) if attempt in (None, run.attempt)]


def _print_new(runs: list[Any], seen: dict[datetime, int]) -> None:
    for run in runs:
        before = seen.get(run.attempted_at)
        cells = list(job_views.log_cells(run, before or 0))
        seen[run.attempted_at] = run.dropped + len(run.lines)

        if before is None:
            show([job_views.log_head(run), *cells])
        elif cells:
            show(cells)


def _tell_missing(missing: list[int]) -> None:
    if missing:
        ids = ", ".join(map(str, missing))
        click.echo(f"There is no job {ids}.", err=True)
        sys.exit(FAILED)


def _made(worker: str, args: dict[str, Any], options: dict[str, Any]) -> Job:
    try:
        known = registry.resolve(worker)
    except WorkerNotFoundError:
        return JobOptions.checked(options).job(check_name("worker", worker), args)

    return known.options.merged(options).job(known.name, args)


def _object(option: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(option, f"is not JSON: {error}") from None

    if not isinstance(value, dict):
        raise ConfigError(option, "is not a JSON object; give one as '{\"id\": 7}'")

    return value
