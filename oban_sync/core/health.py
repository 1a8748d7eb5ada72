"""Whether a node is well, as its own process can tell: for those who restart or route by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Health:
    """How the node of this process is, at one moment.

    Attributes:
        ok: Whether it does its work: it runs what it is to run, and PostgreSQL can be reached.
        alive: Whether all of its threads are there. One that is not alive has to be restarted; one
            that is alive and not ok mends itself once PostgreSQL is back, or is being stopped.
        problems: What is wrong, in sentences.
        running: Whether queues run in this process.
        leader: Whether it does the work of the whole cluster.
        degraded: Whether it may hear of nothing at the moment, and finds everything by looking.
        beat_age: Seconds since its last beat; None where nothing runs.
        queues: The queues that run here.
    """

    ok: bool
    alive: bool
    problems: list[str]
    running: bool
    leader: bool = False
    degraded: bool = False
    beat_age: float | None = None
    queues: tuple[str, ...] = ()


def idle(*, stopped: bool, wants: Sequence[str]) -> Health:
    """The health of an Oban that runs nothing.

    Args:
        stopped: It was stopped.
        wants: The queues that it is to run.
    """
    if stopped:
        return Health(False, True, ["it was stopped"], running=False)

    if wants:
        problem = f"it was not started, so these queues do not run here: {', '.join(wants)}"

        return Health(False, True, [problem], running=False)

    # It only enqueues: there is nothing that could be wrong.
    return Health(True, True, [], running=False)


def judged(
    *,
    ended: Sequence[str],
    lapsed: bool,
    beaten: bool,
    beat_age: float,
    degraded: bool,
    leader: bool,
    queues: Sequence[str],
    stopping: bool = False,
) -> Health:
    """The health of a node that runs.

    Args:
        ended: Its threads that ended though nobody stopped them.
        lapsed: Its lease has ended: others may have been given its jobs.
        beaten: It was known to the cluster at any time.
        beat_age: Seconds since its last beat, or since its start.
        degraded: It may hear of nothing.
        leader: It leads.
        queues: What it runs.
        stopping: It takes no more jobs, and ends when those that run have ended.
    """
    problems = [f"the thread {name} has ended" for name in ended]

    if stopping:
        problems.append("it is being stopped, and takes no jobs")

    if not beaten:
        problems.append(
            f"no beat could be written in {beat_age:.0f} s since the start, so it takes no jobs"
        )
    elif lapsed:
        problems.append(
            f"its last beat was {beat_age:.0f} s ago, so it takes no jobs, and others may take its "
            "own"
        )

    return Health(
        ok=not problems,
        alive=not ended,
        problems=problems,
        running=True,
        leader=leader,
        degraded=degraded,
        beat_age=beat_age,
        queues=tuple(queues),
    )
