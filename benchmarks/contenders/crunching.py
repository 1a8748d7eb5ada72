"""Run CPU-bound jobs and jobs that do nothing, on threads or on processes that are ready."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from queue import SimpleQueue
from typing import Any

import oban_sync
from oban_sync import telemetry


def busy(loops: int) -> None:
    """Keep one core busy."""
    total = 0

    for number in range(loops):
        total += number * number


@oban_sync.job(name="benchmarks.crunch")
def crunch(loops: int) -> None:
    """Keep one core busy."""
    busy(loops)


@oban_sync.job(name="benchmarks.nothing")
def nothing() -> None:
    """Do nothing."""


def main() -> None:
    """Measure both kinds, after as many jobs to warm up."""
    given = json.load(sys.stdin)
    json.dump(raw(given) if given["executor"] == "raw" else ours(given), sys.stdout)


def raw(given: dict[str, Any]) -> dict[str, float]:
    """The loops alone, in processes of the standard library."""
    at_once = given["limit"]

    with multiprocessing.get_context("spawn").Pool(at_once) as pool:
        pool.map(busy, [given["loops"] // 4] * at_once, chunksize=1)
        started = time.monotonic()
        pool.map(busy, [given["loops"]] * at_once, chunksize=1)
        crunched = time.monotonic() - started
        started = time.monotonic()

        for _ in range(given["jobs"]):
            pool.apply(busy, (0,))

        return {"crunch": crunched, "nothing": time.monotonic() - started}


def ours(given: dict[str, Any]) -> dict[str, float]:
    """The same as jobs."""
    ended: SimpleQueue[dict[str, Any]] = SimpleQueue()
    telemetry.attach("ended", ["oban.job.stop"], lambda _event, fields: ended.put(fields))

    def seconds(jobs: list[oban_sync.Job]) -> float:
        started = time.monotonic()
        oban.enqueue_many(jobs)

        for _ in jobs:
            ended.get(timeout=given["timeout"])

        return time.monotonic() - started

    queue = {"limit": given["limit"], "executor": given["executor"]}

    with oban_sync.Oban(given["dsn"], prefix=given["schema"], queues={"default": queue}) as oban:
        at_once = given["limit"]
        # Side by side, so that every child is there.
        seconds([crunch.new(given["loops"] // 4) for _ in range(at_once)])

        return {
            "crunch": seconds([crunch.new(given["loops"]) for _ in range(at_once)]),
            "nothing": seconds([nothing.new() for _ in range(given["jobs"])]),
        }


if __name__ == "__main__":
    main()
