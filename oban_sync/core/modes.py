"""How Obans behave in tests, where a test says otherwise than their configuration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from random import Random

MANUAL = "manual"
INLINE = "inline"
DISABLED = "disabled"

_mode: ContextVar[str | None] = ContextVar("oban_sync_testing", default=None)

_lends: ContextVar[bool] = ContextVar("oban_sync_lends_context", default=True)

_shuffler: ContextVar[Random | None] = ContextVar("oban_sync_shuffler", default=None)


def current(configured: str | None) -> str | None:
    """``manual`` or ``inline``; None as in production.

    Args:
        configured: What the Oban was constructed with.
    """
    mode = _mode.get()

    return configured if mode is None else None if mode == DISABLED else mode


@contextmanager
def mode(name: str) -> Iterator[None]:
    """Let every Oban behave so in the block, on this thread; ``disabled`` is as in production."""
    token = _mode.set(name)

    try:
        yield
    finally:
        _mode.reset(token)


def lends_context() -> bool:
    """Whether runs on this thread happen in what the application has around the caller."""
    return _lends.get()


@contextmanager
def lending_context(lends: bool) -> Iterator[None]:
    """Let runs in the block happen in what is around the caller, or in something of their own."""
    token = _lends.set(lends)

    try:
        yield
    finally:
        _lends.reset(token)


def shuffler() -> Random | None:
    """What puts the jobs of a drain into another order, if anything does."""
    return _shuffler.get()


@contextmanager
def shuffled(by: Random) -> Iterator[None]:
    """Let drains in the block take jobs in an order of its own."""
    token = _shuffler.set(by)

    try:
        yield
    finally:
        _shuffler.reset(token)
