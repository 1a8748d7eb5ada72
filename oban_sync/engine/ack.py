"""Writing what runs came to, and handing back what was not finished.

Every write is fenced: it touches a row only while that row is executing, by this producer, the very
start the job was taken with; or was rescued from that start, and not started since. What is refused
by the fence belongs to somebody else by now.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from oban_sync.core import clock
from oban_sync.core.job import Job, JobState
from oban_sync.core.outcome import Loss, Outcome
from oban_sync.engine import callers
from oban_sync.engine.session import Db, Tx, is_refusal, reason, translate
from oban_sync.engine.wire import Bigints, Timestamps

log = logging.getLogger("oban_sync.engine")

#: Errors a job keeps; the oldest go first.
MOST_ERRORS = 100

#: Characters of JSON in one statement; PostgreSQL itself takes 256 MB.
MOST_CHARACTERS = 16_000_000

#: Two ways lead to it: through our own connections, and through those of the application.
_STATEMENT = "job_ack"

Key = tuple[int, int]

#: Where a rescue puts a job; from there, until it starts again, its old run may still finish it.
_RESCUED = ("available", "discarded", "retryable", "scheduled")


@dataclass(slots=True)
class Written:
    """What became of outcomes.

    Attributes:
        keys: The starts whose outcome is written.
        refused: Outcomes that PostgreSQL takes in no form; they are given up.
        left: Outcomes that did not fit into the statement.
    """

    keys: set[Key] = field(default_factory=set)
    refused: list[Outcome] = field(default_factory=list)
    left: list[Outcome] = field(default_factory=list)


def ack(tx: Tx, outcomes: Sequence[Outcome], *, owner: str) -> Written:
    """Write outcomes of any kind in one statement, as many as fit."""
    written = Written()
    rows: list[str] = []
    characters = 0

    for index, outcome in enumerate(outcomes):
        row = _encoded(outcome)
        characters += len(row)

        if rows and characters > MOST_CHARACTERS:
            written.left.extend(outcomes[index:])
            break

        rows.append(row)

    written.keys = _ack(tx, rows, owner)

    return written


def ack_on(conn: Any, schema: str, outcome: Outcome, *, owner: str) -> bool:
    """Write an outcome inside of the transaction of a connection of any kind.

    Waits for whoever holds the row. Raises whatever the driver raises.

    Returns:
        Whether it was written; else somebody else has the job by now.
    """
    values = {"outcomes": f"[{_encoded(outcome)}]", "owner": owner, "most": MOST_ERRORS}

    if callers.run_on(conn, _STATEMENT, schema, **values):
        return True

    # It passes over a row that somebody holds, as whoever asks the job to stop.
    callers.run_on(conn, "job_wait", schema, id=outcome.job.key[0])

    return bool(callers.run_on(conn, _STATEMENT, schema, **values))


def is_settled(conn: Any, schema: str, outcome: Outcome, *, owner: str) -> bool | None:
    """Whether an outcome is in its row, after nobody told how its transaction ended.

    Returns:
        None while it cannot be told: that transaction has not ended, or the job is gone.
    """
    job_id, fence = outcome.job.key
    rows = callers.run_on(
        conn,
        "job_settled",
        schema,
        id=job_id,
        fence=clock.to_wire(clock.from_micros(fence)),
        owner=owner,
    )

    if not rows:
        return None

    ours, state, unwanted = rows[0]

    return bool(ours) and _shows(outcome, state, unwanted)


def is_undone(error: BaseException) -> bool:
    """Whether an error of a commit is PostgreSQL's word that nothing of it was done.

    A connection that broke gave no word, and it may have been done.
    """
    cause = getattr(error, "orig", None) or error
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)

    return state is not None and translate(error) is None


def ack_singly(db: Db, outcomes: Iterable[Outcome], *, owner: str) -> Written:
    """Write outcomes one by one, after a batch of them was refused.

    One that is refused alone is written without its error text and meta, and then without any error
    at all, so that the job at least ends.

    Raises:
        DatabaseUnavailableError: The connection was lost; nothing is given up, try again.
    """
    written = Written()

    for outcome in outcomes:
        for loss in Loss:
            try:
                with db.session() as tx:
                    written.keys |= _ack(tx, [_encoded(outcome, loss)], owner)
            except (psycopg.Error, UnicodeError) as error:
                if not is_refusal(error):
                    raise

                log.error("PostgreSQL refused the outcome of %r: %s", outcome.job, reason(error))
            else:
                break
        else:
            written.refused.append(outcome)

    return written


def release(db: Db, jobs: Sequence[Job], *, owner: str) -> list[Job]:
    """Hand back jobs that were started but not finished; their attempt is not spent.

    One that PostgreSQL refuses to hand back is logged, and stays executing.

    Returns:
        The jobs that another transaction holds at the moment: try them again.

    Raises:
        DatabaseUnavailableError: The connection was lost; some may have been handed back.
    """
    try:
        with db.session() as tx:
            ids, fences = arrays(job.key for job in jobs)
            channel = tx.channel("insert")
            rows = tx.wired("job_release", ids=ids, fences=fences, owner=owner, channel=channel)
            back = set(rows)
            kept = [job for job in jobs if job.key not in back]

            return [job for job in kept if _is_ours(tx, job, owner)] if kept else []
    except (psycopg.Error, UnicodeError) as error:
        if not is_refusal(error):
            raise

        if len(jobs) == 1:
            log.error("PostgreSQL refused to hand back %r: %s", jobs[0], reason(error))

            return []

    return [item for job in jobs for item in release(db, [job], owner=owner)]


def reconcile(db: Db, *, queue: str, owner: str, known: Iterable[Key]) -> tuple[list[int], bool]:
    """Hand back jobs the table says this producer runs, but which it does not know.

    They were taken by a fetch whose reply was lost with its connection. When PostgreSQL refuses it,
    that is logged, and they stay executing.

    Returns:
        The ids of those handed back, and whether that is all of them: another transaction may hold
        the others.

    Raises:
        DatabaseUnavailableError: The connection was lost; try again.
    """
    ids, fences = arrays(known)

    try:
        with db.session() as tx:
            found = tx.wired("job_reconcile", owner=owner, ids=ids, fences=fences)
    except psycopg.Error as error:
        if not is_refusal(error):
            raise

        log.error("PostgreSQL refused to hand back jobs of queue %r: %s", queue, reason(error))

        return [], True

    back = [row[0] for row in found if row[0] is not None]

    return back, len(back) == found[0][1]


@dataclass(frozen=True, slots=True)
class Standing:
    """How a job stands whose outcome was not accepted.

    Attributes:
        id: The job.
        state: Its state.
        fence: When it was last started.
        owner: By which producer.
        rescued: Whether it was given back since, as if that producer had died.
        unwanted: Whether it was asked to stop while it ran.
    """

    id: int
    state: str
    fence: int | None
    owner: str | None
    rescued: bool
    unwanted: bool

    def took(self, outcome: Outcome) -> bool:
        """Whether the outcome was written; one of a job that was to stop may cancel it."""
        return _shows(outcome, self.state, self.unwanted)


def still_ours(db: Db, jobs: Sequence[Job], *, owner: str) -> list[Job]:
    """Those of the jobs that are executing the very start they were taken with.

    Raises:
        DatabaseUnavailableError: The connection was lost; nothing is known.
    """
    with db.session() as tx:
        found = {row.id: row for row in _standings(tx, (job.key[0] for job in jobs))}

    return [job for job in jobs if _runs(found.get(job.key[0]), job, owner)]


def sorted_out(
    tx: Tx, outcomes: Sequence[Outcome], *, owner: str
) -> tuple[list[Outcome], list[Outcome]]:
    """Why outcomes changed no row.

    Returns:
        Those that somebody else overtook, and those to be tried again by `ack`: another transaction
        holds their row, or the job was rescued and not started since. The rest were written before,
        the reply to their statement being lost with its connection.
    """
    found = {row.id: row for row in _standings(tx, (outcome.job.key[0] for outcome in outcomes))}
    fenced, busy = [], []

    for outcome in outcomes:
        row = found.get(outcome.job.key[0])

        if row is None or row.fence != outcome.job.key[1] or row.owner != owner:
            fenced.append(outcome)
        elif row.state == "executing" or (row.rescued and row.state in _RESCUED):
            busy.append(outcome)
        elif not row.took(outcome):
            fenced.append(outcome)

    return fenced, busy


def array(ids: Iterable[int]) -> str:
    """A PostgreSQL array as text: one parameter type whatever the sizes, so one prepared plan."""
    return "{" + ",".join(map(str, ids)) + "}"


def arrays(keys: Iterable[Key]) -> tuple[Bigints, Timestamps]:
    """The ids and the fences of starts, by id."""
    ordered = sorted(keys)

    return Bigints([key[0] for key in ordered]), Timestamps([key[1] for key in ordered])


def _shows(outcome: Outcome, state: str, unwanted: bool) -> bool:
    again = outcome.state in (JobState.RETRYABLE, JobState.SCHEDULED)

    return state == outcome.state.value or (again and unwanted and state == "cancelled")


def _encoded(outcome: Outcome, loss: Loss = Loss.NOTHING) -> str:
    try:
        return outcome.to_json(loss)
    except Exception:
        if loss is not Loss.NOTHING:
            raise

        # Its meta was changed after it was checked, or grew by our own counter.
        log.exception(
            "the outcome of %r is no JSON, so it is written without its meta", outcome.job
        )

        return outcome.to_json(Loss.DETAILS)


def _ack(tx: Tx, rows: list[str], owner: str) -> set[Key]:
    outcomes = f"[{','.join(rows)}]"

    return set(tx.wired(_STATEMENT, outcomes=outcomes, owner=owner, most=MOST_ERRORS))


def _standings(tx: Tx, ids: Iterable[int]) -> list[Standing]:
    return [Standing(*row) for row in tx.wired("job_fence_list", ids=Bigints(list(ids)))]


def _is_ours(tx: Tx, job: Job, owner: str) -> bool:
    return any(_runs(row, job, owner) for row in _standings(tx, [job.key[0]]))


def _runs(row: Standing | None, job: Job, owner: str) -> bool:
    return (
        row is not None
        and (row.id, row.fence) == job.key
        and row.owner == owner
        and row.state == "executing"
    )
