"""Who may do what: decided by the server, at every request."""

from __future__ import annotations

import gc
import sqlite3
import textwrap
from dataclasses import dataclass
from types import MappingProxyType
from uuid import UUID

import pytest
from flask import Flask, g
from werkzeug.local import LocalProxy

from oban_sync import ConfigError, Oban
from oban_sync.control.audit import list_audit
from oban_sync.web import Action, blueprint
from oban_sync.web.access import action_of
from oban_sync.web.actions import READ_ONLY, rights_of
from oban_sync.web.security import SAFE
from oban_sync.web.site import Site

#: A form for each address that changes something, on a table with job 1.
PATHS = {"job_id": 1}


class Plain:
    """What Python says of one is where it is."""


@dataclass
class Written:
    """What Python says of one is all that it holds."""

    uid: int = 1
    password_hash: str = "pbkdf2:x"


class Listed:
    """Has words of its own, as models of some libraries do, and they are all that it holds."""

    def __str__(self):
        return "uid=1 password_hash='pbkdf2:x'"


class Named:
    """Has words of its own."""

    def __str__(self):
        return "Anna <anna@example.com>"


def a_row(**values):
    """A row as sqlite3 gives it."""
    db = sqlite3.connect(":memory:")
    db.row_factory = sqlite3.Row
    columns = ", ".join(f"? AS {name}" for name in values)

    try:
        return db.execute(f"SELECT {columns}", list(values.values())).fetchone()
    finally:
        db.close()


def rules_of(app: Flask):
    return [rule for rule in app.url_map.iter_rules() if rule.endpoint.startswith("oban.")]


def changing(app: Flask):
    return [rule for rule in rules_of(app) if set(rule.methods) - SAFE]


def path_of(rule):
    return str(rule).removeprefix("/oban").replace("<int:job_id>", "1")


def test_it_refuses_to_be_mounted_for_everybody(oban):
    with pytest.raises(ConfigError, match="access: is missing") as failure:
        blueprint(oban)

    assert "insecure=True" in str(failure.value)
    assert blueprint(oban, insecure=True).name == "oban"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"access": "all"}, "access: 'all' cannot be called"),
        ({"insecure": True, "user": 1}, "user: 1 cannot be called"),
        ({"insecure": True, "login": 1}, "login: 1 cannot be called"),
        ({"insecure": True, "metrics": True}, "metrics: True cannot be called"),
        ({"insecure": True, "redact": "password"}, "redact: 'password' is not a list"),
        ({"insecure": True, "refresh": 3}, "refresh: 3 is not allowed"),
        ({"insecure": True, "origins": ["ops.example.com"]}, "origins: 'ops.example.com'"),
        ({"insecure": True, "origins": ["https://a.example/x"]}, "origins: "),
    ],
    ids=str,
)
def test_a_wrong_option_is_named(oban, options, problem):
    with pytest.raises(ConfigError) as failure:
        blueprint(oban, **options)

    assert problem in str(failure.value)


def test_every_address_that_changes_something_says_what_it_does(dashboard):
    site = dashboard()
    rules = changing(site.app)

    assert len(rules) >= 9

    for rule in rules:
        view = site.app.view_functions[rule.endpoint]

        assert action_of(view) is not None, f"{rule} changes something without access.performs"
        # And it shows nothing: a GET is checked by nobody.
        assert not set(rule.methods) & {"GET"}, rule


def test_every_right_is_asked_for_somewhere(dashboard):
    site = dashboard()
    asked = {action_of(site.app.view_functions[rule.endpoint]) for rule in changing(site.app)}

    assert set(Action) - asked == set()


def test_a_view_that_does_not_say_what_it_does_is_refused(oban):
    app = Flask("site")
    made = blueprint(oban, insecure=True)
    made.post("/careless")(lambda: "done")
    app.register_blueprint(made, url_prefix="/oban")

    assert app.test_client().post("/oban/careless").status_code == 405


def test_who_may_only_look_can_change_nothing(dashboard, factory, conn):
    factory.job()
    site = dashboard(access=lambda user: READ_ONLY)

    for rule in changing(site.app):
        response = site.post(path_of(rule))

        assert response.status_code == 403, rule
        assert "You may look at this" in response.text, rule

    assert conn.execute("SELECT count(*) FROM oban_sync_audit").fetchone() == (0,)


