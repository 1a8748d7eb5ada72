"""What jobs log, from the record to the row.

Lines are taken where log records are made, by the record factory of `logging`. A handler of the
root logger would see them too, but logging is another one with a root that has a handler: warnings
are not printed any more where nothing is configured, `logging.basicConfig` does nothing, and Flask
adds no handler to its logger. Nor would it see what does not propagate.

A run costs nothing but its place in a dict until it logs; then it has a buffer. A loop writes what
is in the buffers, and the job never waits for it. What cannot be written is kept, within bounds.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from threading import RLock
from typing import Any

from oban_sync.core.errors import DatabaseUnavailableError
from oban_sync.core.job import CURRENT, Job, JobState
from oban_sync.core.job_logs import OWN, LogsConfig, Written, line_of, lines_of
from oban_sync.core.outcome import Outcome
from oban_sync.engine import logs
from oban_sync.engine.session import Db, is_refusal, reason
from oban_sync.runtime import log_run
from oban_sync.runtime.log_run import Masking, Run
from oban_sync.runtime.loop import Loop

log = logging.getLogger("oban_sync.runtime")

#: Seconds after which it is looked in any case whether lines are still taken: an application may
#: have set a record factory of its own.
LISTEN_INTERVAL = 15.0

#: Bytes of runs that have ended and are not written yet; of more, the oldest are dropped.
MOST_WAITING = 16_000_000

#: Bytes and runs written by one statement.
BATCH_BYTES = 1_000_000
BATCH_RUNS = 500

#: Batches written before the loop looks for something else.
MOST_BATCHES = 50

#: Seconds between two looks for old ones, on the leader; more where they are kept for longer.
PRUNE_INTERVAL = 60.0
PRUNE_INTERVALS = 100
LONGEST_PRUNE_INTERVAL = 3_600.0

#: States of a job whose last run failed.
FAILURES = (JobState.RETRYABLE, JobState.DISCARDED)

#: What takes the lines of runs that are going on, by their jobs. A thread that outlives its job
#: still has the job, but it is not in here any more.
_going_on: dict[Job, Capture] = {}

#: The name of a record that is made to see whether ours comes by.
_PROBE = "oban_sync.probe"

#: The factory that was in place when it was last looked, and that is ours or leads to it.
_known: Callable[..., logging.LogRecord] | None = None
_listening = RLock()


class _Here(threading.local):
    """What this thread is about.

    Attributes:
        within: One of our factories is at it, and takes the record; those that it wraps do not.
        asks: It looks whether ours is there ...
        found: ... and it is.
    """

    within = asks = found = False


_here = _Here()


class Capture:
    """Takes what runs log, and has it until it is written.

    Args:
        config: How much.
        forwards: Each line is taken out of here once, by whoever puts them together.

    Attributes:
        config: How much, in here.
        lost: How many runs were dropped, because they could not be written in time.
    """

    def __init__(self, config: LogsConfig, *, forwards: bool = False) -> None:
        # Whether the run fails is known elsewhere, then.
        self.config = replace(config, only_failures=False) if forwards else config
        self.lost = 0
        self._mask = None if config.mask is None else Masking(config.mask)
        self._forwards = forwards
        self._lock = RLock()
        self._open: dict[Job, Run] = {}
        self._ended: deque[Run] = deque()
        self._waiting = 0
        self._wake: Callable[[], None] | None = None

    def begin(self, job: Job) -> None:
        """A run begins: what it logs is taken from now on. This is the hot path."""
        if logging.getLogRecordFactory() is not _known:
            listen()

        _going_on[job] = self

    def end(self, job: Job, outcome: Outcome | None) -> None:
        """It has ended; nothing more of it is taken. This is the hot path.

        Args:
            job: The job.
            outcome: What it came to; None for a failure of which no more is known.
        """
        # In a copy that the job made of the process it is gone, and the lock may never be free.
        if _going_on.pop(job, None) is not None and self._open:
            self._end(job, outcome is None or outcome.state in FAILURES)

    def take(self, job: Job, record: logging.LogRecord) -> None:
        """Take a record that the run made."""
        if record.levelno < self.config.level:
            return

        line = line_of(record, mask=self._mask)

        if line is not None and (run := self._run_of(job)) is not None:
            run.add(line)
            self._added(job, run)

    def add(self, job: Job, given: object, dropped: object) -> None:
        """Take lines that the run made in another process; what is none is left out."""
        lines = lines_of(given)

        if self._mask is not None:
            # Here, because it need not be a function that children could be given.
            masked = ((line, self._mask(line.message)) for line in lines)
            lines = [line.with_message(text) for line, text in masked if text is not None]

        count = dropped if type(dropped) is int and 0 < dropped < 2**31 else 0

        if not (lines or count) or (run := self._run_of(job)) is None:
            return

        run.lose(count)

        for line in lines:
            run.add(line)

        self._added(job, run)

    def changes(self, *, everything: bool = False) -> list[Written]:
        """Some of what is to be written now, of which nothing stays to be written.

        Args:
            everything: Also what has been written a moment ago and has changed since.
        """
        found: list[Written] = []
        size = 0

        with self._lock:
            while self._ended and size < BATCH_BYTES and len(found) < BATCH_RUNS:
                run = self._ended.popleft()
                self._waiting -= run.size
                size += run.size
                found.append(run.taken(all_of_it=not self._forwards))

            for run in list(self._open.values()):
                if size >= BATCH_BYTES or len(found) >= BATCH_RUNS:
                    break

                if run.unwritten and (everything or self._is_due(run)):
                    size += run.size
                    found.append(run.taken(all_of_it=not self._forwards))

        return [taken for taken in found if taken.lines or taken.dropped]

    def put_back(self, runs: Sequence[Written]) -> None:
        """Have what could not be written written later, unless there is something newer by then."""
        with self._lock:
            by_key = {run.key: run for run in self._open.values()}

            for taken in reversed(runs):
                if (run := by_key.get(taken.key)) is not None:
                    run.unwritten = True
                else:
                    self._ended.appendleft(Run(self.config, taken))
                    self._waiting += self._ended[0].size

            self._bound()

    def waits(self) -> bool:
        """Whether anything is there that is to be written, now or soon."""
        with self._lock:
            return bool(self._ended) or any(
                run.unwritten and self._may_be_read(run) for run in self._open.values()
            )

    def on_news(self, wake: Callable[[], None] | None) -> None:
        """Call `wake` whenever there is something to be written; None where nobody sleeps."""
        self._wake = wake

    def _run_of(self, job: Job) -> Run | None:
        """The run of a job; None where it has ended."""
        if (run := self._open.get(job)) is not None:
            return run

        # One without a row, as in a test of its worker alone, has nothing to be written to.
        if job not in _going_on or job.id is None:
            return None

        node = job.attempted_by[0] if job.attempted_by else ""

        with self._lock:
            # Another thread of the job may have been faster.
            return self._open.setdefault(
                job, Run(self.config, Written(job.key, job.attempt, node, [], 0), job)
            )

    def _added(self, job: Job, run: Run) -> None:
        # It ended meanwhile, and did not see what was begun here.
        if job not in _going_on:
            self._end(job, False)
        elif self._may_be_read(run):
            self._rouse()

    def _end(self, job: Job, failed: bool) -> None:
        with self._lock:
            run = self._open.pop(job, None)

            if run is None or not (run.unwritten and (failed or not self.config.only_failures)):
                return

            run.job = None
            self._put_last(run)

        self._rouse()

    def _put_last(self, run: Run) -> None:
        self._ended.append(run)
        self._waiting += run.size
        self._bound()

    def _is_due(self, run: Run) -> bool:
        return self._may_be_read(run) and (self._forwards or run.due_at <= time.monotonic())

    def _may_be_read(self, run: Run) -> bool:
        # A run whose time is up has failed, though its thread may never come back to say so.
        return not self.config.only_failures or (run.job is not None and run.job.timed_out())

    def _bound(self) -> None:
        while self._waiting > MOST_WAITING and len(self._ended) > 1:
            self._waiting -= self._ended.popleft().size
            self.lost += 1

    def _rouse(self) -> None:
        # The hot path of jobs that log: most of the time the loop is awake.
        if (wake := self._wake) is not None:
            wake()


class JobLogs(Loop):
    """Write what runs log: what ended soon, and what goes on every two seconds. And forget it.

    The thread rests until something is logged, but for a look whether lines are still taken, which
    is no query.

    Args:
        capture: Where the lines are.
        db: Where the tables are.
        leads: Whether it is this node's business to forget.
    """

    def __init__(self, capture: Capture, db: Db, *, leads: Callable[[], bool]) -> None:
        super().__init__("logs", interval=log_run.INTERVAL)
        self._capture = capture
        self._db = db
        self._leads = leads
        self._told = 0
        self._refused = False
        self._keep = capture.config.keep
        self._prune_interval = min(
            max(PRUNE_INTERVAL, self._keep / PRUNE_INTERVALS), LONGEST_PRUNE_INTERVAL
        )
        self._prune_at = time.monotonic() + PRUNE_INTERVAL

    def start(self) -> None:
        """See that lines are taken, and start the thread."""
        listen()
        super().start()

    def tick(self) -> float | None:
        """Write what there is; and look for what is old, where that is due."""
        listen()
        self._capture.on_news(None)

        if self._flush() or self._prune_old():
            return 0.0

        # In this order: what is logged between the two wakes the loop.
        self._capture.on_news(self.wake)

        if self._capture.waits():
            self._capture.on_news(None)

            return self.interval

        return min(LISTEN_INTERVAL, max(1.0, self._prune_at - time.monotonic()))

    def closed(self) -> None:
        """Write what is left, of jobs that go on as well."""
        try:
            self._flush(everything=True)
        except Exception as error:
            log.warning("what jobs logged last could not be written: %s", reason(error))

    def _flush(self, *, everything: bool = False) -> bool:
        """Write what there is; whether there may be more."""
        for _ in range(MOST_BATCHES):
            if not (runs := self._capture.changes(everything=everything)):
                break

            try:
                self._write_each(runs)
            except BaseException:
                self._capture.put_back(runs)
                self._tell_of_lost()

                raise
        else:
            return True

        self._tell_of_lost()

        return False

    def _write_each(self, runs: Sequence[Written]) -> None:
        try:
            logs.write(self._db, runs)
        except Exception as error:
            if isinstance(error, DatabaseUnavailableError) or not (
                is_refusal(error) or isinstance(error, (TypeError, ValueError))
            ):
                raise

            if len(runs) == 1:
                # There may be thousands, all for one reason.
                log.log(
                    logging.DEBUG if self._refused else logging.WARNING,
                    "what job %s logged cannot be kept: %s",
                    runs[0].key[0],
                    reason(error),
                )
                self._refused = True

                return

            for run in runs:
                self._write_each([run])

    def _tell_of_lost(self) -> None:
        lost = self._capture.lost

        # Once for as long as it lasts, and then what it came to.
        if lost > self._told and (self._told == 0 or not self._capture.waits()):
            log.warning(
                "what %d runs of jobs logged was dropped: it could not be written in time", lost
            )
            self._told = lost

    def _prune_old(self) -> bool:
        """Delete some of what is old, where that is due; whether there may be more."""
        if time.monotonic() < self._prune_at:
            return False

        if self._leads() and logs.prune(self._db, keep=self._keep):
            return True

        self._prune_at = time.monotonic() + self._prune_interval

        return False


def capture(config: LogsConfig) -> Capture | None:
    """What takes what jobs log; None where nothing is wanted."""
    return Capture(config) if config.enabled else None


def listen() -> None:
    """Take log records from now on, wherever they are made.

    Does nothing where they are taken already. The application may have set a factory of its own
    since, instead of ours.
    """
    global _known

    if logging.getLogRecordFactory() is _known:
        return

    with _listening:
        current: Callable[..., logging.LogRecord] = logging.getLogRecordFactory()

        if not _leads_to_ours(current):
            logging.setLogRecordFactory(current := _taking(current))

        _known = current


def _leads_to_ours(factory: Callable[..., logging.LogRecord]) -> bool:
    _here.asks, _here.found = True, False

    try:
        # It may be one for requests alone, or the like; what it makes there is taken.
        with suppress(Exception):
            # As loggers call it: a factory may take these and no others.
            factory(_PROBE, logging.NOTSET, "", 0, "", (), None, None, None)
    finally:
        _here.asks = False

    return _here.found


def _taking(inner: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    """A factory that makes records by another one, and takes those of jobs."""

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        if _here.asks:
            _here.found = True

        # The one outermost takes it, as it is in the end.
        if _here.within or _here.asks or (job := CURRENT.get()) is None:
            return inner(*args, **kwargs)

        _here.within = True

        try:
            record = inner(*args, **kwargs)
        finally:
            _here.within = False

        _take(job, record)

        return record

    return factory


def _take(job: Job, record: logging.LogRecord) -> None:
    try:
        if (capture := _going_on.get(job)) is not None and _is_the_jobs(record):
            capture.take(job, record)
    except Exception:
        # It is a job's line that is lost, and logging of it would come here again.
        return


def _is_the_jobs(record: logging.LogRecord) -> bool:
    name = record.name

    return isinstance(name, str) and name != OWN and not name.startswith(f"{OWN}.")


def _in_a_copy() -> None:
    # Of a process whose threads held locks at that moment: they are held in here for ever. What
    # runs there is not logged from here, and nothing would write it.
    global _listening

    _going_on.clear()
    _listening = RLock()


os.register_at_fork(after_in_child=_in_a_copy)
