"""Where a database is, as applications of Flask-SQLAlchemy say it, in libpq's words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from oban_sync.core.config import mask
from oban_sync.core.errors import ConfigError, shown
from oban_sync.engine import libpq

#: Under which the application says it.
KEY = "SQLALCHEMY_DATABASE_URI"

#: Of SQLAlchemy's drivers, and about their connection objects, which are not used here.
_OF_DRIVERS = frozenset(
    {
        "autocommit",
        "connection_factory",
        "cursor_factory",
        "prepare_threshold",
        "prepared_statement_cache_size",
        "row_factory",
    }
)

#: As SQLAlchemy tells a port from a host; a folder of sockets has none.
_HOST_AND_PORT = re.compile(r"([A-Za-z0-9.\-]*):(\d*)")


def uri_in(config: Mapping[str, Any]) -> Any:
    """What Flask-SQLAlchemy would make its engine of; None if the application does not say."""
    options = config.get("SQLALCHEMY_ENGINE_OPTIONS") or {}
    bind = (config.get("SQLALCHEMY_BINDS") or {}).get(None)

    # In the order of Flask-SQLAlchemy.
    return (
        config.get(KEY)
        or options.get("url")
        or (bind.get("url") if isinstance(bind, Mapping) else bind)
    )


def for_libpq(uri: Any) -> str:
    """A URL of SQLAlchemy as one of libpq, which writes spaces, ports and hosts in another way.

    Args:
        uri: Text, or a ``sqlalchemy.URL``.

    Raises:
        ConfigError: It is of another database, cannot be read, or has an option of its driver that
            libpq knows nothing of.
    """
    text = _text(uri)
    scheme, _, rest = text.partition("://")

    if scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise ConfigError(
            KEY,
            f"{shown(mask(text))} is another database, and jobs live in PostgreSQL; say where that "
            "is by OBAN_CONNINFO",
        )

    try:
        from sqlalchemy.engine import make_url
    except ImportError:
        # Nobody reads it as SQLAlchemy does, then.
        return f"postgresql://{rest}"

    try:
        url = make_url(uri)
    except Exception as error:
        # Its own words would show a password.
        raise ConfigError(KEY, f"{shown(mask(text))} cannot be read by SQLAlchemy") from error

    return _written(url)


def _text(uri: Any) -> str:
    render = getattr(uri, "render_as_string", None)

    return str(render(hide_password=False) if callable(render) else uri)


def _written(url: Any) -> str:
    user = "" if url.username is None else quote(url.username, safe="")
    password = "" if url.password is None else f":{quote(str(url.password), safe='')}"
    at = "@" if user or password else ""
    host = url.host or ""
    host = f"[{host}]" if ":" in host else host
    port = "" if url.port is None else f":{url.port}"
    path = "" if url.database is None else f"/{quote(url.database, safe='')}"
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in _options(url.query))

    return f"postgresql://{user}{password}{at}{host}{port}{path}{'?' if query else ''}{query}"


def _options(query: Mapping[str, str | tuple[str, ...]]) -> Iterable[tuple[str, str]]:
    for name, value in query.items():
        if name in _OF_DRIVERS:
            continue

        if name not in libpq.keywords():
            raise ConfigError(
                KEY,
                f"libpq knows no {name!r}, an option of the URL's driver; say where the database "
                "is by OBAN_CONNINFO",
            )

        values = (value,) if isinstance(value, str) else value

        if name == "host":
            yield from _hosts(values)
        else:
            yield name, values[-1]


def _hosts(values: tuple[str, ...]) -> Iterable[tuple[str, str]]:
    """``host=a:1&host=b:2`` is SQLAlchemy's way of writing ``host=a,b&port=1,2``."""
    found = [
        match.groups() if (match := _HOST_AND_PORT.fullmatch(item)) else (item, "")
        for item in values
    ]

    yield "host", ",".join(host for host, _ in found)

    if any(port for _, port in found):
        yield "port", ",".join(port for _, port in found)
