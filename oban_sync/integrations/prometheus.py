"""Metrics for Prometheus: what this process ran, how its queues stand, and on demand the cluster's.

Counters and histograms are made of the library's events, by the classes of prometheus_client, so
that its directory for several processes works with them. What is looked up when somebody asks is
made by a collector.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

try:
    from prometheus_client import (
        REGISTRY,
        CollectorRegistry,
        Counter,
        Histogram,
        exposition,
        multiprocess,
        start_http_server,
        values,
    )
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        "oban_sync.integrations.prometheus needs prometheus-client; install it by: "
        "pip install 'oban-sync[prometheus]'"
    ) from error

from oban_sync import telemetry
from oban_sync.core import registry as workers
from oban_sync.core.errors import ConfigError, NotRunningError, WorkerNotFoundError

log = logging.getLogger("oban_sync.integrations")

#: Seconds that a run takes: from those of short jobs to an hour.
DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3_600)

#: Seconds that a job waits: an idle queue starts it in milliseconds, a full one in hours.
WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3_600, 14_400)

#: Seconds that what the cluster says of its queues is of use.
FRESH = 5.0

#: In place of the names of workers that are not known here: rows may name anything.
UNKNOWN = "(unknown)"

_IDENTIFIER = "oban-sync-prometheus"


class Watched(Protocol):
    """An Oban, or what stands for one."""

    @property
    def name(self) -> str:
        """The name of the instance."""
        ...

    @property
    def node(self) -> str:
        """What people call the node."""
        ...

    @property
    def running(self) -> bool:
        """Whether its queues run in this process."""
        ...

    @property
    def is_leader(self) -> bool:
        """Whether it leads."""
        ...

    def check_all_queues(self) -> Iterable[Any]:
        """How its queues on this node stand."""
        ...

    def health(self) -> Any:
        """How its node is."""
        ...

    def queue_health(self) -> Iterable[Any]:
        """How the queues of the whole cluster stand."""
        ...


class _Exporter:
    """What is attached: one registry, its instruments, and who follows the events."""

    def __init__(
        self, obans: tuple[Watched, ...], registry: CollectorRegistry, cluster: Watched | None
    ) -> None:
        self.registry = registry
        self.gauges = _Gauges(obans, cluster)
        self._ran = Counter(
            "oban_jobs",
            "Runs of jobs in this process, by the state they came to.",
            ("queue", "worker", "state"),
            registry=registry,
        )
        self._duration = Histogram(
            "oban_job_duration_seconds",
            "Time that runs of jobs took.",
            ("queue", "worker"),
            buckets=DURATIONS,
            registry=registry,
        )
        self._wait = Histogram(
            "oban_job_wait_seconds",
            "Time between the moment a job was due and its start.",
            ("queue",),
            buckets=WAITS,
            registry=registry,
        )
        self._inserted = Counter(
            "oban_jobs_inserted",
            "Jobs that this process stored.",
            ("queue",),
            registry=registry,
        )
        self._troubles = Counter(
            "oban_troubles",
            "What went wrong: outcomes refused, jobs handed back or stopped, loops that failed.",
            ("kind",),
            registry=registry,
        )
        registry.register(self.gauges)

    def handle(self, event: str, fields: dict[str, Any]) -> None:
        """An event happened."""
        if event in ("oban.job.stop", "oban.job.exception"):
            job = fields["job"]
            worker = _known(job.worker)
            self._ran.labels(job.queue, worker, fields["state"]).inc()
            self._duration.labels(job.queue, worker).observe(fields["duration"] / 1e9)
            self._wait.labels(job.queue).observe(max(0, fields["queue_time"]) / 1e9)
        elif event == "oban.job.insert.stop":
            for job in fields["jobs"]:
                if not job.conflict:
                    self._inserted.labels(job.queue).inc()
        elif event == "oban.producer.release":
            self._troubles.labels("handed_back").inc(len(fields["jobs"]))
        elif event != "oban.job.timeout" or fields["step"] == "flag":
            self._troubles.labels(_TROUBLES[event]).inc()

    def close(self) -> None:
        """Take everything out of the registry again."""
        for part in (
            self.gauges,
            self._ran,
            self._duration,
            self._wait,
            self._inserted,
            self._troubles,
        ):
            self.registry.unregister(part)


class _Gauges(Collector):
    """What is looked up when somebody asks.

    Args:
        obans: Whose nodes and queues, of this process.
        cluster: Is asked for the queues of all nodes, by a query.
    """

    def __init__(self, obans: tuple[Watched, ...], cluster: Watched | None) -> None:
        self._obans = obans
        self._cluster = cluster
        self._seen: list[Any] = []
        self._fresh_until = 0.0

    def describe(self) -> Iterable[Any]:
        """Nothing, so that nobody is asked at once."""
        return ()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges, as things stand."""
        yield from self._nodes()
        yield from self._queues()

        if self._cluster is not None:
            yield from self._of_cluster()

    def _nodes(self) -> Iterator[GaugeMetricFamily]:
        labels = ("name", "node")
        up = GaugeMetricFamily(
            "oban_node_up", "Whether the node runs and is in health.", labels=labels
        )
        leads = GaugeMetricFamily("oban_leader", "Whether the node leads.", labels=labels)
        degraded = GaugeMetricFamily(
            "oban_notifier_degraded", "Whether the node hears nothing, and looks.", labels=labels
        )

        for oban in self._obans:
            about = (oban.name, oban.node)
            health = oban.health() if oban.running else None
            up.add_metric(about, float(health is not None and health.ok))
            leads.add_metric(about, float(oban.is_leader))

            if (deaf := getattr(health, "degraded", None)) is not None:
                degraded.add_metric(about, float(deaf))

        yield from (up, leads, degraded)

    def _queues(self) -> Iterator[GaugeMetricFamily]:
        labels = ("name", "queue")
        slots = GaugeMetricFamily(
            "oban_queue_slots", "Jobs that this node runs at once.", labels=labels
        )
        running = GaugeMetricFamily(
            "oban_queue_running", "Jobs that this node runs.", labels=labels
        )
        paused = GaugeMetricFamily(
            "oban_queue_paused", "Whether this node takes no jobs of the queue.", labels=labels
        )

        for oban in self._obans:
            for queue in oban.check_all_queues():
                about = (oban.name, queue.queue)
                slots.add_metric(about, queue.limit)
                running.add_metric(about, len(queue.running))
                paused.add_metric(about, float(queue.paused))

        yield from (slots, running, paused)

    def _of_cluster(self) -> Iterator[GaugeMetricFamily]:
        jobs = GaugeMetricFamily(
            "oban_cluster_queue_jobs", "Jobs of a queue, by state.", labels=("queue", "state")
        )
        families = {
            name: GaugeMetricFamily(f"oban_cluster_queue_{name}", text, labels=("queue",))
            for name, text in _OF_CLUSTER.items()
        }

        for queue in self._look():
            for state in ("available", "executing", "scheduled", "retryable"):
                jobs.add_metric((queue.queue, state), getattr(queue, state))

            families["oldest_age_seconds"].add_metric((queue.queue,), queue.oldest_age or 0.0)
            families["slots"].add_metric((queue.queue,), queue.slots)
            families["busy"].add_metric((queue.queue,), queue.busy)
            families["nodes"].add_metric((queue.queue,), queue.nodes)
            families["paused"].add_metric((queue.queue,), float(queue.paused))

        yield from (jobs, *families.values())

    def _look(self) -> list[Any]:
        if self._cluster is not None and time.monotonic() >= self._fresh_until:
            try:
                self._seen = list(self._cluster.queue_health())
            except Exception as error:
                # What is old is no help: a gauge that is gone can be alerted on.
                log.warning("the queues could not be looked at for their metrics: %s", error)
                self._seen = []

            self._fresh_until = time.monotonic() + FRESH

        return self._seen


