"""Sign up, and get a welcome mail: a Flask application whose mails are sent by background jobs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from flask import Flask, current_app

from oban_sync import Oban, schema
from signup.jobs import AppWorker
from signup.models import db
from signup.views import views


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the application, for the web process and for the worker process alike.

    Args:
        config: Flask's, with the database as DATABASE_URL; by default that of the environment.
    """
    app = Flask(__name__)
    app.config.from_mapping({"DATABASE_URL": os.environ.get("DATABASE_URL"), **(config or {})})
    url = app.config["DATABASE_URL"]

    if not url:
        raise RuntimeError("set DATABASE_URL, or start with `python run.py`")

    # SQLAlchemy wants to be told the driver; Oban takes the URL either way.
    app.config["SQLALCHEMY_DATABASE_URI"] = sa.make_url(url).set(drivername="postgresql+psycopg")
    db.init_app(app)

    # No queues: it stores jobs and looks at them. Running them is for `oban-sync start`.
    app.extensions["oban"] = Oban(url)
    AppWorker.app = app

    app.register_blueprint(views)
    app.cli.command("init-db")(create_tables)

    return app


def create_tables() -> None:
    """Create the tables of the application and those of the jobs, where they are missing."""
    db.create_all()

    with current_app.extensions["oban"].connection() as conn:
        schema.install(conn)
