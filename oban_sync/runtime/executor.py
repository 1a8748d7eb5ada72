"""Run one job: Job in, Outcome out. Owns nothing, and nothing a job does escapes it."""

from __future__ import annotations

import inspect
import logging
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, overload

from oban_sync import telemetry
from oban_sync.core import backoff, registry
from oban_sync.core import worker as decorators
from oban_sync.core.clock import from_micros
from oban_sync.core.errors import (
    JobDecodeError,
    JobError,
    JobTimeoutError,
    WorkerNotFoundError,
    shown,
)
from oban_sync.core.job import CURRENT, Job, JobState
from oban_sync.core.outcome import Outcome, of_result
from oban_sync.runtime import transactional
from oban_sync.runtime.host import PLAIN, Host

log = logging.getLogger("oban_sync.runtime")


#: Has a job run, and gives None where what it came to is told by another way.
Perform = Callable[[Job], Outcome | None]


#: Hears an outcome the moment it is written.
Told = Callable[[Outcome], None]


def _as_it_is(outcome: Outcome) -> Outcome:
    return outcome


def _unheard(outcome: Outcome) -> None:
    """Nobody needs to know before everybody does."""


@dataclass(frozen=True, slots=True)
class Bound:
    """How long a run may take.

    Attributes:
        seconds: From its start.
        forced: By a deadline, after which the job is of no use; else by a timeout.
    """

    seconds: float
    forced: bool = False

    @property
    def problem(self) -> str:
        """What is wrong with a run that takes longer."""
        if self.forced:
            return "its deadline, which is forced, came before its end"

        return f"it ran for longer than its timeout of {self.seconds:g} s"


def perform(job: Job, host: Host = PLAIN, *, keep_error: bool = False) -> Outcome:
    """Run a job on this thread and tell what it came to, but nobody else; never raises.

    Whatever `process` raises is a failure, SystemExit and KeyboardInterrupt too: a job must not end
    the thread of the next one.

    Args:
        job: A job taken from its queue.
        host: What it runs in.
        keep_error: Keep the exception in `Outcome.error`, for callers that raise it again.
    """
    token = CURRENT.set(job)

    try:
        return outcome_of(job, host, keep_error=keep_error)
    finally:
        CURRENT.reset(token)


def outcome_of(job: Job, host: Host = PLAIN, *, keep_error: bool = False) -> Outcome:
    """As `perform`, where the job is known to be the current one."""
    outcome: Outcome | None = None
    raised: BaseException | None = None

    try:
        with host.entered(job) as stay:
            try:
                stay.outcome = outcome = came_to(job, host)
            except BaseException as error:
                stay.error = raised = error
                stay.outcome = outcome = failed(job, error)
    except BaseException as error:
        raised = error

        # Else it was left, by a Ctrl-C, and what it came to stands.
        if outcome is None:
            # What is around it could not be entered.
            outcome = failed(job, error)

    if keep_error and raised is not None:
        outcome.error = raised

    return outcome


@overload
def execute(job: Job, *, perform: Callable[[Job], Outcome] = ...) -> Outcome:
    """Where `perform` always tells what came of it."""


@overload
def execute(job: Job, *, perform: Perform) -> Outcome | None:
    """Where it may be told by another way."""


def execute(job: Job, *, perform: Perform = perform) -> Outcome | None:
    """Have a job run, tell telemetry, and tell what it came to; never raises.

    One whose deadline had passed when it was started is cancelled instead.

    Args:
        job: A job taken from its queue.
        perform: Runs it, and gives None where what it came to is told by another way.
    """
    token = CURRENT.set(job)
    started = time.monotonic_ns()

    try:
        if telemetry.listened("oban.job.start"):
            telemetry.emit("oban.job.start", {"job": job, "monotonic_time": started})

        outcome = (overdue(job) if job.keeps else None) or perform(job)

        if outcome is not None:
            outcome.duration_ns = time.monotonic_ns() - started
            report(job, outcome, started)
    except BaseException as trouble:
        # A telemetry handler that ends the interpreter must not lose the job's outcome.
        outcome = failed(job, trouble)
        outcome.duration_ns = time.monotonic_ns() - started
        outcome.error = trouble
    finally:
        CURRENT.reset(token)

    return outcome


