"""What every benchmark stands on: a server, facts about the machine, processes, tables, records."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import oban_sync
from oban_sync import ObanError, schema
from oban_sync.embedded import Server

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.jsonl"

#: Where the measured oban_sync comes from; handed to the contenders.
SOURCE = Path(oban_sync.__file__).resolve().parents[1]

#: Made, emptied and dropped by the benchmarks; nothing else of a database is touched.
SCHEMA = "oban_sync_bench"
PEER_SCHEMA = "oban_sync_bench_peer"

#: Stored in every job, whoever runs it.
WORKER = "benchmarks.Noop"

#: Seconds after which a contender is taken to hang.
TIMEOUT = 300.0


class BenchmarkError(Exception):
    """Something the benchmark needs is not there, or a contender failed."""


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """The options all benchmarks share."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{program}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--rounds",
        type=positive,
        default=3,
        metavar="N",
        help="times each contender runs; figures are medians (default: 3)",
    )
    made.add_argument(
        "--dsn",
        default=os.environ.get("OBAN_SYNC_BENCH_DSN"),
        metavar="DSN",
        help="PostgreSQL to use, as a superuser; the schemas oban_sync_bench* in it are dropped "
        "(default: $OBAN_SYNC_BENCH_DSN, else a private server, made for the run)",
    )
    made.add_argument(
        "--commit-delay",
        type=int,
        default=0,
        metavar="US",
        help="make every commit wait this many microseconds, as a slower disk does; "
        "2000 stands for an ordinary network disk (default: 0)",
    )
    made.add_argument(
        "--record",
        action="store_true",
        help=f"append the figures to {RESULTS.parent.name}/{RESULTS.name}",
    )
    made.add_argument(
        "--smoke",
        action="store_true",
        help="one short round without the peer, to see that everything works; its figures mean "
        "nothing",
    )

    return made


def positive(text: str) -> int:
    """An option's whole number, 1 or more."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")

    return int(text)


def positives(text: str) -> list[int]:
    """An option's list of whole numbers, separated by commas."""
    return [positive(part.strip()) for part in text.split(",")]


@contextmanager
def database(dsn: str | None, *, commit_delay: int = 0) -> Iterator[str]:
    """A database with the library's tables in `SCHEMA`: the one given, or a private one.

    The server's settings are PostgreSQL's defaults: fsync and synchronous_commit are on.
    """
    options = f"-c commit_delay={commit_delay} -c commit_siblings=0" if commit_delay else ""

    with _server(dsn) as found:
        given = str(conninfo_to_dict(found).get("options") or "")
        bench = make_conninfo(found, options=f"{given} {options}".strip())

        with psycopg.connect(bench, autocommit=True) as conn:
            _drop(conn)

        schema.install(bench, prefix=SCHEMA)

        try:
            yield bench
        finally:
            with psycopg.connect(bench, autocommit=True) as conn:
                _drop(conn)


@contextmanager
def _server(dsn: str | None) -> Iterator[str]:
    if dsn:
        yield dsn
        return

    say("starting a private PostgreSQL ...")
    directory = tempfile.mkdtemp(prefix="oban-sync-bench-")

    try:
        with Server(directory) as url:
            yield url
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _drop(conn: psycopg.Connection[Any]) -> None:
    for name in (SCHEMA, PEER_SCHEMA):
        conn.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")


