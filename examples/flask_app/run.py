"""Starts everything on this machine: a private PostgreSQL, the web process and the worker process.

Ctrl-C stops it all. Arguments are passed on to `flask run`, as in `python run.py --port 8000`. When
DATABASE_URL is set, that server is used.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path

from oban_sync.embedded import Server

HERE = Path(__file__).resolve().parent
FLASK = [sys.executable, "-m", "flask"]
OBAN_SYNC = [sys.executable, "-m", "oban_sync"]


def main() -> None:
    given = os.environ.get("DATABASE_URL")
    # A SIGTERM stops everything as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    with nullcontext(given) if given else Server(HERE / "instance" / "postgres") as url:
        # In sessions of their own: Ctrl-C is for this process, which passes it on once.
        start = partial(
            subprocess.Popen,
            cwd=HERE,
            env={**os.environ, "DATABASE_URL": url},
            start_new_session=True,
        )
        processes = [start([*FLASK, "init-db"])]

        try:
            if processes[0].wait() != 0:
                sys.exit("the tables could not be made")

            processes.append(start([*FLASK, "run", *sys.argv[1:]]))
            processes.append(
                start([*OBAN_SYNC, "start", "--app", "wsgi:oban", "--queues", "mailers:5"])
            )

            while all(process.poll() is None for process in processes[1:]):
                time.sleep(0.2)

            sys.exit("one process has ended, so the other is stopped")
        finally:
            for process in processes:
                process.terminate()

            for process in processes:
                process.wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
