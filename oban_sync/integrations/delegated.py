"""An Oban's methods and properties, on what knows which Oban is meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from oban_sync.core.carrying import Carriers
from oban_sync.core.config import Config
from oban_sync.core.cron import Cron
from oban_sync.core.limits import Limits
from oban_sync.oban import Oban
from oban_sync.runtime.host import Host

Params = ParamSpec("Params")
Result = TypeVar("Result")


class Knows(Protocol):
    """Knows which Oban is meant."""

    def get(self) -> Oban:
        """The one."""
        ...


def delegated(
    method: Callable[Concatenate[Any, Params], Result],
) -> Callable[Concatenate[Knows, Params], Result]:
    """A method that calls an Oban's of the same name, with the same arguments."""

    @wraps(method)
    def call(self: Knows, /, *args: Params.args, **kwargs: Params.kwargs) -> Result:
        found: Callable[Params, Result] = getattr(self.get(), method.__name__)

        return found(*args, **kwargs)

    return call


class Delegates:
    """All that an `Oban` has, of the one that `get` gives.

    Written out, so that editors and type checkers know each by name and by arguments.
    """

    def get(self) -> Oban:
        """The Oban that is meant."""
        raise NotImplementedError

    def configure(self, **options: Any) -> Oban:
        """Change options before the start; see `Oban.configure`."""
        return self.get().configure(**options)

    start = delegated(Oban.start)
    stop = delegated(Oban.stop)
    run = delegated(Oban.run)

    enqueue = delegated(Oban.enqueue)
    enqueue_many = delegated(Oban.enqueue_many)
    connection = delegated(Oban.connection)
    transaction = delegated(Oban.transaction)
    bind = delegated(Oban.bind)

    get_job = delegated(Oban.get_job)
    list_jobs = delegated(Oban.list_jobs)
    count_jobs = delegated(Oban.count_jobs)
    search_jobs = delegated(Oban.search_jobs)
    explain_job = delegated(Oban.explain_job)
    job_logs = delegated(Oban.job_logs)
    list_metrics = delegated(Oban.list_metrics)
    metrics_summary = delegated(Oban.metrics_summary)
    cancel_job = delegated(Oban.cancel_job)
    cancel_many_jobs = delegated(Oban.cancel_many_jobs)
    retry_job = delegated(Oban.retry_job)
    retry_many_jobs = delegated(Oban.retry_many_jobs)
    delete_job = delegated(Oban.delete_job)
    delete_many_jobs = delegated(Oban.delete_many_jobs)
    update_job = delegated(Oban.update_job)
    update_many_jobs = delegated(Oban.update_many_jobs)

    pause_queue = delegated(Oban.pause_queue)
    resume_queue = delegated(Oban.resume_queue)
    pause_all_queues = delegated(Oban.pause_all_queues)
    resume_all_queues = delegated(Oban.resume_all_queues)
    start_queue = delegated(Oban.start_queue)
    stop_queue = delegated(Oban.stop_queue)
    scale_queue = delegated(Oban.scale_queue)
    reset_queue = delegated(Oban.reset_queue)
    list_nodes = delegated(Oban.list_nodes)
    queue_health = delegated(Oban.queue_health)
    list_audit = delegated(Oban.list_audit)
    health = delegated(Oban.health)
    check_queue = delegated(Oban.check_queue)
    check_all_queues = delegated(Oban.check_all_queues)

    list_crons = delegated(Oban.list_crons)
    list_cron_slots = delegated(Oban.list_cron_slots)
    update_cron = delegated(Oban.update_cron)
    reset_cron = delegated(Oban.reset_cron)
    run_cron = delegated(Oban.run_cron)
    pause_cron = delegated(Oban.pause_cron)
    resume_cron = delegated(Oban.resume_cron)
    delete_cron = delegated(Oban.delete_cron)

    def insert_cron(self, expression: str, worker: object, **options: Any) -> Cron:
        """Make a cron entry at run time; see `Oban.insert_cron`."""
        return self.get().insert_cron(expression, worker, **options)

    rate_limit = delegated(Oban.rate_limit)
    drain_queue = delegated(Oban.drain_queue)

    @property
    def config(self) -> Config:
        """Its options, all of them."""
        return self.get().config

    @property
    def name(self) -> str:
        """The name of the instance."""
        return self.get().name

    @property
    def conninfo(self) -> str:
        """Where its database is; a password in it is not masked."""
        return self.get().conninfo

    @property
    def prefix(self) -> str:
        """The PostgreSQL schema of its tables."""
        return self.get().prefix

    @property
    def limits(self) -> Mapping[str, Limits]:
        """What holds for its queues beside their limits on one node, by queue."""
        return self.get().limits

    @property
    def carriers(self) -> Carriers:
        """What jobs take along from where they are enqueued."""
        return self.get().carriers

    @property
    def host(self) -> Host:
        """What its jobs run in, on whatever thread."""
        return self.get().host

    @property
    def running(self) -> bool:
        """Whether the queues run in this process."""
        return self.get().running

    @property
    def is_leader(self) -> bool:
        """Whether this node does the work of the whole cluster at the moment."""
        return self.get().is_leader

    # What is not for everybody is there all the same; nobody has to be offered it.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)

            return getattr(self.get(), name)
