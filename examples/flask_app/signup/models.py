"""The tables: users, and an outbox in place of a mail server."""

from __future__ import annotations

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import BigInteger
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)


class User(db.Model):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    # Not a foreign key: finished jobs may be deleted, users stay.
    welcome_job_id: Mapped[int | None] = mapped_column(BigInteger)


class Mail(db.Model):
    __tablename__ = "mails"

    # One mail a job, however often the job is run.
    job_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    recipient: Mapped[str]
    body: Mapped[str]
