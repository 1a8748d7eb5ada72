"""What is done about jobs that run for too long, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from oban_sync.core.checks import check_options, check_seconds, check_whole


@dataclass(frozen=True, slots=True)
class Escalation:
    """How a job on a thread is stopped whose time is up.

    At its timeout `Job.cancelled` becomes true. What does not end by that meets the steps below;
    each counts in seconds from the timeout.

    Attributes:
        cancel_sql: Statements that run on the job's own connections are cancelled.
        interrupt: An exception is raised in the thread.
        replace: The thread is given up: the job has failed, and another thread takes the place.
        most_replaced: Most threads given up at a time; while there are more, places stay taken.
    """

    cancel_sql: float = 0.5
    interrupt: float = 1.0
    replace: float = 2.0
    most_replaced: int = 20


def check_escalation(option: str, value: object) -> Escalation:
    """The steps, each later than the one before."""
    raise NotImplementedError(option, value, Mapping, check_options, check_seconds, check_whole)