def test_who_may_do_all_but_one_thing_cannot_do_that(dashboard, factory):
    factory.job()
    site = dashboard(access=lambda user: user)

    for rule in changing(site.app):
        left_out = action_of(site.app.view_functions[rule.endpoint])
        site.user = set(Action) - {left_out}

        assert site.post(path_of(rule)).status_code == 403, rule


def test_who_may_do_nothing_sees_nothing(dashboard, factory):
    factory.job(args={"secretly": "visible"})
    site = dashboard(access=lambda user: None)

    for rule in rules_of(site.app):
        if rule.endpoint in ("oban.static", "oban.healthz"):
            continue

        for method in set(rule.methods) - {"OPTIONS"}:
            response = site.client.open(f"{site.at}{path_of(rule)}", method=method)

            assert response.status_code == 403, (method, rule)
            assert "visible" not in response.text
            assert "<nav" not in response.text


def test_an_address_that_leads_nowhere_has_a_page(dashboard):
    page = dashboard().page("/queues/mailers", 404)

    assert "There is no such page." in page.text
    assert page.all("nav")


def test_who_is_not_let_in_may_be_sent_to_log_in(dashboard):
    site = dashboard(access=lambda user: user and "all", login="/login")
    wanted = "/login?next=%2Foban%2Fjobs%3Fq%3Dqueues%3Aalpha"

    response = site.open("/jobs?q=queues:alpha")
    partial = site.open("/jobs", headers={"HX-Request": "true"})

    assert (response.status_code, response.location) == (302, wanted)
    assert (partial.status_code, partial.headers["HX-Refresh"]) == (403, "true")

    site.user = "anna"

    assert site.open("/jobs").status_code == 200


def test_the_application_may_answer_who_is_not_let_in(dashboard):
    site = dashboard(access=lambda user: None, login=lambda: ("come back later", 401))

    assert site.open("/jobs").text == "come back later"


def test_a_button_is_shown_only_for_what_may_be_done(dashboard, factory):
    job_id = factory.job(state="scheduled")
    site = dashboard(access=lambda user: {"jobs:cancel"})
    listed, single = site.page("/jobs"), site.page(f"/jobs/{job_id}")

    assert {found.get("formaction") for found in listed.all("button")} == {
        None,
        "/oban/jobs/cancel",
    }
    assert [action for action, _ in single.forms if action.startswith(f"/oban/jobs/{job_id}")] == [
        f"/oban/jobs/{job_id}/cancel"
    ]
    assert "New job" not in listed.text


@pytest.mark.parametrize(
    "given", ["everything", "all ", 7, True, {"jobs:destroy"}, ["jobs:cancel", "all"]], ids=str
)
def test_a_slip_of_the_application_lets_nobody_in(given):
    with pytest.raises(ConfigError, match=r"^access: gave"):
        rights_of(given)


def test_rights_are_as_they_were_given():
    assert not rights_of(None).look
    assert not rights_of(False).look
    assert rights_of("read_only").look
    assert rights_of(set()).look
    assert not rights_of("read_only").may("jobs:cancel")
    assert all(rights_of("all").may(action) for action in Action)
    assert rights_of([Action.JOBS_CANCEL, "jobs:retry"]).actions == {
        Action.JOBS_CANCEL,
        Action.JOBS_RETRY,
    }


def test_flask_login_says_who_asks(oban):
    from flask_login import LoginManager, UserMixin, login_user

    class User(UserMixin):
        id = "7"
        email = "anna@example.com"

    seen = []
    app = Flask("site")
    app.secret_key = "for tests"
    LoginManager(app).user_loader(lambda user_id: User())
    app.get("/login")(lambda: str(login_user(User())))
    app.register_blueprint(
        blueprint(oban, access=lambda user: seen.append(user) or (user and "all")),
        url_prefix="/oban",
    )
    client = app.test_client()

    assert client.get("/oban/jobs").status_code == 403

    client.get("/login")

    assert "anna@example.com" in client.get("/oban/jobs").text
    assert seen[0] is None
    assert isinstance(seen[1], User)


