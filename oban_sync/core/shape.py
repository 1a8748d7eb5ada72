"""Whether a class or function can be called the way its jobs will be; found out at definition."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

from oban_sync.core.errors import ConfigError, unknown


def refuse_deferred(function: Any, name: str) -> None:
    """See that a call does the work, and does not only prepare it.

    Raises:
        ConfigError: It is async, or a generator.
    """
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigError(
            "process", f"{name} is async; jobs run on threads, so call asyncio.run(...) inside it"
        )

    if inspect.isgeneratorfunction(function):
        raise ConfigError("process", f"{name} yields, so calling it would run none of its code")


def check_shape(cls: type) -> None:
    """See that ``cls()`` and ``process(job)`` can be called; else every attempt would be spent.

    Raises:
        ConfigError: They cannot.
    """
    process = inspect.getattr_static(cls, "process")

    try:
        inspect.signature(cls).bind()
    except TypeError as error:
        raise ConfigError(
            "worker", f"{cls.__qualname__}() is called without arguments for every job: {error}"
        ) from None
    except ValueError:
        # Some classes made in C tell no signature.
        return

    if inspect.isfunction(process):
        try:
            inspect.signature(process).bind(None, None)
        except TypeError:
            raise ConfigError(
                "process", f"{cls.__qualname__}.process must take the job: def process(self, job)"
            ) from None


def check_args(option: str, function: Any, args: Collection[str]) -> None:
    """See that a function can be called with arguments of these names.

    Raises:
        ConfigError: One is missing or unknown.
    """
    parameters = inspect.signature(function).parameters
    kinds = {item.kind for item in parameters.values()}

    for item in parameters.values():
        single = item.kind not in (item.VAR_KEYWORD, item.VAR_POSITIONAL)

        if single and item.default is item.empty and item.name not in args:
            raise ConfigError(
                option,
                f"{item.name!r} is missing, which {function.__qualname__} cannot be called without",
            )

    for name in args:
        if name not in parameters and inspect.Parameter.VAR_KEYWORD not in kinds:
            raise ConfigError(option, unknown(name, parameters))
