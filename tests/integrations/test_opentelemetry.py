"""Spans and metrics of OpenTelemetry, by its own SDK."""

from __future__ import annotations

import time

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from oban_sync import telemetry
from oban_sync.core.config import QueueConfig
from oban_sync.core.executors import ExecutorConfig
from oban_sync.core.recorded import decode
from oban_sync.integrations import opentelemetry
from oban_sync.runtime.processes import ProcessRunner
from tests.support import traced_workers as workers
from tests.support.probe import eventually


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    yield provider

    provider.shutdown()


@pytest.fixture
def reader():
    return InMemoryMetricReader()


@pytest.fixture
def attach(provider, reader):
    def attach(**options):
        opentelemetry.attach(
            tracer_provider=provider,
            meter_provider=MeterProvider([reader]),
            **options,
        )

    yield attach

    opentelemetry.detach()


@pytest.fixture
def traced(attach, make_oban):
    """An Oban whose jobs are traced, which runs them."""
    attach()

    return make_oban(queues={"traced": 2}).start()


@pytest.fixture
def spans(exporter):
    """Waits for spans of a kind, and gives them in the order of their beginnings."""

    def spans(kind, count=1):
        def found():
            return [span for span in exporter.get_finished_spans() if span.kind is kind]

        eventually(lambda: len(found()) >= count)

        return sorted(found(), key=lambda span: span.start_time)

    return spans


