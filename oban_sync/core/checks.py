"""Checks that options of several kinds share; each names the option, the value, what is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from datetime import timedelta
from typing import Any, TypeVar

from oban_sync.core.errors import ConfigError, shown, unknown

Options = TypeVar("Options")

Check = Callable[[str, object], Any]


def check_seconds(option: str, value: object, *, least: float = 0.0) -> float:
    """A finite number of seconds, or a timedelta."""
    if isinstance(value, timedelta):
        value = value.total_seconds()

    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)

    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or value < least
    ):
        raise ConfigError(option, f"{shown(value)} is not allowed; give seconds, {least:g} or more")

    return float(value)


def check_whole(option: str, value: object, least: int, most: int) -> int:
    """A whole number within bounds; text from the environment counts."""
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)

    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(
            option, f"{shown(value)} is not allowed; give a whole number from {least} to {most:,}"
        )

    return value


def check_flag(option: str, value: object) -> bool:
    """True or false; text from the environment counts."""
    if isinstance(value, str) and value.strip().lower() in ("true", "false", "1", "0"):
        value = value.strip().lower() in ("true", "1")

    if not isinstance(value, bool):
        raise ConfigError(option, f"{shown(value)} is not allowed; give true or false")

    return value


def check_choice(option: str, value: object, *allowed: str) -> str:
    """One of a few words."""
    if not isinstance(value, str) or value not in allowed:
        raise ConfigError(option, f"{shown(value)} is not allowed; {unknown(value, allowed)}")

    return value


def check_options(
    option: str, value: object, kind: type[Options], checks: Mapping[str, Check]
) -> Options:
    """A mapping with the options of a part, as an instance of its dataclass.

    Args:
        option: The option that holds the mapping.
        value: The mapping, or an instance, which is taken as it is.
        kind: The dataclass; what is not given, or is None, keeps its default.
        checks: A check for every field.
    """
    if isinstance(value, kind):
        return value

    names = [item.name for item in fields(kind)]  # type: ignore[arg-type]

    if not isinstance(value, Mapping):
        raise ConfigError(
            option,
            f"{shown(value)} is not a mapping of {', '.join(names)}"
            if not isinstance(value, bool)
            else f"{shown(value)} is not allowed here; give a mapping of {', '.join(names)}",
        )

    for key in value:
        if key not in names:
            raise ConfigError(f"{option}.{key}", unknown(key, names))

    return kind(
        **{
            key: checks[key](f"{option}.{key}", item)
            for key, item in value.items()
            if item is not None
        }
    )
