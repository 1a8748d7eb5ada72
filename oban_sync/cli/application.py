"""Finding the application's Oban."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import sys
from functools import partial
from typing import Any, TypeAlias

import click

from oban_sync.cli.options import Command
from oban_sync.core import instances
from oban_sync.core.errors import ConfigError, nearest, shown
from oban_sync.oban import Oban

#: What a function is called by: in order, and by name.
Call: TypeAlias = tuple[list[Any], dict[str, Any]]


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
            a function that gives either: alone, or called, as ``create_app("config")``.
        folder: Modules are imported from there, too.

    Raises:
        ConfigError: The path cannot be imported, or names something else; or a function is called
            by other arguments than it takes.
    """
    add_to_path(folder)
    name, colon, attribute = path.partition(":")

    if not name or (colon and not attribute):
        raise ConfigError("--app", f"{path!r} is not MODULE:ATTRIBUTE; give one as myapp.jobs:oban")

    attribute, call = _parsed(attribute or "oban")

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

    if call is not None or inspect.isfunction(found) or isinstance(found, partial):
        found = _called(path, found, *(call or ([], {})))

    at = path if call is not None and any(call) else f"{name}:{attribute}"
    oban = found if isinstance(found, Oban) else instances.of(found, at)

    if isinstance(oban, Oban):
        return oban

    raise ConfigError("--app", f"{path} is {_described(found)}")


def _parsed(attribute: str) -> tuple[str, Call | None]:
    """A name, with or without dots, and what it is called by, if it is."""
    try:
        found = ast.parse(attribute.strip(), mode="eval").body

        if not isinstance(found, ast.Call):
            return attribute.strip(), None

        # A double star has no name, and is no plain value.
        named = {item.arg or "": ast.literal_eval(item.value) for item in found.keywords}
        given = [ast.literal_eval(item) for item in found.args]

        if "" in named:
            raise ValueError(attribute)

        return ast.unparse(found.func), (given, named)
    except (SyntaxError, ValueError):
        raise ConfigError(
            "--app",
            f"{shown(attribute)} is neither a name nor a call with plain values, as "
            "create_app('config')",
        ) from None


def _called(path: str, function: Any, arguments: list[Any], named: dict[str, Any]) -> Any:
    try:
        inspect.signature(function).bind(*arguments, **named)
    except (TypeError, ValueError) as error:
        raise ConfigError("--app", f"{path} cannot be called like that: {error}") from None

    return function(*arguments, **named)


def _described(found: object) -> str:
    kind = type(found).__name__

    if callable(getattr(found, "init_app", None)):
        return f"a {kind}; name the application that was given to its init_app instead"

    if callable(getattr(found, "wsgi_app", None)):
        return f"a {kind} that has no Oban; give it one by FlaskOban(app)"

    return f"a {kind}, not an Oban, an application that has one, or a function that makes either"
