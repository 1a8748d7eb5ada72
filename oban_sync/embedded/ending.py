"""Ending in order when somebody asks for it by a signal."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Have a SIGTERM end the block as Ctrl-C does, so that servers started in it are stopped.

    The process exits with 143 then, unless something catches SystemExit. Without this it would end
    at once, and leave them behind. On other threads than the main one it does nothing.
    """
    try:
        before = signal.signal(signal.SIGTERM, _end)
    except ValueError:
        # Not on the main thread, which alone hears of signals.
        yield

        return

    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _end(number: int, frame: FrameType | None) -> None:
    # A second one must not cut short what the first one began.
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)
