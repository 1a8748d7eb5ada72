"""Issues: a job that makes a job of each reader, and how far these have come."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Flask
from flask.testing import FlaskClient
from gazette.extensions import db
from gazette.jobs import SendIssue, SendMail, subscribe_samples
from gazette.models import Issue, Mail, Reader
from sqlalchemy import func, select
from werkzeug.test import TestResponse

from oban_sync import Oban
from oban_sync.testing import all_enqueued, assert_enqueued, drain_queue, refute_enqueued

Post = Callable[..., TestResponse]


@pytest.fixture
def readers(app: Flask) -> int:
    with app.app_context():
        return subscribe_samples(20)


@pytest.fixture
def issue(post: Post, readers: int) -> str:
    """The page of an issue that is to be sent to twenty readers."""
    return post("/issues", subject="Spring", body="It is here.").location


def test_sending_an_issue_stores_it_and_one_job(app: Flask, issue: str) -> None:
    with app.app_context():
        stored = db.session.scalars(select(Issue)).one()

        assert issue == f"/issues/{stored.id}"
        assert_enqueued(worker=SendIssue, args={"issue_id": stored.id}, count=1)


def test_an_issue_goes_to_every_reader_once(app: Flask, issue: str, readers: int) -> None:
    assert drain_queue("default")["completed"] == 1
    assert len(all_enqueued(worker=SendMail, queue="mailers")) == readers
    assert drain_queue("mailers")["completed"] == readers

    with app.app_context():
        sent = db.session.scalars(select(Mail.recipient).where(Mail.subject == "Spring")).all()
        assert sorted(sent) == sorted(db.session.scalars(select(Reader.email)))


def test_a_page_follows_the_mails(
    client: FlaskClient, issue: str, readers: int, oban: Oban
) -> None:
    assert "waiting" in client.get(issue).text
    assert client.get(f"{issue}/progress").json["final"] is False

    drain_queue("default")
    oban.cancel_many_jobs(all_enqueued(worker=SendMail)[5:])
    drain_queue("mailers")

    assert client.get(f"{issue}/progress").json == {
        "state": "sending",
        "final": False,
        "done": 5,
        "total": readers,
    }


def test_a_reader_who_left_meanwhile_is_not_waited_for(
    app: Flask, client: FlaskClient, issue: str, readers: int
) -> None:
    drain_queue("default")

    with app.app_context():
        db.session.delete(db.session.scalars(select(Reader).limit(1)).one())
        db.session.commit()

    assert drain_queue("mailers")["cancelled"] == 1
    assert client.get(f"{issue}/progress").json["state"] == "sent"


def test_all_mails_of_an_issue_are_made_or_none(
    app: Flask, issue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(value: object) -> None:
        raise ConnectionError

    monkeypatch.setattr("gazette.jobs.Record", fail)

    with pytest.raises(ConnectionError):
        drain_queue("default")

    refute_enqueued(worker=SendMail)

    with app.app_context():
        assert db.session.scalars(select(Issue)).one().recipients is None


def test_a_mail_is_stored_once_however_often_its_job_is_made(app: Flask, issue: str) -> None:
    drain_queue("default")
    mail = all_enqueued(worker=SendMail)[0]

    with app.app_context():
        SendMail.enqueue(mail.args)

    ran = drain_queue("mailers", with_safety=True, with_scheduled=False)
    assert (ran["completed"], ran["retryable"]) == (20, 1)

    with app.app_context():
        assert db.session.scalar(select(func.count()).select_from(Mail)) == 20


@pytest.mark.parametrize(
    ("subject", "body"),
    [("", "text"), ("subject", "  "), ("s" * 201, "text"), ("two\nlines", "t"), ("s", "\0")],
)
def test_what_is_wrong_with_an_issue_is_told(post: Post, subject: str, body: str) -> None:
    answer = post("/issues", subject=subject, body=body)

    assert answer.status_code == 400
    assert 'role="alert"' in answer.text
    refute_enqueued(worker=SendIssue)


def test_there_is_nobody_to_send_to_at_first(client: FlaskClient) -> None:
    page = client.get("/issues").text

    assert "No issue has been written yet" in page
    assert "disabled" in page
    assert client.get("/issues/1").status_code == 404
