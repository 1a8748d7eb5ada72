"""Run one job: Job in, Outcome out. Owns nothing, and nothing a job does escapes it."""

from __future__ import annotations

import inspect
import logging
import time
import traceback
from types import TracebackType
from typing import Any

from oban_sync import telemetry
from oban_sync.core import backoff, registry
from oban_sync.core import worker as decorators
from oban_sync.core.clock import from_micros
from oban_sync.core.errors import shown
from oban_sync.core.job import CURRENT, Job, JobState
from oban_sync.core.outcome import Outcome, of_result

log = logging.getLogger("oban_sync.runtime")


def execute(job: Job, *, keep_error: bool = False) -> Outcome:
    """Run a job on this thread and tell what it came to; never raises.

    Whatever `process` raises is a failure, SystemExit and KeyboardInterrupt too: a job must not end
    the thread of the next one.

    Args:
        job: A job taken from its queue.
        keep_error: Keep the exception in `Outcome.error`, for callers that raise it again.
    """
    token = CURRENT.set(job)
    started = time.monotonic_ns()

    try:
        if telemetry.listened("oban.job.start"):
            telemetry.emit("oban.job.start", {"job": job, "monotonic_time": started})

        outcome, error = _run(job)
        _report(job, outcome, error, started)
    except BaseException as trouble:
        # A telemetry handler that ends the interpreter must not lose the job's outcome.
        outcome, error = _failure(job, None, trouble), trouble
    finally:
        CURRENT.reset(token)

    if keep_error:
        outcome.error = error

    return outcome


def _run(job: Job) -> tuple[Outcome, BaseException | None]:
    registration = None

    try:
        registration = registry.resolve(job.worker)
        result = registration.perform(job)

        if result is not None:
            _refuse_deferred(job, result)

        return of_result(job, result), None
    except BaseException as error:
        return _failure(job, registration, error), error


def _refuse_deferred(job: Job, result: object) -> None:
    if inspect.iscoroutine(result):
        result.close()
    elif not (inspect.isawaitable(result) or inspect.isgenerator(result)):
        return

    raise TypeError(
        f"{job.worker} returned a {type(result).__name__}, so none of its code ran; jobs are "
        "ordinary functions, call asyncio.run(...) or consume the generator inside"
    )


def _failure(job: Job, registration: registry.Registration | None, error: BaseException) -> Outcome:
    text = describe(error)

    if job.attempt >= job.max_attempts:
        return Outcome(job, JobState.DISCARDED, error_text=text)

    delay, note = _delay(job, registration)

    return Outcome(job, JobState.RETRYABLE, error_text=text + note, schedule_in=delay)


def _delay(job: Job, registration: registry.Registration | None) -> tuple[float, str]:
    """Seconds to wait, and what to add to the error when the worker's own backoff was no help."""
    default = backoff.retry_delay(job.attempt, job.max_attempts)

    if registration is None or registration.backoff is None:
        return default, ""

    try:
        return backoff.seconds(registration.backoff(job)), ""
    except BaseException as error:
        reason = describe(error).splitlines()[-1]
        log.warning("backoff of %s failed, default used: %s", job.worker, reason)

        return default, f"\nAnd backoff(job) failed, so the default was used:\n{describe(error)}"


def describe(error: BaseException) -> str:
    """The traceback as text, without local variables; never raises, whatever the exception does."""
    try:
        frames = error.__traceback__

        # The first frames are the library's own.
        while frames is not None and _is_ours(frames):
            frames = frames.tb_next

        return "".join(traceback.format_exception(type(error), error, frames)).rstrip()
    except BaseException:
        return f"{type(error).__module__}.{type(error).__qualname__} (it cannot be shown)"


def _is_ours(frames: TracebackType) -> bool:
    return frames.tb_frame.f_globals.get("__name__") in (__name__, decorators.__name__)


def _report(job: Job, outcome: Outcome, error: BaseException | None, started: int) -> None:
    failed = outcome.state in (JobState.RETRYABLE, JobState.DISCARDED)
    event = "oban.job.exception" if failed else "oban.job.stop"

    if not telemetry.listened(event):
        return

    stopped = time.monotonic_ns()
    fields: dict[str, Any] = {
        "job": job,
        "state": outcome.state.value,
        "monotonic_time": stopped,
        "duration": stopped - started,
        "queue_time": _queue_time(job),
    }

    if failed:
        fields |= {
            "error_type": "Discard" if error is None else type(error).__name__,
            "error_message": _message(error, outcome),
            "traceback": outcome.error_text,
        }

    telemetry.emit(event, fields)


def _message(error: BaseException | None, outcome: Outcome) -> str:
    if error is None:
        return outcome.error_text or ""

    try:
        return str(error)
    except BaseException:
        return shown(type(error))


def _queue_time(job: Job) -> int:
    """Nanoseconds between the time the job was due and its start; 0 where that cannot be told."""
    try:
        if (due := job.scheduled_at) is None:
            return 0

        waited = from_micros(job.key[1]) - due
    except Exception:
        return 0

    return int(waited.total_seconds() * 1_000_000_000)
