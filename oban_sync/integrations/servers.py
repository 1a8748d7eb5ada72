"""Queues in the processes that serve requests, whatever server runs them.

Nothing starts at import, in `init_app`, in a process that only loads the application, or in one
that forks those that serve it. What proves that a process serves is a request, or a hook of its
server; then the queues start, once per process, on a thread of their own.

No signal handler is installed. Queues stop when the server lets the interpreter end.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from threading import Event, Thread, current_thread
from typing import Any
from weakref import WeakSet

from flask import Flask, request, request_started
from werkzeug.local import LocalProxy

from oban_sync.core.config import Config
from oban_sync.core.errors import (
    ConfigError,
    DatabaseUnavailableError,
    NotRunningError,
    SchemaError,
)
from oban_sync.core.serving import NEVER, Decision, Facts, decided
from oban_sync.integrations import uwsgi
from oban_sync.integrations.surroundings import facts
from oban_sync.oban import Oban

log = logging.getLogger("oban_sync.integrations")

#: Seconds before a start that failed is tried again; they double up to the longest.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0

#: Seconds past its grace that a stop may take.
AFTER_GRACE = 5.0

#: Under which an application keeps its Autostart.
EXTENSION = "oban_autostart"

_attached: WeakSet[Autostart] = WeakSet()


def decide(
    *,
    autostart: bool | None,
    queues: bool,
    testing: bool,
    environ: Mapping[str, Any] | None = None,
) -> Decision:
    """Whether queues start by themselves in this process, when and why.

    Args:
        autostart: True starts them where it is doubtful too, False nowhere, None where it is
            certain to be right.
        queues: Whether any are configured.
        testing: The application is under test.
        environ: The WSGI environment of the request that is being served; it proves most.
    """
    return decided(facts(environ), autostart=autostart, queues=queues, testing=testing)


class Autostart:
    """Starts the queues of one application in the processes that serve it.

    Args:
        oban: Gives the application's Oban; called to start it.
        autostart: As for `decide`.
        config: Gives its options, which are there without a database too; by default the Oban's.
    """

    def __init__(
        self,
        oban: Callable[[], Oban],
        *,
        autostart: bool | None,
        config: Callable[[], Config] | None = None,
    ) -> None:
        self._oban = oban
        self._config = config
        self._autostart = autostart
        self._testing: Callable[[], bool] = lambda: False
        # By process, so that a fork starts clean. No lock: one might be held when it comes.
        self._settled: dict[int, object] = {}
        self._starts: dict[int, _Start] = {}

    def attach(self, app: Flask) -> None:
        """Wait for the first request of an application, or for the hook of its server."""
        self._testing = lambda: app.testing
        # Keeps this alive for as long as the application: signals hold their receivers weakly.
        app.extensions[EXTENSION] = self
        _attached.add(self)

        if self._autostart is not False:
            request_started.connect(self._served, app)
            uwsgi.call_after_fork(self._forked)

    def begin(self, server: str) -> Decision:
        """Decide now, because a hook of a server said that this process is one of its workers."""
        decision = self._decided(facts(asked=server))
        self._settle(decision)

        return decision

    def end(self, grace: float | None = None) -> bool:
        """Stop what was started here, in this very process; as `Oban.stop`.

        Nothing is started again in this process by itself.
        """
        pid = os.getpid()
        self._settled.setdefault(pid, object())
        start = self._starts.pop(pid, None)

        if start is None:
            return True

        atexit.unregister(start.end)

        return start.end(grace)

    @property
    def config(self) -> Config:
        """The options of the application's Oban."""
        return self._oban().config if self._config is None else self._config()

    @property
    def begun(self) -> bool:
        """Whether the queues were started by this, or are about to be, in this process."""
        return os.getpid() in self._starts

    def _end_apart(self) -> None:
        """Stop on a thread of its own: this one may have been interrupted anywhere, by a signal."""
        thread = Thread(target=self.end, name="oban-end", daemon=True)
        thread.start()
        thread.join(self._oban().config.shutdown_grace_period + AFTER_GRACE)

    def _served(self, _app: Flask, **_more: object) -> None:
        if os.getpid() in self._settled:
            return

        try:
            seen = facts(request.environ)

            # A test client proves nothing, and a server may come to it yet.
            if not seen.serving and self._autostart is None:
                return

            decision = self._decided(seen)

            if seen.serving or decision.start:
                self._settle(decision)
        except Exception:
            # Requests are none of our business.
            self._settled.setdefault(os.getpid(), object())
            log.exception("whether queues start in this process could not be decided")

    def _forked(self, worker: int) -> None:
        # Mules, spoolers and the like serve no requests.
        if worker > 0:
            self.begin("uWSGI")

    def _decided(self, seen: Facts) -> Decision:
        # The least is asked first: options may be read from files, and be wrong.
        if self._autostart is False:
            return decided(seen, autostart=False, queues=True, testing=False)

        try:
            config = self.config
        except ConfigError as error:
            return Decision(False, seen.server, NEVER, str(error), trouble=True)

        return decided(
            seen,
            autostart=self._autostart,
            queues=bool(config.queues),
            testing=self._testing() or config.testing is not None,
        )

    def _settle(self, decision: Decision) -> None:
        mine = object()
        pid = os.getpid()

        # Of two threads that come here at once, one goes on.
        if self._settled.setdefault(pid, mine) is not mine:
            return

        level = logging.ERROR if decision.trouble else logging.INFO
        log.log(level, "in process %d %s", pid, decision)

        if decision.start:
            start = self._starts[pid] = _Start(self._oban, self._end_apart)
            atexit.register(start.end)
            start.thread.start()


