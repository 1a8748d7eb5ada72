"""One job: what it is, what became of it, why it does not run, and what can be done about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue

from oban_sync.control import jobs as control
from oban_sync.control.explain import explain_job
from oban_sync.control.stacks import ask_for_stack, read_stack
from oban_sync.core.errors import (
    ConfigError,
    InvalidJobError,
    JobDecodeError,
    JobNotFoundError,
)
from oban_sync.core.job import Job, JobState
from oban_sync.core.job_logs import AttemptLog
from oban_sync.engine.logs import list_logs
from oban_sync.engine.retry import conflicts_retried
from oban_sync.web import job_forms, replies
from oban_sync.web.access import performs
from oban_sync.web.actions import Action
from oban_sync.web.pages import jobs
from oban_sync.web.seen import Seen, link
from oban_sync.web.site import here, note, visit

MENU = None

#: Lines of its logs that a page shows: those of the newest runs, and of these the last ones.
MOST_LINES = 500

_GONE = "it is not there any more, or its state does not allow it"


def register(blueprint: Blueprint) -> None:
    """Add the rules."""
    blueprint.get("/jobs/<int:job_id>")(job)
    blueprint.post("/jobs/<int:job_id>/cancel")(cancel_job)
    blueprint.post("/jobs/<int:job_id>/retry")(retry_job)
    blueprint.post("/jobs/<int:job_id>/run")(run_job)
    blueprint.post("/jobs/<int:job_id>/delete")(delete_job)
    blueprint.post("/jobs/<int:job_id>/edit")(edit_job)
    blueprint.post("/jobs/<int:job_id>/stack")(stack_of_job)


def job(job_id: int) -> ResponseReturnValue:
    """The page."""
    return _show(job_id)


@performs(Action.JOBS_CANCEL)
def cancel_job(job_id: int) -> ResponseReturnValue:
    """Cancel it, or ask it to stop."""
    return _do(jobs.CANCEL, job_id, "The job was cancelled, or asked to stop.")


@performs(Action.JOBS_RETRY)
def retry_job(job_id: int) -> ResponseReturnValue:
    """Make it available again."""
    return _do(jobs.RETRY, job_id, "The job is available again.")


@performs(Action.JOBS_RUN)
def run_job(job_id: int) -> ResponseReturnValue:
    """Make it available before its time."""
    return _do(jobs.RUN, job_id, "The job is available now.")


@performs(Action.JOBS_DELETE)
def delete_job(job_id: int) -> ResponseReturnValue:
    """Delete it, and go back to the list."""
    return _do(jobs.DELETE, job_id, "The job was deleted.", to=url_for(".jobs"))


@performs(Action.JOBS_STACK)
def stack_of_job(job_id: int) -> ResponseReturnValue:
    """Ask its node where its code is."""
    db = here().db

    if not ask_for_stack(db, job_id):
        return replies.failed(
            "Nobody can tell where the code of this job is: it does not run, or its node hears of "
            "nothing at the moment."
        )

    note(db, Action.JOBS_STACK, f"job {job_id}")

    return replies.done("The node of this job was asked; its answer takes a moment.")


@performs(Action.JOBS_EDIT)
def edit_job(job_id: int) -> ResponseReturnValue:
    """Change what was changed in the form."""
    site = here()

    try:
        changes = job_forms.changed(request.form)

        if not changes:
            return replies.failed("Nothing was changed in the form.")

        def work() -> Job:
            with site.db.transaction() as tx:
                updated = control.update_job(
                    site.db, job_id, lambda job: _allowed(job, changes), conn=tx.conn
                )
                note(tx, Action.JOBS_EDIT, f"job {job_id}", fields=sorted(changes))

                return updated

        conflicts_retried(work)
    except JobNotFoundError:
        abort(404)
    except ConfigError as error:
        return _show(job_id, form=request.form, problem=str(error))

    return replies.done("The job was changed.")


def _allowed(job: Job, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes of a job as it stands: what its page hid is put back."""
    if job.state is JobState.EXECUTING:
        raise InvalidJobError("state", "the job runs; what it was started with cannot be changed")

    hider, allowed = here().hider, dict(changes)
    seen = Seen(job, hider)
    stale = _stale(_filled(seen))

    for field in changes:
        if field in seen.cut:
            raise InvalidJobError(field, "too long to be changed here, where it is not shown whole")

        if field in stale:
            raise InvalidJobError(
                field,
                "somebody else changed it meanwhile; what it is now stands below what you wrote. "
                "Saving once more puts yours in its place",
            )

        if field in ("args", "meta"):
            try:
                original = getattr(job, field)
            except JobDecodeError:
                original = {}

            allowed[field] = hider.restored(changes[field], original, field)

    return allowed


def _stale(is_now: Mapping[str, str]) -> list[str]:
    """The fields that are not what the form that was sent was filled with, where it says so."""
    return [
        name
        for name, text in is_now.items()
        if (was := request.form.get(f"was_{name}")) is not None
        and not job_forms.is_same(was, text)
        and not job_forms.is_same(request.form.get(name), was)
    ]


def _do(verb: jobs.Verb, job_id: int, told: str, to: str | None = None) -> ResponseReturnValue:
    if job_id > control.MOST_ID or not jobs.carry_out(verb, [job_id], f"job {job_id}"):
        return replies.failed(f"Nothing was changed: {_GONE}.")

    return replies.done(told, to)


def _show(
    job_id: int, *, form: Mapping[str, str] | None = None, problem: str | None = None
) -> ResponseReturnValue:
    site = here()
    found = None if job_id > control.MOST_ID else site.oban.get_job(job_id)

    if found is None:
        abort(404, f"There is no job {job_id}: it was deleted, pruned, or never there.")

    seen = Seen(found, site.hider)
    runs = found.state is JobState.EXECUTING
    editable = not runs and visit().rights.may(Action.JOBS_EDIT)
    was = _filled(seen) if editable else {}

    return replies.page(
        "job",
        status=200 if problem is None else 422,
        job=seen,
        explanation=None if seen.is_finished else _explained(job_id),
        logs=_logs(job_id),
        stack=read_stack(site.db, job_id) if runs else None,
        runs=runs,
        verbs={
            "cancel": found.state in jobs.CANCEL.states,
            "retry": found.state in jobs.RETRY.states,
            "run": found.state in jobs.RUN.states,
            "delete": found.state in jobs.DELETE.states,
        },
        editable=editable,
        was=was,
        cut=seen.cut,
        stale=[] if form is None else _stale(was),
        form={**was, **(form or {})},
        problem=problem,
        link=link,
    )


def _filled(seen: Seen) -> dict[str, str]:
    """What the form is filled with, but for what cannot be shown whole."""
    filled = {
        "worker": seen.worker,
        "queue": seen.queue,
        "args": seen.args,
        "meta": seen.meta,
        "tags": ", ".join(seen.tags),
        "priority": str(seen.priority),
        "max_attempts": str(seen.max_attempts),
        "scheduled_at": job_forms.moment(seen.scheduled_at),
    }

    return {name: text for name, text in filled.items() if name not in seen.cut}


def _explained(job_id: int) -> Any:
    try:
        return explain_job(here().db, here().oban.name, job_id)
    except (ConfigError, JobNotFoundError):
        # It was deleted since it was read, or has an id that none of ours has.
        return None


def _logs(job_id: int) -> list[AttemptLog]:
    """What it logged, the last attempt first; of more lines than are read, those of earlier ones
    count as dropped.
    """
    if job_id < 1:
        return []

    with here().db.session() as tx:
        return list_logs(tx, job_id, most_lines=MOST_LINES)[::-1]
