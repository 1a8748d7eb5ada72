"""What every benchmark stands on: a server, facts about the machine, processes, tables, records."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import oban_sync
from benchmarks import charts
from oban_sync import ObanError, schema
from oban_sync.embedded import Server

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.jsonl"

#: Where the measured oban_sync comes from; handed to the contenders.
SOURCE = Path(oban_sync.__file__).resolve().parents[1]

#: Made, emptied and dropped by the benchmarks; nothing else of a database is touched.
SCHEMA = "oban_sync_bench"

#: Stored in every job, whoever runs it.
WORKER = "benchmarks.Noop"

#: Seconds after which a contender is taken to hang.
TIMEOUT = 300.0


class BenchmarkError(Exception):
    """Something the benchmark needs is not there, or a contender failed."""


def parser(program: str, description: str | None, *, plot: bool = False) -> argparse.ArgumentParser:
    """The options all benchmarks share; `plot` says that there is a picture of its figures."""
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
        "--json", type=Path, metavar="FILE", help="also write the figures to this file"
    )

    if plot:
        made.add_argument(
            "--plot", type=_picture, metavar="FILE", help="also draw the figures, as a PNG or SVG"
        )

    made.add_argument(
        "--smoke",
        action="store_true",
        help="one short round without peers, to see that everything works; its figures mean "
        "nothing",
    )

    return made


def _picture(text: str) -> Path:
    if not charts.can_draw():
        raise argparse.ArgumentTypeError("matplotlib is missing; pip install 'oban-sync[bench]'")

    return Path(text)


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
    found = conn.execute(
        "SELECT nspname FROM pg_namespace WHERE starts_with(nspname, %s)", [SCHEMA]
    ).fetchall()

    for (name,) in found:
        conn.execute(f'DROP SCHEMA "{name}" CASCADE')


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


def run_contender(
    name: str,
    given: Mapping[str, Any],
    *,
    python: str = sys.executable,
    source: Path | None = SOURCE,
) -> dict[str, Any]:
    """Run a program of `contenders/` in a process of its own; what it told.

    It finds oban_sync in `source`; None for programs that have an environment of their own.
    """
    with _started(name, given, python, source) as process:
        return _outcome(name, process)


class Serving:
    """A program beside what is measured, its process, and what it told at its end."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.pid = process.pid
        self.told: dict[str, Any] = {}
        self._name = name
        self._process = process

    def go(self) -> None:
        """Let a program begin that was given ``"wait": true``."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def end(self) -> dict[str, Any]:
        """Let it end; what it said. Leaving the block does that too."""
        if not self.told:
            self.told = _outcome(self._name, self._process)

        return self.told


@contextmanager
def serving(
    name: str,
    given: Mapping[str, Any],
    *,
    python: str = sys.executable,
    source: Path | None = SOURCE,
) -> Iterator[Serving]:
    """Run a program of `contenders/` beside the block, from when it is ready to the block's end.

    It prints ``ready`` when it is, and ends when its standard input is closed.
    """
    with _started(name, given, python, source) as process:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], 60.0)

        if not ready or process.stdout.readline().strip() != "ready":
            process.kill()
            told = "" if process.stderr is None else process.stderr.read()

            raise BenchmarkError(f"{name} did not become ready:\n{told.strip()[-2_000:]}")

        serving = Serving(name, process)
        yield serving
        serving.end()


@contextmanager
def _started(
    name: str, given: Mapping[str, Any], python: str, source: Path | None
) -> Iterator[subprocess.Popen[str]]:
    shared = str(HERE / "contenders" / "shared")
    keep = {
        key: value
        for key, value in os.environ.items()
        # Options from the environment would be options of what is measured.
        if not key.startswith(("OBAN_", "PYTHON", "PG")) and key != "DATABASE_URL"
    }
    keep["PYTHONPATH"] = shared if source is None else f"{source}{os.pathsep}{shared}"

    try:
        process = subprocess.Popen(
            [python, "-P", str(HERE / "contenders" / f"{name}.py")],
            # No oban.toml of ours is to be read.
            cwd=tempfile.gettempdir(),
            env=keep,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        raise BenchmarkError(f"{name} could not be run: {error}") from None

    with process:
        try:
            assert process.stdin is not None
            # On standard input, because a DSN may hold a password.
            line = json.dumps({"timeout": TIMEOUT, "worker": WORKER, **given})

            # It may have failed at an import already; that is told when its end is looked at.
            with suppress(BrokenPipeError):
                process.stdin.write(f"{line}\n")
                process.stdin.flush()

            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _outcome(name: str, process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for its end; the last line that it printed."""
    try:
        printed, complaint = process.communicate(timeout=TIMEOUT + 60)
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"{name} did not end within {error.timeout:.0f} s") from None

    if process.returncode:
        raise BenchmarkError(f"{name} failed:\n{complaint.strip()[-2_000:]}")

    told: dict[str, Any] = json.loads(printed.splitlines()[-1])

    if not told.get("finished", True):
        raise BenchmarkError(f"{name} did not finish within {TIMEOUT:.0f} s\n{complaint[-2_000:]}")

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


def finish(
    given: argparse.Namespace,
    known: Facts,
    benchmark: str,
    figures: Sequence[Mapping[str, Any]],
    text: str,
    *,
    chart: charts.Chart | None = None,
) -> None:
    """Print what came of a benchmark, and keep it where the options say so.

    Args:
        given: The options.
        known: What the figures depend on.
        benchmark: Its name.
        figures: Flat objects, of which those from `goal` are shown in a table of their own.
        text: The table.
        chart: What ``--plot`` draws.
    """
    print(f"{known}\n\n{text}")
    goals = [figure for figure in figures if "goal" in figure]

    # Those of a smoke test mean nothing.
    if goals and not given.smoke:
        print(f"\n{goals_table(goals)}")

    if chart is not None and getattr(given, "plot", None):
        charts.draw(chart, given.plot)

    if given.record:
        record(known, benchmark, figures)

    if given.json is not None:
        lines = [{"benchmark": benchmark, **figure, **asdict(known)} for figure in figures]
        given.json.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


def goal(
    text: str, value: float, *, at_least: float | None = None, at_most: float | None = None
) -> dict[str, Any]:
    """A figure that is held against what it should be, to be put among the others.

    Args:
        text: What it is, with its unit.
        value: What was measured.
        at_least: The goal, where more is better.
        at_most: The goal, where less is better.
    """
    if at_least is not None:
        wanted, met = f"at least {at_least:g}", value >= at_least
    else:
        assert at_most is not None
        wanted, met = f"at most {at_most:g}", value <= at_most

    return {"goal": text, "value": round(value, 3), "wanted": wanted, "met": met}


def goals_table(goals: Sequence[Mapping[str, Any]]) -> str:
    """What was measured beside what it should be."""
    return table(
        ["goal", "measured", "wanted", ""],
        [
            [
                figure["goal"],
                f"{figure['value']:,.2f}",
                figure["wanted"],
                "met" if figure["met"] else "MISSED",
            ]
            for figure in goals
        ],
    )


def say(text: str) -> None:
    """Report progress."""
    print(text, file=sys.stderr, flush=True)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, its columns aligned to the right."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [heads, ["-" * (width - 1) + ":" for width in widths], *rows]

    return "\n".join(
        "| "
        + " | ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
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
