"""How long one tenant's job waits behind another's many, with fair share and without.

A queue holds many jobs of one tenant when one job of another tenant is enqueued. Told is how many
jobs of the first tenant started between the two, and how long the one waited. A round is as many
jobs as the queue runs at once, and with fair share the one starts within a round.
"""

from __future__ import annotations

import threading
import time
from argparse import Namespace
from typing import Any

import psycopg

import oban_sync
from benchmarks import rig

TENANT = {"args": "tenant"}

#: Seconds that a job takes.
WORK = 0.01


def main() -> None:
    """Measure, and print the table."""
    given = options()
    rows = []

    with rig.database(given.dsn, commit_delay=given.commit_delay) as dsn:
        known = rig.facts(dsn, commit_delay=given.commit_delay)
        figures = []

        for fair in (True, False) if given.plain else (True,):
            # Without fair share it waits for all of them: once is enough.
            rounds = given.rounds if fair else 1
            found = sorted(measured(dsn, given.jobs, given.limit, fair=fair) for _ in range(rounds))
            between, waited = found[len(found) // 2]
            figures.append(
                {
                    "contender": "fair" if fair else "plain",
                    "limit": given.limit,
                    "jobs": given.jobs,
                    "started_between": between,
                    "waited_ms": round(1000 * waited, 1),
                }
            )
            rows.append(
                [
                    "fair" if fair else "plain",
                    f"{given.jobs:,}",
                    f"{between:,}",
                    f"{1000 * waited:,.1f} ms",
                ]
            )

    text = rig.table(["queue", "jobs ahead", "of them started before it", "it waited"], rows)
    rig.finish(given, known, "fairness", figures, text)


def options() -> Namespace:
    """The command line."""
    parser = rig.parser("fairness", __doc__ or "")
    parser.add_argument(
        "--jobs",
        type=rig.positive,
        default=100_000,
        metavar="N",
        help="jobs of the first tenant (default: 100000)",
    )
    parser.add_argument(
        "--limit",
        type=rig.positive,
        default=10,
        metavar="N",
        help="limit of the queue (default: 10)",
    )
    parser.add_argument(
        "--plain",
        action="store_true",
        help="also without fair share, which takes as long as all of the jobs do",
    )
    given = parser.parse_args()

    if given.smoke:
        given.jobs, given.rounds = 2_000, 1

    return given


def measured(dsn: str, jobs: int, limit: int, *, fair: bool) -> tuple[int, float]:
    """Jobs that started between the enqueueing of the one and its start, and seconds between."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"TRUNCATE {rig.SCHEMA}.oban_jobs RESTART IDENTITY")
        conn.execute(
            f"INSERT INTO {rig.SCHEMA}.oban_jobs (queue, worker, args)"
            " SELECT 'default', %s, '{\"tenant\": \"many\"}' FROM generate_series(1, %s)",
            [rig.WORKER, jobs],
        )
        conn.execute(f"VACUUM (ANALYZE) {rig.SCHEMA}.oban_jobs")

        return _run(dsn, conn, limit, fair=fair)


def _run(dsn: str, conn: psycopg.Connection[Any], limit: int, *, fair: bool) -> tuple[int, float]:
    warm = threading.Event()
    started = threading.Event()
    pause = threading.Event()
    count = 0
    lock = threading.Lock()
    at: dict[str, Any] = {}

    @oban_sync.worker(name=rig.WORKER)
    class Work:
        def process(self, job: oban_sync.Job) -> None:
            nonlocal count

            with lock:
                if job.args["tenant"] == "one":
                    at["started"], at["after"] = time.monotonic(), count
                    started.set()
                else:
                    count += 1

            if count >= 20 * limit:
                warm.set()

            pause.wait(WORK)

    oban = oban_sync.Oban(
        dsn,
        prefix=rig.SCHEMA,
        queues={"default": {"limit": limit, **({"fair": TENANT} if fair else {})}},
        shutdown_grace_period=5.0,
    )

    with oban:
        if not warm.wait(rig.TIMEOUT):
            raise rig.BenchmarkError("the first tenant's jobs did not start")

        if fair:
            _until_indexed(conn)

        # So that a connection is open: it is the queue that is measured.
        Work.enqueue({"tenant": "many"})  # type: ignore[attr-defined]
        Work.enqueue({"tenant": "one"})  # type: ignore[attr-defined]
        enqueued = time.monotonic()
        before = count

        if not started.wait(rig.TIMEOUT + 2 * WORK * 100_000 / limit):
            raise rig.BenchmarkError("the other tenant's job did not start")

    return max(0, at["after"] - before), max(0.0, at["started"] - enqueued)


def _until_indexed(conn: psycopg.Connection[Any]) -> None:
    """Wait for the index that the node makes in the background."""
    deadline = time.monotonic() + rig.TIMEOUT
    pause = threading.Event()

    while True:
        row = conn.execute(
            "SELECT count(*) FROM pg_index JOIN pg_class ON oid = indexrelid"
            " WHERE relname LIKE 'oban_sync_lane_%' AND indisvalid"
        ).fetchone()

        if row is not None and row[0]:
            return

        if time.monotonic() > deadline:
            raise rig.BenchmarkError("the index of the lanes was not made")

        pause.wait(0.05)


if __name__ == "__main__":
    rig.run(main)
