"""The promises as invariants: each function reads the evidence and tells what breaks one.

The evidence is of three kinds: what the processes saw (ledgers, on the monotonic clock), what
PostgreSQL saw (the history of every row, in order), and how the rows are at the end. An empty list
means that the promise was kept; every line says which job, and what happened to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations, pairwise
from typing import Any

from tests.chaos.evidence import Change, Evidence, Execution

FINAL = ("completed", "discarded", "cancelled")

#: The states in which a run leaves its row.
OUTCOMES = ("completed", "discarded", "retryable", "scheduled")

#: Seconds by which PostgreSQL's clock may seem to differ from the ledgers'.
CLOCKS_DIFFER = 0.02

Invariant = Callable[[Evidence], list[str]]


def check(evidence: Evidence, *invariants: Invariant) -> None:
    """Fail with everything that any of the invariants has to say."""
    trouble = [
        f"{invariant.__name__}: {line}" for invariant in invariants for line in invariant(evidence)
    ]
    more = f"\n... and {len(trouble) - 20} more" if len(trouble) > 20 else ""

    assert not trouble, "\n".join(trouble[:20]) + more


def nothing_lost(evidence: Evidence) -> list[str]:
    """A job whose insert was committed is in the table, in a final state."""
    return [
        f"job {job} is {evidence.states.get(job, 'not in the table')} at the end\n"
        + evidence.story(job)
        for job in evidence.inserted
        if evidence.states.get(job) not in FINAL
    ]


def one_owner(evidence: Evidence) -> list[str]:
    """No two runs of a job overlap while the first one's owner lives and holds its lease."""
    return [
        f"job {job} began on {second.node} while {first.node} still ran it\n" + evidence.story(job)
        for job, runs in evidence.executions.items()
        for first, second in combinations(runs, 2)
        if second.begin < first.held_until
    ]


def second_starts_explained(evidence: Evidence) -> list[str]:
    """Every start after the first has its reason in the row: a death, an error, or a way back.

    Ways back are a snooze, a job that its own node handed back, and one that was taken but never
    began.
    """
    trouble = []

    for job, changes in evidence.history.items():
        starts = [index for index, change in enumerate(changes) if _is_start(changes, index)]

        for first, second in pairwise(starts):
            way = changes[first : second + 1]

            if not (
                way[-1].rescued > way[0].rescued
                or way[-1].errors > way[0].errors
                or any(change.state == "scheduled" for change in way)
                or (job, way[0].fence) in evidence.released
                or (job, way[0].fence) not in evidence.begun
            ):
                trouble.append(f"job {job} started again for no reason\n{evidence.story(job)}")

    return trouble


def success_is_final(evidence: Evidence) -> list[str]:
    """A completed row stays, and a run that ended well is not followed by another.

    Unless its outcome had no way to the row: the process died, or lost its lease, meanwhile.
    """
    trouble = [
        f"job {job} was completed, and then became {after.state}\n{evidence.story(job)}"
        for job, changes in evidence.history.items()
        for before, after in pairwise(changes)
        if before.state == "completed" and after.operation != "DELETE"
        if after.state != "completed"
    ]

    for job, runs in evidence.executions.items():
        for first, second in pairwise(runs):
            well = first.how == "ok" and first.end < second.begin

            if well and not _was_cut_off(evidence, first, second):
                trouble.append(f"job {job} ended well and ran again\n{evidence.story(job)}")

    return trouble


def outcomes_are_their_owners(evidence: Evidence) -> list[str]:
    """What ends a start in the row is the outcome of the very run that holds the row's fence.

    So it comes after the end of that run, and says completed only if that ended well. A rescue, a
    way back to available and a cancellation are nobody's outcome.
    """
    trouble = []

    for job, changes in evidence.history.items():
        for before, after in pairwise(changes):
            if (
                after.state not in OUTCOMES
                or after.state == before.state
                or before.state not in ("executing", "available")
                or after.rescued > before.rescued
            ):
                continue

            run = evidence.begun.get((job, after.fence or 0))

            if (
                run is None
                or run.end > after.at + CLOCKS_DIFFER
                or (after.state == "completed" and run.how != "ok")
            ):
                trouble.append(
                    f"job {job} became {after.state}, which its last start did not come to\n"
                    + evidence.story(job)
                )

    return trouble


def refused_outcomes_wrote_nothing(evidence: Evidence) -> list[str]:
    """An outcome that was fenced off has not changed the row to what it said."""
    return [
        f"job {job} became {after.state} by an outcome that was refused\n{evidence.story(job)}"
        for job, changes in evidence.history.items()
        for before, after in pairwise(changes)
        if after.state in FINAL and after.state != before.state
        if evidence.fenced.get((job, after.fence or 0)) == after.state
    ]


