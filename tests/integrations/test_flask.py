"""FlaskOban: an application and its Oban."""

from __future__ import annotations

import inspect
import logging
import subprocess
import sys
import threading
import types

import pytest
from flask import Flask
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool
from sqlalchemy import make_url

from oban_sync import ConfigError, Oban, worker
from oban_sync.core.job import JobState
from oban_sync.integrations.delegated import Delegates
from oban_sync.integrations.flask import FlaskOban, settings_of
from oban_sync.integrations.flask_settings import conninfo, place_of
from oban_sync.integrations.servers import EXTENSION as AUTOSTART
from tests.support.flask_apps import uri_of

NOWHERE = "postgresql://127.0.0.1:1/nowhere"


@worker(queue="alpha", name="tests.flask.Plain")
class Plain:
    """Does nothing."""

    def process(self, job):
        return None


@worker(queue="alpha", name="tests.flask.Named", oban="Other")
class Named:
    """Is of another Oban."""

    def process(self, job):
        return None


def an_app(name="site", **config):
    app = Flask(name)
    app.config.update(config)

    return app


def made(app, **options):
    return FlaskOban(app, **options).get(app)


def test_nothing_is_opened_or_started_by_init_app():
    before = set(threading.enumerate())
    oban = FlaskOban()
    app = an_app(OBAN_CONNINFO=NOWHERE, OBAN_QUEUES={"default": 1})
    oban.init_app(app)

    assert app.extensions["oban"] is oban
    assert not oban.get(app).running
    assert set(threading.enumerate()) == before


def test_an_application_gets_one_only():
    app = an_app(OBAN_CONNINFO=NOWHERE)
    FlaskOban(app)

    with pytest.raises(RuntimeError, match="already been registered on this Flask app"):
        FlaskOban().init_app(app)


def test_outside_of_a_context_nobody_knows_which_one_is_meant():
    oban = FlaskOban(an_app(OBAN_CONNINFO=NOWHERE))

    with pytest.raises(RuntimeError, match="outside of application context"):
        oban.get()

    assert repr(oban) == "<FlaskOban>"


def test_an_application_that_is_not_its_own_is_refused():
    oban = FlaskOban(an_app(OBAN_CONNINFO=NOWHERE))

    with pytest.raises(RuntimeError, match="not registered with this 'FlaskOban' instance"):
        oban.get(Flask("stranger"))

    with Flask("stranger").app_context(), pytest.raises(RuntimeError, match="init_app"):
        oban.enqueue(Plain.new())


def test_it_is_made_once():
    app = an_app(OBAN_CONNINFO=NOWHERE)
    oban = FlaskOban(app)

    with app.app_context():
        assert oban.get() is oban.get(app)
        assert "Oban" in repr(oban)


def test_jobs_go_to_the_application_at_work(dsn, prefix, make_oban):
    other = make_oban(name="Other")
    one = an_app("one", OBAN_CONNINFO=dsn, OBAN_PREFIX=prefix, OBAN_NODE="one")
    two = an_app("two", OBAN_CONNINFO=dsn, OBAN_PREFIX=prefix, OBAN_NAME="two")
    oban = FlaskOban()
    oban.init_app(one, testing="manual")
    oban.init_app(two)

    with one.app_context():
        assert oban.config.node == "one"
        assert oban.get_job(Plain.enqueue()).state is JobState.AVAILABLE
        assert Oban.get_instance() is oban.get()

        with two.app_context():
            assert Oban.get_instance() is Oban.get_instance("two") is oban.get(two)
            # One that says which Oban it means is taken at its word.
            assert Oban.get_instance("Other") is other

    assert Oban.get_instance() is oban.get(one)
    assert Oban.get_instance("two") is oban.get(two)
    assert Named.enqueue().id is not None

    for app in (one, two):
        oban.get(app).stop()


def test_outside_of_contexts_the_last_one_initialised_counts_whichever_is_made_first():
    oban = FlaskOban()
    one, two = (an_app(name, OBAN_CONNINFO=NOWHERE) for name in ("one", "two"))
    oban.init_app(one)
    oban.init_app(two)

    oban.get(two)
    oban.get(one)

    assert Oban.get_instance() is oban.get(two)


def test_one_constructed_later_is_the_one_of_its_name():
    FlaskOban(an_app(OBAN_CONNINFO=NOWHERE))
    later = Oban(NOWHERE)

    assert Oban.get_instance() is later


