"""Install, upgrade, check and remove the tables; or get the SQL for your own migrations.

With Alembic or Flask-Migrate, in a migration of your own:

    def upgrade():
        for statement in oban_sync.schema.install_sql():
            op.execute(statement)

    def downgrade():
        for statement in oban_sync.schema.uninstall_sql():
            op.execute(statement)

Everything is only added: a table that Oban for Elixir or oban-py made keeps its columns,
constraints and indexes, and gains indexes, a trigger and functions. Making an index on a large
table of theirs locks it against writes for as long as one scan takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from oban_sync.core.config import check_prefix, without_driver
from oban_sync.core.errors import SchemaError
from oban_sync.engine import connections, migrations
from oban_sync.engine.session import Tx, command, translated

#: The version of the tables this code needs.
LATEST = migrations.LATEST


def install_sql(prefix: str = "public") -> list[str]:
    """The statements that install everything, to be run in one transaction, in order.

    They may be run where some or all of it exists; what is there stays.

    Raises:
        ConfigError: The prefix cannot be the name of a schema.
    """
    return migrations.upgrade_statements(check_prefix("prefix", prefix))


def upgrade_sql(from_version: int, *, version: int = LATEST, prefix: str = "public") -> list[str]:
    """The statements from one version of the tables to another, to be run in one transaction.

    Raises:
        ConfigError: There is no such version, or the prefix cannot be the name of a schema.
    """
    return migrations.upgrade_statements(
        check_prefix("prefix", prefix), after=from_version, upto=version
    )


def uninstall_sql(prefix: str = "public") -> list[str]:
    """The statements that remove what was installed, jobs included, for one transaction.

    A jobs table that was there before the installation stays, with its jobs.

    Raises:
        ConfigError: The prefix cannot be the name of a schema.
    """
    return migrations.remove_statements(check_prefix("prefix", prefix))


def install(
    conn: str | psycopg.Connection[Any], *, prefix: str = "public", version: int = LATEST
) -> int:
    """Install the tables, or what is missing of them.

    Args:
        conn: A conninfo, ``embedded:PATH`` too, or an open psycopg connection, in whose
            transaction it is done.
        prefix: The schema; made when missing.
        version: Stop at this version; only tests of upgrades need it.

    Returns:
        The version that is installed now.

    Raises:
        ConfigError: The prefix cannot be the name of a schema, or there is no such version.
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    with _transaction(conn, prefix) as tx:
        migrations.run(tx, migrations.upgrade_statements(prefix, upto=version))

        return migrations.version(tx)


def upgrade(conn: str | psycopg.Connection[Any], *, prefix: str = "public") -> tuple[int, int]:
    """Bring installed tables up to the version this code needs; takes and raises as `install`.

    Returns:
        The versions before and after.

    Raises:
        SchemaError: Nothing is installed.
    """
    with _transaction(conn, prefix) as tx:
        before = migrations.version(tx)

        if before == 0:
            raise SchemaError(
                f"nothing is installed in schema {prefix!r}, so there is nothing to upgrade; run "
                f"{command('install', prefix)}"
            )

        if before < LATEST:
            migrations.run(tx, migrations.upgrade_statements(prefix, after=before))

        return before, migrations.version(tx)


def verify(conn: str | psycopg.Connection[Any], *, prefix: str = "public") -> int:
    """Check that the tables are there and new enough.

    Returns:
        The version installed, which may be newer than this code needs.

    Raises:
        SchemaError: Says what is missing and which command to run.
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    with _transaction(conn, prefix, create=False) as tx:
        migrations.verify(tx)

        return migrations.version(tx)


def uninstall(conn: str | psycopg.Connection[Any], *, prefix: str = "public") -> None:
    """Remove what was installed, jobs included; takes and raises as `install`.

    A jobs table that was there before the installation stays, with its jobs.

    Raises:
        SchemaError: Nothing is installed.
    """
    with _transaction(conn, prefix) as tx:
        if migrations.version(tx) == 0:
            raise SchemaError(f"nothing is installed in schema {prefix!r}")

        migrations.run(tx, migrations.remove_statements(prefix))


@contextmanager
def _transaction(
    conn: str | psycopg.Connection[Any], prefix: str, *, create: bool = True
) -> Iterator[Tx]:
    check_prefix("prefix", prefix)

    with _refusals_told(), translated(prefix):
        if not isinstance(conn, str):
            with conn.transaction():
                yield Tx(conn, prefix)

            return

        # Here, because a process that only runs jobs needs nothing of it.
        from oban_sync.embedded.conninfo import reachable

        with (
            reachable(without_driver(conn), create=create) as conninfo,
            connections.connect(conninfo, application_name="oban-sync: schema") as own,
            own.transaction(),
        ):
            yield Tx(own, prefix)


@contextmanager
def _refusals_told() -> Iterator[None]:
    """What the migrations raise by themselves, as the library's error."""
    try:
        yield
    except psycopg.errors.RaiseException as error:
        hint = error.diag.message_hint

        raise SchemaError(f"{error.diag.message_primary}. {hint or ''}".rstrip()) from error
