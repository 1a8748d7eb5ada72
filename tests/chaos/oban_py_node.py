"""A node of oban-py for the same scenarios: the same input, the same ledger, the same jobs.

Run by oban-py's own Python, where oban_sync is not installed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any

# From the folder of this file: the packages above it are not for this Python.
from ledger import Ledger
from oban import Oban, Snooze, schema, worker
from psycopg_pool import AsyncConnectionPool

#: Fences count from here, as PostgreSQL's timestamps do.
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)

_ledgers: list[Ledger] = []


def note(event: str, **fields: Any) -> None:
    _ledgers[-1].note(event, **fields)


@contextmanager
def execution(job: Any):
    started = job.attempted_at
    started = started if started.tzinfo else started.replace(tzinfo=UTC)
    run = {"job": job.id, "fence": (started - EPOCH) // timedelta(microseconds=1)}
    run["attempt"] = job.attempt
    note("begin", **run)

    try:
        yield
    except BaseException as error:
        note("end", **run, how=type(error).__name__)
        raise

    note("end", **run, how="ok")


@worker(queue="alpha")
class Quick:
    __module__ = "chaos"

    async def process(self, job: Any) -> Any:
        with execution(job):
            pass


@worker(queue="alpha")
class Slow:
    __module__ = "chaos"

    async def process(self, job: Any) -> Any:
        with execution(job):
            await asyncio.sleep(job.args["seconds"])


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


@worker(queue="alpha", max_attempts=1)
class Poison:
    __module__ = "chaos"

    async def process(self, job: Any) -> Any:
        with execution(job):
            match job.args["kind"]:
                case "NUL in an error":
                    raise RuntimeError("a\0b")
                case "an error that cannot be shown":
                    raise Unspeakable
                case "sys.exit":
                    sys.exit(1)
                case "Snooze(timedelta)":
                    return Snooze(timedelta(seconds=60))

            return None


async def sampled(oban: Oban, step: float) -> None:
    while True:
        await asyncio.sleep(step - time.monotonic() % step)
        note("sample", leads=bool(oban.is_leader))


def end_with_the_input() -> None:
    """End when the input does: whoever started this is gone."""
    while os.read(0, 4096):
        pass

    os._exit(70)


def first_line() -> bytes:
    line = b""

    while (byte := os.read(0, 1)) not in (b"\n", b""):
        line += byte

    return line


async def main() -> None:
    spec = json.loads(first_line())
    options = spec["options"]
    _ledgers.append(Ledger(spec["ledger"], spec["name"]))

    async with AsyncConnectionPool(
        options.pop("conninfo"), min_size=1, max_size=10, open=False
    ) as pool:
        if "install" in sys.argv:
            await schema.install(pool)

        oban = Oban(pool=pool, **options)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os._exit, 0)
        await oban.start()
        note("started")
        Thread(target=end_with_the_input, daemon=True).start()
        await sampled(oban, spec["sample"])


if __name__ == "__main__":
    asyncio.run(main())
