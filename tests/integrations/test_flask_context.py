"""What jobs run in: an app context of their own, and nothing left after it."""

from __future__ import annotations

import logging
from contextlib import contextmanager

import pytest
from flask import current_app, g, has_app_context
from sqlalchemy.orm import scoped_session, sessionmaker

from oban_sync import Snooze, telemetry, worker
from oban_sync.integrations import pool_watch
from oban_sync.testing import bound
from tests.support.flask_apps import Site
from tests.support.probe import eventually

DRIVERS = pytest.mark.parametrize("driver", ["postgresql+psycopg", "postgresql+psycopg2"])

_works = {}


@worker(queue="alpha", name="tests.flask.Works", max_attempts=1)
class Works:
    """Does what the test says."""

    def process(self, job):
        return _works[job.args["work"]]()


@worker(queue="alpha", name="tests.flask.Transactional", transactional=True)
class Transactional:
    """Does what the test says by the session it is given."""

    def process(self, job, session):
        return _works[job.args["work"]](session)


@pytest.fixture
def make_site(dsn, prefix):
    made = []

    def make(**options):
        made.append(Site(dsn, prefix, **options))

        return made[-1]

    yield make

    for site in made:
        site.close()


@pytest.fixture
def leftovers(monkeypatch):
    """What jobs left, as telemetry tells; nothing is held back in the log."""
    monkeypatch.setattr(pool_watch, "_said", {})
    heard = []
    telemetry.attach("leftovers", ["oban.job.leftover"], lambda _, fields: heard.append(fields))

    yield heard

    telemetry.detach("leftovers")


@pytest.fixture
def run():
    """Have a job of a site run on the queue's threads; gives it as it is then."""

    def run(site, work, kind=Works):
        _works["work"] = work
        oban = site.oban.get(site.app)

        if not oban.running:
            oban.configure(queues={"alpha": 1}).start()

        with site.app.app_context():
            stored = kind.enqueue({"work": "work"})

        eventually(lambda: oban.get_job(stored).state not in ("available", "executing"))

        return oban.get_job(stored)

    yield run

    _works.clear()


def test_every_job_has_an_app_context_of_its_own_that_is_torn_down(make_site, run):
    site = make_site()
    seen = []
    torn_down = []
    site.app.teardown_appcontext(torn_down.append)

    def work():
        seen.append((current_app._get_current_object(), g.get("mark")))
        g.mark = "was here"
        seen.append(site.db.session())

    assert run(site, work).state == "completed"
    assert run(site, work).state == "completed"
    assert [entry for entry in seen if isinstance(entry, tuple)] == [(site.app, None)] * 2
    assert seen[1] is not seen[3]
    # Those of the jobs, between those of the enqueues.
    assert torn_down == [None] * 4
    assert site.taken == 0
    assert not site.db.session.registry.registry


def test_a_failure_is_told_to_the_teardown_and_undone_without_a_word(make_site, run, leftovers):
    site = make_site()
    torn_down = []
    site.app.teardown_appcontext(torn_down.append)

    def work():
        site.db.session.add(site.User(name="anna"))
        site.db.session.flush()
        site.db.session.add(site.User(name="bert"))

        raise ValueError("boom")

    assert run(site, work).state == "discarded"
    assert [type(error) for error in torn_down] == [type(None), ValueError]
    assert site.names() == []
    assert leftovers == []
    assert site.taken == 0


def test_a_teardown_that_fails_is_logged_and_the_session_removed_in_any_case(
    make_site, run, caplog
):
    site = make_site()

    @site.app.teardown_appcontext
    def tear_down(_error):
        if broken:
            raise RuntimeError("teardown")

    broken = []

    def work():
        site.db.session.add(site.User(name="anna"))
        site.db.session.commit()
        site.db.session.execute(site.db.select(site.User))
        broken.append(True)

    with caplog.at_level(logging.ERROR, "oban_sync.runtime"):
        assert run(site, work).state == "completed"

    broken.clear()

    assert "failed after the run" in caplog.text
    assert site.taken == 0
    assert not site.db.session.registry.registry
    assert site.names() == ["anna"]


