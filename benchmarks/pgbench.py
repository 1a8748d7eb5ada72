"""Single inserts by pgbench: what the database does, without Python in the way."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from benchmarks import rig
from oban_sync import EmbeddedServerError
from oban_sync.embedded.binaries import SYSTEM, find_binaries
from oban_sync.engine.statements import numbered

#: What `Worker.enqueue` runs.
OURS = "job_insert_one"

RAW = """
INSERT INTO {schema}.oban_jobs
    (queue, worker, args, meta, tags, priority, max_attempts, scheduled_at)
VALUES (:queue, :worker, :args::jsonb, '{{}}', '{{}}', 0, 20, timezone('UTC', now()))
RETURNING id
"""

NOTIFYING = """
WITH stored AS (
    INSERT INTO {schema}.oban_jobs
        (queue, worker, args, meta, tags, priority, max_attempts, scheduled_at)
    VALUES (:queue, :worker, :args::jsonb, '{{}}', '{{}}', 0, 20, timezone('UTC', now()))
    RETURNING id
)
SELECT id, pg_notify('{schema}.oban_insert', '{{"queue":"default"}}') FROM stored
"""

#: By the names of parameters.
VALUES = {
    "job": '{"args":{"number":1}}',
    "usual": json.dumps(
        {"queue": "default", "worker": rig.WORKER, "priority": 0, "max_attempts": 20}
    ),
    "queue": "default",
    "worker": rig.WORKER,
    "args": '{"number":1}',
}


@dataclass(frozen=True, slots=True)
class Script:
    """A statement with `:name` for its parameters."""

    text: str
    names: tuple[str, ...]


def scripts(schema: str) -> dict[str, Script]:
    """Our own statement and the raw ones."""
    text, order = numbered(OURS, schema)
    ours = re.sub(r"\$(\d+)", lambda found: f":{order[int(found[1]) - 1]}", text)
    raw = ("queue", "worker", "args")

    return {
        "our statement": Script(ours, order),
        "raw, NOTIFY": Script(NOTIFYING.format(schema=schema), raw),
        "raw": Script(RAW.format(schema=schema), raw),
    }


def speed(dsn: str, script: Script, jobs: int, connections: int) -> float:
    """Jobs per second, prepared, each in its own commit."""
    known = conninfo_to_dict(dsn)
    password = known.pop("password", None)
    # Of Python's and pgbench's libpq the latter may be older, and know fewer options.
    plain = make_conninfo("", **{key: known[key] for key in known if key != "sslnegotiation"})

    with tempfile.TemporaryDirectory(prefix="oban-sync-bench-") as directory:
        file = Path(directory) / "insert.sql"
        # The command ends with its first semicolon.
        file.write_text(f"{script.text.strip()};\n", encoding="utf-8")
        given = [f"--define={name}={VALUES[name]}" for name in script.names]
        done = subprocess.run(
            [
                *(program(), "--no-vacuum", "--protocol=prepared", f"--file={file}"),
                *(f"--client={connections}", f"--jobs={min(connections, 2)}"),
                f"--transactions={max(1, jobs // connections)}",
                *given,
                plain,
            ],
            capture_output=True,
            text=True,
            timeout=rig.TIMEOUT,
            env={**os.environ, **({"PGPASSWORD": str(password)} if password else {})},
        )

    found = re.search(r"tps = ([\d.]+)", done.stdout)

    if done.returncode or found is None:
        raise rig.BenchmarkError(f"pgbench failed:\n{done.stderr.strip()[-2_000:]}")

    return float(found[1])


def program() -> str:
    """Where pgbench is: beside the server's programs, on the path, or where Debian has it.

    Raises:
        BenchmarkError: It is nowhere.
    """
    try:
        beside = [find_binaries() / "pgbench"]
    except EmbeddedServerError:
        beside = []

    system = sorted(SYSTEM.glob("*/bin/pgbench"), reverse=True)

    for place in [*beside, *system]:
        if os.access(place, os.X_OK):
            return str(place)

    if found := shutil.which("pgbench"):
        return found

    raise rig.BenchmarkError("pgbench was not found beside PostgreSQL's programs")
