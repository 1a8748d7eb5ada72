"""What telemetry, and the log, are told of a producer's turns."""

from __future__ import annotations

import time
from collections.abc import Sized

from oban_sync import telemetry
from oban_sync.engine.fetch import Turn
from oban_sync.runtime.executor import report_fenced


def report_turn(
    queue: str, turn: Turn, *, outcomes: Sized, demand: int, running: Sized, started: int
) -> None:
    """Tell what a turn did.

    Args:
        queue: The queue.
        turn: What it came to.
        outcomes: What it had to write.
        demand: How many jobs it asked for.
        running: The jobs that run now.
        started: When it began, in nanoseconds on the monotonic clock.
    """
    for outcome in turn.fenced:
        report_fenced(outcome)

    if telemetry.listened("oban.producer.turn"):
        telemetry.emit(
            "oban.producer.turn",
            {
                "queue": queue,
                "acked": len(outcomes) - len(turn.fenced),
                "demand": demand,
                "fetched": len(turn.jobs),
                "running": len(running),
                "duration": time.monotonic_ns() - started,
            },
        )