@pytest.mark.parametrize("broken", [False, True])
def test_a_session_of_the_application_in_its_place_is_looked_after_as_well(
    make_site, run, leftovers, caplog, broken
):
    site = make_site()
    failing = []

    with site.app.app_context():
        site.db.session = scoped_session(sessionmaker(site.db.engine))

    @site.app.teardown_appcontext
    def tear_down(_error):
        if failing:
            raise RuntimeError("teardown")

    def work():
        site.db.session.add(site.User(name="anna"))
        site.db.session.flush()
        failing.extend([True] * broken)

    with caplog.at_level(logging.ERROR, "oban_sync"):
        assert run(site, work).state == "completed"

    failing.clear()

    assert ("failed after the run" in caplog.text) is broken
    assert "scopefunc" not in caplog.text
    assert site.names() == []
    assert [item["left"] for item in leftovers] == ["changes"]
    assert site.taken == 0


def test_what_the_application_puts_around_is_inside_of_the_context(make_site, run):
    told = []

    @contextmanager
    def around(job):
        told.append((job.worker, current_app.name, has_app_context()))
        yield
        told.append(has_app_context())

    site = make_site(around=around)
    run(site, lambda: told.append("work"))

    assert told == [("tests.flask.Works", "site", True), "work", True]


@pytest.mark.parametrize("fresh", [False, True])
def test_drained_jobs_have_a_context_of_their_own(make_site, fresh):
    site = make_site(fresh_context=fresh)
    seen = []
    _works["work"] = lambda: seen.append((g.get("mark"), site.db.session()))

    with site.app.app_context():
        g.mark = "the caller's"
        user = site.User(name="anna")
        site.db.session.add(user)
        Works.enqueue({"work": "work"})
        site.oban.drain_queue("alpha")

        [(mark, session)] = seen

        assert mark is None
        assert session is not site.db.session()
        assert user in site.db.session
        assert g.mark == "the caller's"


def test_jobs_that_are_drained_within_the_session_of_a_test_run_in_its_context(make_site):
    site = make_site()
    seen = []
    _works["work"] = lambda: seen.append((g.get("mark"), site.db.session()))

    with site.app.app_context():
        g.mark = "the caller's"
        site.db.session.connection()

        with bound(site.oban, site.db.session):
            Works.enqueue({"work": "work"})
            site.oban.drain_queue("alpha")

        assert seen == [("the caller's", site.db.session())]
        site.db.session.rollback()


def test_inline_jobs_run_in_the_context_of_the_caller(make_site):
    site = make_site(testing="inline")
    seen = []
    torn_down = []
    site.app.teardown_appcontext(torn_down.append)
    _works["work"] = lambda: seen.append((g.get("mark"), site.db.session()))

    with site.app.app_context():
        g.mark = "the caller's"
        user = site.User(name="anna")
        site.db.session.add(user)
        Works.enqueue({"work": "work"})

        assert seen == [("the caller's", site.db.session())]
        assert user in site.db.session
        assert torn_down == []


def test_in_the_context_of_another_application_jobs_have_one_of_their_own(make_site):
    site, other = make_site(), make_site()
    seen = []
    _works["work"] = lambda: seen.append(current_app._get_current_object())

    with site.app.app_context():
        Works.enqueue({"work": "work"})

    with other.app.app_context():
        site.oban.get(site.app).drain_queue("alpha")

    assert seen == [site.app]


