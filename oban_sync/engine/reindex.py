"""Rebuilding indexes beside everything that goes on, and clearing away what a failed try left."""

from __future__ import annotations

import logging
import re
import selectors
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql
from psycopg.pq import ExecStatus

from oban_sync.core.reindexing import INDEXES, MOST_NAME_BYTES
from oban_sync.engine.connections import is_pooled
from oban_sync.engine.retry import Stopping
from oban_sync.engine.session import Tx, quoted, reason, translated

log = logging.getLogger("oban_sync.engine")

Connect = Callable[[], psycopg.Connection[Any]]

#: Seconds of one wait for other transactions. Nobody's statements wait for us meanwhile, but vacuum
#: does, which the table cannot do without for long.
LOCK_TIMEOUT = 30.0

#: Seconds in which a statement has to end that was cancelled, and what it left has to go.
STOP_PERIOD = 2.0

#: Seconds after which a running statement is looked at for a stop.
LOOK_INTERVAL = 0.1

_LONGEST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Reindexed:
    """What one round did.

    Attributes:
        indexes: Rebuilt.
        failed: Not rebuilt; why is in the log.
        dropped: Unfinished copies of indexes, left by a try that was ended, now gone.
    """

    indexes: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


def reindex(
    connect: Connect,
    schema: str,
    indexes: Sequence[str],
    *,
    timeout: float,
    leads: Callable[[], bool],
    stopping: Stopping,
) -> Reindexed:
    """Rebuild indexes of the jobs table one by one, while jobs are read and written as ever.

    One that cannot be rebuilt, in time or at all, is logged, its unfinished copy is dropped, and
    the next one follows. A copy that cannot be dropped, because a transaction is in the way, is
    the first thing of the next round.

    Args:
        connect: Makes a connection in autocommit mode, to PostgreSQL itself; it is closed in the
            end. Through a pooler nothing is done.
        schema: The schema of the tables.
        indexes: Their names; those of ours that exist when empty.
        timeout: Seconds that one may take.
        leads: Asked before each; the round ends when it says no.
        stopping: Cancels the statement at hand, and ends the round.

    Raises:
        DatabaseUnavailableError: There was no connection to be had, or it broke before the first
            index.
    """
    done = Reindexed()

    with translated(schema), connect() as conn:
        if is_pooled(conn):
            # The settings and the claim would stay with a session that others use after us.
            log.warning("indexes are not rebuilt through a pooler; give listen_conninfo")

            return done

        tx = Tx(conn, schema)

        if not claim(tx, timeout, LOCK_TIMEOUT):
            log.warning("indexes of schema %r are being rebuilt by somebody else", schema)

            return done

        names = _present(tx, indexes)
        done.dropped.extend(_clear(tx, names))

        for name in names:
            if stopping.is_set() or not leads():
                break

            try:
                _run(tx, "REINDEX INDEX CONCURRENTLY {}", name, stopping)
            except psycopg.Error as error:
                done.failed.append(name)
                log.error("index %s was not rebuilt: %s", name, reason(error))

                if conn.closed:
                    break

                if stopping.is_set():
                    _set_up(tx, STOP_PERIOD, STOP_PERIOD)

                done.dropped.extend(_clear(tx, names))
            else:
                done.indexes.append(name)

    return done


def claim(tx: Tx, timeout: float, lock_timeout: float) -> bool:
    """Set a session up for work on indexes; whether no other session has them.

    Args:
        tx: The session, for nothing else: the claim lasts as long as it does.
        timeout: Seconds that a statement may take ...
        lock_timeout: ... and one wait for other transactions.
    """
    _set_up(tx, timeout, lock_timeout)

    return bool(tx.tuples("index_claim", schema=tx.schema)[0][0])


def _set_up(tx: Tx, timeout: float, lock_timeout: float) -> None:
    timeout, lock_timeout = (
        min(_LONGEST, int(1_000 * seconds)) for seconds in (timeout, min(timeout, lock_timeout))
    )
    tx.tuples("index_session", timeout=str(timeout), lock_timeout=str(lock_timeout))


def _present(tx: Tx, indexes: Sequence[str]) -> list[str]:
    """Those of the named indexes that the table has."""
    there = {name for name, _ in _list(tx)}

    for name in indexes:
        if name not in there:
            log.warning("oban_jobs in schema %r has no index %r to rebuild", tx.schema, name)

    return [name for name in indexes or INDEXES if name in there]


def _list(tx: Tx) -> list[tuple[str, bool]]:
    return [(name, valid) for name, valid in tx.tuples("index_list")]


def _clear(tx: Tx, names: Sequence[str]) -> list[str]:
    """Drop the unfinished copies of these indexes; those that could be dropped.

    PostgreSQL calls the new copy ``name_ccnew`` and the old one ``name_ccold``, numbered when there
    are several, and marks them invalid until, or as soon as, they are not to be used.
    """
    dropped = []

    try:
        for copy, valid in _list(tx):
            if not valid and any(_is_copy(copy, name) for name in names):
                _run(tx, "DROP INDEX CONCURRENTLY IF EXISTS {}", copy)
                dropped.append(copy)
    except psycopg.Error as error:
        log.warning("unfinished copies of indexes stay until the next round: %s", reason(error))

    return dropped


def _is_copy(copy: str, name: str) -> bool:
    found = re.fullmatch(r"(.+)_cc(?:new|old)\d*", copy, re.S)

    if found is None:
        return False

    # The whole has to fit into a name, so the index's part of it may have been cut.
    cut = len(copy.encode()) > MOST_NAME_BYTES - 4

    return name == found[1] or (cut and name.startswith(found[1]))


def _run(tx: Tx, text: str, index: str, stopping: Stopping | None = None) -> None:
    statement = sql.SQL(text).format(sql.SQL(".").join([quoted(tx.schema), quoted(index)]))
    run_until(tx.conn, statement.as_bytes(tx.conn), stopping)


def run_until(
    conn: psycopg.Connection[Any], statement: bytes, stopping: Stopping | None = None
) -> None:
    """Run a statement that may take long and gives nothing; a stop cancels it.

    Not through a cursor, whose wait only a signal ends. A statement that is left behind would go on
    at the server for as long as it takes.
    """
    pgconn = conn.pgconn
    pgconn.send_query(statement)
    deadline = None

    with selectors.DefaultSelector() as selector:
        selector.register(pgconn.socket, selectors.EVENT_READ)

        while pgconn.flush() or pgconn.is_busy():
            selector.select(LOOK_INTERVAL)
            pgconn.consume_input()

            if deadline is None and stopping is not None and stopping.is_set():
                deadline = time.monotonic() + STOP_PERIOD

                # Where even that cannot be done, the deadline ends the wait.
                with suppress(psycopg.Error):
                    conn.cancel_safe(timeout=STOP_PERIOD)
            elif deadline is not None and time.monotonic() > deadline:
                conn.close()

                raise psycopg.OperationalError("it did not end when it was cancelled")

    results = []

    while (result := pgconn.get_result()) is not None:
        results.append(result)

    for result in results:
        if result.status != ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(result)
