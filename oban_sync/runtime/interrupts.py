"""Raising an exception in another thread, and nowhere but in the stretch of work that it is for.

CPython delivers such an exception between two steps of the thread's code, at calls and jumps back,
whenever the thread comes to one: at once in a loop, and never while it waits inside a system call.
One that comes while a finalizer runs, or a callback of the garbage collector, is lost: Python
prints it and goes on. So whoever wants a thread to stop raises it again.
"""

from __future__ import annotations

import ctypes
import sys
import traceback
from collections.abc import Callable
from threading import Lock, get_ident
from types import FrameType
from typing import Any, Final, TypeVar

# Not the attribute of that name, whose argument types everybody in the process shares.
_set_async_exc = ctypes.pythonapi["PyThreadState_SetAsyncExc"]
_set_async_exc.argtypes = (ctypes.c_ulong, ctypes.py_object)
_set_async_exc.restype = ctypes.c_int

Subject = TypeVar("Subject")

_NOTHING: Final[Any] = ctypes.py_object()


class Stretch:
    """One stretch of work on the thread that makes this, into which others may raise an exception.

    Once `run` has returned, none is raised and none is on its way.

    Args:
        exception: The class to raise.
    """

    __slots__ = (
        "_ending",
        "_exception",
        "_lock",
        "_open",
        "_owed",
        "_raised",
        "_shields",
        "done",
        "error",
        "thread",
    )

    def __init__(self, exception: type[BaseException]) -> None:
        self._exception = exception
        self._lock = Lock()
        self._open = False
        self._ending = False
        self._shields = 0
        self._owed = False
        self._raised = 0
        #: Whether the work was done, in which case its result counts.
        self.done = False
        #: What it raised, or what was raised into it.
        self.error: BaseException | None = None
        #: The thread's identifier.
        self.thread = get_ident()

    def run(self, work: Callable[[Subject], object], subject: Subject) -> object:
        """Do the work once and give its result; never raises.

        See `done` and `error` for how it went. Work that returned is done, whatever came after.
        """
        # From `_ending = True` on, nobody begins to raise. Two exceptions may still come: one that
        # is pending, and one by a thread that had looked before. Hence the three blocks. A handler
        # is safe up to its first call, so the exception that brings one there is never followed by
        # another before `_ending` is set.
        result: object = None

        try:
            try:
                try:
                    self._open = True
                    result = work(subject)
                    self.done = True
                    self._ending = True
                    self._end()
                except BaseException as error:
                    self._ending = True
                    self.error = error
                    self._end()
            except BaseException:
                self._ending = True
                self._end()
        except BaseException:
            self._end()

        return result

    def interrupt(self) -> bool:
        """Raise the exception in the thread, if the work still goes on; tell whether it does.

        While the thread is shielded, the exception waits for the end of that.
        """
        with self._lock:
            if not self._open or self._ending:
                return False

            if self._shields:
                self._owed = True

                return True

            # No thread can come between these two.
            self._raised += 1

            return bool(_set_async_exc(self.thread, self._exception) == 1)

    def unless_ended(self, step: Callable[[], None]) -> bool:
        """Call `step` if the work still goes on, which it cannot be seen to end meanwhile."""
        with self._lock:
            if self._ending:
                return False

            step()

            return True

    def shield(self) -> None:
        """Keep the exception out of what the thread does from now on; others need no shield."""
        # What was raised up to here comes by the end of the next call, which it breaks off.
        raised = self._raised

        if get_ident() != self.thread:
            return

        with self._lock:
            # What was raised since is still pending.
            _set_async_exc(self.thread, _NOTHING)
            self._owed |= self._raised != raised
            self._shields += 1

    def unshield(self) -> None:
        """Undo one `shield`; raises the exception if it had to wait for that."""
        if get_ident() != self.thread:
            return

        self._shields -= 1

        if self._owed and not self._shields:
            self._owed = False

            raise self._exception

    def stack(self) -> str:
        """Where the thread's work is at the moment, as text, without this library's frames."""
        frame = sys._current_frames().get(self.thread)  # noqa: SLF001 - there is no other way
        frames: list[tuple[FrameType, int]] = []

        while frame is not None and frame.f_code is not Stretch.run.__code__:
            frames.append((frame, frame.f_lineno))
            frame = frame.f_back

        while frames and _is_ours(frames[-1][0]):
            frames.pop()

        return "".join(traceback.StackSummary.extract(reversed(frames)).format()).rstrip()

    def _end(self) -> None:
        with self._lock:
            _set_async_exc(self.thread, _NOTHING)


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("oban_sync.")
