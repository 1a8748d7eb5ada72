"""Once for real: a worker process of its own, its process queue, and a SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flask import Flask
from gazette import jobs, png
from gazette.extensions import db
from gazette.models import Mail
from gazette.png import Image
from sqlalchemy import select

from oban_sync import testing

HERE = Path(__file__).parents[1]
WORKER = [sys.executable, "-m", "flask", "--app", "wsgi", "oban", "start"]

#: Seconds for what takes about three; a test waits for them only when it fails.
PATIENCE = 50.0


@pytest.fixture
def emptied(application: Flask) -> Iterator[Flask]:
    """The application; what a test stores is committed, and deleted after it."""
    yield application

    with application.app_context():
        for table in reversed(db.metadata.sorted_tables):
            db.session.execute(table.delete())

        db.session.commit()
        testing.reset_oban()


@pytest.mark.timeout(120)
def test_a_worker_process_runs_the_jobs_and_stops_on_sigterm(
    emptied: Flask, database_url: str, tmp_path: Path
) -> None:
    picture = png.encode(Image(2, 2, [bytes(6)] * 2))
    oban = emptied.extensions["oban"].get(emptied)

    with emptied.app_context(), running_worker(database_url, tmp_path / "log") as worker:
        welcome = jobs.subscribe("ann@example.com").welcome_job_id
        thumbnails = jobs.add_picture("tiny.png", picture).job_id

        wait_for(lambda: oban.get_job(welcome).state == "completed", worker)
        wait_for(lambda: oban.get_job(thumbnails).state == "completed", worker)

        assert db.session.scalars(select(Mail.recipient)).all() == ["ann@example.com"]
        assert oban.get_job(thumbnails).recorded()["small"] == [2, 2]

        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE) == 0


@contextmanager
def running_worker(database_url: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The worker process, killed at the end if it is still there."""
    environment = {
        **os.environ,
        "DATABASE_URL": database_url.replace("+psycopg", ""),
        "FLASK_SECRET_KEY": "of the tests",
        "FLASK_MAIL_SECONDS": "0",
    }

    with (
        log.open("wb") as output,
        subprocess.Popen(WORKER, cwd=HERE, env=environment, stdout=output, stderr=output) as worker,
    ):
        try:
            yield worker
        except BaseException as error:
            error.add_note(f"the worker said:\n{log.read_text()}")

            raise
        finally:
            worker.kill()


def wait_for(condition: Callable[[], object], worker: subprocess.Popen[bytes]) -> None:
    """Return when the condition holds; fail when the worker ends before, or patience does."""
    deadline = time.monotonic() + PATIENCE

    while not condition():
        assert worker.poll() is None, "the worker ended"
        assert time.monotonic() < deadline, "the worker did nothing"
        time.sleep(0.05)
