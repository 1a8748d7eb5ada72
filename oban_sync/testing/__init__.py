"""What it takes to test code that enqueues jobs, and the jobs themselves."""

from oban_sync.testing.assertions import (
    Found,
    all_enqueued,
    assert_enqueued,
    assert_enqueued_during,
    refute_enqueued,
    refute_enqueued_during,
)
from oban_sync.testing.binding import bound
from oban_sync.testing.modes import mode
from oban_sync.testing.resetting import reset_oban
from oban_sync.testing.rolling_back import rolled_back
from oban_sync.testing.running import drain_queue, perform_job, process_job

__all__ = [
    "Found",
    "all_enqueued",
    "assert_enqueued",
    "assert_enqueued_during",
    "bound",
    "drain_queue",
    "mode",
    "perform_job",
    "process_job",
    "refute_enqueued",
    "refute_enqueued_during",
    "reset_oban",
    "rolled_back",
]
