"""The places of a queue on this node: a ThreadPoolExecutor whose threads live as long as the queue.

One `submit` per thread, not per job: the thread then takes jobs from a queue of its own, because
handing a job through the executor costs more than a short job itself.
"""

from __future__ import annotations

import concurrent.futures.thread
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from queue import SimpleQueue
from threading import Event, Thread, current_thread

from oban_sync.core.job import Job

log = logging.getLogger("oban_sync.runtime")


class EndingError(Exception):
    """The interpreter is ending."""


class Slots:
    """Run jobs on up to `limit` threads.

    All methods but `retire` and `retired` are for the producer's thread alone.

    Args:
        name: The queue's name, for the threads' names.
        limit: Most threads.
        run: Called with each job on one of the threads, each time in a context of its own: what a
            job sets there, as its tenant, is not the next one's.
        on_return: Called on a retired thread whose job has returned.
    """

    def __init__(
        self,
        name: str,
        limit: int,
        run: Callable[[Job], None],
        *,
        on_return: Callable[[], None] = lambda: None,
    ) -> None:
        self._name = f"oban-{name}"
        self._executor = ThreadPoolExecutor(limit, thread_name_prefix=self._name)
        self._batches: SimpleQueue[deque[Job] | None] = SimpleQueue()
        self._limit = limit
        self._run = run
        self._on_return = on_return
        self._serving = 0
        self._pid = os.getpid()
        self._threads: list[Thread] = []
        self._retired: set[Thread] = set()

    @property
    def retired(self) -> int:
        """How many threads were given up and have not returned; callable from any thread."""
        return len(self._retired)

    @property
    def size(self) -> int:
        """How many threads there are."""
        return self._serving

    def grow(self, size: int) -> None:
        """See that there are that many threads; never more than the limit.

        Raises:
            EndingError: The interpreter is ending, and gives no more threads.
            RuntimeError: The system gives no more threads for now.
        """
        while self._serving < size:
            self._start_thread()
            self._serving += 1

    def resize(self, limit: int) -> None:
        """Have up to another number of threads from now on; too many end when they are free."""
        self._limit = limit
        self._renew()

        while self._serving > limit:
            self._batches.put(None)
            self._serving -= 1

    def retire(self, thread: Thread) -> None:
        """Give up a thread that runs a job: it ends when that returns.

        Callable from any thread, as long as the job cannot return meanwhile. `replace` has to
        follow.
        """
        self._retired.add(thread)

    def replace(self) -> None:
        """Let another thread, once one is needed, have the place of one that was retired."""
        self._serving -= 1
        self._renew()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Hand jobs to threads, of which as many have to be free; the most urgent first."""
        self._batches.put(deque(jobs))

    def close(self) -> None:
        """Let each thread end when its job does; return at once."""
        for _ in range(self._serving):
            self._batches.put(None)

        self._executor.shutdown(wait=False)

    def join(self, deadline: float) -> bool:
        """Wait until `deadline` on the monotonic clock; tell whether all threads have ended."""
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

        return not any(thread.is_alive() for thread in self._threads)

    def runs_on(self, thread: Thread) -> bool:
        """Whether this is one of the threads."""
        return thread in self._threads

    def _renew(self) -> None:
        # An executor keeps its size. The threads of the old one serve on: they take from our own
        # queue, and know of no executor.
        self._executor.shutdown(wait=False)
        self._executor = ThreadPoolExecutor(self._limit, thread_name_prefix=self._name)
        self._threads = [thread for thread in self._threads if thread.is_alive()]

    def _start_thread(self) -> None:
        submitted = Event()
        stays: SimpleQueue[bool] = SimpleQueue()

        try:
            self._executor.submit(self._serve, submitted, stays)
        except RuntimeError as error:
            if getattr(concurrent.futures.thread, "_shutdown", False):
                raise EndingError(str(error)) from error

            raise
        finally:
            # Also when no thread could be started: the next one will find this in the queue.
            submitted.set()

        if not stays.get():
            raise EndingError("the interpreter is ending")

    def _serve(self, submitted: Event, stays: SimpleQueue[bool]) -> None:
        thread = current_thread()
        self._threads.append(thread)
        # The executor registers a thread after starting it: before that, nothing can be undone.
        submitted.wait()
        _leave_to_its_fate(thread)

        # Had the exit begun before, it may wait for this thread already, which then has to end.
        ending = bool(getattr(concurrent.futures.thread, "_shutdown", False))
        stays.put(not ending)

        if ending:
            return

        while (batch := self._batches.get()) is not None:
            self._serve_batch(batch)

            if thread in self._retired:
                self._retired.discard(thread)
                self._on_return()

                return

    def _serve_batch(self, batch: deque[Job]) -> None:
        passed_on = False

        while batch:
            try:
                job = batch.popleft()
            except IndexError:
                # Another thread was faster.
                return

            if batch and not passed_on:
                # Wakes one more thread, which does the same. Of short jobs this thread may run
                # all, and a wake for each of them would cost more than they do.
                self._batches.put(batch)
                passed_on = True

            try:
                Context().run(self._run, job)
            except BaseException:
                # Nothing gets here by design; and a slot lost for good would be worse.
                log.exception("a slot failed while running %r", job)

            if os.getpid() != self._pid:
                # A copy of the process, forked by what ran just now, serves nobody.
                os._exit(1)

            if self._retired and current_thread() in self._retired:
                # The rest was passed on before.
                return


def _leave_to_its_fate(thread: Thread) -> None:
    """Keep the interpreter from waiting for this thread when it exits.

    concurrent.futures joins its threads at exit without a bound, so a job that never returns would
    keep the process alive for ever. `Oban` stops at exit within its grace period instead.
    """
    registered = getattr(concurrent.futures.thread, "_threads_queues", {})
    registered.pop(thread, None)
