"""Oban: what an application talks to. Methods delegate; the work is in the rooms below."""

from __future__ import annotations

import atexit
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, cast

from psycopg_pool import ConnectionPool

from oban_sync import settings, telemetry
from oban_sync.assembly import Assembly
from oban_sync.control import (
    audit,
    cron_runs,
    crons,
    enqueueing,
    explain,
    jobs,
    logs,
    metrics,
    queues,
)
from oban_sync.control.rate_limits import QueueRateLimit, RateLimit
from oban_sync.core import health, instances, modes, registry
from oban_sync.core.carrying import Carrier, Carriers
from oban_sync.core.checks import check_seconds
from oban_sync.core.config import Config, mask
from oban_sync.core.cron import Cron
from oban_sync.core.errors import ConfigError, NotRunningError
from oban_sync.core.health import Health
from oban_sync.core.job import Job
from oban_sync.core.limits import Limits
from oban_sync.engine import callers
from oban_sync.engine.bound import BoundDb
from oban_sync.engine.session import Db
from oban_sync.methods import at_desk, in_name, on_bound, on_tables
from oban_sync.runtime import drainer, foreground
from oban_sync.runtime.host import Host
from oban_sync.runtime.lifecycle import Lifecycle
from oban_sync.runtime.roster import QueueInfo
from oban_sync.runtime.supervisor import Supervisor
from oban_sync.runtime.within_child import refuse_within_child

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
        listen_conninfo: Where to LISTEN, when `conninfo` leads through a pooler such as PgBouncer;
            ``"off"`` to find everything by looking.
        pool_size: Most connections that enqueueing and `connection` use; none until used.
        leadership: False to never lead; or ``{"interval": 2.5, "ttl": 8.0}``, in seconds.
        stager: ``{"interval": 1.0, "limit": 5000}``: how often due jobs are made available, and how
            many at a time.
        refresher: ``{"interval": 3.0, "max_age": 60.0, "unlocked_max_age": 6.0}``: how often this
            node beats, and after how long without a beat others take it for dead.
        lifeline: ``{"interval": 2.0, "rescue_after": 300.0}``: how often this node looks for dead
            ones, and the age at which jobs of unknown owners are run again.
        pruner: False to keep finished jobs for good; by default they are deleted after a day. See
            `core.retention.PrunerConfig` for retention by state, queue and worker.
        cron: ``[("0 9 * * MON", ReportWorker), ("@hourly", sync, {"args": {...}})]``: jobs by the
            clock, besides what workers say by ``cron=``. Options: args, queue, priority,
            max_attempts, tags, meta, timezone, catch_up, overlap, name.
        scheduler: ``{"timezone": "Etc/UTC", "catch_up_window": 86400.0}``: whose clocks entries
            mean that do not say, and for how long missed times are made up for.
        prioritizer: True, or ``{"after": 300.0, "interval": 60.0}``: jobs that wait for that long
            gain a step of priority, and another one every interval.
        reindexer: True, or a schedule, to rebuild the indexes of the jobs table every night.
        logs: False to keep nothing of what jobs log; or ``{"level": "info", "most_bytes": 65536,
            "most_lines": 1000, "keep": 604800.0, "only_failures": False}``. See `job_logs`.
        metrics: False to count nothing of what jobs come to; or ``{"interval": 10.0, "keep":
            2592000.0, "broadcast": False}``. See `list_metrics`; ``broadcast`` tells Oban Web, too.
        around: A function of a job that gives a context manager; each run happens inside it, with
            the worker's backoff and policy. `integrations.flask.FlaskOban` gives one that brings
            an app context.
        carry: Context variables, in a list or by name, whose values jobs take along from where they
            are enqueued: set again where the job runs, and at `Job.carried`. They must be JSON.
        session: What gives workers with ``transactional=True`` their session when it is called: a
            sessionmaker, or ``db.session``. By default they get a psycopg connection.
        app: Where child processes of queues find the application, as ``myapp.wsgi:app``; loaded
            before their first job.
        testing: ``"manual"`` or ``"inline"``, for tests: nothing is started, and jobs wait for
            `drain_queue`, or run where they are enqueued.

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
        leadership: Mapping[str, Any] | bool | None = None,
        stager: Mapping[str, Any] | None = None,
        refresher: Mapping[str, Any] | None = None,
        lifeline: Mapping[str, Any] | None = None,
        pruner: Mapping[str, Any] | bool | None = None,
        cron: Iterable[Any] | None = None,
        scheduler: Mapping[str, Any] | None = None,
        reindexer: Mapping[str, Any] | bool | None = None,
        prioritizer: Mapping[str, Any] | bool | None = None,
        logs: Mapping[str, Any] | bool | str | None = None,
        metrics: Mapping[str, Any] | bool | None = None,
        around: Callable[[Job], AbstractContextManager[object]] | None = None,
        carry: Mapping[str, ContextVar[Any] | Carrier] | Iterable[ContextVar[Any]] | None = None,
        session: Callable[[], Any] | None = None,
        app: str | None = None,
        testing: str | None = None,
        **unknown: Any,
    ) -> None:
        # First of all, while there is nothing here but what was given.
        given = dict(locals())
        del given["self"], given["unknown"]
        self._given: dict[str, Any] = {**given, **unknown}
        self._config = settings.resolve(self._given)
        self._assembly = self._assembled(self._config)
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
        self._given, self._config, self._assembly = given, config, self._assembled(config)
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
        interpreter, `stop` is called if nobody did. In tests (`testing`) it starts nothing.

        Raises:
            DatabaseUnavailableError: PostgreSQL could not be reached.
            SchemaError: The tables are missing or too old; says which command to run.
            ConfigError: A module of `imports` does not exist.
        """
        if self.testing is not None:
            self._stopped = False

            return self

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
            ConfigError: There are no queues to run, or it is under test.
            NotRunningError: Not called on the main thread.
            DatabaseUnavailableError, SchemaError: As `start`.
        """
        if not self._config.queues:
            raise ConfigError(
                "queues",
                'there is nothing to run; give queues={"default": 10}, or --queues default:10',
            )

        if self.testing is not None:
            raise ConfigError("testing", f"nothing runs with {self.testing!r}, so run() has no end")

        return foreground.run_until_signal(
            self.start, self.stop, lambda: self._lifecycle.hasten(grace=0.0)
        )

    @property
    def name(self) -> str:
        """The name of this instance."""
        return self._config.name

    @property
    def conninfo(self) -> str:
        """Where its database is, as it was given; a password in it is not masked."""
        return self._assembly.conninfo

    @property
    def prefix(self) -> str:
        """The PostgreSQL schema of its tables."""
        return self._config.prefix

    @property
    def node(self) -> str:
        """What people call this node."""
        return self._assembly.node

    @property
    def config(self) -> Config:
        """Its options, checked."""
        return self._config

    @property
    def testing(self) -> str | None:
        """How it behaves in tests, ``"manual"`` or ``"inline"``; None as in production."""
        return modes.current(self._config.testing)

    @property
    def limits(self) -> dict[str, Limits]:
        """What holds for its queues beside their limits on one node, by queue."""
        return self._config.limits

    @property
    def carriers(self) -> Carriers:
        """What jobs take along from where they are enqueued."""
        return self._config.carry

    @property
    def host(self) -> Host:
        """What its jobs run in, on whatever thread."""
        return self._assembly.host

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

    enqueue = at_desk(enqueueing.enqueue)
    enqueue_many = at_desk(enqueueing.enqueue_many)
    connection = at_desk(enqueueing.connection)
    transaction = at_desk(enqueueing.transaction)
    bind = at_desk(enqueueing.bind)

    # Managing jobs

    get_job = on_bound(jobs.get_job)
    list_jobs = on_tables(jobs.list_jobs)
    count_jobs = on_tables(jobs.count_jobs)
    search_jobs = on_tables(jobs.search_jobs)
    explain_job = in_name(explain.explain_job)
    job_logs = on_tables(logs.job_logs)
    list_metrics = on_tables(metrics.list_metrics)
    metrics_summary = on_tables(metrics.metrics_summary)
    cancel_job = on_bound(jobs.cancel_job)
    cancel_many_jobs = on_bound(jobs.cancel_many_jobs)
    retry_job = on_bound(jobs.retry_job)
    retry_many_jobs = on_bound(jobs.retry_many_jobs)
    delete_job = on_bound(jobs.delete_job)
    delete_many_jobs = on_bound(jobs.delete_many_jobs)
    update_job = on_bound(jobs.update_job)
    update_many_jobs = on_bound(jobs.update_many_jobs)

    # Managing queues and nodes

    pause_queue = in_name(queues.pause_queue)
    resume_queue = in_name(queues.resume_queue)
    pause_all_queues = in_name(queues.pause_all_queues)
    resume_all_queues = in_name(queues.resume_all_queues)
    start_queue = in_name(queues.start_queue)
    stop_queue = in_name(queues.stop_queue)
    scale_queue = in_name(queues.scale_queue)
    reset_queue = in_name(queues.reset_queue)
    list_nodes = on_tables(queues.list_nodes)
    queue_health = on_tables(metrics.queue_health)
    list_audit = on_tables(audit.list_audit)

    # Managing cron entries

    list_crons = in_name(crons.list_crons)
    list_cron_slots = in_name(crons.list_cron_slots)
    update_cron = in_name(crons.update_cron)
    reset_cron = in_name(crons.reset_cron)
    run_cron = in_name(cron_runs.run_cron)
    pause_cron = in_name(crons.pause_cron)
    resume_cron = in_name(crons.resume_cron)
    delete_cron = in_name(crons.delete_cron)

    def insert_cron(self, expression: str, worker: object, **options: Any) -> Cron:
        """Make a cron entry at run time; see `control.crons.insert_cron`."""
        options.setdefault("timezone", self._config.scheduler.timezone)

        return crons.insert_cron(self.db, self.name, expression, worker, **options)

    def rate_limit(self, queue: str) -> RateLimit:
        """The rate limit of a queue that this Oban is configured with, for code outside of jobs.

        Raises:
            ConfigError: It has none.
        """
        return QueueRateLimit(self, self._config.queues, queue)

    def check_queue(self, queue: str) -> QueueInfo | None:
        """How a queue of this very node stands at the moment; None when it does not run here."""
        return next((info for info in self.check_all_queues() if info.queue == queue), None)

    def check_all_queues(self) -> list[QueueInfo]:
        """How each queue of this very node stands; `list_nodes` tells of the others."""
        supervisor = self._lifecycle.supervisor

        return [] if supervisor is None else supervisor.roster.info()

    def health(self) -> Health:
        """How the node of this process is, for probes: quick, and without a query; see `Health`."""
        if (supervisor := self._lifecycle.supervisor) is not None:
            return supervisor.health()

        wanted = [] if self.testing else [queue.name for queue in self._config.queues]

        return health.idle(stopped=self._stopped, wants=wanted)

    @property
    def is_leader(self) -> bool:
        """Whether this node does the work of the whole cluster at the moment.

        By this process's own clock: false as soon as it could not renew its lease in time.
        """
        supervisor = self._lifecycle.supervisor

        return supervisor is not None and supervisor.is_leader

    # Looking and running by hand

    drain_queue = at_desk(drainer.drain_queue)
    run_inline = at_desk(drainer.run_inline)

    def _introduce(self) -> None:
        """Say what runs here, and what one may have expected to run here and does not."""
        known = registry.registered()
        own = {queue.name for queue in self._config.queues}
        used = registry.registered(self._config.name).values()
        others = sorted({queue for queue in used if queue not in own})
        log.info("%r started; workers: %s", self, ", ".join(known) or "none")

        if not known:
            log.warning("no worker is registered, so every job will fail; import some")
        elif others:
            log.info("not run here, though workers use them: queues %s", ", ".join(others))

    def _assembled(self, config: Config) -> Assembly:
        return Assembly(config, client=Oban, transaction=self.transaction)

    def _build(self) -> Supervisor | None:
        self._stopped = False
        refuse_within_child(self._config.queues)

        for module in self._config.imports:
            registry.load(module)

        self._assembly.verify()

        return self._assembly.build() if self._config.queues else None

    def _close(self) -> None:
        self._stopped = True
        self._assembly.close()

    @property
    def db(self) -> Db:
        """The application pool, as the library's own statements use it.

        Inside of `testing.bound`, the connection that it is bound to.
        """
        if (conn := callers.bound_to(self, wholly=True)) is not None:
            return BoundDb(conn, self._config.prefix)

        if self._stopped:
            raise NotRunningError(
                f"Oban {self._config.name!r} was stopped, and its connections are closed; call "
                "start() again, or pass conn= to enqueue through a connection of yours"
            )

        db = self._assembly.db

        return db if self.testing is None else db.timed_here()
