"""chancy, with its executor for asyncio, its concurrency at the limit, eager polling and uvloop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import tasks
import uvloop
from chancy import Chancy, Job, Queue, Worker


class Run:
    """What the job calls: a job is a function with a name that can be imported."""

    now: Callable[[int], Awaitable[None]]


async def noop(*, number: int) -> None:
    """The job."""
    await Run.now(number)


class ChancyPeer(tasks.Peer):
    """Its app, its worker, its default plugins."""

    def _app(self, **sizes: int) -> Chancy:
        # Its default is a line on the terminal per job.
        quiet = logging.getLogger("chancy")
        quiet.setLevel(logging.WARNING)

        return Chancy(self.dsn, log=quiet, **sizes)

    async def install(self) -> None:
        async with self._app() as app:
            await app.migrate()

    @asynccontextmanager
    async def opened(self, connections: int) -> AsyncIterator[None]:
        async with self._app(
            min_connection_pool_size=connections, max_connection_pool_size=connections
        ) as self.app:
            self.job = Job.from_func(noop)
            yield

    async def one(self, number: int, queue: str) -> None:
        await self.app.push(self.job.with_kwargs(number=number).with_queue(queue))

    async def many(self, numbers: range) -> None:
        jobs = [self.job.with_kwargs(number=number) for number in numbers]

        async for _ in self.app.push_many(jobs):
            pass

    @asynccontextmanager
    async def working(self, run: Callable[[int], Awaitable[None]]) -> AsyncIterator[None]:
        Run.now = run

        async with self._app() as app:
            for name in self.queues:
                await app.declare(
                    Queue(
                        name,
                        concurrency=self.given["limit"],
                        executor=Chancy.Executor.Async,
                        eager_polling=True,
                    ),
                    upsert=True,
                )

            async with Worker(app, register_signal_handlers=False):
                await asyncio.sleep(0 if self.given["task"] == "drain" else 0.5)
                yield


if __name__ == "__main__":
    tasks.main(ChancyPeer, uvloop.run)
