"""From a Config to the wired parts, in start order. The only module that names them all."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg_pool import ConnectionPool

from oban_sync.core import registry
from oban_sync.core.budget import loop_connections
from oban_sync.core.config import OFF, Config, QueueConfig, new_identity
from oban_sync.core.cron import Entry
from oban_sync.core.errors import DatabaseUnavailableError, NotRunningError
from oban_sync.core.lease import Lease
from oban_sync.engine import migrations, nodes
from oban_sync.engine.connections import (
    LISTENING,
    POOL_NAME,
    LazyPool,
    connect,
    connect_reserved,
    conninfo_of,
    is_pooled,
    open_application_pool,
    open_loop_pool,
    why_unavailable,
)
from oban_sync.engine.lanes import Lanes
from oban_sync.engine.nodes import Identity, lock_key
from oban_sync.engine.reserved import ReservedDb
from oban_sync.engine.session import Db, KeptDb, Tx, translated
from oban_sync.plugins.broadcast import broadcaster
from oban_sync.plugins.cron import Scheduler
from oban_sync.plugins.lanes import LaneIndexer
from oban_sync.plugins.leftovers import Leftovers
from oban_sync.plugins.lifeline import Lifeline
from oban_sync.plugins.metrics import Metrics, tallies_of
from oban_sync.plugins.prioritizer import Prioritizer
from oban_sync.plugins.pruner import Pruner
from oban_sync.plugins.reindexer import Reindexer
from oban_sync.runtime import channels
from oban_sync.runtime.host import Host
from oban_sync.runtime.job_logs import JobLogs, capture
from oban_sync.runtime.leader import Leader
from oban_sync.runtime.loop import Loop
from oban_sync.runtime.notifier import Notifier
from oban_sync.runtime.presence import Introduction
from oban_sync.runtime.producer import Producer
from oban_sync.runtime.refresher import Refresher
from oban_sync.runtime.roster import Roster
from oban_sync.runtime.stacks import StackTaker
from oban_sync.runtime.stager import Stager
from oban_sync.runtime.supervisor import Supervisor
from oban_sync.runtime.tally import Tallies

if TYPE_CHECKING:
    from oban_sync.embedded import Server
    from oban_sync.runtime.processes import ProcessRunner

log = logging.getLogger("oban_sync.runtime")

#: How a conninfo begins that asks for a PostgreSQL of its own.
EMBEDDED = "embedded:"

#: Seconds after the start of a cluster in which its first leader may act on it.
YOUTH = 60.0

#: Seconds that each thread of a pool gets to end.
CLOSE_PERIOD = 0.1


class Assembly:
    """The parts of one Oban, each made when first needed.

    Connections: the application pool (up to `pool_size`, none until used; or the one given), the
    loops' pool (1 to 5), one each for the notifier and the refresher, and one for the leader while
    its elections cannot go along with the heartbeat.
    """

    def __init__(
        self,
        config: Config,
        *,
        client: Callable[..., object] | None = None,
        transaction: Callable[[], AbstractContextManager[Any]] | None = None,
    ) -> None:
        self.config = config
        self._client = client
        self._transaction = transaction
        self._server: Server | None = None
        self._installed = False
        self._pooled = False
        self._application = LazyPool(self._open_application_pool)
        # By process, and never dropped: a parent's connections are not a child's to close.
        self._loops: dict[int, ConnectionPool[Any]] = {}
        self._made_by = os.getpid()
        self._given_open = config.pool is not None and not config.pool.closed
        self._logs = capture(config.logs)

    @property
    def host(self) -> Host:
        """What the application puts around the runs of its jobs."""
        config = self.config

        return Host(
            config.around,
            config.carry,
            self._transaction,
            config.session,
            config.prefix,
            logs=self._logs,
        )

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

        if given is None:
            return self._application.get()

        if self._given_open and self._made_by != os.getpid():
            raise NotRunningError(
                f"the pool of {self.config.name!r} was opened by process {self._made_by}, and this "
                f"is process {os.getpid()}, forked from it: both would talk over the same "
                "connections. Open a pool in each process after the fork, or give Oban a conninfo"
            )

        return given

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
            self._pooled = is_pooled(conn)

    def build(self) -> Supervisor:
        """Make the parts that run; nothing of them is started."""
        config = self.config
        conninfo = self._conninfo()
        listens, sessions = self._how_to_listen(conninfo)
        uuid = new_identity()
        # What a parent has of its jobs is not for its fork to write.
        self._logs = capture(config.logs)
        entries = registry.crontab(config.name, config.cron, timezone=config.scheduler.timezone)
        identity = Identity(
            uuid,
            config.name,
            self.node,
            lock_key=lock_key(uuid) if sessions else None,
            crons=tuple(entry.name for entry in entries),
        )
        lease = Lease(
            config.refresher.max_age, config.refresher.unlocked_max_age, uses_lock=sessions
        )
        tallies = tallies_of(config.metrics)
        pool, roster = self._queues(conninfo, lease, tallies)
        # Short, so that a stop is not held up for long; the loops try again anyway.
        db = Db(pool, config.prefix, timeout=2.0)
        notifier = None

        if listens is not None:
            notifier = Notifier(
                self._connecting(listens, "notifier", more=LISTENING),
                ping=identity.channel,
                lock_key=identity.lock_key,
                lease=lease,
                on_connected=roster.wake_all,
            )

        def degraded() -> bool:
            return notifier is None or notifier.degraded

        refresher = Refresher(
            # A beat that a crash of PostgreSQL undoes is followed by another one.
            self._reserved(conninfo, "refresher", {"synchronous_commit": "off"}),
            identity,
            roster,
            lease,
            config.refresher,
            introduction=Introduction(config, degraded=degraded, stopping=roster.stopping),
            pinged=notifier.pinged if notifier is not None else lambda _beats: None,
            degraded=degraded,
        )
        duties: list[Loop] = []
        leader = None

        def wake_duties() -> None:
            for duty in duties:
                duty.wake()

        if config.leadership.enabled:
            leader = Leader(
                self._reserved(conninfo, "leader"),
                identity,
                config.leadership,
                on_elected=wake_duties,
            )

        def leads() -> bool:
            return leader is not None and leader.is_leader

        stager = Stager(
            db, lambda: roster.names, config.stager, wake=roster.wake, degraded=degraded
        )
        lifeline = Lifeline(db, uuid, config.lifeline, leads=leads)

        # Behind a pooler nothing can be prepared, and so nothing sent in one go.
        if not self._pooled:
            # The leader last: it alone locks a row that others wait for.
            refresher.take_along(stager, lifeline, *([leader] if leader is not None else []))

        duties += [
            stager,
            lifeline,
            self._scheduler(db, entries, leads),
            *self._housekeeping(db, listens or conninfo, leads),
        ]

        if notifier is not None:
            stacks = StackTaker(db, roster, node=self.node)
            duties.append(stacks)
            channels.connect(notifier, config.prefix, roster, refresher, leader, stacks)

        writers: list[Loop] = []

        if self._logs is not None:
            writers.append(JobLogs(self._logs, db, leads=leads))

        if tallies is not None:
            told = broadcaster(db, config, self.node, roster.info, leads)
            writers.append(Metrics(db, tallies, config, node=self.node, leads=leads, teller=told))

        return Supervisor(notifier, refresher, roster, leader, duties, writers, lease)

    def _queues(
        self, conninfo: str, lease: Lease, tallies: Tallies | None
    ) -> tuple[ConnectionPool[Any], Roster]:
        """The loops' pool, and the producers that work through it."""
        config = self.config
        size = loop_connections(len(config.queues))
        name = f"{POOL_NAME}{config.name}: queues"
        pool = open_loop_pool(conninfo, name=name, size=size)
        self._loops[os.getpid()] = pool

        # A producer may keep its connection while it is busy only where all of them can at once.
        keeping = {queue.name for queue in config.queues if len(config.queues) + 2 <= size}

        def make(queue: QueueConfig) -> Producer:
            self._warn_of_few_connections(queue)
            kind = KeptDb if queue.name in keeping else Db
            # Of a queue that is stopped and started again, the one before may still hold its own.
            keeping.discard(queue.name)

            return Producer(
                queue,
                kind(pool, config.prefix, timeout=2.0),
                node=self.node,
                lease=lease,
                runner=self._runner(queue, conninfo),
                host=self.host,
                tallies=tallies,
            )

        return pool, Roster(
            config.queues,
            make,
            name=config.name,
            node=self.node,
            grace=config.shutdown_grace_period,
            told_as=config.metrics.name,
        )

    def _runner(self, queue: QueueConfig, conninfo: str) -> ProcessRunner | None:
        """What runs a queue's jobs, unless that is the slots' own threads."""
        if queue.executor.kind != "process":
            return None

        # Here, because it brings multiprocessing along, which other queues do not need.
        from oban_sync.runtime.processes import ProcessRunner

        config = self.config
        client = None

        if self._client is not None:
            client = partial(
                self._client, conninfo=conninfo, name=config.name, prefix=config.prefix
            )

        return ProcessRunner(
            queue,
            oban=config.name,
            client=client,
            imports=config.imports,
            app=config.app,
            gives_sessions=config.session is not None,
            logs=self._logs,
        )

    def _warn_of_few_connections(self, queue: QueueConfig) -> None:
        """Say so where transactional jobs will wait for one another's connections."""
        config = self.config

        # Children have pools of their own, and sessions come from the application's.
        if queue.executor.kind == "process" or config.session is not None:
            return

        most = config.pool_size if config.pool is None else config.pool.max_size
        names = registry.transactional(queue.name)

        if names and queue.limit > most:
            log.warning(
                "queue %r runs up to %d jobs at once, but its transactional workers (%s) keep a "
                "connection each, and the pool has %d: raise pool_size, or they wait for one "
                "another",
                queue.name,
                queue.limit,
                ", ".join(names),
                most,
            )

    def _housekeeping(self, db: Db, conninfo: str, leads: Callable[[], bool]) -> list[Loop]:
        """The duties that can be turned off."""
        config = self.config
        loops: list[Loop] = []

        if config.pruner.enabled:
            loops.append(Pruner(db, config.pruner, leads=leads))

        if wanted := [Lanes(q.name, q.limits.lane_by) for q in config.queues if q.limits.lane_by]:
            name = f"oban-sync {config.name}: lane-indexer"
            plainly = partial(connect, conninfo, application_name=name)
            loops.append(LaneIndexer(db, plainly, wanted))

        if Leftovers.are_there(config):
            loops.append(Leftovers(db, config, leads=leads))

        if config.prioritizer.enabled:
            loops.append(Prioritizer(db, config.prioritizer, leads=leads))

        if config.reindexer.enabled:
            name = f"oban-sync {config.name}: reindexer"
            plainly = partial(connect, conninfo, application_name=name)
            loops.append(Reindexer(plainly, config.prefix, config.reindexer, leads=leads))

        return loops

    def _scheduler(self, db: Db, entries: list[Entry], leads: Callable[[], bool]) -> Scheduler:
        config = self.config
        young_until = time.monotonic() + 2 * YOUTH

        def founded_at() -> datetime | None:
            if time.monotonic() > young_until:
                return None

            with db.session() as tx:
                return nodes.founded_at(tx, config.name, within=YOUTH)

        return Scheduler(
            db,
            config.name,
            self.node,
            entries,
            config.scheduler,
            leads=leads,
            founded_at=founded_at,
        )

    def _how_to_listen(self, conninfo: str) -> tuple[str | None, bool]:
        """Where to LISTEN, if anywhere, and whether a session there stays one."""
        given = self.config.listen_conninfo

        if given == OFF:
            return None, False

        if given is None:
            if self._pooled:
                log.warning(
                    "a pooler stands before PostgreSQL, and no listen_conninfo leads past it: this "
                    "node may not hear of jobs, and is rescued late when it dies"
                )

            return conninfo, not self._pooled

        try:
            with translated(), connect(given, application_name="oban-sync: verify") as conn:
                return given, not is_pooled(conn)
        except DatabaseUnavailableError as error:
            log.warning("listen_conninfo leads nowhere for now: %s", error)

            return given, False

    def _reserved(
        self, conninfo: str, part: str, settings: Mapping[str, str] = MappingProxyType({})
    ) -> ReservedDb:
        connect = self._connecting(conninfo, part, settings=settings)

        return ReservedDb(connect, self.config.prefix)

    def _connecting(
        self, conninfo: str, part: str, **options: Any
    ) -> Callable[[], psycopg.Connection[Any]]:
        name = f"oban-sync {self.config.name}: {part}"

        return partial(connect_reserved, conninfo, application_name=name, **options)

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
        )

    def _conninfo(self) -> str:
        """Where PostgreSQL is; starts the embedded one when that is what was asked for."""
        if self.config.pool is not None:
            return conninfo_of(self.config.pool)

        if self._server is None and self.config.conninfo.startswith(EMBEDDED):
            # Here, because nobody else needs any of it.
            from oban_sync.embedded.conninfo import server_of

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
