"""oban-py, set up as its own command line does: uvloop, orjson, defaults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import oban
import orjson
import tasks
import uvloop
from oban import schema
from oban._config import Config
from psycopg.types.json import set_json_dumps, set_json_loads


class ObanPy(tasks.Peer):
    """Its pool, its facade, its workers."""

    def __init__(self, given: tasks.Given) -> None:
        super().__init__(given)
        set_json_dumps(orjson.dumps)
        set_json_loads(orjson.loads)
        self.run: Callable[[int], Awaitable[None]]
        peer = self

        class Noop:
            async def process(self, job: oban.Job) -> None:
                await peer.run(job.args["number"])

        self.worker = oban.worker()(Noop)

    @asynccontextmanager
    async def _pool(self, **sizes: int) -> AsyncIterator[Any]:
        pool = await Config(dsn=self.dsn, prefix=self.given["schema"], **sizes).create_pool()

        try:
            yield pool
        finally:
            await pool.close()

    async def install(self) -> None:
        async with self._pool() as pool:
            await schema.install(pool, prefix=self.given["schema"])

    @asynccontextmanager
    async def opened(self, connections: int) -> AsyncIterator[None]:
        async with self._pool(pool_min_size=connections, pool_max_size=connections) as pool:
            self.oban = oban.Oban(pool=pool, prefix=self.given["schema"])
            yield

    async def one(self, number: int, queue: str) -> None:
        await self.oban.enqueue(self.worker.new({"number": number}, queue=queue))

    async def many(self, numbers: range) -> None:
        await self.oban.enqueue_many([self.worker.new({"number": number}) for number in numbers])

    @asynccontextmanager
    async def working(self, run: Callable[[int], Awaitable[None]]) -> AsyncIterator[None]:
        self.run = run
        queues = dict.fromkeys(self.queues, self.given["limit"])

        async with (
            self._pool() as pool,
            oban.Oban(pool=pool, prefix=self.given["schema"], queues=queues),
        ):
            # Its producers listen a moment after it has started.
            await asyncio.sleep(0 if self.given["task"] == "drain" else 0.5)
            yield


if __name__ == "__main__":
    tasks.main(ObanPy, uvloop.run)
