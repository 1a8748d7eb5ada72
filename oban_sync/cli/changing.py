"""What commands share that change something: who did it, whether that is meant, and the record."""

from __future__ import annotations

import getpass
import socket
import sys
from typing import Any

import click

from oban_sync.cli.options import FAILED, Command
from oban_sync.control import audit
from oban_sync.core.options import MOST_NAME_CHARACTERS
from oban_sync.oban import Oban
from oban_sync.telemetry.log import printable


def by_option(command: Command) -> Command:
    """Add ``--by``."""
    return click.option(
        "--by", metavar="WHO", help="Who does it, for the audit. [default: login name @ host]"
    )(command)


def yes_option(command: Command) -> Command:
    """Add ``--yes``."""
    return click.option("--yes", is_flag=True, help="Do not ask; needed without a terminal.")(
        command
    )


def who(by: str | None) -> str:
    """Who does it: what was said, or the login name."""
    if by is not None:
        return by

    try:
        login = getpass.getuser()
    except (OSError, KeyError):
        # In a container there may be no such user.
        login = "unknown"

    return printable(f"{login}@{socket.gethostname()}")[:MOST_NAME_CHARACTERS]


def ask(question: str, *, yes: bool) -> None:
    """Ask whether that is meant; end the command unless it is.

    Args:
        question: What will be done.
        yes: It was said so already.
    """
    if yes:
        return

    if not sys.stdin.isatty():
        raise click.UsageError(f"{printable(question)} There is nobody to ask here: add --yes.")

    # On standard error, so that what is printed stays one document.
    if not click.confirm(printable(question), err=True):
        click.echo("Nothing was done.", err=True)
        sys.exit(FAILED)


def record(where: Any, oban: Oban, action: str, subject: str, by: str, **detail: Any) -> None:
    """Write down what was done.

    Args:
        where: The transaction it was done in, or the tables.
        oban: The instance.
        action: As ``jobs:cancel``.
        subject: To what.
        by: Who did it.
        detail: What else is to be known; None is left out.
    """
    audit.record(
        where,
        oban.name,
        via="cli",
        who=by,
        action=action,
        subject=subject,
        detail={key: value for key, value in detail.items() if value is not None},
    )
