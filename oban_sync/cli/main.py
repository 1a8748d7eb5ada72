"""The command group."""

from __future__ import annotations

import click

from oban_sync import __version__
from oban_sync.cli import demo, doctor, schema, start


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="oban-sync")
def main() -> None:
    """Background jobs in your own PostgreSQL, run on threads.

    Try it without a server of your own: oban-sync demo
    """


main.add_command(demo.demo)
main.add_command(start.start)
main.add_command(schema.install)
main.add_command(schema.upgrade)
main.add_command(schema.verify)
main.add_command(schema.uninstall)
main.add_command(doctor.doctor)
