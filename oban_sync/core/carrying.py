"""What jobs carry from where they are enqueued to where they run: context variables, mostly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from oban_sync.core import payload
from oban_sync.core.errors import ConfigError, shown

#: Bytes of JSON that one value may take: it is stored with every job.
MOST_BYTES = 10_000


@runtime_checkable
class Carrier(Protocol):
    """Takes one thing along with the jobs."""

    def capture(self) -> Any:
        """What is to be taken along from here, as JSON; None for nothing. Called at enqueue."""
        ...

    def restore(self, value: Any) -> AbstractContextManager[object]:
        """Put it in place for a run of the job, on the thread that runs it."""
        ...


@dataclass(frozen=True, slots=True)
class Carriers:
    """All that is taken along.

    Attributes:
        by_name: The carriers; the names stand in the jobs' rows.
    """

    by_name: Mapping[str, Carrier]

    def __bool__(self) -> bool:
        return bool(self.by_name)

    def capture(self) -> dict[str, Any] | None:
        """What a job that is enqueued here and now takes along; None for nothing.

        Raises:
            InvalidJobError: A value is not JSON, or too large; names it.
        """
        found: dict[str, Any] = {}

        for name, carrier in self.by_name.items():
            if (value := carrier.capture()) is not None:
                payload.encode_any(value, f"carry.{name}", most_bytes=MOST_BYTES)
                found[name] = value

        return found or None

    @contextmanager
    def restored(self, carried: object) -> Iterator[None]:
        """Put in place what a job brought, as far as its carriers are known here."""
        with ExitStack() as stack:
            for name, value in carried.items() if isinstance(carried, dict) else ():
                if (carrier := self.by_name.get(name)) is not None:
                    stack.enter_context(carrier.restore(value))

            yield


#: Takes nothing along.
NOTHING = Carriers({})


def check_carry(option: str, value: object) -> Carriers:
    """``[tenant, locale]`` of context variables, or ``{"name": variable or carrier}``."""
    if isinstance(value, Carriers):
        return value

    if not isinstance(value, Mapping):
        try:
            value = {getattr(item, "name", shown(item)): item for item in value}  # type: ignore[attr-defined]
        except TypeError:
            raise ConfigError(
                option, f"{shown(value)} is not allowed; give a list of context variables"
            ) from None

    found: dict[str, Carrier] = {}

    for name, item in value.items():
        if not isinstance(name, str) or not name or len(name) > 64 or not name.isprintable():
            raise ConfigError(option, f"{shown(name)} is no name of 1 to 64 printable characters")

        if isinstance(item, ContextVar):
            found[name] = _Variable(item)
        elif isinstance(item, Carrier):
            found[name] = item
        else:
            raise ConfigError(
                f"{option}.{name}",
                f"{shown(item)} is neither a ContextVar nor has it capture() and restore(value)",
            )

    return Carriers(found)


def with_kept(meta: Mapping[str, Any], key: str, **values: Any) -> dict[str, Any]:
    """A job's meta with more of what the library keeps in it under `key`."""
    kept = meta.get(key)

    return {**meta, key: {**(kept if isinstance(kept, dict) else {}), **values}}


class _Variable:
    """Takes a context variable along, where it is set."""

    def __init__(self, variable: ContextVar[Any]) -> None:
        self._variable = variable

    def capture(self) -> Any:
        return self._variable.get(None)

    @contextmanager
    def restore(self, value: Any) -> Iterator[None]:
        token = self._variable.set(value)

        try:
            yield
        finally:
            self._variable.reset(token)


def check_around(option: str, value: object) -> Callable[..., AbstractContextManager[object]]:
    """A function of a job that gives a context manager."""
    if not callable(value):
        raise ConfigError(
            option,
            f"{shown(value)} is not allowed; give a function of the job that gives a context "
            "manager, as one made by contextlib.contextmanager",
        )

    return value
