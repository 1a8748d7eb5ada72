"""What jobs leave behind in the connections of Flask-SQLAlchemy.

The teardown of an app context rolls back what was not committed, and nobody hears of it. What a
connection is in is looked at the moment before, so that applications that commit in a teardown
function of theirs are in the right.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

from flask import Flask
from sqlalchemy import Connection, Engine, event, inspect

from oban_sync import telemetry
from oban_sync.core.job import Job
from oban_sync.engine.leftovers import left_in

log = logging.getLogger("oban_sync.integrations")

#: Seconds for which the same of the same worker is not logged again.
QUIET_PERIOD = 60.0

_SAYINGS = {
    "changes": "changes that it did not commit, so they were undone; commit them, or let the "
    "worker be transactional",
    "failed": "a transaction in which a statement had failed, so all of it was undone; roll back "
    "when an error is caught, or let it pass",
    "connection": "a connection of the pool in its hands, which others lack; close it, or open it "
    "in a with block",
}

#: Where a connection of a pool keeps the run that took it.
_TAKEN_BY = "oban_sync.run"

_run: ContextVar[Watch | None] = ContextVar("oban_sync_run", default=None)

_watched: WeakSet[Engine] = WeakSet()

_said: dict[tuple[str, str], float] = {}


class Watch:
    """One run's connections and session.

    Attributes:
        held: Connections of pools that it took and did not give back.
        left: What a connection of its was in when it was rolled back at the end.
        ending: Whether rollbacks are those of the end.
    """

    def __init__(self, db: Any) -> None:
        self.held: dict[int, object] = {}
        self.left: str | None = None
        self.ending = False
        self._db = db
        self._key: object = None
        self._session: Any = None
        self._pending: list[Any] = []

    def opened(self) -> None:
        """The run's app context is there."""
        for engine in self._db.engines.values():
            if engine not in _watched:
                event.listen(engine, "checkout", _taken)
                event.listen(engine, "checkin", _given_back)
                event.listen(engine, "rollback", _rolled_back)
                _watched.add(engine)

    def closing(self, *, failed: bool) -> None:
        """The run's app context is about to go.

        Args:
            failed: The run did; what it had not committed then is nobody's mistake.
        """
        session = self._db.session
        registry = getattr(session, "registry", None)

        if registry is not None and registry.has():
            # Applications may put a session of their own there, which is kept by thread.
            scope = getattr(registry, "scopefunc", None)
            self._key = None if scope is None else scope()
            self._session = session()

        if not failed:
            self.ending = True

            if self._session is not None:
                self._pending = list(_unsent(self._session))

    def cut_off(self) -> None:
        """A teardown function failed, and those after it were not called: do what one of them does.

        Sessions are kept by the address of their context, where the next one may find it.
        """
        if self._session is None:
            return

        if self._key is None:
            self._db.session.remove()
        else:
            self._db.session.registry.registry.pop(self._key, None)
            self._session.close()

    def findings(self) -> Iterator[str]:
        """What was left, once the context is gone."""
        if not self.ending:
            return

        if self.left == "failed":
            yield "failed"
        elif self.left is not None or any(_is_unsent(item) for item in self._pending):
            yield "changes"

        if self.held:
            yield "connection"


@contextmanager
def watched(app: Flask, job: Job) -> Iterator[Watch | None]:
    """Watch a run's connections, and tell what it left; gives None without Flask-SQLAlchemy."""
    db = app.extensions.get("sqlalchemy")

    # Of its class, since the engines are only there in an app context.
    if not hasattr(type(db), "engines") or not hasattr(db, "session"):
        yield None

        return

    watch = Watch(db)
    token = _run.set(watch)

    try:
        yield watch
    finally:
        _run.reset(token)

        for left in watch.findings():
            _tell(job, left)


def _tell(job: Job, left: str) -> None:
    telemetry.emit("oban.job.leftover", {"job": job, "left": left})
    now = time.monotonic()
    before = _said.get((job.worker, left))

    if before is None or now - before >= QUIET_PERIOD:
        _said[job.worker, left] = now
        log.warning("%s (job %s) returned with %s", job.worker, job.id, _SAYINGS[left])


def _unsent(session: Any) -> Iterator[Any]:
    """Objects whose changes the session has not sent."""
    yield from session.new
    yield from (item for item in session.dirty if session.is_modified(item))


def _is_unsent(item: Any) -> bool:
    state = inspect(item)

    return bool(state.transient or state.pending or state.modified)


def _taken(connection: Any, record: Any, _proxy: object) -> None:
    if (run := _run.get()) is not None:
        run.held[id(record)] = connection
        record.info[_TAKEN_BY] = run


def _given_back(_connection: object, record: Any) -> None:
    # Maybe on another thread, that of the garbage collection.
    if (run := record.info.pop(_TAKEN_BY, None)) is not None:
        run.held.pop(id(record), None)


def _rolled_back(conn: Connection) -> None:
    run = _run.get()

    if run is not None and run.ending and run.left is None:
        # Of a connection that is gone nothing can be told.
        with suppress(Exception):
            run.left = left_in(conn.connection.driver_connection)
