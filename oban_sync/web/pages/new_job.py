"""The form for a new job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue

from oban_sync.core.errors import ConfigError, InvalidJobError, WorkerNotFoundError
from oban_sync.core.job import Job
from oban_sync.core.options import JobOptions, check_name
from oban_sync.core.registry import registered, resolve
from oban_sync.engine.retry import conflicts_retried
from oban_sync.web import job_forms, replies
from oban_sync.web.access import performs
from oban_sync.web.actions import Action
from oban_sync.web.site import here, note, visit

MENU = None


def register(blueprint: Blueprint) -> None:
    """Add the rules."""
    blueprint.get("/new-job")(new_job)
    blueprint.post("/new-job")(add_job)


def new_job() -> ResponseReturnValue:
    """The form."""
    if not visit().rights.may(Action.JOBS_ADD):
        abort(403, f"You may look at jobs, but not add any: {Action.JOBS_ADD.value}.")

    return _show(request.args)


@performs(Action.JOBS_ADD)
def add_job() -> ResponseReturnValue:
    """Store a job."""
    site = here()

    try:
        made = _made(job_forms.given(request.form))

        def work() -> Job:
            with site.db.transaction() as tx:
                stored = site.oban.enqueue(made, conn=tx.conn)
                note(
                    tx,
                    Action.JOBS_ADD,
                    f"job {stored.id}",
                    worker=stored.worker,
                    queue=stored.queue,
                    conflict=stored.conflict,
                )

                return stored

        stored = conflicts_retried(work)
    except ConfigError as error:
        return _show(request.form, problem=str(error))

    to = url_for(".job", job_id=stored.id)

    if stored.conflict:
        return replies.failed("No job was added: it is unique, and this one is there already.", to)

    return replies.done(f"Job {stored.id} was added.", to)


def _made(given: dict[str, Any]) -> Job:
    if not (name := given.pop("worker", "")):
        raise InvalidJobError("worker", "is missing; give the name of one")

    args = given.pop("args", {})

    try:
        # With what its decorator says of all its jobs.
        options = resolve(name).options
    except WorkerNotFoundError:
        # It may be registered on the nodes alone.
        options = JobOptions({})

    return options.merged(given).job(check_name("worker", name), args)


def _show(form: Mapping[str, str], problem: str | None = None) -> ResponseReturnValue:
    nodes = here().oban.list_nodes()
    known = {name for node in nodes for name in node.workers or ()}
    queues = {queue.queue for node in nodes for queue in node.queues}
    own = registered()

    return replies.page(
        "new_job",
        status=200 if problem is None else 422,
        form=form,
        problem=problem,
        workers=sorted(known | own.keys()),
        queues=sorted(queues | set(own.values())),
    )
