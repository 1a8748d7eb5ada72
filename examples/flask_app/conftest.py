"""A database for each test, and the application on it."""

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
from psycopg.rows import scalar_row

from oban_sync import Oban
from oban_sync.embedded import Server

# This directory is a project of its own: what is in it is imported as `signup`.
sys.path.insert(0, str(Path(__file__).parent))

from signup import create_app
from signup.models import db


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The server that OBAN_SYNC_TEST_DSN names, or a private one."""
    if given := os.environ.get("OBAN_SYNC_TEST_DSN"):
        yield given
    else:
        with (
            tempfile.TemporaryDirectory(prefix="flask-app-tests-") as folder,
            Server(folder, settings={"fsync": "off"}) as url,
        ):
            yield url


@pytest.fixture
def database_url(server: str) -> Iterator[str]:
    """A new database, dropped after the test."""
    name = f"flask_app_{uuid.uuid4().hex[:12]}"
    # A URL whatever the server was given as, for SQLAlchemy reads nothing else.
    parts = conninfo_to_dict(server, dbname=name)

    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

        try:
            yield f"postgresql:///?{urlencode(parts, quote_via=quote)}"
        finally:
            conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def app(database_url: str) -> Iterator[Flask]:
    """The application, with empty tables."""
    app = create_app({"DATABASE_URL": database_url, "TESTING": True})
    app.test_cli_runner().invoke(args=["init-db"], catch_exceptions=False)

    yield app

    app.extensions["oban"].stop()

    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A browser, so to speak."""
    return app.test_client()


@pytest.fixture
def oban(app: Flask) -> Oban:
    """The application's Oban, which runs nothing by itself."""
    return app.extensions["oban"]


@pytest.fixture
def committed(app: Flask, database_url: str) -> Iterator[Callable[[str], list[Any]]]:
    """Runs a query from outside of the application, and gives the values of its one column."""
    with psycopg.connect(database_url, autocommit=True, row_factory=scalar_row) as conn:
        yield lambda query: conn.execute(query).fetchall()
