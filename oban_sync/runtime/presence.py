"""What a node says of itself with its beats: what it is and runs, its limits, whether it ends."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from oban_sync.core import registry
from oban_sync.core.config import Config
from oban_sync.core.limit_words import told
from oban_sync.engine.nodes import UNCHANGED, Presence

#: Most names of workers that are told; of more none is.
MOST_WORKERS = 5_000

#: Whether it is degraded, what it can run, what it stops.
_News = tuple[bool, tuple[str, ...] | None, tuple[str, ...]]

#: Seconds after which the number of threads is told anew, if it is another.
THREADS_PERIOD = 60.0


class Introduction:
    """Tells what has changed since it was last told, so that beats stay small.

    For the refresher's thread alone.

    Args:
        config: The node's options.
        degraded: Whether the node may hear of nothing at the moment.
        stopping: The uuids of its producers that take no more jobs.
    """

    def __init__(
        self,
        config: Config,
        *,
        degraded: Callable[[], bool],
        stopping: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._degraded = degraded
        self._stopping = stopping
        self._fixed: dict[str, Any] = {
            "version": _version(),
            "python": ".".join(map(str, sys.version_info[:3])),
            "host": socket.gethostname(),
            "beat": config.refresher.interval,
            "look": config.stager.interval,
            "rescue_after": config.lifeline.rescue_after,
            "limits": {name: told(limits) for name, limits in config.limits.items()},
            # Their children may know workers that this process does not.
            "setups": [queue.name for queue in config.queues if queue.executor.setup is not None],
        }
        self._told: _News | None = None
        self._next: _News | None = None
        self._begun = False
        self._threads = 0
        self._threads_at = float("-inf")

    def news(self) -> Presence:
        """What to tell with the next beat; `told` has to follow once that was written."""
        # At the first beat the notifier is on its way, and the next one follows soon.
        degraded, workers = self._begun and self._degraded(), _workers()
        stopping = tuple(self._stopping())
        self._next = (degraded, workers, stopping)
        threads = threading.active_count()
        now = time.monotonic()
        is_old = now >= self._threads_at + THREADS_PERIOD

        if self._next == self._told and not (is_old and threads != self._threads):
            return UNCHANGED

        self._threads, self._threads_at = threads, now
        changing = {
            # The process may be a copy of the one that made this.
            "pid": os.getpid(),
            "degraded": degraded,
            "threads": threads,
            "stopping": stopping,
        }

        return Presence(json.dumps({**self._fixed, **changing}), workers)

    def told(self) -> None:
        """The last news are known to the cluster."""
        self._told = self._next
        self._begun = True

    def forgotten(self) -> None:
        """Nothing is known of the node any more, and all is to be told anew."""
        self._told = None


def _workers() -> tuple[str, ...] | None:
    try:
        names = tuple(registry.registered())
    except RuntimeError:
        # Another thread imports some just now, and a beat must not wait for it.
        return None

    return names if len(names) <= MOST_WORKERS else None


def _version() -> str | None:
    # The package itself is above all rooms, and there by now.
    return getattr(sys.modules.get("oban_sync"), "__version__", None)
