"""Trying again after database trouble, by tenacity.

The first try is made without it: most processes never need another one, and so never import it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

import psycopg

from oban_sync.core.errors import DatabaseUnavailableError

if TYPE_CHECKING:
    from tenacity import RetryCallState

#: Errors of a transaction that lost a race, and may well win the next one.
CONFLICTS = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)

Result = TypeVar("Result")


class Stopping(Protocol):
    """The part of `threading.Event` that a stoppable pause needs."""

    def is_set(self) -> bool:
        """Whether to stop."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until told to stop, at most so many seconds."""
        ...


def conflicts_retried(work: Callable[[], Result]) -> Result:
    """Do a transaction's work, again if it lost a deadlock or serialization race.

    Twenty times at most, up to half a second apart; the last error is raised. Many that insert and
    replace the same unique jobs at once may lose several times in a row.
    """
    try:
        return work()
    except CONFLICTS as error:
        again = _after(error, work)

    from tenacity import (
        Retrying,
        retry_if_exception_type,
        stop_after_attempt,
        wait_exponential,
        wait_random,
    )

    retrying = Retrying(
        retry=retry_if_exception_type(CONFLICTS),
        stop=stop_after_attempt(20),
        wait=wait_exponential(multiplier=0.005, max=0.5) + wait_random(0.0, 0.05),
        reraise=True,
    )

    return retrying(again)


def until_available(
    work: Callable[[], Result],
    *,
    stopping: Stopping,
    what: str,
    log: logging.Logger,
    longest: float = 1.0,
) -> Result:
    """Do database work, again for as long as PostgreSQL cannot be reached or the stop comes.

    Pauses grow from 0.1 to `longest` seconds, with jitter; the first failure is logged, and the
    success after failures.

    Raises:
        DatabaseUnavailableError: It could not be done before `stopping` was set.
    """
    try:
        return work()
    except DatabaseUnavailableError as error:
        again = _after(error, work)

    from tenacity import (
        Retrying,
        retry_if_exception_type,
        sleep_using_event,
        stop_when_event_set,
        wait_exponential,
        wait_random,
    )

    def tell(state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            log.warning("%s is waiting for PostgreSQL: %s", what, state.outcome.exception())

    retrying = Retrying(
        retry=retry_if_exception_type(DatabaseUnavailableError),
        stop=stop_when_event_set(stopping),  # type: ignore[arg-type]
        sleep=sleep_using_event(stopping),  # type: ignore[arg-type]
        wait=wait_exponential(multiplier=0.1, max=longest) + wait_random(0.0, 0.1),
        before_sleep=tell,
        reraise=True,
    )
    result = retrying(again)

    if not stopping.is_set():
        log.warning("%s reached PostgreSQL again", what)

    return result


def _after(first: BaseException, work: Callable[[], Result]) -> Callable[[], Result]:
    """Work that was tried once: it fails at first as it did then, so that this try counts too."""
    failed = [first]

    def again() -> Result:
        if failed:
            raise failed.pop()

        return work()

    return again
