"""Taking jobs from queues with limits, and counting starts over time.

What is allowed holds for all nodes, so that only one of them at a time looks what room there is and
takes it: each limit has a lock, kept for one statement. What runs is known from the producers' own
rows, each of which says all that its producer runs; what is gone with its node is not counted.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from oban_sync.core import clock
from oban_sync.core.errors import ConfigError, shown
from oban_sync.core.job import Job
from oban_sync.core.limits import Limits, Partition, Rate, lane_of
from oban_sync.engine import wire
from oban_sync.engine.lanes import Lanes, expression
from oban_sync.engine.scan import Scan
from oban_sync.engine.session import Tx
from oban_sync.engine.statements import at_this_moment, numbered, shaped
from oban_sync.engine.wire import Bigints, Timestamps

#: Most jobs that one turn takes from a queue with lanes; another turn follows at once.
MOST_AT_ONCE = 100

#: Seconds until that turn.
AT_ONCE = 0.001

#: Seconds for which a job is passed over whose row another transaction held.
PASS_PERIOD = 1.0

#: Lanes are numbers of 64 bits.
_LEAST, _MOST = -(2**63), 2**63 - 1

_NO_IDS, _NO_FENCES = Bigints(()), Timestamps(())

Key = tuple[int, int]

#: A statement, and its values.
Step = tuple[str, Sequence[object]]


def lanes_of(tx: Tx, by: Partition, keys: Iterable[object], *, path: str) -> list[int]:
    """The lanes of keys.

    Raises:
        ConfigError: A key does not name a lane; see `core.limits.lane_of`.
    """
    jobs = [
        dict(zip(("worker", "args", "meta"), lane_of(by, path, key), strict=True)) for key in keys
    ]
    pieces = (("lane", expression(by, tx.schema)),)
    step = _shaped(tx, "lane_list", pieces, {"jobs": json.dumps(jobs)})

    return [row[0] for row in _together(tx, [step])[-1]]


def queue_limit(queue: str) -> str:
    """The name of a queue's limit."""
    return f"queue:{queue}"


def rate_params(name: str, rate: Rate | None) -> dict[str, object]:
    """The parameters by which statements count starts."""
    return {
        "rate": name,
        "algorithm": None if rate is None else rate.algorithm,
        "allowed": None if rate is None else rate.allowed,
        "period": None if rate is None else rate.period,
    }


