"""The children of a process queue: some ready, some with a job, some on their way in or out."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Condition, Thread

from oban_sync.core.job import Job
from oban_sync.runtime.children import END_PERIOD, Child, Fate

log = logging.getLogger("oban_sync.runtime")

#: Seconds until a child is started again after one could not be; doubles up to the longest.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0


class ChildPool:
    """Keeps up to `limit` children ready, and lends each to one job at a time.

    A thread of its own, the keeper, starts children before they are needed and sees off those that
    are not. Slots' threads, which come with jobs, start one by themselves when none is ready or
    about to be, so that nothing depends on the keeper. All methods may be called from any thread.

    Args:
        name: The queue's name.
        limit: Most children.
        most_jobs: A child is replaced after so many jobs.
        start: Starts a child.
    """

    def __init__(
        self, name: str, limit: int, *, most_jobs: int | None, start: Callable[[], Child]
    ) -> None:
        self._name = name
        self._limit = limit
        self._most_jobs = most_jobs
        self._start = start
        #: Guards all below, and is notified of every change.
        self._changed = Condition()
        self._idle: list[Child] = []
        self._busy: dict[Job, Child] = {}
        #: Jobs that have come, and those among them that are being handed back.
        self._present: set[Job] = set()
        self._abandoned: set[Job] = set()
        #: Asked to end, each with the moment at which it is killed.
        self._leaving: list[tuple[Child, float]] = []
        #: On their way, begun by the keeper before anybody asks, and by slots for a job.
        self._warming = 0
        self._starting = 0
        self._young: set[Child] = set()
        self._waiting = 0
        self._failures = 0
        self._not_before = 0.0
        self._closed = False
        self._keeper: Thread | None = None

    def open(self) -> None:
        """Start children, up to the limit, in the background."""
        with self._changed:
            if self._keeper is None and not self._closed:
                name = f"oban-{self._name}-children"
                keeper = Thread(target=self._keep, name=name, daemon=True)
                # Without threads to be had, the slots start children by themselves.
                with suppress(RuntimeError):
                    keeper.start()
                    self._keeper = keeper

    def resize(self, limit: int) -> None:
        """Have so many children from now on; too many end when they are idle."""
        with self._changed:
            self._limit = limit

            while self._idle and self._size > limit:
                self._dismiss(self._idle.pop(0))

            self._changed.notify_all()

    def arrived(self, job: Job) -> bool:
        """Note a job that is about to ask for a child; tell whether it may."""
        with self._changed:
            # Handed back before it came here, as far as anybody can tell.
            if job.is_disowned:
                return False

            self._present.add(job)

            return True

    def left(self, job: Job) -> None:
        """Forget a job."""
        with self._changed:
            self._present.discard(job)
            self._abandoned.discard(job)

    def is_handed_back(self, job: Job) -> bool:
        """Whether what a job comes to is nobody's business any more."""
        with self._changed:
            return self._closed or job in self._abandoned

    def wants(self, job: Job) -> bool:
        """Whether a job that no child has begun is still to be begun."""
        return not (self.is_handed_back(job) or job.cancelled())

    def take(self, job: Job, until: float | None = None) -> Child | None:
        """A child for a job; None when the job is not to be begun any more.

        Args:
            job: The job.
            until: When that is the case at the latest, on the monotonic clock.

        Raises:
            NoChildError: There is none, and none can be started.
        """
        with self._changed:
            while True:
                left = None if until is None else until - time.monotonic()

                if not self.wants(job) or (left is not None and left <= 0.0):
                    return None

                if (child := self._pop_idle()) is not None:
                    self._busy[job] = child

                    return child

                if self._warming > self._waiting:
                    self._waiting += 1
                    self._changed.wait(left)
                    self._waiting -= 1
                elif (pause := self._not_before - time.monotonic()) > 0.0:
                    self._changed.wait(pause if left is None else min(pause, left))
                else:
                    break

            self._starting += 1

        return self._start_for(job, until)

    def _start_for(self, job: Job, until: float | None) -> Child:
        try:
            child = self._start()
        except BaseException:
            with self._changed:
                self._starting -= 1
                self._note_failure()

            raise

        with self._changed:
            self._starting -= 1
            self._busy[job] = child

            if self._closed or job in self._abandoned:
                child.stop(Fate.ABANDONED)
            elif job.cancelled():
                child.stop(Fate.CANCELLED)

        try:
            child.await_ready(until)
        except BaseException:
            with self._changed:
                del self._busy[job]

                if child.fate is None:
                    self._note_failure()
                else:
                    # The keeper may start another, and has all the time that this takes.
                    self._changed.notify_all()

            raise

        self._note_success()

        return child

    def give_back(self, job: Job, child: Child) -> None:
        """Take a child back from a job; one that ended or was stopped is gone afterwards."""
        lost = None

        with self._changed:
            del self._busy[job]

            if not child.usable or self._closed:
                lost = child
            elif self._size >= self._limit or child.jobs == self._most_jobs:
                self._dismiss(child)
            else:
                self._idle.append(child)

        if lost is not None:
            lost.reap()

        with self._changed:
            # Only now: a new child begins when the old one is gone.
            self._changed.notify_all()

    def stop(self, job: Job, fate: Fate) -> None:
        """Stop the child of a job, now or when it has one; returns at once."""
        with self._changed:
            if fate is Fate.ABANDONED and job in self._present:
                self._abandoned.add(job)

            if (child := self._busy.get(job)) is not None:
                child.stop(fate)

            self._changed.notify_all()

    def close(self) -> None:
        """Let all children end, and kill those that still run a job; returns at once."""
        with self._changed:
            self._closed = True

            for child in self._idle:
                self._dismiss(child)

            for child in (*self._busy.values(), *self._young):
                child.stop(Fate.ABANDONED)

            self._idle.clear()
            self._changed.notify_all()

    def join(self, deadline: float) -> bool:
        """Wait until `deadline` on the monotonic clock; tell whether all idle children have ended.

        Children with a job end with the slot's thread that waits for it.
        """
        if (keeper := self._keeper) is not None:
            keeper.join(max(0.0, deadline - time.monotonic()))

        return keeper is None or not keeper.is_alive()

    def pids(self) -> list[int]:
        """The process ids of the children that run, or wait for, a job."""
        with self._changed:
            return sorted(child.pid for child in (*self._idle, *self._busy.values()))

    @property
    def _size(self) -> int:
        return len(self._idle) + len(self._busy) + self._warming + self._starting

    @property
    def _missing(self) -> int:
        """How many to start before anybody asks; none while starts fail, which jobs find out."""
        return 0 if self._closed or self._failures else max(0, self._limit - self._size)

    def _pop_idle(self) -> Child | None:
        while self._idle:
            if (child := self._idle.pop()).usable:
                return child

            self._leaving.append((child, 0.0))
            self._changed.notify_all()

        return None

    def _dismiss(self, child: Child) -> None:
        child.ask_to_end()
        self._leaving.append((child, time.monotonic() + END_PERIOD))

    def _note_failure(self) -> None:
        now = time.monotonic()

        # Those that fail together count once.
        if now >= self._not_before:
            self._failures += 1
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures - 1, 10))
            self._not_before = now + pause

        self._changed.notify_all()

    def _note_success(self) -> None:
        with self._changed:
            self._failures = 0
            self._not_before = 0.0
            self._changed.notify_all()

    # The keeper's thread

    def _keep(self) -> None:
        """Have children ready before they are needed, and see those off that are not."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._leaving or self._missing)
                leaving, self._leaving = self._leaving, []
                missing = min(self._missing, os.cpu_count() or 1)
                self._warming += missing

                if self._closed and not leaving:
                    return

            for child, until in leaving:
                child.end(until)

            self._warm(missing)

    def _warm(self, count: int) -> None:
        children = []

        for _ in range(count):
            try:
                children.append(child := self._start())
            except Exception as error:
                self._warm_failed(error)

                continue

            with self._changed:
                self._young.add(child)

                if self._closed:
                    child.stop(Fate.ABANDONED)

        for child in children:
            try:
                child.await_ready()
            except Exception as error:
                self._warm_failed(error, child)
            else:
                with self._changed:
                    self._warming -= 1
                    self._young.discard(child)

                    if self._closed or self._size >= self._limit:
                        self._dismiss(child)
                    else:
                        self._idle.append(child)

                self._note_success()

    def _warm_failed(self, error: Exception, child: Child | None = None) -> None:
        with self._changed:
            self._warming -= 1
            closed = self._closed

            if child is not None:
                self._young.discard(child)

            self._note_failure()

        if not closed:
            log.error("queue %r has no child process for now: %s", self._name, error)
