"""On the node that leads: forgets what other nodes wrote, where this one writes nothing itself."""

from __future__ import annotations

from collections.abc import Callable

from oban_sync.core.config import Config
from oban_sync.engine import logs
from oban_sync.engine.session import Db
from oban_sync.plugins.metrics import Upkeep
from oban_sync.runtime.loop import Loop

#: Seconds between two looks at what jobs logged.
LOGS_INTERVAL = 600.0


class Leftovers(Loop):
    """Keep metrics and logs of all nodes small, as far as this node has turned them off.

    Where they are on, the loops that write them do so. Which of the nodes leads is chance, and what
    is kept must not grow for ever because of it.

    Args:
        db: The loops' pool.
        config: The options of the node.
        leads: Whether this node leads.
    """

    def __init__(self, db: Db, config: Config, *, leads: Callable[[], bool]) -> None:
        super().__init__("leftovers", interval=Upkeep.SPREAD_INTERVAL)
        self._db = db
        self._leads = leads
        self._upkeep: Upkeep | None = None
        self._keep_logs: float | None = None

        if not config.metrics.enabled:
            self._upkeep = Upkeep(db, config, leads=leads, stopping=lambda: self.stopping)

        if not config.logs.enabled:
            self._keep_logs = config.logs.keep

    @staticmethod
    def are_there(config: Config) -> bool:
        """Whether there is anything that no other loop of the node does."""
        return not (config.metrics.enabled and config.logs.enabled)

    def tick(self) -> float | None:
        """Do a round."""
        if self._upkeep is not None:
            self._upkeep.run_if_due()

        keep = self._keep_logs

        if keep is not None and self._leads() and logs.prune(self._db, keep=keep):
            return 0.0

        return None if self._upkeep is not None else LOGS_INTERVAL
