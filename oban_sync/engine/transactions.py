"""Transactions of the application, begun and committed for it, on connections of any kind.

The application works by what it is given, and we write into the same transaction. So it must not
commit by itself; what keeps it from that depends on the kind. No kind keeps it from the statement,
or from the driver's connection below, so in the end it is looked whether it is the same transaction
still.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg_pool import PoolTimeout

from oban_sync.core.errors import ConfigError, DatabaseUnavailableError, JobError, shown
from oban_sync.engine import callers
from oban_sync.engine.session import reason

log = logging.getLogger("oban_sync.engine")

#: PostgreSQL takes nothing more in a transaction in which a statement failed.
_FAILED = "25P02"

#: Seconds that another thread of the job's may take for what it does on the connection.
_PATIENCE = 1.0

_ADVICE = (
    "a transactional worker does not commit: what it did is committed together with its outcome, "
    "when it returns"
)

_UNREAD = "a stream() was not read to its end, and is kept somewhere: close it, or read it all"

_SAVEPOINT = (
    "a part that may fail goes into a savepoint: conn.transaction(), or session.begin_nested()"
)


def _nothing() -> None:
    """Nothing is to be done."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A transaction that is open.

    Attributes:
        given: What the application works by.
        finish: Sends what is pending, and sees that it is the same transaction still.
    """

    given: Any
    finish: Callable[[], None] = _nothing


@contextmanager
def begun_by(factory: Callable[[], Any]) -> Iterator[Begun]:
    """A transaction by a function of the application, which ends with the block.

    Args:
        factory: Gives a Session, or a context manager of a Session or connection; or it is a
            scoped_session, whose session is another one for the length of the block.

    Raises:
        ConfigError: What it gave is none of these, or commits every statement by itself.
    """
    with ExitStack() as stack:
        if _is_scoped(factory):
            value = stack.enter_context(_fresh_in(factory))
        else:
            given = factory()

            if not hasattr(type(given), "__enter__"):
                raise _refused(f"it gave {shown(given)}, which is no context manager")

            value = stack.enter_context(given)

        yield stack.enter_context(begun_on(value))


@contextmanager
def begun_on(conn: Any) -> Iterator[Begun]:
    """A transaction on a Session or connection, which ends with the block.

    Of a psycopg connection that is in a transaction already, whoever began that commits it.

    Raises:
        ConfigError: It is neither, or commits every statement by itself.
    """
    kind: Callable[[Any], AbstractContextManager[Begun]]

    if isinstance(conn, psycopg.Connection):
        kind = _on_psycopg
    elif callers.is_session(conn):
        kind = _on_session
    elif callers.is_sqlalchemy_connection(conn):
        kind = _on_sqlalchemy_connection
    elif callable(getattr(conn, "ensure_connection", None)):
        kind = _on_django
    else:
        try:
            callers.check(conn)
        except ConfigError as error:
            raise _refused(f"it gave no connection: {error.problem}") from None

        kind = _on_dbapi

    with kind(conn) as begun, _watched(begun) as watched:
        yield watched


@contextmanager
def begun_within(session: Any) -> Iterator[Begun]:
    """A savepoint in the transaction of a Session, which stays open after the block."""
    if _is_scoped(session):
        session = session()

    savepoint = session.begin_nested()

    def finish() -> None:
        if not savepoint.is_active:
            raise _ended()

        session.flush()

    try:
        with (
            _without_commit(session, session.connection()),
            _watched(Begun(session, finish)) as watched,
        ):
            yield watched

        savepoint.commit()
    except BaseException:
        if savepoint.is_active:
            _rolled_back(savepoint)

        raise


def lacks_connection(error: BaseException) -> bool:
    """Whether an error says that a pool had no connection to give in time."""
    if isinstance(error, DatabaseUnavailableError):
        return any(isinstance(item, PoolTimeout) for item in _causes(error))

    kind = type(error)

    return isinstance(error, PoolTimeout) or (
        kind.__name__ == "TimeoutError" and kind.__module__.startswith("sqlalchemy.")
    )


def explain(error: BaseException) -> None:
    """Say with an error why PostgreSQL takes nothing more in a transaction, if that is it."""
    cause = getattr(error, "orig", None) or error
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)

    if state == _FAILED:
        error.add_note(f"A statement of the job failed before, and the job went on; {_SAVEPOINT}.")


@contextmanager
def _watched(begun: Begun) -> Iterator[Begun]:
    """Let what was begun finish only where it is the same transaction still, and come to its end.

    Work that was committed by hand stays; but what is missing of it must not be taken for done.
    """
    conn = begun.given
    driver = callers.driver_connection(conn)
    # In this mode nothing but a statement begins one, so having none tells, and asking is saved.
    tells = isinstance(driver, psycopg.Connection) and driver.autocommit
    start = None if tells else _start_of(conn)

    def finish() -> None:
        if not _is_free(driver):
            _close(driver)

            raise JobError(_UNREAD)

        begun.finish()

        if tells:
            ended = driver.pgconn.transaction_status == TransactionStatus.IDLE
        else:
            ended = _start_of(conn) != start

        if ended:
            raise _ended()

    try:
        yield Begun(conn, finish)
    except BaseException as error:
        _free(driver, error)

        raise


def _start_of(conn: Any) -> Any:
    # It reads no table, so the schema is of no account.
    return callers.run_on(conn, "transaction_start", "public")


def _is_free(driver: Any) -> bool:
    """Whether a driver's connection can be used: a stream() keeps its own to its end."""
    if not isinstance(driver, psycopg.Connection):
        return True

    if free := driver.lock.acquire(timeout=_PATIENCE):
        driver.lock.release()

    return free


