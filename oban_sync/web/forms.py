"""What came with a request, checked where pages begin to use it."""

from __future__ import annotations

from collections.abc import Collection

from flask import request

from oban_sync.core.errors import ConfigError, shown

#: Characters of a reason that somebody gives.
MOST_REASON = 100


def field(name: str) -> str:
    """A field of a form; "" where it is empty or missing."""
    return request.form.get(name, "").strip()


def named(name: str, what: str) -> str:
    """The name that a form is about, as it is.

    Raises:
        ConfigError: It is missing.
    """
    value = request.form.get(name, "")

    if not value:
        raise ConfigError(name, f"is missing; give the name of {what}")

    return value


def whole(name: str) -> int:
    """A whole number of a form.

    Raises:
        ConfigError: It is none.
    """
    value = field(name)

    if not value.isascii() or not value.isdigit() or len(value) > 9:
        raise ConfigError(name, f"{shown(value)} is no whole number")

    return int(value)


def minutes(name: str) -> float | None:
    """A number of minutes, as seconds; None where the field is empty.

    Raises:
        ConfigError: It is no number, or more than a year.
    """
    if not (value := field(name)):
        return None

    try:
        given = float(value)
    except ValueError:
        given = 0.0

    # False for what is not a number, too.
    if not 0 < given <= 525_600:
        raise ConfigError(name, f"{shown(value)} is not allowed; give minutes, up to a year")

    return given * 60.0


def reason(who: str | None) -> str | None:
    """Who does something, with the reason that they gave in the field ``reason``.

    Raises:
        ConfigError: The reason is too long, or cannot be shown.
    """
    given = field("reason")

    if not given:
        return who

    if len(given) > MOST_REASON or not given.isprintable():
        raise ConfigError(
            "reason",
            f"{shown(given)} is not allowed; give a line of up to {MOST_REASON} characters",
        )

    return given if who is None else f"{who}: {given}"


def asked_name(name: str) -> str:
    """A name that an address asks for; "" for what no row can have as one."""
    value = request.args.get(name, "")

    return "" if "\0" in value else value


def choice(name: str, among: Collection[str], otherwise: str) -> str:
    """What an address asks for, if it is one of these."""
    value = request.args.get(name, "")

    return value if value in among else otherwise
