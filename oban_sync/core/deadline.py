"""Until when a job has to start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from oban_sync.core import clock

_LAST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Deadline:
    """After when a job is cancelled instead of run.

    Attributes:
        seconds: Counted from the time it was first scheduled for.
        force: Stop it also while it runs.
    """

    seconds: float
    force: bool = False


def with_deadline(
    meta: Mapping[str, Any], key: str, seconds: float, scheduled_at: datetime
) -> dict[str, Any]:
    """A job's meta as the insert statement stores it for a job with a deadline.

    Args:
        meta: Without it, or with another one.
        key: What the library keeps its things under.
        seconds: After the time it is scheduled for.
        scheduled_at: That time.
    """
    kept = meta.get(key)

    try:
        at = scheduled_at + timedelta(seconds=seconds)
    except OverflowError:
        at = _LAST

    return {
        **meta,
        key: {
            **(kept if isinstance(kept, dict) else {}),
            "deadline": seconds,
            "deadline_at": f"{clock.to_wire(at).replace(' ', 'T')}Z",
        },
    }


def seconds_to_start(deadline: Deadline | None, kept: object) -> float | None:
    """Seconds within which a job has to start; None for whenever it comes to it.

    Args:
        deadline: Its own, if it was given one.
        kept: What is kept of one: enqueued again, a job that was read has as long as before.
    """
    if deadline is not None:
        # To the microsecond, as PostgreSQL counts: what is returned is what was stored.
        return round(deadline.seconds, 6)

    return float(kept) if isinstance(kept, (int, float)) and type(kept) is not bool else None
