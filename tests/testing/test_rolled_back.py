"""Sessions and an Oban in one transaction that is undone."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import create_engine, text
from sqlalchemy.orm import scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from oban_sync import ConfigError, testing, worker
from oban_sync.integrations.flask import FlaskOban
from tests.testing.conftest import url
from tests.testing.workers import RAN, Failing, Mailer

DRIVERS = ["psycopg", "psycopg2"]


@worker(queue="mail", name="kit.Flaskish")
class Flaskish:
    """Works by a session of the application, in a context of its own."""

    site = None

    def process(self, job):
        app, db = self.site

        with app.app_context():
            db.session.execute(text("INSERT INTO notes VALUES ('of the job')"))
            Mailer.enqueue({"to": "of the job"}, conn=db.session)
            db.session.commit()


@worker(queue="mail", name="kit.InContext", max_attempts=2)
class InContext:
    """Works in the context that it finds, by its session."""

    site = None

    def process(self, job):
        _, db = self.site
        RAN.append(db.session())
        db.session.rollback()
        db.session.execute(text("INSERT INTO notes VALUES ('of the job')"))
        db.session.execute(text("SELECT 1 / :number"), {"number": job.args["number"]})
        db.session.commit()


@worker(queue="mail", name="kit.Whose")
class Whose:
    """Tells whose session it finds."""

    def process(self, job):
        RAN.append(InContext.site[1].session())


@pytest.fixture(params=DRIVERS)
def site(request, dsn, prefix, notes):
    """An application as its author would write it."""
    app, db = Flask("kit"), SQLAlchemy()
    app.config["SQLALCHEMY_DATABASE_URI"] = url(dsn, request.param)
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {
        "connect_args": {"options": f'-c search_path="{prefix}"'},
        "poolclass": NullPool,
    }
    db.init_app(app)

    @app.post("/sign-up/<name>")
    def sign_up(name):
        db.session.execute(text("INSERT INTO notes VALUES (:name)"), {"name": name})
        Mailer.enqueue({"to": name}, conn=db.session)

        if name == "nobody":
            db.session.rollback()
        else:
            db.session.commit()

        return ""

    @app.post("/look")
    def look():
        names(db)
        Mailer.enqueue({"to": "after a look"})

        return ""

    Flaskish.site = InContext.site = (app, db)

    return app, db


def names(db):
    return db.session.scalars(text("SELECT text FROM notes ORDER BY text")).all()


def test_requests_commit_and_roll_back_within_it(site, oban, conn, factory):
    app, db = site

    with testing.rolled_back(db, app=app):
        app.test_client().post("/sign-up/ann")
        app.test_client().post("/sign-up/nobody")

        assert testing.assert_enqueued(worker=Mailer, count=1).args == {"to": "ann"}
        assert testing.drain_queue("mail")["completed"] == 1

        with app.app_context():
            assert names(db) == ["ann"]

        assert factory.count() == 0

    assert RAN == ["ann"]
    assert conn.execute("SELECT count(*) FROM notes").fetchone() == (0,)


@pytest.mark.parametrize("context", [True, False], ids=["in a context", "outside of any"])
def test_the_oban_of_the_application_takes_part(site, prefix, factory, context):
    app, db = site
    FlaskOban(app, prefix=prefix)

    with app.app_context() if context else nullcontext(), testing.rolled_back(db, app=app):
        app.test_client().post("/sign-up/ann")

        with app.app_context():
            Mailer.enqueue({"to": "bob"})

        testing.assert_enqueued(worker=Mailer, count=2)

        assert testing.drain_queue("mail")["completed"] == 2

    assert RAN == ["ann", "bob"]
    assert factory.count() == 0


def test_after_it_sessions_are_as_before(site, oban, conn):
    app, db = site

    with app.app_context():
        with testing.rolled_back(db):
            db.session.execute(text("INSERT INTO notes VALUES ('goes')"))
            db.session.commit()

        db.session.execute(text("INSERT INTO notes VALUES ('stays')"))
        db.session.commit()

    assert conn.execute("SELECT text FROM notes").fetchall() == [("stays",)]


def test_within_a_context_that_a_test_has_opened(site, oban, conn, factory):
    app, db = site

    with app.app_context():
        db.session.execute(text("SELECT 1"))

        with testing.rolled_back(db):
            app.test_client().post("/sign-up/ann")
            db.session.rollback()

            assert names(db) == ["ann"]

        assert names(db) == []


def test_jobs_work_by_sessions_of_their_own(site, oban, factory):
    app, db = site

    with testing.rolled_back(db, app=app):
        Flaskish.enqueue()

        assert testing.drain_queue("mail")["completed"] == 2

        with app.app_context():
            assert names(db) == ["of the job"]

        with pytest.raises(ValueError, match="no such mailbox"):
            oban.enqueue(Failing.new()), oban.drain_queue("mail")

        assert oban.count_jobs()["retryable"] == 1

    assert RAN == ["of the job"]
    assert factory.count() == 0


def test_a_request_that_only_looks_does_not_take_its_jobs_along(site, prefix):
    app, db = site
    FlaskOban(app, prefix=prefix)

    with testing.rolled_back(db, app=app):
        app.test_client().post("/look")

        testing.assert_enqueued(worker=Mailer, args={"to": "after a look"}, count=1)


@pytest.mark.parametrize("number", [0, 1], ids=["fails", "goes well"])
def test_a_drained_job_leaves_the_session_of_the_test_alone(site, prefix, number):
    app, db = site
    FlaskOban(app, prefix=prefix)

    with testing.rolled_back(db, app=app), app.app_context():
        db.session.execute(text("INSERT INTO notes VALUES ('of the test')"))
        db.session.commit()
        InContext.enqueue({"number": number})

        # Now its session is in a transaction, as after any look.
        assert names(db) == ["of the test"]
        assert sum(testing.drain_queue("mail", with_safety=True).values()) == 2 - number
        assert db.session() not in RAN
        assert names(db) == ["of the job"] * number + ["of the test"]

        db.session.execute(text("INSERT INTO notes VALUES ('then')"))
        db.session.commit()
        testing.assert_enqueued(state=["completed", "discarded"], count=1)


def test_an_inline_job_works_by_the_session_of_its_caller(site, prefix):
    app, db = site
    FlaskOban(app, prefix=prefix)

    with testing.rolled_back(db, app=app), app.app_context(), testing.mode("inline"):
        session = db.session()
        InContext.enqueue({"number": 1})

        assert [session] == RAN
        assert names(db) == ["of the job"]


def test_a_drained_job_works_by_the_session_that_its_oban_is_bound_to(site, prefix, factory):
    app, db = site
    oban = FlaskOban(app, prefix=prefix)

    with app.app_context():
        with testing.bound(oban.get(), db.session):
            Whose.enqueue()

            assert testing.drain_queue("mail")["completed"] == 1

        assert [db.session()] == RAN

        db.session.rollback()

    assert factory.count() == 0


def test_an_error_undoes_it_too(site, oban, factory):
    app, db = site

    def work():
        with testing.rolled_back(db, app=app):
            Mailer.enqueue()

            raise LookupError

    with pytest.raises(LookupError):
        work()

    assert factory.count() == 0


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("scoped", [False, True], ids=["sessionmaker", "scoped_session"])
def test_plain_sessions(driver, scoped, dsn, prefix, oban, notes, conn, factory):
    path = {"options": f'-c search_path="{prefix}"'}
    engine = create_engine(url(dsn, driver), poolclass=NullPool, connect_args=path)
    maker = sessionmaker(engine)
    db = scoped_session(maker) if scoped else maker

    with testing.rolled_back(db):
        with db() as session:
            session.execute(text("INSERT INTO notes VALUES ('ann')"))
            Mailer.enqueue({"to": "ann"}, conn=session)
            session.commit()

        assert testing.drain_queue("mail")["completed"] == 1

    assert RAN == ["ann"]
    assert factory.count() == 0
    assert conn.execute("SELECT count(*) FROM notes").fetchone() == (0,)

    with db() as session:
        session.execute(text("INSERT INTO notes VALUES ('stays')"))
        session.commit()

    if scoped:
        db.remove()

    assert conn.execute("SELECT count(*) FROM notes").fetchone() == (1,)


def test_without_an_oban_only_the_sessions_take_part(site, conn):
    app, db = site

    with testing.rolled_back(db, app=app), app.app_context():
        db.session.execute(text("INSERT INTO notes VALUES ('ann')"))
        db.session.commit()

    assert conn.execute("SELECT count(*) FROM notes").fetchone() == (0,)


def test_what_is_nothing_of_it_is_refused(site, kinds):
    _, db = site

    for given, message in [
        (db, "app: give the application"),
        (kinds.open("psycopg"), "db: .*testing.bound"),
        (sessionmaker(), "bound to no engine"),
    ]:
        with pytest.raises(ConfigError, match=message), testing.rolled_back(given):
            pass