def test_arguments_win_over_the_config_and_that_over_the_environment(monkeypatch):
    monkeypatch.setenv("OBAN_NODE", "environment")
    monkeypatch.setenv("OBAN_POOL_SIZE", "3")
    monkeypatch.setenv("OBAN_SHUTDOWN_GRACE_PERIOD", "7")
    app = an_app(OBAN_CONNINFO=NOWHERE, OBAN_NODE="config", OBAN_POOL_SIZE=4, OBAN_QUEUES="a:1")
    oban = FlaskOban(queues={"b": 1}, pool_size=9)
    oban.init_app(app, pool_size=5)
    config = oban.get(app).config

    assert (config.node, config.pool_size, config.shutdown_grace_period) == ("config", 5, 7.0)
    assert [queue.name for queue in config.queues] == ["b"]


def test_prefixed_environment_variables_are_json(monkeypatch):
    monkeypatch.setenv("FLASK_OBAN_QUEUES", '{"mail": 3, "media": {"limit": 2}}')
    monkeypatch.setenv("FLASK_OBAN_AUTOSTART", "false")
    monkeypatch.setenv("FLASK_OBAN_CONNINFO", NOWHERE)
    app = Flask("site")
    app.config.from_prefixed_env()
    config = made(app).config

    assert {queue.name: queue.limit for queue in config.queues} == {"mail": 3, "media": 2}
    assert settings_of(app).autostart is False


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("OBAN_QUEUE", {"default": 1}, "Did you mean 'OBAN_QUEUES'"),
        ("OBAN_QUEUES", {"default": "many"}, "many"),
        ("OBAN_AUTOSTART", "perhaps", "perhaps"),
        ("OBAN_REQUEST_CONTEXT", ["user", "cookies"], "cookies"),
        ("OBAN_REQUEST_CONTEXT", 7, "7"),
        ("OBAN_REQUEST_ID_HEADER", "X Y", "header"),
        ("OBAN_USER", "anna", "function"),
        ("OBAN_APP", "wsgi.py", "module:attribute"),
        ("OBAN_FRESH_CONTEXT", "maybe", "maybe"),
    ],
)
def test_a_wrong_option_is_told_by_init_app(key, value, words):
    with pytest.raises(ConfigError, match=words):
        FlaskOban(an_app(OBAN_CONNINFO=NOWHERE, **{key: value}))


def test_a_wrong_argument_is_told():
    with pytest.raises(ConfigError, match="Did you mean 'autostart'"):
        FlaskOban(an_app(OBAN_CONNINFO=NOWHERE), autostrat=True)


@pytest.mark.parametrize(
    ("value", "meant"),
    [("auto", None), (None, None), (True, True), ("on", True), ("0", False), ("False", False)],
)
def test_autostart_has_three_values(value, meant, monkeypatch):
    config = an_app(OBAN_CONNINFO=NOWHERE, OBAN_AUTOSTART=value)
    FlaskOban(config)

    assert settings_of(config).autostart is meant

    if isinstance(value, str):
        monkeypatch.setenv("OBAN_AUTOSTART", value)
        environment = an_app(OBAN_CONNINFO=NOWHERE)
        FlaskOban(environment)

        assert settings_of(environment).autostart is meant


def test_the_request_context_can_be_chosen():
    def chosen(value):
        return tuple(
            made(an_app(OBAN_CONNINFO=NOWHERE, OBAN_REQUEST_CONTEXT=value)).carriers.by_name
        )

    assert chosen(None) == chosen(True) == ("request_id", "user", "locale", "traceparent")
    assert chosen(False) == chosen("off") == ()
    assert chosen("user, locale") == chosen(["user", "locale"]) == ("user", "locale")


