"""What jobs came to and how long they took: writing it, summing it up, and reading it."""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from oban_sync.core import payload
from oban_sync.core.job import JobState
from oban_sync.core.metering import FINE, SUMMED, Scope
from oban_sync.core.sketch import Sketch, of_met, packed, times_of
from oban_sync.engine import signals
from oban_sync.engine.inspect import restrict_plans
from oban_sync.engine.session import Db, Tx

log = logging.getLogger("oban_sync.engine")

#: States of runs that failed.
FAILED = (JobState.RETRYABLE, JobState.DISCARDED)

#: Rows that are summed up, or deleted, by one statement.
BATCH = 5_000

#: Jobs that are counted of a queue, see `oban_queue_health`; likewise of a state, for Oban Web.
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
        exec_time: Oban Met's bins of how long they ran.
        wait_time: Of how long they waited, likewise.
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
                "exec_time": of_met(row.exec_time),
                "wait_time": of_met(row.wait_time),
                "scope": Scope.RAW,
                "age": age,
                "name": name,
                "node": _clean(node),
                "queue": _clean(row.queue),
                "worker": _clean(row.worker),
                "failed": row.jobs if row.state in FAILED else 0,
            }
            for row in counted
        ),
    )


def spread(tx: Tx, *, after: float) -> int:
    """Make rows of every scope of those that nodes wrote so long ago; how many these were.

    Args:
        tx: A transaction: what it takes away is added again by a second statement.
        after: Ten seconds that ended so many seconds ago.
    """
    # Those of ten seconds as well: they are to be in other scopes.
    return _move(tx, [Scope.RAW], below=FINE + 1, period=FINE, after=after)


def sum_up(tx: Tx, *, period: int, after: float) -> int:
    """Sum up rows of shorter periods to a longer one, of so long ago; how many they were.

    Args:
        tx: A transaction: what it takes away is added again by a second statement.
        period: The longer period, in seconds.
        after: Whole periods that ended so many seconds ago.
    """
    return _move(tx, SUMMED, below=period, period=period, after=after)


class _Place(NamedTuple):
    scope: str
    at: int
    name: str
    node: str
    queue: str
    worker: str
    state: str

    @property
    def summed(self) -> Iterator[_Place]:
        """Where what is in it goes to."""
        if self.scope != Scope.RAW:
            yield self
            return

        yield self._replace(scope=Scope.EACH)
        yield self._replace(scope=Scope.QUEUES, node="", worker="", state="")
        yield self._replace(scope=Scope.WORKERS, node="", state="")
        yield self._replace(scope=Scope.OUTCOMES, node="", worker="")
        yield self._replace(scope=Scope.NODES, queue="", worker="")
        yield self._replace(scope=Scope.STATES, node="", queue="", worker="")


def _move(tx: Tx, scopes: Sequence[Scope], *, below: int, period: int, after: float) -> int:
    """Take rows away and add them to those of a longer period, or of other scopes."""
    taken = tx.tuples(
        "metric_take", scopes=list(scopes), below=below, period=period, after=after, most=BATCH
    )
    jobs = Counter[_Place]()
    failed = Counter[_Place]()
    ran = defaultdict[_Place, list[bytes]](list)
    waited = defaultdict[_Place, list[bytes]](list)

    for *labels, count, failures, exec_time, wait_time, _ in taken:
        for place in _Place(*labels).summed:
            jobs[place] += count
            failed[place] += failures

            if place.scope != Scope.EACH:
                ran[place].append(exec_time)
                waited[place].append(wait_time)

    _add(
        tx,
        period,
        (
            {
                **place._asdict(),
                "jobs": count,
                "failed": failed[place],
                "exec_time": sketch_of(b"".join(ran[place])).bins,
                "wait_time": sketch_of(b"".join(waited[place])).bins,
            }
            for place, count in jobs.items()
        ),
    )

    return sum(row[-1] for row in taken)


