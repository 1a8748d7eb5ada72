"""The jobs, which run in the worker process."""

from __future__ import annotations

from flask import Flask

from oban_sync import Cancel, Job, worker
from signup.models import Mail, User, db


class AppWorker:
    """Base of the workers: `perform` runs in an app context of its own.

    A job runs on a thread that knows of no app. The context brings it there, and with it a
    `db.session` of its own, which is closed when the job ends, however it ends.
    """

    app: Flask

    def process(self, job: Job) -> object:
        with self.app.app_context():
            return self.perform(job)

    def perform(self, job: Job) -> object:
        raise NotImplementedError


@worker(queue="mailers", max_attempts=5)
class WelcomeMail(AppWorker):
    """Greets a new user."""

    def perform(self, job: Job) -> object:
        user = db.session.get(User, job.args["user_id"])

        if user is None:
            return Cancel("the user is gone")

        # A job runs again when its process dies before it is marked as done. Merging a mail that
        # is there changes nothing; with a mail service, send the job's id as idempotency key.
        db.session.merge(Mail(job_id=job.id, recipient=user.email, body=f"Welcome, {user.email}!"))
        db.session.commit()

        return None
