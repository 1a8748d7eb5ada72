"""What `oban-sync demo` shows: a few hundred jobs, and everything a job can come to.

It is an ordinary application of the library. Only the demo imports it, since its workers would
otherwise be registered, and so runnable, in every worker process.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import click

from oban_sync import (
    Cancel,
    Discard,
    Job,
    Oban,
    Record,
    SchemaError,
    Snooze,
    Worker,
    current_job,
    job,
    schema,
    worker,
)
from oban_sync.core.causes import cause_of
from oban_sync.core.config import mask
from oban_sync.embedded import Server
from oban_sync.telemetry.log import printable

PREFIX = "oban_demo"
NAME = "oban-demo"
QUEUES = {"default": 20, "mailers": 5}

#: Seconds after which jobs that are still not done are told as such.
PATIENCE = 60.0


@worker(oban=NAME, tags=["quick"])
class Quick(Worker):
    """Done at once."""

    def process(self, job: Job) -> object:
        return None


@worker(oban=NAME, priority=2, tags=["slow"])
class Slow(Worker):
    """Keeps a thread busy for a tenth of a second or so, outside of Python's lock."""

    def process(self, job: Job) -> object:
        hashlib.pbkdf2_hmac("sha256", b"password", str(job.id).encode(), job.args["rounds"])

        return None


@worker(oban=NAME, queue="mailers", max_attempts=5)
class Flaky(Worker):
    """Fails twice, and succeeds at the third attempt."""

    def process(self, job: Job) -> object:
        if job.attempt < 3:
            raise ConnectionError(f"mail server said 451 at attempt {job.attempt}")

        return None

    def backoff(self, job: Job) -> float:
        return 0.5 * job.attempt


@worker(oban=NAME, queue="mailers", max_attempts=2)
class Failing(Worker):
    """Never succeeds, and is given up after its last attempt."""

    def process(self, job: Job) -> object:
        raise LookupError(f"no such mailbox: {job.args['to']}")

    def backoff(self, job: Job) -> float:
        return 0.5


@worker(oban=NAME)
class Patient(Worker):
    """Puts itself off twice; no attempt is spent by it."""

    def process(self, job: Job) -> object:
        return Snooze(0.5) if job.meta.get("snoozed", 0) < 2 else None


@worker(oban=NAME, schedule_in=2.0)
class Scheduled(Worker):
    """Starts two seconds after it was enqueued."""

    def process(self, job: Job) -> object:
        return None


@worker(oban=NAME)
class Unwanted(Worker):
    """Stops itself: some by cancelling, some by giving up."""

    def process(self, job: Job) -> object:
        if job.args["n"] % 2:
            return Cancel("the newsletter was called off")

        return Discard("the address is malformed, trying again cannot help")


@job(oban=NAME)
def recorded_sum(a: int, b: int) -> Record:
    """Keeps a value with the job."""
    running = current_job()

    return Record({"sum": a + b, "attempt": running.attempt if running else 0})


@job(oban=NAME, queue="mailers")
def welcome(user: str) -> None:
    """Was enqueued in the transaction that stored its user."""


@worker(oban=NAME, queue="burst")
class NoOp(Worker):
    """For the throughput at the end."""

    def process(self, job: Job) -> object:
        return None


WORKERS = (Quick, Slow, Flaky, Failing, Patient, Scheduled, Unwanted, recorded_sum, welcome)


def show(dsn: str | None, burst: int, serve: Callable[[Oban], None] | None = None) -> bool:
    """Run the demo on a server, or on a private one; tell whether every job was done in time.

    Args:
        dsn: The server; None for a private one.
        burst: Jobs of the throughput run.
        serve: Serves a dashboard until somebody has seen enough, while the queues run again.
    """
    with ExitStack() as stack:
        conninfo = stack.enter_context(_database(dsn))
        oban = Oban(conninfo, prefix=PREFIX, name=NAME, queues=QUEUES, stager={"interval": 0.25})

        with oban:
            _say(f"Started {len(QUEUES)} queues: default with 20 threads, mailers with 5.")
            enqueued = _enqueue(oban)
            finished = _follow(oban, enqueued)
            _summarize(oban)
            ended = oban.stop()

        _say(
            "Stopped the queues; every thread has ended."
            if ended
            else "Stopped the queues; some jobs did not return, and keep their threads."
        )

        if burst:
            _burst(conninfo, burst)

        if serve is not None:
            click.echo()

            with Oban(conninfo, prefix=PREFIX, name=NAME, queues=QUEUES) as oban:
                serve(oban)

    if dsn is None:
        _say("Stopped PostgreSQL and removed its folder.")
    else:
        _say(f"Removed schema {PREFIX}.")

    return finished


