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
import sys
from collections.abc import Callable, Iterator, Mapping
from threading import Event, Thread, current_thread
from typing import Any
from weakref import WeakSet

import click
from flask import Flask, request, request_started
from flask.cli import FlaskGroup
from flask.helpers import get_debug_flag

from oban_sync.core.config import QueueConfig
from oban_sync.core.errors import (
    ConfigError,
    DatabaseUnavailableError,
    NotRunningError,
    SchemaError,
)
from oban_sync.core.serving import Decision, Facts, decided
from oban_sync.oban import Oban
from oban_sync.runtime.processes import refuse_within_child

log = logging.getLogger("oban_sync.integrations")

#: Seconds before a start that failed is tried again; they double up to the longest.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0

#: Seconds that a stop gives to a start that began just before.
LAST_MOMENT = 1.0

#: Under which an application keeps its Autostart.
EXTENSION = "oban_autostart"

_OFF = ("", "0", "false", "no", "off", "n", "f")

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


def facts(environ: Mapping[str, Any] | None = None, *, asked: str = "") -> Facts:
    """What is known of this process.

    Args:
        environ: The WSGI environment of a request that is being served here.
        asked: The server whose hook said that this is one of its workers.
    """
    if environ is None:
        return _from_process(asked)

    server = _server_of(environ)
    forking = server == "werkzeug" and bool(environ.get("wsgi.multiprocess"))

    return Facts(
        server=server,
        # A test client calls the application as a server does, and is none.
        serving=bool(server),
        per_request=bool(environ.get("wsgi.run_once")) or forking,
        threads=_runs_threads(),
        green=_green(),
        shared=server == "mod_wsgi" and not environ.get("mod_wsgi.process_group"),
        child=_is_child(),
    )


class Autostart:
    """Starts the queues of one application in the processes that serve it.

    Args:
        oban: Gives the application's Oban; called when it is decided, and to start it.
        autostart: As for `decide`.
    """

    def __init__(self, oban: Callable[[], Oban], *, autostart: bool | None) -> None:
        self._oban = oban
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
            _call_after_uwsgi_forks(self._forked)

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
    def oban(self) -> Oban:
        """The application's Oban."""
        return self._oban()

    @property
    def begun(self) -> bool:
        """Whether the queues were started by this, or are about to be, in this process."""
        return os.getpid() in self._starts

    def _served(self, _app: Flask, **_more: object) -> None:
        if os.getpid() in self._settled:
            return

        try:
            seen = facts(request.environ)
            decision = self._decided(seen)

            # A test client proves nothing, and a server may come to it yet.
            if decision.start and not seen.serving and self._autostart is None:
                return

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
        # The least is asked first: to know the queues, the Oban may have to be made.
        if self._autostart is False:
            return decided(seen, autostart=False, queues=True, testing=False)

        config = self._oban().config

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
            start = self._starts[pid] = _Start(self._oban)
            atexit.register(start.end)
            _call_at_uwsgi_exit(self.end)
            start.thread.start()


class _Start:
    """One start in one process, tried until it succeeds or the process ends."""

    def __init__(self, oban: Callable[[], Oban]) -> None:
        self._oban = oban
        self._pid = os.getpid()
        self._ending = Event()
        # A daemon: the interpreter must be able to exit while PostgreSQL is away.
        self.thread = Thread(target=self._run, name="oban-start", daemon=True)

    def end(self, grace: float | None = None) -> bool:
        """Stop, and start no more; does nothing in a process that was forked since."""
        if os.getpid() != self._pid:
            return True

        self._ending.set()
        oban = self._oban()
        ended = oban.stop(grace)

        if self.thread is not current_thread():
            self.thread.join(LAST_MOMENT)

        # It may have been about to start when it was asked to end.
        return oban.stop(grace) if oban.running else ended

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
                break

            self._ending.wait(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)

        if self._ending.is_set():
            self._oban().stop()


