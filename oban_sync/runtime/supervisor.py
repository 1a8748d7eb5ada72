"""Starts the parts in order, all or none, and stops them in reverse within one deadline."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from threading import Thread

from oban_sync.core.health import Health, judged
from oban_sync.core.lease import Lease
from oban_sync.runtime.leader import Leader
from oban_sync.runtime.loop import Loop
from oban_sync.runtime.notifier import Notifier
from oban_sync.runtime.refresher import Refresher
from oban_sync.runtime.roster import Roster

log = logging.getLogger("oban_sync.runtime")

#: Seconds past the grace period in which what finished is still written.
FLUSH_PERIOD = 2.0

#: Seconds past the grace period after which a stop waits for nothing more. A last statement may
#: have been waiting for a connection when the flush period ended.
END_PERIOD = 3.5

#: Seconds a loop gets to end that only has to finish its statement.
LOOP_PERIOD = 2.0

#: Seconds a start waits for the notifier, and for the first beat. Without the one, jobs are found
#: by polling; until the other, none are taken.
READY_PERIOD = 5.0


class Supervisor:
    """The running parts of one Oban.

    Started: notifier, refresher, the producers of the roster, leader, then stager and plugins.
    Stopped: producers go quiet first; then the duties end, the leader resigns, the producers drain,
    the writers write what is left, and the refresher and the notifier end last: beats outlive
    running jobs, and signals reach them.

    Args:
        notifier: None where nothing can be heard.
        refresher: The heartbeat.
        roster: The queues.
        leader: None where this node may not lead.
        duties: Stager and plugins.
        writers: Loops that write what comes of running jobs, and so outlive these.
        lease: The node's lease.
    """

    def __init__(
        self,
        notifier: Notifier | None,
        refresher: Refresher,
        roster: Roster,
        leader: Leader | None,
        duties: Sequence[Loop],
        writers: Sequence[Loop] = (),
        lease: Lease | None = None,
    ) -> None:
        self.roster = roster
        self._notifier = notifier
        self._refresher = refresher
        self._leader = leader
        self._duties = duties
        self._writers = writers
        self._lease = Lease() if lease is None else lease
        self._deadline = float("inf")

    @property
    def is_leader(self) -> bool:
        """Whether this node leads."""
        return self._leader is not None and self._leader.is_leader

    def health(self) -> Health:
        """How the node is, from what its parts know; nobody is asked, and nothing waited for."""
        loops = self._loops()

        return judged(
            ended=[loop.name for loop in loops if _has_died(loop)] + self.roster.ended,
            lapsed=self._lease.ended,
            beaten=self._refresher.ready.is_set(),
            beat_age=self._lease.beat_age,
            degraded=self._notifier is None or self._notifier.degraded,
            leader=self.is_leader,
            queues=self.roster.names,
            stopping=self.roster.ending,
        )

    def start(self) -> None:
        """Start every part; when one cannot be started, stop those that were and raise."""
        try:
            if self._notifier is not None:
                self._notifier.start()

            # They need not wait for each other, each connects by itself.
            self._refresher.start()

            if self._notifier is not None and not self._notifier.ready.wait(READY_PERIOD):
                log.warning("notifier is not ready yet; until it is, jobs are found by polling")

            if not self._refresher.ready.wait(READY_PERIOD):
                log.warning("no beat could be written yet; until one is, no jobs are taken")

            for loop in self._writers:
                loop.start()

            self.roster.start()

            for loop in (*([self._leader] if self._leader else []), *self._duties):
                loop.start()
        except BaseException:
            self.stop(grace=0.0)
            raise

    def stop(self, *, grace: float) -> bool:
        """Stop every part; running jobs may finish within `grace` seconds.

        Returns within grace + 5 seconds, with the database up or down. Another call, from any
        thread, may shorten the grace of one in progress.

        Returns:
            Whether every thread has ended.
        """
        self.hasten(grace=grace)
        self.roster.quiet()

        if grace > 0.0:
            # The cluster is to know at once that nothing more is taken here.
            self._refresher.wake()

        # First of all, so that no duty at work eats up the time in which producers write.
        self.roster.drain(deadline=self._deadline, flush_deadline=self._deadline + FLUSH_PERIOD)
        ended = self._ended(*self._duties)
        ended &= self._ended(*([self._leader] if self._leader is not None else []))
        # The deadline is read anew for each, since another call may have brought it forward.
        ended &= self.roster.join(lambda: self._deadline + END_PERIOD)
        ended &= self._ended(*self._writers)
        ended &= self._ended(self._refresher)
        ended &= self._ended(*([self._notifier] if self._notifier is not None else []))

        return ended

    def hasten(self, *, grace: float) -> None:
        """Bring the deadline of a stop forward to `grace` seconds from now."""
        deadline = time.monotonic() + grace

        if deadline < self._deadline:
            self._deadline = deadline
            self.roster.hasten(deadline=deadline, flush_deadline=deadline + FLUSH_PERIOD)

    def runs_on(self, thread: Thread) -> bool:
        """Whether a thread is one of these parts', or runs one of their jobs."""
        return self.roster.runs_on(thread) or any(loop.runs_on(thread) for loop in self._loops())

    def _loops(self) -> list[Loop]:
        """All parts but those of the roster."""
        parts = [self._notifier, self._refresher, self._leader, *self._duties, *self._writers]

        return [part for part in parts if part is not None]

    def _ended(self, *loops: Loop) -> bool:
        for loop in loops:
            loop.request_stop()

        now = time.monotonic()
        # A loop has only to finish its statement; past the end of it all, nothing is waited for.
        deadline = min(now + LOOP_PERIOD, max(self._deadline + END_PERIOD, now + 0.1))

        return all([loop.join(deadline) for loop in loops])


def _has_died(loop: Loop) -> bool:
    return loop.started and not loop.alive and not loop.stopping
