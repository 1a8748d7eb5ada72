"""The jobs of the suite. Each notes its beginning and its end in the ledger of its process."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

from oban_sync import Oban, Snooze, worker
from tests.chaos.ledger import Ledger

_ledgers: list[Ledger] = []

#: Where a node's child processes, which import this module, find its ledger.
LEDGER = "CHAOS_LEDGER"


def note(event: str, **fields: Any) -> float:
    """Write a line into the ledger of this process, or of the node it is a child of; its time."""
    if not _ledgers:
        _ledgers.append(Ledger(*json.loads(os.environ[LEDGER])))

    return _ledgers[-1].note(event, **fields)


def note_in(path: str, node: str) -> None:
    """Let everything of this process and its children be noted there."""
    os.environ[LEDGER] = json.dumps([path, node])
    _ledgers.append(Ledger(path, node))


@contextmanager
def execution(job: Any) -> Iterator[None]:
    """Note an execution; how it ended is the class of what it raised, or ``ok``."""
    job_id, fence = job.key
    run = {"job": job_id, "fence": fence, "attempt": job.attempt}
    note("begin", **run)

    try:
        yield
    except BaseException as error:
        note("end", **run, how=type(error).__name__)
        raise

    note("end", **run, how="ok")


def wait(seconds: float) -> None:
    """Do nothing for so long, as a job that waits for a slow service does."""
    Event().wait(seconds)


@worker(queue="alpha", name="chaos.Quick")
class Quick:
    def process(self, job):
        with execution(job):
            pass


@worker(queue="alpha", name="chaos.Slow")
class Slow:
    """Waits, and then fails until an attempt if it is told one."""

    def process(self, job):
        with execution(job):
            wait(job.args["seconds"])

            if job.attempt < job.args.get("succeeds_at", 1):
                raise RuntimeError("trouble")

    def backoff(self, job):
        return 0.2


@worker(queue="alpha", name="chaos.Tick")
class Tick:
    """What the cron entries enqueue."""

    def process(self, job):
        with execution(job):
            pass


@worker(queue="alpha", name="chaos.Failing")
class Failing:
    """Fails until an attempt."""

    def process(self, job):
        with execution(job):
            if job.attempt < job.args.get("succeeds_at", 2):
                raise RuntimeError("trouble")

    def backoff(self, job):
        return 0.2


@worker(queue="alpha", name="chaos.Gripping")
class Gripping:
    """Holds the interpreter: no other thread of the process runs meanwhile."""

    def process(self, job):
        with execution(job):
            ctypes.PyDLL(None).usleep(int(job.args["seconds"] * 1_000_000))


@worker(queue="alpha", name="chaos.Deadly")
class Deadly:
    """Kills its process, as a crash in an extension module or the kernel's OOM killer does."""

    def process(self, job):
        with execution(job):
            wait(job.args.get("seconds", 0.3))
            os.kill(os.getpid(), signal.SIGKILL)


@worker(queue="alpha", name="chaos.Watchful")
class Watchful:
    """Notes when it is told that its lease is lost, and works on until a file is there."""

    def process(self, job):
        with execution(job):
            over = Path(job.args["over"])
            until = time.monotonic() + job.args["seconds"]
            told = False

            while time.monotonic() < until and not over.exists():
                if job.lease_lost() and not told:
                    note("lease_lost", job=job.key[0], fence=job.key[1])
                    told = True

                wait(0.02)


@worker(queue="alpha", name="chaos.Hoarding")
class Hoarding:
    """Keeps a connection of the application's pool."""

    def process(self, job):
        with execution(job), Oban.get_instance().connection() as conn:
            conn.execute("SELECT 1")
            wait(job.args["seconds"])


class Unspeakable(Exception):
    """An error that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("not even this")


@worker(queue="alpha", name="chaos.Poison", max_attempts=1)
class Poison:
    """Breaks what writes its outcome, if anything does."""

    def process(self, job):
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


@worker(queue="alpha", name="chaos.Paying", transactional=True)
class Paying:
    """Leaves two effects and a job in its transaction, with time between them; fails if told."""

    def process(self, job, conn):
        with execution(job):
            for part in ("debit", "credit"):
                conn.execute("INSERT INTO effects (job, part) VALUES (%s, %s)", [job.key[0], part])
                wait(job.args["seconds"] / 2)

            Quick.enqueue({"of": job.key[0]})

            if job.attempt < job.args.get("succeeds_at", 1):
                raise RuntimeError("trouble")

    def backoff(self, job):
        return 0.2


EVERY = (Quick, Slow, Tick, Failing, Gripping, Deadly, Watchful, Hoarding, Poison, Paying)

WORKERS = {cls.__name__: cls for cls in EVERY}
