"""What a child of a process queue imports that is to take part in traces."""

from __future__ import annotations

from oban_sync.integrations import opentelemetry
from tests.support.traced_workers import look as look
from tests.support.traced_workers import spans

opentelemetry.attach(tracer_provider=spans(), metrics=False)
