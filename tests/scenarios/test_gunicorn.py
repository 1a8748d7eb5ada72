"""gunicorn with queues in its workers: with and without preloading, hooks, and recycling."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.probe import eventually
from tests.support.webapp.site import Site

GRACE = 5.0

# Servers import everything in each of their processes.
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def site(conn, dsn, prefix):
    site = Site(conn, dsn, prefix)

    yield site

    site.close()


def gunicorn(site, *arguments, workers=3, **environ):
    process = site.serve(
        "gunicorn",
        *("--workers", str(workers), "--bind", f"unix:{site.socket}", "--log-level", "info"),
        *arguments,
        "wsgi:app",
        **environ,
    )
    site.await_answer()

    return process


def check_end(site, *, within=GRACE + 5):
    assert site.end(within=within) == 0
    assert (site.count("executing"), site.nodes()) == (0, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--preload"],
        ["--worker-class", "gthread", "--threads", "3"],
        ["--worker-class", "gthread", "--threads", "3", "--preload"],
    ],
    ids=" ".join,
)
def test_every_job_of_a_committed_request_runs_once(site, arguments):
    master = gunicorn(site, *arguments)
    site.post_many("first")
    site.await_jobs()
    site.post_many("second")
    site.await_jobs()
    told = [site.process() for _ in range(6)]

    assert master.pid not in site.check_effects()
    assert 1 <= site.nodes() <= 3
    assert all(one["same_signals"] for one in told)

    check_end(site)


def test_hooks_start_queues_in_every_worker_before_any_request(site, factory):
    factory.job(queue="effects", worker="wsgi.effect", args={"key": "early"})
    gunicorn(site, "--config", "hooks.py", "--preload")
    eventually(lambda: site.nodes() == 3 and site.count("completed") == 1, within=30)
    site.await_processes(1)
    check_end(site)

    assert "queues start at once under gunicorn" in site.output


def test_workers_that_are_replaced_lose_nothing(site):
    gunicorn(site, "--max-requests", "20", "--config", "hooks.py")

    for name in ("first", "second", "third"):
        site.post_many(name)

    site.await_jobs()
    site.check_effects()

    # 120 requests, of which each worker serves 20.
    assert site.output.count("Autorestarting worker") >= 3

    check_end(site)


@pytest.mark.parametrize(
    "arguments",
    [["--preload"], ["--worker-class", "gthread", "--threads", "3", "--config", "hooks.py"]],
    ids=" ".join,
)
def test_a_sigterm_under_load_loses_nothing(site, arguments):
    gunicorn(site, *arguments)

    with ThreadPoolExecutor(3) as threads:
        load = [
            threads.submit(site.post_until_refused, f"load-{n}", "?seconds=0.3") for n in range(3)
        ]
        eventually(lambda: site.count("completed") >= 5 and site.count("executing"), within=30)
        check_end(site)

    assert sum(one.result() for one in load) >= 10

    # As a deploy goes on: the next server runs what waited.
    site.socket.unlink(missing_ok=True)
    gunicorn(site, "--config", "hooks.py")
    eventually(lambda: site.nodes() == 3, within=30)
    site.await_jobs()
    site.check_effects()
    check_end(site)


def test_jobs_longer_than_the_grace_are_handed_back(site):
    gunicorn(site, "--preload", workers=1, GRACE="1")

    assert site.post("long", "?seconds=600") == 200

    eventually(lambda: site.count("executing") == 1, within=30)
    check_end(site, within=1 + 5)

    assert site.count("available") == 1


def test_a_database_that_is_away_keeps_neither_server_nor_requests(site):
    gunicorn(site, "--config", "hooks.py", workers=1, OBAN_DSN="postgresql://127.0.0.1:1/x")

    assert site.process()["running"] is False

    eventually(lambda: "the queues could not be started" in site.output, within=30)

    assert site.end(within=GRACE + 5) == 0
