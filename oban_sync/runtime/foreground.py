"""Run in the foreground until a signal says otherwise.

The first SIGTERM or SIGINT stops gracefully, a second one hands unfinished jobs back at once, and a
third ends the process.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread, current_thread, main_thread
from types import FrameType

from oban_sync.core.errors import NotRunningError

log = logging.getLogger("oban_sync.runtime")

SIGNALS = (signal.SIGTERM, signal.SIGINT)

_STOPPED = 0

#: Seconds in which further signals count as the same one: a terminal, `timeout` and process
#: managers may signal a process both by itself and with its group.
TOGETHER = 0.5


def run_until_signal(
    start: Callable[[], object], stop: Callable[[], object], hasten: Callable[[], object]
) -> int:
    """Start, block until a signal comes, and stop; return the signal's number.

    A signal that comes during the start counts: what was started is stopped as it should be.

    Handlers that were installed before are put back at the end. Call it on the main thread: Python
    delivers signals there and nowhere else.

    Args:
        start: Called first; what it raises is passed on.
        stop: Stops gracefully; called once, on a thread of its own.
        hasten: Cuts the stop's grace short; called when a second signal comes.

    Raises:
        NotRunningError: Not called on the main thread.
    """
    if current_thread() is not main_thread():
        raise NotRunningError("run() waits for signals, so call it on the main thread")

    with _mailbox() as (inbox, outbox):
        start()
        first = _next(inbox)
        log.info("received %s, stopping; again to hand jobs back at once", _name(first))
        stopping = Thread(target=_stop, args=(stop, outbox), name="oban-stop", daemon=True)
        stopping.start()
        heard = time.monotonic()
        told = False

        while (number := _next(inbox)) != _STOPPED:
            if time.monotonic() - heard < TOGETHER:
                continue

            heard = time.monotonic()

            if told:
                log.error("received %s for the third time, exiting at once", _name(number))
                os._exit(128 + number)

            log.warning("received %s again, handing unfinished jobs back", _name(number))
            hasten()
            told = True

        stopping.join()

    return first


@contextmanager
def _mailbox() -> Iterator[tuple[socket.socket, socket.socket]]:
    inbox, outbox = socket.socketpair()
    outbox.setblocking(False)

    # Python writes the number here the moment a signal comes, on whatever thread it comes. Its own
    # handlers would wait for the main thread to run, and that one sleeps until something is here.
    descriptor = signal.set_wakeup_fd(outbox.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, _ignore) for number in SIGNALS}

    try:
        yield inbox, outbox
    finally:
        signal.set_wakeup_fd(descriptor)

        for number, handler in before.items():
            signal.signal(number, handler)

        inbox.close()
        outbox.close()


def _stop(stop: Callable[[], object], outbox: socket.socket) -> None:
    try:
        stop()
    except Exception:
        log.exception("the stop failed")
    finally:
        outbox.send(bytes([_STOPPED]))


def _next(inbox: socket.socket) -> int:
    while True:
        select.select([inbox], [], [])
        number = inbox.recv(1)[0]

        # Signals that the application handles by itself come by here too.
        if number in (_STOPPED, *SIGNALS):
            return number


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Handle a signal, so that its number is written and the process goes on."""


def _name(number: int) -> str:
    return signal.Signals(number).name