@contextmanager
def _database(dsn: str | None) -> Iterator[str]:
    if dsn is not None:
        with _connected(dsn) as conn:
            _refuse_leftovers(conn)
            schema.install(conn, prefix=PREFIX)

        _say(f"Installed the tables in schema {PREFIX} of {mask(dsn)}.")

        try:
            yield dsn
        finally:
            with _connected(dsn) as conn:
                conn.execute(f"DROP SCHEMA {PREFIX} CASCADE")

        return

    folder = tempfile.mkdtemp(prefix="oban-sync-demo-")
    started = time.monotonic()

    try:
        with Server(folder) as conninfo:
            _say(f"Started a private PostgreSQL in {time.monotonic() - started:.1f} s.")
            version = schema.install(conninfo, prefix=PREFIX)
            _say(f"Installed the tables, version {version}.")

            yield conninfo
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _connected(dsn: str) -> Iterator[Any]:
    client = Oban(dsn, name=NAME)

    try:
        with client.connection() as conn:
            yield conn
    finally:
        client.stop()


def _refuse_leftovers(conn: Any) -> None:
    [(found,)] = conn.execute("SELECT to_regnamespace(%s) IS NOT NULL", [PREFIX]).fetchall()

    if found:
        raise SchemaError(
            f"there is a schema {PREFIX} already, perhaps of a demo that was killed; "
            f"if nothing in it is needed, DROP SCHEMA {PREFIX} CASCADE"
        )


def _enqueue(oban: Oban) -> int:
    started = time.monotonic()
    jobs = [
        *(Quick.new({"n": n}) for n in range(150)),
        *(Slow.new({"rounds": 40_000 + 1_500 * n}) for n in range(40)),
        *(Flaky.new({"to": f"user{n}@example.com"}) for n in range(15)),
        *(Failing.new({"to": f"nobody{n}@example.com"}) for n in range(5)),
        *(Patient.new({"n": n}) for n in range(15)),
        *(Scheduled.new({"n": n}) for n in range(20)),
        *(Unwanted.new({"n": n}) for n in range(10)),
        *(recorded_sum.new(n, n + 1) for n in range(25)),
    ]
    oban.enqueue_many(jobs)
    _say(f"Enqueued {len(jobs)} jobs in {(time.monotonic() - started) * 1000:.0f} ms.")

    with oban.connection() as conn:
        conn.execute(f"CREATE TABLE {PREFIX}.users (name text PRIMARY KEY)")

        for number in range(20):
            with conn.transaction():
                conn.execute(f"INSERT INTO {PREFIX}.users VALUES (%s)", [f"user{number}"])
                welcome.enqueue(f"user{number}")

        try:
            with conn.transaction():
                conn.execute(f"INSERT INTO {PREFIX}.users VALUES ('ghost')")
                welcome.enqueue("ghost")

                raise _ChangedMindError
        except _ChangedMindError:
            _say("Enqueued 20 more, each in its user's transaction; rolled one back with its job.")

    return len(jobs) + 20


class _ChangedMindError(Exception):
    pass


@dataclass(frozen=True, slots=True)
class _Counts:
    waiting: int
    executing: int
    completed: int
    cancelled: int
    discarded: int

    @property
    def final(self) -> int:
        return self.completed + self.cancelled + self.discarded

    def __str__(self) -> str:
        return (
            f"{self.waiting} waiting, {self.executing} executing, {self.completed} completed, "
            f"{self.cancelled} cancelled, {self.discarded} discarded"
        )


def _follow(oban: Oban, total: int) -> bool:
    """Show the counts until every job is final; tell whether they all are."""
    live = sys.stdout.isatty()
    started = time.monotonic()
    shown = 0.0

    with oban.connection() as conn:
        while True:
            counts = _counts(conn)
            elapsed = time.monotonic() - started
            done = counts.final >= total
            bar = "#" * round(30 * counts.final / total)
            line = f"[{bar:<30}] {counts.final}/{total}  {counts}"

            if live:
                # Cut to the width of the terminal: a line that wraps cannot be drawn over.
                width = shutil.get_terminal_size().columns - 1
                click.echo(f"\r\033[K{line[:width]}", nl=done)
            elif done or elapsed - shown >= 1.0:
                shown = elapsed
                click.echo(f"{elapsed:5.1f} s  {line}")

            if done:
                return True

            if elapsed > PATIENCE:
                click.echo()
                _say(f"Not every job was done within {PATIENCE:.0f} s; the rest stays as it is.")

                return False

            # PostgreSQL keeps the pace: this thread has nothing else to wait for.
            conn.execute("SELECT pg_sleep(0.1)")