@pytest.mark.parametrize(
    ("user", "who"),
    [
        ("anna", "anna"),
        (7, "7"),
        (type("User", (), {"email": "a@example.com", "username": "anna"})(), "a@example.com"),
        (type("User", (), {"username": "anna"})(), "anna"),
        (type("User", (), {"get_id": lambda self: "id-7"})(), "id-7"),
        (type("User", (), {"id": 9})(), "9"),
        ({"id": 7, "username": "anna", "password": "pbkdf2:x"}, "anna"),
        ({"id": 7, "password": "pbkdf2:x"}, "7"),
        ({"password": "pbkdf2:x"}, "dict"),
        (MappingProxyType({"email": "a@example.com"}), "a@example.com"),
        (a_row(id=7, name="anna", password="pbkdf2:x"), "anna"),
        (a_row(password="pbkdf2:x"), "Row"),
        (Plain(), "Plain"),
        (Written(), "Written"),
        (Listed(), "Listed"),
        (Named(), "Anna <anna@example.com>"),
        (LocalProxy(lambda: Plain()), "Plain"),
        (type("User", (), {"id": UUID(int=7)})(), "00000000-0000-0000-0000-000000000007"),
        (type("User", (), {"id": Plain()})(), "Plain"),
        ("an\nna\x1b[31m", "an na [31m"),
        ("x" * 300, "x" * 127),
        (" ", None),
    ],
    ids=[
        *("text", "number", "email", "username", "get_id", "id"),
        *("mapping", "id in a mapping", "mapping without a name", "view of a mapping"),
        *("row", "row without a name", "object", "dataclass", "words of fields", "own words"),
        *("proxy", "uuid", "id that is an object", "unprintable", "long", "blank"),
    ],
)
def test_what_was_done_is_written_down_with_who_did_it(dashboard, factory, user, who):
    job_id = factory.job()
    site = dashboard(user=user)

    site.post(f"/jobs/{job_id}/cancel")
    [entry] = list_audit(site.oban.db)

    assert (entry.who, entry.via, entry.action, entry.subject) == (
        who,
        "dashboard",
        "jobs:cancel",
        f"job {job_id}",
    )


@pytest.mark.parametrize(
    "make", [Plain, Written, lambda: a_row(id=7)], ids=["plain", "written", "row"]
)
def test_who_is_another_object_at_each_request_is_the_same_visitor(dashboard, factory, make):
    job_id = factory.job()
    site = dashboard(access=lambda user: user and "all")
    seen = []

    @site.app.before_request
    def log_in():
        # Kept, so that none has the address of one before.
        seen.append(make())
        g.user = seen[-1]

    assert site.post(f"/jobs/{job_id}/cancel").status_code == 303
    assert site.oban.get_job(job_id).state == "cancelled"


def test_what_was_found_for_an_oban_that_is_gone_is_not_given_for_the_next(dsn, prefix):
    site = Site(lambda: None, "oban")

    for number in range(10):
        # Likely at the address of the one before.
        site.owner = Oban(conninfo=dsn, prefix=prefix)

        assert site.kept("what", lambda number=number: number) == number
        assert site.kept("what", lambda: None) == number

        site.owner = lambda: None
        gc.collect()


def test_a_flask_oban_and_a_function_are_as_good_as_an_oban(dsn, prefix, make_oban, factory):
    from oban_sync.integrations.flask import FlaskOban

    factory.job(worker="tests.Visible")
    app = Flask("site")
    app.config.update(OBAN_CONNINFO=dsn, OBAN_PREFIX=prefix)
    flask_oban = FlaskOban(app)
    made = make_oban()
    app.register_blueprint(blueprint(flask_oban, insecure=True), url_prefix="/one")
    app.register_blueprint(blueprint(lambda: made, insecure=True, name="two"), url_prefix="/two")
    client = app.test_client()

    assert "Visible" in client.get("/one/jobs").text
    assert "Visible" in client.get("/two/jobs").text
    assert "/two/jobs" in client.get("/two/jobs").text

    flask_oban.get(app).stop()


def test_what_gives_no_oban_is_named(dashboard):
    site = dashboard(oban=lambda: None)

    with pytest.raises(ConfigError, match="which is no Oban"):
        site.open("/jobs")


def test_the_example_of_the_message_can_be_run(oban):
    with pytest.raises(ConfigError) as failure:
        blueprint(oban)

    lines = str(failure.value).partition("\n\n")[2].rpartition("\n\n")[0]
    names = {"oban": oban, "blueprint": blueprint, "app": Flask("site")}
    exec(textwrap.dedent(lines), names)

    assert names["app"].test_client().get("/oban/jobs").status_code == 403
