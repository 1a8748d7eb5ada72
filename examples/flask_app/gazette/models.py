"""The tables."""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy import BigInteger, DateTime, ForeignKey, LargeBinary, UniqueConstraint, func
from sqlalchemy.orm import Mapped, deferred, mapped_column

from gazette.extensions import db

#: An aware datetime, of the database's clock.
MOMENT = DateTime(timezone=True)


class Reader(db.Model):
    """Somebody who has subscribed."""

    __tablename__ = "readers"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    joined_at: Mapped[datetime] = mapped_column(MOMENT, server_default=func.now())
    # No foreign key: finished jobs are deleted after a day, readers stay.
    welcome_job_id: Mapped[int | None] = mapped_column(BigInteger)


class Issue(db.Model):
    """A newsletter."""

    __tablename__ = "issues"

    id: Mapped[int] = mapped_column(primary_key=True)
    subject: Mapped[str]
    body: Mapped[str]
    written_at: Mapped[datetime] = mapped_column(MOMENT, server_default=func.now())
    job_id: Mapped[int | None] = mapped_column(BigInteger)
    # None until its job has counted who is to get it.
    recipients: Mapped[int | None]


class Mail(db.Model):
    """The outbox, in place of a mail server."""

    __tablename__ = "mails"
    # A reader gets each issue once, whatever happens.
    __table_args__ = (UniqueConstraint("issue_id", "recipient"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    recipient: Mapped[str]
    subject: Mapped[str]
    body: Mapped[str]
    sent_at: Mapped[datetime] = mapped_column(MOMENT, server_default=func.now())
    issue_id: Mapped[int | None] = mapped_column(ForeignKey("issues.id"))


class Picture(db.Model):
    """A picture, and what was made of it."""

    __tablename__ = "pictures"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    png: Mapped[bytes] = deferred(mapped_column(LargeBinary))
    added_at: Mapped[datetime] = mapped_column(MOMENT, server_default=func.now())
    job_id: Mapped[int | None] = mapped_column(BigInteger)


class Thumbnail(db.Model):
    """A picture made smaller."""

    __tablename__ = "thumbnails"

    picture_id: Mapped[int] = mapped_column(ForeignKey("pictures.id"), primary_key=True)
    size: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    png: Mapped[bytes] = deferred(mapped_column(LargeBinary))


class Report(db.Model):
    """What happened on a day."""

    __tablename__ = "reports"

    day: Mapped[date] = mapped_column(primary_key=True)
    readers: Mapped[int]
    mails: Mapped[int]
    pictures: Mapped[int]
