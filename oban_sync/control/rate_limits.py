"""Rate limits for use outside of jobs: those of queues, and others by name.

They are counted in the database, in one place for all processes, as the starts of jobs are.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Event
from typing import Protocol, cast

from oban_sync.core import instances
from oban_sync.core.checks import check_seconds, check_whole
from oban_sync.core.config import QueueConfig
from oban_sync.core.errors import ConfigError, InvalidJobError, nearest, shown
from oban_sync.core.limits import MOST_ALLOWED, Field, Partition, Rate, check_rate
from oban_sync.core.options import check_name
from oban_sync.engine import limits
from oban_sync.engine.retry import conflicts_retried
from oban_sync.engine.session import Db, Tx

#: A key of a limit by name: any JSON value, as if it were the args of a job.
_BY_KEY: Partition = (Field("args", "key"),)


class Front(Protocol):
    """The part of an Oban that a limit needs."""

    @property
    def db(self) -> Db:
        """The application pool."""
        ...


class RateLimit:
    """A limit on how often something is done, over all processes on one database.

    It exists as soon as it is used, and is known by its name: give it the same options wherever it
    is used. Methods are safe to call from any thread.

    Args:
        name: What it is called; limits of queues have names of their own, see `Oban.rate_limit`.
        allowed: How often ...
        period: ... in these seconds, or timedelta.
        algorithm: ``sliding_window`` (no stretch of that length ever holds more), ``fixed_window``
            (counted anew at whole periods of the clock), or ``token_bucket`` (one comes back every
            ``period / allowed``, and as many as are allowed are kept).
        oban: The Oban on whose database it is counted, or its name.

    Raises:
        ConfigError: An option is wrong.

    Example:
        >>> sms = RateLimit("sms", allowed=10, period=1.0, oban=oban)
        >>> with sms.quota(timeout=30.0):
        ...     send("text")
    """

    def __init__(
        self,
        name: str,
        *,
        allowed: int,
        period: float | timedelta,
        algorithm: str = "sliding_window",
        oban: str | Front = "Oban",
    ) -> None:
        try:
            checked = check_name("name", name)
        except InvalidJobError as error:
            raise ConfigError("name", error.problem) from None

        given = {"allowed": allowed, "period": period, "algorithm": algorithm}
        self._set_up(checked, f"limit:{checked}", check_rate(checked, given), _BY_KEY, oban)

    def _set_up(
        self, name: str, counted_as: str, rate: Rate, lanes: Partition, oban: str | Front
    ) -> None:
        self._name = name
        self._counted_as = counted_as
        self._rate = rate
        self._lane_by = lanes
        self._oban = oban

    def __repr__(self) -> str:
        rate = self._rate

        return f"<RateLimit {self._name!r} {rate.allowed} per {rate.period:g} s, {rate.algorithm}>"

    def available(self, key: object = None) -> int:
        """How much could be taken at the moment; others may take it first.

        Args:
            key: Counted by itself: a JSON value; for a queue, a value of its partition.

        Raises:
            ConfigError: The key is wrong for the limit.
            DatabaseUnavailableError: PostgreSQL could not be reached.
        """
        with self._db.session() as tx:
            return limits.room(tx, self._counted_as, self._rate, self._lane(tx, key))[0]

    def consume(self, n: int = 1, key: object = None, *, require_full: bool = True) -> int:
        """Take so much if it is free, without waiting.

        Args:
            n: How much.
            key: As for `available`.
            require_full: Take all or nothing; else take what there is.

        Returns:
            How much was taken.

        Raises:
            ConfigError: More than the limit ever allows is wanted in full, or the key is wrong.
            DatabaseUnavailableError: PostgreSQL could not be reached; some may have been taken.
        """
        return self._consume(n, key, require_full=require_full)[0]

    def acquire(self, n: int = 1, key: object = None, *, timeout: float = 5.0) -> bool:
        """Take so much, waiting for it where need be.

        Looks again when room comes by the clock, and once a second at least. Whoever waits for much
        may be overtaken by those who want little.

        Args:
            n: How much.
            key: As for `available`.
            timeout: Seconds to wait at the most.

        Returns:
            Whether it was taken.

        Raises:
            ConfigError, DatabaseUnavailableError: As `consume`.
        """
        deadline = time.monotonic() + check_seconds("timeout", timeout)
        pause = Event()

        while True:
            taken, again_in = self._consume(n, key, require_full=True)
            left = deadline - time.monotonic()

            if taken or left <= 0:
                return bool(taken)

            pause.wait(min(again_in, left, 1.0))

    @contextmanager
    def quota(self, n: int = 1, key: object = None, *, timeout: float = 5.0) -> Iterator[None]:
        """Run a block once there is room for it; what was taken stays taken, whatever it does.

        Raises:
            TimeoutError: There was no room within the timeout; the block did not run.
            ConfigError, DatabaseUnavailableError: As `consume`.
        """
        if not self.acquire(n, key, timeout=timeout):
            raise TimeoutError(f"{self!r} had no room for {n} within {timeout:g} s")

        yield

    def reset(self) -> None:
        """Forget what was counted, for all keys.

        Raises:
            DatabaseUnavailableError: PostgreSQL could not be reached.
        """
        with self._db.session() as tx:
            limits.reset(tx, self._counted_as)

    @property
    def _db(self) -> Db:
        oban = self._oban

        return (cast(Front, instances.get(oban)) if isinstance(oban, str) else oban).db

    def _consume(self, n: int, key: object, *, require_full: bool) -> tuple[int, float]:
        wanted = check_whole("n", n, 1, self._rate.allowed if require_full else MOST_ALLOWED)

        def take() -> tuple[int, float]:
            with self._db.session() as tx:
                lane = self._lane(tx, key)

                return limits.consume(
                    tx, self._counted_as, self._rate, lane, wanted, full=require_full
                )

        return conflicts_retried(take)

    def _lane(self, tx: Tx, key: object) -> int:
        if key is None and self._lane_by in ((), _BY_KEY):
            return 0

        if not self._lane_by:
            raise ConfigError("key", f"{self!r} has no partition; leave it out")

        return limits.lanes_of(tx, self._lane_by, [key], path="key")[0]


class QueueRateLimit(RateLimit):
    """The limit on the starts of a queue's jobs, to take of it outside of them, or to look at it.

    Args:
        oban: The Oban that is configured with the queue ...
        queues: ... and with these others.
        queue: The queue.

    Raises:
        ConfigError: The queue is not among them, or has no rate limit.
    """

    def __init__(self, oban: Front, queues: Iterable[QueueConfig], queue: str) -> None:
        known = {config.name: config.limits for config in queues}

        if queue not in known:
            raise ConfigError(
                "queue", f"{shown(queue)} is not configured here.{nearest(queue, known)}"
            )

        if (rate := known[queue].rate) is None:
            raise ConfigError("queue", f"{shown(queue)} has no rate_limit")

        lanes = known[queue].partition if rate.partitioned else ()
        self._set_up(queue, limits.queue_limit(queue), rate, lanes, oban)
