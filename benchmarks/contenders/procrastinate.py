"""procrastinate, with async tasks, its concurrency at the queue's limit, and uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import procrastinate
import tasks
import uvloop


class Procrastinate(tasks.Peer):
    """Its app on psycopg's pool."""

    def __init__(self, given: tasks.Given) -> None:
        super().__init__(given)
        self.run: Callable[[int], Awaitable[None]]

    @asynccontextmanager
    async def _app(self, **pool: int) -> AsyncIterator[None]:
        self.app = procrastinate.App(
            connector=procrastinate.PsycopgConnector(conninfo=self.dsn, **pool)
        )

        @self.app.task(name="noop")
        async def noop(number: int) -> None:
            await self.run(number)

        self.task: Any = noop

        async with self.app.open_async():
            yield

    async def install(self) -> None:
        async with self._app():
            await self.app.schema_manager.apply_schema_async()

    @asynccontextmanager
    async def opened(self, connections: int) -> AsyncIterator[None]:
        async with self._app(min_size=connections, max_size=connections):
            yield

    async def one(self, number: int, queue: str) -> None:
        await self.task.configure(queue=queue).defer_async(number=number)

    async def many(self, numbers: range) -> None:
        for start in range(0, len(numbers), tasks.BATCH):
            await self.task.configure(queue="default").batch_defer_async(
                *({"number": number} for number in numbers[start : start + tasks.BATCH])
            )

    @asynccontextmanager
    async def working(self, run: Callable[[int], Awaitable[None]]) -> AsyncIterator[None]:
        self.run = run
        # One for listening, one for fetching, and some for what the jobs end with. Neither 4 nor 20
        # are faster.
        async with self._app(min_size=10, max_size=10):
            worker = asyncio.create_task(
                self.app.run_worker_async(
                    queues=self.queues,
                    concurrency=self.given["limit"],
                    install_signal_handlers=False,
                )
            )
            await asyncio.sleep(0 if self.given["task"] == "drain" else 0.5)

            try:
                yield
            finally:
                worker.cancel()
                await asyncio.gather(worker, return_exceptions=True)


if __name__ == "__main__":
    tasks.main(Procrastinate, uvloop.run)
