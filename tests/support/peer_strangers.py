"""What applications pass for a connection, though it is none, or none to PostgreSQL."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import psycopg
import psycopg_pool
import sqlalchemy
from sqlalchemy.orm import Session, sessionmaker


class AsyncSession:
    """As SQLAlchemy's, which needs greenlet: its methods give coroutines."""

    async def connection(self) -> None: ...

    async def flush(self) -> None: ...


class OurSession(AsyncSession):
    """An application's subclass, whose name does not tell."""


async def _async_connection(dsn: str) -> psycopg.AsyncConnection[Any]:
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
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
    "an async session": lambda _dsn, _: AsyncSession(),
    "a subclass of an async session": lambda _dsn, _: OurSession(),
    "a connection to SQLite": lambda _, until: _sqlite(until),
    "a cursor to SQLite": lambda _, until: _sqlite(until).cursor(),
    "a session to SQLite": lambda _, until: _sqlite_session(until),
}
