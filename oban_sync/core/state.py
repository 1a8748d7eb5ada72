"""Where jobs stand, and what stands for that in the database."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class JobState(StrEnum):
    """Where a job stands. Values are the labels stored in `oban_jobs.state`."""

    #: Waits for something other than time (used by Oban's workflows and chains).
    SUSPENDED = "suspended"
    #: Waits for its time.
    SCHEDULED = "scheduled"
    #: May start now.
    AVAILABLE = "available"
    #: Runs on some node.
    EXECUTING = "executing"
    #: Failed, and waits to be tried again.
    RETRYABLE = "retryable"
    #: Done.
    COMPLETED = "completed"
    #: Stopped for good on request.
    CANCELLED = "cancelled"
    #: Given up.
    DISCARDED = "discarded"


#: States from which a job goes on by itself.
INCOMPLETE = (
    JobState.SUSPENDED,
    JobState.AVAILABLE,
    JobState.SCHEDULED,
    JobState.EXECUTING,
    JobState.RETRYABLE,
)

#: States as Oban Pro numbers them in ``meta.uniq_bmp``; the index on unique jobs does the same.
BITS: Mapping[JobState, int] = {
    JobState.SCHEDULED: 0,
    JobState.AVAILABLE: 1,
    JobState.EXECUTING: 2,
    JobState.RETRYABLE: 3,
    JobState.COMPLETED: 4,
    JobState.CANCELLED: 5,
    JobState.DISCARDED: 6,
    JobState.SUSPENDED: 7,
}
