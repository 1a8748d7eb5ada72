"""uWSGI: whether it runs threads, and its calls after a fork and before its end.

There is nothing to install or to import: it has a module of its own name inside its processes, and
only there.
"""

from __future__ import annotations

import ctypes
import logging
import sys
from collections.abc import Callable
from typing import Any

log = logging.getLogger("oban_sync.integrations")

_OFF = ("", "0", "false", "no", "off", "n", "f")

_Hook = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

#: Kept for as long as the process: C knows only where they are.
_hooks: list[object] = []


def worker() -> int | None:
    """The number of this worker; 0 in the process that forks them, None outside of uWSGI."""
    uwsgi = _uwsgi()

    return None if uwsgi is None else int(uwsgi.worker_id())


def runs_threads() -> bool:
    """Whether threads run while no request is served; in uWSGI, by its configuration."""
    uwsgi = _uwsgi()

    if uwsgi is None:
        return True

    # Of late it always does.
    if hasattr(uwsgi, "has_threads"):
        return bool(uwsgi.has_threads)

    options = {_text(key): _text(value).lower() for key, value in uwsgi.opt.items()}

    return "threads" in options or options.get("enable-threads", "") not in _OFF


def call_after_fork(call: Callable[[int], None]) -> None:
    """Have each worker that is still to be forked call, with its number."""
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
        # Where there is no chain of theirs, ours has to do.
        uwsgi.post_fork_hook = _chained(getattr(uwsgi, "post_fork_hook", None), hook)


def call_at_exit(call: Callable[[], object]) -> None:
    """Have this process call before it ends.

    uWSGI ends a worker by ``exit()``, and may be told to leave Python's hooks out. Its own come too
    late: OpenSSL has cleaned up behind itself by then, and no connection can be made any more. What
    was registered last is called first, so do this after the first connection was made.
    """
    if (uwsgi := _uwsgi()) is None:
        return

    # Nobody is there to take an exception.
    hook = _Hook(lambda _: _safely(call))
    register = getattr(ctypes.CDLL(None), "__cxa_atexit", None)

    if register is not None and register(hook, None, None) == 0:
        _hooks.append(hook)
    else:
        uwsgi.atexit = _chained(getattr(uwsgi, "atexit", None), call)


def _safely(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:
        log.exception("the queues could not be stopped")


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


def _uwsgi() -> Any:
    """uWSGI's own module, which only exists within it."""
    module = sys.modules.get("uwsgi")

    return module if hasattr(module, "worker_id") else None


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
