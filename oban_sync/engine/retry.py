"""Trying again after database trouble, by tenacity."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol, TypeVar

import psycopg
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
    wait_exponential,
    wait_random,
)

from oban_sync.core.errors import DatabaseUnavailableError

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
    retrying = Retrying(
        retry=retry_if_exception(_is_conflict),
        stop=stop_after_attempt(20),
        wait=wait_exponential(multiplier=0.005, max=0.5) + wait_random(0.0, 0.05),
        reraise=True,
    )

    return retrying(work)


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

    def tell(state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            log.warning("%s is waiting for PostgreSQL: %s", what, state.outcome.exception())

    retrying = Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, DatabaseUnavailableError)),
        stop=stop_when_event_set(stopping),  # type: ignore[arg-type]
        sleep=sleep_using_event(stopping),  # type: ignore[arg-type]
        wait=wait_exponential(multiplier=0.1, max=longest) + wait_random(0.0, 0.1),
        before_sleep=tell,
        reraise=True,
    )
    result = retrying(work)

    if retrying.statistics.get("attempt_number", 1) > 1 and not stopping.is_set():
        log.warning("%s reached PostgreSQL again", what)

    return result


def _is_conflict(error: BaseException) -> bool:
    return isinstance(
        error,
        (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure),
    )
