"""The limits of queues as nodes tell of them, and in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from oban_sync.core.errors import shown
from oban_sync.core.limits import (
    ALGORITHMS,
    LEAST_PERIOD,
    MOST_ALLOWED,
    MOST_PERIOD,
    Field,
    Limits,
    Partition,
    Rate,
)
from oban_sync.core.spans import counted, listed

_SOURCES = ("worker", "args", "meta")


def told(limits: Limits) -> dict[str, Any]:
    """The limits of a queue, as a node tells of them and `job_explain` reads them."""
    rate = limits.rate

    return {
        "allowed": limits.allowed,
        "partitioned": limits.partitioned,
        "burst": limits.burst,
        "fair": limits.fair,
        "by": [[field.source, field.key] for field in limits.lane_by],
        "rate": None
        if rate is None
        else {
            "allowed": rate.allowed,
            "period": rate.period,
            "algorithm": rate.algorithm,
            "partitioned": rate.partitioned,
        },
    }


def read(said: object) -> Limits | None:
    """The limits that a node tells of, but for its weights; None of what is no such thing."""
    try:
        return _read(said)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _read(said: Any) -> Limits:
    rate = said["rate"]
    by = tuple(Field(str(source), str(key)) for source, key in said["by"])

    if any(field.source not in _SOURCES for field in by):
        raise ValueError(by)

    found = Limits(
        allowed=None if said["allowed"] is None else _whole(said["allowed"]),
        partitioned=said["partitioned"] is True,
        burst=said["burst"] is True,
        fair=said["fair"] is True,
        lane_by=by,
        rate=None if rate is None else _rate(rate),
    )
    divided = found.partitioned or found.fair or (found.rate is not None and found.rate.partitioned)

    if divided and not by:
        raise ValueError(said)

    return found


def _rate(said: Any) -> Rate:
    if said["algorithm"] not in ALGORITHMS:
        raise ValueError(said["algorithm"])

    period = float(said["period"])

    # PostgreSQL reckons with it.
    if not LEAST_PERIOD <= period <= MOST_PERIOD:
        raise ValueError(period)

    return Rate(_whole(said["allowed"]), period, said["algorithm"], said["partitioned"] is True)


def _whole(number: object) -> int:
    if type(number) is not int or not 1 <= number <= MOST_ALLOWED:
        raise ValueError(number)

    return number


def fields(by: Partition) -> str:
    """What divides a queue: ``worker and args 'account_id'``."""
    return listed(
        f"{field.source} {shown(field.key)}" if field.key else field.source for field in by
    )


def global_limit(limits: Limits) -> str | None:
    """How many jobs may run at once, as ``20 jobs at once, over all nodes``."""
    if limits.allowed is None:
        return None

    each = f" for each {fields(limits.lane_by)}" if limits.partitioned else ""
    burst = "; more while slots are free" if limits.burst else ""

    return f"{counted(limits.allowed, 'job')} at once{each}, over all nodes{burst}"


def rate_limit(limits: Limits) -> str | None:
    """How many may start in a time, as ``100 starts in 60 s``."""
    if (rate := limits.rate) is None:
        return None

    each = f" for each {fields(limits.lane_by)}" if rate.partitioned else ""

    return f"{''.join(_rated(rate))}{each}"


def _rated(rate: Rate) -> Iterator[str]:
    yield f"{counted(rate.allowed, 'start')} in {rate.period:g} s"

    if rate.algorithm == "fixed_window":
        yield ", counted anew each time"
    elif rate.algorithm == "token_bucket":
        yield f", one more every {rate.period / rate.allowed:g} s"


def turns(limits: Limits) -> str | None:
    """Whose jobs take turns, as ``turns by args 'account_id'``."""
    return f"turns by {fields(limits.lane_by)}" if limits.fair else None
