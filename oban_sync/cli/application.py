"""Finding the application's Oban."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from typing import Any

import click

from oban_sync.cli.options import Command
from oban_sync.core import instances
from oban_sync.core.errors import ConfigError, nearest
from oban_sync.oban import Oban


def application(command: Command) -> Command:
    """Add ``--app`` and ``--app-dir``."""
    command = click.option(
        "--app-dir",
        metavar="DIR",
        default=".",
        show_default=True,
        type=click.Path(exists=True, file_okay=False),
        help="Where modules are imported from, besides what is installed.",
    )(command)

    return click.option(
        "--app",
        metavar="MODULE:ATTRIBUTE",
        help="The application's Oban, a Flask application that has one, or a function that makes "
        "either, as myapp.jobs:oban or myapp:create_app.",
    )(command)


def add_to_path(folder: str) -> None:
    """Let modules of a folder be imported; only for commands that were given some by name."""
    sys.path.insert(0, os.path.abspath(folder))


def load_oban(path: str, folder: str) -> Oban:
    """The Oban of an application.

    Args:
        path: ``module:attribute`` of an Oban, of an application of a framework that has one, or of
            a function that gives either, with or without ``()``.
        folder: Modules are imported from there, too.

    Raises:
        ConfigError: The path cannot be imported, or names something else.
    """
    add_to_path(folder)
    name, colon, attribute = path.partition(":")

    if not name or (colon and not attribute):
        raise ConfigError("--app", f"{path!r} is not MODULE:ATTRIBUTE; give one as myapp.jobs:oban")

    attribute = attribute.removesuffix("()") or "oban"

    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A module missing inside the application is its own trouble, with its own traceback.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise

        raise ConfigError(
            "--app", f"there is no module {error.name!r} in {os.getcwd()} or among the installed"
        ) from error

    found: Any = module

    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ConfigError(
                "--app", f"{name} has no {attribute!r}.{nearest(part, dir(found))}"
            ) from None

    if inspect.isfunction(found):
        found = found()

    oban = found if isinstance(found, Oban) else instances.of(found, f"{name}:{attribute}")

    if isinstance(oban, Oban):
        return oban

    raise ConfigError("--app", f"{path} is {_described(found)}")


def _described(found: object) -> str:
    kind = type(found).__name__

    if callable(getattr(found, "init_app", None)):
        return f"a {kind}; name the application that was given to its init_app instead"

    if callable(getattr(found, "wsgi_app", None)):
        return f"a {kind} that has no Oban; give it one by FlaskOban(app)"

    return f"a {kind}, not an Oban, an application that has one, or a function that makes either"
