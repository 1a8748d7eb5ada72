"""The heartbeat: tells the cluster that this node lives, and brings back what was asked of it.

A thread and a connection of its own, so that neither jobs nor a full pool can keep a beat waiting.
The small looks of other loops go along in its transactions, so that a node at rest needs one a
second; after one that was slow or failed they are kept out for a while.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Event

from oban_sync import telemetry
from oban_sync.core.errors import ObanError
from oban_sync.core.lease import Lease
from oban_sync.core.loops import RefresherConfig
from oban_sync.engine import nodes
from oban_sync.engine.asks import Ask, Rows, can_go_together, together
from oban_sync.engine.nodes import UNCHANGED, Beat, Identity, ProducerRow
from oban_sync.engine.reserved import ReservedDb
from oban_sync.engine.retry import conflicts_retried, until_available
from oban_sync.runtime.carried import Answer, Carried
from oban_sync.runtime.loop import Loop
from oban_sync.runtime.presence import Introduction
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
        introduction: What the node says of itself.
        pinged: Called after each beat, which also sends a ping.
        degraded: Whether notifications may be lost, so that orders are looked for more often.

    Attributes:
        ready: Set by the first beat.
        alone: Whether no other node of the instance lived at the first beat.
    """

    #: Seconds between beats while notifications may be lost: how late an order may be heard.
    DEGRADED_INTERVAL = 1.0

    #: Seconds after which a transaction with looks of others was slow.
    SLOW = 0.25

    #: Seconds for which others look by themselves after one that was slow or failed.
    ALONE_PERIOD = 30.0

    #: Share of the interval by which a beat may be early, when there is a transaction anyway.
    EARLY = Carried.EARLY

    def __init__(
        self,
        db: ReservedDb,
        identity: Identity,
        roster: Roster,
        lease: Lease,
        options: RefresherConfig,
        *,
        introduction: Introduction,
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
        self._introduction = introduction
        self._pinged = pinged
        self._degraded = degraded
        self._beats = 0
        self._lapsed = False
        self._beat_at = float("-inf")
        self._passengers: Sequence[Carried] = ()
        self._carries_from = float("-inf")

    def take_along(self, *loops: Carried) -> None:
        """Take the looks of loops along, in this order; before the start."""
        if can_go_together():
            self._passengers = loops

            for loop in loops:
                loop.carrier = self

    @property
    def carries(self) -> bool:
        """Whether looks of others go along at the moment."""
        return (
            self.ready.is_set()
            and not self.stopping
            and not self._lapsed
            and not self._degraded()
            and time.monotonic() >= self._carries_from
        )

    def hurry(self) -> None:
        """Take along at once what is due; callable from any thread."""
        super().wake()

    def wake(self) -> None:
        """Beat at once; callable from any thread."""
        self._beat_at = float("-inf")
        super().wake()

    def tick(self) -> float | None:
        """Beat, or take along what is due of others, or both."""
        now = time.monotonic()
        is_going = self.carries and any(
            loop.waits and loop.due_at <= now for loop in self._passengers
        )

        # There is going to be a transaction, so a beat whose time is near is part of it.
        if now >= self._beat_at - (self.EARLY * self.interval if is_going else 0.0):
            self._beat_in_any_case()
        elif is_going:
            self._carry()

        if not self.carries:
            # Those that wait to be taken along need not wait for longer.
            for loop in self._passengers:
                if loop.waits and loop.due_at <= now:
                    loop.left()

        return self._pause()

    def _beat_in_any_case(self) -> None:
        """Beat once, however long it takes to reach PostgreSQL."""
        self._beat_at = float("inf")

        try:
            with telemetry.span("oban.refresher.refresh"):
                until_available(
                    lambda: conflicts_retried(self._beat),
                    stopping=self._stopping,
                    what=self.name,
                    log=log,
                    longest=0.5,
                )
        except BaseException:
            self._beat_at = float("-inf")
            raise

        self._pinged(self._beats)
        pause = self.interval * random.uniform(1 - self.JITTER, 1 + self.JITTER)  # noqa: S311

        if self._degraded():
            pause = min(self.interval, self.DEGRADED_INTERVAL)

        # A wake meanwhile has asked for another one.
        self._beat_at = min(self._beat_at, time.monotonic() + pause)

    def _pause(self) -> float:
        moments = [self._beat_at]

        if self.carries:
            moments += [loop.due_at for loop in self._passengers if loop.waits]

        return max(0.0, min(moments) - time.monotonic())

    def _carry(self) -> None:
        """Ask for others what is due; whatever goes wrong, they find out by themselves."""
        started = time.monotonic()
        taken = self._taken()

        if not taken:
            return

        try:
            with self._db.session() as tx:
                brought = together(tx, [ask for _, ask in taken])
        except Exception as error:
            self._miss(taken, error)
        else:
            self._deliver(taken, brought, started)

    def _taken(self) -> list[tuple[Carried, Ask]]:
        if not self.carries:
            return []

        now = time.monotonic()
        going = [loop for loop in self._passengers if loop.may_go(now)]

        return [(loop, ask) for loop in going if (ask := loop.taken()) is not None]

    def _deliver(
        self, taken: Sequence[tuple[Carried, Ask]], brought: Sequence[Rows], started: float
    ) -> None:
        now = time.monotonic()

        if taken and now - started > self.SLOW:
            self._carries_from = now + self.ALONE_PERIOD

        for (loop, _), rows in zip(taken, brought, strict=True):
            loop.answered(Answer(rows, started, now))

    def _miss(self, taken: Sequence[tuple[Carried, Ask]], error: Exception) -> None:
        self._carries_from = time.monotonic() + self.ALONE_PERIOD
        log.debug("looks of others no longer go along with beats, for a while: %s", error)

        for loop, _ in taken:
            loop.answered(None)

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
        beat = self._send(rows)
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

    def _send(self, rows: Sequence[ProducerRow]) -> Beat:
        started = time.monotonic()
        taken = self._taken()

        try:
            beat = self._sent(rows, [ask for _, ask in taken])
        except Exception as error:
            if not taken:
                raise

            # What went wrong may have been theirs, and a beat has to go out.
            self._miss(taken, error)

            return self._sent(rows, [])

        self._deliver(taken, beat.along, started)

        return beat

    def _sent(self, rows: Sequence[ProducerRow], along: Sequence[Ask]) -> Beat:
        # Counted before it is sent: one whose reply is lost must not be sent again as the same.
        self._beats += 1
        news = self._introduction.news()

        with self._db.session() as tx:
            if not self.ready.is_set():
                self.alone = nodes.is_alone(tx, self._identity)

            beat = nodes.beat(
                tx,
                self._identity,
                self._beats,
                rows,
                self._options,
                founder=self.alone,
                presence=news,
                along=along,
            )

        if beat.fresh and news is UNCHANGED:
            # Of what was told before, nothing is there any more.
            self._introduction.forgotten()
            self.wake()
        else:
            self._introduction.told()

        return beat

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
