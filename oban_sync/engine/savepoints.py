"""Savepoints on connections of any kind, for runs that must not break the transaction around them.

Where others work in the block, our savepoint is never released: what the block did is kept by not
undoing it. They may end it meanwhile, by committing a savepoint of theirs that is around it, as a
Session does that began before the block; then there is nothing left to go back to, and nothing of
theirs is undone.
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

_SET, _ROLLBACK, _RELEASE = "savepoint_set", "savepoint_rollback", "savepoint_release"
_PROBE = "transaction_probe"

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


@contextmanager
def within(conn: Any, *, undo: bool = False) -> Iterator[None]:
    """Run statements of ours in a savepoint, which ends with the block; an error undoes them.

    Nobody else may do anything on the connection meanwhile.

    Args:
        conn: See `callers.run_on`; no Session. Where it is in no transaction, nothing is done.
        undo: Undo them in any case.
    """
    if _is_free(conn):
        yield

        return

    name = f"oban_sync_{next(_numbers)}"
    _tell(conn, _SET, name)

    try:
        yield
    except BaseException:
        _tell(conn, _ROLLBACK, name)
        _tell(conn, _RELEASE, name)

        raise

    if undo:
        _tell(conn, _ROLLBACK, name)

    _tell(conn, _RELEASE, name)


def begun(conn: Any) -> bool:
    """Begin a transaction where the connection does so by itself; tell whether it is in one.

    Raises as `callers.run_on`.
    """
    callers.ask(conn, statement(_PROBE, "public"))
    status = _status(conn)

    if status is not None:
        return status == TransactionStatus.INTRANS

    return bool(getattr(conn, "in_atomic_block", True)) and not _commits_at_once(conn)


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
        callers.ask(conn, statement(_PROBE, "public"))
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

    if callable(getattr(conn, "savepoint_commit", None)):
        return _of_django(conn)

    if _is_free(conn):
        return None

    name = f"oban_sync_{next(_numbers)}"
    _tell(conn, _SET, name)

    return lambda: _tell(conn, _ROLLBACK, name)


def _tell(conn: Any, what: str, name: str) -> None:
    # They read no table, so the schema is of no account.
    callers.ask(conn, filled(statement(what, "public"), {"name": name}))


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
    """The state of the connection's transaction, as libpq has it; None where it cannot be told."""
    driver = _below(conn)

    if isinstance(driver, psycopg.Connection):
        return driver.pgconn.transaction_status

    tell = getattr(driver, "get_transaction_status", None)

    return tell() if callable(tell) else None


def _is_free(conn: Any) -> bool:
    """Whether each statement is a transaction of its own."""
    # psycopg2 tells nothing of a transaction that has to begin yet, and begins it by itself.
    return _status(conn) == TransactionStatus.IDLE and _commits_at_once(conn)


def _commits_at_once(conn: Any) -> bool:
    return bool(getattr(_below(conn), "autocommit", False))


def _below(conn: Any) -> Any:
    return callers.driver_connection(conn)
