"""A node's lease on what it runs: for how long, by this process's own clock, nobody may take it."""

from __future__ import annotations

import time


class Lease:
    """How long this node may believe that its jobs are its own.

    Every beat renews it. Others take the node for dead after `max_age` seconds without a beat, and
    after `unlocked_max_age` once its session lock is free; the lease ends a moment before that.
    Whoever asks compares clocks at that moment, so it also ends while a beat hangs, and no thread
    has to tell.

    Read from any thread; `renew` and `generation` are the refresher's, `lock` and `unlock` the
    notifier's.

    Args:
        max_age: Seconds; infinite for jobs that nobody else can take.
        unlocked_max_age: Seconds.
        uses_lock: Whether there is a session to hold a lock at all; without one, others wait for
            `max_age` in any case.

    Attributes:
        locked: Whether the session that holds the lock stands, as far as this process can know.
        generation: Grows with every time the lease had ended and was renewed: what ran before is
            to be looked at once more.
    """

    #: The lease ends this many seconds before others may act, for what is on its way just then.
    MARGIN = 1.0

    def __init__(
        self,
        max_age: float = float("inf"),
        unlocked_max_age: float = float("inf"),
        *,
        uses_lock: bool = False,
    ) -> None:
        self._max_age = max_age
        self._unlocked_max_age = unlocked_max_age
        self._uses_lock = uses_lock
        self._beat_at = time.monotonic()
        self.locked = False
        self.generation = 0
        self._over = False

    @property
    def ends_at(self) -> float:
        """When it ends unless it is renewed, on the monotonic clock."""
        lasts = self._max_age if self.locked or not self._uses_lock else self._unlocked_max_age

        return self._beat_at + lasts - min(self.MARGIN, lasts / 4)

    @property
    def ended(self) -> bool:
        """Whether somebody else may have been given this node's jobs by now."""
        return self._over or time.monotonic() >= self.ends_at

    @property
    def beat_age(self) -> float:
        """Seconds since the last beat that renewed it was sent; before any, since it was made."""
        return time.monotonic() - self._beat_at

    def covers(self, generation: int) -> bool:
        """Whether it has not ended since it was in this generation."""
        return not self.ended and self.generation == generation

    def renew(self, beat_at: float) -> None:
        """Count from a beat that was sent at this moment, on the monotonic clock."""
        self._beat_at = beat_at
        self._over = False

    def lock(self) -> None:
        """The session stands, and holds the lock."""
        # One that has ended is over: only a beat brings it back, not a longer age.
        self._over = self.ended
        self.locked = True

    def unlock(self) -> None:
        """The session is gone."""
        self.locked = False
