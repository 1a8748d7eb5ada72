"""Jobs that keep coming whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from typing import Any

import psycopg

from tests.chaos.cluster import Cluster


class Load:
    """Inserts jobs at a steady rate, on a thread of its own, through outages of the database.

    Args:
        cluster: Where to.
        worker: Of these jobs.
        args: Makes the args of each.
        rate: Jobs per second.
    """

    PERIOD = 0.1

    def __init__(
        self, cluster: Cluster, worker: str, args: Callable[[], dict[str, Any]], *, rate: float
    ) -> None:
        self._cluster = cluster
        self._worker = worker
        self._args = args
        self._rate = rate
        self._enough = Event()
        self._thread = Thread(target=self._run, name="chaos-load", daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()

        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join(15.0)

    def _run(self) -> None:
        owed = 0.0

        while not self._enough.wait(self.PERIOD):
            owed += self._rate * self.PERIOD

            if owed >= 1:
                # What an insert without an answer came to is not known, and not counted.
                with suppress(psycopg.OperationalError):
                    self._cluster.insert(self._worker, *(self._args() for _ in range(int(owed))))

                owed -= int(owed)
