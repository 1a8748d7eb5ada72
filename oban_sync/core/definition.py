"""What the two decorators have in common: what they were told, checked at definition."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from oban_sync.core.errors import ConfigError, shown, unknown
from oban_sync.core.job import Job
from oban_sync.core.options import CHECKS, JobOptions, check_name, check_timeout
from oban_sync.core.outcome import Outcome
from oban_sync.core.policy import Policy
from oban_sync.core.registry import Transactional

#: What decorators take beside the options of jobs.
_OF_DECORATORS = ("cron", "discard_on", "name", "oban", "retry_on", "snooze_on", "transactional")


class Definition(NamedTuple):
    """What a worker was told; each part as its `Registration` has it."""

    options: JobOptions
    timeout: Callable[[Job], object] | None
    policy: Callable[[Job, BaseException, str], Outcome | None] | None
    transactional: Transactional


def checked(
    name: str | None,
    oban: str,
    timeout: object,
    policy: Policy | None,
    transactional: object,
    options: Mapping[str, object],
) -> Definition:
    """What was given to a decorator.

    Raises:
        ConfigError: An option is unknown or wrong.
    """
    if name is not None:
        check_name("name", name)

    if not isinstance(oban, str):
        raise ConfigError("oban", f"{shown(oban)} is not the name of an Oban instance")

    for option in options:
        if option not in CHECKS:
            raise ConfigError(option, unknown(option, [*CHECKS, *_OF_DECORATORS]))

    seconds = None if timeout is None else check_timeout("timeout", timeout)

    return Definition(
        JobOptions.checked(options),
        None if seconds is None else lambda job: seconds,
        None if policy is None else policy.outcome,
        _check_transactional("transactional", transactional),
    )


def timeout_method(cls: Any) -> Callable[[Job], object] | None:
    """A worker's own `timeout`, if it has one.

    Raises:
        ConfigError: It cannot be called for a job.
    """
    method = getattr(cls, "timeout", None)

    if method is None:
        return None

    if not callable(method):
        raise ConfigError(
            "timeout",
            f"{cls.__qualname__}.timeout is {shown(method)} and not a method timeout(self, job); "
            "give @worker(timeout=...) for all jobs, or name it otherwise",
        )

    if inspect.iscoroutinefunction(method):
        raise ConfigError("timeout", f"{cls.__qualname__}.timeout is async; make it a method")

    return lambda job: cls().timeout(job)


def refuse_bare(decorator: str, target: object) -> None:
    """See that a decorator was written with parentheses.

    Raises:
        ConfigError: It was not, so that it was given what it is to decorate.
    """
    if target is not None:
        raise ConfigError(decorator, f"write @{decorator}() with parentheses")


def _check_transactional(option: str, value: object) -> Transactional:
    if value is None or value is False:
        return None

    if value is True:
        return True

    if not callable(value):
        raise ConfigError(
            option,
            f"{shown(value)} is not allowed; give True, or what gives a session or a context "
            "manager of a connection when it is called, as a sessionmaker or engine.begin",
        )

    return value
