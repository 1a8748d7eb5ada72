"""Flask applications as people write them, on the test's database."""

from __future__ import annotations

from typing import Any

import psycopg
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import URL, MetaData, event

from oban_sync.integrations.flask import FlaskOban


def uri_of(dsn: str, driver: str = "postgresql+psycopg") -> URL:
    """A libpq string as SQLAlchemy writes it."""
    parts: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(dsn)
    host = str(parts.get("host", ""))
    # SQLAlchemy takes a folder of sockets in the query only.
    query = {"host": host} if host.startswith("/") else {}

    return URL.create(
        driver,
        username=parts.get("user"),
        password=parts.get("password"),
        host=None if query else host,
        port=int(parts["port"]) if "port" in parts else None,
        database=parts.get("dbname"),
        query=query,
    )


class Site:
    """An application with a table of users.

    Attributes:
        app: The application.
        db: Its Flask-SQLAlchemy.
        oban: Its FlaskOban.
        User: Its model.
    """

    def __init__(
        self, dsn: str, prefix: str, *, driver: str = "postgresql+psycopg", **options: Any
    ) -> None:
        self.app = Flask("site")
        self.app.config["SQLALCHEMY_DATABASE_URI"] = uri_of(dsn, driver)
        self.app.config["OBAN_PREFIX"] = prefix
        self.db = db = SQLAlchemy(metadata=MetaData(schema=prefix))
        self.db.init_app(self.app)
        self.oban = FlaskOban()

        class User(db.Model):
            __tablename__ = "users"

            id = db.Column(db.Integer, primary_key=True)
            name = db.Column(db.Text)

        self.User = User

        if options.pop("session", False):
            options["session"] = db.session

        self.oban.init_app(self.app, **{"stager": {"interval": 0.2}, **options})
        self.taken = 0

        with self.app.app_context():
            db.create_all()
            event.listen(db.engine, "checkout", self._count)
            event.listen(db.engine, "checkin", self._count_back)

    def names(self) -> list[str]:
        """The names of all users that are committed."""
        with self.app.app_context():
            return list(self.db.session.scalars(self.db.select(self.User.name).order_by("name")))

    def close(self) -> None:
        """Stop its Oban, and close its connections."""
        self.oban.get(self.app).stop(grace=1.0)

        with self.app.app_context():
            self.db.engine.dispose()

    def _count(self, *_: object) -> None:
        self.taken += 1

    def _count_back(self, *_: object) -> None:
        self.taken -= 1
