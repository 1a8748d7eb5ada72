"""Makes due jobs available, and wakes the producers of queues that have any."""

from __future__ import annotations

import logging
from collections.abc import Callable

from oban_sync import telemetry
from oban_sync.core.loops import StagerConfig
from oban_sync.engine import upkeep
from oban_sync.engine.fetch import Shunned
from oban_sync.engine.retry import conflicts_retried, until_available
from oban_sync.engine.session import Db
from oban_sync.runtime.loop import Loop

log = logging.getLogger("oban_sync.runtime")


class Stager(Loop):
    """Stage this node's queues.

    Its look at which queues have available jobs is what notifications only anticipate: a node whose
    LISTEN connection is deaf still starts every job within an interval.
    """

    #: Seconds between rounds, at the most, while notifications may be lost.
    DEGRADED_INTERVAL = 1.0

    def __init__(
        self,
        db: Db,
        queues: Callable[[], list[str]],
        options: StagerConfig,
        *,
        wake: Callable[[str], None],
        degraded: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__("stager", interval=options.interval)
        self._db = db
        self._queues = queues
        self._options = options
        self._wake = wake
        self._degraded = degraded
        self._shunned = Shunned()

    def tick(self) -> float | None:
        """Stage one batch."""
        with telemetry.span("oban.stager.stage") as seen:
            done = until_available(
                lambda: conflicts_retried(self._stage),
                stopping=self._stopping,
                what=self.name,
                log=log,
            )
            seen(staged_count=done.staged, queues=done.awake)

        for queue in done.awake:
            self._wake(queue)

        # A full batch means there may be more; do not make them wait a whole interval.
        if done.staged >= self._options.limit:
            return 0.0

        return min(self.interval, self.DEGRADED_INTERVAL) if self._degraded() else None

    def _stage(self) -> upkeep.Staged:
        return upkeep.stage(
            self._db, self._queues(), most=self._options.limit, shunned=self._shunned
        )
