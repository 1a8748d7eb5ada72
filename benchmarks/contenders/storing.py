"""Store jobs, by oban_sync or by raw statements, many at once or one by one.

One by one, several threads do so with a connection each; all begin at a line on standard input, so
that several processes begin together.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import tasks
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

#: The same, and nodes are woken in its transaction.
ONE_AND_NOTIFY = """
WITH stored AS (
    INSERT INTO {schema}.oban_jobs
        (queue, worker, args, meta, tags, priority, max_attempts, scheduled_at)
    VALUES ($1, $2, $3::jsonb, '{{}}', '{{}}', 0, 20, timezone('UTC', now()))
    RETURNING id
)
SELECT id, pg_notify('{schema}.oban_insert', '{{"queue":"default"}}') FROM stored
"""

#: Jobs per statement, as in the library.
BATCH = 5_000


def main() -> None:
    """Store the jobs; tell how long it took, and whether the ids came in order."""
    given = tasks.given()

    @oban_sync.worker(name=given["worker"])
    class Noop:
        def process(self, job: oban_sync.Job) -> None:
            pass

    if given["how"] in SINGLES:
        tasks.tell(_one_by_one(given, Noop))
        return

    measure: Callable[[dict[str, Any], Any], tuple[float, list[int]]] = {
        "enqueue_many": _enqueue_many,
        "new + enqueue_many": _new_and_enqueue_many,
        "unique": _unique,
        "unique, half there": _half_there,
        "raw bulk": _raw_bulk,
    }[given["how"]]
    seconds, ids = measure(given, Noop)
    tasks.tell({"seconds": seconds, "ordered": _in_order(ids, given["jobs"])})


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


def _one_by_one(given: dict[str, Any], worker: Any) -> dict[str, Any]:
    """Several threads, each of them with a part of the jobs."""
    connections = given["connections"]
    numbers = range(given["first"], given["first"] + given["jobs"])
    ids: list[list[int]] = [[] for _ in range(connections)]
    open_one = SINGLES[given["how"]](given, worker)
    ready = threading.Barrier(connections + 1)
    go = threading.Event()
    ended = threading.Barrier(connections + 1)

    def work(place: int) -> None:
        try:
            one = open_one()
            ready.wait()
            go.wait()
            ids[place] += [one(number) for number in numbers[place::connections]]
            ended.wait()
        except BaseException:
            ready.abort()
            ended.abort()
            raise

    threads = [threading.Thread(target=work, args=[place]) for place in range(connections)]

    for thread in threads:
        thread.start()

    ready.wait()
    tasks.ready()
    sys.stdin.readline()
    begun = time.monotonic_ns()
    go.set()
    ended.wait()
    told = {"begun": begun, "ended": time.monotonic_ns()}

    for thread in threads:
        thread.join()

    # Those of several connections are between each other.
    ordered = all(_in_order(each, len(each)) for each in ids)

    return told | {"ordered": ordered and sum(map(len, ids)) == len(numbers)}


def _enqueue(given: dict[str, Any], worker: Any, **options: Any) -> Callable[[], Any]:
    oban = oban_sync.Oban(given["dsn"], prefix=given["schema"], pool_size=given["connections"])

    def opened() -> Callable[[int], int]:
        # Until each thread has had one, none is given back: so there is one for each.
        with oban.connection() as conn:
            conn.execute("SELECT pg_sleep(0.1)")

        return lambda number: worker.enqueue({"number": number}, **options).id

    return opened


def _unique_enqueue(given: dict[str, Any], worker: Any) -> Callable[[], Any]:
    return _enqueue(given, worker, unique=True)


def _raw_single(statement: str) -> Callable[..., Callable[[], Any]]:
    """By libpq itself, prepared: no Python client can be faster."""

    def made(given: dict[str, Any], worker: Any) -> Callable[[], Any]:
        name = given["worker"].encode()

        def opened() -> Callable[[int], int]:
            conn = psycopg.connect(given["dsn"], autocommit=True)
            pgconn = conn.pgconn
            _check(pgconn.prepare(b"insert", statement.format(schema=given["schema"]).encode()))

            # The connection is held here, lest it is closed.
            def one(number: int, _conn: Any = conn) -> int:
                values = [b"default", name, b'{"number":%d}' % number]
                result = pgconn.exec_prepared(b"insert", values, None, Format.BINARY)
                _check(result)

                return int.from_bytes(_value(result, 0), "big")

            return one

        return opened

    return made


def _by_psycopg(given: dict[str, Any], worker: Any) -> Callable[[], Any]:
    """As a program in Python would do it."""
    statement = ONE_AND_NOTIFY.format(schema=given["schema"])

    for number in (1, 2, 3):
        statement = statement.replace(f"${number}", "%s")

    def opened() -> Callable[[int], int]:
        conn = psycopg.connect(given["dsn"], autocommit=True)

        def one(number: int) -> int:
            args = json.dumps({"number": number})
            row = conn.execute(
                statement, ["default", given["worker"], args], prepare=True
            ).fetchone()
            assert row is not None

            return int(row[0])

        return one

    return opened


#: What opens a connection in a thread; that gives what stores a job by its number and gives the id.
SINGLES: dict[str, Callable[[dict[str, Any], Any], Callable[[], Any]]] = {
    "enqueue": _enqueue,
    "unique enqueue": _unique_enqueue,
    "psycopg, NOTIFY": _by_psycopg,
    "raw, NOTIFY": _raw_single(ONE_AND_NOTIFY),
    "raw": _raw_single(ONE),
}


def _value(result: psycopg.pq.abc.PGresult, row: int) -> bytes:
    value = result.get_value(row, 0)
    assert value is not None

    return bytes(value)


def _check(result: psycopg.pq.abc.PGresult) -> None:
    if result.status not in (psycopg.pq.ExecStatus.TUPLES_OK, psycopg.pq.ExecStatus.COMMAND_OK):
        raise psycopg.OperationalError(result.error_message.decode(errors="replace"))


if __name__ == "__main__":
    main()
