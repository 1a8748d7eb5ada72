"""Waits for the library's events, so that tests need not sleep."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event
from typing import Any

from oban_sync import telemetry

EVENTS = (
    "oban.job.start",
    "oban.job.stop",
    "oban.job.exception",
    "oban.job.fenced",
    "oban.job.returned",
    "oban.job.timeout",
    "oban.leader.elected",
    "oban.leader.lost",
    "oban.lifeline.rescue.stop",
    "oban.loop.exception",
    "oban.node.lapsed",
    "oban.node.renewed",
    "oban.notifier.connected",
    "oban.notifier.deaf",
    "oban.notifier.junk",
    "oban.notifier.lost",
    "oban.prioritizer.prioritize.stop",
    "oban.producer.release",
    "oban.producer.turn",
    "oban.pruner.prune.stop",
    "oban.queue.paused",
    "oban.queue.resumed",
    "oban.queue.scaled",
    "oban.queue.started",
    "oban.queue.stopped",
    "oban.refresher.refresh.stop",
    "oban.reindexer.reindex.stop",
    "oban.scheduler.evaluate.stop",
    "oban.stager.stage.stop",
)


class Probe:
    """A telemetry handler that keeps what it hears until it is asked for."""

    def __init__(self) -> None:
        self._identifier = f"probe-{uuid.uuid4()}"
        self._heard: SimpleQueue[tuple[str, dict[str, Any]]] = SimpleQueue()
        self._kept: list[tuple[str, dict[str, Any]]] = []

    def attach(self) -> None:
        telemetry.attach(
            self._identifier, EVENTS, lambda event, fields: self._heard.put((event, fields))
        )

    def detach(self) -> None:
        telemetry.detach(self._identifier)

    def next(self, event: str, *, within: float = 10.0, **matching: Any) -> dict[str, Any]:
        """The next such event whose fields match, heard already or within so many seconds."""
        deadline = time.monotonic() + within

        while True:
            for index, (name, fields) in enumerate(self._kept):
                if name == event and all(fields.get(key) == matching[key] for key in matching):
                    del self._kept[index]

                    return fields

            try:
                self._kept.append(self._heard.get(timeout=max(0.0, deadline - time.monotonic())))
            except Empty:
                heard = ", ".join(name for name, _ in self._kept[-20:])
                raise AssertionError(
                    f"no {event} {matching} within {within} s; heard: {heard or 'nothing'}"
                ) from None


class Gate:
    """Holds a job until it is released, and tells when it has come in."""

    def __init__(self) -> None:
        self.entered = Event()
        self.release = Event()

    def pass_through(self) -> None:
        self.entered.set()
        assert self.release.wait(30.0), "the gate was never released"

    def wait_until_entered(self) -> None:
        assert self.entered.wait(10.0), "no job came to the gate"


def eventually(condition: Any, *, within: float = 10.0) -> Any:
    """Ask until the answer is true; for what only the database can tell."""
    deadline = time.monotonic() + within
    pause = Event()

    while not (answer := condition()):
        assert time.monotonic() < deadline, "it never became true"
        pause.wait(0.01)

    return answer


def is_alive(pid: int) -> bool:
    """Whether a process is there; one whose end nobody has taken note of is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
