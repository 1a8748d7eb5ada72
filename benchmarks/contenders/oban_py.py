"""Drain a queue with oban-py, set up as its own command line does: uvloop, orjson, defaults.

Runs on oban-py's own Python, so it imports nothing of this project. With ``"install": true`` it
only makes oban-py's tables, by oban-py's own installer.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from itertools import count
from typing import Any

import oban
import orjson
import uvloop
from oban import schema
from oban._config import Config
from psycopg.types.json import set_json_dumps, set_json_loads


async def main(given: dict[str, Any]) -> dict[str, Any]:
    """Run until the last job has run, and tell when the work began."""
    set_json_dumps(orjson.dumps)
    set_json_loads(orjson.loads)

    config = Config(dsn=given["dsn"], prefix=given["schema"])
    pool = await config.create_pool()

    try:
        if given.get("install"):
            await schema.install(pool, prefix=given["schema"])

            return {"installed": oban.__version__}

        return await drain(given, pool)
    finally:
        await pool.close()


async def drain(given: dict[str, Any], pool: Any) -> dict[str, Any]:
    """Run every job of the queue."""
    total = given["jobs"]
    counter = count(1)
    ran_all = asyncio.Event()

    class Noop:
        async def process(self, job: oban.Job) -> None:
            if next(counter) == total:
                ran_all.set()

    # The name in the rows; oban-py has no option for it.
    Noop.__module__, Noop.__qualname__ = given["worker"].rsplit(".", 1)
    oban.worker()(Noop)

    async with pool.connection() as conn:
        cursor = await conn.execute("SELECT timezone('UTC', clock_timestamp())::text")
        (started,) = await cursor.fetchone()

    used = time.process_time()

    async with oban.Oban(pool=pool, prefix=given["schema"], queues={"default": given["limit"]}):
        try:
            await asyncio.wait_for(ran_all.wait(), given["timeout"])
            finished = True
        except TimeoutError:
            finished = False

    return {
        "started": started,
        "finished": finished,
        "cpu": time.process_time() - used,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


if __name__ == "__main__":
    json.dump(uvloop.run(main(json.load(sys.stdin))), sys.stdout)
