"""Lanes, which jobs of a queue are told apart by, and the indexes that they are found by.

A lane is a number made from a job's row, by PostgreSQL: no column holds it, so that rows have one
whoever inserted them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import psycopg
from psycopg import sql

from oban_sync.core.limits import Partition
from oban_sync.engine import reindex
from oban_sync.engine.connections import is_pooled
from oban_sync.engine.retry import Stopping
from oban_sync.engine.session import Tx, reason, translated
from oban_sync.engine.statements import filled, statement

log = logging.getLogger("oban_sync.engine")

#: Seconds that making an index may take: as long as it takes to read the table twice.
TIMEOUT = 7_200.0

#: What the names of the indexes begin with.
PREFIX = "oban_sync_lane_"


@dataclass(frozen=True, slots=True)
class Lanes:
    """What tells the lanes of one queue apart, in SQL.

    Attributes:
        queue: The queue.
        by: What divides it.
    """

    queue: str
    by: Partition

    @property
    def index(self) -> str:
        """The name of the index that they are found by."""
        said = json.dumps([self.queue, [[item.source, item.key] for item in self.by]])

        return f"{PREFIX}{hashlib.sha256(said.encode()).hexdigest()[:16]}"

    @cache  # noqa: B019
    def pieces(self, schema: str) -> tuple[tuple[str, str], ...]:
        """The pieces of the statements that work with lanes."""
        index = sql.Identifier(schema, self.index).as_string(None)

        return (
            ("lane", expression(self.by, schema)),
            ("queue", _literal(self.queue)),
            ("index", _identifier(self.index)),
            ("index literal", _literal(index)),
        )


def expression(by: Partition, schema: str) -> str:
    """A lane's number, made from the columns of a job."""
    made = "0"

    for item in by:
        match item.source:
            case "worker":
                text = statement("lane_worker", schema)
            case "args":
                text = statement("lane_args", schema)
            case _:
                text = statement("lane_meta", schema)

        made = filled(text, {"key": _literal(item.key), "seed": made})

    return made


def missing(tx: Tx, wanted: Sequence[Lanes]) -> list[Lanes]:
    """Those of the lanes whose index is not there, or was not finished."""
    there = _there(tx)

    return [lanes for lanes in wanted if not there.get(lanes.index)]


def make_indexes(
    connect: reindex.Connect, schema: str, wanted: Sequence[Lanes], *, stopping: Stopping
) -> list[str] | None:
    """Make the indexes that lanes are found by, while jobs go on; what is there stays.

    What a try that was ended left unfinished is dropped first. One that cannot be made is logged,
    with the statement to run by hand, and the next one follows: without it turns are only slower.

    Args:
        connect: Makes a connection in autocommit mode, to PostgreSQL itself; it is closed in the
            end. Through a pooler nothing is done.
        schema: The schema of the tables.
        wanted: The lanes.
        stopping: Cancels the statement at hand, and ends the round.

    Returns:
        The names of those made; None where somebody else is at work on indexes, to be tried again.

    Raises:
        DatabaseUnavailableError: There was no connection to be had, or it broke.
    """
    made: list[str] = []

    with translated(schema), connect() as conn:
        tx = Tx(conn, schema)

        if is_pooled(conn):
            # The settings and the claim would stay with a session that others use after us.
            for lanes in missing(tx, wanted):
                _give_up(tx, lanes, "a pooler stands before PostgreSQL; give listen_conninfo")

            return made

        if not reindex.claim(tx, TIMEOUT, reindex.LOCK_TIMEOUT):
            return None

        there = _there(tx)

        for lanes in wanted:
            if stopping.is_set():
                break

            if there.get(lanes.index):
                continue

            try:
                if lanes.index in there:
                    reindex.run_until(conn, _drop(tx, lanes).encode(), stopping)

                reindex.run_until(conn, create_statement(tx.schema, lanes).encode(), stopping)
            except psycopg.Error as error:
                if conn.closed or stopping.is_set():
                    break

                _give_up(tx, lanes, reason(error))
            else:
                made.append(lanes.index)

    return made


def create_statement(schema: str, lanes: Lanes) -> str:
    """The statement that makes the index of lanes."""
    return filled(statement("lane_index_create", schema), dict(lanes.pieces(schema)))


def _drop(tx: Tx, lanes: Lanes) -> str:
    name = sql.Identifier(tx.schema, lanes.index)

    return sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(name).as_string(None)


def _give_up(tx: Tx, lanes: Lanes, why: str) -> None:
    log.warning(
        "the index that lanes of queue %r are found by was not made, so that taking jobs is slow "
        "while many wait: %s. To make it by hand:\n%s",
        lanes.queue,
        why,
        create_statement(tx.schema, lanes),
    )


def _there(tx: Tx) -> dict[str, bool]:
    return {name: valid for name, valid in tx.tuples("lane_index_list", prefix=PREFIX)}


def _literal(value: str) -> str:
    return sql.Literal(value).as_string(None).strip()


def _identifier(value: str) -> str:
    return sql.Identifier(value).as_string(None)
