"""Connections of every kind, in a transaction that is rolled back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import psycopg2
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from tests.support.peer_callers import django_configured
from tests.testing.workers import RAN


def url(dsn: str, driver: str) -> str:
    """The test's database for SQLAlchemy."""
    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    where = "&".join(f"{key}={value}" for key, value in parts.items() if key in ("host", "port"))

    return (
        f"postgresql+{driver}://{parts.get('user', '')}:{parts.get('password', '')}@/"
        f"{parts['dbname']}?{where}"
    )


class Kinds:
    """Opens connections by the names of their kinds."""

    def __init__(self, dsn: str, prefix: str, stack: ExitStack) -> None:
        self._dsn = dsn
        self._path = f'SET search_path = "{prefix}"'
        self._stack = stack

    def open(self, kind: str) -> Any:
        """One of a kind, with the test's schema as its path."""
        name, _, driver = kind.partition("+")

        return getattr(self, f"_{name}")(driver)

    def _psycopg(self, mode: str) -> Any:
        conn = self._stack.enter_context(
            psycopg.connect(self._dsn, autocommit=mode == "autocommit")
        )

        if mode == "autocommit":
            self._stack.enter_context(conn.transaction(force_rollback=True))
        else:
            self._stack.callback(conn.rollback)

        conn.execute(self._path)

        return conn

    def _psycopg2(self, _: str) -> Any:
        conn = psycopg2.connect(self._dsn)
        self._stack.callback(conn.close)

        with conn.cursor() as cursor:
            cursor.execute(self._path)

        return conn

    def _django(self, _: str) -> Any:
        conn = self._stack.enter_context(django_configured(self._dsn))
        from django.db import transaction

        self._stack.enter_context(transaction.atomic())
        self._stack.callback(transaction.set_rollback, True)

        with conn.cursor() as cursor:
            cursor.execute(self._path)

        return conn

    def _connection(self, driver: str) -> Any:
        engine = create_engine(url(self._dsn, driver), poolclass=NullPool)
        conn = self._stack.enter_context(engine.connect())
        transaction = conn.begin()
        self._stack.callback(transaction.rollback)
        conn.exec_driver_sql(self._path)

        return conn

    def _session(self, driver: str) -> Any:
        conn = self._connection(driver)

        return self._stack.enter_context(Session(conn, join_transaction_mode="create_savepoint"))

    def _scoped(self, driver: str) -> Any:
        conn = self._connection(driver)
        scoped = scoped_session(sessionmaker(conn, join_transaction_mode="create_savepoint"))
        self._stack.callback(scoped.remove)

        return scoped


#: Every kind that a test may bind an Oban to.
KINDS = [
    "psycopg",
    "psycopg+autocommit",
    "psycopg2",
    "connection+psycopg",
    "connection+psycopg2",
    "session+psycopg",
    "session+psycopg2",
    "scoped+psycopg",
    "scoped+psycopg2",
    "django",
]

#: Those that have a psycopg 3 connection to give.
NATIVE = [kind for kind in KINDS if "psycopg2" not in kind]


@pytest.fixture
def kinds(dsn: str, prefix: str) -> Iterator[Kinds]:
    """Opens connections; all are rolled back and closed."""
    with ExitStack() as stack:
        yield Kinds(dsn, prefix, stack)


@pytest.fixture
def notes(conn: Any) -> None:
    """A table of the application's."""
    conn.execute("CREATE TABLE notes (text text)")


@pytest.fixture(autouse=True)
def _forget() -> None:
    RAN.clear()
