"""The pages for everybody: the form for readers, and how a job stands."""

from __future__ import annotations

import re

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import IntegrityError
from werkzeug.exceptions import HTTPException

from gazette import jobs, security
from gazette.extensions import db, oban
from oban_sync import Job, JobState

pages = Blueprint("pages", __name__)

#: A job that is in one of them stays so.
FINAL = {JobState.COMPLETED, JobState.CANCELLED, JobState.DISCARDED}

#: What the pages call the jobs.
TITLES = {
    "MakeThumbnails": "Making a picture smaller",
    "Welcome": "Sending a welcome mail",
    "nightly_report": "Making a report",
}

EMAIL = re.compile(r"[^\s@]{1,64}@[^\s@]{1,255}")


@pages.get("/")
def home() -> ResponseReturnValue:
    return render_template("home.html")


@pages.post("/subscribe")
def subscribe() -> ResponseReturnValue:
    email = request.form.get("email", "").strip().lower()

    if not (email.isprintable() and EMAIL.fullmatch(email)):
        return render_template("home.html", email=email, error="That is no email address."), 400

    try:
        reader = jobs.subscribe(email)
    except IntegrityError:
        db.session.rollback()

        return render_template(
            "home.html", email=email, error=f"{email} has subscribed already."
        ), 409

    flash(f"{email} has subscribed. A welcome mail is on its way.")

    return redirect(
        url_for("pages.show_job", token=security.job_token(reader.welcome_job_id or 0)), 303
    )


@pages.get("/jobs/<token>")
def show_job(token: str) -> ResponseReturnValue:
    return render_template("job.html", token=token, job=progress_of(security.job_of(token)))


@pages.get("/jobs/<token>/progress")
def job_progress(token: str) -> ResponseReturnValue:
    return progress_of(security.job_of(token))


@pages.app_errorhandler(HTTPException)
def explain(error: HTTPException) -> ResponseReturnValue:
    return render_template("error.html", error=error), error.code or 500


@pages.get("/healthz")
def health() -> ResponseReturnValue:
    """For whoever watches over the processes."""
    return {"ok": True}


def progress_of(job_id: int) -> dict[str, object]:
    """What a page may show of a job; not its args."""
    job = oban.get_job(job_id)

    if job is None:
        abort(404, "This job is done and forgotten: finished jobs are deleted after a day.")

    told = job.progress
    name = job.worker.rpartition(".")[2]

    return {
        "title": TITLES.get(name, name),
        "state": str(job.state),
        "final": job.state in FINAL,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "done": told.done if told else int(job.state == JobState.COMPLETED),
        "total": told.total if told else 1,
        "note": told.note if told else None,
        "result": job.recorded(),
        "error": last_error(job),
    }


def last_error(job: Job) -> str | None:
    """What a job's last failure said, without its traceback and the name of its class."""
    if job.state == JobState.COMPLETED or not job.errors:
        return None

    line = str(job.errors[-1].get("error", "")).strip().rpartition("\n")[2]

    return re.sub(r"^[\w.]+: ", "", line)
