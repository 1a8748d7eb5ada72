"""Raises the priority of jobs that wait for long, so that none is passed by for ever."""

from __future__ import annotations

import logging
from collections.abc import Callable

from oban_sync import telemetry
from oban_sync.core.ageing import PrioritizerConfig
from oban_sync.engine import prioritize
from oban_sync.engine.retry import conflicts_retried, until_available
from oban_sync.engine.session import Db
from oban_sync.runtime.loop import Loop

log = logging.getLogger("oban_sync.plugins")


class Prioritizer(Loop):
    """Raise the priority of waiting jobs, on the leader only.

    A round goes on, statement after statement, until every job has the steps that are due. A stop
    or the end of the lease ends it after the statement at hand.
    """

    def __init__(self, db: Db, options: PrioritizerConfig, *, leads: Callable[[], bool]) -> None:
        super().__init__("prioritizer", interval=options.interval)
        self._db = db
        self._leads = leads
        self._enabled = options.enabled
        self._limit = options.limit
        self._round = prioritize.Round(options)

    def tick(self) -> float | None:
        """Go on with the round, until it ends or a batch of jobs was raised."""
        if not self._leads():
            # Time has passed when this node leads again, and somebody else has raised jobs.
            self._round.restart()

            return None

        if not self._enabled:
            return None

        with telemetry.span("oban.prioritizer.prioritize") as seen:
            raised = refused = 0
            more = True
            seen(raised_count=0, refused_count=0)

            while more and raised < self._limit and not self.stopping and self._leads():
                step = self._step()
                raised += step.count
                refused += step.refused
                more = step.more
                seen(raised_count=raised, refused_count=refused)

        return 0.0 if more else None

    def _step(self) -> prioritize.Raised:
        return until_available(
            lambda: conflicts_retried(lambda: self._round.step(self._db)),
            stopping=self._stopping,
            what=self.name,
            log=log,
        )