def way_back_spends_no_attempt(evidence: Evidence) -> list[str]:
    """A job that was rescued or handed back has the attempt that it had before its start."""
    return [
        f"job {job} came back with attempt {after.attempt} after {before.attempt}\n"
        + evidence.story(job)
        for job, changes in evidence.history.items()
        for before, after in pairwise(changes)
        if before.state == "executing"
        if after.state == "available"
        or (after.rescued > before.rescued and after.state not in FINAL)
        if after.attempt != max(0, (before.attempt or 0) - 1)
    ]


def nothing_ran_twice(evidence: Evidence) -> list[str]:
    """No job began more than once; for runs without a fault that could explain it."""
    return [
        f"job {job} ran {len(runs)} times\n{evidence.story(job)}"
        for job, runs in evidence.executions.items()
        if len(runs) > 1
    ]


def nothing_rescued(evidence: Evidence) -> list[str]:
    """No row tells of a death; for runs in which every process lived."""
    return [
        f"job {job} was rescued from a living node\n{evidence.story(job)}"
        for job, changes in evidence.history.items()
        if any(change.rescued for change in changes)
    ]


def nothing_fenced(evidence: Evidence) -> list[str]:
    """No outcome was refused."""
    return [
        f"the outcome of job {job} was refused\n{evidence.story(job)}" for job, _ in evidence.fenced
    ]


def at_most_one_leader(evidence: Evidence) -> list[str]:
    """No two nodes believe at the same time that they lead."""
    nodes = {event.node for event in evidence.of("sample")}
    spans = sorted(
        (span for node in nodes for span in reigns(evidence, node)), key=lambda span: span[1]
    )

    return [
        f"{first[0]} led from {first[1]:.3f} to {first[2]:.3f}, and {second[0]} from "
        f"{second[1]:.3f} to {second[2]:.3f}"
        for first, second in combinations(spans, 2)
        if first[0] != second[0] and second[1] < first[2]
    ]


def reigns(evidence: Evidence, node: str) -> list[tuple[str, float, float]]:
    """The times in which every sample of a node says that it leads: node, first, last."""
    spans: list[list[float]] = []
    before = False

    for event in evidence.of("sample", node=node):
        if event["leads"] and before:
            spans[-1][1] = event.at
        elif event["leads"]:
            spans.append([event.at, event.at])

        before = event["leads"]

    return [(node, first, last) for first, last in spans]


def leaders_by_moment(evidence: Evidence, step: float, since: float, until: float) -> list[int]:
    """How many nodes led at each moment of a grid, by samples taken on that grid."""
    leading: Counter[int] = Counter()
    seen: set[int] = set()

    for event in evidence.of("sample"):
        if since <= event.at <= until:
            moment = int(event.at / step)
            seen.add(moment)
            leading[moment] += bool(event["leads"])

    return [leading[moment] for moment in sorted(seen)]


def cron_exactly_once(
    found: Iterable[tuple[str, Any]], expected: Iterable[tuple[str, Any]]
) -> list[str]:
    """Every time of every entry has one job: not two, not none.

    Args:
        found: Entry and time of every job.
        expected: Entry and time, for each that was due.
    """
    counts = Counter(found)
    due = set(expected)

    return [
        *(f"{key[0]} at {key[1]} has {count} jobs" for key, count in counts.items() if count > 1),
        *(f"{key[0]} at {key[1]} has no job" for key in sorted(due - set(counts))),
    ]


#: What holds whatever happens.
ALWAYS: tuple[Invariant, ...] = (
    nothing_lost,
    one_owner,
    second_starts_explained,
    success_is_final,
    outcomes_are_their_owners,
    refused_outcomes_wrote_nothing,
    way_back_spends_no_attempt,
    at_most_one_leader,
)

#: What holds besides where no process died and none lost its lease.
UNDISTURBED: tuple[Invariant, ...] = (nothing_ran_twice, nothing_rescued, nothing_fenced)


def _is_start(changes: Sequence[Change], index: int) -> bool:
    change = changes[index]

    return change.state == "executing" and (
        index == 0
        or changes[index - 1].state != "executing"
        or changes[index - 1].fence != change.fence
    )


def _was_cut_off(evidence: Evidence, first: Execution, second: Execution) -> bool:
    return (
        any(first.begin <= at <= second.begin for at in evidence.losses(first.node))
        or first.start in evidence.fenced
        or first.start in evidence.released
    )
