"""pgqueuer on a pool of asyncpg and uvloop, with batches of the queue's limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import tasks
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.adapters.drivers.asyncpg import AsyncpgPoolDriver
from pgqueuer.adapters.persistence.queries import Queries


class Pgqueuer(tasks.Peer):
    """Its queue manager; its entrypoints are what queues are elsewhere."""

    @asynccontextmanager
    async def _pool(self, least: int, most: int) -> AsyncIterator[Any]:
        known = self.given["conninfo"]
        settings = {
            key: value
            for key, value in (
                ("options", known.get("options")),
                ("application_name", known.get("application_name")),
            )
            if value
        }

        async with asyncpg.create_pool(
            host=known.get("host"),
            port=known.get("port"),
            user=known.get("user"),
            password=known.get("password"),
            database=known.get("dbname"),
            server_settings=settings,
            min_size=least,
            max_size=most,
        ) as pool:
            yield pool

    async def install(self) -> None:
        async with self._pool(1, 2) as pool:
            await Queries(AsyncpgPoolDriver(pool)).install()

    @asynccontextmanager
    async def opened(self, connections: int) -> AsyncIterator[None]:
        async with self._pool(connections, connections) as pool:
            self.queries = Queries(AsyncpgPoolDriver(pool))
            yield

    async def one(self, number: int, queue: str) -> None:
        await self.queries.enqueue(queue, b'{"number":%d}' % number, 0)

    async def many(self, numbers: range) -> None:
        for start in range(0, len(numbers), tasks.BATCH):
            batch = numbers[start : start + tasks.BATCH]
            await self.queries.enqueue(
                ["default"] * len(batch),
                [b'{"number":%d}' % number for number in batch],
                [0] * len(batch),
            )

    @asynccontextmanager
    async def working(self, run: Callable[[int], Awaitable[None]]) -> AsyncIterator[None]:
        async def perform(job: Any) -> None:
            # As cheap as can be: {"number":N}
            await run(int(job.payload[10:-1]))

        async with self._pool(2, 5) as pool:
            queuer = PgQueuer(AsyncpgPoolDriver(pool))

            for name in self.queues:
                queuer.entrypoint(name)(perform)

            # With max_concurrent_tasks it keeps to the limit, but takes twice as long at a limit of
            # 10: it is measured at its best.
            worker = asyncio.create_task(queuer.run(batch_size=self.given["limit"]))
            await asyncio.sleep(0 if self.given["task"] == "drain" else 0.5)

            try:
                yield
            finally:
                queuer.shutdown.set()

                with suppress(asyncio.CancelledError):
                    await worker


if __name__ == "__main__":
    tasks.main(Pgqueuer, uvloop.run)
