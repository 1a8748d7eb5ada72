"""demo: the main job, without a server of one's own."""

from __future__ import annotations

import logging
import sys

import click

from oban_sync.cli.options import FAILED, told_plainly, warn_of_password
from oban_sync.cli.screen import is_terminal
from oban_sync.cli.web import PORT, is_installed, serve_dashboard
from oban_sync.core.errors import ConfigError
from oban_sync.embedded.ending import ended_by_sigterm
from oban_sync.oban import Oban


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
@click.option(
    "--web/--no-web",
    "wants_web",
    default=None,
    help="Serve the dashboard at the end, until Ctrl-C. [default: in a terminal]",
)
@click.option("--verbose", is_flag=True, help="Show the library's log.")
@told_plainly
def demo(dsn: str | None, burst: int, wants_web: bool | None, verbose: bool) -> None:
    """Run a few hundred varied jobs and show what becomes of them, and then the dashboard.

    Needs no server: a private PostgreSQL is started in a temporary folder, and removed at the end.
    """
    # Here and not above: importing it registers its workers.
    from oban_sync.cli import showcase

    warn_of_password(dsn)
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR)

    if wants_web and not is_installed():
        raise ConfigError("--web", "needs more packages: pip install 'oban-sync[web]'")

    wants_web = (is_terminal() and is_installed()) if wants_web is None else wants_web

    with ended_by_sigterm():
        done = showcase.show(dsn, burst, _serve if wants_web else None)

    if not done:
        sys.exit(FAILED)


def _serve(oban: Oban) -> None:
    try:
        serve_dashboard(oban, port=PORT, read_only=False)
    except ConfigError:
        # The port is taken: any other will do.
        serve_dashboard(oban, port=0, read_only=False)
