"""Connections: the two pools, and those that one thread has for itself.

The pool for applications opens nothing until asked. The pool for the library's own loops is set up
for their few statements; its session settings never reach the application's.
"""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool

from oban_sync.core.config import mask
from oban_sync.core.errors import ConfigError, shown

#: Given to every connection we open. TCP notices a dead peer within 15 to 25 seconds.
TRANSPORT: Mapping[str, object] = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    # Of several hosts the one that takes writes; a standby is no use.
    "target_session_attrs": "read-write",
    # Whatever the database's is: what it cannot hold it then refuses, and the rest is text here.
    "client_encoding": "UTF8",
}

#: For the connection that listens: it sends nothing, so only these tell it that its peer is gone.
LISTENING: Mapping[str, object] = {
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
}

#: How the names of our pools begin.
POOL_NAME = "oban-sync "

#: Seconds for which a connection of the loops' pool is kept that none of them needs.
IDLE_PERIOD = 20.0

#: The loops' own statements are few, short, and must never scan the table: its statistics are
#: always out of date, and a generic plan saves the planning of each (a third of a cycle).
LOOP_SETTINGS: Mapping[str, str] = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    # What comes in an index's order is taken in it: with stale statistics the planner would gather
    # all and sort.
    "enable_sort": "off",
    "jit": "off",
    "statement_timeout": "10s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "15s",
    "default_transaction_isolation": "read committed",
    "search_path": "pg_catalog, pg_temp",
    "datestyle": "ISO",
}


class _OwnPoolsAreQuiet(logging.Filter):
    """Drops what psycopg logs of each try to connect for us: our loops tell of an outage once."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is of somebody else's pool, or is worse than a failed try."""
        arguments = record.args if isinstance(record.args, tuple) else ()

        return record.levelno > logging.WARNING or not any(
            isinstance(item, str) and item.startswith(POOL_NAME) for item in arguments
        )


logging.getLogger("psycopg.pool").addFilter(_OwnPoolsAreQuiet())


def transport(conninfo: str, more: Mapping[str, object] = MappingProxyType({})) -> dict[str, Any]:
    """Connection parameters that the conninfo does not set itself; `more` goes before ours.

    Raises:
        ConfigError: It is no conninfo; the driver's own words would show a password in it.
    """
    try:
        given = psycopg.conninfo.conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        raise ConfigError(
            "conninfo", f"{shown(mask(conninfo))} is neither a libpq string nor a URL"
        ) from None

    return {key: value for key, value in {**TRANSPORT, **more}.items() if key not in given}


def connect(
    conninfo: str, *, application_name: str, more: Mapping[str, object] = MappingProxyType({})
) -> psycopg.Connection[Any]:
    """One connection, in autocommit mode, outside of any pool.

    Args:
        more: Connection parameters that go before ours, and after the conninfo's own.
    """
    options = {**transport(conninfo, more), "application_name": application_name}

    return psycopg.connect(conninfo, autocommit=True, **options)


def connect_reserved(
    conninfo: str,
    *,
    application_name: str,
    more: Mapping[str, object] = MappingProxyType({}),
    settings: Mapping[str, str] = MappingProxyType({}),
) -> psycopg.Connection[Any]:
    """A connection for one of the library's own threads, set up as those of the loops' pool.

    Args:
        more: As for `connect`.
        settings: Further settings of the session.
    """
    conn = connect(conninfo, application_name=application_name, more=more)

    try:
        _set_up(conn, {**LOOP_SETTINGS, **settings})
    except BaseException:
        conn.close()
        raise

    return conn


def is_pooled(conn: psycopg.Connection[Any]) -> bool:
    """Whether a pooler such as PgBouncer stands before PostgreSQL.

    It gives out process ids of its own. What it does with sessions cannot be seen, so they are
    taken for what they are in its transaction mode: another one for every transaction.
    """
    row = conn.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()

    return row is None or row[0] != conn.info.backend_pid


