"""One transaction for all that SQLAlchemy sessions and an Oban do in a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import Any

from oban_sync.core import instances
from oban_sync.core.errors import ConfigError, NotRunningError, shown
from oban_sync.testing.binding import bound, oban_of
from oban_sync.testing.joining import JOINING, joined


@contextmanager
def rolled_back(db: Any, *, app: Any = None, oban: Any = None) -> Iterator[Any]:
    """Let all that sessions and an Oban do in the block happen in one transaction, and undo it.

    Code under test commits and rolls back as it does in production: within the block these are
    savepoints. What goes around the sessions, as ``engine.begin()`` does, is not part of it.

    Args:
        db: The ``db`` of Flask-SQLAlchemy, with all its binds; or a sessionmaker, or a
            scoped_session, that is bound to an engine, or to several.
        app: The Flask application, where none is at work; with Flask-SQLAlchemy only.
        oban: The Oban, a FlaskOban, or a name; by default that of the application, or of the name
            "Oban". Without any, only the sessions take part. It goes through the connection of the
            default bind, or of the only one.

    Yields:
        The SQLAlchemy connection.

    Raises:
        ConfigError: It is none of these, or is rolled back by another block already; or no
            application is at work and none was given.

    Example:
        >>> with testing.rolled_back(db, app=app):
        ...     client.post("/sign-up", data={"email": "ann@example.com"})
        ...     assert_enqueued(worker=MailerWorker)
    """
    with ExitStack() as stack:
        # Of the class, because the engines themselves are there only within an application.
        if hasattr(type(db), "engines") and hasattr(db, "session"):
            with _at_work(db, app):
                conn = _joined_flask(stack, db)
                oban = _of_application(app) if oban is None else oban
        elif hasattr(db, "configure") and hasattr(_maker(db), "kw"):
            conn = _joined_maker(stack, db)
        else:
            raise ConfigError(
                "db",
                f"{shown(db)} is not allowed; give the db of Flask-SQLAlchemy, a sessionmaker, or a"
                " scoped_session. For a connection or a single session there is testing.bound",
            )

        if (desk := _known(oban)) is not None:
            stack.enter_context(bound(desk, conn))

        yield conn


def _known(oban: Any) -> Any:
    try:
        return oban_of(oban)
    except NotRunningError:
        if oban is not None:
            raise

        return None


def _at_work(db: Any, app: Any) -> AbstractContextManager[Any]:
    try:
        _ = db.engines
    except RuntimeError as error:
        if app is None:
            raise ConfigError("app", f"give the application, none is at work ({error})") from None

        context: AbstractContextManager[Any] = app.app_context()

        return context

    return nullcontext()


def _of_application(app: Any) -> Any:
    """The Oban of an application, if it has one."""
    extension = None if app is None else getattr(app, "extensions", {}).get("oban")

    if extension is not None:
        return extension.get(app)

    try:
        # Within the application's context this is its own.
        return instances.get("Oban")
    except NotRunningError:
        return None


def _joined_flask(stack: ExitStack, db: Any) -> Any:
    engines = db.engines

    if not engines:
        raise ConfigError("db", "it has no engines; give the application its database first")

    found = {key: _begun(stack, engine) for key, engine in engines.items()}
    _join(stack, db.session, {engines[key]: conn for key, conn in found.items()})

    return found.get(None, next(iter(found.values())))


def _joined_maker(stack: ExitStack, db: Any) -> Any:
    options = _maker(db).kw
    binds = [options.get("bind"), *(options.get("binds") or {}).values()]
    engines = {bind: None for bind in binds if callable(getattr(bind, "connect", None))}

    if not engines:
        raise ConfigError("db", f"{shown(db)} is bound to no engine; give sessionmaker(engine)")

    found = {engine: _begun(stack, engine) for engine in engines}
    _join(stack, db, found)

    return next(iter(found.values()))


def _join(stack: ExitStack, db: Any, conns: dict[Any, Any]) -> None:
    """Let sessions use connections in place of engines."""
    maker = _maker(db)
    kind, options = maker.class_, dict(maker.kw)
    found = joined(kind, conns)

    if hasattr(db, "registry"):
        _forget_session(stack, db)

    # The engines stay where they are, for whoever watches or disposes of them.
    maker.class_ = found
    maker.kw["join_transaction_mode"] = JOINING

    def restore() -> None:
        maker.class_ = kind
        maker.kw.clear()
        maker.kw.update(options)

    stack.callback(restore)


def _begun(stack: ExitStack, engine: Any) -> Any:
    conn = stack.enter_context(engine.connect())
    transaction = conn.begin()
    # Rolled back already where the connection is gone.
    stack.callback(lambda: transaction.is_active and transaction.rollback())

    return conn


def _forget_session(stack: ExitStack, scoped: Any) -> None:
    """Have sessions made anew: the one at hand is of the engine, and later of the connection."""

    def forget() -> None:
        # Flask-SQLAlchemy's belong to contexts, and end with them: outside of any there is none.
        with suppress(RuntimeError):
            scoped.remove()

    forget()
    stack.callback(forget)


def _maker(db: Any) -> Any:
    return getattr(db, "session_factory", db)
