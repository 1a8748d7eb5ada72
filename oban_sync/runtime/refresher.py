"""The heartbeat: tells the cluster that this node lives, and brings back what was asked of it.

A thread and a connection of its own, so that neither jobs nor a full pool can keep a beat waiting.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event

from oban_sync import telemetry
from oban_sync.core.errors import ObanError
from oban_sync.core.lease import Lease
from oban_sync.core.loops import RefresherConfig
from oban_sync.engine import nodes
from oban_sync.engine.nodes import Identity
from oban_sync.engine.reserved import ReservedDb
from oban_sync.engine.retry import conflicts_retried, until_available
from oban_sync.runtime.loop import Loop
from oban_sync.runtime.roster import Roster

log = logging.getLogger("oban_sync.runtime")


class Refresher(Loop):
    """Renew the node's lease, and hand on what a beat brings.

    Args:
        db: The reserved connection.
        identity: The node.
        roster: The node's queues.
        lease: The node's lease.
        options: How often, and for how long a lease lasts.
        pinged: Called after each beat, which also sends a ping.
        degraded: Whether notifications may be lost, so that orders are looked for more often.

    Attributes:
        ready: Set by the first beat.
        alone: Whether no other node of the instance lived at the first beat.
    """

    #: Seconds between beats while notifications may be lost: how late an order may be heard.
    DEGRADED_INTERVAL = 1.0

    def __init__(
        self,
        db: ReservedDb,
        identity: Identity,
        roster: Roster,
        lease: Lease,
        options: RefresherConfig,
        *,
        pinged: Callable[[int], None],
        degraded: Callable[[], bool],
    ) -> None:
        super().__init__("refresher", interval=options.interval)
        self.ready = Event()
        self.alone = False
        self._db = db
        self._identity = identity
        self._roster = roster
        self._lease = lease
        self._options = options
        self._pinged = pinged
        self._degraded = degraded
        self._beats = 0
        self._lapsed = False

    def tick(self) -> float | None:
        """Beat once, however long it takes to reach PostgreSQL."""
        with telemetry.span("oban.refresher.refresh"):
            until_available(
                lambda: conflicts_retried(self._beat),
                stopping=self._stopping,
                what=self.name,
                log=log,
                longest=0.5,
            )

        self._pinged(self._beats)

        return min(self.interval, self.DEGRADED_INTERVAL) if self._degraded() else None

    def closed(self) -> None:
        """Take the node's row away, if it owes nothing: nobody need wonder what became of it."""
        if self.ready.is_set() and self._roster.settled:
            # Otherwise the row stays, for others to find, and to give back what is left.
            with suppress(ObanError), self._db.session() as tx:
                nodes.remove(tx, self._identity.uuid)

        self._db.close()

    def _beat(self) -> None:
        self._note_lapse()
        started = time.monotonic()
        rows = self._roster.rows()
        # Counted before it is sent: one whose reply is lost must not be sent again as the same.
        self._beats += 1

        with self._db.session() as tx:
            if not self.ready.is_set():
                self.alone = nodes.is_alone(tx, self._identity)

            beat = nodes.beat(
                tx, self._identity, self._beats, rows, self._options, founder=self.alone
            )

        lost = beat.fresh and self.ready.is_set()
        self._note_lapse()

        if self._lapsed or lost:
            self._renew_after_lapse(started, lost)
        else:
            self._lease.renew(started)

        self._roster.admit(row.uuid for row in rows)
        self._roster.cancel(beat.cancels)
        self._roster.apply(beat.controls)
        self.ready.set()

        # A queue that was started just now is to be known before it takes jobs.
        if self._roster.unknown:
            self.wake()

    def _note_lapse(self) -> None:
        if self.ready.is_set() and self._lease.ended and not self._lapsed:
            self._lapsed = True
            telemetry.emit("oban.node.lapsed", {"uuid": self._identity.uuid})
            log.warning(
                "this node could not tell in time that it lives, so others may take its jobs; it "
                "takes no more until it can"
            )

    def _renew_after_lapse(self, started: float, lost: bool) -> None:
        # In this order: a job is not vouched for until its row was looked at.
        self._lease.generation += 1
        self._lease.renew(started)
        self._roster.verify()
        self._lapsed = False
        telemetry.emit("oban.node.renewed", {"uuid": self._identity.uuid, "lost": lost})
        log.warning(
            "beats of this node are written again; %s",
            "it had been taken for dead, and registered anew" if lost else "nobody took its jobs",
        )
