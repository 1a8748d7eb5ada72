"""The connections of applications: one of every kind that jobs may be enqueued through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
import psycopg2
import psycopg2.extras
import sqlalchemy
from psycopg.rows import dict_row, namedtuple_row
from sqlalchemy.orm import Session, scoped_session, sessionmaker


@dataclass(frozen=True)
class Caller:
    """An application in the middle of a transaction.

    Attributes:
        conn: What it enqueues through.
        run: Runs a statement in its transaction.
        commit: Ends the transaction well.
        rollback: Ends it badly.
        nested: Opens a savepoint, undone when the block raises.
    """

    conn: Any
    run: Callable[[str], object]
    commit: Callable[[], object]
    rollback: Callable[[], object]
    nested: Callable[[], AbstractContextManager[Any]]


Opener = Callable[[str], AbstractContextManager[Caller]]


@contextmanager
def psycopg_connection(dsn: str, **options: Any) -> Iterator[Caller]:
    with psycopg.connect(dsn, **options) as conn:
        yield Caller(conn, conn.execute, conn.commit, conn.rollback, conn.transaction)


@contextmanager
def psycopg_block(dsn: str) -> Iterator[Caller]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        block = conn.transaction()
        block.__enter__()

        yield Caller(
            conn,
            conn.execute,
            lambda: block.__exit__(None, None, None),
            lambda: block.__exit__(psycopg.Rollback, psycopg.Rollback(), None),
            conn.transaction,
        )


@contextmanager
def psycopg_cursor(dsn: str, **options: Any) -> Iterator[Caller]:
    with psycopg.connect(dsn) as conn, conn.cursor(**options) as cursor:
        yield Caller(cursor, conn.execute, conn.commit, conn.rollback, conn.transaction)


@contextmanager
def psycopg2_connection(dsn: str, **options: Any) -> Iterator[Caller]:
    conn = psycopg2.connect(dsn, **options)
    run = partial(_run, conn)

    try:
        yield Caller(conn, run, conn.commit, conn.rollback, partial(_savepoint, run))
    finally:
        conn.close()


@contextmanager
def psycopg2_cursor(dsn: str, **options: Any) -> Iterator[Caller]:
    with psycopg2_connection(dsn) as caller, caller.conn.cursor(**options) as cursor:
        yield Caller(cursor, caller.run, caller.commit, caller.rollback, caller.nested)


class PlainConnection:
    """No more than PEP 249 asks of a connection that can be in a transaction."""

    def __init__(self, conn: Any) -> None:
        self.cursor = conn.cursor
        self.commit = conn.commit
        self.rollback = conn.rollback


@contextmanager
def dbapi_connection(dsn: str) -> Iterator[Caller]:
    with psycopg2_connection(dsn) as caller:
        conn = PlainConnection(caller.conn)

        yield Caller(conn, caller.run, conn.commit, conn.rollback, caller.nested)


@contextmanager
def engine_for(dsn: str, driver: str, **options: Any) -> Iterator[sqlalchemy.Engine]:
    connect = psycopg2.connect if driver == "psycopg2" else psycopg.connect
    engine = sqlalchemy.create_engine(
        f"postgresql+{driver}://", creator=lambda: connect(dsn), **options
    )

    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def sqlalchemy_connection(dsn: str, *, driver: str) -> Iterator[Caller]:
    with engine_for(dsn, driver) as engine, engine.connect() as conn:
        yield _of_sqlalchemy(conn)


@contextmanager
def sqlalchemy_session(dsn: str, *, driver: str) -> Iterator[Caller]:
    with engine_for(dsn, driver) as engine, Session(engine) as session:
        yield _of_sqlalchemy(session)


@contextmanager
def sqlalchemy_scoped_session(dsn: str, *, driver: str) -> Iterator[Caller]:
    with engine_for(dsn, driver) as engine:
        session = scoped_session(sessionmaker(engine))

        try:
            yield _of_sqlalchemy(session)
        finally:
            session.remove()


@contextmanager
def flask_sqlalchemy_session(dsn: str, *, driver: str) -> Iterator[Caller]:
    import flask
    import flask_sqlalchemy

    connect = psycopg2.connect if driver == "psycopg2" else psycopg.connect
    app = flask.Flask("shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = f"postgresql+{driver}://"
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"creator": lambda: connect(dsn)}
    db = flask_sqlalchemy.SQLAlchemy(app)

    with app.app_context():
        try:
            yield _of_sqlalchemy(db.session)
        finally:
            db.session.remove()
            db.engine.dispose()


@contextmanager
def django_configured(dsn: str) -> Iterator[Any]:
    """`django.db.connection`, for this database while the block lasts."""
    import django
    from django.conf import settings

    if not settings.configured:
        settings.configure(LOGGING_CONFIG=None)

    django.setup()

    from django.db import connection, connections

    params = psycopg.conninfo.conninfo_to_dict(dsn)
    default = {
        "ENGINE": "django.db.backends.postgresql",
        **{key.upper(): str(params.pop(key, "")) for key in ("user", "password", "host", "port")},
        "NAME": params.pop("dbname"),
        "OPTIONS": params,
    }
    given = connections.settings
    connections.settings = connections.configure_settings({"default": default})

    try:
        yield connection
    finally:
        connection.close()
        del connections["default"]
        connections.settings = given


@contextmanager
def django_connection(dsn: str) -> Iterator[Caller]:
    with django_configured(dsn) as connection:
        yield _of_django(connection, connection)


@contextmanager
def django_cursor(dsn: str) -> Iterator[Caller]:
    with django_configured(dsn) as connection, connection.cursor() as cursor:
        yield _of_django(connection, cursor)


def _of_sqlalchemy(conn: Any) -> Caller:
    return Caller(
        conn,
        lambda text: conn.execute(sqlalchemy.text(text)),
        conn.commit,
        conn.rollback,
        conn.begin_nested,
    )


def _of_django(connection: Any, conn: Any) -> Caller:
    from django.db import transaction

    block = ExitStack()
    block.enter_context(transaction.atomic())

    def rollback() -> None:
        transaction.set_rollback(True)
        block.close()

    return Caller(conn, partial(_run, connection), block.close, rollback, transaction.atomic)


def _run(conn: Any, text: str) -> None:
    with conn.cursor() as cursor:
        cursor.execute(text)


@contextmanager
def _savepoint(run: Callable[[str], object]) -> Iterator[None]:
    run("SAVEPOINT inner_work")

    try:
        yield
    except BaseException:
        run("ROLLBACK TO SAVEPOINT inner_work")

        raise

    run("RELEASE SAVEPOINT inner_work")


#: Every kind, by what an application would call it.
CALLERS: dict[str, Opener] = {
    "psycopg connection": psycopg_connection,
    "psycopg connection of dicts": partial(psycopg_connection, row_factory=dict_row),
    "psycopg connection of raw cursors": partial(
        psycopg_connection, cursor_factory=psycopg.RawCursor
    ),
    "psycopg autocommit connection in a block": psycopg_block,
    "psycopg cursor": psycopg_cursor,
    "psycopg cursor of dicts": partial(psycopg_cursor, row_factory=dict_row),
    "psycopg cursor of named tuples": partial(psycopg_cursor, row_factory=namedtuple_row),
    "psycopg server cursor": partial(psycopg_cursor, name="pages"),
    "psycopg2 connection": psycopg2_connection,
    "psycopg2 connection of real dicts": partial(
        psycopg2_connection, cursor_factory=psycopg2.extras.RealDictCursor
    ),
    "psycopg2 connection of dicts": partial(
        psycopg2_connection, cursor_factory=psycopg2.extras.DictCursor
    ),
    "psycopg2 connection of named tuples": partial(
        psycopg2_connection, cursor_factory=psycopg2.extras.NamedTupleCursor
    ),
    "psycopg2 cursor": psycopg2_cursor,
    "psycopg2 cursor of real dicts": partial(
        psycopg2_cursor, cursor_factory=psycopg2.extras.RealDictCursor
    ),
    "DB-API connection": dbapi_connection,
    "SQLAlchemy connection (psycopg)": partial(sqlalchemy_connection, driver="psycopg"),
    "SQLAlchemy connection (psycopg2)": partial(sqlalchemy_connection, driver="psycopg2"),
    "SQLAlchemy session (psycopg)": partial(sqlalchemy_session, driver="psycopg"),
    "SQLAlchemy session (psycopg2)": partial(sqlalchemy_session, driver="psycopg2"),
    "SQLAlchemy scoped session (psycopg)": partial(sqlalchemy_scoped_session, driver="psycopg"),
    "SQLAlchemy scoped session (psycopg2)": partial(sqlalchemy_scoped_session, driver="psycopg2"),
    "Flask-SQLAlchemy session (psycopg)": partial(flask_sqlalchemy_session, driver="psycopg"),
    "Flask-SQLAlchemy session (psycopg2)": partial(flask_sqlalchemy_session, driver="psycopg2"),
    "Django connection": django_connection,
    "Django cursor": django_cursor,
}
