"""Taking jobs, together with writing what finished: the one statement of a producer's turn."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import psycopg

from oban_sync.core.errors import DatabaseUnavailableError
from oban_sync.core.job import Job
from oban_sync.core.lease import Lease
from oban_sync.core.limits import Limits
from oban_sync.core.outcome import Outcome
from oban_sync.engine import ack
from oban_sync.engine.limits import Finished, Limiter
from oban_sync.engine.scan import Scan
from oban_sync.engine.session import Db, Tx, is_busy, is_refusal, reason
from oban_sync.engine.wire import Bigints

log = logging.getLogger("oban_sync.engine")


#: Seconds for which a job that could not be taken is left out.
SHUN_PERIOD = 60.0

#: Seconds before another try at the lock of a queue that others have.
BUSY_PAUSE = 0.2


class Shunned:
    """Jobs that PostgreSQL would not let us change, left out for a while.

    A trigger or a check of the table refuses the change; without this one of them would hold up all
    its neighbours. They are tried again later, since what refuses may go away.
    """

    def __init__(self) -> None:
        self._until: dict[int, float] = {}

    def add(self, job_id: int) -> None:
        """Leave a job out from now on."""
        self._until[job_id] = time.monotonic() + SHUN_PERIOD

    def ids(self) -> list[int]:
        """The jobs to leave out now."""
        if self._until:
            now = time.monotonic()
            self._until = {key: until for key, until in self._until.items() if until > now}

        return list(self._until)


@dataclass(slots=True)
class Claim:
    """Who takes jobs, and from where.

    Attributes:
        queue: The queue.
        node: Name of the node, for people.
        owner: uuid of the producer.
        shunned: Jobs that are not taken for now.
        lease: What the jobs are held by; None where nobody else could take them.
        limits: What else the queue is held to. Without any, and without a producer's row, jobs are
            taken as they come.
    """

    queue: str
    node: str
    owner: str
    shunned: Shunned = field(default_factory=Shunned)
    lease: Lease | None = None
    limits: Limits = Limits()
    limiter: Limiter | None = field(init=False)
    scan: Scan = field(init=False, default_factory=Scan)

    def __post_init__(self) -> None:
        self.limiter = Limiter(self.queue, self.limits) if self.limits.any else None

    @property
    def attempted_by(self) -> list[str]:
        """What the jobs' rows say of it."""
        return [self.node, self.owner]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn did.

    Attributes:
        jobs: The jobs taken, most urgent first.
        fenced: Outcomes not written, because somebody else has the job by now.
        refused: Outcomes that PostgreSQL takes in no form.
        left: Outcomes to be written by a later turn: too many at once, or their row is held by
            another transaction.
        again_in: Seconds after which there may be more to take: a limit leaves room then, or not
            every place was looked at. None where it does not matter.
    """

    jobs: list[Job]
    fenced: list[Outcome] = field(default_factory=list)
    refused: list[Outcome] = field(default_factory=list)
    left: list[Outcome] = field(default_factory=list)
    again_in: float | None = None


def turn(
    db: Db,
    claim: Claim,
    outcomes: Sequence[Outcome],
    demand: int,
    *,
    running: Collection[Job] = (),
    carefully: bool = False,
) -> Turn:
    """Write outcomes and take up to `demand` jobs, all in one commit.

    Whatever PostgreSQL refuses is found, written in a lesser form or set aside, so that nothing a
    row or an outcome holds can stop the queue.

    Args:
        running: The jobs of this producer that go on; those with outcomes are not among them.
        carefully: Write every outcome by the statement that passes over rows held by others. It is
            the slower one, and is chosen by itself when the quick one had to wait for too long.

    Raises:
        DatabaseUnavailableError: The connection was lost. The outcomes may or may not be written,
            and jobs may have been taken: try the outcomes again, and `ack.reconcile` first.
        SchemaError: The tables are gone.
    """
    plain = [outcome for outcome in outcomes if outcome.plain and not carefully]
    other = [outcome for outcome in outcomes if not outcome.plain or carefully]
    written = ack.Written()

    try:
        with db.session() as tx:
            if other and claim.limiter is not None:
                # By itself: the queue's lock is not kept from one statement to the next.
                written = ack.ack(tx, other, owner=claim.owner)
                taken = _take(tx, claim, plain, demand, running)
            elif not other:
                taken = _take(tx, claim, plain, demand, running)
            else:
                with tx.conn.transaction():
                    written = ack.ack(tx, other, owner=claim.owner)
                    taken = _take(tx, claim, plain, demand, running)
    except (psycopg.Error, UnicodeError) as error:
        if is_busy(error) and claim.limiter is not None and demand > 0:
            # Others have the queue's lock. What finished need not wait for it.
            done = turn(db, claim, outcomes, 0, running=running, carefully=True)

            return replace(done, again_in=BUSY_PAUSE)

        if is_busy(error) and plain:
            return turn(db, claim, outcomes, demand, running=running, carefully=True)

        if not is_refusal(error):
            raise

        log.warning(
            "PostgreSQL refused a turn of queue %r, going in parts: %s", claim.queue, reason(error)
        )

        return _turn_in_parts(db, claim, outcomes, demand, running)

    # The quick statement only counts; which one it passed over is looked up when any is missing.
    rest = other if taken.acked == len(plain) else outcomes

    return _settled(db, claim, taken.jobs, rest, written, taken.again_in)


def _turn_in_parts(
    db: Db, claim: Claim, outcomes: Sequence[Outcome], demand: int, running: Collection[Job] = ()
) -> Turn:
    written = ack.ack_singly(db, outcomes, owner=claim.owner)
    jobs: list[Job] = []

    try:
        while len(jobs) < demand:
            if (job := _fetch_one(db, claim, [*running, *jobs])) is None:
                break

            jobs.append(job)
    except BaseException:
        # These were taken, each in a commit of its own: what comes after must not lose them.
        if not jobs:
            raise

        log.exception("queue %r takes fewer jobs than it might", claim.queue)

    # Where limits came into it, a turn that goes as usual finds out when there is room again.
    again_in = None if claim.limiter is None or len(jobs) == demand else BUSY_PAUSE

    return _settled(db, claim, jobs, outcomes, written, again_in)


def _settled(
    db: Db,
    claim: Claim,
    jobs: list[Job],
    outcomes: Sequence[Outcome],
    written: ack.Written,
    again_in: float | None,
) -> Turn:
    known = {id(outcome) for outcome in (*written.refused, *written.left)}
    unwritten = [
        outcome
        for outcome in outcomes
        if outcome.job.key not in written.keys and id(outcome) not in known
    ]
    fenced: list[Outcome] = []
    busy: list[Outcome] = []

    if unwritten:
        try:
            with db.session() as tx:
                fenced, busy = ack.sorted_out(tx, unwritten, owner=claim.owner)
        except DatabaseUnavailableError:
            # The jobs taken must not be lost for it; writing the outcomes again does no harm.
            busy = unwritten

    return Turn(jobs, fenced, written.refused, [*written.left, *busy], again_in)


def _fetch_one(db: Db, claim: Claim, running: Collection[Job]) -> Job | None:
    """Take the first job that can be taken, setting aside those before it that cannot."""
    while True:
        with db.transaction() as tx:
            if (head := _first(tx, claim, running)) is None:
                return None

            try:
                # Its lock is ours, or that of the queue: this takes that one and no other.
                with tx.conn.transaction():
                    jobs = _take(tx, claim, (), 1, running).jobs

                if jobs:
                    return jobs[0]

                trouble = "the change was passed over without a word, by a trigger perhaps"
            except (psycopg.Error, UnicodeError) as error:
                if not is_refusal(error):
                    raise

                trouble = reason(error)

            claim.shunned.add(head)
            log.error(
                "job %s of queue %r cannot be started and is set aside for a while: %s",
                head,
                claim.queue,
                trouble,
            )


def _first(tx: Tx, claim: Claim, running: Collection[Job]) -> int | None:
    """The job that would be taken next."""
    if claim.limiter is None:
        shunned = ack.array(claim.shunned.ids())
        # The turn that follows has to come upon this very job. Behind a place that the scan moved
        # on to it would take another one, and this one be blamed.
        claim.scan.restart()
        head = tx.tuples("job_available_head", queue=claim.queue, shunned=shunned)

        return head[0][0] if head else None

    picked = claim.limiter.take(
        tx,
        None,
        1,
        running=running,
        node=claim.node,
        owner=claim.owner,
        shunned=claim.shunned.ids(),
        peek=True,
    ).picked

    return picked[0] if picked else None


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a statement did: how many plain outcomes it wrote, and the jobs it took."""

    acked: int
    jobs: list[Job]
    again_in: float | None = None


