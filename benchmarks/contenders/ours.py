"""Drain a queue with oban_sync: a real Oban, its real threads, everything on."""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from itertools import count

import psycopg

import oban_sync


def main() -> None:
    """Run until the last job has run, and tell when the work began."""
    given = json.load(sys.stdin)
    total = given["jobs"]
    counter = count(1)
    ran_all = threading.Event()

    @oban_sync.worker(name=given["worker"])
    class Noop:
        def process(self, job: oban_sync.Job) -> None:
            if next(counter) == total:
                ran_all.set()

    oban = oban_sync.Oban(
        given["dsn"],
        prefix=given["schema"],
        queues={"default": {"limit": given["limit"], **given.get("options", {})}},
        shutdown_grace_period=30.0,
    )

    with psycopg.connect(given["dsn"], autocommit=True) as conn:
        row = conn.execute("SELECT timezone('UTC', clock_timestamp())::text").fetchone()
        assert row is not None

    used = time.process_time()
    oban.start()
    finished = ran_all.wait(given["timeout"])
    oban.stop()

    json.dump(
        {
            "started": row[0],
            "finished": finished,
            "cpu": time.process_time() - used,
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
