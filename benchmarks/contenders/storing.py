"""Store jobs, by oban_sync or by the raw statement, many at once or one by one."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.pq import Format

import oban_sync

#: The columns that the library stores, from a payload prepared beforehand, with ids back in order.
BULK = """
INSERT INTO {schema}.oban_jobs
    (queue, worker, args, meta, tags, priority, max_attempts, scheduled_at)
SELECT queue, worker, args, meta, tags, priority, max_attempts, timezone('UTC', now())
FROM jsonb_to_recordset($1::jsonb) AS job (
    queue text, worker text, args jsonb, meta jsonb, tags text[], priority integer,
    max_attempts integer
)
RETURNING id
"""

ONE = """
INSERT INTO {schema}.oban_jobs
    (queue, worker, args, meta, tags, priority, max_attempts, scheduled_at)
VALUES ($1, $2, $3::jsonb, '{{}}', '{{}}', 0, 20, timezone('UTC', now()))
RETURNING id
"""

#: Jobs per statement, as in the library.
BATCH = 5_000


def main() -> None:
    """Store the jobs; tell how long it took, and whether the ids came in order."""
    given = json.load(sys.stdin)

    @oban_sync.worker(name=given["worker"])
    class Noop:
        def process(self, job: oban_sync.Job) -> None:
            pass

    measure: Callable[[dict[str, Any], Any], tuple[float, list[int]]] = {
        "enqueue_many": _enqueue_many,
        "new + enqueue_many": _new_and_enqueue_many,
        "unique": _unique,
        "unique, half there": _half_there,
        "raw bulk": _raw_bulk,
        "enqueue": _enqueue,
        "unique enqueue": _unique_enqueue,
        "raw single": _raw_single,
    }[given["how"]]
    seconds, ids = measure(given, Noop)
    json.dump({"seconds": seconds, "ordered": _in_order(ids, given["jobs"])}, sys.stdout)


def _in_order(ids: list[int], jobs: int) -> bool:
    return len(ids) == jobs and all(one < next_ for one, next_ in zip(ids, ids[1:], strict=False))


def _opened(given: dict[str, Any]) -> oban_sync.Oban:
    """An Oban whose connection is made and whose statement is known."""
    oban = oban_sync.Oban(given["dsn"], prefix=given["schema"])

    with oban.connection() as conn:
        conn.execute("SELECT 1")

    return oban


def _enqueue_many(given: dict[str, Any], worker: Any) -> tuple[float, list[int]]:
    oban = _opened(given)
    jobs = [worker.new({"number": number}) for number in range(given["jobs"])]
    started = time.perf_counter()
    stored = oban.enqueue_many(jobs)
    seconds = time.perf_counter() - started
    _check_pairs(stored)

    return seconds, [job.id or 0 for job in stored]


def _new_and_enqueue_many(given: dict[str, Any], worker: Any) -> tuple[float, list[int]]:
    oban = _opened(given)
    started = time.perf_counter()
    stored = oban.enqueue_many(worker.new({"number": number}) for number in range(given["jobs"]))
    seconds = time.perf_counter() - started
    _check_pairs(stored)

    return seconds, [job.id or 0 for job in stored]


def _unique(given: dict[str, Any], worker: Any) -> tuple[float, list[int]]:
    oban = _opened(given)
    jobs = [worker.new({"number": number}, unique=True) for number in range(given["jobs"])]
    started = time.perf_counter()
    stored = oban.enqueue_many(jobs)
    seconds = time.perf_counter() - started
    _check_pairs(stored)
    assert not any(job.conflict for job in stored)

    return seconds, [job.id or 0 for job in stored]


def _half_there(given: dict[str, Any], worker: Any) -> tuple[float, list[int]]:
    """Every other job is there before; these ids are older, so each half is in order by itself."""
    oban = _opened(given)
    jobs = [worker.new({"number": number}, unique=True) for number in range(given["jobs"])]
    oban.enqueue_many(jobs[::2])
    started = time.perf_counter()
    stored = oban.enqueue_many(jobs)
    seconds = time.perf_counter() - started
    _check_pairs(stored)
    assert [job.conflict for job in stored] == [number % 2 == 0 for number in range(len(jobs))]

    return seconds, [job.id or 0 for job in (*stored[::2], *stored[1::2])]


def _check_pairs(stored: list[oban_sync.Job]) -> None:
    """That the ids belong to the jobs in the order given, in what was returned."""
    assert [job.args["number"] for job in stored] == list(range(len(stored)))


def _raw_bulk(given: dict[str, Any], worker: Any) -> tuple[float, list[int]]:
    rows = [
        json.dumps(
            {
                "queue": "default",
                "worker": given["worker"],
                "args": {"number": number},
                "meta": {},
                "tags": [],
                "priority": 0,
                "max_attempts": 20,
            },
            separators=(",", ":"),
        )
        for number in range(given["jobs"])
    ]
    batches = [
        f"[{','.join(rows[start : start + BATCH])}]".encode()
        for start in range(0, len(rows), BATCH)
    ]
    ids: list[int] = []

    with psycopg.connect(given["dsn"], autocommit=True) as conn:
        pgconn = conn.pgconn
        _check(pgconn.prepare(b"insert", BULK.format(schema=given["schema"]).encode()))
        started = time.perf_counter()
        _check(pgconn.exec_(b"BEGIN"))

        for batch in batches:
            result = pgconn.exec_prepared(b"insert", [batch], None, Format.BINARY)
            _check(result)
            ids += [int.from_bytes(_value(result, row), "big") for row in range(result.ntuples)]

        _check(pgconn.exec_(b"COMMIT"))
        seconds = time.perf_counter() - started

    return seconds, ids


def _enqueue(given: dict[str, Any], worker: Any) -> tuple[float, list[int]]:
    _opened(given)
    ids: list[int] = []
    started = time.perf_counter()

    for number in range(given["jobs"]):
        ids.append(worker.enqueue({"number": number}).id)

    return time.perf_counter() - started, ids


def _unique_enqueue(given: dict[str, Any], worker: Any) -> tuple[float, list[int]]:
    _opened(given)
    ids: list[int] = []
    started = time.perf_counter()

    for number in range(given["jobs"]):
        ids.append(worker.enqueue({"number": number}, unique=True).id)

    return time.perf_counter() - started, ids


def _raw_single(given: dict[str, Any], worker: Any) -> tuple[float, list[int]]:
    ids: list[int] = []

    with psycopg.connect(given["dsn"], autocommit=True) as conn:
        pgconn = conn.pgconn
        name = given["worker"].encode()
        _check(pgconn.prepare(b"insert", ONE.format(schema=given["schema"]).encode()))
        started = time.perf_counter()

        for number in range(given["jobs"]):
            args = b'{"number":%d}' % number
            result = pgconn.exec_prepared(b"insert", [b"default", name, args], None, Format.BINARY)
            _check(result)
            ids.append(int.from_bytes(_value(result, 0), "big"))

        seconds = time.perf_counter() - started

    return seconds, ids


def _value(result: psycopg.pq.abc.PGresult, row: int) -> bytes:
    value = result.get_value(row, 0)
    assert value is not None

    return bytes(value)


def _check(result: psycopg.pq.abc.PGresult) -> None:
    if result.status not in (psycopg.pq.ExecStatus.TUPLES_OK, psycopg.pq.ExecStatus.COMMAND_OK):
        raise psycopg.OperationalError(result.error_message.decode(errors="replace"))


if __name__ == "__main__":
    main()
