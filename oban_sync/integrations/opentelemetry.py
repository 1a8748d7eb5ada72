"""Traces and metrics of OpenTelemetry, by its conventions for messaging, which are in development.

Enqueueing is a PRODUCER span, whose context goes along with the jobs in their meta. A run is a
CONSUMER span that is linked to it, and current while the job runs: what the job does is below it,
in a child of a process queue too, where that is attached as well.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

try:
    from opentelemetry import context as contexts
    from opentelemetry import metrics, propagate, trace
    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, TracerProvider
except ImportError as error:
    raise ImportError(
        "oban_sync.integrations.opentelemetry needs opentelemetry-api; install it by: "
        "pip install 'oban-sync[opentelemetry]'"
    ) from error

from oban_sync import telemetry
from oban_sync.core import registry
from oban_sync.core.errors import JobDecodeError, WorkerNotFoundError
from oban_sync.core.job import Job

log = logging.getLogger("oban_sync.integrations")

#: What tracers and meters are named after.
SCOPE = "oban_sync"

#: Seconds; as the conventions have it, and on to the lengths that jobs have.
DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3_600)

#: Seconds that what the cluster says of its queues is of use.
FRESH = 5.0

#: Characters of what a propagator gives that are stored with every job.
MOST_CARRIED = 2_000

#: In place of the names of workers that are not known here: rows may name anything.
UNKNOWN = "(unknown)"

_TRACING = "oban-sync-opentelemetry-traces"
_METERING = "oban-sync-opentelemetry-metrics"


class QueueHealth(Protocol):
    """The part of what is known of a queue that gauges are made of."""

    queue: str
    available: int
    executing: int
    scheduled: int
    retryable: int
    oldest_age: float


class Cluster(Protocol):
    """What tells of the queues of all nodes, as an Oban does."""

    def queue_health(self) -> Iterable[Any]:
        """How its queues stand."""
        ...


def attach(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    propagator: TextMapPropagator | None = None,
    parent: bool = False,
    traces: bool = True,
    metrics: bool = True,
    cluster: Cluster | None = None,
) -> None:
    """Make spans and metrics of what jobs do in this process, of all its Obans.

    To be called in every process that enqueues or runs jobs; a second call replaces the first. To
    see what jobs do in process queues, call it in a module that their children import.

    Args:
        tracer_provider: Makes the spans; by default the global one.
        meter_provider: Makes the instruments; likewise.
        propagator: Writes the context of spans into what jobs take along, and reads it there; by
            default the global one.
        parent: Whether a run's span is a child of the one that enqueued it, in its trace, rather
            than linked to it in a trace of its own. For traces of a few jobs that run soon.
        traces: False for no spans.
        metrics: False for no instruments.
        cluster: An Oban that is asked for the depths of all queues when metrics are collected, once
            in five seconds at the most. One process of the cluster is enough.

    Example:
        >>> from oban_sync.integrations import opentelemetry
        >>> opentelemetry.attach()
    """
    detach()

    if traces:
        provider = trace.get_tracer_provider() if tracer_provider is None else tracer_provider
        used = propagate.get_global_textmap() if propagator is None else propagator
        _tracing(_Traces(provider.get_tracer(SCOPE), used, parent=parent))

    if metrics:
        _metering(_Metrics(_meter(meter_provider), cluster))


def detach() -> None:
    """Make no more spans and metrics; spans that are open are ended."""
    telemetry.detach(_TRACING)
    telemetry.detach(_METERING)

    while _attached:
        _attached.pop().close()


class _Begun(NamedTuple):
    """A span that is current.

    Attributes:
        span: The span.
        token: Makes the one before it the current one.
        about: What it is about; kept, so that its id is not another's.
    """

    span: Span
    token: Any
    about: object


#: Under which a context keeps the id of what was begun last in it.
_ABOUT = contexts.create_key("oban_sync")


class _Traces:
    """Makes spans of events."""

    def __init__(self, tracer: Tracer, propagator: TextMapPropagator, *, parent: bool) -> None:
        self._tracer = tracer
        self._propagator = propagator
        self._parent = parent
        # By the ids of what they are about: the jobs that run, and what is carried by those stored.
        self._begun: dict[int, _Begun] = {}

    def close(self) -> None:
        """End what is open."""
        while self._begun:
            _, begun = self._begun.popitem()
            begun.span.end()

    def handle(self, event: str, fields: dict[str, Any]) -> None:
        """An event happened."""
        _TRACED[event](self, fields)

    def insert_start(self, fields: dict[str, Any]) -> None:
        """Jobs are about to be stored."""
        queue, carried = fields["queue"], fields["carried"]
        span = self._tracer.start_span(
            f"send {queue}", kind=SpanKind.PRODUCER, attributes=_operation("send", queue)
        )
        self._begin(carried, span)
        self._inject(carried)

    def insert_stop(self, fields: dict[str, Any]) -> None:
        """They are stored."""
        if (begun := self._end(fields["carried"])) is None:
            return

        span, jobs = begun.span, fields["jobs"]

        if len(jobs) == 1:
            [job] = jobs
            span.set_attributes(_identity(job))

            if job.conflict:
                span.set_attribute("oban.conflict", True)
        else:
            span.set_attribute("messaging.batch.message_count", len(jobs))

            if span.is_recording() and len(queues := {job.queue for job in jobs}) > 1:
                span.set_attribute("oban.queues", sorted(queues)[:20])

        span.end()

    def insert_exception(self, fields: dict[str, Any]) -> None:
        """They could not be stored."""
        if (begun := self._end(fields["carried"])) is None:
            return

        error = fields["error"]
        begun.span.record_exception(error)
        begun.span.set_attribute("error.type", type(error).__name__)
        begun.span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        begun.span.end()

    def job_start(self, fields: dict[str, Any]) -> None:
        """A job is about to run, on this thread."""
        job = fields["job"]
        brought = self._propagator.extract(_carried(job), context=Context())
        source = trace.get_current_span(brought).get_span_context()
        links = [Link(source)] if source.is_valid and not self._parent else []

        if not self._parent:
            # A trace of its own, with the rest that was brought along.
            brought = trace.set_span_in_context(trace.INVALID_SPAN, brought)

        span = self._tracer.start_span(
            f"process {job.queue}",
            context=brought,
            kind=SpanKind.CONSUMER,
            links=links,
            attributes={
                **_operation("process", job.queue),
                **_identity(job),
                "oban.attempt": job.attempt,
                "oban.max_attempts": job.max_attempts,
                "oban.priority": job.priority,
            },
        )

        if span.is_recording() and job.tags:
            span.set_attribute("oban.tags", [str(tag) for tag in job.tags[:20]])

        self._begin(job, span, brought)

    def job_stop(self, fields: dict[str, Any]) -> None:
        """It has ended, and not failed."""
        if (begun := self._end(fields["job"])) is not None:
            begun.span.set_attribute("oban.state", fields["state"])
            begun.span.end()

    def job_exception(self, fields: dict[str, Any]) -> None:
        """It has failed; told in the parent of a child, which has no more of it than texts."""
        if (begun := self._end(fields["job"])) is None:
            return

        kind, message = fields["error_type"], fields["error_message"]
        begun.span.set_attributes({"oban.state": fields["state"], "error.type": kind})
        begun.span.add_event(
            "exception",
            {
                "exception.type": kind,
                "exception.message": message or "",
                "exception.stacktrace": fields["traceback"] or "",
            },
        )
        begun.span.set_status(Status(StatusCode.ERROR, f"{kind}: {message}"[:500]))
        begun.span.end()

    def release(self, fields: dict[str, Any]) -> None:
        """Jobs were handed back; those of process queues come to nothing that is told."""
        for job in fields["jobs"]:
            if (begun := self._begun.pop(id(job), None)) is not None:
                begun.span.set_attribute("oban.state", "released")
                begun.span.end()

    def handed(self, fields: dict[str, Any]) -> None:
        """A job is about to be given to a child process."""
        self._inject(fields["carried"])

    def child_start(self, fields: dict[str, Any]) -> None:
        """A job is about to run, in this child."""
        job = fields["job"]
        brought = self._propagator.extract(fields["carried"], context=Context())
        span = trace.get_current_span(brought)
        self._begin(job, span, brought)

    def child_stop(self, fields: dict[str, Any]) -> None:
        """It has ended; its span is the parent's to end."""
        self._end(fields["job"])

    def _begin(self, about: object, span: Span, within: Context | None = None) -> None:
        current = trace.set_span_in_context(span, within)
        token = contexts.attach(contexts.set_value(_ABOUT, id(about), current))
        self._begun[id(about)] = _Begun(span, token, about)

    def _end(self, about: object) -> _Begun | None:
        begun = self._begun.pop(id(about), None)

        # That of a run that was given up is told elsewhere; its context ends with its thread.
        if begun is not None and contexts.get_value(_ABOUT) == id(about):
            contexts.detach(begun.token)

        return begun

    def _inject(self, carried: dict[str, Any]) -> None:
        found: dict[str, str] = {}
        self._propagator.inject(found)

        for name, value in found.items():
            if len(value) <= MOST_CARRIED:
                carried[name] = joined(name, carried.get(name), value)


