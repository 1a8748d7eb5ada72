"""Whether inserts have to ring for a queue, or may be spared.

NOTIFY takes a lock on the whole database at each commit, so at high rates inserters wait for one
another. A queue that is told of jobs all the time has no need of it: it turns its bell off, and
looks every few milliseconds for as long as it finds any. Then it turns it on again, and looks until
nobody is left who may have inserted jobs without knowing that.
"""

from __future__ import annotations

import time
from enum import Enum

from oban_sync.engine import listening
from oban_sync.engine.session import Db
from oban_sync.runtime.doubts import UNSURE_PERIOD

#: Rings within so many seconds that turn the bell off.
WINDOW = 0.1
MOST_RINGS = 25

#: Seconds without a job after which it is turned on again ...
QUIET = 0.05

#: ... and after how many looks in any case, when not one in so many found a job: to be rung for the
#: few that come is cheaper then.
MOST_LOOKS = 60
SELDOM = 4

#: Seconds between looks while it is off: the first after a job was found, and the longest.
FIRST_LOOK = 0.001
LONGEST_LOOK = 0.005

#: The same while it is on, and older transactions are not over.
FIRST_WAIT = 0.002
LONGEST_WAIT = 1.0


class _State(Enum):
    ON = "on"
    #: It is to be turned off ...
    TURNING_OFF = "turning off"
    OFF = "off"
    #: ... and on.
    TURNING_ON = "turning on"
    #: It is on, and older transactions may not know.
    SETTLING = "settling"


class Bell:
    """The bell of one producer; all methods are for its thread.

    Args:
        db: The producer's.
        owner: Its uuid.

    Attributes:
        look_at: When to look for jobs without being told to, on the monotonic clock; 0 for never.
    """

    __slots__ = (
        "_db",
        "_found",
        "_looks",
        "_number",
        "_owner",
        "_pause",
        "_quiet_since",
        "_rings",
        "_state",
        "_unsure_until",
        "_until",
        "look_at",
    )

    def __init__(self, db: Db, owner: str) -> None:
        self._db = db
        self._owner = owner
        self._state = _State.ON
        self._rings = 0
        self._until = 0.0
        self._pause = 0.0
        self._quiet_since = 0.0
        self._looks = 0
        self._found = 0
        self._number = 0
        self._unsure_until = 0.0
        self.look_at = 0.0

    @property
    def is_on(self) -> bool:
        """Whether inserts ring; while that changes, some do."""
        return self._state is _State.ON

    @property
    def is_due(self) -> bool:
        """Whether to `tend` it, and to look for jobs after that."""
        return 0.0 < self.look_at <= time.monotonic()

    def distrust(self) -> None:
        """Turn it on, whatever it is: after a fail-over the row may say that it is off, and while
        there was no row, jobs may have been inserted that nobody was told of.
        """
        self._state = _State.TURNING_ON
        self._quiet_since = 0.0
        self.look_at = time.monotonic()

    def rung(self) -> None:
        """Somebody inserted jobs, perhaps."""
        now = time.monotonic()

        if now > self._until:
            self._until = now + WINDOW
            self._rings = 0

        self._rings += 1

        if self._rings >= MOST_RINGS and self._state in (_State.ON, _State.SETTLING):
            self._state = _State.TURNING_OFF
            self.look_at = now

    def tend(self) -> None:
        """Do what is due; after what it raises, the database being away, it is due still."""
        if self._state is _State.OFF:
            # Set by the turn that follows; with all slots taken there is none, and no need of it.
            self.look_at = 0.0
        elif self._state is _State.TURNING_OFF:
            self._turn_off()
        elif self._state in (_State.TURNING_ON, _State.ON):
            self._turn_on()
        elif self._state is _State.SETTLING:
            self._settle()

    def looked(self, demand: int, found: int) -> None:
        """A turn has ended that asked for so many jobs, and found some or none."""
        if self._state is not _State.OFF:
            return

        now = time.monotonic()

        if found >= demand:
            # With all slots taken there is nothing to look for: the next job to end causes a turn.
            self._quiet_since = self.look_at = 0.0
            self._looks = self._found = 0
            self._pause = FIRST_LOOK

            return

        self._looks += 1
        self._found += found

        if found:
            self._quiet_since = 0.0
            self._pause = FIRST_LOOK
        elif not self._quiet_since:
            self._quiet_since = now
        elif now - self._quiet_since >= QUIET:
            self._state = _State.TURNING_ON

        if self._looks >= MOST_LOOKS:
            if self._found * SELDOM < self._looks:
                self._state = _State.TURNING_ON

            self._looks = self._found = 0

        self.look_at = now + self._pause
        self._pause = min(LONGEST_LOOK, 2 * self._pause)

    def _turn_off(self) -> None:
        # First of all: should the reply be lost, it is off, and looks have to be taken.
        self._state = _State.OFF
        self._quiet_since = self.look_at = 0.0
        self._looks = self._found = 0
        self._pause = FIRST_LOOK

        try:
            with self._db.session() as tx:
                listening.ignore(tx, self._owner)
        except BaseException:
            # PostgreSQL may still be at it, and be done after it was turned on again.
            self._unsure_until = time.monotonic() + UNSURE_PERIOD
            raise

    def _turn_on(self) -> None:
        with self._db.session() as tx:
            self._number = listening.listen(tx, self._owner)

        self._state = _State.SETTLING
        self._pause = FIRST_WAIT
        self._settle()

    def _settle(self) -> None:
        with self._db.session() as tx:
            over = listening.have_ended(tx, self._number)

        if over:
            # The turn that follows sees whatever they inserted.
            now = time.monotonic()
            self._state = _State.ON
            self.look_at = self._unsure_until if self._unsure_until > now else 0.0
        else:
            self.look_at = time.monotonic() + self._pause
            self._pause = min(LONGEST_WAIT, 2 * self._pause)
