"""A real server with the application of this folder, and what its jobs must have left behind."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

from tests.support.probe import eventually

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent

#: Seconds for a server to come up, or for its jobs to be done.
PATIENCE = 30.0


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)

        try:
            self.sock.connect(str(self._path))
        except OSError:
            self.close()
            raise


class Site:
    """The application in a folder of its own, reached by a socket in that folder.

    Args:
        conn: Finds the tables of the test.
        dsn: Its database.
        prefix: Its schema.
    """

    def __init__(self, conn: psycopg.Connection[Any], dsn: str, prefix: str) -> None:
        self._conn = conn
        # Paths of sockets must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="site-"))
        self.socket = self.folder / "socket"
        self._output = self.folder / "output"
        self._environ = {
            **os.environ,
            # gunicorn keeps its control socket there.
            "HOME": str(self.folder),
            "OBAN_DSN": dsn,
            "OBAN_PREFIX": prefix,
            "PGOPTIONS": f'-c search_path="{prefix}"',
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._stored: set[str] = set()
        self._refused: set[str] = set()
        shutil.copytree(Path(__file__).parent / "app", self.folder, dirs_exist_ok=True)
        conn.execute("CREATE TABLE requests (key text)")
        conn.execute("CREATE TABLE effects (key text, pid integer, app text)")

    @property
    def output(self) -> str:
        """What the server wrote."""
        return self._output.read_text("utf-8", "replace")

    def serve(self, command: str, *arguments: str, **environ: str) -> subprocess.Popen[bytes]:
        """Start a server, a script beside the interpreter, in a group of its own."""
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [str(BIN / command), *arguments],
                cwd=self.folder,
                env={**self._environ, **environ},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

        return self._process

    def await_answer(self) -> None:
        """Wait until the server answers; 404 will do, and is not asked of the application."""
        process = self._process

        def answers() -> bool:
            assert process is not None
            assert process.poll() is None, self.output

            with closing(_Unix(self.socket)) as connection:
                try:
                    connection.connect()
                except OSError:
                    return False

            return True

        eventually(answers, within=PATIENCE)

    def post(self, key: str, query: str = "") -> int:
        """Ask for a job, and remember it if it was stored."""
        with closing(_Unix(self.socket)) as connection:
            connection.request("POST", f"/jobs/{key}{query}")
            status = connection.getresponse().status

        if status == 200:
            self._stored.add(key)
        else:
            self._refused.add(key)

        return status

    def post_many(self, name: str, number: int = 40) -> None:
        """Ask for jobs from several threads at once; a third of the transactions rolls back."""
        with ThreadPoolExecutor(4) as threads:
            found = list(
                threads.map(
                    lambda n: self.post(f"{name}-{n}", "?fail=1" if n % 3 == 0 else ""),
                    range(number),
                )
            )

        assert found == [409 if n % 3 == 0 else 200 for n in range(number)], self.output

    def post_until_refused(self, name: str, query: str = "") -> int:
        """Ask for one job after the other until the server is gone; how many were stored."""
        for number in count():
            try:
                self.post(f"{name}-{number}", query)
            except (OSError, http.client.HTTPException):
                return number

        raise AssertionError

    def process(self, query: str = "") -> dict[str, Any]:
        """What one of the processes says of itself."""
        with closing(_Unix(self.socket)) as connection:
            connection.request("GET", f"/process{query}")

            return json.loads(connection.getresponse().read())

    def await_processes(self, number: int) -> set[int]:
        """Wait until that many processes have answered, and run their queues; their ids."""
        ready: set[int] = set()

        def add() -> bool:
            told = self.process()
            assert told["same_signals"]

            if told["running"]:
                ready.add(told["pid"])

            return len(ready) == number

        eventually(add, within=PATIENCE)

        return ready

    def await_jobs(self) -> None:
        """Wait until no job is to be run."""
        unfinished = "SELECT FROM oban_jobs WHERE state <> 'completed'"
        eventually(lambda: not self._all(unfinished), within=PATIENCE)

    def check_effects(self) -> set[int]:
        """Each stored job, and no other, ran once, in one attempt, in the application's context.

        Returns:
            The processes that ran them.
        """
        # The request's own row tells whether its transaction was committed, whatever was answered.
        stored = Counter(key for (key,) in self._all("SELECT key FROM requests"))
        rows = self._all("SELECT key, pid, app FROM effects")
        jobs = self._all("SELECT args ->> 'key', state::text, attempt FROM oban_jobs")

        assert set(stored.values()) <= {1}
        assert set(self._stored) <= set(stored)
        assert not self._refused & set(stored)
        assert Counter(key for key, _, _ in jobs) == stored
        assert {(state, attempt) for _, state, attempt in jobs} == {("completed", 1)}
        assert Counter(key for key, _, _ in rows) == stored
        assert {app for _, _, app in rows} == {"webapp"}

        return {pid for _, pid, _ in rows}

    def count(self, state: str) -> int:
        """How many jobs are in a state."""
        [(found,)] = self._all(f"SELECT count(*) FROM oban_jobs WHERE state = '{state}'")

        return found

    def nodes(self) -> int:
        """How many nodes have a row."""
        [(found,)] = self._all("SELECT count(*) FROM oban_sync_nodes")

        return found

    def end(self, number: int = signal.SIGTERM, *, within: float, group: bool = False) -> int:
        """Signal the server, and wait for its end, for no longer than that; nothing may be left."""
        assert self._process is not None
        send = os.killpg if group else os.kill
        send(self._process.pid, number)

        try:
            code = self._process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {within} s\n{self.output}") from None

        eventually(self._is_gone)

        return code

    def _is_gone(self) -> bool:
        """Whether no process of the server's group is left."""
        assert self._process is not None

        try:
            os.killpg(self._process.pid, 0)
        except ProcessLookupError:
            return True

        return False

    def close(self) -> None:
        """End whatever is left of the server, and remove the folder."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

            self._process.wait(10)

        shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self, statement: str) -> list[Any]:
        return self._conn.execute(statement).fetchall()