def prune(tx: Tx, *, keep: float) -> int:
    """Delete a batch of what is older than so many seconds; how many there were."""
    return tx.run("metric_prune", keep=keep, most=BATCH)


@dataclass(frozen=True, slots=True)
class Look:
    """What of all that was counted is looked at.

    Attributes:
        first: When the first step begins, in seconds since 1970.
        step: Seconds of each step.
        label: What is told apart: ``state``, ``queue``, ``worker`` or ``node``.
        queue: Only of this queue ...
        worker: ... this worker ...
        node: ... the nodes of this name ...
        state: ... and this state.
    """

    first: int
    step: int
    label: str
    queue: str | None = None
    worker: str | None = None
    node: str | None = None
    state: str | None = None

    @property
    def scope(self) -> Scope:
        """Whose rows are read: those of the fewest that tell enough."""
        return self._scope({self.label})

    @property
    def whole_scope(self) -> Scope:
        """Likewise, where states are told apart."""
        return self._scope({"state"})

    @property
    def only(self) -> dict[str, Any]:
        """What all statements are told of it."""
        names = "first", "queue", "worker", "node", "state"

        return {name: getattr(self, name) for name in names}

    def _scope(self, wanted: set[str]) -> Scope:
        names = "queue", "worker", "node", "state"
        wanted = wanted | {name for name in names if getattr(self, name) is not None}

        return next((scope for scope, known in _KNOWN if wanted <= known), Scope.EACH)


#: What the rows of each scope are told apart by, of those that have times.
_KNOWN = (
    (Scope.STATES, {"state"}),
    (Scope.QUEUES, {"queue"}),
    (Scope.NODES, {"node", "state"}),
    (Scope.OUTCOMES, {"queue", "state"}),
    (Scope.WORKERS, {"queue", "worker"}),
)


class Measured(NamedTuple):
    """What was counted of one label in one step.

    Attributes:
        at: When the step began, in seconds since 1970.
        label: The queue, worker, node or state.
        jobs: How many jobs there were.
        failed: How many of these failed.
        ran: Packed sketches of how long they ran; None or empty where that is not known, or not
            asked for.
        waited: Of how long they waited, likewise.
    """

    at: int
    label: str
    jobs: int
    failed: int
    ran: bytes | None
    waited: bytes | None


class Whole(NamedTuple):
    """What came to one state, all in all.

    Attributes:
        state: The state.
        jobs: How many jobs.
        ran: How long they ran, as packed sketches.
        waited: How long they waited, likewise.
    """

    state: str
    jobs: int
    ran: bytes
    waited: bytes


def now(tx: Tx) -> float:
    """The time by the clock that counts are kept by, in seconds since 1970."""
    [(found,)] = tx.tuples("metric_now")

    return float(found)


def measured(tx: Tx, look: Look, *, ran: bool, waited: bool) -> list[Measured]:
    """What was counted, by step and label.

    Args:
        tx: Where.
        look: What of all.
        ran: Whether run times are wanted ...
        waited: ... and wait times.
    """
    # What is not in any scope yet has times in all of them; without the others they are of no use.
    known = look.scope is not Scope.EACH
    rows = tx.tuples(
        "metric_list",
        scope=look.scope,
        step=look.step,
        label=look.label,
        exec_time=ran and known,
        wait_time=waited and known,
        **look.only,
    )

    return list(map(Measured._make, rows))


def whole(tx: Tx, look: Look) -> list[Whole]:
    """What was counted, all in all, by state."""
    return [Whole(*row) for row in tx.tuples("metric_whole", scope=look.whole_scope, **look.only)]


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
        scheduled: Jobs that wait for their time, among the next 1,000 of all queues.
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
    with db.session() as tx:
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


def quantiles_of(data: bytes, *shares: float) -> list[float | None]:
    """The times of shares of packed sketches, and the longest, in nanoseconds."""
    try:
        return times_of(data, *shares)
    except ValueError:
        return times_of(b"", *shares)


def _clean(text: str) -> str:
    return payload.clean_text(text)
