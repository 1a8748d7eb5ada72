"""The command group."""

from __future__ import annotations

import click

from oban_sync import __version__
from oban_sync.cli import completing, demo, doctor, schema, start, verbs
from oban_sync.cli.reach import of_command_line


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="oban-sync")
def main() -> None:
    """Background jobs in your own PostgreSQL, run on threads.

    Try it without a server of your own: oban-sync demo

    Every command exits with 0 when it did what was asked, 1 when that failed or what was named is
    not there, 2 when it was asked wrongly, and 130 after Ctrl-C.
    """


main.add_command(demo.demo)
main.add_command(start.start)
main.add_command(schema.install)
main.add_command(schema.upgrade)
main.add_command(schema.verify)
main.add_command(schema.uninstall)
main.add_command(doctor.doctor)

for command in verbs.commands(of_command_line):
    main.add_command(command)

main.add_command(completing.completion)
