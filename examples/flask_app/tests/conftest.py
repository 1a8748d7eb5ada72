"""One application and one database; each test undoes what it did."""

from __future__ import annotations

import os
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from werkzeug.test import TestResponse

from oban_sync import Oban, schema, testing
from oban_sync.embedded import Server

# This directory is a project of its own: what is in it is imported as `gazette`.
sys.path.insert(0, str(Path(__file__).parents[1]))

from gazette import create_app
from gazette.extensions import db

#: Goes along with every form.
TOKEN = "the-token"  # noqa: S105 - it is none of anybody


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The server that OBAN_SYNC_TEST_DSN names, or a private one."""
    if given := os.environ.get("OBAN_SYNC_TEST_DSN"):
        yield given
    else:
        with (
            tempfile.TemporaryDirectory(prefix="gazette-tests-") as folder,
            Server(folder, settings={"fsync": "off"}) as url,
        ):
            yield url


@pytest.fixture(scope="session")
def database_url(server: str) -> Iterator[str]:
    """A new database for each process that runs tests."""
    name = f"gazette_test_{uuid.uuid4().hex[:12]}"
    # A URL whatever the server was given as, for SQLAlchemy reads nothing else.
    parts = conninfo_to_dict(server, dbname=name)

    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

        try:
            yield f"postgresql+psycopg:///?{urlencode(parts, quote_via=quote)}"
        finally:
            conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def application(database_url: str) -> Iterator[Flask]:
    """The application, with empty tables."""
    app = create_app(
        {
            "SQLALCHEMY_DATABASE_URI": database_url,
            "SECRET_KEY": "of the tests",
            "EDITOR_PASSWORD": "",
            "MAIL_SECONDS": 0,
            "TESTING": True,
        }
    )
    oban = app.extensions["oban"].get(app)
    schema.install(oban.conninfo)

    with app.app_context():
        db.create_all()

    yield app

    oban.stop()

    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def app(application: Flask) -> Iterator[Flask]:
    """The application, in a transaction that is rolled back after the test."""
    with testing.rolled_back(db, app=application):
        yield application


@pytest.fixture
def oban(app: Flask) -> Oban:
    """The application's Oban."""
    return app.extensions["oban"].get(app)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A browser, so to speak."""
    client = app.test_client()

    with client.session_transaction() as session:
        session["form_token"] = TOKEN

    return client


@pytest.fixture
def post(client: FlaskClient) -> Callable[..., TestResponse]:
    """``post(path, **fields)``: a form that is sent by the browser."""

    def send(path: str, **fields: Any) -> TestResponse:
        return client.post(path, data={"form_token": TOKEN, **fields})

    return send
