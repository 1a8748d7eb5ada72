"""Signing up: user and job in one transaction, and the mail that comes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from signup.models import db
from sqlalchemy import text

from oban_sync import Oban

HERE = Path(__file__).parent
WORKER = [sys.executable, "-m", "oban_sync", "start", "--app", "wsgi:oban", "--queues", "mailers:1"]

#: Seconds for what takes about one; a test waits for them only when it fails.
PATIENCE = 30.0

USERS = "SELECT email FROM users ORDER BY id"
JOBS = "SELECT state::text FROM oban_jobs ORDER BY id"
MAILS = "SELECT body FROM mails ORDER BY job_id"

Query = Callable[[str], list[Any]]


def sign_up(client: FlaskClient, email: str) -> int:
    return client.post("/signup", data={"email": email}).status_code


def test_signing_up_stores_the_user_and_one_job(client: FlaskClient, committed: Query) -> None:
    assert sign_up(client, " Ada@example.com") == 303

    assert committed(USERS) == ["ada@example.com"]
    assert committed(JOBS) == ["available"]
    assert "available, attempt 0 of 5" in client.get("/users").text


def test_the_job_writes_the_mail(client: FlaskClient, oban: Oban, committed: Query) -> None:
    sign_up(client, "ada@example.com")

    assert oban.drain_queue("mailers")["completed"] == 1

    assert committed(MAILS) == ["Welcome, ada@example.com!"]
    assert "completed, attempt 1 of 5" in client.get("/users").text


def test_the_job_of_a_deleted_user_is_cancelled(
    client: FlaskClient, oban: Oban, committed: Query
) -> None:
    sign_up(client, "ada@example.com")
    committed("DELETE FROM users RETURNING id")

    assert oban.drain_queue("mailers")["cancelled"] == 1
    assert committed(MAILS) == []


def test_a_second_sign_up_with_an_address_changes_nothing(
    client: FlaskClient, committed: Query
) -> None:
    sign_up(client, "ada@example.com")

    again = client.post("/signup", data={"email": "ada@example.com"})

    assert again.status_code == 409
    assert "ada@example.com has signed up before." in again.text
    assert (len(committed(USERS)), len(committed(JOBS))) == (1, 1)


@pytest.mark.parametrize("email", ["", "ada", "a b@example.com", "a\0@b", "a@" + "b" * 9999])
def test_what_is_no_address_is_refused(client: FlaskClient, committed: Query, email: str) -> None:
    assert sign_up(client, email) == 400
    assert (committed(USERS), committed(JOBS)) == ([], [])


def test_an_error_before_the_commit_leaves_neither_user_nor_job(
    client: FlaskClient, committed: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def fail() -> None:
        seen.extend(db.session.scalars(text(query)).one() for query in (USERS, JOBS))

        raise ConnectionError

    monkeypatch.setattr(db.session, "commit", fail)

    with pytest.raises(ConnectionError):
        sign_up(client, "ada@example.com")

    assert seen == ["ada@example.com", "available"]
    assert (committed(USERS), committed(JOBS)) == ([], [])


def test_pages_show_a_hostile_address_as_text(
    client: FlaskClient, oban: Oban, committed: Query
) -> None:
    email = '"><script>alert(1)</script>@example.com'
    assert sign_up(client, email) == 303
    oban.drain_queue("mailers")

    pages = [client.get("/users").text, client.post("/signup", data={"email": email}).text]

    assert committed(MAILS) == [f"Welcome, {email}!"]
    assert [page.count("<script>") for page in pages] == [0, 0]
    assert [page.count("&lt;script&gt;") for page in pages] == [2, 2]


def test_the_worker_process_writes_the_mail_and_stops_on_sigterm(
    client: FlaskClient, oban: Oban, committed: Query, database_url: str, tmp_path: Path
) -> None:
    with running_worker(database_url, tmp_path / "worker.log") as worker:
        sign_up(client, "ada@example.com")
        wait_for(lambda: committed(MAILS), worker)

        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE) == 0

    assert committed(MAILS) == ["Welcome, ada@example.com!"]
    assert committed(JOBS) == ["completed"]


@contextmanager
def running_worker(database_url: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The worker process, killed at the end if it is still there."""
    environment = {**os.environ, "DATABASE_URL": database_url}

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
