"""Starts everything on this machine: a private PostgreSQL, the web process and the worker process.

Ctrl-C stops it all. Arguments are passed on to `flask run`, as in `python run.py --port 8000`. When
DATABASE_URL is set, that server is used.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path

from oban_sync.embedded import Server

HERE = Path(__file__).resolve().parent
INSTANCE = HERE / "instance"
FLASK = [sys.executable, "-m", "flask", "--app", "wsgi"]


def main() -> None:
    given = os.environ.get("DATABASE_URL")
    # A SIGTERM stops everything as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    with nullcontext(given) if given else Server(INSTANCE / "postgres") as url:
        # In sessions of their own: Ctrl-C is for this process, which passes it on once.
        start = partial(subprocess.Popen, cwd=HERE, env=environment(url), start_new_session=True)

        tables = [start([*FLASK, *command]) for command in (["oban", "install"], ["init-db"])]

        if any([process.wait() for process in tables]):
            sys.exit("the tables could not be made")

        processes = []

        try:
            processes.append(start([*FLASK, "run", *sys.argv[1:]]))
            processes.append(start([*FLASK, "oban", "start"]))

            while all(process.poll() is None for process in processes):
                time.sleep(0.2)

            sys.exit("one process has ended, so the other is stopped")
        finally:
            for process in processes:
                process.terminate()

            for process in processes:
                process.wait()


def environment(url: str) -> dict[str, str]:
    """What both processes are told: where the database is, one secret, and no password."""
    settings = {
        "FLASK_SECRET_KEY": secret_key(INSTANCE / "secret_key"),
        # As text that from_prefixed_env takes: JSON.
        "FLASK_EDITOR_PASSWORD": '""',
    }

    return {**settings, **os.environ, "DATABASE_URL": url}


def secret_key(path: Path) -> str:
    """Kept, so that a restart does not end sessions."""
    path.parent.mkdir(exist_ok=True)

    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32), "utf-8")

    return path.read_text("utf-8")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
