"""Why a job does not run: from what is known about it to a sentence.

Pure: `engine.explain` gathers the facts, and `core.fates` and `core.reasons` have the words. Of the
reasons that hold the first is told, which would still hold if those behind it were mended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from oban_sync.core import fates, reasons
from oban_sync.core.situation import Situation
from oban_sync.core.state import JobState


class Reason(StrEnum):
    """Why a job does not run, or what became of it."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    DISCARDED = "discarded"
    SILENT = "silent"
    STOPPING = "stopping"
    EXECUTING = "executing"
    DEADLINE = "deadline"
    EXHAUSTED = "exhausted"
    SUSPENDED = "suspended"
    QUARANTINED = "quarantined"
    SCHEDULED = "scheduled"
    RETRYABLE = "retryable"
    NO_NODE = "no_node"
    LEAVING = "leaving"
    UNKNOWN_WORKER = "unknown_worker"
    PAUSED = "paused"
    GLOBAL_LIMIT = "global_limit"
    LANE_BUSY = "lane_busy"
    RATE_LIMIT = "rate_limit"
    SLOTS_FULL = "slots_full"
    BEHIND = "behind"
    DUE = "due"
    DEGRADED = "degraded"
    SOON = "soon"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a job does not run, at one moment.

    Attributes:
        job_id: The job.
        state: Its state.
        reason: What keeps it from running, or what became of it.
        sentence: The same, for people. It quotes names and errors from rows as they are.
        facts: What it was judged by, as JSON has it: the job, the nodes that run its queue, what
            was asked of the queue, what runs, the queue's limits. ``also`` lists what else holds,
            each with its reason and sentence.
    """

    job_id: int
    state: JobState
    reason: Reason
    sentence: str
    facts: dict[str, Any]


def judge(facts: dict[str, Any], name: str = "Oban") -> Explanation:
    """Tell why a job does not run.

    Args:
        facts: As `engine.explain.gather` gives them.
        name: The Oban instance that asks: for what was asked of a queue that nobody runs.
    """
    case = Situation(facts, name)
    held = [(reason, text) for reason, holds in _REASONS if (text := holds(case)) is not None]
    told = [item for item in held if item[0] not in _MILD] or held[:1]
    (reason, sentence), *others = told
    also = [{"reason": str(other), "sentence": text} for other, text in others]

    return Explanation(
        job_id=int(facts["job"]["id"]),
        state=case.state,
        reason=reason,
        sentence=sentence,
        facts={**facts, "also": also},
    )


#: What is to be told only where nothing else is.
_MILD = (Reason.EXECUTING, Reason.SOON)

_REASONS: tuple[tuple[Reason, Callable[[Situation], str | None]], ...] = (
    (Reason.COMPLETED, fates.completed),
    (Reason.CANCELLED, fates.cancelled),
    (Reason.DISCARDED, fates.discarded),
    (Reason.SILENT, fates.silent),
    (Reason.STOPPING, fates.stopping),
    (Reason.EXECUTING, fates.executing),
    (Reason.DEADLINE, fates.deadline),
    (Reason.EXHAUSTED, fates.exhausted),
    (Reason.SUSPENDED, fates.suspended),
    (Reason.QUARANTINED, fates.quarantined),
    (Reason.SCHEDULED, fates.scheduled),
    (Reason.RETRYABLE, fates.retryable),
    (Reason.NO_NODE, reasons.no_node),
    # Of a job that runs it is told first of all, of one that waits it counts less.
    (Reason.SILENT, reasons.unheard),
    (Reason.LEAVING, reasons.leaving),
    (Reason.UNKNOWN_WORKER, reasons.unknown_worker),
    (Reason.PAUSED, reasons.paused),
    (Reason.GLOBAL_LIMIT, reasons.global_limit),
    (Reason.LANE_BUSY, reasons.lane_busy),
    (Reason.RATE_LIMIT, reasons.rate_limit),
    (Reason.SLOTS_FULL, reasons.slots_full),
    (Reason.BEHIND, reasons.behind),
    (Reason.DUE, reasons.due),
    (Reason.DEGRADED, reasons.degraded),
    (Reason.SOON, reasons.soon),
)
