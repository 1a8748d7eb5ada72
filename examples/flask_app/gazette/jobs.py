"""The jobs. FlaskOban runs each in an app context of its own."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from typing import Any

from flask import current_app
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from gazette import png
from gazette.extensions import db, oban
from gazette.models import Issue, Mail, Picture, Reader, Report, Thumbnail
from oban_sync import Cancel, Job, Record, job, worker

#: Longest sides of what is made of a picture.
SIZES = {"large": 320, "medium": 160, "small": 64}


@worker(queue="mailers", max_attempts=5, transactional=True)
class Welcome:
    """Greets a new reader.

    Transactional: the mail is stored by the transaction that marks the job as completed, so there
    is one, even when a process dies in between. A mail server has no part in that transaction;
    there, send the job's id along as an idempotency key.
    """

    def process(self, job: Job, session: Session) -> object:
        reader = session.get(Reader, job.args["reader_id"])

        if reader is None:
            return Cancel("the reader is gone")

        deliver(session, reader.email, "Welcome", "You get the next issue.")

        return None


@worker(queue="default", transactional=True)
class SendIssue:
    """Makes a job of every reader of an issue: all of them, or none."""

    def process(self, job: Job, session: Session) -> object:
        issue = session.get_one(Issue, job.args["issue_id"])
        readers = session.scalars(select(Reader.id).order_by(Reader.id)).all()
        # 1,000 jobs are two statements; they become visible with the end of this job.
        oban.enqueue_many(
            (SendMail.new({"issue_id": issue.id, "reader_id": reader}) for reader in readers),
            conn=session,
        )
        issue.recipients = len(readers)

        return Record({"recipients": len(readers)})


@worker(queue="mailers", max_attempts=5, priority=3, transactional=True)
class SendMail:
    """Sends an issue to one reader. Welcome mails go first: 0 comes before 3."""

    def process(self, job: Job, session: Session) -> object:
        issue = session.get_one(Issue, job.args["issue_id"])
        reader = session.get(Reader, job.args["reader_id"])

        if reader is None:
            issue.recipients = Issue.recipients - 1  # type: ignore[assignment]

            return Cancel("the reader is gone")

        deliver(session, reader.email, issue.subject, issue.body, issue_id=issue.id)

        return None


@worker(queue="pictures", max_attempts=3, timeout=60, discard_on=[png.NotSupportedError])
class MakeThumbnails:
    """Makes a picture smaller, in a process of its own. A file that is none is given up at once."""

    def process(self, job: Job) -> object:
        picture = db.session.get(Picture, job.args["picture_id"])

        if picture is None:
            return Cancel("the picture is gone")

        image = png.decode(picture.png)
        made = {}

        for done, (name, size) in enumerate(SIZES.items(), 1):
            image = image.fitted(size)
            db.session.merge(Thumbnail(picture_id=picture.id, size=size, png=png.encode(image)))
            # What is committed stays; should the job run again, merging changes nothing.
            db.session.commit()
            made[name] = [image.width, image.height]
            job.report_progress(done, len(SIZES), note=f"{name} is made")

        return Record(made)


@job(queue="default", cron={"expr": "5 0 * * *", "catch_up": "last"}, transactional=True)
def nightly_report(session: Session, day: str | None = None) -> Record:
    """Count what happened on a day, by default yesterday."""
    reported = date.fromisoformat(day) if day else datetime.now(UTC).date() - timedelta(days=1)
    counts = {
        name: session.scalar(
            select(func.count()).where(func.date(func.timezone("UTC", moment)) == reported)
        )
        for name, moment in (
            ("readers", Reader.joined_at),
            ("mails", Mail.sent_at),
            ("pictures", Picture.added_at),
        )
    }
    report: dict[str, Any] = {"day": reported, **counts}
    session.execute(
        insert(Report).values(report).on_conflict_do_update(index_elements=["day"], set_=counts)
    )

    return Record({**counts, "day": reported.isoformat()})


def deliver(
    session: Session, recipient: str, subject: str, body: str, *, issue_id: int | None = None
) -> None:
    """Send a mail, so to speak."""
    time.sleep(current_app.config["MAIL_SECONDS"])
    session.add(Mail(recipient=recipient, subject=subject, body=body, issue_id=issue_id))


def subscribe(email: str) -> Reader:
    """Store a reader and the job that greets them in one transaction: both, or neither.

    Raises:
        IntegrityError: The address has subscribed before.
    """
    reader = Reader(email=email)
    db.session.add(reader)
    db.session.flush()  # so that it has an id
    reader.welcome_job_id = Welcome.enqueue({"reader_id": reader.id}, conn=db.session).id
    db.session.commit()

    return reader


def subscribe_samples(count: int) -> int:
    """Subscribe so many made-up readers, without greeting them; tells how many are new."""
    emails = [{"email": f"reader-{number}@example.com"} for number in range(1, count + 1)]
    added = db.session.execute(
        insert(Reader).values(emails).on_conflict_do_nothing().returning(Reader.id)
    ).all()
    db.session.commit()

    return len(added)


def send(subject: str, body: str) -> Issue:
    """Store an issue, and the job that sends it."""
    issue = Issue(subject=subject, body=body)
    db.session.add(issue)
    db.session.flush()
    issue.job_id = SendIssue.enqueue({"issue_id": issue.id}, conn=db.session).id
    db.session.commit()

    return issue


def add_picture(name: str, content: bytes) -> Picture:
    """Store a picture, and the job that makes it smaller."""
    picture = Picture(name=name, png=content)
    db.session.add(picture)
    db.session.flush()
    picture.job_id = MakeThumbnails.enqueue({"picture_id": picture.id}, conn=db.session).id
    db.session.commit()

    return picture
