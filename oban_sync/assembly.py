"""From a Config to the wired parts, in start order. The only module that names them all."""

from __future__ import annotations

import os
import socket
from typing import Any

from psycopg_pool import ConnectionPool

from oban_sync.core.config import Config
from oban_sync.embedded import Server
from oban_sync.embedded.conninfo import server_of
from oban_sync.engine import migrations
from oban_sync.engine.connections import (
    POOL_NAME,
    LazyPool,
    connect,
    conninfo_of,
    open_application_pool,
    open_loop_pool,
    why_unavailable,
)
from oban_sync.engine.session import Db, KeptDb, Tx, translated
from oban_sync.runtime.notifier import Notifier
from oban_sync.runtime.producer import Producer
from oban_sync.runtime.stager import Stager
from oban_sync.runtime.supervisor import Supervisor

#: Connections the loops share at the most, however many queues there are.
MOST_LOOP_CONNECTIONS = 4

#: Seconds that each thread of a pool gets to end.
CLOSE_PERIOD = 0.1


class Assembly:
    """The parts of one Oban, each made when first needed.

    Connections: the application pool (up to `pool_size`, none until used; or the one given), the
    loops' pool (1 to 4), and the notifier's own.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._server: Server | None = None
        self._installed = False
        self._application = LazyPool(self._open_application_pool)
        # By process, and never dropped: a parent's connections are not a child's to close.
        self._loops: dict[int, ConnectionPool[Any]] = {}

    @property
    def _pooled(self) -> bool:
        """Whether a pooler stands before PostgreSQL: that is when LISTEN needs another way."""
        return self.config.listen_conninfo is not None

    @property
    def node(self) -> str:
        """What people call this node."""
        return self.config.node or socket.gethostname() or "localhost"

    @property
    def conninfo(self) -> str:
        """The conninfo as it was given, or the pool's."""
        return self.config.conninfo or conninfo_of(self.config.pool)

    @property
    def pool(self) -> ConnectionPool[Any]:
        """The application pool."""
        given: ConnectionPool[Any] | None = self.config.pool

        return self._application.get() if given is None else given

    @property
    def db(self) -> Db:
        """The application pool, for the library's statements."""
        pool = self.pool

        return Db(pool, self.config.prefix, reason=lambda: why_unavailable(pool))

    def verify(self) -> None:
        """Check the tables, through a connection of its own: its errors say what is wrong at once.

        Raises:
            DatabaseUnavailableError: PostgreSQL could not be reached.
            SchemaError: The tables are missing or too old.
        """
        with translated(), connect(self._conninfo(), application_name="oban-sync: verify") as conn:
            migrations.verify(Tx(conn, self.config.prefix))

    def build(self) -> Supervisor:
        """Make the parts that run; nothing of them is started."""
        config = self.config
        conninfo = self._conninfo()
        size = min(len(config.queues) + 1, MOST_LOOP_CONNECTIONS)
        name = f"{POOL_NAME}{config.name}: queues"
        pool = open_loop_pool(conninfo, name=name, size=size, pooled=self._pooled)
        self._loops[os.getpid()] = pool

        # Short, so that a stop is not held up for long; the loops try again anyway.
        db = Db(pool, config.prefix, timeout=2.0)
        # A producer may keep its connection while it is busy only where all of them can at once.
        kind = KeptDb if len(config.queues) < size else Db
        producers = {
            queue.name: Producer(queue, kind(pool, config.prefix, timeout=2.0), node=self.node)
            for queue in config.queues
        }

        def wake(queue: str) -> None:
            if (producer := producers.get(queue)) is not None:
                producer.wake()

        def wake_all() -> None:
            for producer in producers.values():
                producer.wake()

        notifier = Notifier(
            config.listen_conninfo or conninfo,
            config.prefix,
            on_insert=wake,
            on_connected=wake_all,
            application_name=f"oban-sync {config.name}: notifier",
        )
        stager = Stager(db, list(producers), config.stager, wake=wake)

        return Supervisor(notifier, list(producers.values()), stager)

    def close_loops(self) -> None:
        """Close what the running parts shared, after they stopped."""
        if (pool := self._loops.pop(os.getpid(), None)) is not None:
            pool.close(timeout=CLOSE_PERIOD)

    def close(self) -> None:
        """Close what was opened here, last of all; a pool that was given stays open."""
        self.close_loops()
        self._application.close(timeout=CLOSE_PERIOD)
        server, self._server = self._server, None

        if server is not None:
            server.stop()

    def _open_application_pool(self) -> ConnectionPool[Any]:
        return open_application_pool(
            self._conninfo(),
            name=f"{POOL_NAME}{self.config.name}: application",
            size=self.config.pool_size,
            pooled=self._pooled,
        )

    def _conninfo(self) -> str:
        """Where PostgreSQL is; starts the embedded one when that is what was asked for."""
        if self.config.pool is not None:
            return conninfo_of(self.config.pool)

        if self._server is None:
            self._server = server_of(self.config.conninfo)

        if self._server is None:
            return self.config.conninfo

        conninfo = self._server.start()

        # A database for development is as easy as a file: it comes with its tables.
        if not self._installed:
            with connect(conninfo, application_name="oban-sync: install") as conn:
                migrations.install(Tx(conn, self.config.prefix))

            self._installed = True

        return conninfo