class _Metrics:
    """Makes metrics of events."""

    def __init__(self, meter: Meter, cluster: Cluster | None) -> None:
        self._cluster = cluster
        self._seen: list[Any] = []
        self._fresh_until = 0.0
        self._sent = meter.create_counter(
            "messaging.client.sent.messages", "{message}", "Jobs that were stored."
        )
        self._send_duration = _histogram(
            meter, "messaging.client.operation.duration", "Time that storing jobs took."
        )
        self._consumed = meter.create_counter(
            "messaging.client.consumed.messages", "{message}", "Runs of jobs."
        )
        self._duration = _histogram(meter, "messaging.process.duration", "Time that runs took.")
        self._wait = _histogram(
            meter, "oban.job.wait", "Time between the moment a job was due and its start."
        )

        if cluster is not None:
            meter.create_observable_gauge(
                "oban.queue.jobs", [self._depths], "{job}", "Jobs in a queue, by state."
            )
            meter.create_observable_gauge(
                "oban.queue.oldest_age",
                [self._ages],
                "s",
                "Time for which the job that is due for longest has been due.",
            )

    def close(self) -> None:
        """Observe no more; the instruments themselves stay."""
        self._cluster = None

    def handle(self, event: str, fields: dict[str, Any]) -> None:
        """An event happened."""
        if event == "oban.job.insert.stop":
            self._inserted(fields)
        else:
            self._ran(fields)

    def _inserted(self, fields: dict[str, Any]) -> None:
        counts: dict[str, int] = {}

        for job in fields["jobs"]:
            counts[job.queue] = counts.get(job.queue, 0) + (not job.conflict)

        for queue, count in counts.items():
            self._sent.add(count, _operation("send", queue))

        self._send_duration.record(fields["duration"] / 1e9, _operation("send", fields["queue"]))

    def _ran(self, fields: dict[str, Any]) -> None:
        job = fields["job"]
        about = {**_operation("process", job.queue), "oban.worker": known(job.worker)}
        waited = {"messaging.destination.name": job.queue}

        if (error := fields.get("error_type")) is not None:
            about["error.type"] = error

        self._consumed.add(1, {**about, "oban.state": fields["state"]})
        self._duration.record(fields["duration"] / 1e9, about)
        self._wait.record(max(0, fields["queue_time"]) / 1e9, waited)

    def _depths(self, _options: CallbackOptions) -> list[Observation]:
        return [
            Observation(
                getattr(queue, state),
                {"messaging.destination.name": queue.queue, "oban.state": state},
            )
            for queue in self._look()
            for state in ("available", "executing", "scheduled", "retryable")
        ]

    def _ages(self, _options: CallbackOptions) -> list[Observation]:
        return [
            Observation(queue.oldest_age or 0.0, {"messaging.destination.name": queue.queue})
            for queue in self._look()
        ]

    def _look(self) -> list[Any]:
        if self._cluster is None:
            return []

        if time.monotonic() >= self._fresh_until:
            try:
                self._seen = list(self._cluster.queue_health())
            except Exception as error:
                log.debug("the queues could not be looked at for their metrics: %s", error)
                self._seen = []

            self._fresh_until = time.monotonic() + FRESH

        return self._seen


