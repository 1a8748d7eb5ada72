"""The queues of this node: which run, how, and what signals and people ask of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from threading import RLock, Thread
from typing import Any

from oban_sync import telemetry
from oban_sync.core import controls
from oban_sync.core.clock import utc_now
from oban_sync.core.config import QueueConfig
from oban_sync.core.controls import Control, Wanted
from oban_sync.engine.nodes import ProducerRow
from oban_sync.runtime.producer import Producer
from oban_sync.runtime.signals import idents_of, queue_of

log = logging.getLogger("oban_sync.runtime")

#: Wishes of nodes of other kinds that are kept; the oldest go first.
MOST_WISHES = 1_000

#: How far the numbers of rows may have gone on between two beats; far more than anybody asks for.
MOST_ROWS_AHEAD = 1_000_000

#: Queues that may run on one node; signals start no more.
MOST_QUEUES = 1_000


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """One queue of this node, at one moment.

    Attributes:
        queue: Its name.
        name: The Oban instance.
        node: What people call the node.
        limit: Jobs at once.
        paused: Whether it takes no jobs.
        running: The ids of the jobs that run.
        started_at: Since when it runs.
        uuid: Identifies its producer; jobs name it in `attempted_by`.
        paused_by: Who paused it, where that is known.
        paused_at: When.
        paused_until: When that ends by itself.
        stopping: It was stopped, and lets its jobs finish.
        retired: Threads given up, because their jobs ran for too long, that have not ended.
    """

    queue: str
    name: str
    node: str
    limit: int
    paused: bool
    running: list[int]
    started_at: datetime
    uuid: str
    paused_by: str | None = None
    paused_at: datetime | None = None
    paused_until: datetime | None = None
    stopping: bool = False
    retired: int = 0


@dataclass(slots=True)
class _Member:
    producer: Producer
    started_at: datetime
    wanted: Wanted
    known: bool = False


class Roster:
    """Keeps a producer for every queue that shall run here, and each as it is wanted.

    What people ask for comes with the beats, as rows (`apply`), and a moment earlier as a signal
    (`heard`). Nodes of other kinds send signals only; such a wish counts until this node ends, or
    until a newer row.

    Methods may be called from any thread. None of them waits for a query or a job.

    Args:
        configured: The queues by configuration.
        make: Makes the producer of a queue.
        name: The Oban instance.
        node: What people call the node.
        grace: Seconds in which the jobs of a queue that is stopped may finish.
        told_as: What Oban Web is told that the instance is called, if that is another name.
    """

    def __init__(
        self,
        configured: Sequence[QueueConfig],
        make: Callable[[QueueConfig], Producer],
        *,
        name: str,
        node: str,
        grace: float,
        told_as: str | None = None,
    ) -> None:
        self._idents = idents_of(name, node, told_as=told_as)
        self._configured = {queue.name: queue for queue in configured}
        self._make = make
        self._name = name
        self._node = node
        self._grace = grace
        self._lock = RLock()
        self._members: dict[str, _Member] = {}
        #: Stopped while the node goes on; each owes something until its thread ends.
        self._leaving: list[_Member] = []
        self._rows: list[Control] = []
        self._heard: list[Control] = []
        self._announced: list[tuple[float, dict[str, Any], str | None]] = []
        self._newest = 0.0
        self._begun = False
        self._ending = False

        for queue in configured:
            self._add(queue.name, controls.wanted([], queue.name, queue.limit))

    # The life of the whole

    def start(self) -> None:
        """Start the threads; jobs are taken once the producers are known to the cluster."""
        with self._lock:
            for member in self._members.values():
                if not member.producer.started:
                    member.producer.start()

            self._begun = True

    def quiet(self) -> None:
        """Take no more jobs on any queue, and start no more queues."""
        with self._lock:
            self._ending = True

            for member in self._everybody():
                member.producer.quiet()

    def drain(self, *, deadline: float, flush_deadline: float) -> None:
        """Let jobs finish until one deadline, and try what is unwritten until another one."""
        with self._lock:
            for member in self._everybody():
                member.producer.drain(deadline=deadline, flush_deadline=flush_deadline)

    def hasten(self, *, deadline: float, flush_deadline: float) -> None:
        """Bring the deadlines of those forward that drain already."""
        with self._lock:
            for member in self._everybody():
                if member.producer.stopping:
                    member.producer.drain(deadline=deadline, flush_deadline=flush_deadline)

    def join(self, deadline: Callable[[], float]) -> bool:
        """Wait until the deadline, read anew for each; tell whether all threads ended."""
        with self._lock:
            everybody = list(self._everybody())

        return all([member.producer.join(deadline()) for member in everybody])

    @property
    def settled(self) -> bool:
        """Whether all threads ended, and none left a job behind."""
        with self._lock:
            return all(member.producer.settled for member in self._everybody())

    def runs_on(self, thread: Thread) -> bool:
        """Whether a thread is a producer's, or runs one of their jobs."""
        with self._lock:
            return any(member.producer.runs_on(thread) for member in self._everybody())

    @property
    def ending(self) -> bool:
        """Whether no more jobs are taken, on any queue, because the node is being stopped."""
        return self._ending

    # What the beats need and bring

    def stopping(self) -> list[str]:
        """The uuids of the producers that take no more jobs, and may still run some."""
        with self._lock:
            members = self._everybody() if self._ending else self._leaving

            return [member.producer.uuid for member in members]

    def rows(self) -> list[ProducerRow]:
        """What the node's beat says of its queues; those on their way out included."""
        with self._lock:
            self._leaving = [item for item in self._leaving if not item.producer.settled]

            return [
                ProducerRow(
                    member.producer.uuid,
                    member.producer.queue.name,
                    member.wanted.limit,
                    member.wanted.paused,
                )
                for member in self._everybody()
            ]

    def admit(self, uuids: Iterable[str]) -> None:
        """Let producers take jobs: the cluster knows of them."""
        known = set(uuids)

        with self._lock:
            for member in self._members.values():
                if member.producer.uuid in known and not member.known:
                    member.known = True
                    member.producer.admit()

    @property
    def unknown(self) -> bool:
        """Whether there are producers that the cluster has yet to hear of."""
        with self._lock:
            return any(not member.known for member in self._members.values())

    def cancel(self, job_ids: Sequence[int]) -> None:
        """Ask running jobs to stop."""
        if job_ids:
            with self._lock:
                for member in self._everybody():
                    member.producer.cancel(job_ids)

    @property
    def ended(self) -> list[str]:
        """The names of threads of queues that ended, though nobody stopped them."""
        with self._lock:
            producers = [member.producer for member in self._members.values()]

        return [
            producer.name
            for producer in producers
            if producer.started and not producer.alive and not producer.stopping
        ]

    def runs(self, job_id: int) -> bool:
        """Whether a job runs on this node at this moment."""
        with self._lock:
            return any(job_id in member.producer.running for member in self._everybody())

    def verify(self) -> None:
        """Look which of the running jobs are still this node's."""
        with self._lock:
            for member in self._everybody():
                member.producer.verify()

    def apply(self, rows: Sequence[Control]) -> None:
        """Make every queue as it is wanted."""
        with self._lock:
            self._rows = list(rows)
            self._newest = max([self._newest, *(row.seq for row in rows)])
            # What has a newer row is void for good, also after that row's end.
            self._heard = [
                wish
                for wish in self._heard
                if not any(
                    row.aspect == wish.aspect
                    and row.queue in (wish.queue, controls.EVERY)
                    and row.seq >= wish.seq
                    for row in rows
                )
            ]
            self._conform()

    def wake(self, queue: str) -> None:
        """Let a queue look for jobs, if it runs here."""
        # Without the lock: this is the notifier's, for every notification.
        if (member := self._members.get(queue)) is not None:
            member.producer.wake()

    def wake_all(self) -> None:
        """Let every queue look for jobs."""
        for member in list(self._members.values()):
            member.producer.reconnected()

    def announced(self, seq: float, signal: Mapping[str, Any], by: str | None = None) -> None:
        """A signal of one of us is on its way, and this row stands behind it.

        Raises:
            ValueError: No row can have that place. Anybody may send this, and a wish that no row
                could ever follow would have to be obeyed for good.
        """
        with self._lock:
            if not 0 < seq <= self._newest + MOST_ROWS_AHEAD:
                raise ValueError(f"no row can be number {seq!r} by now")

            self._announced.append((float(seq), dict(signal), by))
            del self._announced[:-MOST_WISHES]

    def forget(self, queue: str) -> None:
        """What was asked of a queue counts no more; the rows are gone by the next beat."""
        with self._lock:
            self._heard = [
                item for item in self._heard if queue not in (item.queue, controls.EVERY)
            ]

    def heard(self, payload: Mapping[str, Any]) -> bool:
        """Follow a signal, of any kind of node.

        Returns:
            Whether a row may stand behind it, which the next beat brings.

        Raises:
            ValueError, LookupError, TypeError: It is not understood.
        """
        row = self._row_of(payload)

        if payload.get("ident", "any") not in self._idents:
            return False

        action = payload["action"]

        if action == "pkill":
            self.cancel([int(payload["job_id"])])

            return False

        if action in ("pause", "resume"):
            self._wish(row, payload["queue"], controls.PAUSED, action == "pause")
        elif action == "scale":
            self._wish(row, payload["queue"], controls.LIMIT, payload["limit"])
        elif action == "start":
            self._wish(row, payload["queue"], controls.RUNNING, payload["limit"])

            # One of us says so by a signal of its own.
            if payload.get("paused") is True and row[0] is None:
                self._wish(row, payload["queue"], controls.PAUSED, True)
        elif action == "stop":
            self._wish(row, payload["queue"], controls.RUNNING, False)
        else:
            raise ValueError(f"unknown action {action!r}")

        return True

    @property
    def names(self) -> list[str]:
        """The queues that run here."""
        return list(self._members)

    def info(self) -> list[QueueInfo]:
        """Each queue of this node, at this moment."""
        with self._lock:
            return [self._info(member) for member in self._everybody()]

    def _row_of(self, signal: Mapping[str, Any]) -> tuple[float | None, str | None]:
        """Which row stands behind a signal, and who asked, if it is one of ours."""
        with self._lock:
            for index, (seq, announced, by) in enumerate(self._announced):
                if announced == signal:
                    del self._announced[index]

                    return seq, by

        return None, None

    def _wish(
        self, row: tuple[float | None, str | None], queue: object, aspect: str, value: object
    ) -> None:
        seq, by = row

        queue = queue_of(queue, aspect)
        value = controls.checked(aspect, value)

        with self._lock:
            if seq is not None and seq <= self._newest:
                # A beat was faster, and brought the row.
                return

            # Older wishes are void.
            self._heard = [
                item
                for item in self._heard
                if item.aspect != aspect or queue not in (item.queue, controls.EVERY)
            ]

            if seq is not None or not self._is_so(queue, aspect, value):
                # One of another kind of node has no row: it counts after all that were seen, and
                # before any that is yet to be seen.
                place = self._newest + 0.5 + len(self._heard) * 1e-6 if seq is None else seq
                self._heard.append(Control(place, queue, aspect, value, by))
                # Whoever can send signals could fill the memory with them.
                del self._heard[:-MOST_WISHES]

            self._conform()

    def _is_so(self, queue: str, aspect: str, value: object) -> bool:
        """Whether it is so without a further wish, which would not end by itself as a row may."""
        for name in self._members if queue == controls.EVERY else [queue]:
            wanted = self._wanted([*self._rows, *self._heard], name)
            now = {
                controls.PAUSED: wanted.paused,
                controls.LIMIT: wanted.limit,
                controls.RUNNING: wanted.limit if wanted.running else False,
            }

            if now[aspect] != value:
                return False

        return True

    def _wanted(self, everything: Sequence[Control], queue: str) -> Wanted:
        configured = self._configured.get(queue)

        return controls.wanted(everything, queue, None if configured is None else configured.limit)

    def _conform(self) -> None:
        if self._ending:
            return

        everything = [*self._rows, *self._heard]

        for name in {*self._configured, *self._members, *controls.queues_started(everything)}:
            wanted = self._wanted(everything, name)
            member = self._members.get(name)

            if member is None:
                if wanted.running and len(self._members) < MOST_QUEUES:
                    self._add(name, wanted)
                    telemetry.emit("oban.queue.started", {"queue": name, "limit": wanted.limit})
                    log.info("queue %r started with limit %d", name, wanted.limit)
            elif not wanted.running:
                self._remove(name)
            elif member.wanted != wanted:
                self._change(member, wanted)

        if self._begun:
            self._start_threads()

    def _start_threads(self) -> None:
        for name, member in self._members.items():
            if not member.producer.started:
                try:
                    member.producer.start()
                except RuntimeError as error:
                    # The system gives no more threads for now; the next beat tries again.
                    log.warning("queue %r cannot be started yet: %s", name, error)

    def _add(self, name: str, wanted: Wanted) -> _Member:
        configured = self._configured.get(name, QueueConfig(name, wanted.limit))
        producer = self._make(replace(configured, limit=wanted.limit))
        member = _Member(producer, utc_now(), wanted)
        self._members[name] = member

        if wanted.paused:
            producer.pause(True)

        return member

    def _remove(self, name: str) -> None:
        member = self._members.pop(name)
        self._leaving.append(member)
        # Without an end to the flushing: as long as the node lives, nobody else would rescue what
        # this producer could not write.
        member.producer.drain(deadline=time.monotonic() + self._grace, flush_deadline=float("inf"))
        telemetry.emit("oban.queue.stopped", {"queue": name})
        log.info("queue %r stops; running jobs get %g seconds", name, self._grace)

    def _change(self, member: _Member, wanted: Wanted) -> None:
        name = member.producer.queue.name
        before, member.wanted = member.wanted, wanted

        if before.limit != wanted.limit:
            member.producer.scale(wanted.limit)
            telemetry.emit("oban.queue.scaled", {"queue": name, "limit": wanted.limit})
            log.info("queue %r has limit %d now, %d before", name, wanted.limit, before.limit)

        if before.paused != wanted.paused:
            member.producer.pause(wanted.paused)
            by = wanted.pause.by if wanted.pause is not None else None
            event = "oban.queue.paused" if wanted.paused else "oban.queue.resumed"
            telemetry.emit(event, {"queue": name, "by": by})
            done = "paused" if wanted.paused else "resumed"
            log.info("queue %r %s%s", name, done, f" by {by}" if by else "")

    def _everybody(self) -> Iterable[_Member]:
        return [*self._members.values(), *self._leaving]

    def _info(self, member: _Member) -> QueueInfo:
        pause = member.wanted.pause

        return QueueInfo(
            queue=member.producer.queue.name,
            name=self._name,
            node=self._node,
            limit=member.wanted.limit,
            paused=member.wanted.paused,
            running=member.producer.running,
            started_at=member.started_at,
            uuid=member.producer.uuid,
            paused_by=None if pause is None else pause.by,
            paused_at=None if pause is None else pause.at,
            paused_until=None if pause is None else pause.until,
            stopping=member.producer.stopping,
            retired=member.producer.retired,
        )