def refuse(reason: str, job: Job) -> Outcome:
    """What a job comes to that its queue cannot run; to be given to `execute` as `perform`."""
    return failed(job, JobError(reason), reason)


def overdue(job: Job) -> Outcome | None:
    """The outcome of a job that was started after its deadline; None of any other."""
    if (deadline := _kept(job, "deadline_at")) is None:
        return None

    if (left := time_left(job)) is None or left > 0.0:
        return None

    return Outcome(
        job, JobState.CANCELLED, error_text=f"not started: its deadline was at {deadline}"
    )


def bound_of(job: Job) -> Bound | None:
    """How long a job may run, by its timeout or its forced deadline; None for as long as it likes.

    Raises as `timeout_of`.
    """
    timeout = timeout_of(job)

    # The hot path: nearly every job keeps nothing, and has no timeout.
    if not job.keeps or _kept(job, "forced") is not True:
        return None if timeout is None else Bound(timeout)

    left = time_left(job)

    if left is not None and (timeout is None or left < timeout):
        return Bound(max(0.0, left), forced=True)

    return None if timeout is None else Bound(timeout)


def timeout_of(job: Job) -> float | None:
    """Seconds that a run of a job may take; None for as long as it likes.

    What was stored with the job counts, and else what its worker says.

    Raises:
        Exception: Whatever the worker's own `timeout(job)` raises.
        ValueError: It gave something else than seconds, a timedelta, or None.
    """
    if job.keeps and (stored := _kept(job, "timeout")) is not None:
        if not isinstance(stored, bool) and isinstance(stored, (int, float)) and stored > 0:
            return float(stored)

        log.warning("the stored timeout of %r is left out: %s is no time", job, shown(stored))

    registration = _registration(job)

    if registration is None or registration.timeout is None:
        return None

    if (given := registration.timeout(job)) is None:
        return None

    try:
        timeout = backoff.seconds(given)
    except ValueError:
        timeout = 0.0

    if timeout <= 0.0:
        raise ValueError(
            f"timeout(job) of {job.worker} gave {shown(given)}; give seconds or a timedelta, more "
            "than 0, or None for no timeout"
        )

    return timeout


def time_left(job: Job) -> float | None:
    """Seconds from a job's start to its deadline, by the database's clock; None without one."""
    if (deadline := _kept(job, "deadline_at")) is None:
        return None

    try:
        moment = datetime.fromisoformat(deadline)
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)

        return (moment - from_micros(job.key[1])).total_seconds()
    except (TypeError, ValueError, OverflowError):
        log.warning("the deadline of %r is left out: %s is no time", job, shown(deadline))

        return None


def _kept(job: Job, name: str) -> Any:
    try:
        return job.kept(name)
    except JobDecodeError:
        # It is the job's to find out, when it looks.
        return None


def overrun(job: Job, bound: Bound, below: str = "", *, plain: bool = False) -> Outcome:
    """What a run comes to that took longer than it may, and was stopped; never raises.

    Args:
        job: The job as it was started.
        bound: How long it may take.
        below: How it was stopped, or where it was.
        plain: As of `failed`.
    """
    error = JobTimeoutError(bound.problem)
    text = f"{describe(error)}\n\n{below}".rstrip()

    if bound.forced:
        return Outcome(job, JobState.CANCELLED, error_text=text)

    return failed(job, error, text, plain=plain)


def came_to(
    job: Job, host: Host, *, judge: Callable[[Outcome], Outcome] = _as_it_is, told: Told = _unheard
) -> Outcome:
    """Run a job's own code on this thread, and give the outcome of what it returned.

    That of a transactional worker is written by then; see `transactional.run`.

    Args:
        job: A job taken from its queue.
        host: What it runs in.
        judge: What an outcome comes to in the end. Another than the one it was given is one of a
            run that failed.
        told: As of `transactional.run`.

    Raises:
        BaseException: Whatever the job's code raises.
    """
    found = registry.resolve(job.worker)

    if found.transactional is None:
        return judge(of_result(job, attempt(job, found)))

    def work(*given: object) -> tuple[Outcome, bool]:
        outcome = of_result(job, attempt(job, found, *given))
        kept = judge(outcome)

        return kept, kept is outcome

    return transactional.run(job, host, found.transactional, work, told=told)


