"""Taking jobs, together with writing what finished: the one statement of a producer's turn."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter

import psycopg

from oban_sync.core.job import Job
from oban_sync.core.outcome import Outcome
from oban_sync.engine import ack
from oban_sync.engine.session import Db, Tx

log = logging.getLogger("oban_sync.engine")

_ORDER = attrgetter("priority", "_scheduled_at", "id")


@dataclass(slots=True)
class Claim:
    """Who takes jobs, and from where.

    Attributes:
        queue: The queue.
        node: Name of the node, for people.
        owner: uuid of the producer.
        shunned: Jobs that PostgreSQL would not let us take, because a trigger or a check of the
            table refuses the change; without this they would hold up the whole queue.
    """

    queue: str
    node: str
    owner: str
    shunned: set[int] = field(default_factory=set)

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
    """

    jobs: list[Job]
    fenced: list[Outcome]


def turn(db: Db, claim: Claim, outcomes: Sequence[Outcome], demand: int) -> Turn:
    """Write outcomes and take up to `demand` jobs, all in one commit.

    Whatever PostgreSQL refuses is found, written in a lesser form or set aside, so that nothing a
    row or an outcome holds can stop the queue.

    Raises:
        DatabaseUnavailableError: The connection was lost. The outcomes may or may not be written,
            and jobs may have been taken: try the outcomes again, and `ack.reconcile` first.
        SchemaError: The tables are gone.
    """
    plain = [outcome for outcome in outcomes if outcome.plain]
    other = [outcome for outcome in outcomes if not outcome.plain]

    try:
        with db.session() as tx:
            if not other:
                acked, jobs = _ack_and_fetch(tx, claim, plain, demand)
                written: set[int] = set()
            else:
                with tx.conn.transaction():
                    written = ack.ack(tx, other, owner=claim.owner)
                    acked, jobs = _ack_and_fetch(tx, claim, plain, demand)
    except psycopg.Error as error:
        if not ack.is_refusal(error):
            raise

        log.warning(
            "PostgreSQL refused a turn of queue %r, trying in parts: %s", claim.queue, error
        )

        return _turn_in_parts(db, claim, outcomes, demand)

    unwritten = [outcome for outcome in other if outcome.job.id not in written]

    if acked < len(plain):
        unwritten += plain

    return Turn(jobs, _fenced(db, claim, unwritten))


def _turn_in_parts(db: Db, claim: Claim, outcomes: Sequence[Outcome], demand: int) -> Turn:
    written = ack.ack_singly(db, outcomes, owner=claim.owner)
    fenced = _fenced(db, claim, [item for item in outcomes if item.job.id not in written])
    jobs: list[Job] = []

    while len(jobs) < demand and (job := _fetch_one(db, claim)) is not None:
        jobs.append(job)

    return Turn(jobs, fenced)


def _fetch_one(db: Db, claim: Claim) -> Job | None:
    """Take the first job that can be taken, setting aside those before it that cannot."""
    while True:
        with db.transaction() as tx:
            head = tx.tuples(
                "job_available_head", queue=claim.queue, shunned=ack.array(claim.shunned)
            )

            if not head:
                return None

            try:
                # The head's lock is ours, so this takes that one and no other.
                with tx.conn.transaction():
                    return _ack_and_fetch(tx, claim, (), 1)[1][0]
            except psycopg.Error as error:
                if not ack.is_refusal(error):
                    raise

                claim.shunned.add(head[0][0])
                log.error(
                    "job %s of queue %r cannot be started and is set aside on this node: %s",
                    head[0][0],
                    claim.queue,
                    error,
                )


def _ack_and_fetch(
    tx: Tx, claim: Claim, plain: Sequence[Outcome], demand: int
) -> tuple[int, list[Job]]:
    ids, fences = ack.arrays(outcome.job for outcome in plain)
    rows = tx.tuples(
        "job_ack_and_fetch",
        ids=ids,
        fences=fences,
        queue=claim.queue,
        demand=demand,
        node=claim.node,
        owner=claim.owner,
        shunned=ack.array(claim.shunned),
    )
    attempted_by = claim.attempted_by
    jobs = [Job.fetched(row[1:], claim.queue, attempted_by) for row in rows if row[1] is not None]
    jobs.sort(key=_ORDER)

    return rows[0][0], jobs


def _fenced(db: Db, claim: Claim, unwritten: list[Outcome]) -> list[Outcome]:
    if not unwritten:
        return []

    with db.session() as tx:
        return ack.fenced(tx, unwritten, owner=claim.owner)
