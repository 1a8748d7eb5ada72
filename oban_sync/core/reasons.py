"""What keeps a job back whose time has come: each looks whether it holds, and says so in words.

None stands for what does not hold. `core.explanation` has them in the order in which they count.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from oban_sync.core import controls
from oban_sync.core.controls import Control
from oban_sync.core.errors import nearest, shown
from oban_sync.core.limit_words import fields
from oban_sync.core.limits import Field
from oban_sync.core.situation import Line, Situation, last_asked
from oban_sync.core.spans import counted, lasting, listed
from oban_sync.core.state import JobState

#: Seconds after which what should happen at once is late.
LATE = 10.0


def no_node(case: Situation) -> str | None:
    """Nobody runs its queue."""
    if not case.waits or case.lines:
        return None

    queue = shown(case.queue)

    if not case.facts["alive"]:
        return f"No node is alive, so nobody runs queue {queue}: start one.{_dead(case)}"

    wanted, rows = case.asked_by_anybody()

    if not wanted.running and (stop := last_asked(rows, controls.RUNNING)) is not None:
        return f"No node runs queue {queue}: {case.who(stop, 'stopped it', 'it was stopped')}."

    strangers = ""

    if case.facts["running"]["strangers"]:
        strangers = " Nodes of another Oban, which cannot be seen from here, may run it."

    close = nearest(case.queue, case.facts["queues"])

    return f"No living node runs queue {queue}.{close}{_dead(case)}{strangers}"


def _dead(case: Situation) -> str:
    gone = [said for said in case.facts["nodes"] if not said["lives"]]

    if not gone:
        return ""

    last = min(gone, key=lambda said: float(said["beat_age"]))

    return (
        f" Node {shown(last['node'])}, which ran it, has not been heard of for "
        f"{lasting(float(last['beat_age']))}."
    )


def unheard(case: Situation) -> str | None:
    """Who runs its queue is not heard of, and not given up yet."""
    lines = case.open_lines

    if not case.waits or not lines or not all(line.silent for line in lines):
        return None

    last = min(line.beat_age for line in lines)
    who = (
        f"Node {shown(lines[0].node)}, the only one that takes jobs of queue {shown(case.queue)}, "
        "has not"
        if len(lines) == 1
        else f"No node that takes jobs of queue {shown(case.queue)} has"
    )

    return f"{who} been heard of for {lasting(last)}."


def leaving(case: Situation) -> str | None:
    """Who runs its queue is about to run it no more."""
    lines = case.lines

    if not case.waits or not lines or not all(line.stops for line in lines):
        return None

    queue = shown(case.queue)
    stops = {line.stop for line in lines}
    stop = lines[0].stop

    if len(stops) == 1 and stop is not None and not _aims_at_one(case, stop):
        return (
            f"Queue {queue} is being stopped on every node: "
            f"{case.who(stop, 'stopped it', 'it was stopped')}."
        )

    if len(lines) == 1 and stop is None:
        return (
            f"Node {shown(lines[0].node)}, which runs queue {queue}, is being stopped and takes no "
            "more jobs."
        )

    each = listed(_leaver(case, line) for line in lines[:5])

    return f"No node takes jobs of queue {queue} any more: {each}."


def _leaver(case: Situation, line: Line) -> str:
    if line.stop is None:
        return f"node {shown(line.node)} is being stopped"

    return f"on {shown(line.node)} {case.who(line.stop, 'stopped it', 'it was stopped')}"


def unknown_worker(case: Situation) -> str | None:
    """Nobody who runs its queue can run it."""
    lines = case.open_lines

    if not case.waits or not lines or any(line.knows is not False for line in lines):
        return None

    worker, workers = case.job["worker"], case.facts["workers"]
    # Others may run the queue and take none, or may know the worker and not run the queue.
    does = "runs" if len(lines) == len(case.lines) else "takes jobs of"
    close = "" if worker in workers else nearest(worker, workers)

    return (
        f"No node that {does} queue {shown(case.queue)} knows worker {shown(worker)}, so it fails "
        f"when it is started.{close}"
    )


def paused(case: Situation) -> str | None:
    """Its queue takes no jobs."""
    if not case.waits:
        return None

    if not case.lines:
        pause = case.asked_by_anybody()[0].pause

        return None if pause is None else _pause_of(case, pause)

    lines = case.staying_lines

    if not all(line.paused for line in lines):
        return None

    pauses = {line.pause for line in lines}
    first = lines[0].pause

    if len(pauses) == 1 and first is not None and not _aims_at_one(case, first):
        return _pause_of(case, first)

    each = listed(f"on {shown(line.node)} {_pauser(case, line.pause)}" for line in lines[:5])

    return f"Queue {shown(case.queue)} is paused on every node that runs it: {each}."


def _pause_of(case: Situation, pause: Control) -> str:
    if pause.queue == controls.EVERY:
        return (
            "All queues are paused on every node: "
            f"{case.who(pause, 'paused them', 'they were paused')}."
        )

    return f"Queue {shown(case.queue)} is paused on every node: {_pauser(case, pause)}."


def _pauser(case: Situation, pause: Control | None) -> str:
    if pause is None:
        return "by a signal that does not say whose it is"

    return case.who(pause, "paused it", "it was paused")


def _aims_at_one(case: Situation, pause: Control) -> bool:
    return any(
        said["seq"] == pause.seq and said["node"] != controls.EVERY
        for said in case.facts["controls"]
    )


def global_limit(case: Situation) -> str | None:
    """Its queue runs all that it may over all nodes."""
    allowed = case.limits.get("allowed")

    if not case.waits or allowed is None or case.limits["partitioned"]:
        return None

    if (running := case.limits["running"]) < allowed:
        return None

    held = case.facts["running"]["ids"]

    return (
        f"Queue {shown(case.queue)} may run {counted(allowed, 'job')} at once over all nodes, and "
        f"runs {running:,}{_named(held, case.facts['running']['jobs'])}."
    )


def lane_busy(case: Situation) -> str | None:
    """Jobs of the same key run, as many as may."""
    allowed = case.limits.get("allowed")

    if not case.waits or allowed is None or not case.limits["partitioned"]:
        return None

    # One that may burst is kept back by nothing while slots are free.
    if case.limits["burst"] or (running := case.limits["in_lane"]) < allowed:
        return None

    held = case.facts["running"]["alike_ids"]

    return (
        f"Of the jobs of queue {shown(case.queue)} with the same {_keys(case)}, {allowed:,} may "
        f"run at once, and {running:,} do{_named(held, case.facts['running']['alike'])}."
    )


def rate_limit(case: Situation) -> str | None:
    """As many were started lately as may be."""
    rate, room = case.limits.get("rate"), case.limits.get("room")

    if not case.waits or rate is None or room is None:
        return None

    if room >= (weight := case.limits["weight"] or 1):
        return None

    again = case.now + timedelta(seconds=float(case.limits["again_in"]))
    of = f" for the same {_keys(case)}" if rate["partitioned"] else ""
    heavy = f", and it weighs {weight:,}" if weight > 1 else ""
    left = max(0, int(room))
    are = "none is left" if left == 0 else "1 is left" if left == 1 else f"{left:,} are left"

    return (
        f"Queue {shown(case.queue)} may start {rate['allowed']:,} in {rate['period']:g} s{of}, of "
        f"which {are}{heavy}; there is more room {case.coming(again)}."
    )


def slots_full(case: Situation) -> str | None:
    """Every node runs as many as it can."""
    lines = case.open_lines

    if not case.waits or not lines or not all(line.full for line in lines):
        return None

    slots = sum(line.limit for line in lines)
    where = f"node {shown(lines[0].node)}" if len(lines) == 1 else f"{len(lines):,} nodes"
    rest = ""

    if len(lines) < len(case.lines):
        stops = any(line.stops for line in case.lines)
        rest = "; the others take no jobs" if stops else "; on the others it is paused"

    held = case.facts["running"]["ids"]
    which = "the slot" if slots == 1 else f"all {slots:,} slots"

    return (
        f"On {where} {which} of queue {shown(case.queue)} {'is' if slots == 1 else 'are'} taken"
        f"{_named(held, case.facts['running']['jobs'])}{rest}."
    )


def behind(case: Situation) -> str | None:
    """Others come first."""
    if case.state is not JobState.AVAILABLE or not (before := case.facts["before"]):
        return None

    number = counted(before, "job")
    many = f"{number} or more" if before >= case.facts["most_before"] else number
    come = "comes" if before == 1 else "come"
    turns = "; but keys take turns" if case.limits.get("fair") else ""

    return f"{many} of queue {shown(case.queue)} {come} before it{turns}."


def due(case: Situation) -> str | None:
    """Its time has come, and it is yet to be made available."""
    moment = case.moment("scheduled_at")

    if case.state is JobState.AVAILABLE or not case.is_due or moment is None or not case.lines:
        return None

    late = case.since(moment)
    look = min(line.look for line in case.lines)
    soon = f"it is made available within {lasting(look)}"

    if late > LATE + look:
        soon = "the nodes that run its queue are behind with making jobs available"

    return f"It has been due for {lasting(late)}; {soon}."


def degraded(case: Situation) -> str | None:
    """Nodes do not hear of it, and have to look."""
    if case.state is not JobState.AVAILABLE or not case.lines:
        return None

    if not all(line.degraded for line in case.open_lines):
        return None

    look = min(line.look for line in case.open_lines)

    return (
        f"No node that runs queue {shown(case.queue)} hears of new jobs at the moment, so it is "
        f"found by looking, within {lasting(look)}."
    )


def soon(case: Situation) -> str | None:
    """Nothing is known that keeps it."""
    moment = case.moment("scheduled_at")

    if case.state is not JobState.AVAILABLE or not case.lines:
        return None

    waited = 0.0 if moment is None else case.since(moment)

    if waited > LATE:
        return (
            f"It has been available for {lasting(waited)}, and nothing is known that keeps it: it "
            "should start any moment, unless another transaction holds its row."
        )

    return "It is available, nothing keeps it, and it should start any moment."


def _keys(case: Situation) -> str:
    return fields(tuple(Field(source, key) for source, key in case.limits["by"]))


def _named(ids: Sequence[int], jobs: int) -> str:
    """`` (jobs 1, 2 and 3 more)``; nothing where none is known."""
    if not ids:
        return ""

    more = f" and {jobs - len(ids):,} more" if jobs > len(ids) else ""

    return f" (job{'s' if jobs > 1 else ''} {', '.join(map(str, ids))}{more})"
