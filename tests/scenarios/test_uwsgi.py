"""uWSGI with queues in its workers: with threads and without, forked and lazy."""

from __future__ import annotations

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


def uwsgi(site, *arguments, **environ):
    process = site.serve(
        "uwsgi",
        *("--http-socket", str(site.socket), "--module", "wsgi:app", "--die-on-term"),
        *arguments,
        **environ,
    )
    site.await_answer()

    return process


@pytest.mark.parametrize(
    "arguments",
    [
        ["--master", "--processes=2", "--enable-threads"],
        ["--master", "--processes=2", "--threads=3"],
        ["--master", "--processes=2", "--enable-threads", "--lazy-apps"],
        ["--enable-threads"],
    ],
    ids=" ".join,
)
def test_every_job_of_a_committed_request_runs_once(site, arguments):
    master = uwsgi(site, *arguments)
    site.post_many("first")
    site.await_jobs()
    site.post_many("second")
    site.await_jobs()
    workers = site.await_processes(2 if "--master" in arguments else 1)

    assert site.check_effects() <= workers
    assert (master.pid in workers) == ("--master" not in arguments)

    site.end(within=GRACE + 5)

    assert (site.count("executing"), site.nodes()) == (0, 0), site.output


def test_forked_workers_start_queues_before_any_request(site, factory):
    factory.job(queue="effects", worker="wsgi.effect", args={"key": "early"})
    uwsgi(site, "--master", "--processes=2", "--enable-threads")
    eventually(lambda: site.nodes() == 2 and site.count("completed") == 1, within=30)

    assert "queues start at once under uWSGI" in site.output


def test_a_sigterm_hands_long_jobs_back(site):
    uwsgi(site, "--master", "--processes=1", "--enable-threads", GRACE="1")

    assert site.post("long", "?seconds=600") == 200

    eventually(lambda: site.count("executing") == 1 and site.process()["running"], within=30)
    # uWSGI ends a worker wherever it is, in the middle of its words about a request too.
    site.process("?last")
    eventually(lambda: "/process?last" in site.output)
    site.end(within=1 + 5)

    assert (site.count("available"), site.nodes()) == (1, 0), site.output


def test_a_stop_can_still_connect_at_the_end_of_the_process(site, conn):
    uwsgi(site, "--master", "--processes=1", "--enable-threads")
    site.post_many("first", 10)
    site.await_processes(1)
    site.await_jobs()
    # By uWSGI's own hook it would be too late: OpenSSL has cleaned up behind itself by then.
    conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'oban-sync Oban:%'"
    )
    site.end(within=GRACE + 5)

    assert (site.count("executing"), site.nodes()) == (0, 0), site.output


@pytest.mark.parametrize("arguments", [["--master"], ["--master", "--lazy-apps"]], ids=" ".join)
def test_without_threads_it_says_what_to_add_and_serves_on(site, arguments):
    # As builds are that do not turn them on by themselves.
    uwsgi(site, *arguments, WITHOUT_THREADS="1")
    site.post_many("first", 10)

    assert not site.process()["running"]
    assert "enable-threads = true" in site.output
    assert (site.nodes(), site.count("available")) == (0, 6)

    site.end(within=GRACE + 5)
