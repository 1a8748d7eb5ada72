"""Makes the indexes that the lanes of this node's queues are found by."""

from __future__ import annotations

from collections.abc import Sequence

from oban_sync import telemetry
from oban_sync.engine import lanes
from oban_sync.engine.lanes import Lanes
from oban_sync.engine.reindex import Connect
from oban_sync.engine.session import Db
from oban_sync.runtime.loop import Loop


class LaneIndexer(Loop):
    """Make the indexes that are missing, when the node starts and now and then later.

    On every node, whoever leads: only the node knows how its queues are divided. The work is done
    on a connection of its own, one index after another, while jobs go on; a stop cancels it.

    Args:
        db: Finds out what is missing.
        connect: Makes that connection; see `engine.lanes.make_indexes`.
        wanted: The lanes of the node's queues.
    """

    #: Seconds between looks at what is missing.
    INTERVAL = 600.0

    #: Seconds before another try while somebody else works on indexes.
    BUSY_PAUSE = 5.0

    def __init__(self, db: Db, connect: Connect, wanted: Sequence[Lanes]) -> None:
        super().__init__("lane-indexer", interval=self.INTERVAL)
        self._db = db
        self._connect = connect
        self._wanted = wanted
        self._given_up: set[str] = set()

    def tick(self) -> float | None:
        """Make what is missing; what could not be made once is not tried again."""
        with self._db.session() as tx:
            missing = lanes.missing(tx, self._wanted)

        missing = [item for item in missing if item.index not in self._given_up]

        if not missing:
            return None

        with telemetry.span("oban.lanes.index") as seen:
            made = lanes.make_indexes(
                self._connect, self._db.schema, missing, stopping=self._stopping
            )
            seen(indexes=made or [], queues=[item.queue for item in missing])

        if made is None:
            return self.BUSY_PAUSE

        self._given_up |= {item.index for item in missing} - set(made)

        return None
