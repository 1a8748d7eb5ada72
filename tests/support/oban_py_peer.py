"""A real oban-py beside us: its environment, made once per machine, and a node of it to talk to."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

VERSION = "0.7.0"

#: Read here, because the tests run without variables of ours.
CACHE = Path(
    os.environ.get("OBAN_SYNC_TEST_CACHE") or Path(__file__).parent.parent.parent / ".cache"
)

#: oban-py's own requirement.
OLDEST = (3, 12)

#: Seconds for which a failure to make the environment is not tried again, by any process.
REMEMBERED = 600.0

_PIP = ("install", "--quiet", "--retries", "2")

_SCRIPT = Path(__file__).with_name("peer_node.py")


class UnavailableError(Exception):
    """oban-py cannot be had on this machine; says why."""


def peer_python() -> Path:
    """The Python of an environment with oban-py, made if there is none yet.

    Raises:
        UnavailableError: There is no fit Python, or the packages could not be installed.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    home = CACHE / f"oban-py-{VERSION}"
    python = home / "bin" / "python"

    with _locked(CACHE / f"oban-py-{VERSION}.lock"):
        if _answers(python, "import oban, psycopg"):
            return python

        failed = CACHE / f"oban-py-{VERSION}.failed"

        if failed.exists() and time.time() - failed.stat().st_mtime < REMEMBERED:
            raise UnavailableError(failed.read_text("utf-8"))

        try:
            _make(home)
        except UnavailableError as error:
            failed.write_text(str(error), "utf-8")

            raise

        failed.unlink(missing_ok=True)

    return python


def _make(home: Path) -> None:
    reasons = []

    for base in _pythons():
        shutil.rmtree(home, ignore_errors=True)

        for command in (
            [str(base), "-m", "venv", str(home)],
            [str(home / "bin" / "python"), "-m", "pip", *_PIP, f"oban=={VERSION}"],
        ):
            try:
                ran = _run(command, timeout=300.0)
            except (OSError, subprocess.SubprocessError) as error:
                reasons.append(f"{' '.join(command)}: {error}")
                break

            if ran.returncode != 0:
                words = " ".join(ran.stderr.split()[-40:])
                reasons.append(f"{' '.join(command)} failed: {words}")
                break
        else:
            return

    shutil.rmtree(home, ignore_errors=True)

    needed = ".".join(map(str, OLDEST))

    raise UnavailableError(
        f"no oban-py {VERSION}: {'; '.join(reasons) or f'no Python {needed} or later was found'}"
    )


def _pythons() -> Iterator[Path]:
    """Pythons that are new enough and whole, each version once; pyenv's shims may be neither."""
    names = [f"python3.{minor}" for minor in range(OLDEST[1], OLDEST[1] + 4)]
    found = [Path(path) for name in names if (path := shutil.which(name))]

    for root in (os.environ.get("PYENV_ROOT"), Path.home() / ".pyenv"):
        if root:
            found += sorted(Path(root).glob("versions/*/bin/python3.[0-9]*"))

    if sys.version_info >= OLDEST:
        found.append(Path(sys.executable))

    seen: set[str] = set()

    for path in found:
        if not path.name.removeprefix("python3.").isdecimal() and path != Path(sys.executable):
            continue

        version = (
            _answers(path, f"import sys, venv, ensurepip; assert sys.version_info >= {OLDEST}")
            and _run([str(path), "-c", "import sys; print(sys.version_info[:2])"]).stdout
        )

        if version and version not in seen:
            seen.add(version)

            yield path


def _answers(python: Path, statement: str) -> bool:
    try:
        return _run([str(python), "-c", statement]).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def _run(command: list[str], *, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=_environment(),
        stdin=subprocess.DEVNULL,
    )


def _environment() -> dict[str, str]:
    """Without what would lead to our packages, or set up oban-py behind our back."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "OBAN_", "VIRTUAL_ENV", "COV"))
    }


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        yield


class Peer:
    """A process of oban-py, connected and not yet running any queue.

    Args:
        python: The one of `peer_python`.
        dsn: Its database.
        folder: Where it runs; its complaints are kept there.
    """

    def __init__(self, python: Path, dsn: str, folder: Path) -> None:
        self._complaints = folder / "peer.log"
        self._answers: SimpleQueue[str] = SimpleQueue()

        with self._complaints.open("w") as log:
            self._process = subprocess.Popen(
                [str(python), str(_SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=folder,
                env={**_environment(), "PEER_DSN": dsn},
            )

        self._reader = Thread(target=self._read, name="peer-reader", daemon=True)
        self._reader.start()

    def ask(self, do: str, **fields: Any) -> Any:
        """Have it do something, by a name of `peer_node.Node`; the answer."""
        self._process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
        self._process.stdin.flush()

        try:
            answer = json.loads(self._answers.get(timeout=30.0))
        except (Empty, ValueError):
            raise AssertionError(f"no answer to {do!r}: {self._complaints.read_text()}") from None

        assert "ok" in answer, answer["error"]

        return answer["ok"]

    def close(self) -> None:
        """End it, in good order if it can."""
        try:
            self._process.communicate(timeout=15.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

        self._reader.join(5.0)

    def _read(self) -> None:
        for line in self._process.stdout:
            self._answers.put(line)

        self._answers.put("")
