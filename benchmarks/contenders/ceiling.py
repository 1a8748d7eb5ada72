"""Drain a queue with raw SQL on one connection: nothing in Python can be faster.

Each cycle is one prepared statement in its own commit, as in the library: it completes the jobs of
the cycle before and takes new ones. No fence, no count of what was acked, no column but those a job
cannot run without; nothing is parsed, nothing runs. With ``"statement": "ours"`` the cycles run the
library's own statement instead, which tells what of the distance is its SQL and what its Python.
"""

from __future__ import annotations

import json
import resource
import struct
import sys
import time

import psycopg
from psycopg.pq import Format

from oban_sync.engine.connections import LOOP_SETTINGS
from oban_sync.engine.statements import positional

LEAST = """
WITH acked AS (
    UPDATE {schema}.oban_jobs
    SET state = 'completed', completed_at = timezone('UTC', now())
    WHERE id = ANY ($1::bigint[])
)
UPDATE {schema}.oban_jobs AS job
SET state = 'executing',
    attempt = job.attempt + 1,
    attempted_at = timezone('UTC', now()),
    attempted_by = ARRAY['bench', $4::text]
WHERE job.id = ANY (ARRAY(
    SELECT id
    FROM {schema}.oban_jobs
    WHERE state = 'available' AND queue = $2::text AND attempt < max_attempts
    ORDER BY priority, scheduled_at, id
    LIMIT $3::integer
    FOR UPDATE SKIP LOCKED
))
RETURNING job.id, job.worker, job.args
"""

OWNER = b"00000000-0000-4000-8000-000000000000"

INT8_OID = 20


def main() -> None:
    """Drain the queue, and tell when the work began."""
    given = json.load(sys.stdin)
    drain = _drain_ours if given.get("statement") == "ours" else _drain_least

    with psycopg.connect(given["dsn"], autocommit=True) as conn:
        row = conn.execute("SELECT timezone('UTC', clock_timestamp())::text").fetchone()
        assert row is not None

    used = time.process_time()

    with psycopg.connect(given["dsn"], autocommit=True) as conn:
        for name, value in LOOP_SETTINGS.items():
            conn.execute("SELECT set_config(%s, %s, false)", [name, value])

        drain(conn.pgconn, given["schema"], given["limit"])

    json.dump(
        {
            "started": row[0],
            "finished": True,
            "cpu": time.process_time() - used,
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        },
        sys.stdout,
    )


def _drain_least(conn: psycopg.pq.abc.PGconn, schema: str, limit: int) -> None:
    _check(conn.prepare(b"cycle", LEAST.format(schema=schema).encode()))
    demand = str(limit).encode()
    formats = [Format.BINARY, Format.TEXT, Format.TEXT, Format.TEXT]
    # An array of bigint in binary form; each element comes from the reply as it is.
    header = struct.Struct("!IIIII")
    length = struct.pack("!I", 8)
    ids: list[bytes] = []
    left = True

    while left or ids:
        done = length + length.join(ids) if ids else b""
        array = header.pack(1, 0, INT8_OID, len(ids), 1) + done
        result = conn.exec_prepared(
            b"cycle", [array, b"default", demand, OWNER], formats, Format.BINARY
        )
        _check(result)
        ids = [result.get_value(row, 0) for row in range(result.ntuples)]  # type: ignore[misc]
        left = bool(ids)


def _drain_ours(conn: psycopg.pq.abc.PGconn, schema: str, limit: int) -> None:
    text, order = positional("job_ack_and_fetch", schema)

    for number in range(1, len(order) + 1):
        text = text.replace("%s", f"${number}", 1)

    _check(conn.prepare(b"cycle", text.encode()))
    params = {
        "ids": b"{}",
        "fences": b"{}",
        "queue": b"default",
        "demand": str(limit).encode(),
        "node": b"bench",
        "owner": OWNER,
        "shunned": b"{}",
    }

    while True:
        result = conn.exec_prepared(b"cycle", [params[name] for name in order], None, Format.BINARY)
        _check(result)
        last = result.nfields - 1
        taken = range(0 if result.get_value(0, 1) is None else result.ntuples)

        if not taken and params["ids"] == b"{}":
            return

        ids = [b"%d" % int.from_bytes(result.get_value(row, 1) or b"", "big") for row in taken]
        fences = [b'"%s"' % (result.get_value(row, last) or b"") for row in taken]
        params["ids"] = b"{" + b",".join(ids) + b"}"
        params["fences"] = b"{" + b",".join(fences) + b"}"


def _check(result: psycopg.pq.abc.PGresult) -> None:
    if result.status not in (psycopg.pq.ExecStatus.TUPLES_OK, psycopg.pq.ExecStatus.COMMAND_OK):
        raise psycopg.OperationalError(result.error_message.decode(errors="replace"))


if __name__ == "__main__":
    main()
