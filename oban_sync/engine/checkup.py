"""What a doctor asks a database. Every statement only reads, and each is a transaction of its own.

A role that may not see what others do still gets an answer: what is hidden is missing in it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from oban_sync.core import clock
from oban_sync.core.errors import ConfigError
from oban_sync.engine import connections, migrations
from oban_sync.engine.session import Tx, quoted, reason, translated

#: Jobs of a queue, or of a state, that are looked at.
MOST_JOBS = 10_000

#: Seconds that a notification may take to come round.
EAR_PERIOD = 5.0


@dataclass(frozen=True, slots=True)
class ServerRow:
    """What a server is, and how it treats a session of this role; timeouts in milliseconds."""

    version: int
    version_text: str
    at: datetime
    database: str
    role: str
    max_connections: int
    reserved: int
    isolation: str
    read_only: bool
    synchronous_commit: str
    idle_session_timeout: int
    statement_timeout: int
    idle_in_transaction_timeout: int


@dataclass(frozen=True, slots=True)
class SessionsRow:
    """Connections of one role, database and application; hidden where more may not be known."""

    role: str
    database: str
    application: str
    sessions: int
    hidden: bool


@dataclass(frozen=True, slots=True)
class HolderRow:
    """Who keeps a transaction or a snapshot.

    Attributes:
        kind: session, prepared (a transaction), slot (of replication), standby.
        name: Which one.
        detail: The application, the owner, or its state.
        idle: It waits for its client, or for nobody.
        seconds: How old its transaction is; None where nobody knows.
        xids: Transactions since its snapshot; None where it has none.
    """

    kind: str
    name: str
    detail: str
    idle: bool
    seconds: float | None
    xids: int | None


@dataclass(frozen=True, slots=True)
class TableRow:
    """The jobs table, as the statistics have it; seconds since its last vacuum, None for never."""

    live: int
    dead: int
    bytes: int
    vacuumed: float | None
    autovacuum: bool


@dataclass(frozen=True, slots=True)
class RightRow:
    """A table, or a sequence, and what the role may not do with it."""

    name: str
    lacking: list[str]


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node, and how many seconds ago it beat."""

    name: str
    node: str
    seconds: float
    lives: bool
    leads: bool
    queues: list[str]


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue with available jobs: how many, for how long, and how many living nodes run it."""

    queue: str
    waiting: int
    seconds: float
    nodes: int
    paused: bool


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker of waiting jobs."""

    worker: str
    queue: str
    waiting: int


@dataclass(frozen=True, slots=True)
class OwnersRow:
    """How many jobs execute, how many of them without a living node, and for how long."""

    executing: int
    ownerless: int
    seconds: float | None


@contextmanager
def visit(conninfo: str, schema: str) -> Iterator[Tx]:
    """A connection as the application's own are, for the questions below.

    Raises:
        DatabaseUnavailableError: PostgreSQL could not be reached.
        ConfigError: It is no conninfo.
    """
    with translated(schema), _connected(conninfo) as conn:
        if connections.is_pooled(conn):
            conn.prepare_threshold = None

        yield Tx(conn, schema)


def is_pooled(tx: Tx) -> bool:
    """Whether a pooler stands before PostgreSQL."""
    return connections.is_pooled(tx.conn)


def is_lost(tx: Tx) -> bool:
    """Whether nothing can be asked any more."""
    return tx.conn.closed


def installed(tx: Tx) -> int:
    """The version of the tables, which may be newer than this code's.

    Raises:
        SchemaError: They are missing or too old.
    """
    migrations.verify(tx)

    return migrations.version(tx)


def server(tx: Tx) -> tuple[ServerRow, float]:
    """The server, and by how many seconds its clock is ahead of this machine's."""
    before = clock.utc_now()
    row = tx.rows(ServerRow, "checkup_server")[0]
    after = clock.utc_now()

    return row, (row.at - (before + (after - before) / 2)).total_seconds()


def sessions(tx: Tx) -> list[SessionsRow]:
    """The connections of the whole server, most first."""
    return tx.rows(SessionsRow, "checkup_sessions")


def holders(tx: Tx, *, seconds: float) -> list[HolderRow]:
    """Transactions of this database that are older, and whatever else keeps vacuum back."""
    return tx.rows(HolderRow, "checkup_holders", seconds=seconds)


def table(tx: Tx) -> TableRow | None:
    """The jobs table; None where there is none."""
    rows = tx.rows(TableRow, "checkup_table")

    return rows[0] if rows else None


def rights(tx: Tx) -> list[RightRow]:
    """What the role may not do with the tables, of what an Oban does with them."""
    return tx.rows(RightRow, "checkup_rights")


def nodes(tx: Tx) -> list[NodeRow]:
    """The nodes that have a row, oldest first."""
    return tx.rows(NodeRow, "checkup_nodes")


def queues(tx: Tx) -> list[QueueRow]:
    """The queues with available jobs; at most `MOST_JOBS` of each are counted."""
    return tx.rows(QueueRow, "checkup_queues", most=MOST_JOBS)


def workers(tx: Tx) -> list[WorkerRow]:
    """The workers of waiting jobs, among the first `MOST_JOBS`."""
    return tx.rows(WorkerRow, "checkup_workers", most=MOST_JOBS)


def owners(tx: Tx) -> OwnersRow:
    """The executing jobs, and those that no living node runs."""
    return tx.rows(OwnersRow, "checkup_owners")[0]


def hears(tx: Tx, conninfo: str) -> bool:
    """Whether a notification sent here arrives at a session that listens there.

    Raises:
        DatabaseUnavailableError: There is nothing there.
        ConfigError: It is no conninfo.
    """
    channel = f"oban_sync_doctor_{uuid.uuid4().hex}"

    with translated(tx.schema), _connected(conninfo) as ear:
        ear.execute(b"LISTEN " + quoted(channel).as_bytes(ear))
        tx.tuples("checkup_notify", channel=channel)

        return any(True for _ in ear.notifies(timeout=EAR_PERIOD, stop_after=1))


def _connected(conninfo: str) -> psycopg.Connection[Any]:
    try:
        return connections.connect(conninfo, application_name="oban-sync: doctor")
    except psycopg.ProgrammingError as error:
        # It can be read, and holds what no connection can be made with.
        raise ConfigError("conninfo", reason(error)) from error


class RefusedError(Exception):
    """PostgreSQL gave no answer to a question; says why."""


@contextmanager
def asked(tx: Tx) -> Iterator[None]:
    """Tell whoever asks in the block why there is no answer, if there is none.

    Raises:
        RefusedError: The role may not ask.
        DatabaseUnavailableError: The connection was lost.
        SchemaError: A table is missing.
    """
    try:
        with translated(tx.schema):
            yield
    except psycopg.Error as error:
        raise RefusedError(reason(error)) from error
