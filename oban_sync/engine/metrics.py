"""What jobs came to and how long they took: writing it, summing it up, and reading it."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from oban_sync.core import payload
from oban_sync.core.job import JobState
from oban_sync.core.sketch import Sketch, packed
from oban_sync.engine import signals
from oban_sync.engine.inspect import restrict_plans
from oban_sync.engine.session import Db, Tx

log = logging.getLogger("oban_sync.engine")

#: Rows that are summed up, or deleted, by one statement.
BATCH = 5_000

#: Jobs that are counted of a queue, and of those that wait for their time; see `oban_queue_health`.
#: Likewise of a state, for Oban Web.
MOST_COUNTED = 10_000

#: Jobs that are looked at where a state has more.
MOST_SAMPLED = 50_000


class Counted(NamedTuple):
    """What one queue's jobs of a worker came to in one period.

    Attributes:
        queue: The queue.
        worker: The worker.
        state: What they came to.
        jobs: How many.
        exec_time: Bins of how long they ran.
        wait_time: Bins of how long they waited.
    """

    queue: str
    worker: str
    state: str
    jobs: int
    exec_time: Mapping[int, int]
    wait_time: Mapping[int, int]


def add(
    tx: Tx, counted: Iterable[Counted], *, period: int, age: float, name: str, node: str
) -> int:
    """Add what a node counted in a period to what is there; the number of rows written.

    Args:
        tx: Where.
        counted: What; no two of the same queue, worker and state.
        period: Seconds that the period has.
        age: Seconds since its middle.
        name: The Oban instance.
        node: What people call the node.
    """
    return _add(
        tx,
        period,
        (
            {
                **row._asdict(),
                "age": age,
                "name": name,
                "node": _clean(node),
                "queue": _clean(row.queue),
                "worker": _clean(row.worker),
            }
            for row in counted
        ),
    )


def sum_up(tx: Tx, *, period: int, after: float) -> int:
    """Sum up rows of shorter periods to a longer one, of so long ago; how many they were.

    Args:
        tx: A transaction: what it takes away is added again by a second statement.
        period: The longer period, in seconds.
        after: Whole periods that ended so many seconds ago.
    """
    taken = tx.tuples("metric_take", period=period, after=after, most=BATCH)
    jobs: dict[_Place, int] = {}
    ran: dict[_Place, list[bytes]] = {}
    waited: dict[_Place, list[bytes]] = {}

    for *labels, count, exec_time, wait_time, _ in taken:
        place = _Place(*labels)

        if count:
            jobs[place] = jobs.get(place, 0) + count

        for of in _places_of_times(place) if exec_time or wait_time else ():
            ran.setdefault(of, []).append(exec_time)
            waited.setdefault(of, []).append(wait_time)

    counts = ({**place._asdict(), "jobs": count} for place, count in jobs.items())
    times = (
        {
            **place._asdict(),
            "jobs": 0,
            "exec_time": sketch_of(b"".join(ran[place])).bins,
            "wait_time": sketch_of(b"".join(waited[place])).bins,
        }
        for place in ran
    )
    _add(tx, period, (*counts, *times))

    return sum(row[-1] for row in taken)


class _Place(NamedTuple):
    at: int
    name: str
    node: str
    queue: str
    worker: str
    state: str


def _places_of_times(place: _Place) -> Iterator[_Place]:
    """The rows that a row's times go to: those of all nodes, and those of a node; see the table."""
    if place.queue:
        yield place._replace(node="")

    if place.node:
        yield place._replace(queue="", worker="")


def prune(tx: Tx, *, keep: float) -> int:
    """Delete a batch of what is older than so many seconds; how many there were."""
    return tx.run("metric_prune", keep=keep, most=BATCH)


@dataclass(frozen=True, slots=True)
class Measured:
    """What was counted in one step of time of one state under one label.

    Attributes:
        at: When the step began, in seconds since 1970.
        label: The queue, worker, node or state.
        state: What the jobs came to.
        jobs: How many jobs.
        ran: Packed sketches of how long they ran, where that was asked for.
        waited: Of how long they waited, likewise.
    """

    at: int
    label: str
    state: str
    jobs: int
    ran: bytes
    waited: bytes


def list_metrics(
    db: Db,
    *,
    since: float,
    step: int,
    label: str,
    exec_time: bool = False,
    wait_time: bool = False,
    queue: str | None = None,
    worker: str | None = None,
    node: str | None = None,
    state: str | None = None,
) -> tuple[float, list[Measured]]:
    """What was counted, by steps of time.

    Returns:
        The time it is, in seconds since 1970, and what was counted.
    """
    with db.session() as tx:
        [(now,)] = tx.tuples("metric_now")
        rows = tx.tuples(
            "metric_list",
            since=since,
            step=step,
            label=label,
            exec_time=exec_time,
            wait_time=wait_time,
            queue=queue,
            worker=worker,
            node=node,
            state=state,
            of_nodes=label == "node" or node is not None,
        )

    return now, [
        Measured(at, name, came_to, jobs, ran or b"", waited or b"")
        for at, name, came_to, jobs, ran, waited in rows
        # Times of a node are not known by queue and worker for long.
        if name
    ]


