"""What several commands share: options, and where errors end."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click
import psycopg

from oban_sync.core.config import mask
from oban_sync.core.errors import ConfigError, ObanError
from oban_sync.telemetry import log

Command = TypeVar("Command", bound=Callable[..., Any])

#: Exit codes: 1 for what went wrong or was not found, 2 for what was asked wrongly, as click's own,
#: and 130 for Ctrl-C, as shells have it.
FAILED = 1
MISUSED = 2
INTERRUPTED = 130


def database(command: Command) -> Command:
    """Add ``--dsn`` and ``--prefix``."""
    command = click.option(
        "--prefix",
        metavar="SCHEMA",
        help="PostgreSQL schema of the tables. [default: OBAN_PREFIX, oban.toml, or public]",
    )(command)

    return click.option(
        "--dsn",
        metavar="URL",
        help="libpq URL or string, or embedded:PATH. [default: OBAN_DSN, DATABASE_URL, oban.toml]",
    )(command)


def logging_options(command: Command) -> Command:
    """Add ``--log-format`` and ``--log-level``."""
    command = click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="info",
        show_default=True,
    )(command)

    return click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="One line per event, as text or as a JSON object.",
    )(command)


def start_logging(form: str, level: str) -> None:
    """Log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(log.JsonFormatter() if form == "json" else log.TextFormatter())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())


def warn_of_password(dsn: str | None) -> None:
    """Tell whoever passes a password as an argument that others can read it."""
    if dsn is not None and mask(dsn) != dsn:
        click.echo(
            "Warning: a password on the command line can be read by every user of this machine; "
            "put the URL into OBAN_DSN, or the password into ~/.pgpass",
            err=True,
        )


def told_plainly(command: Command) -> Command:
    """Errors that are nobody's bug are told in one line, without a traceback.

    Those are the library's own, and what PostgreSQL refuses. Ctrl-C is none, and ends it quietly.
    """

    @wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except ObanError as error:
            # libpq tells some things in several lines.
            click.echo(f"Error: {log.printable(' '.join(str(error).split()))}", err=True)
            sys.exit(MISUSED if isinstance(error, ConfigError) else FAILED)
        except psycopg.Error as error:
            said = str(error).strip().partition("\n")[0] or type(error).__name__
            click.echo(f"Error: PostgreSQL says: {log.printable(said)}", err=True)
            sys.exit(FAILED)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except click.Abort as error:
            # At a prompt Ctrl-C comes as this.
            if isinstance(error.__context__, KeyboardInterrupt):
                sys.exit(INTERRUPTED)

            raise

    return guarded  # type: ignore[return-value]
