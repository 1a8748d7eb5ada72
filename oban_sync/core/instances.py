"""Which Oban a worker's jobs go to.

Where a framework knows which application is at work on this thread, to that application's; else to
the one constructed last under the worker's `oban=` name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from oban_sync.core.errors import NotRunningError, nearest
from oban_sync.core.job import Job


class Enqueuer(Protocol):
    """The part of Oban that workers need."""

    def enqueue(self, job: Job, *, conn: Any = None) -> Job:
        """Store a job."""
        ...


class Framework(Protocol):
    """Knows the Obans of applications."""

    def here(self, name: str) -> Enqueuer | None:
        """The one of the application that is at work on this thread, for workers of `name`."""
        ...

    def of(self, application: object, at: str | None) -> Enqueuer | None:
        """The one of an application; None of what is none.

        Args:
            application: Whatever was found.
            at: The ``module:attribute`` where, so that child processes find it too.
        """
        ...


_instances: dict[str, Enqueuer] = {}

#: Made when they are first asked for; each name is in one of the two.
_promised: dict[str, Callable[[], Enqueuer]] = {}

_frameworks: list[Framework] = []

_keeps: ContextVar[bool] = ContextVar("oban_sync_keeps_instances", default=False)


def put(name: str, instance: Enqueuer) -> None:
    """Make an instance the one of its name."""
    if _keeps.get():
        return

    _instances[name] = instance
    _promised.pop(name, None)


def promise(name: str, make: Callable[[], Enqueuer]) -> None:
    """Let the one of a name be made when it is first asked for."""
    _promised[name] = make
    _instances.pop(name, None)


@contextmanager
def kept_as_they_are() -> Iterator[None]:
    """Let an instance constructed in the block not be the one of its name by that."""
    token = _keeps.set(True)

    try:
        yield
    finally:
        _keeps.reset(token)


def join(framework: Framework) -> None:
    """Ask a framework as well from now on."""
    _frameworks.append(framework)


def get(name: str) -> Enqueuer:
    """The instance of a name, as seen from this thread.

    Raises:
        NotRunningError: None was constructed in this process.
    """
    for framework in _frameworks:
        if (found := framework.here(name)) is not None:
            return found

    if (make := _promised.get(name)) is not None:
        return make()

    try:
        return _instances[name]
    except KeyError:
        raise NotRunningError(
            f"there is no Oban named {name!r} in this process; construct Oban(...) before "
            f"enqueueing{_others()}.{nearest(name, _names())}"
        ) from None


def of(application: object, at: str | None = None) -> Enqueuer | None:
    """The instance of an application of a framework; None of what is none. See `Framework.of`."""
    for framework in _frameworks:
        if (found := framework.of(application, at)) is not None:
            return found

    return None


def clear() -> None:
    """Forget all instances; for tests."""
    _instances.clear()
    _promised.clear()


def _names() -> list[str]:
    return sorted({*_instances, *_promised})


def _others() -> str:
    names = ", ".join(repr(other) for other in _names())

    return f", or let the worker say oban=; there is {names}" if names else ""
