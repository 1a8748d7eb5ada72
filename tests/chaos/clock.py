"""A clock for cron entries that runs faster than the real one, and is the same for all nodes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from oban_sync.engine import crons
from oban_sync.engine.session import Tx
from oban_sync.plugins.cron import Scheduler


def hurry(minute: float, epoch: float) -> None:
    """Let the minutes of this process's scheduler take so many seconds from a moment on.

    Args:
        minute: Seconds.
        epoch: The moment, in seconds since 1970, at which both clocks agree.
    """
    real = crons.now

    def now(tx: Tx) -> datetime:
        return fast(real(tx), minute, epoch)

    crons.now = now
    Scheduler.MINUTE = minute


def fast(moment: datetime, minute: float, epoch: float) -> datetime:
    """What the fast clock shows at a moment."""
    start = datetime.fromtimestamp(epoch, UTC)

    return start + (moment - start) * (60.0 / minute)


def real(moment: datetime, minute: float, epoch: float) -> float:
    """When the fast clock shows a moment, in seconds since 1970."""
    start = datetime.fromtimestamp(epoch, UTC)

    return epoch + (moment - start) / timedelta(seconds=60.0 / minute)
