"""What is known about a job that does not run, gathered in one statement. Nothing is changed."""

from __future__ import annotations

import json
from typing import Any

from oban_sync.engine.inspect import restrict_plans
from oban_sync.engine.nodes import MOST_DEATHS
from oban_sync.engine.session import Tx

#: Most jobs before it that are counted.
MOST_BEFORE = 1_000

#: Most running jobs of its queue that are looked at ...
MOST_RUNNING = 10_000

#: ... and of these, so many are named.
MOST_NAMED = 10


def gather(tx: Tx, job_id: int) -> dict[str, Any] | None:
    """What `core.explanation.judge` judges by; None where there is no such job.

    Args:
        tx: In a transaction of its own; its settings are changed.
        job_id: The job.
    """
    restrict_plans(tx)
    rows = tx.unprepared(
        "job_explain", id=job_id, most=MOST_BEFORE, seen=MOST_RUNNING, told=MOST_NAMED
    )

    if not rows:
        return None

    facts: dict[str, Any] = json.loads(rows[0][0])

    return {**facts, "most_before": MOST_BEFORE, "suspect_at": MOST_DEATHS - 1}
