"""The pytest plugin, in runs of its own."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from tests.testing.conftest import url

pytest_plugins = ["pytester"]

CONFTEST = """
    import psycopg
    import pytest
    from oban_sync import Oban, worker

    DSN = {dsn!r}
    oban = Oban(DSN, prefix={prefix!r})

    @worker(queue="mail", name="run.Mailer")
    class Mailer:
        ran = []

        def process(self, job):
            self.ran.append(job.args["n"])

    @pytest.fixture
    def conn():
        with psycopg.connect(DSN) as conn, conn.transaction(force_rollback=True):
            yield conn

    @pytest.fixture(autouse=True)
    def jobs(conn, oban_bound):
        return oban_bound(conn)
"""

TESTS = """
    import pytest
    from conftest import Mailer, oban
    from oban_sync import testing

    @pytest.mark.parametrize("n", range(8))
    def test_alone(n, jobs):
        assert jobs is oban

        oban.enqueue_many(Mailer.new({"n": n}) for _ in range(5))

        testing.assert_enqueued(worker=Mailer, args={"n": n}, count=5)
        assert len(testing.all_enqueued()) == 5
        assert testing.drain_queue("mail")["completed"] == 5
"""


@pytest.fixture
def project(pytester, dsn, prefix, monkeypatch):
    """A project that tests its jobs on the test's database."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest(CONFTEST.format(dsn=dsn, prefix=prefix))

    return pytester


def run(project, *options):
    # Without what else is installed, which takes its time to be imported in every process.
    plugins = ["-p", "oban_sync.testing.plugin", "-p", "xdist"]

    return project.runpytest_inprocess(*plugins, *options)


def test_tests_run_each_in_its_own_transaction(project, factory):
    project.makepyfile(TESTS)

    run(project, "-n", "0").assert_outcomes(passed=8)

    assert factory.count() == 0


@pytest.mark.timeout(180)
def test_tests_run_in_parallel_on_one_database(project, factory):
    project.makepyfile(TESTS)

    run(project, "-n", "2").assert_outcomes(passed=8)

    assert factory.count() == 0


ORDER = """
    from conftest import Mailer, oban

    def test_order():
        oban.enqueue_many(Mailer.new({"n": n}) for n in range(20))
        oban.drain_queue("mail")

        print()
        print("order", *Mailer.ran)
"""


def order(result):
    return next(line for line in result.outlines if line.startswith("order"))


def test_a_seed_shuffles_drains_and_is_shown(project):
    project.makepyfile(ORDER)

    usual = order(run(project, "-s"))
    drawn = run(project, "-s", "--oban-seed", "random")
    header = next(line for line in drawn.outlines if line.startswith("oban_sync:"))
    seed = header.rpartition("=")[2]

    assert usual == "order " + " ".join(map(str, range(20)))
    assert order(drawn) != usual
    assert order(run(project, "-s", f"--oban-seed={seed}")) == order(drawn)


@pytest.mark.timeout(180)
def test_processes_of_a_run_share_the_seed(project):
    project.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("n", range(4))
        def test_seed(n, pytestconfig):
            from oban_sync.testing import plugin

            assert pytestconfig.stash[plugin._SEED] == 7
        """
    )

    run(project, "-n", "2", "--oban-seed=7").assert_outcomes(passed=4)


def test_a_mode_for_every_test_stands_in_the_settings(project):
    project.makeini("[pytest]\noban_testing = inline\n")
    project.makepyfile(
        """
        from conftest import Mailer

        def test_inline():
            assert Mailer.enqueue({"n": 1}).state == "completed"
        """
    )

    run(project).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("ini", "option", "message"),
    [
        ("inlined", [], "oban_testing: 'inlined' is not allowed"),
        ("", ["--oban-seed=x"], "--oban-seed: 'x' is neither a number nor 'random'"),
    ],
)
def test_what_is_wrong_is_told(project, ini, option, message):
    project.makeini(f"[pytest]\noban_testing = {ini}\n")

    run(project, *option).stderr.fnmatch_lines([f"*{message}*"])


@pytest.mark.timeout(180)
def test_flask_sqlalchemy_in_one_line(project, dsn, factory):
    project.makepyfile(
        f"""
        import pytest
        from conftest import Mailer, oban
        from flask import Flask
        from flask_sqlalchemy import SQLAlchemy
        from sqlalchemy.pool import NullPool
        from oban_sync.testing import assert_enqueued

        app, db = Flask("kit"), SQLAlchemy()
        app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {{"poolclass": NullPool}}
        app.config["SQLALCHEMY_DATABASE_URI"] = {url(dsn, "psycopg")!r}
        db.init_app(app)

        @pytest.fixture(autouse=True)
        def jobs(oban_rolled_back):
            oban_rolled_back(db, app=app, oban=oban)

        def test_sign_up():
            with app.app_context():
                Mailer.enqueue({{"n": 1}}, conn=db.session)
                db.session.commit()

            assert_enqueued(worker=Mailer)
        """
    )

    # SQLAlchemy does not bear to be imported twice, as a run within this process would do.
    result = project.runpytest_subprocess("-p", "oban_sync.testing.plugin")

    result.assert_outcomes(passed=1)

    assert factory.count() == 0


def test_it_is_there_once_the_package_is_installed():
    [found] = entry_points(group="pytest11", name="oban_sync")

    assert found.value == "oban_sync.testing.plugin"


def test_the_plugin_brings_nothing_that_applications_may_not_have():
    code = "import sys, oban_sync.testing.plugin; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    for name in ("flask", "sqlalchemy", "click", "django", "psycopg2", "time_machine"):
        assert name not in done.stdout.split()
