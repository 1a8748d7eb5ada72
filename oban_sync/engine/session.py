"""Db and Tx: how every other file of this room reaches PostgreSQL, and how errors are translated.

Functions take a Tx, not a pool: steps compose in one transaction, and a connection that belongs to
the application works the same way.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import RowFactory, class_row, tuple_row
from psycopg_pool import ConnectionPool, PoolTimeout

from oban_sync.core import clock
from oban_sync.core.errors import DatabaseUnavailableError, SchemaError
from oban_sync.engine import cancelling, wire
from oban_sync.engine.statements import at_this_moment, numbered, statement

Row = TypeVar("Row")

_MISSING = ("42P01", "42703", "42704", "42883", "3F000")

#: Read-only means that a failover made this server a standby: no use any more.
_LOST = ("08", "57P", "53300", "25006")

#: Classes of errors about what a statement holds: of data, of constraints, of functions called by
#: triggers, of syntax and rights, of limits, and those that triggers raise.
_REFUSED = ("21", "22", "23", "2F", "38", "39", "42", "44", "54", "P0", "XX")

#: Without a code of PostgreSQL's: the names of the drivers' errors, and SQLAlchemy's.
_UNREACHABLE = ("OperationalError", "InterfaceError", "ResourceClosedError")


@dataclass(frozen=True, slots=True)
class Tx:
    """A psycopg connection that knows the library's statements by name."""

    conn: psycopg.Connection[Any]
    schema: str

    def rows(self, shape: type[Row], name: str, /, **params: object) -> list[Row]:
        """Run a statement; its rows as instances of `shape`, by column name, in binary form."""
        with cursor_on(self.conn, class_row(shape), binary=True) as cursor:
            return cursor.execute(statement(name, self.schema), params).fetchall()

    def tuples(self, name: str, /, **params: object) -> list[tuple[Any, ...]]:
        """Run a statement; its rows as tuples, in binary form on the wire."""
        with cursor_on(self.conn, tuple_row, binary=True) as cursor:
            return cursor.execute(statement(name, self.schema), params).fetchall()

    def unprepared(self, name: str, /, **params: object) -> list[tuple[Any, ...]]:
        """As `tuples`, planned anew each time; values as text on the wire."""
        with cursor_on(self.conn, tuple_row) as cursor:
            text = statement(name, self.schema)

            return cursor.execute(text, params, prepare=False).fetchall()

    def wired(self, name: str, /, **params: object) -> list[tuple[Any, ...]]:
        """As `tuples`, with timestamps as microseconds since 2000; arrays are made by `wire`."""
        text, order = numbered(name, self.schema)
        values = [params[key] for key in order]

        if clock.is_virtual():
            text = at_this_moment(text)
        # In a transaction, a statement that was dropped could not be prepared and tried again.
        elif self._is_free() and self.conn.prepare_threshold is not None:
            return wire.run(self.conn, text, values)

        with wire.Cursor(self.conn, row_factory=tuple_row) as cursor:
            return cursor.execute(text, values, binary=True).fetchall()

    def _is_free(self) -> bool:
        idle = self.conn.pgconn.transaction_status == TransactionStatus.IDLE

        return idle and self.conn.autocommit

    def run(self, name: str, /, **params: object) -> int:
        """Run a statement; the number of rows it changed."""
        with cursor_on(self.conn, tuple_row) as cursor:
            return cursor.execute(statement(name, self.schema), params).rowcount

    def channel(self, name: str) -> str:
        """The full name of a NOTIFY channel, as all Oban nodes of this schema know it."""
        return f"{self.schema}.oban_{name}"


def cursor_on(
    conn: psycopg.Connection[Any], rows: RowFactory[Row], *, binary: bool = False
) -> psycopg.Cursor[Row]:
    """A cursor for our statements, whatever kind the application chose for its connection."""
    # Raw cursors know other placeholders; those that bind on the client give no binary results.
    if issubclass(conn.cursor_factory, psycopg.RawCursor):
        return psycopg.Cursor(conn, row_factory=rows)

    binary = binary and not issubclass(conn.cursor_factory, psycopg.ClientCursor)

    return conn.cursor(row_factory=rows, binary=binary)


