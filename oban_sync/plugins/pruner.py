"""Deletes finished jobs when their time has come, so that the table stays small."""

from __future__ import annotations

import logging
from collections.abc import Callable

from oban_sync import telemetry
from oban_sync.core.retention import PrunerConfig, scopes
from oban_sync.engine import prune
from oban_sync.engine.retry import conflicts_retried, until_available
from oban_sync.engine.session import Db
from oban_sync.runtime.loop import Loop

log = logging.getLogger("oban_sync.plugins")


class Pruner(Loop):
    """Delete finished jobs, on the leader only.

    A round goes on, statement after statement, until it is caught up: the pruner deletes faster
    than jobs can finish. A stop or the end of the lease ends it after the statement at hand.
    """

    def __init__(self, db: Db, options: PrunerConfig, *, leads: Callable[[], bool]) -> None:
        super().__init__("pruner", interval=options.interval)
        self._db = db
        self._leads = leads
        aside = prune.Aside()
        self._sweeps = [
            prune.Sweep(scope, limit=options.limit, aside=aside)
            for scope in (scopes(options) if options.enabled else ())
        ]
        #: The sweeps of this round that have not come to their end.
        self._round: list[prune.Sweep] = []

    def tick(self) -> float | None:
        """Go one step on with every sweep of the round."""
        if not self._leads():
            # Whoever led meanwhile may have had other rules, and time has passed.
            self._forget_round()

            return None

        if not self._sweeps:
            return None

        self._round = self._round or list(self._sweeps)

        with telemetry.span("oban.pruner.prune") as seen:
            pruned = refused = 0
            going_on: list[prune.Sweep] = []
            seen(pruned_count=0, refused_count=0)

            for sweep in self._round:
                if self.stopping or not self._leads():
                    going_on.append(sweep)
                    continue

                step = self._step(sweep)
                pruned += step.count
                refused += step.refused
                seen(pruned_count=pruned, refused_count=refused)

                if step.more:
                    going_on.append(sweep)

        self._round = going_on

        return 0.0 if going_on else None

    def _step(self, sweep: prune.Sweep) -> prune.Pruned:
        return until_available(
            lambda: conflicts_retried(lambda: sweep.step(self._db)),
            stopping=self._stopping,
            what=self.name,
            log=log,
        )

    def _forget_round(self) -> None:
        for sweep in self._round:
            sweep.restart()

        self._round = []
