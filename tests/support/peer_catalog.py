"""What PostgreSQL's catalog says of a schema, so that two of them can be compared."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import psycopg

from oban_sync.core.errors import EmbeddedServerError
from oban_sync.embedded import binaries

Catalog = dict[tuple[str, str], str]

_CATALOG = """
WITH own AS (
    SELECT oid, relname, relkind, relpersistence, reloptions
    FROM pg_class
    WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s)
)
SELECT 'table', relname, concat_ws(
    ' ', relkind, relpersistence, reloptions::text, obj_description(oid, 'pg_class')
)
FROM own
WHERE relkind IN ('r', 'p', 'v', 'm', 'S')

UNION ALL

SELECT 'column', relname || '.' || attname, concat_ws(
    ' ', format_type(atttypid, atttypmod), attnotnull, nullif(attidentity, ''),
    pg_get_expr(adbin, adrelid)
)
FROM own
JOIN pg_attribute ON attrelid = own.oid AND attnum > 0 AND NOT attisdropped
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE relkind = 'r'

UNION ALL

SELECT 'constraint', relname || '.' || conname, pg_get_constraintdef(con.oid)
FROM own
JOIN pg_constraint AS con ON conrelid = own.oid

UNION ALL

SELECT 'index', relname, pg_get_indexdef(oid) FROM own WHERE relkind = 'i'

UNION ALL

SELECT 'trigger', relname || '.' || tgname, concat_ws(
    ' ', pg_get_triggerdef(trigger.oid), tgenabled
)
FROM own
JOIN pg_trigger AS trigger ON tgrelid = own.oid AND NOT tgisinternal

UNION ALL

SELECT 'function', oid::regprocedure::text, pg_get_functiondef(oid)
FROM pg_proc
WHERE pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s)

UNION ALL

SELECT 'label', typname || '.' || enumlabel, ''
FROM pg_type
JOIN pg_enum ON enumtypid = pg_type.oid
WHERE typnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s)
"""


def catalog_of(conn: psycopg.Connection[Any], schema: str) -> Catalog:
    """Everything in a schema: (kind, name) to definition, in words that do not name the schema."""
    rows = conn.execute(_CATALOG, {"schema": schema}).fetchall()

    return {
        (kind, _without(name, schema)): _without(definition, schema)
        for kind, name, definition in rows
    }


def labels_of(conn: psycopg.Connection[Any], schema: str) -> list[str]:
    """The labels of the states, in their order."""
    rows = conn.execute(
        "SELECT enumlabel FROM pg_enum WHERE enumtypid = to_regtype(%s) ORDER BY enumsortorder",
        [f'"{schema}".oban_job_state'],
    )

    return [label for (label,) in rows.fetchall()]


def dump_of(dsn: str, schema: str) -> str | None:
    """What pg_dump writes for a schema without its rows; None without a pg_dump that is fit."""
    with psycopg.connect(dsn) as conn:
        program = _pg_dump(conn.info.server_version // 10_000)

    if program is None:
        return None

    ran = subprocess.run(
        [
            str(program),
            "--schema-only",
            "--no-owner",
            f'--schema="{schema}"',
            f"--dbname={dsn}",
        ],
        capture_output=True,
        text=True,
        timeout=60.0,
    )
    assert ran.returncode == 0, ran.stderr

    # The commands that keep psql from being led astray hold a random word.
    lines = [line for line in ran.stdout.splitlines() if "restrict " not in line]

    return _without("\n".join(lines), schema)


@cache
def _pg_dump(server: int) -> Path | None:
    found = [shutil.which("pg_dump")]

    with suppress(EmbeddedServerError):
        found.insert(0, shutil.which("pg_dump", path=binaries.find_binaries()))

    for name in filter(None, found):
        told = subprocess.run([name, "--version"], capture_output=True, text=True, timeout=30.0)
        version = "".join(told.stdout.split()[2:3]).split(".")[0]

        # An older one refuses a newer server.
        if version.isdecimal() and int(version) >= server:
            return Path(name)

    return None


def _without(text: str, schema: str) -> str:
    return text.replace(f'"{schema}"', "own").replace(schema, "own")
