"""What is done about jobs that run for too long, step by step."""

from __future__ import annotations

from dataclasses import dataclass

from oban_sync.core.checks import check_options, check_seconds, check_whole
from oban_sync.core.errors import ConfigError

#: Threads of one queue that may be given up at a time, whatever is asked for.
MOST_REPLACED = 10_000


@dataclass(frozen=True, slots=True)
class Escalation:
    """How a job on a thread is stopped whose time is up.

    At its timeout `Job.cancelled` becomes true. What does not end by that meets the steps below;
    each counts in seconds from the timeout, and None leaves it out.

    Attributes:
        cancel_sql: Statements that run on the job's own connections are cancelled.
        interrupt: An exception is raised in the thread.
        replace: The thread is given up: the job has failed, and another thread takes the place.
        most_replaced: Most threads given up at a time; while there are more, places stay taken.
    """

    cancel_sql: float | None = 0.5
    interrupt: float | None = 1.0
    replace: float | None = 2.0
    most_replaced: int = 20


def check_escalation(option: str, value: object) -> Escalation:
    """``{"interrupt": seconds, ...}``; no step before an earlier one, and False for never."""
    checked = check_options(
        option,
        value,
        Escalation,
        {
            "cancel_sql": _check_step,
            "interrupt": _check_step,
            "replace": _check_step,
            "most_replaced": lambda path, given: check_whole(path, given, 0, MOST_REPLACED),
        },
    )
    steps = [
        (name, seconds)
        for name in ("cancel_sql", "interrupt", "replace")
        if (seconds := getattr(checked, name)) is not None
    ]

    for (name, seconds), (later, since) in zip(steps, steps[1:], strict=False):
        if since < seconds:
            raise ConfigError(
                f"{option}.{later}",
                f"{since:g} s is before {name}, which comes at {seconds:g} s; give {seconds:g} or "
                f"more, or another {name}",
            )

    return checked


def _check_step(option: str, value: object) -> float | None:
    if value is False:
        return None

    try:
        return check_seconds(option, value)
    except ConfigError as error:
        raise ConfigError(option, f"{error.problem}, or False for never") from None
