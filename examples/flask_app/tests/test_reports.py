"""Reports: of yesterday by the clock, of today by a button."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from flask import Flask
from flask.testing import FlaskClient
from gazette.extensions import db
from gazette.jobs import nightly_report, subscribe_samples
from gazette.models import Reader, Report
from sqlalchemy import select, update
from werkzeug.test import TestResponse

from oban_sync.testing import assert_enqueued, drain_queue, perform_job

Post = Callable[..., TestResponse]


def test_the_nightly_report_counts_what_happened_yesterday(app: Flask) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)

    with app.app_context():
        subscribe_samples(3)
        db.session.execute(
            update(Reader).where(Reader.email != "reader-1@example.com").values(joined_at=yesterday)
        )
        db.session.commit()

    expected = {"day": yesterday.date().isoformat(), "readers": 2, "mails": 0, "pictures": 0}

    assert perform_job(nightly_report).value == expected

    with app.app_context():
        report = db.session.scalars(select(Report)).one()
        assert (report.day, report.readers) == (yesterday.date(), 2)


def test_a_report_that_is_made_again_replaces_the_one_before(app: Flask) -> None:
    day = datetime.now(UTC).date().isoformat()

    for readers in (1, 3):
        with app.app_context():
            subscribe_samples(readers)

        assert perform_job(nightly_report, {"day": day}).value["readers"] == readers

    with app.app_context():
        assert db.session.scalars(select(Report.readers)).all() == [3]


def test_a_button_that_is_pressed_twice_makes_one_report(post: Post, client: FlaskClient) -> None:
    assert "No report has been made yet" in client.get("/reports").text

    shown = {post("/reports").location for _ in range(2)}

    assert len(shown) == 1
    assert_enqueued(worker=nightly_report, count=1)
    assert drain_queue("default")["completed"] == 1
    assert f"{datetime.now(UTC):%b %Y}" in client.get("/reports").text
