"""Gives back the jobs of nodes that died, and of owners that nobody knows.

A dead node is told from a slow one by two signs: its beats, which a slow node may miss, and its
session lock, which the kernel frees at once when a process dies and keeps while it merely stalls.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from oban_sync import telemetry
from oban_sync.core.loops import LifelineConfig
from oban_sync.engine import nodes
from oban_sync.engine.asks import Ask
from oban_sync.engine.fetch import Shunned
from oban_sync.engine.nodes import Rescued, Seen
from oban_sync.engine.retry import conflicts_retried, until_available
from oban_sync.engine.session import Db
from oban_sync.runtime.carried import Answer, Carried

log = logging.getLogger("oban_sync.plugins")


@dataclass(slots=True)
class _Watch:
    """What was seen of a node, by our own monotonic clock.

    Attributes:
        beats: The last count of its beats.
        since: Since when that has not changed.
        unlocked_since: Since when its session lock was free at every look; None while it is held.
    """

    beats: int
    since: float
    unlocked_since: float | None


class Lifeline(Carried):
    """Watch the other nodes, and rescue the jobs of those that died.

    Every node does, because it may be the leader that died: waiting for another one would double
    the time. Several may find the same node dead; its row says who was first. Jobs of owners that
    nobody knows are the leader's.

    Only what this process itself saw counts, without a gap: after a restart of PostgreSQL, a failed
    look, or a stall of its own the watch begins anew. So neither clocks nor outages make anybody
    look dead.

    Args:
        db: The loops' pool.
        uuid: This node.
        options: How often it looks, and the age at which jobs of unknown owners are given back.
        leads: Whether this node leads.
    """

    #: Seconds for which a lock must have been free, at every look: a live node whose connection was
    #: cut has it back by then.
    LEAST_UNLOCKED = 1.0

    #: Seconds between looks for jobs whose owner is not known: a tenth of the age at which they are
    #: given back, but no less than the one and no more than the other.
    AGED_INTERVALS = (10.0, 30.0)

    def __init__(
        self, db: Db, uuid: str, options: LifelineConfig, *, leads: Callable[[], bool]
    ) -> None:
        super().__init__("lifeline", interval=options.interval)
        self._db = db
        self._uuid = uuid
        self._options = options
        self._leads = leads
        self._server = ""
        self._watches: dict[str, _Watch] = {}
        self._looked_at = float("-inf")
        self._aged_at = float("-inf")
        least, most = self.AGED_INTERVALS
        self._aged_interval = min(max(options.rescue_after / 10, least), most)
        self._shunned = Shunned()

    def ask(self) -> Ask:
        """Who the other nodes are, and whether they beat."""
        return nodes.watching(self._uuid)

    def judge(self, answer: Answer) -> float | None:
        """Rescue what a look shows that was taken along."""
        server, others = nodes.watched(answer.rows)

        return self._act(self._dead(server, others, answer.asked_at, answer.told_at))

    def missed(self) -> None:
        """Begin to watch anew."""
        self._watches.clear()

    def look(self) -> float | None:
        """Look once, and rescue what there is."""
        return self._act(
            until_available(self._look, stopping=self._stopping, what=self.name, log=log)
        )

    def _act(self, dead: list[tuple[Seen, str]]) -> float | None:
        full = any([self._rescue(seen, why) for seen, why in dead])

        if self._leads() and self._looked_at - self._aged_at >= self._aged_interval:
            full |= self._rescue_aged()
            self._aged_at = self._looked_at

        # A full batch means there may be more; do not make them wait a whole interval.
        return 0.0 if full else None

    def _look(self) -> list[tuple[Seen, str]]:
        """The nodes that are dead, and how that was found."""
        now = time.monotonic()

        try:
            with self._db.session() as tx:
                server, others = nodes.watch(tx, self._uuid)
        except BaseException:
            self._watches.clear()
            raise

        return self._dead(server, others, now, time.monotonic())

    def _dead(
        self, server: str, others: list[Seen], asked_at: float, told_at: float
    ) -> list[tuple[Seen, str]]:
        # Another start of PostgreSQL, or a gap: nobody could have been seen beating meanwhile.
        if server != self._server or asked_at - self._looked_at > 3 * self.interval + 1.0:
            self._watches.clear()

        # Since the answer, and until the question: what lay in between was not watched.
        self._server, self._looked_at = server, told_at
        self._watches = {seen.uuid: self._watched(seen, told_at) for seen in others}
        judged = ((seen, self._why_dead(seen, asked_at)) for seen in others)

        return [(seen, why) for seen, why in judged if why is not None]

    def _watched(self, seen: Seen, now: float) -> _Watch:
        before = self._watches.get(seen.uuid)
        same = before is not None and before.beats == seen.beats
        unlocked = seen.locked is False

        return _Watch(
            seen.beats,
            before.since if before is not None and same else now,
            (before.unlocked_since if before is not None else None) or now if unlocked else None,
        )

    def _rescue(self, seen: Seen, why: str) -> bool:
        with telemetry.span("oban.lifeline.rescue", node=seen.node, uuid=seen.uuid) as told:
            jobs, gone = conflicts_retried(
                lambda: nodes.rescue(
                    self._db, seen, why=why, most=self._options.limit, shunned=self._shunned
                )
            )
            told(rescued_count=len(jobs), jobs=[job.id for job in jobs], reason=why)

        if gone or jobs:
            log.warning("node %r (%s) is dead: %s; %s", seen.node, seen.uuid, why, _told(jobs))

        return len(jobs) >= self._options.limit

    def _rescue_aged(self) -> bool:
        with telemetry.span("oban.lifeline.rescue", node=None, uuid=None) as told:
            jobs = conflicts_retried(
                lambda: nodes.rescue_aged(
                    self._db,
                    rescue_after=self._options.rescue_after,
                    most=self._options.limit,
                    shunned=self._shunned,
                )
            )
            age = self._options.rescue_after
            why = f"nobody is known to run them, and they started over {age:g} s ago"
            told(rescued_count=len(jobs), jobs=[job.id for job in jobs], reason=why)

        if jobs:
            log.warning("%s: %s", why, _told(jobs))

        return len(jobs) >= self._options.limit

    def _why_dead(self, seen: Seen, now: float) -> str | None:
        watch = self._watches[seen.uuid]
        silent = now - watch.since

        if silent >= seen.max_age:
            return f"no beat for {silent:.1f} s"

        unlocked = 0.0 if watch.unlocked_since is None else now - watch.unlocked_since

        if silent >= seen.unlocked_max_age and unlocked >= self.LEAST_UNLOCKED:
            return f"its session is gone, and no beat for {silent:.1f} s"

        return None


def _told(jobs: list[Rescued]) -> str:
    if not jobs:
        return "it left no jobs"

    shown = ", ".join(f"{job.id} ({job.state})" for job in jobs[:20])

    jobs_text = "1 job" if len(jobs) == 1 else f"{len(jobs)} jobs"

    return f"gave back {jobs_text}: {shown}{' ...' if len(jobs) > 20 else ''}"
