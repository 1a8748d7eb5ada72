"""Drain a queue with raw SQL on one connection: nothing in Python can be faster.

Each cycle is one prepared statement in its own commit, as in the library: it completes the jobs of
the cycle before and takes new ones. No fence, no count of what was acked, no column but those a job
cannot run without; nothing is parsed, nothing runs. With ``"statement": "ours"`` the cycles run the
library's own statement instead, which tells what of the distance is its SQL and what its Python.
"""

from __future__ import annotations

import struct
import time

import psycopg
import tasks
from psycopg.pq import Format

from oban_sync.engine.connections import LOOP_SETTINGS
from oban_sync.engine.statements import numbered

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
TIMESTAMP_OID = 1114


def main() -> None:
    """Drain the queue, and tell when the work began."""
    given = tasks.given()
    drain = _drain_ours if given.get("statement") == "ours" else _drain_least

    usage = tasks.Usage()
    begun = time.monotonic_ns()

    with psycopg.connect(given["dsn"], autocommit=True) as conn:
        for name, value in LOOP_SETTINGS.items():
            conn.execute("SELECT set_config(%s, %s, false)", [name, value])

        drain(conn.pgconn, given["schema"], given["limit"])

    tasks.tell({"begun": begun, "finished": True, **usage.told()})


def _drain_least(conn: psycopg.pq.abc.PGconn, schema: str, limit: int) -> None:
    _check(conn.prepare(b"cycle", LEAST.format(schema=schema).encode()))
    demand = str(limit).encode()
    formats = [Format.BINARY, Format.TEXT, Format.TEXT, Format.TEXT]
    ids: list[bytes] = []
    left = True

    while left or ids:
        params = [_array(INT8_OID, ids), b"default", demand, OWNER]
        result = conn.exec_prepared(b"cycle", params, formats, Format.BINARY)
        _check(result)
        ids = [result.get_value(row, 0) for row in range(result.ntuples)]  # type: ignore[misc]
        left = bool(ids)


def _drain_ours(conn: psycopg.pq.abc.PGconn, schema: str, limit: int) -> None:
    text, order = numbered("job_ack_and_fetch", schema)
    _check(conn.prepare(b"cycle", text.encode()))
    params: dict[str, bytes] = {
        "queue": b"default",
        "demand": str(limit).encode(),
        "node": b"bench",
        "owner": OWNER,
        "shunned": b"{}",
        # Before every job.
        "priority": b"-1",
        "due": b"{-infinity}",
        "after": b"0",
    }
    formats = [Format.BINARY if name in ("ids", "fences") else Format.TEXT for name in order]
    ids: list[bytes] = []
    fences: list[bytes] = []

    while True:
        params["ids"] = _array(INT8_OID, ids)
        params["fences"] = _array(TIMESTAMP_OID, fences)
        result = conn.exec_prepared(
            b"cycle", [params[name] for name in order], formats, Format.BINARY
        )
        _check(result)
        names = [result.fname(column) for column in range(result.nfields)]
        id_at, fence_at = names.index(b"id"), names.index(b"attempted_at")
        # A row without a job tells how many were acked.
        taken = sorted(
            (result.get_value(row, id_at), result.get_value(row, fence_at))
            for row in range(result.ntuples)
            if result.get_value(row, id_at) is not None
        )

        if not taken and not ids:
            return

        ids = [id_ for id_, _ in taken]
        fences = [fence for _, fence in taken]


def _array(oid: int, values: list[bytes]) -> bytes:
    """An array of values of eight bytes in binary form, as they came in the reply."""
    length = struct.pack("!I", 8)

    if not values:
        return struct.pack("!III", 0, 0, oid)

    return struct.pack("!IIIII", 1, 0, oid, len(values), 1) + length + length.join(values)


def _check(result: psycopg.pq.abc.PGresult) -> None:
    if result.status not in (psycopg.pq.ExecStatus.TUPLES_OK, psycopg.pq.ExecStatus.COMMAND_OK):
        raise psycopg.OperationalError(result.error_message.decode(errors="replace"))


if __name__ == "__main__":
    main()
