"""Sessions of SQLAlchemy that work in a test's transaction, as they would in ones of their own.

Each transaction of a session becomes a savepoint there. Savepoints lie within one another, which
transactions do not, and this is what has to be made good here. One that is rolled back takes along
all that was done since, whoever did it: so a session that only read keeps what others did, and one
that wrote has those end first that began after it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from oban_sync.core.errors import ConfigError
from oban_sync.engine import savepoints

#: Sessions that join a transaction then commit and roll back savepoints of their own in it.
JOINING = "create_savepoint"

#: SQL in text that only reads, as far as a glance tells.
_READS = re.compile(r"\s*\(*\s*(select|show|table|values)\b", re.IGNORECASE)

#: What of a session goes by the flush, and yet is not heard of by those who listen for it.
_BULK = ("bulk_insert_mappings", "bulk_save_objects", "bulk_update_mappings")


def joined(kind: Any, conns: Mapping[Any, Any]) -> Any:
    """A class of sessions that use connections in place of engines.

    Args:
        kind: The application's class of sessions.
        conns: The connections, each in a transaction, by their engines.

    Raises:
        ConfigError: It is such a class already.
    """
    # Here, because SQLAlchemy need not be installed.
    from sqlalchemy import event

    if hasattr(kind, "oban_sync_stay"):
        raise ConfigError("db", "it is being rolled back already; end the one block first")

    def get_bind(self: Any, *args: Any, **kwargs: Any) -> Any:
        bind = kind.get_bind(self, *args, **kwargs)

        return conns.get(bind, bind)

    def connection(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Who asks for it writes below the session, as enqueueing does.
        self.oban_sync_stay.wrote = True

        return kind.connection(self, *args, **kwargs)

    def rollback(self: Any) -> None:
        if not self.oban_sync_stay.leave(self):
            kind.rollback(self)

            return

        with warnings.catch_warnings():
            # That its savepoint has ended.
            warnings.simplefilter("ignore")
            kind.rollback(self)

    def close(self: Any) -> None:
        self.oban_sync_stay.leave(self)
        kind.close(self)

    found = type(
        kind.__name__,
        (kind,),
        {
            "oban_sync_stay": cached_property(_Stay),
            "get_bind": get_bind,
            "connection": connection,
            "rollback": rollback,
            "close": close,
            **{name: _writing(kind, name) for name in _BULK if hasattr(kind, name)},
        },
    )

    event.listen(found, "after_begin", _began)
    event.listen(found, "after_flush", _flushed)
    event.listen(found, "do_orm_execute", _executing)
    event.listen(found, "after_transaction_end", _ended)

    return found


class _Stay:
    """What a session does in the test's transaction.

    Attributes:
        wrote: Whether it wrote anything in its present transaction.
        savepoints: Those of its present transaction, outermost first.
    """

    def __init__(self, _: Any) -> None:
        self.wrote = False
        self.savepoints: list[Any] = []

    def leave(self, session: Any) -> bool:
        """Before its savepoint is rolled back: keep what others did since, if it did nothing.

        Returns:
            Whether there is nothing to be rolled back any more.
        """
        if not self.savepoints:
            return False

        conns = {savepoint.connection for savepoint in self.savepoints}

        if not self.wrote and session.is_active and self._may_end(session, conns):
            for savepoint in reversed(self.savepoints):
                if savepoint.is_active:
                    savepoint.commit()

            return True

        for conn in conns:
            at_work = savepoints.sessions_on(conn)
            savepoints.end_sessions(conn, since=at_work.index(session) + 1)

        return False

    def _may_end(self, session: Any, conns: set[Any]) -> bool:
        # To end a savepoint ends those within it: others would not find theirs.
        return all(
            savepoints.sessions_on(conn)[-1] is session and not savepoints.is_failed(conn)
            for conn in conns
        )


def _writing(kind: Any, name: str) -> Any:
    method = getattr(kind, name)

    def write(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.oban_sync_stay.wrote = True

        return method(self, *args, **kwargs)

    return write


def _began(session: Any, _: Any, conn: Any) -> None:
    if (savepoint := conn.get_nested_transaction()) is None:
        return

    session.oban_sync_stay.savepoints.append(savepoint)
    at_work = savepoints.sessions_on(conn)

    if session not in at_work:
        at_work.append(session)


def _flushed(session: Any, _: Any) -> None:
    session.oban_sync_stay.wrote = True


def _executing(state: Any) -> None:
    text = getattr(state.statement, "text", None)

    if not (state.is_select or (isinstance(text, str) and _READS.match(text))):
        state.session.oban_sync_stay.wrote = True


def _ended(session: Any, transaction: Any) -> None:
    if transaction.parent is not None:
        return

    stay = session.oban_sync_stay

    for conn in {savepoint.connection for savepoint in stay.savepoints}:
        savepoints.sessions_on(conn).remove(session)

    stay.savepoints.clear()
    stay.wrote = False
