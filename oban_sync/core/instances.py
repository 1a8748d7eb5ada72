"""Which Oban a worker's jobs go to: the one constructed last under the worker's `oban=` name."""

from __future__ import annotations

from typing import Any, Protocol

from oban_sync.core.errors import NotRunningError, nearest
from oban_sync.core.job import Job


class Enqueuer(Protocol):
    """The part of Oban that workers need."""

    def enqueue(self, job: Job, *, conn: Any = None) -> Job:
        """Store a job."""
        ...


_instances: dict[str, Enqueuer] = {}


def put(name: str, instance: Enqueuer) -> None:
    """Make an instance the one of its name."""
    _instances[name] = instance


def get(name: str) -> Enqueuer:
    """The instance of a name.

    Raises:
        NotRunningError: None was constructed in this process.
    """
    try:
        return _instances[name]
    except KeyError:
        raise NotRunningError(
            f"there is no Oban named {name!r} in this process; construct Oban(...) before "
            f"enqueueing{_others()}.{nearest(name, _instances)}"
        ) from None


def _others() -> str:
    names = ", ".join(repr(other) for other in sorted(_instances))

    return f", or let the worker say oban=; there is {names}" if names else ""


def clear() -> None:
    """Forget all instances; for tests."""
    _instances.clear()
