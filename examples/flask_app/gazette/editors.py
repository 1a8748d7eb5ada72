"""The pages for editors: readers, issues, pictures and reports."""

from __future__ import annotations

from datetime import UTC, datetime

from flask import Blueprint, Response, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import func, select

from gazette import jobs, png, security
from gazette.extensions import db, oban
from gazette.models import Issue, Mail, Picture, Reader, Report, Thumbnail
from gazette.pages import FINAL
from oban_sync import Job

editors = Blueprint("editors", __name__)
editors.before_request(security.require_editor)

#: Rows of a page.
NEWEST = 20


@editors.get("/readers")
def readers() -> ResponseReturnValue:
    newest = db.session.scalars(select(Reader).order_by(Reader.id.desc()).limit(NEWEST)).all()
    welcomes = {
        reader.id: oban.get_job(reader.welcome_job_id) for reader in newest if reader.welcome_job_id
    }

    return render_template(
        "readers.html", readers=newest, welcomes=welcomes, count=count_of(Reader)
    )


@editors.post("/readers/samples")
def add_samples() -> ResponseReturnValue:
    flash(f"{jobs.subscribe_samples(1_000)} sample readers have subscribed.")

    return redirect(url_for("editors.readers"), 303)


@editors.get("/issues")
def issues() -> ResponseReturnValue:
    newest = db.session.scalars(select(Issue).order_by(Issue.id.desc()).limit(NEWEST)).all()

    return render_template("issues.html", issues=newest, readers=count_of(Reader))


@editors.post("/issues")
def send_issue() -> ResponseReturnValue:
    subject = request.form.get("subject", "").strip()
    body = request.form.get("body", "").strip()
    error = wrong_with(subject, body)

    if error:
        newest = db.session.scalars(select(Issue).order_by(Issue.id.desc()).limit(NEWEST)).all()

        return render_template(
            "issues.html",
            issues=newest,
            readers=count_of(Reader),
            error=error,
            subject=subject,
            body=body,
        ), 400

    issue = jobs.send(subject, body)

    return redirect(url_for("editors.show_issue", issue_id=issue.id), 303)


@editors.get("/issues/<int:issue_id>")
def show_issue(issue_id: int) -> ResponseReturnValue:
    issue = db.get_or_404(Issue, issue_id, description="There is no such issue.")

    return render_template("issue.html", issue=issue, job=progress_of(issue))


@editors.get("/issues/<int:issue_id>/progress")
def issue_progress(issue_id: int) -> ResponseReturnValue:
    return progress_of(db.get_or_404(Issue, issue_id))


@editors.get("/pictures")
def pictures() -> ResponseReturnValue:
    newest = db.session.scalars(select(Picture).order_by(Picture.id.desc()).limit(NEWEST)).all()
    made = set(
        db.session.scalars(
            select(Thumbnail.picture_id).where(
                Thumbnail.picture_id.in_([picture.id for picture in newest]),
                Thumbnail.size == jobs.SIZES["medium"],
            )
        )
    )
    unmade = [picture for picture in newest if picture.id not in made and picture.job_id]
    coming = {picture.id: not is_over(oban.get_job(picture.job_id)) for picture in unmade}

    return render_template(
        "pictures.html", pictures=newest, made=made, coming=coming, size=jobs.SIZES["medium"]
    )


@editors.post("/pictures")
def add_picture() -> ResponseReturnValue:
    file = request.files.get("picture")
    content = file.read() if file else b""

    # Only a look: whether it is a picture is found out by the job.
    if file is None or not content.startswith(png.SIGNATURE):
        flash("Choose a PNG of at most 2 MB.", "error")

        return redirect(url_for("editors.pictures"), 303)

    name = "".join(letter for letter in file.filename or "" if letter.isprintable())[-100:]
    picture = jobs.add_picture(name or "picture", content)

    return redirect(url_for("pages.show_job", token=security.job_token(picture.job_id or 0)), 303)


@editors.get("/pictures/<int:picture_id>/<int:size>.png")
def thumbnail(picture_id: int, size: int) -> ResponseReturnValue:
    found = db.session.get(Thumbnail, (picture_id, size))

    if found is None:
        abort(404)

    return Response(
        found.png,
        mimetype="image/png",
        headers={
            "Cache-Control": "private, max-age=86400, immutable",
            "X-Content-Type-Options": "nosniff",
        },
    )


@editors.get("/reports")
def reports() -> ResponseReturnValue:
    newest = db.session.scalars(select(Report).order_by(Report.day.desc()).limit(NEWEST)).all()
    entry = next((cron for cron in oban.list_crons() if "nightly_report" in cron.worker), None)

    return render_template("reports.html", reports=newest, entry=entry)


@editors.post("/reports")
def make_report() -> ResponseReturnValue:
    today = datetime.now(UTC).date().isoformat()
    # Pressed twice, it is made once.
    stored = jobs.nightly_report.options(
        conn=db.session, unique={"period": "forever", "states": "incomplete"}
    ).enqueue(day=today)
    db.session.commit()

    return redirect(url_for("pages.show_job", token=security.job_token(stored.id or 0)), 303)


def is_over(job: Job | None) -> bool:
    """Whether a job will not run again; finished ones are deleted after a day."""
    return job is None or job.state in FINAL


def progress_of(issue: Issue) -> dict[str, object]:
    """How far an issue has come: its mails are counted, so it is exact whoever sends them."""
    sent = db.session.scalar(select(func.count()).where(Mail.issue_id == issue.id)) or 0
    total = issue.recipients

    return {
        "state": "waiting" if total is None else "sent" if sent >= total else "sending",
        "final": total is not None and sent >= total,
        "done": sent,
        "total": total or 0,
    }


def wrong_with(subject: str, body: str) -> str | None:
    """What is wrong with an issue, for whoever wrote it."""
    if not 0 < len(subject) <= 200 or not subject.isprintable():
        return "The subject is one line of up to 200 characters."

    if not 0 < len(body) <= 50_000 or "\0" in body:
        return "The text has up to 50,000 characters, and at least one."

    return None


def count_of(model: type[db.Model]) -> int:  # type: ignore[name-defined]
    return db.session.scalar(select(func.count()).select_from(model)) or 0
