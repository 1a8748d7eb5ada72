"""Which tables there are, and the statements that bring them up to date or take them away."""

from __future__ import annotations

from dataclasses import dataclass

from oban_sync.core.errors import ConfigError, SchemaError
from oban_sync.engine.session import Tx, command
from oban_sync.engine.statements import migration, migration_names, statement

#: The version this code needs: the number of its newest migration.
LATEST = len(migration_names())

#: Two installers must not run at once; the lock goes with the transaction.
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('oban_sync_migrations'))"


def upgrade_statements(schema: str, *, after: int = 0, upto: int = LATEST) -> list[str]:
    """The statements from one version to another, for a transaction of the caller's.

    Raises:
        ConfigError: There is no such version.
    """
    for option, version in (("from_version", after), ("version", upto)):
        if not 0 <= version <= LATEST:
            raise ConfigError(option, f"{version} is not a version; give 0 to {LATEST}")

    statements = [_LOCK]

    for number, name in enumerate(migration_names(), start=1):
        if after < number <= upto:
            statements.extend(migration(name, schema))
            statements.append(
                statement("schema_record", schema).replace("%(version)s", str(number))
            )

    return statements


def remove_statements(schema: str) -> list[str]:
    """The statements that take away what the migrations made, for a transaction of the caller's."""
    return [_LOCK, *migration("remove", schema)]


def install(tx: Tx) -> None:
    """Install what is missing, in a transaction of its own; cheap where nothing is."""
    try:
        verify(tx)
    except SchemaError:
        with tx.conn.transaction():
            run(tx, upgrade_statements(tx.schema))


def run(tx: Tx, statements: list[str]) -> None:
    """Run statements as they are."""
    for text in statements:
        tx.conn.execute(text)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is installed.

    Attributes:
        jobs: Whether there is a jobs table.
        marker: Whether any migration of ours was applied.
        trigger: Whether inserts wake the nodes.
    """

    jobs: bool
    marker: bool
    trigger: bool


def version(tx: Tx) -> int:
    """The newest migration applied; 0 when none was."""
    if not _inspection(tx).marker:
        return 0

    return int(tx.tuples("schema_version")[0][0] or 0)


def verify(tx: Tx) -> None:
    """Check that the tables are there and new enough; newer ones are fine.

    Raises:
        SchemaError: Says what is missing and which command to run.
    """
    found = _inspection(tx)
    where = f"schema {tx.schema!r}"

    if not found.marker or not found.jobs:
        missing = "oban_sync_migrations" if found.jobs else "oban_jobs"
        raise SchemaError(
            f"the table {missing} is missing in {where}; run {command('install', tx.schema)}, "
            "or add oban_sync.schema.install_sql() to your migrations"
        )

    if (have := version(tx)) < LATEST:
        raise SchemaError(
            f"the tables in {where} are at version {have}, this code needs {LATEST}; run "
            f"{command('upgrade', tx.schema)}, or add oban_sync.schema.upgrade_sql({have}) to your "
            "migrations"
        )

    if not found.trigger:
        raise SchemaError(
            f"the trigger oban_sync_notify_insert on oban_jobs in {where} is missing or disabled, "
            f"so nodes would not hear of new jobs; run {command('install', tx.schema)}"
        )


def _inspection(tx: Tx) -> Inspection:
    return tx.rows(Inspection, "schema_inspect", schema=tx.schema)[0]
