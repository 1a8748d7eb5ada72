"""When indexes are rebuilt, and which: the options of the reindexer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from oban_sync.core.checks import check_flag, check_options, check_seconds
from oban_sync.core.cron import DEFAULT_TIMEZONE, Expression, check_timezone
from oban_sync.core.errors import ConfigError, shown

#: Those whose entries come and go all over, ours and Oban's. The ones of finished jobs are not
#: among them: they grow at one end and are pruned at the other, which leaves whole pages free.
INDEXES = (
    "oban_jobs_available_index",
    "oban_jobs_staging_index",
    "oban_jobs_executing_index",
    "oban_jobs_args_index",
    "oban_jobs_meta_index",
)

#: PostgreSQL cuts longer names off.
MOST_NAME_BYTES = 63


@dataclass(frozen=True, slots=True)
class ReindexerConfig:
    """The loop that rebuilds indexes that have grown too large for what they hold.

    Attributes:
        enabled: Whether it does.
        schedule: When.
        timezone: Whose clocks the schedule means.
        indexes: Names of indexes of the jobs table; those of `INDEXES` that exist when empty.
        timeout: Seconds that one index may take.
    """

    enabled: bool = False
    schedule: Expression = field(
        default_factory=lambda: Expression.checked("reindexer.schedule", "@midnight")
    )
    timezone: str = DEFAULT_TIMEZONE
    indexes: tuple[str, ...] = ()
    timeout: float = 900.0


def check_reindexer(option: str, value: object) -> ReindexerConfig:
    """The options of the reindexer; a mapping turns it on, unless it holds ``enabled: False``."""
    if isinstance(value, (bool, str)):
        return ReindexerConfig(enabled=check_flag(option, value))

    if isinstance(value, Mapping):
        value = {"enabled": True, **value}

    return check_options(
        option,
        value,
        ReindexerConfig,
        {
            "enabled": check_flag,
            "schedule": _check_schedule,
            "timezone": check_timezone,
            "indexes": _check_indexes,
            "timeout": lambda path, given: check_seconds(path, given, least=1.0),
        },
    )


def _check_schedule(option: str, value: object) -> Expression:
    expression = value if isinstance(value, Expression) else Expression.checked(option, value)

    if expression.is_reboot:
        raise ConfigError(option, f"{shown(value)} names no times; give five fields, or @midnight")

    return expression


def _check_indexes(option: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [item.strip() for item in value.split(",") if item.strip()]

    if not isinstance(value, Iterable):
        raise ConfigError(option, f"{shown(value)} is not a list of names of indexes")

    # Each once, in the order given.
    names = tuple(
        dict.fromkeys(_check_index(f"{option}[{i}]", name) for i, name in enumerate(value))
    )

    if not names:
        raise ConfigError(option, "holds no index; leave it out for the usual ones")

    return names


def _check_index(option: str, value: object) -> str:
    if (
        not isinstance(value, str)
        or not value.isprintable()
        or not 1 <= len(value.encode()) <= MOST_NAME_BYTES
    ):
        raise ConfigError(
            option,
            f"{shown(value)} is not the name of an index; give 1 to {MOST_NAME_BYTES} bytes, "
            "without the schema",
        )

    return value