class _Start:
    """One start in one process, tried until it succeeds or the process ends."""

    def __init__(self, oban: Callable[[], Oban], end: Callable[[], object]) -> None:
        self._oban = oban
        self._end = end
        self._pid = os.getpid()
        self._ending = Event()
        self._deadline = 0.0
        # A daemon: the interpreter must be able to exit while PostgreSQL is away.
        self.thread = Thread(target=self._run, name="oban-start", daemon=True)

    def end(self, grace: float | None = None) -> bool:
        """Stop, and start no more; does nothing in a process that was forked since."""
        if os.getpid() != self._pid:
            return True

        try:
            oban = self._oban()
        except ConfigError:
            # That was told when it was to start: what cannot be made runs nothing.
            self._ending.set()

            return True

        grace = oban.config.shutdown_grace_period if grace is None else grace
        self._deadline = time.monotonic() + grace
        self._ending.set()
        ended = oban.stop(grace)

        if self.thread.is_alive() and self.thread is not current_thread():
            # It was about to start when it was asked to end: then it stops when it is through.
            self.thread.join(max(0.0, self._deadline + AFTER_GRACE - time.monotonic()))

        return ended and not oban.running

    def _run(self) -> None:
        pause = FIRST_PAUSE

        while not self._ending.is_set():
            try:
                self._oban().start()
            except (ConfigError, NotRunningError) as error:
                log.error("the queues cannot be started here: %s", error)

                return
            except (DatabaseUnavailableError, SchemaError) as error:
                log.warning("the queues could not be started, next try in %g s: %s", pause, error)
            except Exception:
                log.exception("the queues could not be started, next try in %g s", pause)
            else:
                uwsgi.call_at_exit(self._end)

                break

            self._ending.wait(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)

        if self._ending.is_set():
            self._oban().stop(max(0.0, self._deadline - time.monotonic()))


def attached(wsgi: object) -> list[Autostart]:
    """Those of the applications that a WSGI callable leads to, through whatever wraps them.

    Where none is found, all that were attached in this process.
    """
    found = {
        id(one): one
        for item in _within(wsgi)
        if isinstance(extensions := _attribute(item, "extensions"), dict)
        and isinstance(one := extensions.get(EXTENSION), Autostart)
    }

    return list(found.values()) or list(_attached)


#: Most objects that are looked at to find an application behind what wraps it.
_MOST_WRAPPED = 500


def _within(wsgi: object) -> Iterator[object]:
    """A callable and what it may hand requests to."""
    waiting = [wsgi]
    seen: set[int] = set()

    while waiting and len(seen) < _MOST_WRAPPED:
        item = waiting.pop(0)

        if id(item) in seen:
            continue

        seen.add(id(item))

        yield item

        # An application's own insides lead everywhere.
        if not issubclass(type(item), Flask):
            waiting += [
                part for part in _parts(item) if callable(part) or issubclass(type(part), dict)
            ]


def _parts(item: Any) -> list[object]:
    # By its type: a proxy may say that it is whatever it stands for, or fail to.
    if issubclass(type(item), dict):
        return list(item.values())

    parts = [_attribute(item, name) for name in ("__self__", "__wrapped__", "func")]
    parts += [cell.cell_contents for cell in _attribute(item, "__closure__") or () if _full(cell)]

    if not issubclass(type(item), type):
        parts += list((_attribute(item, "__dict__") or {}).values())

    return parts


def _attribute(item: object, name: str) -> Any:
    """An attribute of anybody's object; None where it has none, or fails."""
    # It means what is at work at the moment, and nothing is.
    if issubclass(type(item), LocalProxy):
        return None

    try:
        return getattr(item, name, None)
    except Exception:
        return None


def _full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