class Db:
    """A pool and a schema: hands out Tx for one statement or one transaction, and never keeps one.

    Args:
        pool: Connections in autocommit mode, or the application's own.
        schema: The schema of the tables.
        timeout: Seconds to wait for a connection.
        reason: Finds out why there was none, for the error; it may take a while.
    """

    def __init__(
        self,
        pool: ConnectionPool[Any],
        schema: str,
        *,
        timeout: float = 5.0,
        reason: Callable[[], str] | None = None,
    ) -> None:
        self._pool = pool
        self._timeout = timeout
        self._reason = reason
        self.schema = schema

    def session(self) -> AbstractContextManager[Tx]:
        """A connection for statements that each are a transaction of their own.

        Raises:
            DatabaseUnavailableError: There is no connection to be had, or it broke.
            SchemaError: A table is missing.
        """
        if cancelling.RUN.get() is None:
            return _Session(self._pool, self._timeout, self.schema, self._used)

        return self._watched()

    @contextmanager
    def _watched(self) -> Iterator[Tx]:
        """For the run of a job whose time is watched."""
        with (
            cancelling.shielded(),
            self._explained(),
            translated(self.schema),
            self._pool.connection(self._timeout) as conn,
            _discarded_if_useless(conn),
            cancelling.known(conn, ours=True),
        ):
            yield Tx(conn, self.schema)

    @contextmanager
    def _used(self, conn: psycopg.Connection[Any] | None) -> Iterator[None]:
        """What becomes of an error, and of a connection if there was one."""
        with self._explained(), translated(self.schema):
            if conn is None:
                yield
                return

            try:
                with _discarded_if_useless(conn), conn:
                    yield
            finally:
                self._pool.putconn(conn)

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        """A connection in a transaction, which ends with the block; raises as `session`."""
        with self.session() as tx, tx.conn.transaction():
            yield tx

    def looking(self) -> AbstractContextManager[Tx]:
        """A transaction that changes nothing but its own settings, which end with it."""
        return self.transaction()

    def apart(self) -> AbstractContextManager[None]:
        """For the run of a job on this thread: whatever it does leaves this of use.

        It uses connections of its own, so there is nothing to do; see `bound.BoundDb`.
        """
        return nullcontext()

    def timed_here(self) -> Db:
        """The same with the time of this process's clock, for tests that move that."""
        return _TimedHere(self._pool, self.schema, timeout=self._timeout, reason=self._reason)

    def impatient(self, seconds: float) -> Db:
        """The same for what nobody should wait for: so long at most for a connection.

        Why there was none is not looked into.
        """
        return Db(self._pool, self.schema, timeout=seconds)

    def give_back(self) -> None:
        """Nothing is kept; see `KeptDb`."""

    @contextmanager
    def borrowed(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection for the application's own statements, whose errors stay the driver's.

        Raises:
            DatabaseUnavailableError: There is no connection to be had.
        """
        with (
            cancelling.taken(self._take, self._pool.putconn) as conn,
            # Commits or rolls back what the pool's owner may have set to be no autocommit.
            conn.transaction() if not conn.autocommit else nullcontext(),
        ):
            yield conn

    def _take(self) -> psycopg.Connection[Any]:
        with self._explained(), translated():
            conn: psycopg.Connection[Any] = self._pool.getconn(self._timeout)

            return conn

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except DatabaseUnavailableError as error:
            if self._reason is None or not isinstance(error.__cause__, PoolTimeout):
                raise

            # The pool only says that it has waited; what it waited for is what helps.
            raise DatabaseUnavailableError(
                f"no connection within {self._timeout:g} s: {self._reason()}"
            ) from error


class _Session:
    """See `Db.session`. A class, because whoever enqueues one job waits for it: so many context
    managers inside of each other take 30 us, and this 3.
    """

    __slots__ = ("_conn", "_pool", "_schema", "_timeout", "_used")

    _conn: psycopg.Connection[Any]

    def __init__(
        self,
        pool: ConnectionPool[Any],
        timeout: float,
        schema: str,
        used: Callable[[psycopg.Connection[Any] | None], AbstractContextManager[None]],
    ) -> None:
        self._pool = pool
        self._timeout = timeout
        self._schema = schema
        self._used = used

    def __enter__(self) -> Tx:
        try:
            self._conn = self._pool.getconn(self._timeout)
        except Exception as error:
            with self._used(None):
                raise error

        return Tx(self._conn, self._schema)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self._conn.pgconn.transaction_status == TransactionStatus.IDLE:
            self._pool.putconn(self._conn)
            return

        with self._used(self._conn):
            if error is not None:
                raise error


@contextmanager
def _discarded_if_useless(conn: psycopg.Connection[Any]) -> Iterator[None]:
    """Close a connection that is of no use any more, so that the pool makes another.

    Its prepared statements are gone, or its server became a standby.
    """
    try:
        yield
    except psycopg.Error as error:
        if _forgot_its_statements(error, _state(error)) or _state(error) == "25006":
            conn.close()

        raise


class _TimedHere(Db):
    """See `Db.timed_here`."""

    @contextmanager
    def session(self) -> Iterator[Tx]:
        with clock.virtual(), super().session() as tx:
            yield tx


class KeptDb(Db):
    """A Db for one busy thread: it keeps its connection from session to session.

    Asking the pool each time costs a tenth of a small turn.
    """

    _conn: psycopg.Connection[Any] | None = None

    @contextmanager
    def session(self) -> Iterator[Tx]:
        """As `Db.session`; a connection on which anything failed is not kept."""
        try:
            with self._explained(), translated(self.schema):
                if self._conn is None:
                    self._conn = self._pool.getconn(self._timeout)

                with _discarded_if_useless(self._conn):
                    yield Tx(self._conn, self.schema)
        except BaseException:
            self.give_back()
            raise

    def give_back(self) -> None:
        """Let others have the connection until the next session."""
        conn, self._conn = self._conn, None

        if conn is not None:
            self._pool.putconn(conn)


@contextmanager
def translated(schema: str = "public") -> Iterator[None]:
    """Turn the driver's errors into the library's, where the library has one."""
    try:
        yield
    except psycopg.Error as error:
        if (known := translate(error, schema)) is not None:
            raise known from error

        raise


def translate(
    error: BaseException, schema: str = "public"
) -> DatabaseUnavailableError | SchemaError | None:
    """The library's error for any DB-API driver's, or None where the driver's says it best."""
    # SQLAlchemy keeps the driver's error as `orig`, Django as the cause.
    error = getattr(error, "orig", None) or error
    state = _state(error) or _state(error.__cause__)

    # Inside a function the missing table is somebody else's, a trigger's for instance.
    if state in _MISSING and not getattr(getattr(error, "diag", None), "context", None):
        return SchemaError(
            f"the tables are missing or older than this version of oban_sync ({_first(error)}); "
            f"run {command('install', schema)}, or `upgrade`, or call oban_sync.schema.install"
        )

    if _forgot_its_statements(error, state):
        return DatabaseUnavailableError(f"the session has to be made anew: {_first(error)}")

    if (state is None and _is_operational(error)) or (state or "").startswith(_LOST):
        trouble = "is read-only here" if state == "25006" else "could not be reached"

        return DatabaseUnavailableError(f"PostgreSQL {trouble}: {_first(error)}")

    return None


def command(name: str, schema: str) -> str:
    """What to type for a command on a schema, in backticks."""
    option = "" if schema == "public" else f" --prefix {shlex.quote(schema)}"

    return f"`oban-sync {name}{option}`"


def quoted(identifier: str) -> sql.Identifier:
    """An identifier for statements that take no parameters, as LISTEN."""
    return sql.Identifier(identifier)


def is_refusal(error: BaseException) -> bool:
    """Whether PostgreSQL, or the driver, refused what a statement holds.

    As opposed to being unreachable, out of time, or in conflict with another transaction.
    """
    if isinstance(error, UnicodeError):
        return True

    state = _state(error)

    return state is not None and translate(error) is None and state.startswith(_REFUSED)


def is_busy(error: BaseException) -> bool:
    """Whether a row was locked by somebody else for too long."""
    return isinstance(error, psycopg.errors.LockNotAvailable)


def reason(error: BaseException) -> str:
    """An error in one line, without the row it may quote: args do not belong into logs."""
    return _first(error)


def _forgot_its_statements(error: BaseException, state: str | None) -> bool:
    """After a change of the table, or behind a pooler, prepared statements are of no use."""
    return state in ("26000", "42P05") or (state == "0A000" and "cached plan" in str(error))


def _state(error: BaseException | None) -> str | None:
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)


def _is_operational(error: BaseException) -> bool:
    return any(kind.__name__ in _UNREACHABLE for kind in type(error).__mro__)


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
