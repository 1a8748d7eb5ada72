"""What becomes of a failure by the class of its exception: tried again, given up, or put off."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from oban_sync.core import backoff, payload
from oban_sync.core.errors import ConfigError, ObanError, shown
from oban_sync.core.job import Job, JobState
from oban_sync.core.outcome import Outcome, Snooze, counted, of_result

#: Times that a job is put off because of its errors; any further such error spends an attempt.
#: With a pause of a minute it is over half a day.
MOST_SNOOZES = 1_000

#: What counts them, in the job's meta, and where it says why it was last put off.
COUNTER = "snoozed_on_error"
REASON = "snoozed_because"

_MOST_REASON_CHARACTERS = 300

#: Seconds or timedelta, a function that gives them for a job and its error, or None: see `Policy`.
Delay = float | Callable[[Job, BaseException], object] | None


@dataclass(frozen=True, slots=True)
class Policy:
    """What was said of exceptions, checked. The class nearest to an exception's own decides.

    Attributes:
        retries: Classes that are tried again, each with its delay; None is the worker's usual one.
        discards: Classes that a job is given up for at once.
        snoozes: Classes that put a job off without spending the attempt, each with its delay; None
            is what the exception's Retry-After says.
        others: Whether what is not named is tried again, as it is without a policy.
    """

    retries: Mapping[type[BaseException], Delay]
    discards: frozenset[type[BaseException]]
    snoozes: Mapping[type[BaseException], Delay]
    others: bool = True

    @classmethod
    def checked(
        cls, *, retry_on: object = None, discard_on: object = None, snooze_on: object = None
    ) -> Policy | None:
        """A policy of options as given, or None where none is.

        Raises:
            ConfigError: An option holds something else than exception classes, and seconds for
                them, or two hold the same class; names the path.
        """
        if retry_on is None and discard_on is None and snooze_on is None:
            return None

        retries = {} if retry_on is None else _delays("retry_on", retry_on)
        discards = [] if discard_on is None else _classes("discard_on", discard_on)
        snoozes = {} if snooze_on is None else _delays("snooze_on", snooze_on)
        named = {"retry_on": set(retries), "discard_on": set(discards), "snooze_on": set(snoozes)}

        for option, other in (
            ("retry_on", "discard_on"),
            ("retry_on", "snooze_on"),
            ("discard_on", "snooze_on"),
        ):
            for twice in sorted(named[option] & named[other], key=lambda kind: kind.__name__):
                raise ConfigError(
                    option, f"{twice.__name__} is in {other} too; an exception has one of them"
                )

        return cls(
            retries,
            frozenset(discards),
            snoozes,
            others=retry_on is None or discard_on is not None,
        )

    def outcome(self, job: Job, error: BaseException, text: str) -> Outcome | None:
        """What a failed run comes to, or None where the policy leaves that to the worker.

        Args:
            job: The job as it was started.
            error: What it raised.
            text: The error as it is recorded.

        Raises:
            BaseException: Whatever a function that was given for a delay raises.
            ValueError: Such a function gave no delay.
        """
        for kind in type(error).__mro__:
            if kind in self.discards:
                return Outcome(job, JobState.DISCARDED, error_text=text)

            if kind in self.snoozes:
                return self._snoozed(job, error, self.snoozes[kind], text)

            if kind in self.retries:
                return self._retried(job, error, self.retries[kind], text)

        # What the library raises, or what ends a thread, says nothing about the job's own work.
        if self.others or isinstance(error, ObanError) or not isinstance(error, Exception):
            return None

        return Outcome(job, JobState.DISCARDED, error_text=text)

    def _retried(self, job: Job, error: BaseException, delay: Delay, text: str) -> Outcome | None:
        if job.attempt >= job.max_attempts or delay is None:
            return None

        if callable(delay):
            given = delay(job, error)

            if given is None:
                return None

            delay = backoff.seconds(given)

        return Outcome(job, JobState.RETRYABLE, error_text=text, schedule_in=delay)

    def _snoozed(self, job: Job, error: BaseException, delay: Delay, text: str) -> Outcome | None:
        if (count := counted(job, COUNTER)) >= MOST_SNOOZES:
            return None

        given = delay(job, error) if callable(delay) else delay
        # Not the whole text: the row would grow with every time it is put off.
        reason = (text.strip().splitlines() or [type(error).__name__])[-1][:_MOST_REASON_CHARACTERS]
        meta = {COUNTER: count + 1, REASON: payload.clean_text(reason)}

        if given is None:
            return of_result(job, Snooze.after(error, meta=meta))

        return of_result(job, Snooze(backoff.seconds(given), meta))


def _delays(option: str, value: object) -> dict[type[BaseException], Delay]:
    if not isinstance(value, Mapping):
        return dict.fromkeys(_classes(option, value))

    _refuse_nothing(option, value)

    return {
        _check_class(option, kind): _check_delay(f"{option}[{_name(kind)}]", given)
        for kind, given in value.items()
    }


def _classes(option: str, value: object) -> list[type[BaseException]]:
    if isinstance(value, type):
        return [_check_class(option, value)]

    if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
        advice = "an exception class, or a list of them"
        raise ConfigError(
            option,
            f"{shown(value)} is not allowed; give {advice}"
            f"{'' if option == 'discard_on' else ', or a mapping of them to seconds'}",
        )

    items = list(value)
    _refuse_nothing(option, items)

    return [_check_class(f"{option}[{index}]", kind) for index, kind in enumerate(items)]


def _check_class(option: str, value: object) -> type[BaseException]:
    if not isinstance(value, type) or not issubclass(value, BaseException):
        raise ConfigError(
            option, f"{shown(value)} is not an exception class; give one, as ConnectionError"
        )

    return value


def _check_delay(option: str, value: object) -> Delay:
    if value is None:
        return None

    if callable(value):
        if inspect.iscoroutinefunction(value):
            raise ConfigError(option, f"{shown(value)} is async; give an ordinary function")

        _check_parameters(option, value)

        return value

    if not isinstance(value, (int, float, timedelta)) or isinstance(value, bool):
        raise ConfigError(
            option,
            f"{shown(value)} is not allowed; give seconds, a timedelta, or a function of the job "
            "and the error",
        )

    try:
        return backoff.seconds(value)
    except ValueError as error:
        raise ConfigError(option, str(error)) from None


def _check_parameters(option: str, function: Callable[..., object]) -> None:
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        raise ConfigError(option, f"{shown(function)} must take the job and the error") from None
    except ValueError:
        # Some functions made in C tell no signature.
        return


def _refuse_nothing(option: str, value: Mapping[object, object] | list[object]) -> None:
    if not value:
        raise ConfigError(option, "names no exception class; leave it out, or name one")


def _name(kind: object) -> str:
    return kind.__name__ if isinstance(kind, type) else shown(kind)