@DRIVERS
def test_changes_that_are_not_committed_are_told_with_the_worker(
    make_site, run, leftovers, caplog, driver
):
    site = make_site(driver=driver)

    def sent():
        site.db.session.add(site.User(name="anna"))
        site.db.session.flush()

    def unsent():
        site.db.session.add(site.User(name="anna"))

    def changed():
        site.db.session.scalars(site.db.select(site.User)).one().name = "berta"

    def stored():
        site.db.session.add(site.User(name="kept"))
        site.db.session.commit()

    def snoozing():
        sent()

        return Snooze(60)

    run(site, stored)

    assert leftovers == []

    with caplog.at_level(logging.WARNING, "oban_sync.integrations"):
        for count, work in enumerate([sent, unsent, changed, snoozing], start=1):
            run(site, work)

            assert [(item["job"].worker, item["left"]) for item in leftovers] == [
                ("tests.flask.Works", "changes")
            ] * count

    assert site.names() == ["kept"]
    assert site.taken == 0
    # The same of the same worker is told once in a while.
    [told] = [item for item in caplog.records if item.name == "oban_sync.integrations"]

    assert "tests.flask.Works" in told.getMessage()
    assert "did not commit" in told.getMessage()


@DRIVERS
def test_a_failed_statement_that_was_passed_over_is_told(make_site, run, leftovers, driver):
    site = make_site(driver=driver)

    def work():
        site.db.session.add(site.User(name="anna"))
        site.db.session.flush()

        with pytest.raises(Exception, match="nowhere"):
            site.db.session.execute(site.db.text("SELECT * FROM nowhere"))

    run(site, work)

    assert [item["left"] for item in leftovers] == ["failed"]
    assert site.taken == 0


@DRIVERS
def test_a_connection_that_is_kept_is_told(make_site, run, leftovers, driver):
    site = make_site(driver=driver)
    kept = []

    def work():
        kept.append(site.db.engine.connect())
        site.db.session.execute(site.db.select(site.User))

    run(site, work)

    assert [item["left"] for item in leftovers] == ["connection"]
    assert site.taken == 1
    kept.pop().close()
    assert site.taken == 0

    run(site, lambda: None)

    assert len(leftovers) == 1


def test_what_only_reads_or_commits_leaves_nothing(make_site, run, leftovers):
    site = make_site()

    def work():
        site.db.session.add(site.User(name="anna"))
        site.db.session.commit()
        site.db.session.scalars(site.db.select(site.User)).all()

        with site.db.engine.begin() as conn:
            conn.execute(site.db.insert(site.User).values(name="bert"))

        # A savepoint that is taken back is nobody's mistake.
        nested = site.db.session.begin_nested()
        site.db.session.add(site.User(name="carl"))
        site.db.session.flush()
        nested.rollback()
        site.db.session.rollback()

    run(site, work)

    assert leftovers == []
    assert site.names() == ["anna", "bert"]


def test_an_application_that_commits_in_its_teardown_is_in_the_right(make_site, run, leftovers):
    site = make_site()

    @site.app.teardown_appcontext
    def commit(error):
        if error is None:
            site.db.session.commit()

    def work():
        site.db.session.add(site.User(name="anna"))

    run(site, work)

    assert leftovers == []
    assert site.names() == ["anna"]


def test_what_a_request_does_is_not_taken_for_a_job_s(make_site, leftovers):
    site = make_site()

    @site.app.get("/")
    def index():
        site.db.session.add(site.User(name="anna"))
        site.db.session.flush()

        return "fine"

    # Once a job has run, engines are watched.
    _works["work"] = lambda: None
    oban = site.oban.get(site.app)

    with site.app.app_context():
        Works.enqueue({"work": "work"})

    assert oban.drain_queue("alpha")["completed"] == 1
    assert site.app.test_client().get("/").text == "fine"
    assert leftovers == []
    assert site.taken == 0


@pytest.mark.parametrize("fails", [False, True], ids=["commits", "fails"])
def test_a_transactional_job_s_session_is_that_of_flask_sqlalchemy(
    make_site, run, leftovers, fails
):
    site = make_site(session=True)
    seen = []

    def work(session):
        seen.append(session is site.db.session())
        site.db.session.add(site.User(name="anna"))
        Works.enqueue({"work": "none"}, queue="later")

        if fails:
            raise ValueError("boom")

    assert run(site, work, Transactional).state == ("retryable" if fails else "completed")
    assert seen == [True]
    assert site.names() == ([] if fails else ["anna"])
    assert len(site.oban.get(site.app).list_jobs(queue="later")) == (0 if fails else 1)
    assert leftovers == []
    assert site.taken == 0
