"""demo: the main job, without a server of one's own."""

from __future__ import annotations

import logging
import sys

import click

from oban_sync.cli.options import FAILED, told_plainly, warn_of_password


@click.command()
@click.option(
    "--dsn",
    metavar="URL",
    help="Use this server, in a schema oban_demo that is removed again. [default: a private one]",
)
@click.option(
    "--burst",
    type=click.IntRange(0, 1_000_000),
    default=20_000,
    show_default=True,
    help="Jobs of the throughput run at the end; 0 leaves it out.",
)
@click.option("--verbose", is_flag=True, help="Show the library's log.")
@told_plainly
def demo(dsn: str | None, burst: int, verbose: bool) -> None:
    """Run a few hundred varied jobs and show what becomes of them.

    Needs no server: a private PostgreSQL is started in a temporary folder, and removed at the end.
    """
    # Here and not above: importing it registers its workers.
    from oban_sync.cli import showcase

    warn_of_password(dsn)
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR)

    if not showcase.show(dsn, burst):
        sys.exit(FAILED)