def attach(
    *obans: Watched, registry: CollectorRegistry = REGISTRY, cluster: Watched | None = None
) -> None:
    """Count what this process enqueues and runs, and let a registry have it.

    A second call replaces the first. Under several processes, as of gunicorn, set
    ``PROMETHEUS_MULTIPROC_DIR`` as prometheus_client wants it: `metrics_response` then adds up
    counters and histograms of all of them, while gauges are those of the process that answers.

    Args:
        obans: Whose nodes and queues become gauges.
        registry: Where; by default prometheus_client's own.
        cluster: An Oban whose database is asked for the queues of all nodes, once in five seconds
            at the most, when somebody reads the metrics. One process of the cluster is enough.

    Example:
        >>> from oban_sync.integrations import prometheus
        >>> prometheus.attach(oban)
    """
    detach()
    exporter = _Exporter(obans, registry, cluster)
    _attached.append(exporter)
    telemetry.attach(_IDENTIFIER, _EVENTS, exporter.handle)


def detach() -> None:
    """Count no more, and take the metrics out of the registry."""
    telemetry.detach(_IDENTIFIER)

    while _attached:
        _attached.pop().close()


def metrics_response(accept: str = "") -> tuple[bytes, str]:
    """The metrics of the registry that is attached: for a page of the application's own.

    Args:
        accept: The header of that name, which says in which format.

    Returns:
        The body, and its content type.

    Raises:
        NotRunningError: Nothing is attached.
    """
    if not _attached:
        raise NotRunningError(
            "no metrics are counted in this process; call integrations.prometheus.attach(oban)"
        )

    [exporter] = _attached

    try:
        encode, kind = exposition.choose_encoder(accept)
    except (TypeError, ValueError):
        # It reads versions that are none, and then fails: anybody may send any header.
        encode, kind = exposition.choose_encoder("")

    return encode(_readable(exporter)), kind


