"""start: a worker process."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Any

import click

from oban_sync import __version__, telemetry
from oban_sync.cli.options import (
    database,
    logging_options,
    start_logging,
    told_plainly,
    warn_of_password,
)
from oban_sync.core.errors import ConfigError, nearest
from oban_sync.oban import Oban

log = logging.getLogger("oban_sync")


@click.command()
@click.option(
    "--app",
    metavar="MODULE:ATTRIBUTE",
    help="The application's Oban, or a function that makes it, as myapp.jobs:oban.",
)
@click.option(
    "--app-dir",
    metavar="DIR",
    default=".",
    show_default=True,
    type=click.Path(exists=True, file_okay=False),
    help="Where --app and --import are imported from, besides what is installed.",
)
@click.option(
    "--import",
    "imports",
    multiple=True,
    metavar="MODULE",
    help="A module that defines workers; may be given several times.",
)
@click.option(
    "--queues",
    metavar="NAME:LIMIT,...",
    help="Queues to run and how many jobs of each at once, as default:10,mailers:5.",
)
@click.option("--node", metavar="NAME", help="What to call this node. [default: the host's name]")
@click.option(
    "--grace",
    type=float,
    metavar="SECONDS",
    help="How long running jobs may take to finish after a SIGTERM. [default: 15]",
)
@database
@logging_options
@told_plainly
def start(
    app: str | None,
    app_dir: str,
    imports: tuple[str, ...],
    queues: str | None,
    node: str | None,
    grace: float | None,
    dsn: str | None,
    prefix: str | None,
    log_format: str,
    log_level: str,
) -> None:
    """Run queues until a SIGTERM or SIGINT comes.

    The first signal stops gracefully: running jobs get the grace period, and those that do not
    finish are handed back without spending the attempt. A second signal hands them back at once,
    a third ends the process.
    """
    start_logging(log_format, log_level)
    given: dict[str, Any] = {
        "queues": queues,
        "node": node,
        "shutdown_grace_period": grace,
        "imports": imports or None,
    }

    # Only here, because these names were given by the one who runs the command.
    sys.path.insert(0, os.path.abspath(app_dir))

    warn_of_password(dsn)

    if app is None:
        oban = Oban(dsn, prefix=prefix, **given)
    else:
        oban = _load(app)
        oban.configure(conninfo=dsn, prefix=prefix, **given)

    telemetry.log.attach()
    log.info("oban-sync %s, pid %d", __version__, os.getpid())
    oban.run()


def _load(path: str) -> Oban:
    """The Oban of an application.

    Raises:
        ConfigError: The path cannot be imported, or names something else.
    """
    name, colon, attribute = path.partition(":")

    if not name or (colon and not attribute):
        raise ConfigError("--app", f"{path!r} is not MODULE:ATTRIBUTE; give one as myapp.jobs:oban")

    attribute = attribute or "oban"

    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A module missing inside the application is its own trouble, with its own traceback.
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
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

    if not isinstance(found, Oban) and callable(found):
        found = found()

    if not isinstance(found, Oban):
        kind = type(found).__name__
        raise ConfigError("--app", f"{path} is a {kind}, not an Oban or a function that makes one")

    return found