@dataclass(frozen=True, slots=True)
class Finished:
    """Plain outcomes to be written with a turn: the starts that completed."""

    ids: Bigints
    fences: Timestamps


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken under the limits.

    Attributes:
        acked: How many of the finished jobs were still ours.
        rows: The jobs, for `Job.fetched`.
        again_in: Seconds after which there is room for more; None where it does not matter.
        picked: The ids of what was to be taken.
    """

    acked: int
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    again_in: float | None = None
    picked: list[int] = field(default_factory=list)


class Limiter:
    """Takes the jobs of one producer, as far as the limits of its queue allow.

    It remembers what the statements need from turn to turn: its number, the lanes of the jobs that
    run, and which lane's turn it is.
    """

    def __init__(self, queue: str, limits: Limits) -> None:
        self.limits = limits
        self._queue = queue
        self._lanes = Lanes(queue, limits.lane_by) if limits.lane_by else None
        self.numbered = 0
        self._lane_by_job: dict[Key, int] = {}
        # Producers begin at different places, so that they do not visit the same lanes in step.
        self._cursor = random.randint(_LEAST, _MOST)  # noqa: S311
        self._spent = 0
        # Whether the head of the queue was not enough the last time.
        self._goes_far = limits.fair
        self._weights: dict[int, int] | None = None
        # Jobs whose rows somebody else held, and until when they are passed over.
        self._passed: dict[int, float] = {}
        # Where a queue without lanes goes on.
        self._scan = Scan()
        # Whether the queue had other producers the last time.
        self._crowded = False
        # Whether the last turn's statement may be on its way still.
        self._unsure = True

    def take(
        self,
        tx: Tx,
        finished: Finished | None,
        demand: int,
        *,
        running: Collection[Job],
        node: str,
        owner: str,
        shunned: Collection[int],
        peek: bool = False,
    ) -> Taken:
        """Write what finished, and take up to `demand` jobs.

        In one transaction: the one that is open, or one of its own, in one round trip where the
        connection can.

        Args:
            finished: Jobs that completed with nothing else to write.
            demand: Most jobs to take.
            running: What the producer runs and goes on with.
            node: Who takes them ...
            owner: ... and by which producer.
            shunned: Jobs that are not taken for now.
            peek: Only find out what would be taken.
        """
        if demand <= 0:
            return self._say(tx, finished, running, owner)

        self.numbered += 1
        now = time.monotonic()

        if peek:
            # What is taken next has to be what is seen now.
            self._scan = Scan()

        if self._passed:
            self._passed = {key: until for key, until in self._passed.items() if until > now}

        kept = self._kept(running)
        name = queue_limit(self._queue)
        steps: list[Step] = []

        if self._crowded or self._by_lane:
            # In a statement of its own: the next one sees what was taken during the wait.
            steps.append(_lock(tx, name))

        params = {
            "ids": _NO_IDS if finished is None else finished.ids,
            "fences": _NO_FENCES if finished is None else finished.fences,
            "lock": name,
            "queue": self._queue,
            "demand": demand if self._lanes is None else min(demand, MOST_AT_ONCE),
            "node": node,
            "owner": owner,
            "turn": self.numbered,
            "forced": self._unsure,
            "moment": f"{clock.to_wire(clock.utc_now())}+00" if clock.is_virtual() else None,
            "shunned": Bigints([*shunned, *self._passed]),
            "peek": peek,
            **rate_params(name, self.limits.rate),
        }
        steps.append(self._fetch(tx, kept, params))
        before, self._unsure = self._unsure, True
        found = _together(tx, steps)[-1]
        # Where nothing was written, neither was the number.
        self._unsure = before and found[0][-1] is None
        again_in, cursor, spent, picked, needed, acked, others, asked = found[0][13:21]
        self._crowded = others > 0
        rows = [] if found[0][0] is None else [row[:13] for row in found]
        rows.sort()

        if peek:
            return Taken(acked, rows, again_in, picked)

        held: set[int] = set()

        # Where they are all that fits, others may wait behind them.
        if len(rows) < len(picked) and (not rows or len(picked) == demand):
            held = set(picked) - {row[2] for row in rows}
            self._passed |= dict.fromkeys(held, now + PASS_PERIOD)

        if self._lanes is not None:
            known = {job.key: lane for job, lane in zip(running, kept, strict=True)}
            self._lane_by_job = known | {(row[2], row[11]): row[12] for row in rows}
            self._cursor, self._spent = cursor, spent
            full = demand > len(rows) == MOST_AT_ONCE or (needed and not self._goes_far)
            again_in = AT_ONCE if full or held else again_in
            self._goes_far = needed
        elif self._scan.end(rows, asked):
            again_in = AT_ONCE

        return Taken(acked, rows, again_in, picked)

    @property
    def _by_lane(self) -> bool:
        """Whether what started is counted by lane: the statement itself reads those counts."""
        return self.limits.rate is not None and self.limits.rate.partitioned

    def _kept(self, running: Collection[Job]) -> list[int]:
        if self._lanes is None:
            return [0] * len(running)

        return [self._lane_by_job.get(job.key, 0) for job in running]

    def _fetch(self, tx: Tx, kept: list[int], params: dict[str, object]) -> Step:
        limits = self.limits
        total = None if limits.partitioned else limits.allowed

        if self._lanes is None:
            params |= {"kept": len(kept), "most": total, **self._scan.begin()}

            return _plain(tx, "job_fetch_limited", params)

        params |= {
            "kept": Bigints(kept),
            "most": total,
            "share": limits.allowed if limits.partitioned else None,
            "burst": limits.burst,
            "by_lane": self._by_lane,
            "cursor": self._cursor,
            "spent": self._spent,
        }
        pieces = self._lanes.pieces(tx.schema)

        if not self._goes_far:
            return _shaped(tx, "job_fetch_near", pieces, params)

        weights = self._weights_by_lane(tx)
        spent = self._spent if 0 < self._spent < weights.get(self._cursor, 1) else 0
        order = sorted(weights)
        params |= {
            "fair": limits.fair,
            # A lane whose turn is not over comes first once more; else it is the last.
            "start": max(_LEAST, self._cursor - 1) if spent else self._cursor,
            "spent": spent,
            "weighted": Bigints(order),
            "weights": Bigints([weights[lane] for lane in order]),
        }

        return _shaped(tx, "job_fetch_lanes", pieces, params)

    def _say(
        self, tx: Tx, finished: Finished | None, running: Collection[Job], owner: str
    ) -> Taken:
        """Write what finished and what runs, without taking more: nobody has to wait for it."""
        self.numbered += 1
        steps: list[Step] = []

        if finished is not None:
            values = {"ids": finished.ids, "fences": finished.fences, "owner": owner}
            steps.append(_plain(tx, "job_complete", values))

        steps.append(self._report(tx, self._kept(running), owner))
        before, self._unsure = self._unsure, True
        found = _together(tx, steps)
        self._unsure = before and not found[-1]

        return Taken(0 if finished is None else len(found[0]))

    def _report(self, tx: Tx, kept: list[int], owner: str) -> Step:
        lanes = Bigints(kept if self._lanes is not None else [])
        params = {"owner": owner, "turn": self.numbered, "jobs": len(kept), "lanes": lanes}

        return _plain(tx, "limit_report", params)

    def _weights_by_lane(self, tx: Tx) -> dict[int, int]:
        if self._weights is None:
            given = self.limits.weights
            values = [json.loads(value) for value, _ in given]
            path = f"{self.limits.queue}.fair.weights"
            lanes = lanes_of(tx, self.limits.lane_by, values, path=path) if given else []
            self._weights = dict(zip(lanes, (weight for _, weight in given), strict=True))

        return self._weights


def room(tx: Tx, name: str, rate: Rate, lane: int) -> tuple[int, float]:
    """How much of a rate limit is free at the moment, and the seconds after which there is more."""
    params = {**rate_params(name, rate), "lane": lane}
    [[row]] = _together(tx, [_plain(tx, "limit_room", params)])

    return int(row[0]), float(row[1])


def consume(
    tx: Tx, name: str, rate: Rate, lane: int, wanted: int, *, full: bool
) -> tuple[int, float]:
    """Take of a rate limit what is free, in a transaction of its own.

    Args:
        tx: A session in which no transaction is open.
        name: The limit ...
        rate: ... and what it allows.
        lane: The lane of it; 0 where there is none.
        wanted: How much to take.
        full: All of it, or nothing.

    Returns:
        How much was taken, and the seconds after which there is more room.
    """
    params = {**rate_params(name, rate), "lane": lane, "wanted": wanted, "full": full}
    rows = _alone(tx, [_lock(tx, name), _plain(tx, "limit_consume", params)])[-1]
    taken, again_in, _charged = rows[0]

    return taken, again_in


def reset(tx: Tx, name: str) -> None:
    """Forget what was counted under a rate limit, in a transaction of its own."""
    _alone(tx, [_lock(tx, name), _plain(tx, "limit_reset", {"rate": name})])


def _isolation(tx: Tx) -> Step:
    return _plain(tx, "limit_isolation", {})


def _lock(tx: Tx, name: str) -> Step:
    return _plain(tx, "limit_lock", {"name": name})


def _plain(tx: Tx, name: str, params: dict[str, Any]) -> Step:
    text, order = numbered(name, tx.schema)

    return _timed(text), [params[key] for key in order]


def _shaped(tx: Tx, name: str, pieces: tuple[tuple[str, str], ...], params: dict[str, Any]) -> Step:
    text, order = shaped(name, tx.schema, pieces)

    return _timed(text), [params[key] for key in order]


def _timed(text: str) -> str:
    return at_this_moment(text) if clock.is_virtual() else text


def _together(tx: Tx, steps: Sequence[Step]) -> list[list[tuple[Any, ...]]]:
    """Run statements in one transaction, the one that is open if any; the rows of each.

    Sent at once they are one transaction without being told so, and each sees what others committed
    before it began.
    """
    if not _is_idle(tx):
        return [_run(tx.conn, step) for step in steps]

    if not _goes_at_once(tx):
        return _in_transaction(tx, steps)

    if len(steps) == 1:
        return [wire.run(tx.conn, *steps[0])]

    return wire.run_together(tx.conn, steps)


def _alone(tx: Tx, steps: Sequence[Step]) -> list[list[tuple[Any, ...]]]:
    """The same in a transaction of its own, on a connection whose settings are not ours."""
    if not (_is_idle(tx) and _goes_at_once(tx)):
        return _in_transaction(tx, steps)

    begin, commit = _plain(tx, "limit_begin", {}), _plain(tx, "limit_commit", {})

    # Where one of them fails, whoever lent the connection rolls back.
    return wire.run_together(tx.conn, [begin, *steps, commit])[1:-1]


def _is_idle(tx: Tx) -> bool:
    if not isinstance(tx.conn, psycopg.Connection):
        raise ConfigError(
            "conn",
            f"rate limits need psycopg 3 below, and Oban is bound to {shown(tx.conn)}; let tests "
            "go through an engine of postgresql+psycopg://",
        )

    idle = tx.conn.pgconn.transaction_status == TransactionStatus.IDLE

    return idle and tx.conn.autocommit


def _goes_at_once(tx: Tx) -> bool:
    """Whether statements can be prepared and sent together: not so behind a pooler.

    Nor where each has a time of its own in it.
    """
    return (
        not clock.is_virtual()
        and tx.conn.prepare_threshold is not None
        and psycopg.capabilities.has_pipeline()
    )


def _in_transaction(tx: Tx, steps: Sequence[Step]) -> list[list[tuple[Any, ...]]]:
    with tx.conn.transaction():
        return [_run(tx.conn, step) for step in [_isolation(tx), *steps]][1:]


def _run(conn: psycopg.Connection[Any], step: Step) -> list[tuple[Any, ...]]:
    text, values = step
    # As text without a type: else a small number and a large one are two statements to prepare.
    said = [item if item is None or isinstance(item, Bigints) else str(item) for item in values]

    with wire.Cursor(conn, row_factory=tuple_row) as cursor:
        cursor.execute(text, said, binary=True)

        return cursor.fetchall() if cursor.description else []
