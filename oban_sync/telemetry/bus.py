"""The event bus: handlers attached by name are called on the thread where an event happens.

Event names and fields follow oban-py; docs/telemetry.md lists them. Without a handler an event
costs one dictionary look-up.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Lock, current_thread, main_thread
from typing import Any

from oban_sync.core.errors import ConfigError, shown

log = logging.getLogger("oban_sync.telemetry")

Handler = Callable[[str, dict[str, Any]], None]

_lock = Lock()


def _anew() -> None:
    """A thread of the parent may have held the lock when the process was forked."""
    global _lock

    _lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_anew)

# Replaced as a whole under the lock, so that emitting needs none.
_handlers: dict[str, tuple[tuple[str, Handler], ...]] = {}


def attach(identifier: str, events: Iterable[str], handler: Handler) -> None:
    """Call ``handler(event, fields)`` whenever one of the events happens.

    The handler runs on the thread the event happens on, so it should be quick. One that raises is
    logged and stays attached; it never fails a job.

    Args:
        identifier: Names the handler, to detach it; attaching again under it replaces it.
        events: Names of events, as ``oban.job.stop``.
        handler: Called with the event's name and a dict of its fields.

    Raises:
        ConfigError: The handler cannot be called.
    """
    if not callable(handler):
        raise ConfigError("handler", f"{shown(handler)} cannot be called")

    global _handlers

    names = [events] if isinstance(events, str) else list(events)

    with _lock:
        handlers = _without(identifier)

        for name in names:
            handlers[name] = (*handlers.get(name, ()), (identifier, handler))

        _handlers = handlers


def detach(identifier: str) -> None:
    """Stop calling the handler attached under this identifier; nothing happens without one."""
    global _handlers

    with _lock:
        _handlers = _without(identifier)


def listened(event: str) -> bool:
    """Whether anybody follows the event, for callers whose fields cost something to gather."""
    return event in _handlers


def emit(event: str, fields: dict[str, Any]) -> None:
    """Tell the handlers of an event.

    Raises nothing, but what asks to end the program on its main thread: a Ctrl-C may come anywhere.
    """
    for identifier, handler in _handlers.get(event, ()):
        try:
            handler(event, fields)
        except BaseException as error:
            if not isinstance(error, Exception) and current_thread() is main_thread():
                raise

            log.exception("telemetry handler %r failed on %s", identifier, event)


@contextmanager
def span(event: str, **fields: Any) -> Iterator[Callable[..., None]]:
    """Emit ``event.start``, then ``event.stop`` or ``event.exception`` around a block.

    Stop and exception carry ``duration_ns``. What the block yields takes more fields for them:

        with span("oban.stager.stage") as seen:
            seen(staged_count=3)
    """
    more: dict[str, Any] = {}
    started = time.monotonic_ns()
    emit(f"{event}.start", {**fields, "monotonic_time": started})

    try:
        yield lambda **given: more.update(given)
    except BaseException as error:
        stopped = time.monotonic_ns()
        emit(
            f"{event}.exception",
            {**fields, **more, "duration_ns": stopped - started, "error": error},
        )
        raise

    stopped = time.monotonic_ns()
    emit(f"{event}.stop", {**fields, **more, "duration_ns": stopped - started})


def _without(identifier: str) -> dict[str, tuple[tuple[str, Handler], ...]]:
    kept = {
        name: tuple(pair for pair in pairs if pair[0] != identifier)
        for name, pairs in _handlers.items()
    }

    return {name: pairs for name, pairs in kept.items() if pairs}