def attempt(job: Job, found: registry.Registration, *given: object) -> object:
    """Call a job's worker, and give what it returns; raises whatever it raises.

    In a copy of the process that the job forked, and that comes back here, it ends the copy: the
    original tells what came of the job.
    """
    pid = os.getpid()

    try:
        result = found.perform(job, *given)
    finally:
        # Before anything else: locks may be held in the copy by threads that it does not have.
        if os.getpid() != pid:
            os._exit(1)

    if result is not None:
        _refuse_deferred(job, result)

    return result


def _refuse_deferred(job: Job, result: object) -> None:
    if inspect.iscoroutine(result):
        result.close()
    elif not (inspect.isawaitable(result) or inspect.isgenerator(result)):
        return

    raise TypeError(
        f"{job.worker} returned a {type(result).__name__}, so none of its code ran; jobs are "
        "ordinary functions, call asyncio.run(...) or consume the generator inside"
    )


def failed(
    job: Job, error: BaseException, text: str | None = None, *, plain: bool = False
) -> Outcome:
    """What a run comes to that failed: by the worker's policy and backoff, else as usual.

    Never raises. These two are the application's code, and run on the calling thread.

    Args:
        job: The job as it was started.
        error: What it raised.
        text: What is recorded, where that is not the error's traceback.
        plain: Ask neither of the two.
    """
    registration = None if plain else _registration(job)
    text = describe(error) if text is None else text
    outcome = _by_policy(job, registration, error, text) or _by_attempts(job, registration, text)
    outcome.error_type = type(error).__name__
    outcome.error_message = _message(error)
    told = {"job": job, "error": error, "state": outcome.state.value}
    telemetry.emit("oban.job.error", told)

    return outcome


def _registration(job: Job) -> registry.Registration | None:
    try:
        return registry.resolve(job.worker)
    except WorkerNotFoundError:
        return None


def _by_policy(
    job: Job, registration: registry.Registration | None, error: BaseException, text: str
) -> Outcome | None:
    if registration is None or registration.policy is None:
        return None

    try:
        return registration.policy(job, error, text)
    except BaseException as trouble:
        log.warning("policy of %s failed, left out: %s", job.worker, _last_line(trouble))

        return _by_attempts(
            job, registration, f"{text}\nAnd its policy failed:\n{describe(trouble)}"
        )


def _by_attempts(job: Job, registration: registry.Registration | None, text: str) -> Outcome:
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
        log.warning("backoff of %s failed, default used: %s", job.worker, _last_line(error))

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


def _last_line(error: BaseException) -> str:
    return describe(error).splitlines()[-1]


def _is_ours(frames: TracebackType) -> bool:
    name = str(frames.tb_frame.f_globals.get("__name__"))

    return name == decorators.__name__ or name.startswith(f"{__package__}.")


def report(job: Job, outcome: Outcome, started: int) -> None:
    """Tell telemetry what a run came to.

    Args:
        job: The job.
        outcome: What it came to.
        started: When, in nanoseconds on the monotonic clock.
    """
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
            "error_type": outcome.error_type or "Discard",
            "error_message": (
                outcome.error_text or "" if outcome.error_type is None else outcome.error_message
            ),
            "traceback": outcome.error_text,
        }

    telemetry.emit(event, fields)


def report_fenced(outcome: Outcome) -> None:
    """Tell telemetry, and the log, that an outcome was refused."""
    log.warning(
        "the outcome %r of job %s was not written: the job belongs to another run by now",
        outcome.state.value,
        outcome.job.key[0],
    )
    telemetry.emit("oban.job.fenced", {"job": outcome.job, "state": outcome.state.value})


def _message(error: BaseException) -> str:
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
