"""What a Flask application says about its Oban: arguments, `app.config`, the environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Flask

from oban_sync.core.carrying import Carriers, check_carry
from oban_sync.core.checks import Check, check_flag
from oban_sync.core.config import OPTIONS, Config
from oban_sync.core.errors import ConfigError, nearest, shown, unknown
from oban_sync.integrations import sqlalchemy_url
from oban_sync.integrations.request_context import FIELDS

PREFIX = "OBAN_"

#: Stands in for a database while options are checked and nobody has said where it is.
NOWHERE = "postgresql://"

_ON = ("true", "1", "yes", "on")
_OFF = ("false", "0", "no", "off")


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of one application.

    Attributes:
        autostart: Whether queues start in processes that serve requests; None where that is certain
            to be right.
        fresh_context: Whether runs get an app context of their own where the caller is in one.
        request_context: What jobs take along of the request they are enqueued in.
        request_id_header: The header with a request's id.
        user: Gives the id of who asks; Flask-Login by default.
        options: Those of Oban itself, as they were given.
    """

    autostart: bool | None
    fresh_context: bool
    request_context: tuple[str, ...]
    request_id_header: str
    user: Callable[[], object] | None
    options: Mapping[str, Any]


def read(app: Flask, given: Mapping[str, Any]) -> Settings:
    """The options of an application, checked. Connects to nothing.

    Args:
        app: Its ``OBAN_*`` keys.
        given: Arguments, which win over them.

    Raises:
        ConfigError: One is unknown or wrong; names it.
    """
    found = _from_config(app)

    for name, value in given.items():
        if name not in _NAMES:
            raise ConfigError(name, unknown(name, _NAMES))

        if value is not None:
            found[name] = value

    # Where the database is, is said once: the two are ways of saying it.
    if given.get("pool") is not None:
        found.pop("conninfo", None)
    elif given.get("conninfo") is not None:
        found.pop("pool", None)

    own = {name: check(name, found.pop(name, _said(name))) for name, check in _OWN.items()}
    somewhere = {} if {"conninfo", "pool"} & found.keys() else {"conninfo": NOWHERE}
    Config.checked({**somewhere, **found})

    return Settings(**own, options=found)


def conninfo(app: Flask) -> str | None:
    """Where an application's database is, that says nothing of Oban's; None if it does not say.

    Raises:
        ConfigError: It is not PostgreSQL, or says what libpq does not understand.
    """
    # As precise as can be: it is meant for Oban, whatever the rest of the application uses.
    if os.environ.get("OBAN_DSN") or os.environ.get("OBAN_CONNINFO"):
        return None

    if uri := sqlalchemy_url.uri_in(app.config):
        return sqlalchemy_url.for_libpq(uri)

    url: str | None = app.config.get("DATABASE_URL") or None

    return url


def carriers(
    settings: Settings, given: Any, make: Callable[[str], Any]
) -> Carriers | Mapping[str, Any]:
    """What the jobs of an application take along: of requests, and what it says itself.

    Args:
        settings: Its options.
        given: Its own `carry`.
        make: Makes the carrier of a field of requests.
    """
    own = check_carry("carry", given).by_name if given is not None else {}

    return {**{name: make(name) for name in settings.request_context}, **own}


def place_of(app: Flask, said: str | None) -> str | None:
    """Where another process finds an application, as ``module:attribute``, of a factory too.

    Args:
        app: The application.
        said: Where it was said to be, by whoever started this process; FLASK_APP by default.
    """
    if (place := _as_place(said or os.environ.get("FLASK_APP"), app)) is not None:
        return place

    # Where Flask's own commands look, if nobody says anything.
    return _found(app) or _as_place("wsgi", app) or _as_place("app", app)


def _from_config(app: Flask) -> dict[str, Any]:
    found: dict[str, Any] = {}

    for name, value in app.config.get_namespace(PREFIX).items():
        # A Config holds keys in capitals only, but may be given others.
        if name not in _NAMES and name != "dsn":
            allowed = [f"{PREFIX}{item.upper()}" for item in _NAMES]
            key = f"{PREFIX}{name.upper()}"

            raise ConfigError(
                key, f"is unknown; docs/reference.md has all options.{nearest(key, allowed)}"
            )

        if value is not None:
            found[name] = value

    dsn = found.pop("dsn", None)

    if dsn is not None:
        found.setdefault("conninfo", dsn)

    return found


def _said(name: str) -> str | None:
    # A function cannot be written there, and others may mean the database's user by it.
    if name == "user":
        return None

    return os.environ.get(f"{PREFIX}{name.upper()}") or None


def _as_place(path: str | None, app: Flask) -> str | None:
    """What `flask --app` takes, as far as a module and a name in it can say it."""
    if path is None:
        return None

    module, _, name = path.strip().removesuffix(".py").partition(":")
    name = name.strip().removesuffix("()")

    if not all(part.isidentifier() for part in module.split(".")):
        return None

    if name:
        return f"{module}:{name}" if name.isidentifier() else None

    found = vars(sys.modules[module]) if module in sys.modules else {}
    names = [key for key, value in found.items() if value is app]
    names += [key for key in ("create_app", "make_app") if callable(found.get(key))]

    return f"{module}:{names[0]}" if names else None


def _found(app: Flask) -> str | None:
    """The module-level name of an application; a program's main module is no place to others."""
    for module in sorted({*sys.modules} - {"__main__", "__mp_main__"}):
        # A copy: another thread may be importing.
        for name, value in list(getattr(sys.modules.get(module), "__dict__", {}).items()):
            if value is app:
                return f"{module}:{name}"

    return None


def _check_autostart(option: str, value: object) -> bool | None:
    if value is None or (isinstance(value, str) and value.strip().lower() == "auto"):
        return None

    return _check_on_or_off(option, value)


def _check_on_or_off(option: str, value: object) -> bool:
    text = value.strip().lower() if isinstance(value, str) else None

    return text in _ON if text in (*_ON, *_OFF) else check_flag(option, value)


def _check_fresh(option: str, value: object) -> bool:
    return False if value is None else _check_on_or_off(option, value)


def _check_fields(option: str, value: object) -> tuple[str, ...]:
    if value is None:
        return FIELDS

    if isinstance(value, bool) or (isinstance(value, str) and value.lower() in (*_ON, *_OFF)):
        return FIELDS if _check_on_or_off(option, value) else ()

    if isinstance(value, str):
        value = [item.strip() for item in value.split(",") if item.strip()]

    if not isinstance(value, Iterable):
        raise ConfigError(
            option, f"{shown(value)} is not allowed; give true, false, or some of {FIELDS}"
        )

    names = tuple(value)

    for name in names:
        if name not in FIELDS:
            raise ConfigError(option, f"{shown(name)} is {unknown(name, FIELDS)}")

    return names


def _check_header(option: str, value: object) -> str:
    value = "X-Request-ID" if value is None else value

    if not isinstance(value, str) or not value.replace("-", "").isalnum():
        raise ConfigError(option, f"{shown(value)} is not the name of a header")

    return value


def _check_user(option: str, value: object) -> Callable[[], object] | None:
    if value is not None and not callable(value):
        raise ConfigError(
            option, f"{shown(value)} is not allowed; give a function that gives the user's id"
        )

    return value


_OWN: dict[str, Check] = {
    "autostart": _check_autostart,
    "fresh_context": _check_fresh,
    "request_context": _check_fields,
    "request_id_header": _check_header,
    "user": _check_user,
}

_NAMES = (*OPTIONS, *_OWN)