def attached(wsgi: object) -> list[Autostart]:
    """Those of the applications that a WSGI callable leads to, through whatever wraps them.

    Where none is found, all that were attached in this process.
    """
    found = {
        id(one): one
        for item in _within(wsgi)
        if isinstance(extensions := getattr(item, "extensions", None), dict)
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
        if not isinstance(item, Flask):
            waiting += [part for part in _parts(item) if callable(part) or isinstance(part, dict)]


def _parts(item: object) -> list[object]:
    if isinstance(item, dict):
        return list(item.values())

    parts = [getattr(item, name, None) for name in ("__self__", "__wrapped__", "func")]
    parts += [
        cell.cell_contents for cell in getattr(item, "__closure__", None) or () if _full(cell)
    ]

    if not isinstance(item, type):
        parts += list(getattr(item, "__dict__", {}).values())

    return parts


def _full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _from_process(asked: str) -> Facts:
    command = _command()
    uwsgi = _uwsgi()
    serves = command == "flask run"
    server = asked or ("flask run" if serves else "")

    if not server and uwsgi is not None:
        server = "uWSGI"
    elif not server and "gunicorn.arbiter" in sys.modules:
        # Its variables are handed down to whatever a worker runs; its modules are not.
        server = "gunicorn"

    mod_wsgi = sys.modules.get("mod_wsgi")
    group = getattr(mod_wsgi, "process_group", None)

    return Facts(
        server=server or ("mod_wsgi" if group is not None else ""),
        asked=bool(asked),
        forks=not asked and uwsgi is not None and uwsgi.worker_id() == 0,
        threads=_runs_threads(),
        green=_green(),
        shared=group == "",
        reloader_parent=serves and _reloads() and os.environ.get("WERKZEUG_RUN_MAIN") != "true",
        command="" if serves else command,
        child=_is_child(),
    )


def _server_of(environ: Mapping[str, Any]) -> str:
    """What serves a request; empty where nothing says so."""
    if "uwsgi.version" in environ:
        return "uWSGI"

    if "mod_wsgi.version" in environ:
        return "mod_wsgi"

    name = str(environ.get("SERVER_SOFTWARE") or "").partition("/")[0].strip()

    return name.lower()


def _command() -> str:
    """The command line that runs here, as ``flask shell``."""
    context = click.get_current_context(silent=True)

    if context is None:
        return ""

    root = context.find_root()
    names = context.command_path.removeprefix(root.command_path).split()

    # It may be called by another name, as python -m flask.
    return " ".join(
        ["flask" if isinstance(root.command, FlaskGroup) else root.command_path, *names]
    )


def _reloads() -> bool:
    context = click.get_current_context(silent=True)
    given = None if context is None else context.params.get("reload")

    return get_debug_flag() if given is None else bool(given)


def _uwsgi() -> Any:
    """uWSGI's own module, which only exists within it."""
    try:
        import uwsgi
    except ImportError:
        return None

    return uwsgi if hasattr(uwsgi, "worker_id") else None


def _runs_threads() -> bool:
    """Whether threads run while no request is served; in uWSGI, by its configuration."""
    uwsgi = _uwsgi()

    if uwsgi is None:
        return True

    # Of late it always does.
    if hasattr(uwsgi, "has_threads"):
        return bool(uwsgi.has_threads)

    options = {_text(key): _text(value).lower() for key, value in uwsgi.opt.items()}

    return "threads" in options or options.get("enable-threads", "") not in _OFF


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _green() -> str:
    gevent = sys.modules.get("gevent.monkey")

    if gevent is not None and gevent.is_module_patched("threading"):
        return "gevent"

    eventlet = sys.modules.get("eventlet.patcher")

    return "eventlet" if eventlet is not None and eventlet.is_monkey_patched("thread") else ""


def _is_child() -> bool:
    try:
        refuse_within_child([QueueConfig("any", 1)])
    except NotRunningError:
        return True

    return False


def _call_after_uwsgi_forks(call: Callable[[int], None]) -> None:
    """Have uWSGI call with the worker's number in each worker it forks, where that is to come."""
    uwsgi = _uwsgi()

    # A worker loads the application by itself with lazy-apps; its first request is to come.
    if uwsgi is None or uwsgi.worker_id() != 0:
        return

    def hook() -> None:
        try:
            call(uwsgi.worker_id())
        except Exception:
            log.exception("the queues could not be started after the fork")

    decorators = sys.modules.get("uwsgidecorators")

    if decorators is not None:
        decorators.postfork_chain.append(hook)
    else:
        # Is there no chain of theirs, ours has to do; theirs would replace ours.
        uwsgi.post_fork_hook = _chained(getattr(uwsgi, "post_fork_hook", None), hook)


def _call_at_uwsgi_exit(call: Callable[[], object]) -> None:
    """Have uWSGI call before it ends; it may be told to leave Python's own hooks out."""
    if (uwsgi := _uwsgi()) is not None:
        uwsgi.atexit = _chained(getattr(uwsgi, "atexit", None), call)


def _chained(
    first: Callable[[], object] | None, second: Callable[[], object]
) -> Callable[[], object]:
    if first is None:
        return second

    def both() -> None:
        try:
            second()
        finally:
            first()

    return both
