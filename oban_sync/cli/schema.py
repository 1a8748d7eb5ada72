"""install, upgrade, verify, uninstall."""

from __future__ import annotations

import click

from oban_sync import schema, settings
from oban_sync.cli.application import application, load_oban
from oban_sync.cli.changing import ask
from oban_sync.cli.options import database, told_plainly, warn_of_password
from oban_sync.core.config import check_prefix


@click.command()
@application
@database
@click.option("--sql", is_flag=True, help="Print the statements instead, for one transaction.")
@told_plainly
def install(app: str | None, app_dir: str, dsn: str | None, prefix: str | None, sql: bool) -> None:
    """Create the tables, or add what is missing to those of Oban or oban-py.

    Safe to run again. Nothing that exists is altered or removed.
    """
    if sql:
        print_install(prefix or "public")
    else:
        install_in(*_target(app, app_dir, dsn, prefix))


@click.command()
@application
@database
@click.option(
    "--sql",
    "sql_from",
    type=int,
    metavar="FROM",
    help="Print the statements from this version on instead, for one transaction.",
)
@told_plainly
def upgrade(
    app: str | None, app_dir: str, dsn: str | None, prefix: str | None, sql_from: int | None
) -> None:
    """Bring installed tables up to the version this oban_sync needs."""
    if sql_from is not None:
        print_upgrade(prefix or "public", sql_from)
    else:
        upgrade_in(*_target(app, app_dir, dsn, prefix))


@click.command()
@application
@database
@told_plainly
def verify(app: str | None, app_dir: str, dsn: str | None, prefix: str | None) -> None:
    """Check that the tables are there and new enough; exits with 1 when they are not."""
    verify_in(*_target(app, app_dir, dsn, prefix))


@click.command()
@application
@database
@click.option("--yes", is_flag=True, help="Do not ask.")
@told_plainly
def uninstall(
    app: str | None, app_dir: str, dsn: str | None, prefix: str | None, yes: bool
) -> None:
    """Remove what was installed, with all jobs.

    A jobs table that Oban or oban-py made before stays, with its jobs.
    """
    uninstall_in(*_target(app, app_dir, dsn, prefix), yes=yes)


def install_in(conninfo: str, prefix: str) -> None:
    """Create the tables, and say so."""
    version = schema.install(conninfo, prefix=prefix)

    click.echo(f"Installed version {version} in schema {prefix}.")


def print_install(prefix: str) -> None:
    """Print what would create the tables."""
    _print(schema.install_sql(check_prefix("prefix", prefix)))


def upgrade_in(conninfo: str, prefix: str) -> None:
    """Bring the tables up to date, and say so."""
    before, after = schema.upgrade(conninfo, prefix=prefix)

    click.echo(
        f"Schema {prefix} is at version {after} already."
        if before == after
        else f"Upgraded schema {prefix} from version {before} to {after}."
    )


def print_upgrade(prefix: str, version: int) -> None:
    """Print what would bring tables of a version up to date."""
    _print(schema.upgrade_sql(version, prefix=check_prefix("prefix", prefix)))


def verify_in(conninfo: str, prefix: str) -> None:
    """Check the tables, and say how they are."""
    version = schema.verify(conninfo, prefix=prefix)

    click.echo(f"Schema {prefix} is at version {version}, as it should be.")


def uninstall_in(conninfo: str, prefix: str, *, yes: bool) -> None:
    """Remove the tables, after it was asked whether that is wanted."""
    ask(f"Remove the tables in schema {prefix}, with all jobs in them?", yes=yes)

    schema.uninstall(conninfo, prefix=prefix)

    click.echo(f"Removed oban_sync from schema {prefix}.")


def _target(app: str | None, app_dir: str, dsn: str | None, prefix: str | None) -> tuple[str, str]:
    """The conninfo and the schema that were asked for, the application's where it was named."""
    warn_of_password(dsn)

    if app is not None:
        oban = load_oban(app, app_dir).configure(conninfo=dsn, prefix=prefix)

        return oban.conninfo, oban.prefix

    config = settings.resolve({"conninfo": dsn, "prefix": prefix})

    return config.conninfo, config.prefix


def _print(statements: list[str]) -> None:
    click.echo("BEGIN;\n")

    for statement in statements:
        click.echo(f"{statement.rstrip(';')};\n")

    click.echo("COMMIT;")
