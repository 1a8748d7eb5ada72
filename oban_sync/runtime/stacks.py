"""Tells where running jobs are when somebody asks: the frames of their threads at that moment.

Nothing is kept for it while jobs run. A thread's job is found in the frame of `executor.execute`,
which every job of a node runs below.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Container, Iterable
from threading import Thread
from traceback import FrameSummary, StackSummary
from types import CodeType, FrameType
from typing import Any

from oban_sync.core import worker as decorators
from oban_sync.engine import stacks
from oban_sync.engine.session import Db
from oban_sync.engine.stacks import Taken
from oban_sync.runtime.executor import execute
from oban_sync.runtime.loop import Loop
from oban_sync.runtime.roster import Roster

#: Most jobs that are looked at in one round ...
MOST_AT_ONCE = 20

#: ... and that wait for one; those asked for beyond that get no answer.
MOST_WANTED = 100

#: Seconds between two rounds, and between two looks at the same job.
PAUSE, JOB_PAUSE = 0.1, 1.0

#: Frames that are told of a stack, the innermost and some of the outermost.
MOST_FRAMES, MOST_OUTER = 100, 20

#: Characters of a stack.
MOST_TEXT = 20_000


class StackTaker(Loop):
    """Write the stacks that were asked for, of jobs that run here. It rests until somebody asks.

    Args:
        db: Where they are written.
        roster: The queues, and so the threads, of this node.
        node: What people call it.
    """

    def __init__(self, db: Db, roster: Roster, *, node: str) -> None:
        super().__init__("stacks", interval=self.LONGEST_REST)
        self._db = db
        self._roster = roster
        self._node = node
        #: In the order in which they were asked for.
        self._wanted: dict[int, None] = {}
        self._taken_at: dict[int, float] = {}
        self._not_before = float("-inf")

    def asked(self, job_id: object) -> None:
        """Somebody asks for the stack of a job; callable from any thread.

        Raises:
            ValueError: That is no id.
        """
        if isinstance(job_id, bool) or not isinstance(job_id, int):
            raise ValueError(f"{job_id!r} is not the id of a job")

        if len(self._wanted) < MOST_WANTED and self._roster.runs(job_id):
            self._wanted[job_id] = None
            self.wake()

    def tick(self) -> float | None:
        """Take and write what was asked for."""
        now = time.monotonic()

        if not self._wanted:
            return None

        if now < self._not_before:
            return self._not_before - now

        self._not_before = now + PAUSE
        self._taken_at = {
            job_id: at for job_id, at in self._taken_at.items() if now < at + JOB_PAUSE
        }
        asked = list(self._wanted)[:MOST_AT_ONCE]

        for job_id in asked:
            self._wanted.pop(job_id, None)

        # What was taken a moment ago is as good.
        ids = {job_id for job_id in asked if job_id not in self._taken_at}

        if taken := take(ids, self._roster.runs_on):
            with self._db.session() as tx:
                stacks.write(tx, taken, node=self._node)

            self._taken_at |= dict.fromkeys((stack.key[0] for stack in taken), now)

        return PAUSE if self._wanted else None


def take(ids: Container[int], runs_on: Callable[[Thread], bool]) -> list[Taken]:
    """The stacks of jobs as they are at this moment.

    Args:
        ids: The jobs.
        runs_on: Whether a thread is one of those whose jobs are meant.
    """
    threads = [
        thread
        for thread in threading.enumerate()
        if thread.name.startswith("oban-") and runs_on(thread)
    ]
    frames = sys._current_frames()  # noqa: SLF001 - there is no other way
    seen = [_Seen(frames[thread.ident]) for thread in threads if thread.ident in frames]
    # They hold on to whatever the jobs hold.
    frames.clear()

    return [
        Taken(one.job.key, one.text)
        for one in seen
        if one.job is not None and one.job.key[0] in ids
    ]


class _Seen:
    """One thread, as it was seen: which job it runs, and where its code is.

    Everything is read off the frames at once, since the thread goes on meanwhile.
    """

    def __init__(self, frame: FrameType | None) -> None:
        self.job: Any = None
        self._child: Any = None
        self._steps: list[tuple[str, CodeType, int | None]] = []
        steps: list[tuple[str, CodeType, int | None]] = []
        running = getattr(sys.modules.get(f"{__package__}.children"), "Child", None)
        code = None if running is None else running.run.__code__

        while frame is not None:
            if frame.f_code is execute.__code__:
                # One within the job's own code is of jobs that it drains.
                self.job = frame.f_locals.get("job")
                self._steps = list(reversed(steps))
            elif frame.f_code is code:
                self._child = frame.f_locals.get("self")

            steps.append((str(frame.f_globals.get("__name__")), frame.f_code, frame.f_lineno))
            frame = frame.f_back

    @property
    def text(self) -> str:
        """The stack in words."""
        if self._child is not None:
            return (
                f"It runs in child process {self._child.pid}, whose stack cannot be told from here."
            )

        start = next(
            (index for index, (module, _, _) in enumerate(self._steps) if not _is_ours(module)),
            None,
        )

        if start is None:
            # The library's own, which tell what it does before or after the job's code.
            before = "None of the job's own code runs: it is about to begin, or has just ended.\n"

            return before + _formatted(self._steps)

        return _formatted(self._steps[start:])


def _formatted(steps: list[tuple[str, CodeType, int | None]]) -> str:
    left_out = len(steps) - MOST_FRAMES

    if left_out > 0:
        inner = steps[MOST_OUTER - MOST_FRAMES :]
        parts = [
            _lines(steps[:MOST_OUTER]),
            f"  [{left_out:,} frames are left out]\n",
            _lines(inner),
        ]
    else:
        parts = [_lines(steps)]

    text = "".join(parts).rstrip()

    if len(text) > MOST_TEXT:
        text = f"[...]{text[-MOST_TEXT:]}"

    # Whatever stands in a source file has to pass as JSON, and as text of PostgreSQL.
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def _lines(steps: Iterable[tuple[str, CodeType, int | None]]) -> str:
    frames = [FrameSummary(code.co_filename, line, code.co_name) for _, code, line in steps]

    return "".join(StackSummary.from_list(frames).format())


def _is_ours(module: str) -> bool:
    return module == decorators.__name__ or module.startswith(f"{__package__}.")
