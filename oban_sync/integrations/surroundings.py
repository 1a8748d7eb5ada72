"""What is known of a process: what serves here, what was typed to start it, what its threads are.

It is told from the process and, where there is one, from the environment of a request. What
follows from it is `core.serving`'s to decide.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import click
from flask.cli import FlaskGroup
from flask.helpers import get_debug_flag

from oban_sync.core.config import QueueConfig
from oban_sync.core.errors import NotRunningError
from oban_sync.core.serving import Facts
from oban_sync.integrations import uwsgi
from oban_sync.runtime.within_child import refuse_within_child


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
        threads=uwsgi.runs_threads(),
        green=_green(),
        shared=server == "mod_wsgi" and not environ.get("mod_wsgi.process_group"),
        child=_is_child(),
    )


def _from_process(asked: str) -> Facts:
    command = _command()
    number = uwsgi.worker()
    serves = command == "flask run"
    server = asked or ("flask run" if serves else "")

    if not server and number is not None:
        server = "uWSGI"
    elif not server and "gunicorn.arbiter" in sys.modules:
        # Its variables are handed down to whatever a worker runs; its modules are not.
        server = "gunicorn"

    mod_wsgi = sys.modules.get("mod_wsgi")
    group = getattr(mod_wsgi, "process_group", None)

    return Facts(
        server=server or ("mod_wsgi" if group is not None else ""),
        asked=bool(asked),
        forks=not asked and number == 0,
        threads=uwsgi.runs_threads(),
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
