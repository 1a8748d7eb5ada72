"""Workers that several test modules run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from oban_sync import worker
from tests.support.probe import Gate

_gates: dict[str, Gate] = {}


@worker(queue="alpha", name="tests.Echo")
class Echo:
    """Does nothing."""

    def process(self, job):
        return None


@worker(queue="alpha", name="tests.Held")
class Held:
    """Waits at the gate of the test."""

    def process(self, job):
        _gates[job.args["gate"]].pass_through()


@contextmanager
def a_gate() -> Iterator[Gate]:
    """A gate for jobs with ``{"gate": "gate"}``; open at the end whatever happens."""
    _gates["gate"] = gate = Gate()

    try:
        yield gate
    finally:
        gate.release.set()