@pytest.mark.parametrize(
    ("config", "environment", "expected"),
    [
        ({"OBAN_DSN": "postgresql://a/1"}, {}, "postgresql://a/1"),
        (
            {"OBAN_CONNINFO": "postgresql://a/1", "OBAN_DSN": "postgresql://b/2"},
            {"OBAN_DSN": "postgresql://c/3"},
            "postgresql://a/1",
        ),
        (
            {"SQLALCHEMY_DATABASE_URI": "postgresql+psycopg2://u:p%40s@b/2?sslmode=require"},
            {"DATABASE_URL": "postgresql://c/3"},
            "postgresql://u:p%40s@b/2?sslmode=require",
        ),
        (
            {"SQLALCHEMY_DATABASE_URI": make_url("postgresql+psycopg://u:secret@b/2")},
            {},
            "postgresql://u:secret@b/2",
        ),
        (
            {"SQLALCHEMY_BINDS": {None: "postgresql+psycopg://b/2", "other": "sqlite://"}},
            {"DATABASE_URL": "postgresql://c/3"},
            "postgresql://b/2",
        ),
        (
            {"SQLALCHEMY_BINDS": {None: {"url": make_url("postgresql://b/2")}}},
            {},
            "postgresql://b/2",
        ),
        (
            {"SQLALCHEMY_ENGINE_OPTIONS": {"url": "postgresql://b/2"}},
            {"DATABASE_URL": "postgresql://c/3"},
            "postgresql://b/2",
        ),
        (
            {"SQLALCHEMY_DATABASE_URI": "postgresql://b/2"},
            {"OBAN_DSN": "postgresql://c/3"},
            "postgresql://c/3",
        ),
        ({"DATABASE_URL": "postgresql://d/4"}, {}, "postgresql://d/4"),
        ({}, {"DATABASE_URL": "postgresql://c/3"}, "postgresql://c/3"),
    ],
)
def test_where_the_database_is(config, environment, expected, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert made(an_app(**config)).conninfo == expected


@pytest.mark.parametrize(
    ("query", "parts"),
    [
        ("", {}),
        ("options=-c+search_path%3Da%2Cb", {"options": "-c search_path=a,b"}),
        ("application_name=my%20shop", {"application_name": "my shop"}),
        ("prepare_threshold=0&sslmode=require", {"sslmode": "require"}),
        ("host=a:1&host=b:2", {"host": "a,b", "port": "1,2"}),
        ("host=a&host=b:2", {"host": "a,b", "port": ",2"}),
        ("host=c:3", {"host": "c", "port": "3"}),
        ("host=a,b&port=1,2", {"host": "a,b", "port": "1,2"}),
        ("host=/run/postgresql", {"host": "/run/postgresql"}),
    ],
)
def test_a_url_of_sqlalchemy_means_the_same_to_libpq(query, parts):
    """Also where libpq would not take it as it stands: raw signs in a password, plus for space."""
    url = f"postgresql+psycopg://us%40er:pa/s%s+w@h.example:5/da%20ta?{query}"
    found = conninfo(an_app(SQLALCHEMY_DATABASE_URI=url))

    assert conninfo_to_dict(found) == {
        **{"user": "us@er", "password": "pa/s%s+w", "host": "h.example", "port": "5"},
        **{"dbname": "da ta", **parts},
    }
    assert conninfo(an_app(SQLALCHEMY_DATABASE_URI=make_url(url))) == found


@pytest.mark.parametrize("url", ["postgresql://", "postgresql://[::1]:5/x", "postgresql:///x"])
def test_a_url_that_both_understand_stays_as_it_is(url):
    assert conninfo(an_app(SQLALCHEMY_DATABASE_URI=url)) == url


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql+asyncpg://u:secret@h/x?ssl=require", "libpq knows no 'ssl'"),
        ("postgresql://u:secret@h:port/x", "cannot be read"),
    ],
)
def test_a_url_that_libpq_cannot_be_told_is_refused(url, words):
    with pytest.raises(ConfigError, match=words) as told:
        conninfo(an_app(SQLALCHEMY_DATABASE_URI=url))

    assert "secret" not in str(told.value)


def test_a_pool_given_wins_over_what_the_config_says(dsn):
    pool = ConnectionPool(dsn, open=False)

    assert made(an_app(OBAN_CONNINFO=NOWHERE), pool=pool).config.pool is pool
    assert made(an_app(OBAN_POOL=pool), conninfo=NOWHERE).conninfo == NOWHERE


def test_another_database_is_told_when_the_first_job_comes_and_not_before():
    app = an_app(SQLALCHEMY_DATABASE_URI="mysql+pymysql://u:secret@h/app")
    oban = FlaskOban(app)

    with app.app_context(), pytest.raises(ConfigError, match="another database") as told:
        Plain.enqueue()

    assert "secret" not in str(told.value)
    app.config["OBAN_CONNINFO"] = NOWHERE
    assert oban.get(app).conninfo == NOWHERE


def test_a_uri_of_sqlalchemy_leads_to_the_same_database(dsn, prefix):
    for driver in ("postgresql", "postgresql+psycopg", "postgresql+psycopg2"):
        app = an_app(SQLALCHEMY_DATABASE_URI=uri_of(dsn, driver), OBAN_PREFIX=prefix)
        oban = FlaskOban(app)

        assert conninfo(app).startswith("postgresql://")

        with app.app_context():
            assert oban.get_job(Plain.enqueue()).worker == "tests.flask.Plain"
            oban.stop()


