"""The thread of one queue: it takes jobs, feeds the slots, and writes what the jobs came to.

Everything that can change a queue's state comes as a message through one mailbox: a finished job's
outcome, a wake, or an order. The producer waits on it, empties it, and runs one statement that
writes the outcomes and takes as many jobs as slots are free. While it waits for PostgreSQL more
jobs finish, so writes gather into batches by themselves.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread

from oban_sync import telemetry
from oban_sync.core.config import QueueConfig, new_identity
from oban_sync.core.job import Job
from oban_sync.core.lease import Lease
from oban_sync.core.outcome import Outcome
from oban_sync.engine import ack, fetch
from oban_sync.engine.session import Db
from oban_sync.runtime.bell import Bell
from oban_sync.runtime.doubts import RETRY_PAUSE, Doubts
from oban_sync.runtime.executor import execute, refuse, report_fenced
from oban_sync.runtime.host import PLAIN, Host
from oban_sync.runtime.loop import Loop
from oban_sync.runtime.runner import Runner, ThreadRunner
from oban_sync.runtime.slots import EndingError, Slots
from oban_sync.runtime.tally import Tallies
from oban_sync.runtime.timekeeper import Run, Timekeeper
from oban_sync.runtime.turns import report_turn

log = logging.getLogger("oban_sync.runtime")

#: Seconds between looks at the queue without any reason; the stager's wakes make it a formality.
IDLE_INTERVAL = 30.0

#: Seconds a stop waits for threads whose jobs were handed back, in case they are about to end.
LINGER = 0.5


class Producer(Loop):
    """Run one queue on this node.

    `wake` makes it look for jobs, and `admit` lets it take some at all. `quiet` makes it take no
    more. `drain` stops it: running jobs may finish until one deadline, then the others are handed
    back, and what is unwritten is tried until a second one. It takes none while it is paused, or
    while the node's lease has ended.
    """

    def __init__(
        self,
        queue: QueueConfig,
        db: Db,
        *,
        node: str,
        lease: Lease,
        runner: Runner | None = None,
        host: Host = PLAIN,
        tallies: Tallies | None = None,
    ) -> None:
        super().__init__(f"queue-{queue.name}", interval=IDLE_INTERVAL)
        self.queue = queue
        self.uuid = new_identity()
        self._db = db
        self._lease = lease
        self._claim = fetch.Claim(queue.name, node, self.uuid, lease=lease, limits=queue.limits)
        self._mailbox: SimpleQueue[Outcome | Callable[[], None] | None] = SimpleQueue()
        self._tally = None if tallies is None else tallies.open(queue.name, self._mailbox.put)
        self._runner = self._on_threads(host) if runner is None else runner
        self._refusal = queue.limits.refusal if queue.limits.any else None
        self._limit = queue.limit
        self._admitted = False
        self._paused = False
        self._unverified: list[Job] = []
        self._slots = Slots(queue.name, queue.limit, self._execute, on_return=self.wake)
        self._running: set[Job] = set()
        self._lost: set[Job] = set()
        self._outcomes: list[Outcome] = []
        self._hungry = True
        self._to_report = self._quiet = False
        self._careful = False
        self._doubts = Doubts()
        self._bell = Bell(db, self.uuid)
        self._again_at = 0.0
        self._drain_deadline = float("inf")
        self._flush_deadline = float("inf")

    def wake(self) -> None:
        """Look for jobs; callable from any thread."""
        self._mailbox.put(None)

    def admit(self) -> None:
        """Let it take jobs: the cluster knows whose they will be."""
        self._mailbox.put(self._admit)

    def pause(self, paused: bool) -> None:
        """Take no more jobs, or take them again; running ones go on."""
        self._mailbox.put(partial(self._pause_or_resume, paused))

    def scale(self, limit: int) -> None:
        """Run so many jobs at once; a lower limit is reached as jobs finish."""
        self._mailbox.put(partial(self._scale, limit))

    def cancel(self, job_ids: Sequence[int]) -> None:
        """Ask those of these jobs to stop that run here."""
        self._mailbox.put(partial(self._cancel, frozenset(job_ids)))

    def reconnected(self) -> None:
        """Notifications may have been lost, and with a fail-over what the row says of the bell."""
        self._mailbox.put(self._reconnected)

    def _reconnected(self) -> None:
        self._hungry = True
        self._bell.distrust()

    def verify(self) -> None:
        """Look which of the running jobs are still this producer's."""
        self._mailbox.put(self._suspect)

    def quiet(self) -> None:
        """Take no more jobs."""
        self._quiet = True

    @property
    def running(self) -> list[int]:
        """The ids of the jobs that run at this moment; callable from any thread."""
        return sorted(job.key[0] for job in self._running.copy())

    @property
    def retired(self) -> int:
        """How many threads were given up, with jobs that have not returned; as `running`."""
        return self._slots.retired

    @property
    def settled(self) -> bool:
        """Whether the thread ended, or never began, and no job of it is left executing."""
        owes = self._running or self._outcomes or self._doubts.until

        return not self.alive and not owes

    def drain(self, *, deadline: float, flush_deadline: float) -> None:
        """Stop: let jobs finish until `deadline`, then hand them back; give up at the other one.

        Both are on the monotonic clock. A second call may bring them forward.
        """
        self._quiet = True
        self._drain_deadline = min(deadline, self._drain_deadline)
        self._flush_deadline = min(flush_deadline, self._flush_deadline)
        self.request_stop()

    def join(self, deadline: float) -> bool:
        """As `Loop.join`, with the threads of jobs that have ended."""
        # Slots without a job end at once; the others have been given up, and may never end.
        if not super().join(deadline):
            return False

        # With the whole time there is: child processes are not left behind.
        ended = self._runner.join(deadline)

        return self._slots.join(min(deadline, time.monotonic() + LINGER)) and ended

    def runs_on(self, thread: Thread) -> bool:
        """Whether this is the producer's thread, or that of one of its jobs."""
        return super().runs_on(thread) or self._slots.runs_on(thread)

    @property
    def finished(self) -> bool:
        """Whether the producer stopped and owes nothing."""
        if not self.stopping:
            return False

        return (not self._running and not self._outcomes and self._mailbox.empty()) or (
            time.monotonic() >= self._flush_deadline
        )

    def opened(self) -> None:
        """Let the runner prepare itself."""
        self._runner.open()

    def tick(self) -> float | None:
        """Write what finished and take what fits."""
        self._empty_mailbox()

        if 0.0 < self._again_at <= time.monotonic():
            self._again_at, self._hungry = 0.0, True

        if self.stopping and self._running and time.monotonic() >= self._drain_deadline:
            self._hand_back(sorted(self._running, key=lambda job: job.key))

        if not self._quiet and self._bell.is_due:
            self._hungry = True
            self._bell.tend()

        demand = self._demand()

        if self._unverified:
            self._verify()

        due = self._outcomes or self._to_report or self._doubts.due

        if due or (self._hungry and demand > 0):
            self._turn(demand)

        return self._pause()

    def closed(self) -> None:
        """Let the slots go, and say what could not be written."""
        self._db.give_back()
        self._slots.close()
        self._runner.close()

        if self._tally is not None:
            self._tally.close()

        if self._running or self._outcomes:
            left = [*self._running, *(outcome.job for outcome in self._outcomes)]
            log.error(
                "queue %r stopped with %d jobs neither finished nor handed back, "
                "which run again when they are rescued: %s",
                self.queue.name,
                len(left),
                ", ".join(str(job.key[0]) for job in left[:20]),
            )

    def _demand(self) -> int:
        closed = self._quiet or self._paused or not self._admitted or self._lease.ended

        if closed:
            return 0

        # Beyond the most that are replaced, a thread that was given up keeps its place.
        taken = max(0, self._slots.retired - self.queue.escalation.most_replaced)

        return max(0, self._limit - len(self._running) - taken)

    def _execute(self, job: Job) -> None:
        # On a slot's thread: the only thing it touches of the producer is the mailbox.
        # A job that was handed back before it began is somebody else's.
        if job.is_disowned:
            return

        if self._refusal is not None and (reason := self._refusal(job)) is not None:
            self._mailbox.put(execute(job, perform=partial(refuse, reason)))
        elif (outcome := self._runner.run(job)) is not None:
            self._mailbox.put(outcome)

    def _on_threads(self, host: Host) -> Runner:
        queue = self.queue
        keeper = Timekeeper(
            queue.name, queue.escalation, retire=self._retire, told=self._mailbox.put
        )

        return ThreadRunner(keeper, host)

    def _retire(self, run: Run) -> None:
        # On the timekeeper's thread, and while the job cannot return.
        self._slots.retire(run.thread)
        self._mailbox.put(partial(self._replace, run.job))

    def _replace(self, job: Job) -> None:
        self._lost.add(job)
        self._slots.replace()

    def _turn(self, demand: int) -> None:
        self._hungry = self._to_report = False
        outcomes = self._outcomes
        generation = self._lease.generation
        started = time.monotonic_ns()

        try:
            if self._doubts.until:
                self._reconcile()

            turn = fetch.turn(
                self._db,
                self._claim,
                outcomes,
                demand,
                running=self._running,
                carefully=self._careful,
            )
        except BaseException:
            # The outcomes stay, and are written by a later turn. What was taken is unknown.
            self._hungry = self._to_report = True
            self._doubts.begin()
            raise

        # Room under a limit of time comes by itself, and nobody will say so.
        self._again_at = 0.0 if turn.again_in is None else time.monotonic() + turn.again_in
        self._outcomes = turn.left
        self._careful = bool(turn.left)
        self._doubts.gave_up(turn.refused)
        self._bell.looked(demand, len(turn.jobs))

        if turn.jobs and not self._lease.covers(generation):
            # The lease ended while they were on their way, and others may have been given them.
            self._undo(turn.jobs)
        elif turn.jobs:
            self._dispatch(turn.jobs)

        report_turn(
            self.queue.name,
            turn,
            outcomes=outcomes,
            demand=demand,
            running=self._running,
            started=started,
        )

    def _dispatch(self, jobs: list[Job]) -> None:
        busy = len(self._running)
        self._running.update(jobs)

        try:
            self._slots.grow(len(self._running))
            self._slots.submit(jobs)
        except BaseException as error:
            room = max(0, self._slots.size - busy)
            self._slots.submit(jobs[:room])

            if isinstance(error, EndingError):
                self._quiet = True
                log.info("queue %r takes no more jobs: %s", self.queue.name, error)

            self._undo(jobs[room:])

            if not isinstance(error, EndingError):
                raise

    def _undo(self, jobs: list[Job]) -> None:
        """Give back jobs that were taken and not begun."""
        # What cannot be given back now is found later, as after a fetch that was cut off.
        self._running.difference_update(jobs)
        self._doubts.begin()
        self._hungry = True
        self._hand_back(jobs, level=logging.INFO)

    def _reconcile(self) -> None:
        self._doubts.reconcile(
            self._db,
            queue=self.queue.name,
            owner=self.uuid,
            running=self._running,
            outcomes=self._outcomes,
        )

    def _hand_back(self, jobs: list[Job], *, level: int = logging.WARNING) -> None:
        # Before the row is let go: no slot must begin what another node begins.
        for job in jobs:
            job.disowned()
            self._runner.abandon(job)

        busy = set(ack.release(self._db, jobs, owner=self.uuid))
        back = [job for job in jobs if job not in busy]
        self._running.difference_update(back)

        if back:
            log.log(
                level,
                "queue %r handed back unfinished jobs: %s",
                self.queue.name,
                ", ".join(f"{job.key[0]} ({job.worker!r})" for job in back[:20]),
            )
            telemetry.emit("oban.producer.release", {"queue": self.queue.name, "jobs": back})

    def _empty_mailbox(self) -> None:
        try:
            while True:
                self._note(self._mailbox.get_nowait())
        except Empty:
            return

    def _note(self, message: Outcome | Callable[[], None] | None) -> None:
        if message is None:
            self._hungry = True
            self._bell.rung()
        elif not isinstance(message, Outcome):
            message()
        elif message.job in self._running:
            self._lost.discard(message.job)
            self._running.remove(message.job)

            if message.written is None:
                self._outcomes.append(message)
            else:
                self._settled(message)

            if self._tally is not None:
                self._tally.count(message)
        # Otherwise the job was handed back while it ran: its row is somebody else's.

    def _settled(self, outcome: Outcome) -> None:
        """Note one that is in its row, or will never be: only its slot is to be had again."""
        self._hungry = True
        # What runs under a limit is what producers say, so it is to be said.
        self._to_report = self._claim.limiter is not None

        if not outcome.written:
            report_fenced(outcome)

    # Orders, run by this thread as they come out of the mailbox

    def _admit(self) -> None:
        self._admitted = True
        self._hungry = True
        self._bell.distrust()

    def _pause_or_resume(self, paused: bool) -> None:
        self._paused = paused
        self._hungry = True

    def _scale(self, limit: int) -> None:
        self._limit = limit
        self._slots.resize(limit)
        self._runner.resize(limit)
        self._hungry = True

    def _cancel(self, job_ids: frozenset[int]) -> None:
        for job in self._running:
            if job.key[0] in job_ids:
                job.ask_to_stop()
                self._runner.cancel(job)

    def _suspect(self) -> None:
        self._unverified = list(self._running)
        self._hungry = True
        self._bell.distrust()

    def _verify(self) -> None:
        """After the lease had ended: vouch again for the jobs that nobody took."""
        # One that was given up stays disowned, though its outcome may be yet to come.
        suspects = [job for job in self._unverified if job in self._running and not job.is_disowned]

        # Not disowned, which would keep one from being begun that turns out to be ours.
        for job in suspects:
            job.doubted()

        for job in ack.still_ours(self._db, suspects, owner=self.uuid) if suspects else []:
            job.leased(self._lease)

        self._unverified = []

    def _rest(self, pause: float) -> None:
        if self.stopping:
            pause = min(pause, self._pause() or 0.0)

        if not self._running and not self._outcomes and self._mailbox.empty():
            self._db.give_back()

        until = time.monotonic() + pause

        while (left := until - time.monotonic()) > 0:
            try:
                self._note(self._mailbox.get(timeout=left))
            except Empty:
                return

            # After a failure the pause counts: outcomes must not bring the next try forward.
            if not self._failures or self.stopping:
                self._gather()

                return

    def _gather(self) -> None:
        """Take what else is finishing just now, so that quick jobs do not cost a commit each.

        Jobs handed out together tend to finish together. Without this the first of them would be
        written alone, and the others wait for its commit: two turns where one is enough.
        """
        if self._mailbox.qsize() < len(self._running):
            # Not a pause: it lets go of the interpreter, so that threads about to finish can.
            time.sleep(0)

    def _pause(self) -> float | None:
        now = time.monotonic()

        bell_at = 0.0 if self._quiet else self._bell.look_at

        if 0.0 < self._again_at <= now or 0.0 < bell_at <= now:
            # It came while the jobs of the turn were handed out.
            return 0.0

        moments = [self._doubts.until, self._again_at, bell_at]

        if self.stopping:
            moments += [self._drain_deadline, self._flush_deadline]

        ahead = [moment - now for moment in moments if moment > now]

        if self._outcomes or (self.stopping and self._running and now >= self._drain_deadline):
            # Somebody holds their rows, or there were too many at once.
            ahead.append(RETRY_PAUSE)

        return min([*ahead, self.interval]) if ahead else None
