"""install, upgrade, verify, uninstall."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from oban_sync import schema
from oban_sync.assembly import EMBEDDED
from oban_sync.cli.options import configured, database, told_plainly
from oban_sync.core.config import Config, check_prefix
from oban_sync.core.errors import DatabaseUnavailableError
from oban_sync.embedded import Server


@click.command()
@database
@click.option("--sql", is_flag=True, help="Print the statements instead, for one transaction.")
@told_plainly
def install(dsn: str | None, prefix: str | None, sql: bool) -> None:
    """Create the tables, or add what is missing to those of Oban or oban-py.

    Safe to run again. Nothing that exists is altered or removed.
    """
    if sql:
        _print(schema.install_sql(check_prefix("prefix", prefix or "public")))

        return

    config = configured(dsn, prefix)

    with _server(config) as conninfo:
        version = schema.install(conninfo, prefix=config.prefix)

    click.echo(f"Installed version {version} in schema {config.prefix}.")


@click.command()
@database
@click.option(
    "--sql",
    "sql_from",
    type=int,
    metavar="FROM",
    help="Print the statements from this version on instead, for one transaction.",
)
@told_plainly
def upgrade(dsn: str | None, prefix: str | None, sql_from: int | None) -> None:
    """Bring installed tables up to the version this oban_sync needs."""
    if sql_from is not None:
        _print(schema.upgrade_sql(sql_from, prefix=check_prefix("prefix", prefix or "public")))

        return

    config = configured(dsn, prefix)

    with _server(config) as conninfo:
        before, after = schema.upgrade(conninfo, prefix=config.prefix)

    click.echo(
        f"Schema {config.prefix} is at version {after} already."
        if before == after
        else f"Upgraded schema {config.prefix} from version {before} to {after}."
    )


@click.command()
@database
@told_plainly
def verify(dsn: str | None, prefix: str | None) -> None:
    """Check that the tables are there and new enough; exits with 1 when they are not."""
    config = configured(dsn, prefix)

    with _server(config) as conninfo:
        version = schema.verify(conninfo, prefix=config.prefix)

    click.echo(f"Schema {config.prefix} is at version {version}, as it should be.")


@click.command()
@database
@click.option("--yes", is_flag=True, help="Do not ask.")
@told_plainly
def uninstall(dsn: str | None, prefix: str | None, yes: bool) -> None:
    """Remove what was installed, with all jobs.

    A jobs table that Oban or oban-py made before stays, with its jobs.
    """
    config = configured(dsn, prefix)

    if not yes:
        click.confirm(
            f"Remove the tables in schema {config.prefix}, with all jobs in them?", abort=True
        )

    with _server(config) as conninfo:
        schema.uninstall(conninfo, prefix=config.prefix)

    click.echo(f"Removed oban_sync from schema {config.prefix}.")


@contextmanager
def _server(config: Config) -> Iterator[str]:
    if not config.conninfo.startswith(EMBEDDED):
        try:
            yield config.conninfo
        except DatabaseUnavailableError as error:
            raise DatabaseUnavailableError(f"{error}; check --dsn or OBAN_DSN") from error

        return

    with Server(config.conninfo.removeprefix(EMBEDDED)) as conninfo:
        yield conninfo


def _print(statements: list[str]) -> None:
    click.echo("BEGIN;\n")

    for statement in statements:
        click.echo(f"{statement.rstrip(';')};\n")

    click.echo("COMMIT;")