def serve(port: int, host: str = "127.0.0.1") -> Callable[[], None]:
    """Serve the metrics over HTTP on a port of their own, by a thread: for processes without web.

    Args:
        port: The port.
        host: The address to listen on; by default only this machine sees it.

    Returns:
        What ends it.

    Raises:
        NotRunningError: Nothing is attached.
        ConfigError: The port cannot be had.
    """
    if not _attached:
        raise NotRunningError(
            "no metrics are counted in this process; call integrations.prometheus.attach(oban)"
        )

    try:
        server, thread = start_http_server(port, host, _readable(_attached[0]))
    except OSError as error:
        raise ConfigError("port", f"{host}:{port} cannot be listened on: {error}") from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(5.0)

    return stop


def _readable(exporter: _Exporter) -> CollectorRegistry:
    """What to read: the registry itself, or what several processes wrote down."""
    # It decides at its import, by variables of the environment.
    if values.ValueClass is values.MutexValue:
        return exporter.registry

    found = CollectorRegistry()
    multiprocess.MultiProcessCollector(found)  # type: ignore[no-untyped-call]
    found.register(exporter.gauges)

    return found


def _known(worker: str) -> str:
    try:
        workers.resolve(worker)
    except WorkerNotFoundError:
        return UNKNOWN

    return worker


_TROUBLES = {
    "oban.job.fenced": "fenced",
    "oban.job.timeout": "timed_out",
    "oban.loop.exception": "loop",
    "oban.node.lapsed": "lapsed",
    "oban.notifier.lost": "notifier_lost",
}

_EVENTS = (
    "oban.job.stop",
    "oban.job.exception",
    "oban.job.insert.stop",
    "oban.producer.release",
    *_TROUBLES,
)

_OF_CLUSTER = {
    "oldest_age_seconds": "Time for which the job that is due for longest has been due.",
    "slots": "Jobs that all nodes together run at once.",
    "busy": "Jobs that they run.",
    "nodes": "Nodes that run the queue.",
    "paused": "Whether no node takes jobs of the queue.",
}

_attached: list[_Exporter] = []
