"""The periodic work on all jobs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

from oban_sync.engine import ack
from oban_sync.engine.asks import Ask, Rows
from oban_sync.engine.fetch import Shunned
from oban_sync.engine.session import Db, Tx, is_refusal, reason

log = logging.getLogger("oban_sync.engine")


@dataclass(frozen=True, slots=True)
class Staged:
    """What one staging did.

    Attributes:
        staged: Jobs made available.
        awake: Queues that have available jobs.
    """

    staged: int
    awake: list[str]


def look(queues: list[str], shunned: Sequence[int]) -> Ask:
    """To find out whether `stage` would do anything; see `looked`."""
    return Ask("job_look", {"queues": queues, "shunned": ack.array(shunned)})


def looked(rows: Rows) -> tuple[bool, list[str]]:
    """Whether a job is due, and which queues have available ones."""
    [(due, awake)] = rows

    return due, awake


def stage(db: Db, queues: list[str], *, most: int, shunned: Shunned) -> Staged:
    """Make due jobs of these queues available and wake the nodes that run them.

    A job whose change PostgreSQL refuses is added to `shunned`, and the others go on.
    """
    try:
        with db.session() as tx:
            return _stage(tx, queues, most, shunned)
    except psycopg.Error as error:
        if not is_refusal(error):
            raise

    return _stage_in_parts(db, queues, most, shunned)


def _stage_in_parts(db: Db, queues: list[str], most: int, shunned: Shunned) -> Staged:
    """Stage one by one until the job is found that held up the others."""
    before = len(shunned.ids())
    count = 0
    awake: set[str] = set()

    while (
        count < most and len(shunned.ids()) == before and (one := _stage_one(db, queues, shunned))
    ):
        count += one.staged
        awake.update(one.awake)

    return Staged(count, sorted(awake))


def _stage_one(db: Db, queues: list[str], shunned: Shunned) -> Staged | None:
    with db.transaction() as tx:
        head = tx.tuples("job_due_head", queues=queues, shunned=ack.array(shunned.ids()))

        if not head:
            return None

        try:
            # The head's lock is ours, so this stages that one and no other.
            with tx.conn.transaction():
                return _stage(tx, queues, 1, shunned)
        except psycopg.Error as error:
            if not is_refusal(error):
                raise

            shunned.add(head[0][0])
            log.error(
                "job %s cannot be made available, set aside for a while: %s",
                head[0][0],
                reason(error),
            )

            return Staged(0, [])


def _stage(tx: Tx, queues: list[str], most: int, shunned: Shunned) -> Staged:
    [(staged, awake, _told)] = tx.tuples(
        "job_stage",
        queues=queues,
        most=most,
        shunned=ack.array(shunned.ids()),
        channel=tx.channel("insert"),
    )

    return Staged(staged, awake)
