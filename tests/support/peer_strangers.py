"""What applications pass for a connection, though it is none, or none to PostgreSQL."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import psycopg
import psycopg2
import psycopg2.extras
import psycopg_pool
import sqlalchemy
from sqlalchemy.orm import Session, sessionmaker


class AsyncSession:
    """In place of SQLAlchemy's, which needs greenlet; a call would make a coroutine in vain."""

    def connection(self) -> None:
        raise AssertionError("connection() was called")

    def flush(self) -> None:
        raise AssertionError("flush() was called")


class OurSession(AsyncSession):
    """An application's subclass, whose name does not tell."""


async def _async_connection(dsn: str) -> psycopg.AsyncConnection[Any]:
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        return conn


def _async_psycopg2(dsn: str, until: ExitStack) -> Any:
    conn = until.enter_context(closing(psycopg2.connect(dsn, async_=1)))
    psycopg2.extras.wait_select(conn)

    return conn


def _sqlite(until: ExitStack) -> sqlite3.Connection:
    return until.enter_context(closing(sqlite3.connect(":memory:")))


def _sqlite_session(until: ExitStack) -> Session:
    engine = sqlalchemy.create_engine("sqlite://")
    until.callback(engine.dispose)

    return until.enter_context(Session(engine))


#: Makers, given a conninfo and a stack for what has to be closed.
STRANGERS: dict[str, Callable[[str, ExitStack], object]] = {
    "a conninfo": lambda dsn, _: dsn,
    "a number": lambda _dsn, _: 7,
    "a pool": lambda dsn, _: psycopg_pool.ConnectionPool(dsn, open=False),
    "a session factory": lambda _dsn, _: sessionmaker(),
    "a session class": lambda _dsn, _: Session,
    "an engine": lambda _dsn, _: sqlalchemy.create_engine("postgresql+psycopg://"),
    "an async connection": lambda dsn, _: asyncio.run(_async_connection(dsn)),
    "an async psycopg2 connection": _async_psycopg2,
    "an async session": lambda _dsn, _: AsyncSession(),
    "a subclass of an async session": lambda _dsn, _: OurSession(),
    "a connection to SQLite": lambda _, until: _sqlite(until),
    "a cursor to SQLite": lambda _, until: _sqlite(until).cursor(),
    "a session to SQLite": lambda _, until: _sqlite_session(until),
}
