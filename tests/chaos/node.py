"""The program of a node: runs an Oban, writes a ledger, and does what it is told on its input.

The first line of its input is a JSON object:

- ``name``, ``ledger``: who it is, and the file to write to
- ``options``: of the Oban; the workers of ``cron`` are named
- ``sample``: seconds between notes of whether it leads
- ``minute``: seconds that a minute of the cron entries takes, and from when on; or null

Each further line is ``{"do": name, ...}``, by a method of `Node`. SIGTERM stops it gracefully. The
end of its input ends it at once: whoever started it is gone.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from threading import Event, Thread
from typing import Any

from oban_sync import Oban, telemetry
from tests.chaos import clock, workers

#: What is noted of the library's events, by name: the event in the ledger, and its fields.
NOTED = {
    "oban.job.fenced": (
        "fenced",
        lambda fields: {
            "job": fields["job"].key[0],
            "fence": fields["job"].key[1],
            "state": fields["state"],
        },
    ),
    "oban.producer.release": (
        "released",
        lambda fields: {"jobs": [list(job.key) for job in fields["jobs"]]},
    ),
    "oban.leader.elected": ("elected", lambda fields: {}),
    "oban.leader.lost": ("deposed", lambda fields: {"reason": fields["reason"]}),
    "oban.node.lapsed": ("lapsed", lambda fields: {"uuid": fields["uuid"]}),
    "oban.node.renewed": ("renewed", lambda fields: {"uuid": fields["uuid"]}),
    "oban.lifeline.rescue.stop": (
        "rescued",
        lambda fields: {"count": fields["rescued_count"], "of": fields["node"]},
    ),
    "oban.notifier.connected": ("connected", lambda fields: {}),
    "oban.notifier.lost": ("disconnected", lambda fields: {}),
    "oban.loop.exception": (
        "trouble",
        lambda fields: {"loop": fields["loop"], "error": str(fields["error"])[:200]},
    ),
}

PR_SET_PDEATHSIG = 1


class NotedOban(Oban):
    """An Oban whose starts and stops are in the ledger."""

    def start(self) -> Oban:
        workers.note("starting")
        super().start()
        workers.note("started")

        return self

    def stop(self, grace: float | None = None) -> bool:
        began = workers.note("stopping", grace=grace)

        try:
            return super().stop(grace)
        finally:
            workers.note("stopped", seconds=time.monotonic() - began)


class Node:
    """One Oban and the things that can be asked of it."""

    def __init__(self, spec: dict[str, Any]) -> None:
        workers.note_in(spec["ledger"], spec["name"])
        workers.note("pid", pid=os.getpid())
        self._sample = spec["sample"]

        if spec["minute"] is not None:
            clock.hurry(*spec["minute"])

        options = spec["options"]

        if options.get("cron"):
            options["cron"] = [
                (expression, workers.WORKERS[name], given)
                for expression, name, given in options["cron"]
            ]

        telemetry.attach("chaos", NOTED, self._heard)
        self.oban = NotedOban(**options)

    def run(self) -> None:
        """Run until SIGTERM."""
        Thread(target=self._listen, name="chaos-input", daemon=True).start()

        Thread(target=self._watch, name="chaos-sampler", daemon=True).start()
        self.oban.run()
        workers.note("ending")

    def stop(self, grace: float) -> None:
        """Stop; the process goes on."""
        self.oban.stop(grace)

    def start(self) -> None:
        """Start again."""
        self.oban.start()

    def churn(self, rounds: int, threads: int, grace: float) -> None:
        """Start and stop from several threads at once, then leave it started."""

        def turn(which: int) -> None:
            for _ in range(rounds):
                try:
                    self.oban.start() if which % 2 == 0 else self.oban.stop(grace)
                except Exception as error:
                    workers.note("churn_failed", error=repr(error))

        racing = [Thread(target=turn, args=(which,)) for which in range(threads)]

        for thread in racing:
            thread.start()

        for thread in racing:
            thread.join()

        self.oban.start()
        workers.note("churned")

    def enqueue(self, worker: str, tags: list[str], args: dict[str, Any]) -> None:
        """Enqueue jobs one by one, each with a tag; note which of them are known to be stored."""
        for tag in tags:
            try:
                job = workers.WORKERS[worker].enqueue(args, tags=[tag])
            except Exception as error:
                workers.note("refused", tag=tag, error=repr(error)[:200])
            else:
                workers.note("inserted", tag=tag, jobs=[job.id])

        workers.note("enqueued")

    def _listen(self) -> None:
        for line in lines(0):
            asked = json.loads(line)
            Thread(
                target=self._do, args=(asked.pop("do"), asked), name="chaos-order", daemon=True
            ).start()

        os._exit(70)

    def _do(self, name: str, fields: dict[str, Any]) -> None:
        try:
            getattr(self, name)(**fields)
        except Exception as error:
            workers.note("order_failed", order=name, error=repr(error)[:500])

    def _watch(self) -> None:
        pause = Event()

        while True:
            # On a grid, so that the samples of several nodes are of the same moments.
            pause.wait(self._sample - time.monotonic() % self._sample)
            workers.note("sample", leads=bool(self.oban.is_leader))

    def _heard(self, event: str, fields: dict[str, Any]) -> None:
        name, chosen = NOTED[event]
        said = chosen(fields)

        # The looks of the lifeline that found nothing would fill the ledger.
        if name != "rescued" or said["count"]:
            workers.note(name, **said)


def lines(descriptor: int) -> Iterator[bytes]:
    """The lines of an open file, until its end.

    Not by sys.stdin: a thread that waits inside of it would break the end of the interpreter.
    """
    rest = b""

    while more := os.read(descriptor, 65_536):
        *whole, rest = (rest + more).split(b"\n")

        yield from whole


def first_line() -> bytes:
    """The first line of the input, and not a byte more."""
    line = b""

    while (byte := os.read(0, 1)) not in (b"\n", b""):
        line += byte

    return line


def main() -> None:
    if sys.platform == "linux":
        # A stopped process does not read its input; the kernel ends it with whoever started it.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(threadName)s %(name)s %(message)s"
    )
    Node(json.loads(first_line())).run()


if __name__ == "__main__":
    main()
