"""A Db with one connection of its own, which nobody else can be short of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from oban_sync.engine.connections import check_quickly
from oban_sync.engine.session import Db, Tx, translated


class ReservedDb(Db):
    """Keeps one connection, for the few statements that a node's life depends on.

    For one thread. The connection is made when first used, and made anew after anything failed.

    Args:
        connect: Makes a connection in autocommit mode.
        schema: The schema of the tables.
    """

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], schema: str) -> None:
        self._connect = connect
        self._conn: psycopg.Connection[Any] | None = None
        self.schema = schema

    @contextmanager
    def session(self) -> Iterator[Tx]:
        """As `Db.session`, on the connection of its own."""
        try:
            with translated(self.schema):
                yield Tx(self._connected(), self.schema)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; the next session makes another."""
        conn, self._conn = self._conn, None

        if conn is not None:
            conn.close()

    def give_back(self) -> None:
        """It is nobody else's."""

    def _connected(self) -> psycopg.Connection[Any]:
        if self._conn is not None:
            try:
                check_quickly(self._conn)
            except psycopg.Error:
                self.close()

        if self._conn is None:
            self._conn = self._connect()

        return self._conn
