"""What jobs take along of the request they are enqueued in."""

from __future__ import annotations

import logging
from contextvars import ContextVar

import pytest
from flask import Flask, request
from flask_babel import Babel, get_locale
from flask_login import LoginManager, UserMixin, current_user, login_user, logout_user
from flask_sqlalchemy import SQLAlchemy

from oban_sync import worker
from oban_sync.integrations.flask import (
    FlaskOban,
    RequestContext,
    RequestContextFilter,
    request_context,
)
from oban_sync.integrations.request_context import FIELDS
from oban_sync.telemetry import log as log_ends
from tests.support.flask_apps import uri_of

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

TENANT: ContextVar[str] = ContextVar("tenant")

_seen = []


@worker(queue="alpha", name="tests.flask.Sees")
class Sees:
    """Tells what it sees, and goes on for as often as it is told to."""

    def process(self, job):
        _seen.append(request_context())

        if job.args.get("left"):
            Sees.enqueue({"left": job.args["left"] - 1})


@worker(queue="alpha", name="tests.flask.Speaks")
class Speaks:
    """Tells which language Flask-Babel speaks."""

    def process(self, job):
        _seen.append(str(get_locale()))


@pytest.fixture(autouse=True)
def seen():
    """What the jobs saw, from the first on."""
    _seen.clear()

    return _seen


@pytest.fixture
def make_app(dsn, prefix):
    """Make an application whose page enqueues a job, and tells what it carries."""
    made = []

    def make(*, kind=Sees, args=None, **options):
        app = Flask("site")
        app.config.update(OBAN_CONNINFO=dsn, OBAN_PREFIX=prefix, SECRET_KEY="test")  # noqa: S106
        oban = FlaskOban(app, **options)
        made.append((app, oban))

        @app.route("/", methods=["GET", "POST"])
        def index():
            if who := request.args.get("who"):
                login_user(Person(who))

            job = kind.enqueue(args)

            return {"carried": job.carried, "request_id": request_context().request_id}

        return app

    yield make

    for app, oban in made:
        oban.get(app).stop()


class Person(UserMixin):
    def __init__(self, identity):
        self.id = identity


def get(app, url="/", **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}

    return app.test_client().get(url, headers=headers).json


def drain(app):
    """Run the jobs outside of any request."""
    return app.extensions["oban"].get(app).drain_queue("alpha")


def test_a_job_knows_its_request(make_app, seen):
    app = make_app()
    get(app, X_Request_ID="req-1", Accept_Language="de-CH, en;q=0.5", traceparent=TRACE)

    assert drain(app)["completed"] == 1
    assert seen == [RequestContext("req-1", None, "de-CH", TRACE)]
    assert request_context() == RequestContext()


def test_jobs_of_jobs_come_from_the_same_request(make_app, seen):
    app = make_app(args={"left": 2})
    get(app, X_Request_ID="req-1")

    assert drain(app)["completed"] == 3
    assert [item.request_id for item in seen] == ["req-1"] * 3


def test_a_job_enqueued_outside_of_requests_takes_nothing_along(make_app, seen):
    app = make_app()

    with app.app_context():
        stored = Sees.enqueue()

        assert stored.meta == {}

    # Not even in the request of somebody else.
    with app.test_request_context(headers={"X-Request-ID": "another"}):
        app.extensions["oban"].drain_queue("alpha")

    assert seen == [RequestContext()]


@pytest.mark.parametrize("given", [None, "", "two words", 'quo"te', "x" * 129, "ümlaut"])
def test_a_request_without_a_decent_id_is_given_one(make_app, given):
    app = make_app()
    headers = {} if given is None else {"X_Request_ID": given}
    first, second = get(app, **headers), get(app, **headers)

    assert len(first["request_id"]) == 32
    # The same for all of one request.
    assert first["carried"]["request_id"] == first["request_id"]
    assert second["request_id"] != first["request_id"]


def test_the_header_of_the_id_can_be_another(make_app):
    app = make_app(request_id_header="X-Correlation-ID")

    assert get(app, X_Request_ID="a", X_Correlation_ID="b")["request_id"] == "b"


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (TRACE, TRACE),
        (f"cc{TRACE[2:]}-later-versions-have-more", f"cc{TRACE[2:]}"),
        (f"{TRACE}-more", None),
        (f"ff{TRACE[2:]}", None),
        (TRACE.upper(), None),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        (f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01", None),
        ("junk", None),
    ],
)
def test_only_a_traceparent_that_is_one_is_taken_along(make_app, given, taken):
    assert get(make_app(), traceparent=given)["carried"].get("traceparent") == taken


