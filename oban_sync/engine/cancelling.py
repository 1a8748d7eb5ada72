"""The connections that a run works with, so that what runs on them can be cancelled from outside.

Kept by the thread's context: whatever a job calls may tell of a connection without knowing the job.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from threading import Lock
from typing import Any, Final, Protocol, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from oban_sync.core.errors import ConfigError

log = logging.getLogger("oban_sync.engine")

Conn = TypeVar("Conn")

#: Cancels what runs, and tells whether anything does.
Cancel = Callable[[], bool]

#: Seconds that the request to cancel a statement may take.
CANCEL_PERIOD = 1.0

#: Seconds that a block waits for a request that is on its way, before its connection is let go.
LONGEST_WAIT = 5.0


class Registered:
    """One connection, for as long as its block lasts.

    Attributes:
        cancelled: Whether a statement on it was asked to end.
    """

    __slots__ = ("_cancel", "_gone", "_lock", "cancelled")

    def __init__(self, cancel: Cancel) -> None:
        self._cancel = cancel
        self._lock = Lock()
        self._gone = False
        self.cancelled = False

    def cancel(self) -> bool:
        """Ask what runs on it to end; tell whether anything ran."""
        with self._lock:
            if self._gone or not self._cancel():
                return False

            self.cancelled = True

            return True

    def let_go(self) -> bool:
        """Never cancel on it again, and wait for a request on its way; tell whether that ended."""
        self._gone = True

        if ended := self._lock.acquire(timeout=LONGEST_WAIT):
            self._lock.release()

        return ended


class Shield(Protocol):
    """Keeps exceptions out that other threads raise in this one."""

    def shield(self) -> None:
        """Keep them out from now on."""
        ...

    def unshield(self) -> None:
        """Let them in again; raises one that had to wait."""
        ...


class Connections:
    """The connections of one run; methods may be called from any thread.

    Args:
        shield: Of the run's thread.
    """

    __slots__ = ("_cancelling", "_closed", "_entries", "shield")

    def __init__(self, shield: Shield) -> None:
        self.shield = shield
        self._entries: list[Registered] = []
        self._closed = False
        self._cancelling = 0

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return bool(self._entries)

    @property
    def busy(self) -> bool:
        """Whether requests are on their way."""
        return self._cancelling > 0

    def add(self, entry: Registered) -> None:
        """Take one in."""
        self._entries.append(entry)

    def drop(self, entry: Registered) -> None:
        """Forget one."""
        with suppress(ValueError):
            self._entries.remove(entry)

    def close(self) -> None:
        """Cancel nothing from now on."""
        self._closed = True

    def expect_cancel(self) -> None:
        """Be busy from now on, until `cancel` has returned."""
        self._cancelling += 1

    def cancel(self) -> int:
        """Ask what runs on them to end.

        Takes up to a second for each, when the network is slow, and longer with psycopg2. Raises
        nothing: that a request failed is logged.

        Returns:
            On how many of them something ran.
        """
        cancelled = 0

        try:
            for entry in list(self._entries):
                if self._closed:
                    break

                try:
                    cancelled += entry.cancel()
                except Exception as error:
                    log.warning("a job's statement could not be cancelled: %s", error)
        finally:
            self._cancelling = 0

        return cancelled


#: Those of the run on this thread; None outside of a run whose time is watched.
RUN: Final[ContextVar[Connections | None]] = ContextVar("oban_sync_connections", default=None)


@contextmanager
def shielded() -> Iterator[None]:
    """Let no exception of a job's timeout come into the block: it has to put a connection back.

    What the block waits for in PostgreSQL can be cancelled, where it is `known`.
    """
    run = RUN.get()

    if run is None:
        yield

        return

    run.shield.shield()

    try:
        yield
    finally:
        run.shield.unshield()


@contextmanager
def taken(take: Callable[[], Conn], give_back: Callable[[Conn], None]) -> Iterator[Conn]:
    """Take a connection for a block that may be interrupted, and give it back in any case."""
    run = RUN.get()

    if run is None:
        conn = take()

        try:
            yield conn
        finally:
            give_back(conn)

        return

    run.shield.shield()

    try:
        conn = take()
    except BaseException:
        run.shield.unshield()
        raise

    # From here on the connection is safe: the exception may come once this block is entered.
    try:
        run.shield.unshield()

        yield conn
    finally:
        try:
            run.shield.shield()
        finally:
            # The one exception that came too early for the shield does not come again so soon.
            give_back(conn)

        run.shield.unshield()


@contextmanager
def cancellable(conn: Any) -> Iterator[None]:
    """Let what runs on a connection be cancelled in the block, once the job's time is up.

    For connections that a job has of its own; those of `Oban.connection`, `transaction` and `bind`
    are known. Costs nothing in a job without a timeout, and outside of jobs. A cancelled statement
    raises its driver's error in the job (psycopg: `QueryCanceled`).

    The connection must not change hands inside the block: close it, or end the transaction of a
    Session, after it. At its end a request on its way is waited for, so that it cannot hit whoever
    has the connection next.

    Args:
        conn: A psycopg 3 or psycopg2 connection or cursor, a SQLAlchemy Connection or Session
            (whose transaction begins, unless it has), or a Django connection.

    Raises:
        ConfigError: It is none of these.

    Example:
        >>> with oban_sync.cancellable(session):
        ...     rows = session.execute(report).all()
    """
    found = _cancel_on(conn, passively=RUN.get() is None)

    if found is _unable:
        raise ConfigError(
            "conn",
            f"statements of a {type(conn).__module__}.{type(conn).__qualname__} cannot be "
            "cancelled; give a psycopg or psycopg2 connection, a SQLAlchemy Connection or Session, "
            "or a Django connection",
        )

    with _registered(found):
        yield


@contextmanager
def known(conn: Any, *, ours: bool = False) -> Iterator[None]:
    """As `cancellable`, for a connection that was given for another purpose.

    Raises nothing of its own, sends nothing, and leaves out what cannot be cancelled, as a Session
    whose transaction has not begun.

    Args:
        ours: The connection is of our pool. It is closed if anything was cancelled on it, so that
            a request that comes late finds nobody.
    """
    if RUN.get() is None:
        yield

        return

    entry: Registered | None = None

    try:
        with _registered(_cancel_on(conn, passively=True)) as entry:
            yield
    finally:
        if ours and entry is not None and entry.cancelled:
            conn.close()


@contextmanager
def _registered(cancel: Cancel) -> Iterator[Registered | None]:
    run = RUN.get()

    if run is None or cancel is _unable:
        yield None

        return

    entry = Registered(cancel)
    run.add(entry)

    try:
        yield entry
    finally:
        if not entry.let_go():
            log.warning("a request to cancel a job's statement takes too long to be waited for")

        run.drop(entry)


def _cancel_on(conn: Any, *, passively: bool) -> Cancel:
    """What cancels the statement that runs on a connection; `_unable` where nothing can.

    Looked up by the thread that uses the connection; what it gives is called by another one.
    """
    if _is_session(conn):
        # A scoped_session stands for the session of this thread.
        if not hasattr(conn, "in_transaction"):
            conn = conn()

        if passively and not conn.in_transaction():
            return _nothing

        conn = conn.connection()

    if callable(getattr(conn, "exec_driver_sql", None)) and not hasattr(conn, "connect"):
        if passively and (conn.closed or conn.invalidated):
            return _nothing

        return _cancel_by_driver(
            conn.connection.driver_connection, lambda: not (conn.closed or conn.invalidated)
        )

    if callable(getattr(conn, "ensure_connection", None)):
        if passively and conn.connection is None:
            return _nothing

        conn.ensure_connection()

    # Of a cursor and of Django's wrapper, the driver's connection below.
    if not callable(getattr(conn, "cancel", None)):
        conn = getattr(conn, "connection", None)

    return _cancel_by_driver(conn, lambda: True)


def _is_session(conn: Any) -> bool:
    return callable(getattr(conn, "connection", None)) and callable(getattr(conn, "flush", None))


def _cancel_by_driver(conn: Any, is_ours: Callable[[], bool]) -> Cancel:
    if isinstance(conn, psycopg.Connection):

        def cancel() -> bool:
            if not is_ours() or conn.pgconn.transaction_status != TransactionStatus.ACTIVE:
                return False

            conn.cancel_safe(timeout=CANCEL_PERIOD)

            return True

    elif callable(getattr(conn, "cancel", None)) and callable(
        getattr(conn, "get_transaction_status", None)
    ):

        def cancel() -> bool:
            if not is_ours() or conn.get_transaction_status() != TransactionStatus.ACTIVE:
                return False

            conn.cancel()

            return True

    else:
        return _unable

    return cancel


def _nothing() -> bool:
    return False


def _unable() -> bool:
    return False
