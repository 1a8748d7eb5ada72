"""The Gazette: a newsletter with subscribers, pictures and reports, whose work is done by jobs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click
import sqlalchemy as sa
from flask import Flask

from gazette import editors, jobs, pages, security
from gazette.extensions import db, oban


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the application, for the processes that serve it and for those that run its jobs.

    Every key may come from the environment: SECRET_KEY as FLASK_SECRET_KEY, and so on.

    Args:
        config: Goes before the environment.
    """
    app = Flask(__name__)
    app.config.from_mapping(
        # Seconds that our stand-in for a mail server takes for a mail.
        MAIL_SECONDS=0.05,
        # Who may write newsletters; they log in with any name. "" lets everybody in.
        EDITOR_PASSWORD=None,
        MAX_CONTENT_LENGTH=2_000_000,
        SESSION_COOKIE_SAMESITE="Lax",
        OBAN_QUEUES={
            "default": 2,
            "mailers": 10,
            # Resizing computes, which threads of one Python do in turn.
            "pictures": {"limit": 2, "executor": "process"},
        },
        # Jobs run in processes of their own; FLASK_OBAN_AUTOSTART=true runs them beside requests.
        OBAN_AUTOSTART=False,
    )
    app.config.from_prefixed_env()
    app.config.update(config or {})

    if "SQLALCHEMY_DATABASE_URI" not in app.config:
        app.config["SQLALCHEMY_DATABASE_URI"] = database_url()

    if not app.secret_key:
        raise RuntimeError("set FLASK_SECRET_KEY to something long and random, or use run.py")

    db.init_app(app)
    oban.init_app(app)
    security.init_app(app)
    app.register_blueprint(pages.pages)
    app.register_blueprint(editors.editors)
    app.cli.add_command(init_db)
    app.cli.add_command(sample_data)

    return app


def database_url() -> sa.URL:
    """DATABASE_URL as SQLAlchemy wants it: with the name of the driver."""
    if not (given := os.environ.get("DATABASE_URL")):
        raise RuntimeError("set DATABASE_URL, or start with `python run.py`")

    # Heroku still says postgres://, which SQLAlchemy has stopped to take.
    return sa.make_url(given.replace("postgres://", "postgresql://", 1)).set(
        drivername="postgresql+psycopg"
    )


@click.command("init-db", help="Create the application's tables. `flask oban install` does ours.")
def init_db() -> None:
    db.create_all()


@click.command("sample-data", help="Subscribe a thousand readers.")
@click.option("--count", default=1_000, help="How many.", show_default=True)
def sample_data(count: int) -> None:
    added = jobs.subscribe_samples(count)
    click.echo(f"{added} readers have subscribed")