def _counts(conn: Any) -> _Counts:
    rows = dict(
        conn.execute(f"SELECT state::text, count(*) FROM {PREFIX}.oban_jobs GROUP BY 1").fetchall()
    )
    finals = [rows.pop(name, 0) for name in ("completed", "cancelled", "discarded")]
    executing = rows.pop("executing", 0)

    return _Counts(sum(rows.values()), executing, *finals)


def _summarize(oban: Oban) -> None:
    with oban.connection() as conn:
        rows = conn.execute(f"""
            SELECT split_part(worker, '.', -1), state::text, count(*), sum(attempt)::int,
                coalesce(percentile_cont(0.5) WITHIN GROUP (
                    ORDER BY extract(epoch FROM attempted_at - scheduled_at)), 0) * 1000,
                extract(epoch FROM max(coalesce(completed_at, cancelled_at, discarded_at))
                    - min(inserted_at))
            FROM {PREFIX}.oban_jobs
            GROUP BY 1, 2
            ORDER BY 1, 2
            """).fetchall()
        errors = conn.execute(f"""
            SELECT id, split_part(worker, '.', -1), state::text,
                errors[cardinality(errors)] ->> 'error'
            FROM {PREFIX}.oban_jobs
            WHERE state IN ('discarded', 'cancelled')
            ORDER BY id
            """).fetchall()
        [(a_sum,)] = conn.execute(
            f"SELECT min(id) FROM {PREFIX}.oban_jobs WHERE worker LIKE '%%recorded_sum'"
        ).fetchall()
        [(users, welcomes)] = conn.execute(
            f"SELECT (SELECT count(*) FROM {PREFIX}.users),"
            f" (SELECT count(*) FROM {PREFIX}.oban_jobs"
            " WHERE worker LIKE '%%welcome')"
        ).fetchall()

    click.echo()
    click.echo(f"{'worker':<14}{'state':<12}{'jobs':>6}{'runs':>6}{'median wait':>14}")

    for name, state, count, runs, wait, _ in rows:
        click.echo(f"{name:<14}{state:<12}{count:>6}{runs:>6}{wait:>11.1f} ms")

    total = sum(row[2] for row in rows)
    seconds = float(max(row[5] for row in rows))
    click.echo()
    _say(
        f"{total} jobs in {seconds:.1f} s, retries, snoozes and schedules included: "
        f"{total / seconds:.0f} jobs/s."
    )
    recorded = oban.get_job(a_sum)
    _say(f"Job {a_sum} recorded {recorded.recorded() if recorded else None}.")
    _say(f"{users} users, {welcomes} welcome mails: the rolled back user has neither row nor mail.")
    click.echo()
    _say(f"{len(errors)} jobs did not complete, with the reason each:")

    for job_id, name, state, error in errors:
        reason = printable(cause_of(error))
        click.echo(f"  {job_id:>5}  {name:<10}{state:<11}{reason}")

    click.echo()


def _burst(conninfo: str, count: int) -> None:
    oban = Oban(conninfo, prefix=PREFIX, name=NAME, queues={"burst": 50})
    started = time.monotonic()
    oban.enqueue_many(NoOp.new({"n": number}) for number in range(count))
    inserted = time.monotonic() - started

    with oban, oban.connection() as conn:
        started = time.monotonic()

        while _burning(conn):
            conn.execute("SELECT pg_sleep(0.02)")

        ran = time.monotonic() - started

    _say(
        f"Throughput: {count:,} jobs enqueued at {count / inserted:,.0f}/s, "
        f"and run on 50 threads at {count / ran:,.0f}/s."
    )


def _burning(conn: Any) -> bool:
    [(found,)] = conn.execute(
        f"SELECT EXISTS (SELECT FROM {PREFIX}.oban_jobs"
        " WHERE queue = 'burst' AND state IN ('available', 'executing'))"
    ).fetchall()

    return bool(found)


def _say(text: str) -> None:
    click.echo(text)