def fill(dsn: str, schema_name: str, jobs: int) -> None:
    """Empty a jobs table, put in jobs of one-key args that are available, and vacuum it."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"TRUNCATE {schema_name}.oban_jobs RESTART IDENTITY")

        if jobs:
            conn.execute(
                f"INSERT INTO {schema_name}.oban_jobs (queue, worker, args) "
                "SELECT 'default', %s, jsonb_build_object('number', number) "
                "FROM generate_series(1, %s) AS number",
                [WORKER, jobs],
            )

        conn.execute(f"VACUUM (ANALYZE) {schema_name}.oban_jobs")
        conn.execute("CHECKPOINT")


def drained(dsn: str, schema_name: str, jobs: int, started: str) -> float:
    """Seconds from a moment on the server's clock to the last job's completion, all being done."""
    with psycopg.connect(dsn) as conn:
        row = conn.execute(
            "SELECT count(*) FILTER (WHERE state = 'completed' AND attempt = 1), "
            "extract(epoch FROM max(completed_at) - %s::timestamp)::float8 "
            f"FROM {schema_name}.oban_jobs",
            [started],
        ).fetchone()

    assert row is not None

    if row[0] != jobs:
        raise BenchmarkError(f"{row[0]} of {jobs} jobs were completed in one attempt")

    return float(row[1])


def run_contender(
    name: str,
    given: Mapping[str, Any],
    *,
    python: str = sys.executable,
    source: Path | None = SOURCE,
) -> dict[str, Any]:
    """Run a program of `contenders/` in a process of its own; what it told.

    Args:
        name: The program.
        given: What it reads. On standard input, because a DSN may hold a password.
        python: The interpreter.
        source: Where it finds oban_sync; None for programs that have an environment of their own.
    """
    keep = {
        key: value
        for key, value in os.environ.items()
        # Options from the environment would be options of what is measured.
        if not key.startswith(("OBAN_", "PYTHON")) and key != "DATABASE_URL"
    }

    if source is not None:
        keep["PYTHONPATH"] = str(source)

    try:
        done = subprocess.run(
            [python, "-P", str(HERE / "contenders" / f"{name}.py")],
            input=json.dumps({"timeout": TIMEOUT, "worker": WORKER, **given}),
            # No oban.toml of ours is to be read.
            cwd=tempfile.gettempdir(),
            env=keep,
            text=True,
            capture_output=True,
            timeout=TIMEOUT + 60,
        )
    except OSError as error:
        raise BenchmarkError(f"{name} could not be run: {error}") from None
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"{name} did not end within {error.timeout:.0f} s") from None

    if done.returncode:
        raise BenchmarkError(f"{name} failed:\n{done.stderr.strip()[-2_000:]}")

    told: dict[str, Any] = json.loads(done.stdout)

    if not told.get("finished", True):
        raise BenchmarkError(
            f"{name} did not finish within {TIMEOUT:.0f} s\n{done.stderr[-2_000:]}"
        )

    return told


@dataclass(frozen=True, slots=True)
class Facts:
    """What a figure depends on beside the code; says nothing of whose machine it is."""

    commit: str
    dirty: bool
    cores: int
    python: str
    postgres: str
    commit_delay: int

    def __str__(self) -> str:
        changed = " (changed)" if self.dirty else ""

        return (
            f"oban_sync {oban_sync.__version__} at {self.commit}{changed}, "
            f"Python {self.python}, PostgreSQL {self.postgres}, {self.cores} cores"
            + (f", commits of {self.commit_delay} us" if self.commit_delay else "")
        )


def facts(dsn: str, *, commit_delay: int = 0) -> Facts:
    """Find out what the figures depend on."""
    with psycopg.connect(dsn) as conn:
        row = conn.execute("SHOW server_version").fetchone()
        assert row is not None

    commit = _git("rev-parse", "--short=12", "HEAD")
    changes = _git("status", "--porcelain", "--", "oban_sync", "benchmarks/*.py")

    return Facts(
        commit=commit or "unknown",
        dirty=bool(changes) or not commit,
        cores=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        python=platform.python_version(),
        postgres=str(row[0]).split()[0],
        commit_delay=commit_delay,
    )


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(SOURCE), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""

    return done.stdout.strip() if done.returncode == 0 else ""


def record(known: Facts, benchmark: str, figures: Iterable[Mapping[str, Any]]) -> None:
    """Append one line of JSON per figure to the results."""
    time = datetime.now(UTC).isoformat(timespec="seconds")

    with open(RESULTS, "a", encoding="utf-8") as file:
        for figure in figures:
            line = {"time": time, "benchmark": benchmark, **figure, **asdict(known)}
            file.write(json.dumps(line) + "\n")


def say(text: str) -> None:
    """Report progress."""
    print(text, file=sys.stderr, flush=True)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned to the right, under their heads."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [heads, ["-" * width for width in widths], *rows]

    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def middle(values: Sequence[float]) -> float:
    """The median."""
    return float(median(values))


def ratio(ours: Sequence[float], other: Sequence[float]) -> float:
    """The median of the ratios within each round, so that drift between rounds does not count."""
    return middle([mine / theirs for mine, theirs in zip(ours, other, strict=True)])


def spread(values: Sequence[float]) -> str:
    """How far the values lie apart, in percent of their median."""
    return f"{100 * (max(values) - min(values)) / middle(values):.0f} %"


def run(main: Any) -> None:
    """Run a benchmark's main function; failures are told without a traceback."""
    try:
        main()
    except (BenchmarkError, ObanError, psycopg.Error) as error:
        say(f"error: {re.sub(r':[^:@/]+@', ':***@', str(error)).strip()}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
