"""`flask run --debug`: the reloader's parent starts nothing, and a reload loses nothing."""

from __future__ import annotations

import signal

import pytest

from tests.support.probe import eventually
from tests.support.webapp.site import Site

# Servers import everything in each of their processes.
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def site(conn, dsn, prefix):
    site = Site(conn, dsn, prefix)

    yield site

    site.close()


def test_jobs_run_once_with_a_reload_in_between(site):
    parent = site.serve(
        "flask",
        *("--app", "wsgi:app", "run", "--debug", "--host", f"unix://{site.socket}"),
    )
    site.await_answer()
    site.post_many("first", 20)
    before = site.process()
    (site.folder / "wsgi.py").touch()
    site.post_many("during", 20)
    eventually(lambda: site.process()["pid"] != before["pid"], within=30)
    site.post_many("second", 20)
    site.await_jobs()
    after = site.process()
    ran = site.check_effects()

    assert parent.pid not in {before["pid"], after["pid"], *ran}
    assert ran == {before["pid"], after["pid"]}
    assert before["same_signals"]
    assert after["same_signals"]
    eventually(lambda: site.nodes() == 1)

    # As Ctrl-C does.
    site.end(signal.SIGINT, within=10, group=True)

    assert site.count("executing") == 0


def test_without_a_reloader_the_process_itself_runs_them(site):
    process = site.serve("flask", *("--app", "wsgi:app", "run", "--host", f"unix://{site.socket}"))
    site.await_answer()

    assert site.nodes() == 0

    site.post_many("first", 20)
    site.await_jobs()

    assert site.check_effects() == {process.pid}

    site.end(signal.SIGINT, within=10)

    assert (site.count("executing"), site.nodes()) == (0, 0)
