"""What the environment and `oban.toml` say, for options that are not given otherwise.

An argument or flag wins over the environment, and the environment over the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oban_sync.core.config import OBJECTS, OPTIONS, Config
from oban_sync.core.errors import ConfigError, unknown

#: The file that is read when it stands in the current folder; OBAN_CONFIG names another.
FILE = "oban.toml"

_READABLE = tuple(option for option in OPTIONS if option not in OBJECTS)


def resolve(given: Mapping[str, object]) -> Config:
    """Complete the options given with those of the environment and the file, and check them.

    Raises:
        ConfigError: An option is wrong or unknown, wherever it came from.
    """
    options = {**_from_file(), **_from_environment()}

    if given.get("pool") is not None:
        options.pop("conninfo", None)

    options.update({key: value for key, value in given.items() if value is not None})

    return Config.checked(options)


def _from_environment() -> dict[str, Any]:
    found: dict[str, Any] = {}

    for option in _READABLE:
        value = os.environ.get(f"OBAN_{option.upper()}")

        if value:
            found[option] = _structured(option, value)

    if dsn := os.environ.get("OBAN_DSN"):
        found["conninfo"] = dsn
    elif "conninfo" not in found and (url := os.environ.get("DATABASE_URL")):
        found["conninfo"] = url

    return found


def _structured(option: str, value: str) -> Any:
    """Objects and lists may be written as JSON; the checks read the rest from text."""
    if not value.lstrip().startswith(("{", "[")):
        return value

    try:
        return json.loads(value)
    except ValueError as error:
        raise ConfigError(f"OBAN_{option.upper()}", f"is not JSON: {error}") from None


def _from_file() -> dict[str, Any]:
    named = os.environ.get("OBAN_CONFIG")
    path = Path(named or FILE)

    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        if named:
            raise ConfigError("OBAN_CONFIG", f"there is no file {named!r}") from None

        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"cannot be read: {error}") from error

    # Here, because most programs have no such file.
    import tomllib

    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(path), f"is not TOML: {error}") from error

    for key in found:
        if key not in _READABLE:
            raise ConfigError(f"{path}: {key}", unknown(key, _READABLE))

    return found
