"""Loops whose looks at the database the heartbeat takes along.

A node with nothing to do still asks every second or two: is a job due, do the others live, who
leads. Each question by itself is a transaction; those that are due at once are one. They go along
for as long as that is quick and nothing fails. Otherwise, and whenever no answer comes, each loop
asks by itself, on a connection that is not the heartbeat's: so none keeps a beat, or another loop,
waiting for long.
"""

from __future__ import annotations

import random
import time
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Protocol

from oban_sync.engine.asks import Ask, Rows
from oban_sync.runtime.loop import Loop


class Carrier(Protocol):
    """What takes statements along."""

    @property
    def carries(self) -> bool:
        """Whether it does, at the moment."""
        ...

    def hurry(self) -> None:
        """Take along at once what is due; callable from any thread."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        rows: The statement's.
        asked_at: When it was sent, or earlier, on the monotonic clock.
        told_at: When it was answered, or later.
    """

    rows: Rows
    asked_at: float
    told_at: float


class Carried(Loop):
    """A loop that looks at the database, and goes by what it saw.

    A subclass writes `look`, which does both on a connection of its choice, the halves of it, `ask`
    and `judge`, and perhaps `missed`. All but `ask` run on the loop's own thread.

    Attributes:
        carrier: What takes the look along; None where nothing does.
    """

    #: Seconds past its time after which a look that nobody took along is made without help.
    PATIENCE = 1.0

    #: Share of the interval by which a look may be early, when there is a transaction anyway.
    EARLY = 0.4

    def __init__(self, name: str, *, interval: float) -> None:
        super().__init__(name, interval=interval)
        self.carrier: Carrier | None = None
        self._answers: SimpleQueue[Answer | None] = SimpleQueue()
        self._due_at = float("inf")
        self._early = 0.0
        self._wanted_at: float | None = None
        self._goes_on = False
        self._lock = Lock()
        self._is_out = False

    def look(self) -> float | None:
        """Ask, and go by the answer; returns as `tick` does."""
        raise NotImplementedError

    def ask(self) -> Ask:
        """What to ask. On the carrier's thread: it must be quick."""
        raise NotImplementedError

    def judge(self, answer: Answer) -> float | None:
        """Go by an answer to what `ask` asked; returns as `tick` does."""
        raise NotImplementedError

    def missed(self) -> None:
        """No answer came, because something failed; the loop looks by itself next."""

    def start(self) -> None:
        """Start the thread; the first look is due at once."""
        self._due_at = time.monotonic()
        super().start()

    def wake(self) -> None:
        """Bring the next look forward; callable from any thread."""
        if self._wanted_at is None:
            self._wanted_at = time.monotonic()

        super().wake()

    def tick(self) -> float | None:
        """Go by an answer; else wait for one, where that helps, or look."""
        answer = self._newest()
        now = time.monotonic()

        if answer is None and self.carrier is not None and self._is_carried(self.carrier, now):
            if self.due_at <= now:
                self.carrier.hurry()

            return self._patience(now)

        if answer is None:
            self._wanted_at = None

        pause = self.look() if answer is None else self.judge(answer)
        self._goes_on = pause == 0.0

        if self.carrier is None or self._goes_on:
            return pause

        if answer is None or pause is not None:
            self._plan(pause)
            # It may have planned for a later moment.
            self.carrier.hurry()

        return self._patience(time.monotonic()) if self.carrier.carries else pause

    def wait_until_back(self) -> bool:
        """After the last tick: wait a while for what is out, so that it does not come after.

        Whether there is an answer that nobody went by, or may be one.
        """
        with self._lock:
            is_out = self._is_out

        if is_out:
            with suppress(Empty):
                self._answers.get(timeout=self.PATIENCE)

        return is_out or not self._answers.empty()

    def _is_carried(self, carrier: Carrier, now: float) -> bool:
        if self._goes_on or self._failures or now >= self.due_at + self.PATIENCE:
            return False

        return carrier.carries

    def _patience(self, now: float) -> float:
        return max(0.0, self.due_at + self.PATIENCE - now)

    def _newest(self) -> Answer | None:
        answer = None

        while True:
            try:
                answer = self._answers.get_nowait()
            except Empty:
                return answer

            if answer is None:
                self.missed()

    def _plan(self, pause: float | None) -> None:
        usual = self.interval * random.uniform(1 - self.JITTER, 1 + self.JITTER)  # noqa: S311
        self._due_at = time.monotonic() + (usual if pause is None else pause)
        # A moment that was worked out is meant as it is.
        self._early = self.EARLY * self.interval if pause is None else 0.0

    # For the carrier, on its thread

    @property
    def due_at(self) -> float:
        """When the next look is due, on the monotonic clock."""
        return self._due_at if self._wanted_at is None else min(self._wanted_at, self._due_at)

    @property
    def waits(self) -> bool:
        """Whether an answer would be heard."""
        return self.alive and not self.stopping

    def may_go(self, now: float) -> bool:
        """Whether the look is due, or as good as."""
        return now >= self.due_at - self._early

    def taken(self) -> Ask | None:
        """What to ask, or None while nobody waits for an answer.

        The look is not due again before an interval has passed.
        """
        with self._lock:
            if not self.waits:
                return None

            self._is_out = True

        self._wanted_at = None
        self._plan(None)

        return self.ask()

    def left(self) -> None:
        """Say that it is not taken along, so that it looks by itself."""
        super().wake()

    def answered(self, answer: Answer | None) -> None:
        """Hand over the answer; None when there is none, because something failed."""
        self._is_out = False
        self._answers.put(answer)
        super().wake()
