"""Run a queue's jobs on the caller's own thread, for tests and scripts."""

from __future__ import annotations

from collections import Counter
from functools import partial

from oban_sync.core.config import new_identity
from oban_sync.core.errors import ObanError
from oban_sync.core.job import Job, JobState
from oban_sync.engine import ack, fetch, upkeep
from oban_sync.engine.session import Db
from oban_sync.runtime.executor import execute, perform
from oban_sync.runtime.host import Host

_COUNTED = (
    JobState.CANCELLED,
    JobState.COMPLETED,
    JobState.DISCARDED,
    JobState.RETRYABLE,
    JobState.SCHEDULED,
)


def drain(
    db: Db,
    queue: str,
    *,
    node: str,
    host: Host,
    with_recursion: bool,
    with_safety: bool,
    with_scheduled: bool,
) -> dict[str, int]:
    """Run the jobs of a queue one by one; see `Oban.drain_queue`."""
    counts = Counter({state.value: 0 for state in _COUNTED})
    claim = fetch.Claim(queue, node, new_identity())
    snoozed: Counter[int | None] = Counter()

    while True:
        if with_scheduled:
            with db.session() as tx:
                upkeep.hasten(tx, queue)

        # Without recursion everything is taken at once, so that what jobs add is left alone.
        jobs = fetch.turn(db, claim, (), 1 if with_recursion else _EVERYTHING).jobs
        ran = len(jobs)

        while jobs:
            job = jobs.pop(0)

            try:
                state = _run(db, claim, job, host, with_safety=with_safety)
            except BaseException:
                ack.release(db, jobs, owner=claim.owner)
                raise

            counts[state] += 1
            _refuse_endless(job, state, snoozed)

        if not ran or not with_recursion:
            return dict(counts)


_EVERYTHING = 2**31 - 1

#: A job that snoozes so often within one drain would do so for ever.
_MOST_SNOOZES = 100


def _refuse_endless(job: Job, state: str, snoozed: Counter[int | None]) -> None:
    if state == JobState.SCHEDULED.value:
        snoozed[job.id] += 1

        if snoozed[job.id] >= _MOST_SNOOZES:
            raise ObanError(
                f"job {job.id} ({job.worker}) snoozed {_MOST_SNOOZES} times in one drain; "
                "drain with with_scheduled=False to leave it waiting"
            )


def _run(db: Db, claim: fetch.Claim, job: Job, host: Host, *, with_safety: bool) -> str:
    outcome = execute(job, perform=partial(perform, host=host, keep_error=True))
    fetch.turn(db, claim, [outcome], 0)
    error, outcome.error = outcome.error, None

    # The outcome is written by now, so raising loses nothing. A Ctrl-C is never only a failed job.
    if error is not None and (not with_safety or isinstance(error, KeyboardInterrupt)):
        raise error

    return outcome.state.value
