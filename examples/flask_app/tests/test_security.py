"""What must not be possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from gazette import create_app
from werkzeug.test import TestResponse

from oban_sync.testing import refute_enqueued

Post = Callable[..., TestResponse]


@pytest.fixture
def guarded(app: Flask) -> Iterator[Flask]:
    """The application, with a password for editors."""
    app.config["EDITOR_PASSWORD"] = "pässword"

    yield app

    app.config["EDITOR_PASSWORD"] = ""


@pytest.mark.parametrize("path", ["/subscribe", "/issues", "/pictures", "/reports"])
@pytest.mark.parametrize("token", ["", "wrong", "ä"])
def test_a_form_without_its_token_does_nothing(client: FlaskClient, path: str, token: str) -> None:
    answer = client.post(path, data={"form_token": token, "email": "ann@example.com"})

    assert answer.status_code == 400
    assert "reload the page" in answer.text
    refute_enqueued()


@pytest.mark.parametrize("path", ["/readers", "/issues", "/pictures", "/reports"])
def test_pages_of_editors_ask_for_the_password(guarded: Flask, path: str) -> None:
    client = guarded.test_client()

    assert client.get(path).status_code == 401
    assert client.get(path, auth=("ann", "wrong")).status_code == 401
    assert client.get(path, auth=("ann", "pässword")).status_code == 200
    assert client.get("/").status_code == 200


def test_without_a_password_in_the_settings_nobody_is_an_editor(guarded: Flask) -> None:
    guarded.config["EDITOR_PASSWORD"] = None

    assert guarded.test_client().get("/readers").status_code == 503


def test_the_address_of_a_jobs_page_cannot_be_guessed(post: Post, client: FlaskClient) -> None:
    shown = post("/subscribe", email="ann@example.com").location

    assert client.get(shown).status_code == 200
    assert client.get("/jobs/1").status_code == 404
    assert client.get(shown[:-1]).status_code == 404


def test_there_is_no_application_without_a_secret(
    application: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLASK_SECRET_KEY", raising=False)
    url = application.config["SQLALCHEMY_DATABASE_URI"]

    with pytest.raises(RuntimeError, match="FLASK_SECRET_KEY"):
        create_app({"SQLALCHEMY_DATABASE_URI": url})


def test_a_page_that_is_not_there_is_told_in_words(client: FlaskClient) -> None:
    answer = client.get("/nowhere")

    assert answer.status_code == 404
    assert "Back to the front page" in answer.text
    assert client.get("/healthz").json == {"ok": True}