def notify(tx: Tx, notes: Sequence[tuple[str, str]]) -> None:
    """Send notifications: each a channel of Oban, as ``gossip``, and a payload.

    Those that are too large are packed; if that does not help, they are left out.
    """
    rows = []

    for channel, text in notes:
        try:
            rows.append({"channel": tx.channel(channel), "payload": signals.carried(text)})
        except ValueError as error:
            log.debug("Oban Web is not told all: %s", error)

    if rows:
        tx.tuples("metric_notify", notes=json.dumps(rows))


#: How many jobs there are, by state and queue.
FullCounts = dict[tuple[str, str], int]


def full_counts(db: Db) -> tuple[FullCounts, list[JobState]]:
    """How many jobs there are in each state and queue that have any.

    Returns:
        These, and the states that are not in them, because they have more than `MOST_COUNTED`
        jobs, or no index; see `sampled_counts`.
    """
    # A transaction, because the settings for its plan must not outlive it.
    with db.looking() as tx:
        restrict_plans(tx)
        counts = {(state, queue): jobs for state, queue, jobs in _few(tx)}

    totals = Counter[str]()

    for (state, _), jobs in counts.items():
        totals[state] += jobs

    # These two have one index together.
    totals["scheduled"] = totals["retryable"] = totals["scheduled"] + totals["retryable"]
    many = [state for state in JobState if totals[state] >= MOST_COUNTED]

    return (
        {key: jobs for key, jobs in counts.items() if key[0] not in many},
        [*many, JobState.SUSPENDED],
    )


def sampled_counts(db: Db, states: Sequence[JobState]) -> FullCounts:
    """About how many jobs there are in each queue of some states, from `MOST_SAMPLED` of all."""
    with db.session() as tx:
        [(jobs,)] = tx.tuples("metric_table")
        rows = tx.tuples(
            "metric_sample",
            states=f"{{{','.join(states)}}}",
            percent=min(100.0, 100.0 * MOST_SAMPLED / max(jobs, 1.0)),
        )

    return {(state, queue): jobs for state, queue, jobs in rows}


def _few(tx: Tx) -> list[tuple[str, str, int]]:
    return tx.unprepared("metric_full_counts", most=MOST_COUNTED)


@dataclass(frozen=True, slots=True)
class QueueHealth:
    """How a queue stands, over all nodes.

    Attributes:
        queue: Its name.
        available: Jobs that could start; 10,000 stands for so many or more.
        executing: Jobs that run.
        scheduled: Jobs that wait for their time, among the next 10,000 of all queues.
        retryable: Jobs that failed and wait for another try, likewise.
        oldest_age: Seconds since the available job was due that waits for longest; 0 without any.
        slots: Jobs at once on all live nodes together.
        busy: Executing jobs of these nodes.
        nodes: Live nodes that run it.
        paused: Whether none of them takes jobs.
        throughput: Jobs a second that ran, over the minute until ten seconds ago.
        drain_estimate: Seconds until all available ones have run, at this throughput; None where
            there are some and nothing runs.
    """

    queue: str
    available: int
    executing: int
    scheduled: int
    retryable: int
    oldest_age: float
    slots: int
    busy: int
    nodes: int
    paused: bool
    throughput: float
    drain_estimate: float | None


def queue_health(db: Db) -> list[QueueHealth]:
    """How queues stand, by name."""
    # A transaction, because the settings for its plan must not outlive it.
    with db.looking() as tx:
        restrict_plans(tx)

        return tx.rows(QueueHealth, "queue_health")


def _add(tx: Tx, period: int, rows: Iterable[dict[str, Any]]) -> int:
    """Add rows to what is there; their sketches are bins."""
    given = [
        {
            **row,
            "exec_time": packed(row.get("exec_time", {})).hex(),
            "wait_time": packed(row.get("wait_time", {})).hex(),
        }
        for row in rows
    ]

    return tx.run("metric_add", period=period, rows=json.dumps(given)) if given else 0


def sketch_of(data: bytes) -> Sketch:
    """What packed sketches come to together."""
    try:
        return Sketch.unpacked(data)
    except ValueError:
        # Somebody else wrote into the table; a chart is no reason to fail.
        return Sketch()


def _clean(text: str) -> str:
    return payload.clean_text(text)