def open_application_pool(conninfo: str, *, name: str, size: int) -> ConnectionPool[Any]:
    """The pool behind `Oban.connection` and enqueueing; connects when first used.

    Connections are in autocommit mode: one statement is one transaction, and
    ``conn.transaction()`` opens a longer one.
    """

    def configure(conn: psycopg.Connection[Any]) -> None:
        if is_pooled(conn):
            conn.prepare_threshold = None

    return ConnectionPool(
        conninfo,
        min_size=0,
        max_size=size,
        kwargs=_options(conninfo, name),
        configure=configure,
        check=check_quickly,
        name=name,
        reconnect_timeout=2.0,
        open=True,
    )


def open_loop_pool(conninfo: str, *, name: str, size: int) -> ConnectionPool[Any]:
    """The pool the library's own loops share; one connection is kept."""
    return ConnectionPool(
        conninfo,
        min_size=1,
        max_size=size,
        kwargs=_options(conninfo, name),
        configure=lambda conn: _set_up(conn, LOOP_SETTINGS),
        check=check_quickly,
        name=name,
        # Gives up soon, and the next borrower starts afresh: the pool's own pauses would double
        # up to minutes, and work has to resume within seconds of PostgreSQL's return.
        reconnect_timeout=2.0,
        # Of those that nobody needed for so long, one goes each time.
        max_idle=IDLE_PERIOD,
        open=True,
    )


def conninfo_of(pool: ConnectionPool[Any]) -> str:
    """The conninfo a pool connects by, with what its keyword arguments add to it."""
    given = pool.conninfo
    base = str(given() if callable(given) else given)
    extra = pool.kwargs() if callable(pool.kwargs) else pool.kwargs or {}
    known = {info.keyword.decode() for info in psycopg.pq.Conninfo.get_defaults()}

    return psycopg.conninfo.make_conninfo(
        base, **{key: value for key, value in extra.items() if key in known}
    )


def why_unavailable(pool: ConnectionPool[Any]) -> str:
    """Why a pool gave no connection: PostgreSQL's own words, or that all are in use."""
    try:
        connect(conninfo_of(pool), application_name="oban-sync: probe").close()
    except psycopg.Error as error:
        return str(error).strip()

    return (
        f"PostgreSQL is there, but all {pool.max_size} connections are in use; "
        "keep them for a shorter time, or raise pool_size"
    )


def _options(conninfo: str, name: str) -> dict[str, Any]:
    return {**transport(conninfo), "autocommit": True, "application_name": name}


def _set_up(conn: psycopg.Connection[Any], settings: Mapping[str, str]) -> None:
    """Give a session its settings, and let it prepare everything, where it is one for good."""
    if is_pooled(conn):
        conn.prepare_threshold = None

        return

    conn.execute(
        "SELECT set_config(key, value, false)"
        " FROM unnest(%s::text[], %s::text[]) AS setting (key, value)",
        [list(settings), list(settings.values())],
    )
    conn.prepare_threshold = 0


def check_quickly(conn: psycopg.Connection[Any]) -> None:
    """Refuse a connection the server has closed, without asking the server.

    A connection at rest has nothing to read. When there is something, it is the server's farewell
    or a notice; only then is a round trip worth it.
    """
    if conn.closed:
        raise psycopg.OperationalError("the connection is closed")

    if _has_input(conn.fileno()):
        ConnectionPool.check_connection(conn)


def _has_input(descriptor: int) -> bool:
    # select() cannot watch descriptors past 1023, and Windows has no poll().
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)

        return bool(poll.poll(0))

    return bool(select.select([descriptor], [], [], 0)[0])


class LazyPool:
    """The application pool: opened when first asked for, and anew in a process forked since."""

    def __init__(self, make: Callable[[], ConnectionPool[Any]]) -> None:
        self._make = make
        # By process. A parent's pool stays referenced for good: dropping it would close its
        # connections, and they are the parent's to close.
        self._pools: dict[int, ConnectionPool[Any]] = {}

    def get(self) -> ConnectionPool[Any]:
        """The pool of this process."""
        pool = self._pools.get(os.getpid())

        if pool is None:
            made = self._make()
            # Of two threads that come here at once, the first one's pool stays.
            pool = self._pools.setdefault(os.getpid(), made)

            if pool is not made:
                made.close()

        return pool

    def close(self, *, timeout: float = 5.0) -> None:
        """Close the pool if this process opened one; a later `get` opens another."""
        if (pool := self._pools.pop(os.getpid(), None)) is not None:
            pool.close(timeout=timeout)
