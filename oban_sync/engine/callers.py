"""Statements on connections of the application, of whatever kind, in its transactions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import get_ident
from typing import Any, NamedTuple, Protocol

import psycopg
from psycopg.rows import tuple_row

from oban_sync.core.errors import ConfigError, NotRunningError, shown
from oban_sync.engine import cancelling
from oban_sync.engine.session import cursor_on, translate
from oban_sync.engine.statements import positional


class Reply(NamedTuple):
    """What a statement came to.

    Attributes:
        rows: Its rows, if it gives any.
        names: The names of their columns.
        changed: How many rows it gave or changed.
    """

    rows: list[tuple[Any, ...]]
    names: tuple[str, ...]
    changed: int


class Runner(Protocol):
    """Runs one statement on somebody's connection."""

    def __call__(self, text: str, params: Sequence[object]) -> Reply:
        """Run it; never commits."""
        ...


def run_on(conn: Any, name: str, schema: str, /, **params: object) -> list[tuple[Any, ...]]:
    """Run a statement inside whatever transaction the connection is in; never commit.

    Args:
        conn: A psycopg 3, psycopg2 or other DB-API connection or cursor, a SQLAlchemy Connection,
            Session or scoped_session, or a Django connection.
        name: The statement.
        schema: The schema of the tables.
        params: Its parameters.

    Raises:
        ConfigError: It is none of these.
        DatabaseUnavailableError: The connection is broken.
        SchemaError: The tables are missing.
    """
    text, order = positional(name, schema)

    return ask(conn, text, [params[key] for key in order], schema=schema).rows


def ask(conn: Any, text: str, params: Sequence[object] = (), *, schema: str = "public") -> Reply:
    """Run SQL as `run_on` does a statement, and tell all that came of it."""
    try:
        run = runner(conn)

        with cancelling.known(conn):
            return run(text, params)
    except (ConfigError, NotRunningError):
        raise
    except Exception as error:
        if (known := translate(error, schema)) is not None:
            raise known from error

        raise


def check(conn: Any) -> None:
    """See that statements could be run on a connection; sends nothing.

    Raises:
        ConfigError: It is no connection, or an asynchronous one.
    """
    _kind(conn)


def runner(conn: Any) -> Runner:
    """How to run statements on a connection of any supported kind; raises as `check`."""
    return _kind(conn)(conn)


def _kind(conn: Any) -> Callable[[Any], Runner]:
    kind = f"{type(conn).__module__}.{type(conn).__qualname__}"

    # An application's subclass need not tell by its name.
    if any("async" in base.__name__.lower() for base in type(conn).__mro__):
        raise ConfigError(
            "conn", f"a {kind} is asynchronous, and oban_sync is not; use oban-py in such code"
        )

    for accepts, make in _KINDS:
        if not isinstance(conn, type) and accepts(conn):
            return make

    raise ConfigError(
        "conn",
        f"a {kind} is not a connection; give a psycopg, DB-API, SQLAlchemy or Django connection, "
        "a cursor, or a Session"
        + ("; it makes connections, so pass one of those" if hasattr(conn, "connect") else ""),
    )


def driver_connection(conn: Any) -> Any:
    """The driver's connection below any kind, or the connection itself.

    Of a Session or a SQLAlchemy connection a transaction has begun then, which SQLAlchemy knows of:
    else it would neither commit nor roll back what is done below it.
    """
    if _is_session(conn):
        conn = conn.connection()

    if _is_sqlalchemy_connection(conn):
        if not conn.in_transaction():
            conn.begin()

        return conn.connection.driver_connection

    # Django's wrapper connects when it is used.
    if callable(getattr(conn, "ensure_connection", None)):
        conn.ensure_connection()

    own = getattr(conn, "connection", None)

    return conn if own is None or callable(own) else own


def is_session(conn: Any) -> bool:
    """Whether it is a Session of SQLAlchemy, or stands for one."""
    return _is_session(conn)


def is_sqlalchemy_connection(conn: Any) -> bool:
    """Whether it is a connection of SQLAlchemy."""
    return _is_sqlalchemy_connection(conn)


def _is_psycopg(conn: Any) -> bool:
    return isinstance(conn, (psycopg.Connection, psycopg.Cursor))


def _on_psycopg(conn: Any) -> Runner:
    connection = conn.connection if isinstance(conn, psycopg.Cursor) else conn

    def run(text: str, params: Sequence[object]) -> Reply:
        # A cursor of our own: the caller's keeps its results and its row factory.
        with cursor_on(connection, tuple_row) as cursor:
            cursor.execute(text, params)

            return _reply(cursor)

    return run


def _is_sqlalchemy_connection(conn: Any) -> bool:
    return callable(getattr(conn, "exec_driver_sql", None)) and not hasattr(conn, "connect")


