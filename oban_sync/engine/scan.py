"""Where the scan for available jobs begins: past what was taken before.

A job that is taken leaves a dead entry at the head of the index, and every scan from there steps
over it until PostgreSQL takes it away. It may not while any transaction, a report on another table
perhaps, could still see the job; then each turn is slower than the one before. So a turn goes on
behind the last job of the one before it, and looks at the head again now and then.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from oban_sync.engine.wire import Timestamps

#: Priority, time and id: the order in which jobs are taken.
Place = tuple[int, int, int]

#: Before every job; the time is PostgreSQL's ``-infinity``.
HEAD: Place = (-(2**15), -(2**63), 0)

#: Seconds for which the head is left alone: how long a more urgent job, or one given back, may wait
#: while those behind it fill all slots ...
INTERVAL = 0.05

#: ... and how many times as long as such a look took, where that is more, up to a second: there are
#: very many dead entries then, or PostgreSQL is very busy.
REST = 10.0

LONGEST_INTERVAL = 1.0

#: Jobs that have to be taken in turns that got all they asked for before it moves on: of fewer
#: there are no dead entries to speak of, and a queue that runs dry is looked at once more for it.
LEAST = 200


class Scan:
    """Where one producer's next turn begins to look.

    Attributes:
        place: Jobs behind this place are looked at.
    """

    __slots__ = ("_again_at", "_passed", "_started", "place")

    def __init__(self) -> None:
        self.place = HEAD
        self._passed = 0
        self._again_at = 0.0
        self._started = 0.0

    def restart(self) -> None:
        """Begin at the head, and move on only after as many jobs as at first."""
        self.place = HEAD
        self._passed = 0
        self._again_at = 0.0

    def begin(self) -> dict[str, object]:
        """The place as parameters of the statement about to run."""
        self._started = now = time.monotonic()

        if now >= self._again_at:
            self.place = HEAD

        priority, due, job_id = self.place

        return {"priority": priority, "due": Timestamps((due,)), "after": job_id}

    def end(self, rows: Sequence[tuple[Any, ...]], demand: int) -> bool:
        """Note what the statement took; whether to look once more, now at the head.

        Args:
            rows: The jobs taken, in order; their first columns are a place.
            demand: How many were asked for.
        """
        if demand <= 0:
            return False

        moved = self.place != HEAD

        if len(rows) < demand:
            self.place = HEAD
            self._passed = 0

            return moved

        self._passed += demand

        if self._passed < LEAST:
            return False

        if not moved:
            now = time.monotonic()
            rest = max(INTERVAL, min(LONGEST_INTERVAL, REST * (now - self._started)))
            self._again_at = now + rest

        self.place = rows[-1][:3]

        return False
