"""A Db on one connection of the application's, for tests that roll back what they did.

Every statement goes through that connection, inside of the transaction that it is in, and nothing
is committed. One that fails is undone by itself, as on a connection of ours, so that the
transaction stays of use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg

from oban_sync.core import clock
from oban_sync.core.errors import ConfigError, shown
from oban_sync.engine import callers, cancelling, savepoints
from oban_sync.engine.session import Db, Row, Tx, translated
from oban_sync.engine.statements import positional


class BoundDb(Db):
    """The Db of an Oban that is bound to a connection.

    Args:
        conn: See `callers.run_on`; in a transaction.
        schema: The schema of the tables.
    """

    def __init__(self, conn: Any, schema: str) -> None:
        self._given = conn
        self.schema = schema

    @contextmanager
    def session(self) -> Iterator[Tx]:
        """The connection, for statements of ours that fail or succeed together."""
        with self._within() as tx:
            yield tx

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        """As `session`: there is a savepoint around it."""
        with self._within() as tx:
            yield tx

    def looking(self) -> AbstractContextManager[Tx]:
        """As `session`, with nothing of it left."""
        return self._within(undo=True)

    @contextmanager
    def borrowed(self) -> Iterator[psycopg.Connection[Any]]:
        """The psycopg connection itself, or the one below.

        Raises:
            ConfigError: There is another driver below.
        """
        driver = callers.driver_connection(self._given)

        if not isinstance(driver, psycopg.Connection):
            raise ConfigError(
                "conn",
                f"Oban is bound to {shown(self._given)}, which has no psycopg 3 connection to give;"
                " let tests go through one, as with an engine of postgresql+psycopg://",
            )

        yield driver

    def apart(self) -> AbstractContextManager[None]:
        """For the run of a job: when it leaves the transaction failed, what it did is undone."""
        return savepoints.apart(self._given)

    def timed_here(self) -> Db:
        """The same: whoever binds it decides about the time."""
        return self

    def impatient(self, seconds: float) -> Db:  # noqa: ARG002 - there is nothing to wait for
        """The same: the connection is there."""
        return self

    @contextmanager
    def _within(self, *, undo: bool = False) -> Iterator[Tx]:
        given = self._given
        driver = callers.driver_connection(given)

        with translated(self.schema):
            if isinstance(driver, psycopg.Connection):
                with driver.transaction(force_rollback=undo):
                    yield Tx(driver, self.schema)
            else:
                # What a Session has not flushed yet is nobody's business here.
                conn = given.connection() if callers.is_session(given) else given

                with savepoints.within(conn, undo=undo):
                    yield _ForeignTx(conn, self.schema)


@contextmanager
def tx_on(conn: Any, schema: str) -> Iterator[Tx]:
    """The library's statements on a connection of the caller's, in whatever transaction it is in.

    Nothing is committed, and nothing undone when one of them fails: that is the caller's to do.

    Args:
        conn: See `callers.run_on`.
        schema: The schema of the tables.

    Raises:
        ConfigError: It is no connection, or an asynchronous one.
    """
    callers.check(conn)
    own = conn.connection if isinstance(conn, psycopg.Cursor) else conn

    if not isinstance(own, psycopg.Connection):
        yield _ForeignTx(own, schema)
        return

    with translated(schema), cancelling.known(own):
        yield Tx(own, schema)


class _ForeignTx(Tx):
    """The library's statements on a connection of another driver."""

    __slots__ = ()

    conn: Any

    def rows(self, shape: type[Row], name: str, /, **params: object) -> list[Row]:
        reply = self._ask(name, params)

        return [shape(**dict(zip(reply.names, row, strict=True))) for row in reply.rows]

    def tuples(self, name: str, /, **params: object) -> list[tuple[Any, ...]]:
        return self._ask(name, params).rows

    def unprepared(self, name: str, /, **params: object) -> list[tuple[Any, ...]]:
        return self._ask(name, params).rows

    def wired(self, name: str, /, **params: object) -> list[tuple[Any, ...]]:
        return [tuple(map(_wired, row)) for row in self._ask(name, params).rows]

    def run(self, name: str, /, **params: object) -> int:
        return self._ask(name, params).changed

    def _ask(self, name: str, params: dict[str, Any]) -> callers.Reply:
        text, order = positional(name, self.schema)

        return callers.ask(self.conn, text, [params[key] for key in order], schema=self.schema)


def _wired(value: Any) -> Any:
    return clock.to_micros(value.replace(tzinfo=UTC)) if isinstance(value, datetime) else value
