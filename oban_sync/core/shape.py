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


def check_shape(cls: type, *, transactional: bool = False) -> None:
    """See that ``cls()`` and ``process(job)`` can be called; else every attempt would be spent.

    Args:
        cls: The worker.
        transactional: Whether `process` gets a second argument.

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
        signature = inspect.signature(process)
        name = f"{cls.__qualname__}.process"

        if transactional and not _takes(signature, 3):
            raise ConfigError(
                "process",
                f"{name} must take the job, and the connection or session that its work is "
                "committed by, since the worker is transactional: def process(self, job, session)",
            )

        if not transactional and not _takes(signature, 2):
            more = _takes(signature, 3)
            advice = "; a transactional=True worker gets a second argument" if more else ""

            raise ConfigError(
                "process", f"{name} must take the job: def process(self, job){advice}"
            )


def arguments_of(function: Any, *, transactional: bool = False) -> inspect.Signature:
    """What callers give to a function, where its first argument is not theirs to give.

    Args:
        function: The function.
        transactional: Whether it gets a connection or session as its first argument.

    Raises:
        ConfigError: It takes none.
    """
    signature = inspect.signature(function)

    if not transactional:
        return signature

    parameters = list(signature.parameters.values())
    first = parameters[0] if parameters else None

    if first is None or first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        name = getattr(function, "__qualname__", "the function")

        raise ConfigError(
            "transactional",
            f"{name} must take the connection or session that its work is committed by as its "
            f"first parameter: def {name.rpartition('.')[2]}(session, ...)",
        )

    return signature.replace(parameters=parameters[1:])


def check_args(
    option: str, function: Any, args: Collection[str], *, transactional: bool = False
) -> None:
    """See that a function can be called with arguments of these names.

    Raises:
        ConfigError: One is missing or unknown.
    """
    parameters = arguments_of(function, transactional=transactional).parameters
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


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False

    return True