def _free(driver: Any, error: BaseException) -> None:
    """See that a connection can be rolled back after an error, without a wait that has no end."""
    if _is_free(driver):
        return

    # What the job read from is a variable of a function that the error came through.
    for item in _all_of(error):
        traceback.clear_frames(item.__traceback__)

    if not _is_free(driver):
        _close(driver)
        error.add_note(f"And its connection was closed: {_UNREAD}.")


def _close(driver: psycopg.Connection[Any]) -> None:
    # Its close() may mean to give it back to a pool.
    driver.pgconn.finish()
    # Whoever has the old one keeps it for good.
    driver.lock = Lock()


def _all_of(error: BaseException) -> list[BaseException]:
    """An error with all those that led to it."""
    found: list[BaseException] = []
    ahead: list[BaseException | None] = [error]

    while ahead:
        item = ahead.pop()

        if item is not None and not any(item is other for other in found):
            found.append(item)
            ahead += [item.__cause__, item.__context__]

    return found


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error

    while found is not None:
        yield found
        found = found.__cause__


def _refused(problem: str) -> ConfigError:
    return ConfigError(
        "transactional",
        f"{problem}; give True, a sessionmaker, a scoped_session, or a function that gives a "
        "context manager of a psycopg, SQLAlchemy or DB-API connection, as engine.begin",
    )


def _ended() -> JobError:
    return JobError(
        "the job ended the transaction that it was given, and what it committed stays; "
        f"{_ADVICE}. {_SAVEPOINT}"
    )


def _rolled_back(subject: Any) -> None:
    try:
        subject.rollback()
    except Exception as trouble:
        # A connection that is gone took its transaction along; and what went wrong first counts.
        log.debug("a rollback failed: %s", reason(trouble))


@contextmanager
def _without_commit(*subjects: Any) -> Iterator[None]:
    """Let the `commit` of objects raise, whoever calls it."""

    def commit(*_: object, **__: object) -> None:
        raise JobError(f"commit() was called; {_ADVICE}. {_SAVEPOINT}")

    # A run within another one's finds that of the outer one.
    before = [vars(subject).get("commit") for subject in subjects]

    for subject in subjects:
        subject.commit = commit

    try:
        yield
    finally:
        for subject, kept in zip(subjects, before, strict=True):
            if kept is None:
                del subject.commit
            else:
                subject.commit = kept


# Of psycopg


@contextmanager
def _on_psycopg(conn: psycopg.Connection[Any]) -> Iterator[Begun]:
    # Within transaction(), psycopg itself refuses its commit().
    if conn.pgconn.transaction_status == TransactionStatus.IDLE:
        with conn.transaction():
            yield Begun(conn)
    else:
        yield Begun(conn)


# Of SQLAlchemy


def _is_scoped(factory: Any) -> bool:
    return hasattr(factory, "registry") and hasattr(factory, "session_factory")


@contextmanager
def _fresh_in(scoped: Any) -> Iterator[Any]:
    """A new session as the one of this thread, or whatever the scope is.

    The one that may be there holds what is none of the job's: work of the caller, where the job is
    run inline, or what another job has left.
    """
    registry = scoped.registry
    before = registry() if registry.has() else None
    session = scoped.session_factory()
    registry.set(session)

    try:
        yield session
    finally:
        if before is None:
            registry.clear()
        else:
            registry.set(before)

        session.close()


@contextmanager
def _on_session(session: Any) -> Iterator[Begun]:
    if getattr(session, "twophase", False):
        raise _refused("its session commits in two phases")

    root = session.get_transaction() or session.begin()

    def finish() -> None:
        if session.get_transaction() is not root:
            raise _ended()

        session.flush()

    try:
        conn = session.connection()
        _refuse_autocommit(conn)

        with _without_commit(session, conn):
            yield Begun(session, finish)

        session.commit()
    except BaseException:
        _rolled_back(session)

        raise


@contextmanager
def _on_sqlalchemy_connection(conn: Any) -> Iterator[Begun]:
    _refuse_autocommit(conn)
    root = conn.get_transaction() or conn.begin()

    def finish() -> None:
        if conn.get_transaction() is not root or not root.is_active:
            raise _ended()

    try:
        with _without_commit(conn):
            yield Begun(conn, finish)

        root.commit()
    except BaseException:
        if root.is_active:
            _rolled_back(root)

        raise


def _refuse_autocommit(conn: Any) -> None:
    if getattr(conn.connection.driver_connection, "autocommit", False):
        raise _refused("its engine has the isolation level AUTOCOMMIT")


# Of others


@contextmanager
def _on_django(conn: Any) -> Iterator[Begun]:
    if not conn.in_atomic_block:
        raise _refused("Django's connection is in no transaction; open transaction.atomic() in it")

    yield Begun(conn)


@contextmanager
def _on_dbapi(conn: Any) -> Iterator[Begun]:
    if getattr(conn, "autocommit", False):
        raise _refused("its connection is in autocommit mode")

    try:
        yield Begun(conn)

        conn.commit()
    except BaseException:
        _rolled_back(conn)

        raise
