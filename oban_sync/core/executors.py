"""Where the jobs of a queue run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from oban_sync.core.checks import check_choice, check_options, check_whole
from oban_sync.core.errors import ConfigError, shown

KINDS = ("thread", "process")

START_METHODS = ("spawn", "forkserver")

#: Children of a queue that may crash with a job before the job is given up.
MOST_CRASHES = 3

#: Jobs of one child; more is no limit any more.
_MOST_JOBS = 1_000_000_000

_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@dataclass(frozen=True, slots=True)
class ExecutorConfig:
    """Threads of this process, or processes of their own.

    Attributes:
        kind: ``thread`` or ``process``.
        start_method: How child processes come to be: ``spawn``, each by itself, or ``forkserver``,
            from a process that has nothing else to do.
        most_jobs: A child is replaced after so many jobs, against memory that leaks; None for
            never.
        setup: ``module:function``, called once in every child before its first job.
    """

    kind: str = "thread"
    start_method: str = "spawn"
    most_jobs: int | None = None
    setup: str | None = None


def check_executor(option: str, value: object) -> ExecutorConfig:
    """``"thread"``, ``"process"``, or ``{"kind": "process", "start_method": "forkserver"}``."""
    if isinstance(value, str):
        return ExecutorConfig(check_choice(option, value, *KINDS))

    if not isinstance(value, (Mapping, ExecutorConfig)):
        raise ConfigError(
            option,
            f'{shown(value)} is not allowed; give "thread", "process", or a mapping, as '
            '{"kind": "process"}',
        )

    checked = check_options(option, value, ExecutorConfig, _CHECKS)

    if isinstance(value, Mapping):
        given = [key for key in value if key != "kind" and value[key] is not None]

        if "kind" not in value:
            raise ConfigError(f"{option}.kind", 'is missing; give "thread" or "process"')

        if checked.kind == "thread" and given:
            raise ConfigError(
                f"{option}.{given[0]}", 'is for processes; say "kind": "process" as well'
            )

    return checked


def _check_kind(option: str, value: object) -> str:
    return check_choice(option, value, *KINDS)


def _check_start_method(option: str, value: object) -> str:
    if value == "fork":
        raise ConfigError(
            option,
            "'fork' is not allowed: a copy of a process whose threads hold locks may hang for "
            "ever; give 'spawn' or 'forkserver'",
        )

    return check_choice(option, value, *START_METHODS)


def check_place(option: str, value: object) -> str:
    """Where an application is, or a function that makes it: ``module:name``, or ``module:name()``.

    Returns:
        It, without the parentheses.
    """
    place = value.removesuffix("()") if isinstance(value, str) else ""

    if _FUNCTION.fullmatch(place) is None:
        raise ConfigError(
            option,
            f"{shown(value)} is not allowed; give module:attribute, of the application or of a "
            "function that makes it, as myapp.wsgi:app",
        )

    return place


def _check_setup(option: str, value: object) -> str:
    if not isinstance(value, str) or _FUNCTION.fullmatch(value) is None:
        raise ConfigError(
            option, f"{shown(value)} is not allowed; give module:function, as myapp.models:load"
        )

    return value


_CHECKS = {
    "kind": _check_kind,
    "start_method": _check_start_method,
    "most_jobs": lambda option, value: check_whole(option, value, 1, _MOST_JOBS),
    "setup": _check_setup,
}
