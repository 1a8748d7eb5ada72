"""Subscribing: reader and job in one transaction, and the mail that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from flask import Flask
from flask.testing import FlaskClient
from gazette.extensions import db
from gazette.jobs import Welcome, subscribe_samples
from gazette.models import Mail, Reader
from sqlalchemy import select
from werkzeug.test import TestResponse

from oban_sync.testing import assert_enqueued, drain_queue, refute_enqueued

Post = Callable[..., TestResponse]


def readers(app: Flask) -> Sequence[str]:
    with app.app_context():
        return db.session.scalars(select(Reader.email).order_by(Reader.id)).all()


def mails(app: Flask) -> Sequence[tuple[str, str]]:
    with app.app_context():
        rows = db.session.execute(select(Mail.recipient, Mail.subject).order_by(Mail.id))

        return [(recipient, subject) for recipient, subject in rows]


def test_subscribing_stores_the_reader_and_one_job(app: Flask, post: Post) -> None:
    assert post("/subscribe", email=" Ann@example.com").status_code == 303

    assert readers(app) == ["ann@example.com"]
    assert_enqueued(worker=Welcome, queue="mailers", count=1)


def test_the_job_sends_the_mail(app: Flask, post: Post, client: FlaskClient) -> None:
    shown = post("/subscribe", email="ann@example.com").location

    assert "available" in client.get(shown).text
    assert drain_queue("mailers")["completed"] == 1
    assert mails(app) == [("ann@example.com", "Welcome")]
    assert "completed" in client.get(shown).text


def test_the_job_of_a_reader_who_is_gone_is_cancelled(app: Flask, post: Post) -> None:
    post("/subscribe", email="ann@example.com")

    with app.app_context():
        db.session.delete(db.session.scalars(select(Reader)).one())
        db.session.commit()

    assert drain_queue("mailers")["cancelled"] == 1
    assert mails(app) == []


def test_an_address_subscribes_once(app: Flask, post: Post) -> None:
    post("/subscribe", email="ann@example.com")

    again = post("/subscribe", email="ANN@example.com")

    assert again.status_code == 409
    assert "ann@example.com has subscribed already" in again.text
    assert readers(app) == ["ann@example.com"]
    assert_enqueued(worker=Welcome, count=1)


@pytest.mark.parametrize("email", ["", "ann", "a b@example.com", "a\0@b", "a@" + "b" * 999])
def test_what_is_no_address_is_refused(app: Flask, post: Post, email: str) -> None:
    assert post("/subscribe", email=email).status_code == 400
    assert readers(app) == []
    refute_enqueued(worker=Welcome)


def test_an_error_before_the_commit_leaves_neither_reader_nor_job(
    app: Flask, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        # Stored by now, both of them, as far as this transaction sees.
        assert db.session.scalars(select(Reader.email)).all() == ["ann@example.com"]
        assert_enqueued(worker=Welcome)

        raise ConnectionError

    monkeypatch.setattr(db.session, "commit", fail)

    with pytest.raises(ConnectionError):
        post("/subscribe", email="ann@example.com")

    assert readers(app) == []
    refute_enqueued(worker=Welcome)


def test_pages_show_a_hostile_address_as_text(post: Post, client: FlaskClient) -> None:
    email = '"><script>alert(1)</script>@example.com'
    post("/subscribe", email=email)

    for page in (client.get("/readers").text, post("/subscribe", email=email).text):
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert" in page


def test_sample_readers_come_once(app: Flask) -> None:
    with app.app_context():
        assert subscribe_samples(10) == 10
        assert subscribe_samples(12) == 2

    assert len(readers(app)) == 12
    refute_enqueued(worker=Welcome)


def test_the_page_of_readers_says_when_there_are_none(post: Post, client: FlaskClient) -> None:
    assert "Nobody has subscribed yet" in client.get("/readers").text

    assert post("/readers/samples").status_code == 303
    assert "1,000" in client.get("/readers").text
