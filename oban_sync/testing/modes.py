"""Modes that hold for a test, whatever an Oban was constructed with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from types import TracebackType
from typing import Any, TypeVar

from oban_sync.core import clock, modes
from oban_sync.core.checks import check_choice
from oban_sync.core.config import MODES
from oban_sync.core.errors import ConfigError, shown

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Mode:
    """A mode that a test asked for; see `mode`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._entered: list[ExitStack] = []

    def __enter__(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(modes.mode(self._name))

            # Else as it is: in a transaction of the test's, the time is that of its process.
            if self._name != modes.DISABLED:
                stack.enter_context(clock.virtual())

            self._entered.append(stack.pop_all())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._entered.pop().__exit__(kind, error, trace)

    def __call__(self, decorated: Decorated) -> Decorated:
        """Decorate a function, or the test methods of a class.

        Raises:
            ConfigError: It would do nothing there.
        """
        if isinstance(decorated, type):
            self._decorate_methods(decorated)

            return decorated

        if not inspect.isroutine(decorated):
            raise _refused(decorated, "neither a function nor a class")

        # Their code runs when the call has returned, and the mode is over.
        if inspect.isgeneratorfunction(decorated) or inspect.isasyncgenfunction(decorated):
            raise _refused(decorated, "a generator")

        if inspect.iscoroutinefunction(decorated):
            raise _refused(decorated, "asynchronous")

        name = self._name

        @wraps(decorated)
        def within(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True

            with Mode(name):
                return decorated(*args, **kwargs)

        return within  # type: ignore[return-value]

    def _decorate_methods(self, kind: type) -> None:
        # With those of its bases, which are tests of it too.
        methods = {
            name: inspect.getattr_static(kind, name)
            for name in dir(kind)
            if name.startswith("test") and callable(getattr(kind, name))
        }

        if not methods:
            raise _refused(kind, "a class without methods that begin with 'test'")

        for name, method in methods.items():
            if isinstance(method, (classmethod, staticmethod)):
                setattr(kind, name, type(method)(self(method.__func__)))
            else:
                setattr(kind, name, self(method))


def mode(name: str) -> Mode:
    """Let every Oban behave in a way for tests: in a block, a function, or the tests of a class.

    On this thread, and over what ``Oban(testing=...)`` says. With ``"manual"``, `Oban.start` starts
    nothing, and jobs wait for `Oban.drain_queue`. With ``"inline"``, jobs run where they are
    enqueued, once they are stored: their args make the round trip through JSON, what they came to
    is in their row, and what they raise is raised by ``enqueue``. Scheduled ones only wait. With
    ``"disabled"`` all is as in production.

    Of a class, the methods that begin with ``test`` are decorated. Generators and coroutines are
    refused, because they run after the call: use the block inside of them.

    Args:
        name: ``"manual"``, ``"inline"`` or ``"disabled"``.

    Raises:
        ConfigError: It is none of these, or decorates what it would do nothing for.

    Example:
        >>> with testing.mode("inline"):
        ...     sign_up("ann@example.com")
    """
    check_choice("mode", name, *MODES)

    return Mode(name)


def _refused(decorated: object, kind: str) -> ConfigError:
    return ConfigError(
        "mode",
        f"{shown(decorated)} is {kind}, and the mode would not hold in it; decorate a test "
        "function or a class of tests, or use the block: with testing.mode(...)",
    )
