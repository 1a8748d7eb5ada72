"""A program for oban-py's own Python, where oban_sync is not installed: one node, told what to do.

Reads a JSON object per line, ``{"do": name, ...}``, and answers each with a line of its own,
``{"ok": value}`` or ``{"error": traceback}``. Ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from typing import Any

from oban import Cancel, Oban, Record, Snooze, schema, worker
from oban._recorded import decode_recorded
from psycopg_pool import AsyncConnectionPool

NODE = "the-oban-py-node"

#: The jobs that were started here.
started: list[int] = []


@worker(queue="both")
class Echo:
    __module__ = "shop"

    async def process(self, job: Any) -> Any:
        started.append(job.id)

        return Record(job.args["value"])


@worker(queue="both")
class Sleepy:
    __module__ = "shop"

    async def process(self, job: Any) -> Any:
        started.append(job.id)

        return None if job.meta.get("snoozed", 0) >= 2 else Snooze(60, {"by": NODE})


@worker(queue="both")
class Flaky:
    __module__ = "shop"

    async def process(self, job: Any) -> Any:
        if job.attempt < 4:
            raise RuntimeError(f"trouble {job.attempt} on {NODE}")

    def backoff(self, job: Any) -> int:
        return 60


@worker(queue="both")
class Picky:
    __module__ = "shop"

    async def process(self, job: Any) -> Any:
        return Cancel(f"not wanted on {NODE}")


@worker(queue="both")
class Patient:
    __module__ = "shop"

    async def process(self, job: Any) -> Any:
        started.append(job.id)

        while not job.cancelled():
            await asyncio.sleep(0.01)

        return Cancel(f"asked to stop on {NODE}")


WORKERS = {cls.__name__: cls for cls in (Echo, Sleepy, Flaky, Picky, Patient)}


class Node:
    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool
        self._oban = Oban(pool=pool)

    async def install(self) -> None:
        await schema.install(self._pool)

    async def start(self, queues: dict[str, int], stage_every: float = 600.0) -> None:
        self._oban = Oban(
            pool=self._pool,
            queues=queues,
            node=NODE,
            # So seldom that what comes soon came by a notification.
            stager={"interval": stage_every},
            shutdown_grace_period=10.0,
        )
        await self._oban.start()

    async def stop(self) -> None:
        await self._oban.stop()

    async def enqueue(self, worker: str, args: dict[str, Any], **options: Any) -> int:
        job = await WORKERS[worker].enqueue(args, **options)

        return job.id

    async def enqueue_many(self, worker: str, count: int) -> list[int]:
        cls = WORKERS[worker]
        jobs = await self._oban.enqueue_many(cls.new({"value": n}) for n in range(count))

        return [job.id for job in jobs]

    async def get(self, job_id: int) -> dict[str, Any]:
        job = await self._oban.get_job(job_id)
        recorded = job.meta.get("recorded")

        return {
            **{name: getattr(job, name) for name in ("state", "args", "tags", "meta", "attempt")},
            **{name: getattr(job, name) for name in ("errors", "queue", "worker", "priority")},
            "value": decode_recorded(job.meta["return"]) if recorded else None,
        }

    async def started(self) -> list[int]:
        return started

    async def pause(self, queue: str) -> None:
        await self._oban.pause_queue(queue)

    async def resume(self, queue: str) -> None:
        await self._oban.resume_queue(queue)

    async def scale(self, queue: str, limit: int) -> None:
        await self._oban.scale_queue(queue=queue, limit=limit)

    async def check(self, queue: str) -> dict[str, Any]:
        found = self._oban.check_queue(queue)

        return {"paused": found.paused, "limit": found.limit}

    async def cancel(self, job_id: int) -> None:
        await self._oban.cancel_job(job_id)


async def main() -> None:
    loop = asyncio.get_running_loop()

    async with AsyncConnectionPool(os.environ["PEER_DSN"], open=False) as pool:
        node = Node(pool)

        while line := await loop.run_in_executor(None, sys.stdin.readline):
            asked = json.loads(line)

            try:
                answer = {"ok": await getattr(node, asked.pop("do"))(**asked)}
            except Exception:
                answer = {"error": traceback.format_exc()}

            print(json.dumps(answer), flush=True)

        await node.stop()


if __name__ == "__main__":
    asyncio.run(main())
