"""Oban: what an application talks to. Methods delegate; the work is in the rooms below."""

from __future__ import annotations

import atexit
import importlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, cast

import psycopg
from psycopg_pool import ConnectionPool

from oban_sync import settings, telemetry
from oban_sync.assembly import Assembly
from oban_sync.core import instances, worker
from oban_sync.core.checks import check_seconds, check_whole
from oban_sync.core.config import mask
from oban_sync.core.errors import ConfigError, NotRunningError, shown
from oban_sync.core.job import Job
from oban_sync.core.loops import StagerConfig
from oban_sync.engine import connections
from oban_sync.engine import jobs as stored_jobs
from oban_sync.engine.session import Db
from oban_sync.runtime import drainer, foreground
from oban_sync.runtime.lifecycle import Lifecycle
from oban_sync.runtime.supervisor import Supervisor

log = logging.getLogger("oban_sync")


class Oban:
    """A job system in the application's own PostgreSQL.

    Nothing starts at construction. Without queues it only enqueues, and needs no start; with
    queues, `start` runs them on threads of this process. Every option may also come from the
    environment, as ``OBAN_QUEUES=default:10,mailers:20``, or from ``oban.toml`` in the current
    folder.

    Args:
        conninfo: libpq string or URL. By default ``OBAN_DSN``, then ``DATABASE_URL``, then
            ``oban.toml``. ``embedded:PATH`` keeps a private PostgreSQL in PATH, for development.
        pool: A `psycopg_pool.ConnectionPool` to use for the application's work instead; it stays
            open when Oban stops. The threads still connect by themselves, to its conninfo.
        queues: Jobs at once on this node, by queue: ``{"default": 10, "mailers": {"limit": 5}}``.
        name: Name of this instance; workers say by ``oban=`` which one takes their jobs.
        node: What people call this node; by default the host's name. It identifies nothing.
        prefix: The PostgreSQL schema of the tables.
        imports: Modules that define workers, imported by `start`.
        shutdown_grace_period: Seconds that `stop` lets running jobs finish in.
        listen_conninfo: Where to LISTEN, when `conninfo` leads through a pooler such as PgBouncer.
        pool_size: Most connections that enqueueing and `connection` use; none until used.
        stager: ``{"interval": 1.0, "limit": 5000}``: how often due jobs are made available, and how
            many at a time.

    Raises:
        ConfigError: An option is wrong or unknown; names it, and what is allowed.

    Example:
        >>> oban = Oban("postgresql://localhost/app", queues={"default": 10}).start()
        >>> ended = oban.stop()
    """

    def __init__(
        self,
        conninfo: str | None = None,
        *,
        pool: ConnectionPool[Any] | None = None,
        queues: Mapping[str, int | Mapping[str, Any]] | str | None = None,
        name: str | None = None,
        node: str | None = None,
        prefix: str | None = None,
        imports: Iterable[str] | None = None,
        shutdown_grace_period: float | None = None,
        listen_conninfo: str | None = None,
        pool_size: int | None = None,
        stager: Mapping[str, Any] | StagerConfig | None = None,
        **unknown: Any,
    ) -> None:
        self._given: dict[str, Any] = {
            "conninfo": conninfo,
            "pool": pool,
            "queues": queues,
            "name": name,
            "node": node,
            "prefix": prefix,
            "imports": imports,
            "shutdown_grace_period": shutdown_grace_period,
            "listen_conninfo": listen_conninfo,
            "pool_size": pool_size,
            "stager": stager,
            **unknown,
        }
        self._config = settings.resolve(self._given)
        self._assembly = Assembly(self._config)
        self._lifecycle = Lifecycle()
        self._stopped = False
        instances.put(self._config.name, self)

    def configure(self, **options: Any) -> Oban:
        """Change options before the start; those that are None stay as they are.

        For a process that runs what the application only enqueues to, as ``oban-sync start --app
        myapp:oban --queues default:10`` does.

        Args:
            options: As for the constructor.

        Raises:
            ConfigError: An option is wrong or unknown.
            NotRunningError: It runs already.
        """
        if self._lifecycle.running:
            raise NotRunningError(f"{self!r} runs already; configure it before start()")

        given = {**self._given, **{key: item for key, item in options.items() if item is not None}}

        if options.get("conninfo") is not None:
            given["pool"] = None

        config = settings.resolve(given)
        self._assembly.close()
        self._given, self._config, self._assembly = given, config, Assembly(config)
        instances.put(config.name, self)

        return self

    @staticmethod
    def get_instance(name: str = "Oban") -> Oban:
        """The Oban constructed last under a name in this process.

        Raises:
            NotRunningError: There is none.
        """
        return cast(Oban, instances.get(name))

    def __repr__(self) -> str:
        queues = ", ".join(f"{queue.name}:{queue.limit}" for queue in self._config.queues)
        state = "running" if self._lifecycle.running else "not running"

        return (
            f"<Oban {self._config.name!r} {mask(self._config.conninfo) or 'pool'} "
            f"prefix={self._config.prefix} queues={queues or 'none'} {state}>"
        )

    # Running

    def start(self) -> Oban:
        """Start running the queues, on threads of this process; returns the Oban itself.

        Connects and checks the tables first. All or nothing: when it raises, nothing is left
        running. Does nothing when it runs already. Installs no signal handler; at the exit of the
        interpreter, `stop` is called if nobody did.

        Raises:
            DatabaseUnavailableError: PostgreSQL could not be reached.
            SchemaError: The tables are missing or too old; says which command to run.
            ConfigError: A module of `imports` does not exist.
        """
        if self._lifecycle.start(self._build, self._assembly.close_loops):
            atexit.register(self.stop)
            telemetry.log.attach(failures_only=True)
            self._introduce()

        return self

    def stop(self, grace: float | None = None) -> bool:
        """Stop taking jobs, let running ones finish, and close what was opened.

        Jobs that do not finish in time are handed back: another node takes them, and the attempt
        is not spent. Returns within grace + 5 seconds with the database up or down. Safe to call
        twice, before `start`, and from several threads: a second call may shorten the grace of the
        first.

        Args:
            grace: Seconds for running jobs; by default `shutdown_grace_period`.

        Returns:
            Whether every thread has ended. A job that does not return keeps its thread; it does not
            keep the process. Called by a job, or by a handler on one of Oban's threads, it returns
            False at once, and the stop goes on.
        """
        grace = (
            self._config.shutdown_grace_period if grace is None else check_seconds("grace", grace)
        )
        atexit.unregister(self.stop)
        ended = self._lifecycle.stop(self._close, grace=grace)

        if ended is None:
            return True

        if ended:
            log.info("%r stopped", self)
        else:
            log.warning("%r stopped; jobs that did not return keep their threads", self)

        return ended

    def run(self) -> int:
        """Start, wait for SIGTERM or SIGINT, and stop: the whole main of a script.

        A second signal hands unfinished jobs back at once, a third ends the process.

        Returns:
            The number of the signal.

        Raises:
            ConfigError: There are no queues to run.
            NotRunningError: Not called on the main thread.
            DatabaseUnavailableError, SchemaError: As `start`.
        """
        if not self._config.queues:
            raise ConfigError(
                "queues",
                'there is nothing to run; give queues={"default": 10}, or --queues default:10',
            )

        return foreground.run_until_signal(
            self.start, self.stop, lambda: self._lifecycle.hasten(grace=0.0)
        )

    @property
    def conninfo(self) -> str:
        """Where its database is, as it was given; a password in it is not masked."""
        return self._assembly.conninfo

    @property
    def prefix(self) -> str:
        """The PostgreSQL schema of its tables."""
        return self._config.prefix

    @property
    def running(self) -> bool:
        """Whether the queues run in this process."""
        return self._lifecycle.running

    def __enter__(self) -> Oban:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # Enqueueing

    def enqueue(self, job: Job, *, conn: Any = None) -> Job:
        """Store a job.

        Without `conn` it goes through the connection of the surrounding `connection`, `transaction`
        or `bind` block, and else is committed at once. Nodes hear of it when it is committed.

        Args:
            job: Made by ``Worker.new(...)``. It stays as it is, and may be stored again.
            conn: Store it in this connection's transaction, which stays the caller's to commit: a
                psycopg 3, psycopg2 or other DB-API connection or cursor, a SQLAlchemy Connection,
                Session or scoped_session, or a Django connection.

        Returns:
            The job as stored, with its id.

        Raises:
            InvalidJobError: Its args or meta were changed into something that cannot be stored.
            ConfigError: `conn` is not a connection.
            DatabaseUnavailableError: PostgreSQL could not be reached.
            SchemaError: The tables are missing.
        """
        return self.enqueue_many((job,), conn=conn)[0]

    def enqueue_many(self, jobs: Iterable[Job] | Job, /, *rest: Job, conn: Any = None) -> list[Job]:
        """Store any number of jobs in one transaction, by one statement for every 5,000.

        Args:
            jobs: An iterable of jobs, a generator for instance; or the first of several arguments.
            rest: More jobs.
            conn: As for `enqueue`; a generator may be read while its transaction is open.

        Returns:
            The jobs as stored, in order, with ids in the same order.

        Raises:
            ConfigError: Something among them is not a job; nothing was stored.
            DatabaseUnavailableError, InvalidJobError, SchemaError: As `enqueue`.
        """
        given = _checked((jobs, *rest) if isinstance(jobs, Job) else jobs)

        if conn is None:
            conn = connections.bound_to(self)

        if conn is not None:
            return stored_jobs.insert(conn, self._config.prefix, given)

        with self._db().session() as tx:
            # One job needs no transaction around its one statement.
            if isinstance(jobs, tuple) and len(jobs) == 1:
                return stored_jobs.insert(tx.conn, tx.schema, given)

            with tx.conn.transaction():
                return stored_jobs.insert(tx.conn, tx.schema, given)

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """Borrow a psycopg connection; jobs enqueued in the block, on this thread, go through it.

        The connection is in autocommit mode, so open a transaction on it where one is wanted.

        Raises:
            DatabaseUnavailableError: PostgreSQL could not be reached.

        Example:
            >>> with oban.connection() as conn, conn.transaction():
            ...     user = conn.execute("INSERT INTO users VALUES ('a@example.com')")
            ...     stored = MailerWorker.enqueue({"to": "a@example.com"})
        """
        with self._db().borrowed() as conn, connections.bound(self, conn):
            yield conn

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[Any]]:
        """A transaction that the jobs enqueued in the block, on this thread, belong to.

        Inside the block of another `transaction` or `connection` it is a savepoint, or a
        transaction, on the same connection.

        Raises:
            DatabaseUnavailableError: PostgreSQL could not be reached.
        """
        conn = connections.bound_to(self)

        if isinstance(conn, psycopg.Connection):
            with conn.transaction():
                yield conn
        else:
            with self.connection() as own, own.transaction():
                yield own

    def bind(self, conn: Any) -> AbstractContextManager[None]:
        """Let jobs enqueued in the block, on this thread, go through a connection or session.

        Nothing is committed: that stays with whoever owns it.

        Args:
            conn: As for `enqueue`.

        Raises:
            ConfigError: It is not a connection.

        Example:
            >>> with oban.bind(session):
            ...     stored = MailerWorker.enqueue({"to": "a@example.com"})
        """
        connections.check(conn)

        return connections.bound(self, conn)

    # Looking and running by hand

    def get_job(self, job_id: int) -> Job | None:
        """The job of an id as it stands now, or None.

        Raises:
            DatabaseUnavailableError: PostgreSQL could not be reached.
        """
        check_whole("job_id", job_id, 0, 2**63 - 1)

        with self._db().session() as tx:
            return stored_jobs.get(tx, job_id)

    def drain_queue(
        self,
        queue: str = "default",
        *,
        with_recursion: bool = True,
        with_safety: bool = False,
        with_scheduled: bool = True,
    ) -> dict[str, int]:
        """Run the jobs of a queue here and now, one by one, on this thread. Needs no `start`.

        Made for tests: nothing is left running when it returns. Only committed jobs are seen.

        Args:
            queue: The queue's name.
            with_recursion: Go on until the queue is empty, with the jobs that jobs enqueue; else
                run only those that are there now.
            with_safety: Record failures and go on. Otherwise the first exception is raised, after
                it was recorded, and jobs not run yet stay available.
            with_scheduled: Run scheduled and retryable jobs too, whatever their time.

        Returns:
            How many runs ended in each of the states completed, retryable, discarded, cancelled
            and scheduled.

        Raises:
            ObanError: A job snoozed a hundred times, and would do so for ever.
            DatabaseUnavailableError: PostgreSQL could not be reached.
        """
        return drainer.drain(
            self._db(),
            queue,
            node=self._assembly.node,
            with_recursion=with_recursion,
            with_safety=with_safety,
            with_scheduled=with_scheduled,
        )

    def _introduce(self) -> None:
        """Say what runs here, and what one may have expected to run here and does not."""
        known = worker.registered(self._config.name)
        own = {queue.name for queue in self._config.queues}
        others = sorted({queue for queue in known.values() if queue not in own})
        log.info("%r started; workers: %s", self, ", ".join(known) or "none")

        if not known:
            log.warning("no worker is registered, so every job will fail; import some")
        elif others:
            log.info("not run here, though workers use them: queues %s", ", ".join(others))

    def _build(self) -> Supervisor | None:
        self._stopped = False

        for module in self._config.imports:
            _imported(module)

        self._assembly.verify()

        return self._assembly.build() if self._config.queues else None

    def _close(self) -> None:
        self._stopped = True
        self._assembly.close()

    def _db(self) -> Db:
        if self._stopped:
            raise NotRunningError(
                f"Oban {self._config.name!r} was stopped, and its connections are closed; call "
                "start() again, or pass conn= to enqueue through a connection of yours"
            )

        return self._assembly.db


def _imported(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A module missing inside that one is its own trouble, with its own traceback.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise

        raise ConfigError("imports", f"there is no module {error.name!r}") from error


def _checked(given: Iterable[Job]) -> Iterator[Job]:
    if not isinstance(given, Iterable):
        raise ConfigError("jobs", f"{shown(given)} is neither a job nor an iterable of jobs")

    for index, job in enumerate(given):
        if not isinstance(job, Job):
            raise ConfigError(
                f"jobs[{index}]", f"{shown(job)} is not a job; make one with Worker.new(...)"
            )

        yield job