def points(reader, name):
    """The points of a metric, by their attributes."""
    data = reader.get_metrics_data()

    return [
        point
        for resource in (data.resource_metrics if data is not None else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in metric.data.data_points
    ]


# Traces


def test_enqueueing_is_a_producer_span_and_the_run_a_linked_consumer_span(traced, provider, spans):
    with provider.get_tracer("app").start_as_current_span("request") as request:
        job = workers.look.enqueue()

    [send] = spans(SpanKind.PRODUCER)
    [process] = spans(SpanKind.CONSUMER)

    assert (send.name, process.name) == ("send traced", "process traced")
    assert send.parent.span_id == request.get_span_context().span_id
    assert process.parent is None
    assert process.context.trace_id != send.context.trace_id
    assert [link.context.span_id for link in process.links] == [send.context.span_id]
    assert dict(send.attributes) == {
        "messaging.system": "oban",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "traced",
        "messaging.message.id": str(job.id),
        "oban.worker": "tests.traced.look",
    }
    assert process.attributes["messaging.operation.type"] == "process"
    assert process.attributes["messaging.message.id"] == str(job.id)
    assert process.attributes["oban.attempt"] == 1
    assert process.attributes["oban.state"] == "completed"


def test_what_a_job_does_is_below_its_span(traced, spans):
    job = workers.look.enqueue()
    [process] = spans(SpanKind.CONSUMER)
    eventually(lambda: traced.get_job(job.id).state == "completed")
    seen = traced.get_job(job.id).recorded()

    assert seen["parent"] == seen["current"] == f"{process.context.span_id:016x}"
    assert seen["trace"] == f"{process.context.trace_id:032x}"


def test_a_run_can_be_a_child_of_what_enqueued_it(attach, oban, provider, spans):
    attach(parent=True)

    with provider.get_tracer("app").start_as_current_span("request"):
        workers.look.enqueue()

    oban.drain_queue("traced")
    [send], [process] = spans(SpanKind.PRODUCER), spans(SpanKind.CONSUMER)
    assert process.parent.span_id == send.context.span_id
    assert process.context.trace_id == send.context.trace_id
    assert not process.links


def test_jobs_that_are_stored_together_are_one_span(attach, oban, spans):
    attach()
    oban.enqueue_many(workers.look.options(queue=queue).new() for queue in ("traced", "b", "a"))
    [send] = spans(SpanKind.PRODUCER)

    assert send.attributes["messaging.batch.message_count"] == 3
    assert send.attributes["oban.queues"] == ("a", "b", "traced")
    assert "messaging.message.id" not in send.attributes
    metas = [job.meta["oban_sync"]["carried"] for job in oban.list_jobs()]
    sent = f"00-{send.context.trace_id:032x}-{send.context.span_id:016x}-"
    assert [meta["traceparent"][:-2] for meta in metas] == [sent] * 3
    assert {*metas[0]} == {"traceparent"}


def test_a_job_that_another_enqueues_is_sent_from_within_its_span(traced, spans):
    workers.follows.enqueue()
    sends, processes = spans(SpanKind.PRODUCER, 2), spans(SpanKind.CONSUMER, 2)

    assert sends[1].parent.span_id == processes[0].context.span_id
    assert processes[1].links[0].context.span_id == sends[1].context.span_id


def test_a_failure_is_recorded_with_its_exception(traced, spans):
    workers.fails.enqueue()
    [process] = spans(SpanKind.CONSUMER)
    [event] = process.events

    assert process.status.status_code is StatusCode.ERROR
    assert process.status.description == "ValueError: boom of s"
    assert process.attributes["error.type"] == "ValueError"
    assert process.attributes["oban.state"] == "retryable"
    assert event.name == "exception"
    assert event.attributes["exception.type"] == "ValueError"
    assert "boom of s" in event.attributes["exception.stacktrace"]


def test_discarding_is_an_error_and_snoozing_is_none(traced, spans):
    workers.ends.enqueue("discard")
    [first] = spans(SpanKind.CONSUMER)
    workers.ends.enqueue("snooze")
    _, second = spans(SpanKind.CONSUMER, 2)

    assert (first.attributes["oban.state"], first.attributes["error.type"]) == (
        "discarded",
        "Discard",
    )
    assert second.status.status_code is StatusCode.UNSET
    assert second.attributes["oban.state"] == "scheduled"


def test_what_cannot_be_stored_is_a_failed_span(attach, oban, spans):
    attach()

    with pytest.raises(Exception, match="jobs"):
        oban.enqueue_many([workers.look.new(), "no job"])

    [send] = spans(SpanKind.PRODUCER)
    assert send.status.status_code is StatusCode.ERROR
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_baggage_goes_along(traced):
    token = context.attach(baggage.set_baggage("tenant", "acme"))

    try:
        job = workers.look.enqueue()
    finally:
        context.detach(token)

    eventually(lambda: traced.get_job(job.id).state == "completed")
    assert traced.get_job(job.id).recorded()["tenant"] == "acme"


def test_a_traceparent_that_is_none_is_left_out(attach, oban, spans, factory):
    attach()
    meta = {"oban_sync": {"carried": {"traceparent": "nonsense", "baggage": 7}}}
    job_id = factory.job(queue="traced", worker="tests.traced.look", meta=meta)
    oban.drain_queue("traced")
    [process] = spans(SpanKind.CONSUMER)

    assert process.links == ()
    assert oban.get_job(job_id).state == "completed"


def test_nothing_is_current_after_a_job_or_an_insert(attach, oban):
    attach()
    workers.look.enqueue()
    oban.drain_queue("traced")

    assert trace.get_current_span() is trace.INVALID_SPAN
    assert not opentelemetry._attached[0]._begun


def test_detached_it_does_nothing_and_carries_nothing(attach, oban, exporter):
    attach()
    opentelemetry.detach()
    job = workers.look.enqueue()
    oban.drain_queue("traced")

    assert exporter.get_finished_spans() == ()
    assert oban.get_job(job.id).meta.get("oban_sync") is None
    assert not telemetry.listened("oban.job.start")


@pytest.mark.timeout(120)
def test_in_a_child_process_the_job_s_spans_are_below_the_parent_s(attach, spans):
    attach(metrics=False)
    runner = ProcessRunner(
        QueueConfig("traced", 1, executor=ExecutorConfig("process")),
        imports=["tests.support.traced_child"],
    )

    try:
        outcome = runner.run(taken())
    finally:
        runner.close()
        assert runner.join(time.monotonic() + 10)

    assert outcome.state == "completed", outcome.error_text
    seen = decode(outcome.meta["return"])
    [process] = spans(SpanKind.CONSUMER)
    assert seen["parent"] == f"{process.context.span_id:016x}"
    assert seen["trace"] == f"{process.context.trace_id:032x}"


def taken():
    from oban_sync.core.job import Job

    row = (0, 1, 1, "tests.traced.look", "{}", "{}", "[]", None, 1, 20, 1, 1, 0)

    return Job.fetched(row, "traced", ["node", "uuid"], None)


# Metrics


def test_runs_are_counted_and_timed(traced, reader, probe):
    workers.look.enqueue()
    probe.next("oban.job.stop")
    workers.fails.enqueue()
    probe.next("oban.job.exception")

    eventually(lambda: len(points(reader, "messaging.process.duration")) == 2)
    by_error = {
        point.attributes.get("error.type"): point
        for point in points(reader, "messaging.process.duration")
    }
    assert by_error[None].attributes["oban.worker"] == "tests.traced.look"
    assert by_error["ValueError"].count == 1
    assert by_error[None].explicit_bounds == opentelemetry.DURATIONS
    states = {
        p.attributes["oban.state"]: p.value
        for p in points(reader, "messaging.client.consumed.messages")
    }
    assert states == {"completed": 1, "retryable": 1}
    [wait] = points(reader, "oban.job.wait")
    assert wait.count == 2
    [sent] = points(reader, "messaging.client.sent.messages")
    assert sent.value == 2


def test_workers_that_are_not_known_share_a_name(attach, oban, factory, reader):
    attach(traces=False)
    factory.job(queue="traced", worker="made.up.Name")
    oban.drain_queue("traced", with_safety=True)
    [point] = points(reader, "messaging.process.duration")

    assert point.attributes["oban.worker"] == "(unknown)"


def test_the_cluster_s_queues_are_gauges_where_they_are_asked_for(attach, oban, reader, factory):
    attach(traces=False, cluster=oban)
    factory.job(queue="traced")
    factory.job(queue="traced", state="executing")
    depths = {
        (
            point.attributes["messaging.destination.name"],
            point.attributes["oban.state"],
        ): point.value
        for point in points(reader, "oban.queue.jobs")
    }
    assert depths["traced", "available"] == 1
    assert depths["traced", "executing"] == 1
    assert points(reader, "oban.queue.oldest_age")[0].value >= 0


def test_a_database_that_is_away_leaves_the_gauges_out(attach, make_oban, reader):
    attach(traces=False, cluster=make_oban(conninfo="host=127.0.0.1 port=1 connect_timeout=1"))

    assert points(reader, "oban.queue.jobs") == []