def _take(
    tx: Tx, claim: Claim, plain: Sequence[Outcome], demand: int, running: Collection[Job]
) -> _Taken:
    if claim.limiter is None:
        return _ack_and_fetch(tx, claim, plain, demand)

    lease = claim.lease
    since = 0 if lease is None else lease.generation
    taken = claim.limiter.take(
        tx,
        Finished(*ack.arrays(outcome.job.key for outcome in plain)) if plain else None,
        demand,
        running=running,
        node=claim.node,
        owner=claim.owner,
        shunned=claim.shunned.ids(),
    )
    taken.rows.sort()
    jobs = [Job.fetched(row, claim.queue, claim.attempted_by, lease, since) for row in taken.rows]

    return _Taken(taken.acked, jobs, taken.again_in)


def _ack_and_fetch(tx: Tx, claim: Claim, plain: Sequence[Outcome], demand: int) -> _Taken:
    lease = claim.lease
    since = 0 if lease is None else lease.generation
    ids, fences = ack.arrays(outcome.job.key for outcome in plain)
    rows = tx.wired(
        "job_ack_and_fetch",
        ids=ids,
        fences=fences,
        queue=claim.queue,
        demand=demand,
        node=claim.node,
        owner=claim.owner,
        shunned=Bigints(claim.shunned.ids()),
        **claim.scan.begin(),
    )
    attempted_by = claim.attempted_by
    acked = rows[0][-1]

    if rows[0][0] is None:
        rows = []

    # By priority, time and id: these are the first columns, and no two ids are the same.
    rows.sort()
    # By another turn, not here: should that fail, the jobs of this one are known.
    again_in = 0.0 if claim.scan.end(rows, demand) else None
    jobs = [Job.fetched(row, claim.queue, attempted_by, lease, since) for row in rows]

    return _Taken(acked, jobs, again_in)
