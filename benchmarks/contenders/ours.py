"""oban_sync: a real Oban, its real threads, everything on. Its tasks are those of the peers."""

from __future__ import annotations

import sys
import threading
import time
from itertools import count
from typing import Any

import tasks

import oban_sync


def main() -> None:
    """Do what is asked on standard input."""
    given = tasks.given()
    tasks.tell({"store": store, "drain": drain, "serve": serve}[given["task"]](given))


def _worker(given: tasks.Given, process: Any) -> Any:
    class Noop:
        pass

    Noop.process = process  # type: ignore[attr-defined]

    return oban_sync.worker(name=given["worker"])(Noop)


def _oban(given: tasks.Given, **options: Any) -> oban_sync.Oban:
    return oban_sync.Oban(
        given["dsn"],
        **{
            "prefix": given["schema"],
            "shutdown_grace_period": 30.0,
            **options,
            **given.get("oban", {}),
        },
    )


def _queues(given: tasks.Given) -> dict[str, Any]:
    return {
        tasks.queue(number, given.get("queues", 1)): {
            "limit": given["limit"],
            **given.get("options", {}),
        }
        for number in range(given.get("queues", 1))
    }


def drain(given: tasks.Given) -> tasks.Given:
    """Run until the last job has run, and tell when the work began."""
    total = given["jobs"]
    counter = count(1)
    ran_all = threading.Event()

    def process(self: Any, job: oban_sync.Job) -> None:
        if next(counter) == total:
            ran_all.set()

    _worker(given, process)
    oban = _oban(given, queues=_queues(given))
    usage = tasks.Usage()
    begun = time.monotonic_ns()
    oban.start()
    finished = ran_all.wait(given["timeout"])
    oban.stop()

    return {"begun": begun, "finished": finished, **usage.told()}


def serve(given: tasks.Given) -> tasks.Given:
    """Run jobs until standard input is closed, and tell when each began."""
    started: dict[int, int] = {}
    runs = count()
    stopping = threading.Event()
    work = given.get("work", 0)

    def process(self: Any, job: oban_sync.Job) -> None:
        started[job.args["number"]] = time.monotonic_ns()
        next(runs)

        if work:
            stopping.wait(work)

    _worker(given, process)
    oban = _oban(given, queues=_queues(given))

    if given.get("wait"):
        # Its fellows are to begin at the same time.
        tasks.ready()
        sys.stdin.readline()

    with oban:
        usage = tasks.Usage()

        if not given.get("wait"):
            tasks.ready()

        sys.stdin.read()
        told = usage.told()
        stopping.set()

    return {"started": started, "runs": next(runs), **told}


def store(given: tasks.Given) -> tasks.Given:
    """Store jobs, over so many connections by as many threads."""
    worker = _worker(given, lambda self, job: None)
    connections = given.get("connections", 1)
    first, jobs = given.get("first", 0), given["jobs"]
    numbers = range(first, first + jobs)
    times: dict[int, int] = {}
    oban = _oban(given, pool_size=connections)

    def singles(mine: range) -> None:
        waits = tasks.pauses(given.get("pause", 0), seed=mine.start)
        queues = given.get("queues", 1)
        paced = bool(given.get("pause"))

        for number in mine:
            if paced:
                time.sleep(next(waits))

            worker.enqueue({"number": number}, queue=tasks.queue(number, queues))

            if given.get("times"):
                times[number] = time.monotonic_ns()

    with oban.connection() as conn:
        conn.execute("SELECT 1")

    if given["how"] == "bulk":
        begun = time.monotonic_ns()
        oban.enqueue_many(worker.new({"number": number}) for number in numbers)
    else:
        threads = [
            threading.Thread(target=singles, args=[numbers[start::connections]])
            for start in range(connections)
        ]
        begun = time.monotonic_ns()

        for thread in threads:
            thread.start()

        for thread in threads:
            thread.join()

    ended = time.monotonic_ns()

    return {"begun": begun, "ended": ended, "seconds": (ended - begun) / 1e9, "times": times}


if __name__ == "__main__":
    main()
