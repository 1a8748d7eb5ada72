"""How long a failed job waits before it runs again."""

from __future__ import annotations

import math
import random
from datetime import timedelta

from oban_sync.core.errors import shown

#: Delays are counted over this many attempts, however many a job is allowed.
CLAMP = 20

#: No delay may be longer: a century, well within what PostgreSQL can add to a timestamp.
LONGEST_DELAY = 100 * 365 * 86_400.0


def retry_delay(attempt: int, max_attempts: int) -> float:
    """Seconds until the next attempt: 15 + 2^attempt, plus up to a tenth at random.

    With more than 20 allowed attempts the growth is stretched over all of them, so a job allowed
    a thousand attempts does not end up waiting for years. The same curve as Oban and oban-py.
    """
    if max_attempts > CLAMP:
        attempt = round(attempt / max_attempts * CLAMP)

    base: float = 15 + 2 ** max(0, min(attempt, CLAMP))

    return base + random.uniform(0, base / 10)  # noqa: S311 - spread, not secrecy


def seconds(value: object) -> float:
    """Read a delay given as seconds or timedelta.

    Raises:
        ValueError: It is neither, is negative or not finite, or is longer than a century.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()

    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{shown(value)} is not a delay; give seconds or a timedelta")

    try:
        delay = float(value)
    except OverflowError:
        delay = math.inf

    if not 0 <= delay <= LONGEST_DELAY:
        raise ValueError(f"{shown(value)} is not a delay; give 0 to {LONGEST_DELAY:.0f} seconds")

    return delay
