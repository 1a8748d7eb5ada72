"""The one place that reads the wall clock and turns points in time into text and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta

_virtual: ContextVar[bool] = ContextVar("oban_sync_virtual_clock", default=False)


def utc_now() -> datetime:
    """The current time, aware, in UTC."""
    return datetime.now(UTC)


@contextmanager
def virtual(on: bool = True) -> Iterator[None]:
    """Let statements take the time from this process's clock in the block, and not PostgreSQL's.

    For tests that move Python's clock. Threads started in the block do not take part.
    """
    token = _virtual.set(on)

    try:
        yield
    finally:
        _virtual.reset(token)


def is_virtual() -> bool:
    """Whether statements take the time from this process's clock."""
    return _virtual.get()


def to_wire(moment: datetime) -> str:
    """A point in time as the table keeps it: naive UTC in ISO form, with microseconds."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")


def from_wire(text: str) -> datetime:
    """Read a naive UTC timestamp as PostgreSQL prints it.

    Raises:
        ValueError: It is not a moment Python can express ('infinity', a year past 9999, BC).
    """
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError as error:
        raise ValueError(f"{text!r} is no time that Python can express") from error


_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


def from_micros(value: int) -> datetime:
    """Read a timestamp as PostgreSQL keeps it: microseconds since 2000.

    Raises:
        ValueError: As `from_wire`.
    """
    try:
        return _EPOCH + timedelta(microseconds=value)
    except OverflowError as error:
        raise ValueError(f"{value} us since 2000 is no time that Python can express") from error


def to_micros(moment: datetime) -> int:
    """A point in time as PostgreSQL keeps it: microseconds since 2000."""
    return (moment - _EPOCH) // timedelta(microseconds=1)
