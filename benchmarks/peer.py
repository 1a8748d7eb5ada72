"""oban-py in an environment of its own, made on demand."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from benchmarks import rig

VERSION = "0.7.0"

#: Newest first, after the one that runs the benchmark.
PYTHONS = ("3.14", "3.13", "3.12")


class PeerMissing(Exception):
    """oban-py cannot be had; says why."""


def python() -> str:
    """An interpreter that has oban-py; its environment is made when there is none yet.

    Raises:
        PeerMissing: There is no Python for it, or it cannot be installed.
    """
    base = _base_python()
    version = _ask(base, "import sys; print('%d.%d' % sys.version_info[:2])")
    directory = _cache() / f"oban-py-{VERSION}-python-{version}"
    made = directory / "bin" / "python"

    if _has_it(str(made)):
        return str(made)

    rig.say(f"installing oban-py {VERSION} for Python {version} ...")
    pip = [str(made), "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]

    try:
        _call(base, "-m", "venv", "--clear", str(directory))
        _call(*pip, "install", f"oban=={VERSION}")
    except PeerMissing as error:
        raise PeerMissing(f"oban-py {VERSION} could not be installed: {error}") from None

    if not _has_it(str(made)):
        raise PeerMissing(f"oban-py {VERSION} was installed but cannot be imported")

    return str(made)


def install(dsn: str, interpreter: str) -> str:
    """Make oban-py's tables by its own installer; the DSN to run it by."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"CREATE SCHEMA IF NOT EXISTS {rig.PEER_SCHEMA}")

    # The installer looks for its types in the current schema, whatever prefix it is given.
    options = str(conninfo_to_dict(dsn).get("options") or "")
    mine = make_conninfo(dsn, options=f"{options} -c search_path={rig.PEER_SCHEMA}".strip())
    rig.run_contender(
        "oban_py",
        {"dsn": mine, "schema": rig.PEER_SCHEMA, "install": True},
        python=interpreter,
        source=None,
    )

    return mine


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


def _has_it(interpreter: str) -> bool:
    try:
        return _ask(interpreter, "import oban, uvloop, orjson; print(oban.__version__)") == VERSION
    except PeerMissing:
        return False


def _ask(interpreter: str, code: str) -> str:
    return _call(interpreter, "-c", code).strip()


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
