"""Rebuilds indexes on schedule: what comes and goes as fast as jobs leaves them half empty."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from oban_sync import telemetry
from oban_sync.core.clock import utc_now
from oban_sync.core.cron import due_between
from oban_sync.core.errors import DatabaseUnavailableError
from oban_sync.core.reindexing import ReindexerConfig
from oban_sync.engine import reindex
from oban_sync.runtime.loop import Loop


class Reindexer(Loop):
    """Rebuild indexes when the schedule says so, on the leader only.

    A time that passes without a leader is not made up for. The work is done on a connection of its
    own, one index after another; a stop cancels it.

    Args:
        connect: Makes that connection; see `engine.reindex.reindex`.
        schema: The schema of the tables.
        options: Which indexes, and when.
        leads: Whether this node leads.
        now: The time.
    """

    #: Seconds between looks at the clock.
    INTERVAL = 10.0

    def __init__(
        self,
        connect: reindex.Connect,
        schema: str,
        options: ReindexerConfig,
        *,
        leads: Callable[[], bool],
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__("reindexer", interval=self.INTERVAL)
        self._connect = connect
        self._schema = schema
        self._options = options
        self._leads = leads
        self._now = now
        self._after = now()

    def tick(self) -> float | None:
        """Rebuild the indexes, if a time of the schedule has come since the last tick."""
        moment = self._now()

        try:
            if self._options.enabled and self._leads() and self._is_due(moment):
                self._reindex()
        except DatabaseUnavailableError:
            # Nothing was begun, so that it stays due for the next try.
            raise
        except BaseException:
            self._after = moment
            raise

        self._after = moment

        return None

    def _is_due(self, moment: datetime) -> bool:
        options = self._options

        return bool(due_between(options.schedule, options.timezone, self._after, moment, 1))

    def _reindex(self) -> None:
        with telemetry.span("oban.reindexer.reindex") as seen:
            done = reindex.reindex(
                self._connect,
                self._schema,
                self._options.indexes,
                timeout=self._options.timeout,
                leads=self._leads,
                stopping=self._stopping,
            )
            seen(indexes=done.indexes, failed=done.failed, dropped=done.dropped)
