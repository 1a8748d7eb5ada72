"""How the commands that look at jobs find the Oban they are about.

Each such command is a function whose first argument is an Oban. ``oban-sync`` finds it by options,
``flask oban`` by the application: these are two ways to make the same function a command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, Protocol, TypeAlias

import click

from oban_sync import settings
from oban_sync.cli.application import application, load_oban
from oban_sync.cli.options import database, told_plainly, warn_of_password
from oban_sync.core import instances
from oban_sync.core.errors import ConfigError
from oban_sync.oban import Oban

#: A function that becomes a command: of an Oban, and the options it was given.
Verb: TypeAlias = Callable[..., None]


class Reach(Protocol):
    """Gives a function the Oban it is about; what it makes of it is ready to become a command."""

    def __call__(self, verb: Verb, /) -> Callable[..., Any]:
        """The function without its first argument."""
        ...


def of_command_line(verb: Verb) -> Callable[..., Any]:
    """By ``--app``, or by ``--dsn``, ``--prefix`` and ``--name``, the environment and oban.toml."""

    @told_plainly
    @wraps(verb)
    def called(
        *,
        app: str | None,
        app_dir: str,
        dsn: str | None,
        prefix: str | None,
        name: str | None,
        **given: Any,
    ) -> None:
        warn_of_password(dsn)

        if app is None:
            config = settings.resolve({"conninfo": dsn, "prefix": prefix, "name": name})
            there = (config.conninfo, config.prefix, config.name)
        else:
            oban = load_oban(app, app_dir)
            there = (dsn or oban.conninfo, prefix or oban.prefix, name or oban.name)

        with looking(*there) as look:
            verb(look, **given)

    own_options(called, verb)

    return application(database(_instance(called)))


@contextmanager
def looking(conninfo: str, prefix: str, name: str) -> Iterator[Oban]:
    """An Oban with connections of its own: an application's may not be open in a command."""
    if not conninfo:
        raise ConfigError(
            "conninfo", "there is no database; give --dsn, OBAN_DSN or DATABASE_URL, or oban.toml"
        )

    with instances.kept_as_they_are():
        look = Oban(conninfo, prefix=prefix, name=name)

    try:
        yield look
    finally:
        look.stop()


def own_options(called: Callable[..., Any], verb: Verb) -> None:
    """Give a wrapper the options of what it wraps, and a list of its own to add more to."""
    called.__dict__["__click_params__"] = list(getattr(verb, "__click_params__", ()))


def group(name: str, about: str, verbs: Mapping[str, Verb], reach: Reach) -> click.Group:
    """A group of commands."""
    made = click.Group(name, help=about, no_args_is_help=True)

    for verb, function in verbs.items():
        made.add_command(command(verb, function, reach))

    return made


def command(name: str, verb: Verb, reach: Reach) -> click.Command:
    """One command."""
    return click.command(name)(reach(verb))


def _instance(called: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--name", metavar="NAME", help="The Oban instance. [default: the application's, or Oban]"
    )(called)
