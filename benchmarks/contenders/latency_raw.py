"""Jobs heard of and run by raw SQL in one thread: how soon a job can start at all.

One connection listens and takes jobs, the other stores them and notifies in the same statement. The
tasks are those of the peers.
"""

from __future__ import annotations

import os
import select
import sys
import time

import psycopg
import tasks
from psycopg.pq import ExecStatus, Format

from benchmarks.contenders.ceiling import LEAST
from oban_sync.engine.connections import LOOP_SETTINGS

CHANNEL = "oban_sync_bench_latency"

STORE = """
WITH stored AS (
    INSERT INTO {schema}.oban_jobs (queue, worker, args)
    VALUES ('default', $1, jsonb_build_object('number', $2::integer))
    RETURNING id
)
SELECT id, pg_notify('{channel}', 'default') FROM stored
"""

OWNER = b"00000000-0000-4000-8000-000000000000"


def main() -> None:
    """Do what is asked on standard input."""
    given = tasks.given()
    tasks.tell({"store": store, "serve": serve}[given["task"]](given))


def store(given: tasks.Given) -> tasks.Given:
    """Store jobs one by one."""
    times: dict[int, int] = {}
    waits = tasks.pauses(given["pause"], seed=given.get("first", 0))

    with psycopg.connect(given["dsn"], autocommit=True) as conn:
        text = STORE.format(schema=given["schema"], channel=CHANNEL)
        conn.pgconn.prepare(b"store", text.encode())
        first = given.get("first", 0)

        for number in range(first, first + given["jobs"]):
            time.sleep(next(waits))
            params = [given["worker"].encode(), str(number).encode()]
            _check(conn.pgconn.exec_prepared(b"store", params))
            times[number] = time.monotonic_ns()

    return {"times": times}


def serve(given: tasks.Given) -> tasks.Given:
    """Run jobs until standard input is closed, and tell when each began."""
    started: dict[int, int] = {}
    text = f"{LEAST.format(schema=given['schema'])}, (job.args ->> 'number')::integer"

    with psycopg.connect(given["dsn"], autocommit=True) as conn:
        for name, value in LOOP_SETTINGS.items():
            conn.execute("SELECT set_config(%s, %s, false)", [name, value])

        pgconn = conn.pgconn
        _check(pgconn.prepare(b"cycle", text.encode()))
        _check(pgconn.exec_(f"LISTEN {CHANNEL}".encode()))
        tasks.ready()
        ids: list[bytes] = []

        while True:
            params = [b"{" + b",".join(ids) + b"}", b"default", str(given["limit"]).encode(), OWNER]
            result = pgconn.exec_prepared(b"cycle", params, None, Format.TEXT)
            _check(result)
            now = time.monotonic_ns()
            ids = [result.get_value(row, 0) or b"" for row in range(result.ntuples)]

            for row in range(result.ntuples):
                started[int(result.get_value(row, 3) or 0)] = now

            while pgconn.notifies() is not None:
                pass

            if ids:
                continue

            found, _, _ = select.select([pgconn.socket, sys.stdin], [], [], 1.0)

            if sys.stdin in found and not os.read(sys.stdin.fileno(), 1):
                return {"started": started}

            pgconn.consume_input()


def _check(result: psycopg.pq.abc.PGresult) -> None:
    if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
        raise psycopg.OperationalError(result.error_message.decode(errors="replace"))


if __name__ == "__main__":
    main()
