"""start: a worker process."""

from __future__ import annotations

import logging
import os
from typing import Any

import click

from oban_sync import __version__, telemetry
from oban_sync.cli.application import add_to_path, application, load_oban
from oban_sync.cli.options import (
    Command,
    database,
    logging_options,
    start_logging,
    told_plainly,
    warn_of_password,
)
from oban_sync.oban import Oban

log = logging.getLogger("oban_sync")


def worker_options(command: Command) -> Command:
    """Add ``--queues``, ``--node``, ``--grace``, and those of the log."""
    command = click.option(
        "--grace",
        "shutdown_grace_period",
        type=float,
        metavar="SECONDS",
        help="How long running jobs may take to finish after a SIGTERM. [default: 15]",
    )(logging_options(command))
    command = click.option(
        "--node", metavar="NAME", help="What to call this node. [default: the host's name]"
    )(command)

    return click.option(
        "--queues",
        metavar="NAME:LIMIT,...",
        help="Queues to run and how many jobs of each at once, as default:10,mailers:5.",
    )(command)


@click.command()
@application
@click.option(
    "--import",
    "imports",
    multiple=True,
    metavar="MODULE",
    help="A module that defines workers; may be given several times.",
)
@worker_options
@database
@told_plainly
def start(
    app: str | None,
    app_dir: str,
    imports: tuple[str, ...],
    dsn: str | None,
    prefix: str | None,
    log_format: str,
    log_level: str,
    **given: Any,
) -> None:
    """Run queues until a SIGTERM or SIGINT comes.

    The first signal stops gracefully: running jobs get the grace period, and those that do not
    finish are handed back without spending the attempt. A second signal hands them back at once,
    a third ends the process.
    """
    start_logging(log_format, log_level)
    warn_of_password(dsn)
    given["imports"] = imports or None

    if app is None:
        # Nothing is imported from the folder unless whoever runs the command names something.
        if imports:
            add_to_path(app_dir)

        oban = Oban(dsn, prefix=prefix, **given)
    else:
        oban = load_oban(app, app_dir)
        oban.configure(conninfo=dsn, prefix=prefix, **given)

    run(oban)


def run(oban: Oban) -> None:
    """Run an Oban until a signal comes, with a line in the log for every job."""
    telemetry.log.attach()
    log.info("oban-sync %s, pid %d", __version__, os.getpid())
    oban.run()
