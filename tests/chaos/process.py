"""A node's process: started, told things, killed, stopped, suspended."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.chaos.ledger import Event

if TYPE_CHECKING:
    from tests.chaos.cluster import Cluster

ROOT = Path(__file__).parents[2]


class Node:
    """A node's process. Whatever is done to it is done by its own handle, never by a name."""

    def __init__(self, cluster: Cluster, name: str, spec: dict[str, Any], command: list[str]):
        self.name = name
        self.cluster = cluster
        self.options = spec["options"]
        #: Whether its death is part of the scenario.
        self.expendable = False
        self.gone = False
        self._log = cluster.folder / f"{name}.log"
        self._faults: list[int] = []

        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=cluster.folder,
                env=environment(),
            )

        atexit.register(self.end)
        self.tell(**spec)

    def tell(self, **order: Any) -> None:
        """Have it do something; see the program's `Node`."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()

    def kill(self) -> float:
        """SIGKILL; when it was sent."""
        self.expendable = True
        at = time.monotonic()
        self.process.kill()
        self.joined()

        return at

    def terminate(self) -> float:
        """SIGTERM; when it was sent."""
        self.expendable = True
        self.process.terminate()

        return time.monotonic()

    def joined(self, *, within: float = 30.0) -> int:
        """Wait for its end; how it ended."""
        returncode = self.process.wait(within)
        self.noticed()

        return returncode

    def noticed(self) -> None:
        """Note that the process is gone."""
        if not self.gone:
            self.gone = True
            self.cluster.ledger.note("gone", of=self.name)

    def suspend(self) -> float:
        """SIGSTOP: it stands still, and the kernel keeps its connections; when it was sent."""
        token = self.cluster.fault(self, locked=True)
        self._faults.append(token)
        self.process.send_signal(signal.SIGSTOP)

        return time.monotonic()

    def resume(self) -> float:
        """SIGCONT; when it was sent."""
        at = time.monotonic()
        self.process.send_signal(signal.SIGCONT)
        self.cluster.fault_over(self._faults.pop())

        return at

    def events(self, *names: str) -> list[Event]:
        """What it noted."""
        return self.cluster.events(*names, node=self.name)

    @property
    def running(self) -> dict[int, float]:
        """The jobs that it runs, by what it noted, and when each began."""
        begun = {(event["job"], event["fence"]): event.at for event in self.events("begin")}

        for event in self.events("end"):
            begun.pop((event["job"], event["fence"]), None)

        return {job: at for (job, _), at in begun.items()}

    @property
    def leads(self) -> bool:
        """Whether it said so last."""
        samples = self.events("sample")

        return bool(samples) and samples[-1]["leads"] and not self.gone

    def said(self) -> str:
        """The end of its log."""
        return "\n".join(self._log.read_text("utf-8", "replace").splitlines()[-15:])

    def end(self) -> None:
        """See that the process is gone."""
        atexit.unregister(self.end)

        if self.process.poll() is None:
            self.process.kill()

        self.process.wait(10.0)

        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()

        self.noticed()


def environment() -> dict[str, str]:
    """For a node: without settings from outside, and with this source tree."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OBAN_", "PYTHON", "COV", "PYTEST")) and name != "DATABASE_URL"
    }

    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
