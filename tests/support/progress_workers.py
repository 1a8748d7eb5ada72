"""Workers that tell how far they are, in children of process queues, which import this module."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from oban_sync import current_job, job


@job(queue="cpu", name="tests.child.telling")
def telling(seen):
    """Tells twice, and goes on when somebody has seen the first."""
    current_job().report_progress(1, 3, "in a child")

    for _ in range(3_000):
        if Path(seen).exists():
            break

        time.sleep(0.01)

    current_job().report_progress(2, 3)
    current_job().report_progress(3, 3)


@job(queue="cpu", name="tests.child.telling_dying", max_attempts=1)
def telling_dying():
    """Dies after a word."""
    current_job().report_progress(1, 3, "the last word")
    os.kill(os.getpid(), signal.SIGKILL)
