"""What pages on queues and nodes show beside `control/`: failures, load, and what was asked for.

Nothing here changes anything, and every look is bounded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from oban_sync.core import controls, limit_words
from oban_sync.core.controls import Control
from oban_sync.core.limits import Limits
from oban_sync.engine import limits
from oban_sync.engine.inspect import restrict_plans
from oban_sync.engine.session import Db

#: Jobs that failed lately, at the most.
MOST_FAILURES = 100

#: Jobs that wait for their time which are looked through for failed ones.
MOST_WAITING = 500

#: Characters of an error that are read, from its start and from its end.
MOST_CHARACTERS = 4_000


@dataclass(frozen=True, slots=True)
class Failure:
    """A job that failed lately.

    Attributes:
        id: The job.
        state: ``discarded``, or ``retryable``.
        queue: Its queue.
        worker: Its worker.
        attempt: Times started.
        max_attempts: Most times it may be started.
        failed_at: When it was discarded, or started to fail.
        error: The error of its last try; long ones without their middle.
    """

    id: int
    state: str
    queue: str
    worker: str
    attempt: int
    max_attempts: int
    failed_at: datetime
    error: str | None


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked of a queue, and of which node.

    Attributes:
        node: What people call the node, or ``*`` for all.
        control: What.
    """

    node: str
    control: Control


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """The limits of a queue over all nodes, and how far they are used.

    Attributes:
        limits: The limits, as the node tells of them that started last, but for its weights.
        different: Whether another node tells of others, or of none.
        running: Jobs that run, as far as a limit looks at that.
        lanes: How many values of what divides the queue have some ...
        busiest: ... and the most of one of these.
        room: How many may start now; None without a rate limit, or where it is one for each value.
        again_in: Seconds until more may.
    """

    limits: Limits
    different: bool
    running: int
    lanes: int
    busiest: int
    room: int | None = None
    again_in: float | None = None


def queue_limits(db: Db, queue: str) -> QueueLimits | None:
    """The limits of a queue, as live nodes keep them; None where it has none beside its slots.

    Raises:
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    with db.session() as tx:
        rows = tx.tuples("overview_limits", queue=queue)

        if not rows:
            return None

        [(said, different, running, lanes, busiest)] = rows

        if (found := limit_words.read(json.loads(said))) is None or not found.any:
            return None

        room = again_in = None

        if found.rate is not None and not found.rate.partitioned:
            room, again_in = limits.room(tx, limits.queue_limit(queue), found.rate, 0)

    return QueueLimits(found, different, running, lanes, busiest, room, again_in)


def recent_failures(db: Db, *, most: int = MOST_FAILURES) -> list[Failure]:
    """Jobs that were discarded lately, or failed and wait for another try; the newest first.

    Of those that wait, the ones among the next to run.

    Raises:
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    # A transaction, because the settings for its plan must not outlive it.
    with db.looking() as tx:
        restrict_plans(tx)

        return tx.rows(
            Failure,
            "overview_failures",
            within=MOST_WAITING,
            characters=MOST_CHARACTERS,
            most=most,
        )


def busy(db: Db, queue: str | None = None) -> dict[tuple[str | None, str], int]:
    """How many jobs each producer runs, by its uuid and the queue.

    Args:
        db: Where the tables are.
        queue: Only in this queue.

    Raises:
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    with db.looking() as tx:
        restrict_plans(tx)
        rows = tx.unprepared("overview_busy", queue=queue)

    return {(producer, name): jobs for producer, name, jobs in rows}


def list_orders(db: Db, name: str) -> list[Order]:
    """What was asked of queues, in the order in which it was asked for.

    Raises:
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    with db.session() as tx:
        rows = tx.tuples("overview_controls", name=name)

    found = []

    for seq, queue, node, aspect, value, by, at, until, ended in rows:
        try:
            checked: Any = controls.checked(aspect, json.loads(value))
        except ValueError:
            # Nodes pass it over as well.
            continue

        found.append(Order(node, Control(seq, queue, aspect, checked, by, at, until, ended)))

    return found
