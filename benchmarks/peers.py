"""Who takes part in the benchmarks: ours, and peers in environments of their own, made on demand.

A peer is a row of `PEERS` and a program in `contenders/` that knows the tasks described in
`contenders/shared/tasks.py`. Its packages come from PyPI, for a Python 3.12 or later; one that
cannot be had is told, and left out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from benchmarks import rig

#: Newest first, after the one that runs the benchmark.
PYTHONS = ("3.14", "3.13", "3.12")


@dataclass(frozen=True, slots=True)
class Peer:
    """What a peer is made of.

    Attributes:
        name: As people call it.
        program: Its program in `contenders/`.
        package: What is installed beside `also`, at this `version`.
        module: What can be imported then.
        tables: Emptied before it is measured.
        done: SQL for the number of jobs completed at the first attempt, when the first job
            was taken, and when the last one was completed, in seconds since 1970.
        share: How many times slower than ours it is, at least; it gets that many fewer jobs, which
            does not change its speed.
    """

    name: str
    program: str
    package: str
    version: str
    module: str
    tables: tuple[str, ...]
    done: str
    share: int
    also: tuple[str, ...] = ("uvloop>=0.21",)


#: Of a table as Oban has it, whose times have no zone.
OBAN_DONE = """
SELECT count(*) FILTER (WHERE state = 'completed' AND attempt = 1),
    extract(epoch FROM min(attempted_at))::float8,
    extract(epoch FROM max(completed_at))::float8
FROM oban_jobs
"""

PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            name="oban-py",
            program="oban_py",
            package="oban",
            version="0.7.0",
            module="oban",
            tables=("oban_jobs",),
            done=OBAN_DONE,
            share=3,
            also=("uvloop>=0.21", "orjson>=3.10", "psycopg[binary]>=3.2"),
        ),
        Peer(
            name="procrastinate",
            program="procrastinate",
            package="procrastinate",
            version="3.10.0",
            module="procrastinate",
            tables=("procrastinate_jobs", "procrastinate_events"),
            done="""
            SELECT count(*) FILTER (WHERE status = 'succeeded' AND attempts = 1),
                (SELECT extract(epoch FROM min(at))::float8 FROM procrastinate_events
                 WHERE type = 'started'),
                (SELECT extract(epoch FROM max(at))::float8 FROM procrastinate_events
                 WHERE type = 'succeeded')
            FROM procrastinate_jobs
            """,
            share=20,
            also=("uvloop>=0.21", "psycopg[binary]>=3.2"),
        ),
        Peer(
            name="pgqueuer",
            program="pgqueuer",
            package="pgqueuer",
            version="1.6.0",
            module="pgqueuer",
            tables=("pgqueuer", "pgqueuer_log"),
            # It deletes what is done, and writes a log.
            done="""
            SELECT count(DISTINCT job_id) FILTER (WHERE status = 'successful'),
                extract(epoch FROM min(created) FILTER (WHERE status = 'picked'))::float8,
                extract(epoch FROM max(created) FILTER (WHERE status = 'successful'))::float8
            FROM pgqueuer_log
            """,
            share=3,
            also=("uvloop>=0.21", "asyncpg>=0.30"),
        ),
        Peer(
            name="chancy",
            program="chancy",
            package="chancy",
            version="0.26.0",
            module="chancy",
            tables=("chancy_jobs",),
            done="""
            SELECT count(*) FILTER (WHERE state = 'succeeded' AND attempts = 1),
                extract(epoch FROM min(started_at))::float8,
                extract(epoch FROM max(completed_at))::float8
            FROM chancy_jobs
            """,
            share=6,
            also=("uvloop>=0.21", "psycopg[binary]>=3.2"),
        ),
    )
}


class PeerMissing(Exception):
    """A peer cannot be had; says why."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One that can be measured: its environment is made, its tables are there.

    Attributes:
        name: As in the tables.
        program: Its program in `contenders/`.
        dsn: The database, with the contender's own search path.
        schema: Where its tables are.
        tables: Those that hold jobs.
        done: See `Peer`.
        python: Its interpreter.
        source: Where it finds oban_sync; None for peers.
        share: It gets this part of the jobs, as 1/share.
        more: What its program is told in each task.
    """

    name: str
    program: str
    dsn: str
    schema: str
    tables: tuple[str, ...] = ("oban_jobs",)
    done: str = OBAN_DONE
    python: str = sys.executable
    source: Path | None = rig.SOURCE
    share: int = 1
    more: Mapping[str, Any] = field(default_factory=dict)

    def run(self, task: str, **given: Any) -> dict[str, Any]:
        """Have it do a task in a process of its own; what it told.

        After ``drain`` that holds ``started``, which `seconds` takes.
        """
        clock = _Clock.read(self.dsn)
        told = rig.run_contender(
            self.program, self._given(task, given), python=self.python, source=self.source
        )

        if task == "drain":
            told["started"] = clock.at(told["begun"])

        return told

    def serving(self, **given: Any) -> AbstractContextManager[rig.Serving]:
        """Have it run jobs beside the block."""
        return rig.serving(
            self.program, self._given("serve", given), python=self.python, source=self.source
        )

    def clear(self) -> None:
        """Empty its tables, and vacuum them."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            names = ", ".join(self.tables)
            conn.execute(f"TRUNCATE {names} RESTART IDENTITY CASCADE")
            conn.execute(f"VACUUM (ANALYZE) {names}")

    def fill(self, jobs: int) -> None:
        """Clear its tables, store jobs by its own bulk insert, vacuum and analyze."""
        self.clear()
        self.run("store", jobs=jobs, how="bulk")

        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute(f"VACUUM (ANALYZE) {', '.join(self.tables)}")
            conn.execute("CHECKPOINT")

    def seconds(self, jobs: int, started: float) -> float:
        """Seconds from a moment, as `run` told it, to the last of so many jobs' completion."""
        return self.span(jobs)[1] - started

    def span(self, jobs: int) -> tuple[float, float]:
        """When the first job was taken and the last one completed, by its table.

        Args:
            jobs: That many must have been completed, each at its first attempt.
        """
        with psycopg.connect(self.dsn) as conn:
            row = conn.execute(self.done).fetchone()

        assert row is not None

        if row[0] != jobs:
            raise rig.BenchmarkError(
                f"{self.name}: {row[0]} of {jobs} jobs were completed in one attempt"
            )

        return float(row[1]), float(row[2])

    def clock(self) -> _Clock:
        """The server's clock beside this machine's, to tell `started` by."""
        return _Clock.read(self.dsn)

    def _given(self, task: str, given: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "task": task,
            "dsn": self.dsn,
            "conninfo": conninfo_to_dict(self.dsn),
            "schema": self.schema,
            **self.more,
            **given,
        }


