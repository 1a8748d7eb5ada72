"""Tests that happen inside of one transaction, which is rolled back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from oban_sync.core import clock, instances
from oban_sync.core.errors import ConfigError, shown
from oban_sync.engine import callers, savepoints
from oban_sync.oban import Oban

_current: ContextVar[Oban | None] = ContextVar("oban_sync_tested", default=None)


def oban_of(given: Any = None) -> Oban:
    """The Oban that is meant: the one given, or of a FlaskOban; the bound one; the one of the name.

    Args:
        given: An Oban, a FlaskOban, the name of one, or None.

    Raises:
        ConfigError: It is none of these.
        NotRunningError: There is none of that name.
    """
    if given is None and (current := _current.get()) is not None:
        return current

    if given is None or isinstance(given, str):
        given = instances.get("Oban" if given is None else given)

    if not isinstance(given, Oban) and callable(getattr(given, "get", None)):
        given = given.get()

    if not isinstance(given, Oban):
        raise ConfigError("oban", f"{shown(given)} is not an Oban; give one, or its name")

    return given


@contextmanager
def bound(oban: Any, conn: Any) -> Iterator[Oban]:
    """Let all that an Oban does on this thread go through one connection, in its transaction.

    Enqueueing, looking, cancelling, draining: nothing is committed, so rolling the connection back
    takes back all of it. Jobs that are drained run in the same transaction, each in a savepoint: an
    SQL error in one of them does not end the test. `Oban.connection` and `Oban.transaction` give
    the same connection, or the psycopg connection below it. Other threads do not take part.

    The time that statements use is that of this process, so that libraries that move Python's clock
    move that of the jobs.

    Args:
        oban: The Oban, a FlaskOban, or a name.
        conn: A psycopg 3 or psycopg2 connection, a SQLAlchemy Connection, Session or
            scoped_session, or a Django connection, in a transaction. Sessions of the code under
            test need ``join_transaction_mode="create_savepoint"``; see `rolled_back`.

    Yields:
        The Oban.

    Raises:
        ConfigError: It is no connection, or is in no transaction and would commit every statement,
            or in one that has failed.
        DatabaseUnavailableError: PostgreSQL could not be reached.

    Example:
        >>> with psycopg.connect(dsn) as conn, conn.transaction(force_rollback=True):
        ...     with testing.bound(oban, conn):
        ...         sign_up("ann@example.com")
    """
    oban = oban_of(oban)
    callers.check(conn)

    if savepoints.is_failed(conn):
        raise ConfigError(
            "conn",
            f"a statement has failed in the transaction of {shown(conn)}, and PostgreSQL runs none "
            "in it until it is rolled back",
        )

    if not savepoints.begun(conn):
        raise ConfigError(
            "conn",
            f"{shown(conn)} is in autocommit mode and in no transaction, so what a test does would "
            "stay; open one, as with conn.transaction(force_rollback=True)",
        )

    token = _current.set(oban)

    try:
        with clock.virtual(), callers.bound(oban, conn, wholly=True):
            yield oban
    finally:
        _current.reset(token)