def _on_sqlalchemy_connection(conn: Any) -> Runner:
    _refuse_other_database(conn.dialect.name)

    def run(text: str, params: Sequence[object]) -> Reply:
        # Not on the driver's connection below: SQLAlchemy has to know that a transaction began,
        # or its commit() would do nothing.
        result = conn.exec_driver_sql(text, tuple(params))

        if not result.returns_rows:
            return Reply([], (), result.rowcount)

        rows = [tuple(row) for row in result.fetchall()]

        return Reply(rows, tuple(result.keys()), len(rows))

    return run


def _is_session(conn: Any) -> bool:
    return callable(getattr(conn, "connection", None)) and callable(getattr(conn, "flush", None))


def _on_session(conn: Any) -> Runner:
    connection = conn.connection()

    if not _is_sqlalchemy_connection(connection):
        raise ConfigError("conn", f"{shown(conn)} gives no SQLAlchemy connection")

    return _on_sqlalchemy_connection(connection)


def _is_dbapi_cursor(conn: Any) -> bool:
    return (
        callable(getattr(conn, "execute", None))
        and callable(getattr(conn, "fetchall", None))
        and callable(getattr(getattr(conn, "connection", None), "cursor", None))
    )


def _on_dbapi_cursor(conn: Any) -> Runner:
    return _on_dbapi(conn.connection)


def _is_dbapi(conn: Any) -> bool:
    return callable(getattr(conn, "cursor", None)) and (
        callable(getattr(conn, "commit", None)) or callable(getattr(conn, "get_autocommit", None))
    )


def _on_dbapi(conn: Any) -> Runner:
    # Django tells its vendor; for others it is the driver that tells.
    _refuse_other_database(getattr(conn, "vendor", None) or type(conn).__module__.split(".")[0])

    # psycopg2's, in a mode of its own: it would write the job and give no rows.
    if getattr(conn, "async_", 0):
        raise ConfigError("conn", "the connection is asynchronous, and oban_sync is not")

    def run(text: str, params: Sequence[object]) -> Reply:
        cursor = conn.cursor()

        try:
            cursor.execute(text, tuple(params))

            return _reply(cursor)
        finally:
            cursor.close()

    return run


def _reply(cursor: Any) -> Reply:
    if cursor.description is None:
        return Reply([], (), cursor.rowcount)

    rows = [
        tuple(row.values()) if isinstance(row, Mapping) else tuple(row) for row in cursor.fetchall()
    ]

    return Reply(rows, tuple(column[0] for column in cursor.description), len(rows))


#: Dialects of SQLAlchemy, vendors of Django, and drivers, for what is met in practice.
_OTHER_DATABASES = frozenset(
    ("mariadb", "microsoft", "mssql", "mysql", "oracle", "sqlite")
    + ("MySQLdb", "oracledb", "pymssql", "pymysql", "pyodbc", "sqlite3")
)


def _refuse_other_database(name: object) -> None:
    if name in _OTHER_DATABASES:
        raise ConfigError("conn", f"this is a connection to {name}; jobs live in PostgreSQL")


_KINDS: tuple[tuple[Callable[[Any], bool], Callable[[Any], Runner]], ...] = (
    (_is_psycopg, _on_psycopg),
    (_is_session, _on_session),
    (_is_sqlalchemy_connection, _on_sqlalchemy_connection),
    (_is_dbapi_cursor, _on_dbapi_cursor),
    (_is_dbapi, _on_dbapi),
)


@dataclass(slots=True)
class _Binding:
    """A connection that enqueues go through.

    Attributes:
        owner: Whose enqueues: the Oban.
        thread: On which thread.
        conn: The connection; None once the block has ended, since copies of the context live on.
        wholly: Whether all else goes through it too.
    """

    owner: object
    thread: int
    conn: Any
    wholly: bool


_bound: ContextVar[tuple[_Binding, ...]] = ContextVar("oban_sync_bound", default=())


@contextmanager
def bound(owner: object, conn: Any, *, ours: bool = False, wholly: bool = False) -> Iterator[None]:
    """Make a connection the one that enqueues of this owner go through, on this thread.

    In a job whose time is up, what runs on it is cancelled; see `cancelling.known` for `ours`.

    Args:
        wholly: Let all that the owner does on this thread go through it, as tests need it that
            roll back what they did.
    """
    binding = _Binding(owner, get_ident(), conn, wholly)
    token = _bound.set((*_bound.get(), binding))

    try:
        with cancelling.known(conn, ours=ours):
            yield
    finally:
        binding.owner = binding.conn = None
        _bound.reset(token)


def bound_to(owner: object, *, wholly: bool = False) -> Any:
    """The innermost connection bound for this owner on this thread, or None.

    The thread is compared because contexts are copied into other threads, where the connection
    would be used by two at once.

    Args:
        wholly: Only inside of a block that was bound wholly, were it not the innermost.
    """
    # The hot path: whoever enqueues asks.
    if not (bindings := _bound.get()):
        return None

    thread = get_ident()
    found = [
        binding
        for binding in reversed(bindings)
        if binding.owner is owner and binding.thread == thread and binding.conn is not None
    ]

    if found and (not wholly or any(binding.wholly for binding in found)):
        return found[0].conn

    return None
