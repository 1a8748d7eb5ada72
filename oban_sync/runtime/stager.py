"""Makes due jobs available, and wakes the producers of queues that have any."""

from __future__ import annotations

import logging
from collections.abc import Callable

from oban_sync import telemetry
from oban_sync.core.loops import StagerConfig
from oban_sync.engine import upkeep
from oban_sync.engine.asks import Ask
from oban_sync.engine.fetch import Shunned
from oban_sync.engine.retry import conflicts_retried, until_available
from oban_sync.engine.session import Db
from oban_sync.runtime.carried import Answer, Carried

log = logging.getLogger("oban_sync.runtime")


class Stager(Carried):
    """Stage this node's queues.

    What goes along with the heartbeat only looks whether there is something to stage, which is done
    here then: it may take long, and locks rows.

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
        # Of the last round: the shunned themselves are this thread's.
        self._left_out: list[int] = []

    def ask(self) -> Ask:
        """Whether there is anything to stage, or to wake."""
        return upkeep.look(self._queues(), self._left_out)

    def judge(self, answer: Answer) -> float | None:
        """Stage one batch, if anything is due."""
        due, awake = upkeep.looked(answer.rows)

        return self._round(self._persist if due else lambda: upkeep.Staged(0, awake))

    def look(self) -> float | None:
        """Stage one batch."""
        return self._round(self._persist)

    def _round(self, work: Callable[[], upkeep.Staged]) -> float | None:
        with telemetry.span("oban.stager.stage") as seen:
            done = work()
            seen(staged_count=done.staged, queues=done.awake)

        self._left_out = self._shunned.ids()

        for queue in done.awake:
            self._wake(queue)

        # A full batch means there may be more; do not make them wait a whole interval.
        if done.staged >= self._options.limit:
            return 0.0

        return min(self.interval, self.DEGRADED_INTERVAL) if self._degraded() else None

    def _persist(self) -> upkeep.Staged:
        return until_available(
            lambda: conflicts_retried(self._stage),
            stopping=self._stopping,
            what=self.name,
            log=log,
        )

    def _stage(self) -> upkeep.Staged:
        return upkeep.stage(
            self._db, self._queues(), most=self._options.limit, shunned=self._shunned
        )
