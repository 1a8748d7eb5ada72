"""What the programs of the contenders have in common: how they are told what to do.

Found on the path by every contender, whatever its Python and its environment: so it imports nothing
but the standard library.

A program reads one line of JSON, whose "task" says what it does, and prints one line of JSON at its
end. Moments are `time.monotonic_ns`, which processes of one machine share.

  install  makes the tables
  store    stores jobs with args {"number": n}, one by one or many at once
  drain    runs jobs until "jobs" of them have run
  serve    runs jobs until standard input is closed; prints `ready` before
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

#: Jobs per call where a contender's own default is not meant for many.
BATCH = 5_000

Given = dict[str, Any]


def given() -> Given:
    """What is to be done."""
    told: Given = json.loads(sys.stdin.readline())

    return told


def tell(told: Given) -> None:
    """Say what came of it."""
    print(json.dumps(told), flush=True)


def ready() -> None:
    """Say that the work may begin."""
    print("ready", flush=True)


def queue(number: int, queues: int) -> str:
    """The queue of a job."""
    number %= queues

    return f"q{number}" if number else "default"


class Usage:
    """Time of the processor since it was made, and memory."""

    def __init__(self) -> None:
        self._from = time.process_time()

    def told(self) -> Given:
        """In seconds and megabytes."""
        return {
            "cpu": time.process_time() - self._from,
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }


def pauses(pause: float | list[float], seed: int = 0) -> Iterator[float]:
    """Seconds to wait before each job, by a schedule: who was late does not wait as long."""
    least, most = pause if isinstance(pause, list) else (pause, pause)
    chance = random.Random(seed)
    due = time.monotonic()

    while True:
        due += chance.uniform(least, most)
        yield max(0.0, due - time.monotonic())


class Peer:
    """A contender on asyncio, as its program describes it.

    A program makes a subclass and calls `main` with it; what a peer does not have differently is
    here.
    """

    def __init__(self, given: Given) -> None:
        self.given = given
        self.dsn: str = given["dsn"]
        self.queues: list[str] = [
            queue(each, given.get("queues", 1)) for each in range(given.get("queues", 1))
        ]

    async def install(self) -> None:
        """Make the tables by the peer's own installer."""
        raise NotImplementedError

    def opened(self, connections: int) -> AbstractAsyncContextManager[Any]:
        """What is needed for storing over so many connections."""
        raise NotImplementedError

    async def one(self, number: int, queue: str) -> None:
        """Store a job, and return when it is committed."""
        raise NotImplementedError

    async def many(self, numbers: range) -> None:
        """Store jobs by the peer's way for many."""
        raise NotImplementedError

    def working(self, run: Callable[[int], Awaitable[None]]) -> AbstractAsyncContextManager[Any]:
        """Workers that await `run` with each job's number; inside, they listen."""
        raise NotImplementedError


def main(peer: type[Peer], runner: Callable[..., Any]) -> None:
    """Do what is asked on standard input, on the event loop of `runner`."""
    known = given()
    tell(runner(_main(peer(known), known)))


async def _main(peer: Peer, given: Given) -> Given:
    match given["task"]:
        case "install":
            await peer.install()
            return {}
        case "store":
            return await _store(peer, given)
        case "drain":
            return await _drain(peer, given)
        case "serve":
            return await _serve(peer, given)
        case task:
            raise ValueError(f"there is no task {task!r}")


async def _store(peer: Peer, given: Given) -> Given:
    connections = given.get("connections", 1)
    first, jobs = given.get("first", 0), given["jobs"]
    numbers = range(first, first + jobs)
    times: dict[int, int] = {}

    async with peer.opened(connections):
        if given["how"] == "bulk":
            begun = time.monotonic_ns()
            await peer.many(numbers)
        else:
            begun = time.monotonic_ns()
            await asyncio.gather(
                *(
                    _singles(peer, given, numbers[start::connections], times)
                    for start in range(connections)
                )
            )

        ended = time.monotonic_ns()

    return {"begun": begun, "ended": ended, "seconds": (ended - begun) / 1e9, "times": times}


async def _singles(peer: Peer, given: Given, numbers: range, times: dict[int, int]) -> None:
    waits = pauses(given.get("pause", 0), seed=numbers.start)
    queues = given.get("queues", 1)
    paced = bool(given.get("pause"))

    for number in numbers:
        if paced:
            await asyncio.sleep(next(waits))

        await peer.one(number, queue(number, queues))

        if given.get("times"):
            times[number] = time.monotonic_ns()


async def _drain(peer: Peer, given: Given) -> Given:
    total, count = given["jobs"], 0
    ran_all = asyncio.Event()

    async def run(number: int) -> None:
        nonlocal count
        count += 1

        if count == total:
            ran_all.set()

    usage = Usage()
    begun = time.monotonic_ns()
    finished = True

    async with peer.working(run):
        try:
            await asyncio.wait_for(ran_all.wait(), given["timeout"])
        except TimeoutError:
            finished = False

    return {"begun": begun, "finished": finished, **usage.told()}


async def _serve(peer: Peer, given: Given) -> Given:
    started: dict[int, int] = {}
    stopping = asyncio.Event()
    work = given.get("work", 0)

    async def run(number: int) -> None:
        started[number] = time.monotonic_ns()

        if work:
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), work)

    async with peer.working(run):
        usage = Usage()
        ready()
        await asyncio.to_thread(sys.stdin.read)
        told = usage.told()
        stopping.set()

    return {"started": started, **told}
