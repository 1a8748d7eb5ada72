"""Workers whose traces are looked at; children of process queues import it, and tests too."""

from __future__ import annotations

from opentelemetry import baggage, trace
from opentelemetry.sdk.trace import TracerProvider

from oban_sync import Discard, Record, Snooze, job


def spans():
    """A provider of spans that nobody collects."""
    return TracerProvider()


@job(queue="traced", name="tests.traced.look")
def look():
    """What a span of the job's own belongs to."""
    current = trace.get_current_span().get_span_context()

    with spans().get_tracer("app").start_as_current_span("own") as own:
        return Record(
            {
                "trace": f"{own.get_span_context().trace_id:032x}",
                "current": f"{current.span_id:016x}",
                "parent": None if own.parent is None else f"{own.parent.span_id:016x}",
                "tenant": baggage.get_baggage("tenant"),
            }
        )


@job(queue="traced", name="tests.traced.fails", max_attempts=2)
def fails(secret="s3cret"):
    raise ValueError(f"boom of {secret[:1]}")


@job(queue="traced", name="tests.traced.ends")
def ends(how):
    return {"snooze": Snooze(60), "discard": Discard("no hope")}[how]


@job(queue="traced", name="tests.traced.follows")
def follows():
    """Enqueues another one."""
    look.enqueue()