def test_all_of_an_oban_is_at_hand_with_the_same_arguments():
    #: For the library itself, and of the class.
    inner = {"db", "get_instance", "node", "run_inline", "testing"}

    for name, member in inspect.getmembers(Oban):
        if name.startswith("_") or name in inner:
            continue

        own = inspect.getattr_static(Delegates, name)

        if isinstance(inspect.getattr_static(Oban, name), property):
            assert isinstance(own, property), name
        else:
            assert inspect.signature(own) == inspect.signature(member), name
            assert own.__name__ == name


def test_methods_and_properties_are_those_of_the_oban(dsn, prefix):
    app = an_app(OBAN_CONNINFO=dsn, OBAN_PREFIX=prefix)
    oban = FlaskOban(app)

    with app.app_context():
        first, second = oban.enqueue_many([Plain.new(), Plain.new()])

        with oban.transaction() as conn:
            conn.execute("SELECT 1")
            third = Plain.enqueue()

        assert [job.id for job in oban.list_jobs()] == [third.id, second.id, first.id]
        assert oban.drain_queue("alpha")["completed"] == 3
        assert (oban.name, oban.prefix, oban.running) == ("Oban", prefix, False)
        assert (oban.is_leader, oban.limits, oban.conninfo) == (False, {}, dsn)
        assert oban.host is not None
        assert oban.config.prefix == prefix
        assert oban.db.schema == prefix
        assert oban.insert_cron("@daily", Plain).worker == "tests.flask.Plain"

        with pytest.raises(AttributeError):
            oban.enqueue_all  # noqa: B018

        assert oban.configure(node="renamed").config.node == "renamed"
        assert oban.stop()


def test_without_flask_it_is_said_what_to_install():
    code = "import sys; sys.modules['flask'] = None; import oban_sync.integrations.flask"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 1
    assert "pip install 'oban-sync[flask]'" in done.stderr


def test_a_worker_of_another_oban_needs_no_database_of_the_application(make_oban):
    other = make_oban(name="Other")
    app = an_app(SQLALCHEMY_DATABASE_URI="sqlite://")
    FlaskOban(app)

    with app.app_context():
        assert other.get_job(Named.enqueue()).worker == "tests.flask.Named"


def test_where_other_processes_find_an_application(monkeypatch):
    module = types.ModuleType("some_shop")
    monkeypatch.setitem(sys.modules, "some_shop", module)
    app = Flask("site")

    assert place_of(app, None) is None
    assert place_of(app, "some_shop") is None
    assert place_of(app, "some_shop:make('x')") is None
    assert place_of(app, "folder/some_shop.py") is None
    assert place_of(app, "some_shop:make()") == place_of(app, "some_shop:make") == "some_shop:make"

    module.create_app = lambda: app

    assert place_of(app, "some_shop") == place_of(app, "some_shop.py") == "some_shop:create_app"

    monkeypatch.setenv("FLASK_APP", "some_shop")

    assert place_of(app, None) == "some_shop:create_app"

    monkeypatch.delenv("FLASK_APP")
    module.site = app

    assert place_of(app, None) == place_of(app, "some_shop") == "some_shop:site"


@pytest.mark.parametrize(("queues", "level"), [({}, "INFO"), ({"alpha": 1}, "ERROR")])
def test_an_application_with_another_database_serves_and_says_so_in_a_line(caplog, queues, level):
    app = Flask("bare")
    app.config.update(SQLALCHEMY_DATABASE_URI="sqlite://", OBAN_QUEUES=queues)
    FlaskOban(app)
    caplog.set_level(logging.INFO, "oban_sync.integrations")

    @app.get("/")
    def index():
        return "here"

    client = app.test_client()

    assert client.get("/", environ_overrides={"SERVER_SOFTWARE": "gunicorn/23.0.0"}).text == "here"

    autostart = app.extensions[AUTOSTART]

    for start in autostart._starts.values():
        start.thread.join(10)

    assert autostart.end()
    assert {record.levelname for record in caplog.records} <= {"INFO", level}
    assert caplog.records[-1].levelname == level
    assert not any(record.exc_info for record in caplog.records)


def test_the_user_of_the_machine_is_not_the_function_that_tells_who_asks(monkeypatch):
    monkeypatch.setenv("OBAN_USER", "postgres")
    app = an_app(OBAN_CONNINFO=NOWHERE)
    FlaskOban(app)

    assert settings_of(app).user is None
