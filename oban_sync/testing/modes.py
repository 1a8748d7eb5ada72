"""Modes that hold for a test, whatever an Oban was constructed with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from oban_sync.core import clock, modes
from oban_sync.core.checks import check_choice
from oban_sync.core.config import MODES


@contextmanager
def mode(name: str) -> Iterator[None]:
    """Let every Oban behave in a way for tests, in a block or a decorated function.

    On this thread, and over what ``Oban(testing=...)`` says. With ``"manual"``, `Oban.start` starts
    nothing, and jobs wait for `Oban.drain_queue`. With ``"inline"``, jobs run where they are
    enqueued, once they are stored: their args make the round trip through JSON, what they came to
    is in their row, and what they raise is raised by ``enqueue``. Scheduled ones only wait. With
    ``"disabled"`` all is as in production.

    Args:
        name: ``"manual"``, ``"inline"`` or ``"disabled"``.

    Raises:
        ConfigError: It is none of these.

    Example:
        >>> with testing.mode("inline"):
        ...     sign_up("ann@example.com")
    """
    check_choice("mode", name, *MODES)

    with modes.mode(name), clock.virtual(name != modes.DISABLED):
        yield
