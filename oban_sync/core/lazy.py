"""Columns of a job that are read only when somebody looks at them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Generic, TypeVar, overload

from oban_sync.core import clock, payload
from oban_sync.core.errors import JobDecodeError

Shape = TypeVar("Shape")


class Lazy(Generic[Shape]):
    """A column kept as PostgreSQL's text until somebody looks: most are never read.

    And one that cannot be read must not stop a fetch, only the job that looks at it.
    """

    def __init__(self, field: str, parse: Callable[[Any], Shape]) -> None:
        self._field = field
        self._slot = f"_{field}"
        self._parse = parse

    @overload
    def __get__(self, job: None, owner: type) -> Lazy[Shape]: ...

    @overload
    def __get__(self, job: Any, owner: type) -> Shape: ...

    def __get__(self, job: Any, owner: type) -> Lazy[Shape] | Shape:
        if job is None:
            return self

        value = getattr(job, self._slot)

        if type(value) is not str and type(value) is not int:
            return value  # type: ignore[no-any-return]

        try:
            parsed = self._parse(value)
        except ValueError as error:
            raise JobDecodeError(f"job {job.id}: {self._field} cannot be read: {error}") from error

        setattr(job, self._slot, parsed)

        return parsed

    def raw(self, job: Any) -> Any:
        """The column as it stands in a job: as PostgreSQL gave it, until somebody looked at it."""
        return getattr(job, self._slot)


def parsed_object(text: str) -> dict[str, Any]:
    """A JSON object; ValueError when it is none."""
    return _of_shape(dict, payload.decode(text))


def parsed_list(text: str) -> list[dict[str, Any]]:
    """A JSON array; ValueError when it is none."""
    return _of_shape(list, payload.decode(text))


def parsed_moment(value: str | int) -> datetime | None:
    """A time as PostgreSQL prints or keeps it; ValueError when Python has none such."""
    return clock.from_wire(value) if isinstance(value, str) else clock.from_micros(value)


def _of_shape(shape: type[Shape], value: object) -> Shape:
    if not isinstance(value, shape):
        raise ValueError(f"a JSON {type(value).__name__}, not a {shape.__name__}")

    return value