@dataclass(frozen=True, slots=True)
class _Clock:
    """The server's clock at a moment of `time.monotonic_ns`, which all programs here tell."""

    seconds: float
    monotonic: int

    @classmethod
    def read(cls, dsn: str) -> _Clock:
        with psycopg.connect(dsn, autocommit=True) as conn:
            before = time.monotonic_ns()
            row = conn.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
            after = time.monotonic_ns()

        assert row is not None

        return cls(float(row[0]), (before + after) // 2)

    def at(self, monotonic: int) -> float:
        return self.seconds + (monotonic - self.monotonic) / 1e9


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which peers take part."""
    parser.add_argument(
        "--peers",
        type=_names,
        default=["oban-py"],
        metavar="NAMES",
        help=f"peers to measure beside: {', '.join(PEERS)}, all or none (default: oban-py)",
    )
    parser.add_argument(
        "--peer-python",
        metavar="PATH",
        help="a Python 3.12 or later to make the peers' environments with (default: the newest "
        "that is found); they are kept in $XDG_CACHE_HOME or the temporary directory",
    )


def _names(text: str) -> list[str]:
    if text == "none":
        return []

    names = list(PEERS) if text == "all" else [part.strip() for part in text.split(",")]

    for name in names:
        if name not in PEERS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(PEERS)}, all, none")

    return names


def names(given: argparse.Namespace) -> list[str]:
    """The peers that the options name; none in a smoke test."""
    return [] if given.smoke else list(given.peers)


def ours(
    dsn: str,
    *,
    name: str = "ours",
    program: str = "ours",
    source: Path = rig.SOURCE,
    **more: Any,
) -> Contender:
    """The oban_sync of this checkout, or of another one.

    Args:
        dsn: The database.
        name: As in the tables.
        program: Another program that works on our table, such as ``ceiling``.
        source: Where oban_sync is.
        **more: What its program is told in each task.
    """
    own = _search_path(dsn, rig.SCHEMA)

    return Contender(name, program, own, rig.SCHEMA, source=source, more=more)


def ready(
    dsn: str, names: Iterable[str], *, python: str | None = None
) -> tuple[list[Contender], list[str]]:
    """Peers with environments made and tables installed; and what to say of those missing.

    Args:
        dsn: The database; each gets a schema of its own.
        names: Of peers.
        python: The interpreter to make environments with.
    """
    found: list[Contender] = []
    missing: list[str] = []

    for name in names:
        peer = PEERS[name]

        try:
            found.append(_installed(dsn, peer, interpreter(peer, base=python)))
        except (PeerMissing, rig.BenchmarkError) as error:
            missing.append(f"{name} is missing from this run: {error}")
            rig.say(missing[-1])

    return found, missing


def _installed(dsn: str, peer: Peer, python: str) -> Contender:
    """Make its tables, in a new schema, by its own installer."""
    schema = f"{rig.SCHEMA}_{peer.program}"

    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        conn.execute(f"CREATE SCHEMA {schema}")

    contender = Contender(
        name=peer.name,
        program=peer.program,
        dsn=_search_path(dsn, schema),
        schema=schema,
        tables=peer.tables,
        done=peer.done,
        python=python,
        source=None,
        share=peer.share,
    )
    contender.run("install")

    return contender


def _search_path(dsn: str, schema: str) -> str:
    options = str(conninfo_to_dict(dsn).get("options") or "")

    return make_conninfo(dsn, options=f"{options} -c search_path={schema}".strip())


def interpreter(peer: Peer, *, base: str | None = None) -> str:
    """An interpreter that has the peer; its environment is made when there is none yet.

    Raises:
        PeerMissing: There is no Python for it, or it cannot be installed.
    """
    base = base or _base_python()
    version = _ask(base, "import sys; print('%d.%d' % sys.version_info[:2])")
    directory = _cache() / f"{peer.name}-{peer.version}-python-{version}"
    made = directory / "bin" / "python"

    # An environment is complete when it says so, lest half of one is used after an interruption.
    if (directory / "complete").exists() and _has(str(made), peer):
        return str(made)

    rig.say(f"installing {peer.name} {peer.version} for Python {version} ...")
    pip = [str(made), "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]

    try:
        _call(base, "-m", "venv", "--clear", str(directory))
        _call(*pip, "install", f"{peer.package}=={peer.version}", *peer.also)
    except PeerMissing as error:
        raise PeerMissing(f"{peer.name} could not be installed: {error}") from None

    if not _has(str(made), peer):
        raise PeerMissing(f"{peer.name} {peer.version} was installed but cannot be imported")

    (directory / "complete").touch()

    return str(made)


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    path = Path(base) if base else Path(tempfile.gettempdir()) / f"oban-sync-cache-{os.getuid()}"
    path = path / "oban-sync-bench" if base else path
    path.mkdir(mode=0o700, parents=True, exist_ok=True)

    if path.stat().st_uid != os.getuid():
        raise PeerMissing(f"{path} belongs to somebody else; set XDG_CACHE_HOME")

    return path


def _base_python() -> str:
    tried: list[str] = []

    for candidate in _candidates():
        try:
            # A pyenv shim is found on PATH even where it leads nowhere.
            if _ask(candidate, "import sys, venv; print(sys.version_info >= (3, 12))") == "True":
                return candidate
        except PeerMissing:
            tried.append(candidate)

    raise PeerMissing(
        "it needs Python 3.12 or later, and none was found on PATH, under $PYENV_ROOT or ~/.pyenv"
        + (f" (tried {', '.join(tried)})" if tried else "")
    )


def _candidates() -> Iterator[str]:
    yield sys.executable

    roots = [os.environ.get("PYENV_ROOT"), str(Path.home() / ".pyenv")]

    for version in PYTHONS:
        for root in dict.fromkeys(filter(None, roots)):
            found = sorted(Path(str(root)).glob(f"versions/{version}*/bin/python{version}"))
            yield from map(str, reversed(found))

        yield f"python{version}"


def _has(interpreter: str, peer: Peer) -> bool:
    code = (
        f"import {peer.module}, uvloop; from importlib.metadata import version; "
        f"print(version({peer.package!r}))"
    )

    try:
        return _ask(interpreter, code) == peer.version
    except PeerMissing:
        return False


def _ask(interpreter: str, code: str) -> str:
    return _call(interpreter, "-P", "-c", code).strip()


def _call(*command: str) -> str:
    keep = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    try:
        done = subprocess.run(command, capture_output=True, text=True, env=keep, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerMissing(str(error)) from None

    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise PeerMissing(lines[-1])

    return done.stdout
