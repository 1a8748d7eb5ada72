"""start: a worker process."""

from __future__ import annotations

import logging
import os
from typing import Any

import click

from oban_sync import __version__, telemetry
from oban_sync.cli.application import add_to_path, application, load_oban
from oban_sync.cli.options import (
    database,
    logging_options,
    start_logging,
    told_plainly,
    warn_of_password,
)
from oban_sync.oban import Oban

log = logging.getLogger("oban_sync")


@click.command()
@application
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

    warn_of_password(dsn)

    if app is None:
        # Nothing is imported from the folder unless whoever runs the command names something.
        if imports:
            add_to_path(app_dir)

        oban = Oban(dsn, prefix=prefix, **given)
    else:
        oban = load_oban(app, app_dir)
        oban.configure(conninfo=dsn, prefix=prefix, **given)

    telemetry.log.attach()
    log.info("oban-sync %s, pid %d", __version__, os.getpid())
    oban.run()