@pytest.mark.parametrize("given", ["*", "", "'; DROP TABLE", "x" * 50])
def test_only_a_locale_that_is_one_is_taken_along(make_app, given):
    assert "locale" not in get(make_app(), Accept_Language=given)["carried"]


def test_the_user_is_who_flask_login_says(make_app):
    app = make_app()
    login = LoginManager(app)
    login.user_loader(Person)

    assert "user" not in get(app)["carried"]
    assert get(app, "/?who=anna")["carried"]["user"] == "anna"

    client = app.test_client()
    client.get("/?who=bert")

    assert client.get("/").json["carried"]["user"] == "bert"


def test_a_user_who_is_not_loaded_yet_is_not_loaded(make_app):
    app = make_app()
    login = LoginManager(app)
    loaded = []
    login.user_loader(lambda identity: loaded.append(identity) or Person(identity))
    client = app.test_client()

    with client.session_transaction() as session:
        session["_user_id"] = "anna"

    assert client.get("/").json["carried"]["user"] == "anna"
    assert loaded == []


def test_one_who_has_logged_out_is_nobody(make_app):
    app = make_app()
    LoginManager(app).user_loader(Person)

    @app.get("/out")
    def out():
        logout_user()

        return Sees.enqueue().carried

    client = app.test_client()

    assert client.get("/?who=anna").json["carried"]["user"] == "anna"
    assert "user" not in client.get("/out").json


@pytest.mark.parametrize("asks", ["Flask-Login", "user", "loaded", "Flask-Babel"])
def test_asking_for_the_user_or_the_locale_leaves_the_callers_session_alone(make_app, dsn, asks):
    """A query of theirs would send the order, of which half is still missing."""
    db = SQLAlchemy()

    def count():
        return db.session.scalar(db.select(db.func.count()).select_from(Order))

    app = make_app(user=count if asks == "user" else None)
    app.config["SQLALCHEMY_DATABASE_URI"] = uri_of(dsn)
    db.init_app(app)
    login = LoginManager(app)

    @login.user_loader
    def load(identity):
        return db.session.get(Customer, int(identity))

    if asks == "Flask-Babel":
        Babel(app, locale_selector=lambda: "de" if current_user.id else None)

    class Customer(UserMixin, db.Model):
        id = db.Column(db.Integer, primary_key=True)

    class Order(db.Model):
        id = db.Column(db.Integer, primary_key=True)
        text = db.Column(db.Text, nullable=False)

    @app.post("/order")
    def order():
        if asks == "loaded":
            assert current_user.id == 1

            # From here on it has to be read anew.
            db.session.commit()

        db.session.add(made := Order())
        carried = Sees.enqueue().carried
        made.text = "filled in"
        db.session.commit()

        return {"user": carried["user"], "locale": carried.get("locale"), "orders": count()}

    with app.app_context():
        db.create_all()
        db.session.add(Customer(id=1))
        db.session.commit()

    client = app.test_client()

    with client.session_transaction() as session:
        session["_user_id"] = "1"

    try:
        assert client.post("/order").json == {
            "user": "0" if asks == "user" else "1",
            "locale": "de" if asks == "Flask-Babel" else None,
            "orders": 1,
        }
    finally:
        with app.app_context():
            db.drop_all()
            db.engine.dispose()


@pytest.mark.parametrize("given", ["a\0b", "\ud800"])
def test_a_user_whom_no_row_can_hold_loses_no_job(make_app, caplog, given):
    assert "user" not in get(make_app(user=lambda: given))["carried"]
    assert "the user of a request could not be told" in caplog.text


def test_a_request_that_a_job_makes_is_its_own(make_app, seen):
    @worker(queue="alpha", name="tests.flask.Visits")
    class Visits:
        def process(self, job):
            seen.append(get(app, "/again", X_Request_ID="inner")["request_id"])
            seen.append(request_context().request_id)

    app = make_app(kind=Visits)

    @app.get("/again")
    def again():
        return {"request_id": request_context().request_id, "carried": Sees.enqueue().carried}

    get(app, X_Request_ID="outer")

    assert drain(app)["completed"] == 2
    assert seen[:2] == ["inner", "outer"]
    assert seen[2].request_id == "inner"


def test_the_user_is_who_the_application_says(make_app):
    assert get(make_app(user=lambda: 7))["carried"]["user"] == "7"
    assert "user" not in get(make_app(user=lambda: None))["carried"]


