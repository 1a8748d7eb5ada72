"""Commands as somebody types them: in this process, or in one of their own with a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from click.testing import CliRunner

from oban_sync.cli.main import main


class Commands:
    """Runs commands on a test's tables."""

    def __init__(self, dsn, prefix):
        self._env = {"OBAN_DSN": dsn, "OBAN_PREFIX": prefix}
        self._runner = CliRunner()

    def __call__(self, *arguments, code=0, **options):
        """What a command prints on standard output."""
        return self.result(*arguments, code=code, **options).stdout

    def result(self, *arguments, code=0, env=None, **options):
        result = self._runner.invoke(
            main,
            [str(one) for one in arguments],
            prog_name="oban-sync",
            env={**self._env, **(env or {})},
            **options,
        )

        assert result.exit_code == code, result.output
        assert "Traceback" not in result.stderr

        return result

    def json(self, *arguments, code=0, **options):
        """The one document that a command prints."""
        return json.loads(self(*arguments, "--json", code=code, **options))

    def error(self, *arguments, code=1, **options):
        """What a command says that fails."""
        return self.result(*arguments, code=code, **options).stderr


class Terminal:
    """A command in a process of its own, with a terminal."""

    def __init__(self, arguments, env, columns):
        self._own, there = pty.openpty()
        self.said = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "oban_sync", *map(str, arguments)],
            stdin=there,
            stdout=there,
            stderr=there,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), **env},
        )
        os.close(there)

    def until(self, words, *, times=1, within=20.0):
        """Read until something was said so often."""
        deadline = time.monotonic() + within

        while self.said.count(words) < times:
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"{words!r} was not said {times} times:\n{self.said}")

        return self.said

    def type(self, text):
        os.write(self._own, text.encode())

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)

    def interrupt_a_question(self):
        """Interrupt it while it reads a line.

        Between the question and the reading Python keeps a signal for when a key is pressed, so
        whoever sees nothing happen does it again.
        """
        for _ in range(5):
            self.interrupt()

            with suppress(subprocess.TimeoutExpired):
                self.process.wait(3.0)

                return

    def end(self, within=20.0):
        """Read to the end; the exit code."""
        deadline = time.monotonic() + within

        while self._read(deadline - time.monotonic()):
            pass

        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def close(self):
        if self.process.poll() is None:
            self.process.kill()

        self.process.wait()
        os.close(self._own)

    def _read(self, seconds):
        if seconds <= 0 or not select.select([self._own], [], [], seconds)[0]:
            return False

        try:
            found = os.read(self._own, 65_536)
        except OSError:
            return False

        self.said += found.decode("utf-8", "replace")

        return bool(found)


@pytest.fixture
def run(dsn, prefix):
    """Runs commands on the test's tables."""
    return Commands(dsn, prefix)


@pytest.fixture
def terminal(dsn, prefix):
    """Starts commands on the test's tables, each with a terminal."""
    started = []

    def start(*arguments, columns=200, **env):
        made = Terminal(arguments, {"OBAN_DSN": dsn, "OBAN_PREFIX": prefix, **env}, columns)
        started.append(made)

        return made

    yield start

    for made in started:
        made.close()


@pytest.fixture
def audited(conn):
    """What stands in the audit: who, what and to what."""

    def read():
        return conn.execute(
            "SELECT who, action, subject FROM oban_sync_audit ORDER BY id"
        ).fetchall()

    return read
