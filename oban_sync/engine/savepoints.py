"""Savepoints on connections of any kind, for runs that must not break the transaction around them.

A savepoint of ours is never released: what a block did is kept by not undoing it. Others may end it
meanwhile, by committing a savepoint of theirs that is around it, as a Session does that began before
the block; then there is nothing left to go back to, and nothing of theirs is undone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from oban_sync.engine import callers
from oban_sync.engine.statements import filled, statement

log = logging.getLogger("oban_sync.engine")

#: Goes back to where a block began.
Undo = Callable[[], object]

#: A name for each: that of an outer one must not find an inner one that was never released.
_numbers = count(1)


@contextmanager
def apart(conn: Any, *, undo: bool = False) -> Iterator[None]:
    """Run a block so that the transaction is of use after it, whatever the block did to it.

    What the block did is undone only where the transaction has failed, as it has after an error of
    PostgreSQL that nobody rolled back.

    Args:
        conn: See `callers.run_on`. Where it is in no transaction, nothing is done.
        undo: Undo what the block did also where it raises.
    """
    back = _set(conn)

    try:
        yield
    except BaseException:
        if back is not None and (undo or is_failed(conn)):
            _go(back, conn)

        raise

    if back is not None and is_failed(conn):
        _go(back, conn)


def is_failed(conn: Any) -> bool:
    """Whether the connection's transaction, if any, runs no statement until it is rolled back."""
    if callers.is_session(conn):
        session = _own(conn)

        if not session.in_transaction():
            return False

        # After a flush that failed it wants to be rolled back itself.
        if not session.is_active:
            return True

    status = _status(conn)

    if status is not None:
        return status == TransactionStatus.INERROR

    try:
        callers.ask(conn, statement("transaction_probe", "public"))
    except Exception:
        return True

    return False


def _go(back: Undo, conn: Any) -> None:
    try:
        back()
    except Exception as error:
        # It was ended by a commit inside the block, and what failed since is not ours to undo.
        log.debug("the savepoint before a run is gone: %s", error)

    if callers.is_session(conn) and is_failed(conn):
        _own(conn).rollback()


def _set(conn: Any) -> Undo | None:
    """Set a savepoint; None where there is no transaction."""
    if callers.is_session(conn):
        session = _own(conn)

        if session.in_transaction():
            return _nested(session)

        # So that the Session, where it did nothing yet, need not begin a transaction for it.
        conn = session.get_bind()

        if not callers.is_sqlalchemy_connection(conn):
            return None

    if callable(getattr(conn, "savepoint_rollback", None)):
        return _of_django(conn)

    # psycopg2 tells nothing of a transaction that has to begin yet, and begins it by itself.
    if _status(conn) == TransactionStatus.IDLE and _commits_at_once(conn):
        return None

    name = f"oban_sync_{next(_numbers)}"
    callers.ask(conn, filled(statement("savepoint_set", "public"), {"name": name}))
    text = filled(statement("savepoint_rollback", "public"), {"name": name})

    return lambda: callers.ask(conn, text)


def _nested(session: Any) -> Undo:
    """By the Session's own means: it has to know, because a flush that fails goes back to it."""
    nested = session.begin_nested()

    def undo() -> None:
        if nested.is_active or session.get_nested_transaction() is nested:
            nested.rollback()

    return undo


def _of_django(conn: Any) -> Undo | None:
    if (name := conn.savepoint()) is None:
        return None

    def undo() -> None:
        # Else it refuses any statement after an error, this one too.
        conn.set_rollback(False)
        conn.savepoint_rollback(name)

    return undo


def _own(conn: Any) -> Any:
    """The Session that a scoped_session stands for at the moment."""
    return conn if hasattr(conn, "in_nested_transaction") else conn()


def _status(conn: Any) -> int | None:
    """The state of the connection's transaction, as libpq has it; None where the driver keeps it."""
    driver = _below(conn)

    if isinstance(driver, psycopg.Connection):
        return driver.pgconn.transaction_status

    tell = getattr(driver, "get_transaction_status", None)

    return tell() if callable(tell) else None


def _commits_at_once(conn: Any) -> bool:
    return bool(getattr(_below(conn), "autocommit", False))


def _below(conn: Any) -> Any:
    return callers.driver_connection(conn)
