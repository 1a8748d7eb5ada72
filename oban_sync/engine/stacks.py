"""Where running jobs are at a moment: asked for by anybody, written by their nodes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from oban_sync.core.clock import from_micros, to_wire
from oban_sync.engine.session import Tx

#: Seconds after which what was written is taken away by whoever writes next.
KEEP = 600.0


@dataclass(frozen=True, slots=True)
class Stack:
    """Where the code of a running job was at one moment.

    Attributes:
        job_id: The job.
        attempted_at: When this run of it was started.
        node: What people call the node that runs it.
        text: The frames of its thread, the innermost last, as in a traceback and without local
            variables; or why there are none.
        taken_at: When that was, by the database's clock.
    """

    job_id: int
    attempted_at: datetime
    node: str
    text: str
    taken_at: datetime


@dataclass(frozen=True, slots=True)
class Taken:
    """A stack that was taken just now; `key` is that of the job."""

    key: tuple[int, int]
    text: str


def ask(tx: Tx, job_id: int) -> bool:
    """Ask for a job's stack; tell whether it runs on a node that hears of it."""
    rows = tx.tuples("stack_ask", id=job_id, channel=tx.channel("sync"))

    return bool(rows[0][0])


def get(tx: Tx, job_id: int) -> Stack | None:
    """The stack that was last taken of the run of a job that goes on."""
    return next(iter(tx.rows(Stack, "stack_read", id=job_id)), None)


def write(tx: Tx, stacks: Sequence[Taken], *, node: str) -> list[int]:
    """Write stacks of this node's jobs; gives the ids of those that run by their rows as well."""
    given = [
        {"id": job_id, "attempted_at": to_wire(from_micros(started)), "stack": stack.text}
        for stack in stacks
        for job_id, started in [stack.key]
    ]
    rows = tx.tuples("stack_write", stacks=json.dumps(given), node=node, keep=KEEP)

    return [job_id for (job_id,) in rows]
