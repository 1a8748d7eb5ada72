"""Leadership: at any time at most one node does the work that is done once for the whole cluster.

The lease is a row that expires by the database's clock. A node trusts its own only until a second
before that, counted on its monotonic clock from the moment it sent the renewal: so it stops leading
by itself when PostgreSQL is slow, away, or takes its writes without answering.

What a leader does is safe even so: every duty holds its own guard in the database.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress

from oban_sync import telemetry
from oban_sync.core.errors import ObanError
from oban_sync.core.loops import LeadershipConfig
from oban_sync.engine import nodes
from oban_sync.engine.asks import Ask
from oban_sync.engine.nodes import Identity
from oban_sync.engine.reserved import ReservedDb
from oban_sync.engine.retry import until_available
from oban_sync.runtime.carried import Answer, Carried

log = logging.getLogger("oban_sync.runtime")


class Leader(Carried):
    """Lead, or stand by until whoever leads resigns or falls silent.

    Args:
        db: A reserved connection, made only while elections cannot go along with the heartbeat.
        identity: The node.
        options: How long a lease lasts, and how often it is renewed.
        on_elected: Called when a term begins, so that the duties need not wait for their interval.
    """

    #: Seconds before the lease ends in the database, when it is trusted no more.
    MARGIN = 1.0

    #: Seconds that a follower waits past the end of somebody's lease.
    SLACK = 0.05

    def __init__(
        self,
        db: ReservedDb,
        identity: Identity,
        options: LeadershipConfig,
        *,
        on_elected: Callable[[], None],
    ) -> None:
        super().__init__("leader", interval=options.interval)
        self._db = db
        self._identity = identity
        self._options = options
        self._on_elected = on_elected
        self._trusted_until = float("-inf")
        self._leads = False

    @property
    def is_leader(self) -> bool:
        """Whether this node leads at this very moment; callable from any thread."""
        return time.monotonic() < self._trusted_until

    def ask(self) -> Ask:
        """Who leads."""
        return nodes.electing(self._identity, self._options.ttl)

    def judge(self, answer: Answer) -> float | None:
        """Lead or follow, as an election went that was taken along."""
        # Others may need the connection more than this.
        self._db.close()

        with telemetry.span("oban.leader.election", name=self._identity.name) as seen:
            election = nodes.elected(answer.rows)
            seen(leader=election.led)

        return self._conclude(election, answer.asked_at)

    def look(self) -> float | None:
        """Hold one election, however long it takes to reach PostgreSQL."""
        return self._conclude(
            *until_available(self._elect, stopping=self._stopping, what=self.name, log=log)
        )

    def _conclude(self, election: nodes.Election, started: float) -> float | None:
        if not election.led:
            self._lost("another node leads")

            # Looked at now and then, whatever the row says: somebody may mend it.
            return min(election.remaining + self.SLACK, self._options.ttl)

        # Trusted from before the query, so a slow answer shortens the term.
        self._trusted_until = started + self._options.ttl - self.MARGIN

        if election.anew or not self._leads:
            self._leads = True
            telemetry.emit("oban.leader.elected", self._facts())
            log.info("node %r leads", self._identity.node)
            self._on_elected()

        return None

    def closed(self) -> None:
        """Resign, so that another node takes over at once."""
        # An election that came after the resignation would win the lease back.
        led = self.wait_until_back() or self._leads
        self._trusted_until = float("-inf")

        if led:
            with suppress(ObanError), self._db.session() as tx:
                nodes.resign(tx, self._identity)

            self._lost("it resigned")

        self._db.close()

    def _elect(self) -> tuple[nodes.Election, float]:
        started = time.monotonic()

        try:
            with telemetry.span("oban.leader.election", name=self._identity.name) as seen:
                with self._db.session() as tx:
                    election = nodes.elect(tx, self._identity, self._options.ttl)

                seen(leader=election.led)
        except BaseException:
            # Not trusted any longer than it has to be; whether it still is, the row will tell.
            self._lost("it could not renew its lease")
            raise

        return election, started

    def _lost(self, why: str) -> None:
        self._trusted_until = float("-inf")

        if self._leads:
            self._leads = False
            telemetry.emit("oban.leader.lost", {**self._facts(), "reason": why})
            log.info("node %r leads no more: %s", self._identity.node, why)

    def _facts(self) -> dict[str, str]:
        return {"name": self._identity.name, "uuid": self._identity.uuid}