def test_a_user_that_cannot_be_told_loses_no_job(make_app, caplog):
    def fails():
        raise LookupError("no such session")

    with caplog.at_level(logging.WARNING, "oban_sync.integrations"):
        assert "user" not in get(make_app(user=fails))["carried"]

    assert "no such session" in caplog.text


def test_asking_for_the_user_may_enqueue_jobs(make_app, seen):
    def asks():
        Sees.enqueue({"asked": True})

        return "anna"

    app = make_app(user=asks)

    assert get(app)["carried"]["user"] == "anna"
    # One of the page's own, and one each for that and for the page's question.
    assert drain(app)["completed"] == 3


@pytest.mark.parametrize("fresh", [False, True])
def test_flask_babel_speaks_the_language_of_the_request(make_app, seen, fresh):
    app = make_app(kind=Speaks, fresh_context=fresh)
    Babel(app, locale_selector=lambda: request.args.get("lang") if request else "en")

    assert get(app, "/?lang=de_CH", Accept_Language="fr")["carried"]["locale"] == "de_CH"
    drain(app)

    get(app, "/?lang=pt_BR")

    with app.test_request_context("/?lang=fr"):
        app.extensions["oban"].drain_queue("alpha")
        seen.append(str(get_locale()))

    assert seen == ["de_CH", "pt_BR", "fr"]


def test_a_locale_that_flask_babel_does_not_know_is_passed_over(make_app, seen):
    app = make_app(kind=Speaks)
    get(app, Accept_Language="xx-YY")
    Babel(app)

    assert drain(app)["completed"] == 1
    assert seen == ["en"]


def test_it_can_be_turned_off_and_chosen(make_app, seen):
    headers = {"X_Request_ID": "req-1", "traceparent": TRACE, "Accept_Language": "de"}

    assert get(make_app(request_context=False), **headers)["carried"] == {}
    assert get(make_app(request_context=["locale"]), **headers)["carried"] == {"locale": "de"}


def test_context_variables_are_taken_along_besides(make_app):
    app = make_app(carry=[TENANT], request_context="request_id")

    @app.before_request
    def choose_tenant():
        TENANT.set("acme")

    assert get(app, X_Request_ID="req-1")["carried"] == {"request_id": "req-1", "tenant": "acme"}


def test_rows_of_strangers_bring_nothing_that_is_no_text(make_app, seen, conn):
    app = make_app()
    get(app, X_Request_ID="req-1", Accept_Language="de")
    conn.execute(
        """UPDATE oban_jobs
        SET meta = jsonb_set(meta, '{oban_sync,carried,request_id}', '{"not": "text"}')"""
    )

    assert drain(app)["completed"] == 1
    assert seen == [RequestContext(locale="de")]


def test_log_records_tell_request_and_job(make_app, caplog):
    @worker(queue="alpha", name="tests.flask.Logs")
    class Logs:
        def process(self, job):
            log.warning("in a job")

    log = logging.getLogger("site.jobs")
    app = make_app(kind=Logs)
    caplog.handler.addFilter(only := RequestContextFilter())

    try:
        get(app, X_Request_ID="req-1")
        drain(app)
        log.warning("outside")

        with app.test_request_context(headers={"X-Request-ID": "req-2"}):
            log.warning("in a request")
    finally:
        caplog.handler.removeFilter(only)

    said = {record.getMessage(): record for record in caplog.records}
    job = app.extensions["oban"].get(app).list_jobs()[0]

    assert said["in a job"].request_id == "req-1"
    assert said["in a job"].job_id == job.id
    assert said["in a job"].job_worker == "tests.flask.Logs"
    assert vars(said["outside"]).keys() >= {"request_id", "job_id", "job_worker"}
    assert said["outside"].request_id == said["outside"].job_id == "-"
    assert said["in a request"].request_id == "req-2"


def test_the_end_of_a_job_is_logged_with_its_request(make_app, caplog):
    @worker(queue="alpha", name="tests.flask.Quiet")
    class Quiet:
        def process(self, job):
            pass

    app = make_app(kind=Quiet)
    caplog.set_level(logging.INFO, "oban_sync.jobs")
    caplog.handler.addFilter(only := RequestContextFilter())

    try:
        log_ends.attach()
        get(app, X_Request_ID="req-1")
        drain(app)
    finally:
        log_ends.detach()
        caplog.handler.removeFilter(only)

    [ended] = [item for item in caplog.records if item.name == "oban_sync.jobs"]

    assert ended.request_id == "req-1"
    assert ended.job_worker == "tests.flask.Quiet"
    assert ended.job_id == ended.job.id


def test_fields_are_those_of_the_context():
    assert RequestContext(*FIELDS) == RequestContext(**{name: name for name in FIELDS})
