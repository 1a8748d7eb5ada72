"""A process that inserts unique jobs from several threads, whatever happens to its connections.

The same input as a node's; each further line has it insert: see `insert`.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from random import Random
from threading import Thread
from typing import Any

import psycopg

from oban_sync import DatabaseUnavailableError, Oban
from tests.chaos import workers
from tests.chaos.node import first_line, lines

UNIQUE = {"period": "forever", "states": "incomplete"}

#: Jobs of one bulk.
MOST = 20


class GivenUp(Exception):
    """What an application raises in the middle of its transaction."""


class Inserter:
    """One Oban without queues."""

    def __init__(self, spec: dict[str, Any]) -> None:
        workers.note_in(spec["ledger"], spec["name"])
        options = spec["options"]
        self.oban = Oban(options["conninfo"])
        workers.note("started")

    def insert(self, threads: int, times: int, keys: int, seed: str) -> None:
        """Insert jobs of random keys, so many times on each thread; note what came of it."""
        running = [
            Thread(target=self._insert, args=(times, keys, Random(f"{seed}:{index}")))
            for index in range(threads)
        ]

        for thread in running:
            thread.start()

        for thread in running:
            thread.join()

        workers.note("inserted all")

    def _insert(self, times: int, keys: int, random: Random) -> None:
        stored, found, lost, undone = [], [], 0, 0

        while times > 0:
            count = 1 if random.random() < 0.5 else min(times, random.randint(2, MOST))
            jobs = [
                workers.Quick.new({"key": random.randrange(keys)}, unique=UNIQUE)
                for _ in range(count)
            ]
            times -= count

            try:
                made = self._stored(jobs, random)
            except GivenUp:
                undone += count
            except (DatabaseUnavailableError, psycopg.OperationalError) as error:
                if isinstance(error, psycopg.errors.DeadlockDetected):
                    workers.note("surfaced", error=repr(error))

                lost += count
            except Exception as error:
                workers.note("surfaced", error=repr(error))
            else:
                stored += [job.id for job in made if not job.conflict]
                found += [job.id for job in made if job.conflict]

        workers.note("counts", stored=stored, found=found, lost=lost, undone=undone)

    def _stored(self, jobs: list[Any], random: Random) -> list[Any]:
        way = random.random()

        if way < 0.7:
            return [self.oban.enqueue(jobs[0])] if len(jobs) == 1 else self.oban.enqueue_many(jobs)

        with self.oban.transaction():
            made = self.oban.enqueue_many(jobs)

            if way < 0.85:
                raise GivenUp

            return made


def main() -> None:
    inserter = Inserter(json.loads(first_line()))

    for line in lines(0):
        asked = json.loads(line)

        with suppress(KeyError):
            Thread(target=getattr(inserter, asked.pop("do")), kwargs=asked, daemon=True).start()

    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