def known(worker: str) -> str:
    """The name of a worker, or `UNKNOWN` of one that is not registered."""
    try:
        registry.resolve(worker)
    except WorkerNotFoundError:
        return UNKNOWN

    return worker


def joined(name: str, before: object, value: str) -> str:
    """What is carried under a name that somebody else has used too: baggage is a list."""
    if name != "baggage" or not isinstance(before, str) or not before:
        return value

    whole = f"{before},{value}"

    return whole if len(whole) <= MOST_CARRIED else before


def _carried(job: Job) -> dict[str, str]:
    """What the job brought, as far as it may be a propagator's: rows are written by anybody."""
    try:
        found: Mapping[str, Any] = job.carried if job.keeps else {}
    except JobDecodeError:
        return {}

    return {name: value for name, value in found.items() if isinstance(value, str)}


def _operation(name: str, queue: str) -> dict[str, Any]:
    return {
        "messaging.system": "oban",
        "messaging.operation.name": name,
        "messaging.operation.type": name,
        "messaging.destination.name": queue,
    }


def _identity(job: Job) -> dict[str, Any]:
    return {"messaging.message.id": str(job.id), "oban.worker": job.worker}


def _meter(provider: MeterProvider | None) -> Meter:
    return (metrics.get_meter_provider() if provider is None else provider).get_meter(SCOPE)


def _histogram(meter: Meter, name: str, description: str) -> Any:
    try:
        return meter.create_histogram(
            name, "s", description, explicit_bucket_boundaries_advisory=DURATIONS
        )
    except TypeError:
        # Before 1.30, where an application has to set them by a view.
        return meter.create_histogram(name, "s", description)


def _tracing(traces: _Traces) -> None:
    _attached.append(traces)
    telemetry.attach(_TRACING, _TRACED, traces.handle)


def _metering(made: _Metrics) -> None:
    _attached.append(made)
    telemetry.attach(
        _METERING, ("oban.job.insert.stop", "oban.job.stop", "oban.job.exception"), made.handle
    )


_TRACED: dict[str, Callable[[_Traces, dict[str, Any]], None]] = {
    "oban.job.insert.start": _Traces.insert_start,
    "oban.job.insert.stop": _Traces.insert_stop,
    "oban.job.insert.exception": _Traces.insert_exception,
    "oban.job.start": _Traces.job_start,
    "oban.job.stop": _Traces.job_stop,
    "oban.job.exception": _Traces.job_exception,
    "oban.producer.release": _Traces.release,
    "oban.job.handed": _Traces.handed,
    "oban.child.start": _Traces.child_start,
    "oban.child.stop": _Traces.child_stop,
}

_attached: list[_Traces | _Metrics] = []
