"""Stops the jobs of a queue whose time is up, by the steps of its escalation."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from queue import Empty, SimpleQueue
from threading import Lock, Thread

from oban_sync import telemetry
from oban_sync.core.errors import JobInterrupt
from oban_sync.core.escalation import Escalation
from oban_sync.core.job import CURRENT, Job
from oban_sync.core.outcome import Outcome
from oban_sync.engine.cancelling import Connections
from oban_sync.runtime.executor import Bound, overrun, report
from oban_sync.runtime.interrupts import Stretch
from oban_sync.runtime.loop import Loop

log = logging.getLogger("oban_sync.runtime")

#: Seconds between exceptions raised in a thread that swallows them; later they become rarer.
REPEAT = 0.25
LONGEST_REPEAT = 5.0

#: Seconds between looks whether the requests to cancel statements have ended.
PATIENCE = 0.05

#: Seconds that the backoff and the policy of a job get that was given up.
DECISION_PERIOD = 2.0

#: Ended runs that may lie among the watched ones before these are sorted anew.
MOST_ENDED = 100

#: Without a run to watch nothing is due; and a new one wakes the loop.
IDLE_INTERVAL = 3_600.0


class Run:
    """One run of a job whose time is limited. Made by the thread that runs it.

    Attributes:
        job: The job.
        bound: How long it may take.
        started: When it began, in nanoseconds on the monotonic clock.
        stretch: The job's own code, at work.
        connections: What it told of its connections.
        thread: Its thread.
        expired: Its time is up, and it was asked to stop.
        lost: It was given up; what it comes to later is nobody's business.
        settled: What it came to, once nothing changes that any more: it is in its row, or the
            job's own code has ended.
    """

    __slots__ = (
        "bound",
        "connections",
        "expired",
        "job",
        "lost",
        "settled",
        "started",
        "stretch",
        "thread",
    )

    def __init__(self, job: Job, bound: Bound, thread: Thread) -> None:
        self.job = job
        self.bound = bound
        self.thread = thread
        self.started = time.monotonic_ns()
        self.stretch = Stretch(JobInterrupt)
        self.connections = Connections(self.stretch)
        self.expired = False
        self.lost = False
        self.settled: Outcome | None = None

    def settle(self, outcome: Outcome) -> None:
        """Keep what it came to, whatever is raised into it from now on."""
        self.settled = outcome

    def expire(self) -> None:
        """Ask the job to stop."""
        self.expired = True
        self.job.ask_to_stop(timed_out=not self.bound.forced)


class _Watch:
    """Where a run stands on the ladder.

    Attributes:
        run: The run.
        steps: Those yet to come, the next one last, each with the seconds from the timeout.
        up_at: When its time is up, on the monotonic clock.
        interrupt_at: When to raise the exception again.
        pause: Seconds until the time after that.
        interrupted: It was raised once.
        ended: Nothing is to be done any more.
    """

    __slots__ = ("ended", "interrupt_at", "interrupted", "pause", "run", "steps", "up_at")

    def __init__(self, run: Run, steps: list[Step]) -> None:
        self.run = run
        self.steps = steps
        self.up_at = run.started / 1e9 + run.bound.seconds
        self.interrupt_at = math.inf
        self.pause = REPEAT
        self.interrupted = False
        self.ended = False

    @property
    def due(self) -> float:
        """When there is something to do."""
        return min(self.up_at + self.steps[-1][0] if self.steps else math.inf, self.interrupt_at)


Step = tuple[float, Callable[[_Watch], None]]


class Timekeeper(Loop):
    """Watch runs, and climb the ladder for each whose time is up until it ends.

    The thread starts with the first run. It waits for nothing but time: what may take longer is
    done on threads of its own.

    Args:
        queue: The queue's name.
        escalation: The steps.
        retire: Called with a run that is given up, while it cannot end; must return at once.
        told: Called with what a run came to that was given up.
    """

    def __init__(
        self,
        queue: str,
        escalation: Escalation,
        *,
        retire: Callable[[Run], None],
        told: Callable[[Outcome], None],
    ) -> None:
        super().__init__(f"timekeeper-{queue}", interval=IDLE_INTERVAL)
        self._retire = retire
        self._told = told
        self._lock = Lock()
        self._heap: list[tuple[float, int, _Watch]] = []
        self._numbers = count()
        self._ended = 0
        self._cancels = escalation.cancel_sql is not None
        self._steps: list[Step] = [
            (after, step)
            for after, step in (
                (escalation.replace, self._replace),
                (escalation.interrupt, self._interrupt),
                (escalation.cancel_sql, self._cancel_sql),
                (0.0, self._flag),
            )
            if after is not None
        ]

    def watch(self, run: Run) -> Callable[[], None]:
        """Watch a run from now on.

        Returns:
            To be called once it has ended.

        Raises:
            RuntimeError: The system gives no thread for it.
        """
        watch = _Watch(run, self._steps.copy())

        with self._lock:
            if not self.started:
                self.start()

            self._push(watch)
            is_first = self._heap[0][-1] is watch

        if is_first:
            self.wake()

        return partial(self._forget, watch)

    def tick(self) -> float | None:
        """Take every step that is due."""
        while not self.stopping:
            with self._lock:
                while self._heap and self._heap[0][-1].ended:
                    heappop(self._heap)
                    self._ended -= 1

                if not self._heap:
                    return None

                if (pause := self._heap[0][0] - time.monotonic()) > 0.0:
                    return pause

                watch = heappop(self._heap)[-1]

            self._climb(watch)

            with self._lock:
                if watch.due < math.inf:
                    self._push(watch)

        return None

    def _push(self, watch: _Watch) -> None:
        heappush(self._heap, (watch.due, next(self._numbers), watch))

    def _forget(self, watch: _Watch) -> None:
        with self._lock:
            watch.ended = True
            self._ended += 1

            # Most runs end long before their time, and would pile up until then.
            if self._ended > MOST_ENDED and self._ended > len(self._heap) / 2:
                self._heap = [item for item in self._heap if not item[-1].ended]
                heapify(self._heap)
                self._ended = 0

    def _climb(self, watch: _Watch) -> None:
        now = time.monotonic()

        while watch.steps and watch.up_at + watch.steps[-1][0] <= now:
            _, step = watch.steps.pop()
            _guarded(watch, step)

        if watch.interrupt_at <= now:
            watch.interrupt_at = now + watch.pause
            _guarded(watch, self._raise)

    # The steps

    def _flag(self, watch: _Watch) -> None:
        run = watch.run

        if run.stretch.unless_ended(run.expire):
            self._say(run, "flag", f"is asked to stop: {run.bound.problem}")

    def _cancel_sql(self, watch: _Watch) -> None:
        run = watch.run

        if run.connections.any and not run.connections.busy:
            run.connections.expect_cancel()
            self._aside(partial(_cancel, run))

    def _interrupt(self, watch: _Watch) -> None:
        watch.interrupt_at = 0.0

        if self._cancels:
            # Once more, for what was begun since: no exception gets through to a long statement.
            self._cancel_sql(watch)

    def _raise(self, watch: _Watch) -> None:
        run = watch.run

        # The exception may keep a block from waiting for a request that is on its way, which would
        # then hit whoever has the connection next.
        if run.connections.busy and not run.lost:
            watch.interrupt_at = time.monotonic() + PATIENCE

            return

        run.connections.close()

        if not run.stretch.interrupt():
            watch.interrupt_at = math.inf

            return

        if run.lost:
            watch.pause = min(2 * watch.pause, LONGEST_REPEAT)

        if not watch.interrupted:
            watch.interrupted = True
            self._say(run, "interrupt")

    def _replace(self, watch: _Watch) -> None:
        run = watch.run
        stack = run.stretch.stack()

        if run.stretch.unless_ended(partial(self._give_up, run)):
            self._aside(partial(self._conclude, run, stack))
            self._say(run, "replace", "does not stop: its thread is given up")

    def _give_up(self, run: Run) -> None:
        run.lost = True
        run.job.disowned()
        self._retire(run)

    def _conclude(self, run: Run, stack: str) -> None:
        below = f"It did not stop, and its thread was given up here:\n{stack}"
        outcome = (
            run.settled
            or self._decided(run, below)
            or overrun(
                run.job,
                run.bound,
                f"{below}\nAnd its backoff or policy did not answer, so the default was used.",
                plain=True,
            )
        )
        outcome.duration_ns = time.monotonic_ns() - run.started
        token = CURRENT.set(run.job)

        try:
            self._told(outcome)
            report(run.job, outcome, run.started)
        finally:
            CURRENT.reset(token)

    def _decided(self, run: Run, below: str) -> Outcome | None:
        """What the job comes to by its backoff or policy; None when these do not return."""
        decided: SimpleQueue[Outcome] = SimpleQueue()

        def decide() -> None:
            token = CURRENT.set(run.job)

            try:
                decided.put(overrun(run.job, run.bound, below))
            finally:
                CURRENT.reset(token)

        try:
            self._begin(decide)

            return decided.get(timeout=DECISION_PERIOD)
        except (Empty, RuntimeError):
            # Too late, or there are no more threads.
            return None

    def _say(self, run: Run, step: str, text: str = "") -> None:
        # Aside: a handler of the application's may wait, even for the very job that is stuck in it.
        self._aside(partial(_announce, run, step, text))

    def _aside(self, work: Callable[[], None]) -> None:
        """Do what may take long, by code of the application or over the network."""
        try:
            self._begin(work)
        except RuntimeError:
            # There are no more threads: late is better than never.
            work()

    def _begin(self, work: Callable[[], None]) -> None:
        Thread(target=work, name=f"oban-{self.name}-aside", daemon=True).start()


def _guarded(watch: _Watch, step: Callable[[_Watch], None]) -> None:
    try:
        step(watch)
    except BaseException:
        log.exception("a step against %r failed, and is left out", watch.run.job)


def _cancel(run: Run) -> None:
    if run.connections.cancel():
        _tell(run, "cancel_sql")


def _announce(run: Run, step: str, text: str) -> None:
    if text:
        log.warning("%r %s", run.job, text)

    _tell(run, step)


def _tell(run: Run, step: str) -> None:
    telemetry.emit(
        "oban.job.timeout",
        {"job": run.job, "step": step, "elapsed": time.monotonic_ns() - run.started},
    )
