"""Savepoints on connections of any kind, for runs that must not break the transaction around them.

Others work in the block, and may end our savepoint meanwhile, by committing one of theirs that is
around it, as a Session does that began before the block; then there is nothing left to go back to,
and nothing of theirs is undone. They may also leave one of theirs open that is within ours, which
would be gone with ours; then ours stays until the transaction ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg.pq import TransactionStatus

from oban_sync.engine import callers
from oban_sync.engine.statements import filled, statement

log = logging.getLogger("oban_sync.engine")


@dataclass(frozen=True, slots=True)
class _Point:
    """Where a block began.

    Attributes:
        undo: Goes back to it.
        forget: Ends the savepoint, if that harms nobody. Else they pile up, and PostgreSQL takes
            the longer for every row the deeper it is in them.
    """

    undo: Callable[[], object]
    forget: Callable[[], object]


_SET, _ROLLBACK, _RELEASE = "savepoint_set", "savepoint_rollback", "savepoint_release"
_PROBE = "transaction_probe"

#: A name for each: that of an outer one must not find an inner one that was never released.
_numbers = count(1)

#: By connection of SQLAlchemy: the sessions with savepoints of their own in its transaction.
_sessions: WeakKeyDictionary[Any, list[Any]] = WeakKeyDictionary()


def sessions_on(conn: Any) -> list[Any]:
    """The sessions that have joined the transaction of a SQLAlchemy connection, outermost first.

    Who lets them join keeps it.
    """
    return _sessions.setdefault(conn, [])


def end_sessions(conn: Any, *, since: int) -> None:
    """Roll back sessions that have joined a transaction, but for so many of the outermost.

    They have to know: a savepoint around theirs is about to be rolled back.
    """
    for session in reversed(sessions_on(conn)[since:]):
        try:
            session.rollback()
        except Exception as error:
            # It fails where the transaction is lost, and then there is nothing left of it.
            log.debug("a session could not be rolled back: %s", error)


@contextmanager
def apart(conn: Any, *, undo: bool = False) -> Iterator[None]:
    """Run a block so that the transaction is of use after it, whatever the block did to it.

    What the block did is undone only where the transaction has failed, as it has after an error of
    PostgreSQL that nobody rolled back.

    Args:
        conn: See `callers.run_on`. Where it is in no transaction, nothing is done.
        undo: Undo what the block did also where it raises.
    """
    point = _set(conn)

    try:
        yield
    except BaseException:
        _end(point, conn, undo=undo)

        raise

    _end(point, conn)


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


def _end(point: _Point | None, conn: Any, *, undo: bool = False) -> None:
    if point is None:
        return

    if undo or is_failed(conn):
        _go(point, conn)

    # Nor is it of use any more once it was gone back to.
    point.forget()


def _go(point: _Point, conn: Any) -> None:
    try:
        point.undo()
    except Exception as error:
        # It was ended by a commit inside the block, and what failed since is not ours to undo.
        log.debug("the savepoint before a run is gone: %s", error)

    if callers.is_session(conn) and is_failed(conn):
        _own(conn).rollback()


def _set(conn: Any) -> _Point | None:
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

    return None if _is_free(conn) else _plain(conn)


def _plain(conn: Any) -> _Point:
    name = f"oban_sync_{next(_numbers)}"
    around = _nested_on(conn)
    sessions = len(sessions_on(conn)) if callers.is_sqlalchemy_connection(conn) else 0
    _tell(conn, _SET, name)

    def undo() -> None:
        if callers.is_sqlalchemy_connection(conn):
            end_sessions(conn, since=sessions)

        _tell(conn, _ROLLBACK, name)

    def forget() -> None:
        if _nested_on(conn) is not around or not _is_whole(conn):
            return

        guard = f"oban_sync_{next(_numbers)}"
        _tell(conn, _SET, guard)

        try:
            _tell(conn, _RELEASE, name)
        except Exception as error:
            log.debug("the savepoint of a run is gone: %s", error)
            _tell(conn, _ROLLBACK, guard)
            _tell(conn, _RELEASE, guard)

    return _Point(undo, forget)


def _nested_on(conn: Any) -> Any:
    """The innermost savepoint that SQLAlchemy knows of, on a connection of its."""
    return conn.get_nested_transaction() if callers.is_sqlalchemy_connection(conn) else None


def _is_whole(conn: Any) -> bool:
    """Whether the connection is in a transaction, as it was before, that takes statements."""
    status = _status(conn)

    return status is None or status == TransactionStatus.INTRANS


def _tell(conn: Any, what: str, name: str) -> None:
    # They read no table, so the schema is of no account.
    callers.ask(conn, filled(statement(what, "public"), {"name": name}))


def _nested(session: Any) -> _Point:
    """By the Session's own means: it has to know, because a flush that fails goes back to it."""
    nested = session.begin_nested()

    def undo() -> None:
        if nested.is_active or session.get_nested_transaction() is nested:
            nested.rollback()

    def forget() -> None:
        if nested.is_active and session.get_nested_transaction() is nested:
            nested.commit()

    return _Point(undo, forget)


def _of_django(conn: Any) -> _Point | None:
    if (name := conn.savepoint()) is None:
        return None

    def undo() -> None:
        # Else it refuses any statement after an error, this one too.
        conn.set_rollback(False)
        conn.savepoint_rollback(name)

    def forget() -> None:
        if conn.in_atomic_block and not conn.needs_rollback and _is_whole(conn):
            conn.savepoint_commit(name)

    return _Point(undo, forget)


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
