"""What a process is known to be, and when its queues are started and stopped."""

from __future__ import annotations

import logging
import os
import sys
from functools import partial
from threading import Barrier, Event, Thread
from types import ModuleType, SimpleNamespace

import click
import pytest
from flask import Flask, current_app
from flask.cli import FlaskGroup
from werkzeug.local import LocalProxy

from oban_sync import ConfigError, DatabaseUnavailableError
from oban_sync.core.config import Config
from oban_sync.integrations import gunicorn, servers, surroundings, uwsgi
from oban_sync.integrations.flask import FlaskOban
from oban_sync.integrations.servers import Autostart, attached
from oban_sync.integrations.surroundings import facts

GUNICORN = {"SERVER_SOFTWARE": "gunicorn/23.0.0"}


class Pretender:
    """Stands in for an Oban: remembers what was asked of it."""

    def __init__(self, *errors, **options):
        self.config = Config.checked({"conninfo": "dbname=x", "queues": {"a": 1}, **options})
        self.errors = list(errors)
        self.started = Event()
        self.starts = 0
        self.stops = []
        self.running = False

    def start(self):
        self.starts += 1

        if self.errors:
            raise self.errors.pop(0)

        self.running = True
        self.started.set()

    def stop(self, grace=None):
        self.stops.append(grace)
        self.running = False

        return True


@pytest.fixture(autouse=True)
def _only_trouble(caplog):
    """What is told of what goes well is of no account, at whatever level the log is."""
    caplog.set_level(logging.WARNING)
    caplog.set_level(logging.WARNING, "oban_sync.integrations")


@pytest.fixture
def app():
    app = Flask("shop")

    @app.get("/")
    def index():
        return "here"

    return app


@pytest.fixture
def attach(app, monkeypatch):
    """Attaches Obans to the application, and ends what was started."""
    monkeypatch.setattr(servers, "FIRST_PAUSE", 0.01)
    made = []

    def attach(oban, autostart=None):
        made.append(Autostart(lambda: oban, autostart=autostart))
        made[-1].attach(app)

        return made[-1]

    yield attach

    for autostart in made:
        autostart.end()


def get(app, **environ):
    """A request, as a server hands it over; as a test client does if that names none."""
    response = app.test_client().get("/", environ_overrides=environ)

    assert response.text == "here"


class Uwsgi(ModuleType):
    """uWSGI's module, in one of its processes."""

    def __init__(self, worker=0, **options):
        super().__init__("uwsgi")
        self.number = worker
        self.opt = options

    def worker_id(self):
        return self.number


@pytest.fixture
def in_uwsgi(monkeypatch):
    def enter(worker=0, **options):
        module = Uwsgi(worker, **options)
        monkeypatch.setitem(sys.modules, "uwsgi", module)

        return module

    return enter


@pytest.mark.parametrize(
    ("environ", "seen"),
    [
        (GUNICORN, {"server": "gunicorn", "serving": True}),
        ({"SERVER_SOFTWARE": "Werkzeug/3.1"}, {"server": "werkzeug", "serving": True}),
        ({"SERVER_SOFTWARE": "waitress"}, {"server": "waitress", "serving": True}),
        ({"uwsgi.version": b"2.0"}, {"server": "uWSGI", "serving": True}),
        ({}, {"server": "", "serving": False}),
        ({**GUNICORN, "wsgi.run_once": True}, {"per_request": True}),
        ({**GUNICORN, "wsgi.multiprocess": True}, {"per_request": False}),
        (
            {"SERVER_SOFTWARE": "Werkzeug/3.1", "wsgi.multiprocess": True},
            {"per_request": True},
        ),
        (
            {"mod_wsgi.version": (5, 0), "mod_wsgi.process_group": ""},
            {"server": "mod_wsgi", "shared": True},
        ),
        (
            {"mod_wsgi.version": (5, 0), "mod_wsgi.process_group": "shop"},
            {"server": "mod_wsgi", "shared": False},
        ),
    ],
    ids=str,
)
def test_a_request_tells_what_serves_it(environ, seen):
    found = facts(environ)

    assert {name: getattr(found, name) for name in seen} == seen


def test_outside_of_everything_nothing_is_known():
    found = facts()

    assert (found.server, found.serving, found.command, found.threads) == ("", False, "", True)


@pytest.mark.parametrize(
    ("module", "server"),
    [("gunicorn.arbiter", "gunicorn"), ("mod_wsgi", "mod_wsgi")],
)
def test_the_modules_of_a_server_give_it_away(monkeypatch, module, server):
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(process_group=""))

    assert facts().server == server


def test_the_command_that_runs_is_known():
    root = click.Context(FlaskGroup("flask"), info_name="python -m flask")

    with click.Context(click.Command("shell"), parent=root, info_name="shell"):
        assert facts().command == "flask shell"


@pytest.mark.parametrize(
    ("params", "main", "watches"),
    [
        ({"reload": True}, None, True),
        ({"reload": True}, "true", False),
        ({"reload": False}, None, False),
        ({"reload": None}, None, False),
    ],
)
def test_the_parent_of_a_reloader_is_told_from_its_child(monkeypatch, params, main, watches):
    monkeypatch.delenv("WERKZEUG_RUN_MAIN", raising=False)
    monkeypatch.delenv("FLASK_DEBUG", raising=False)

    if main is not None:
        monkeypatch.setenv("WERKZEUG_RUN_MAIN", main)

    root = click.Context(FlaskGroup("flask"), info_name="flask")

    with click.Context(click.Command("run"), parent=root, info_name="run") as context:
        context.params.update(params)
        found = facts()

    assert (found.server, found.command) == ("flask run", "")
    assert found.reloader_parent is watches


@pytest.mark.parametrize("name", ["gevent.monkey", "eventlet.patcher"])
def test_threads_that_are_none_are_noticed(monkeypatch, name):
    patched = SimpleNamespace(
        is_module_patched=lambda module: module == "threading",
        is_monkey_patched=lambda module: module == "thread",
    )
    monkeypatch.setitem(sys.modules, name, patched)

    assert facts(GUNICORN).green == name.partition(".")[0]


@pytest.mark.parametrize(
    ("worker", "options", "forks", "threads"),
    [
        (0, {"master": True}, True, False),
        (0, {"enable-threads": True}, True, True),
        (1, {"enable-threads": b"true"}, False, True),
        (1, {"enable-threads": b"false"}, False, False),
        (1, {"threads": b"4"}, False, True),
    ],
)
def test_uwsgi_tells_of_its_workers_and_threads(in_uwsgi, worker, options, forks, threads):
    in_uwsgi(worker, **options)
    found = facts()

    assert (found.server, found.forks, found.threads) == ("uWSGI", forks, threads)


def test_a_uwsgi_that_says_so_is_believed(in_uwsgi):
    in_uwsgi(1).has_threads = 1

    assert facts({"uwsgi.version": b"2.0.30"}).threads


def test_the_first_request_starts_the_queues_once(app, attach, caplog):
    caplog.set_level(logging.INFO, "oban_sync.integrations")
    oban = Pretender()
    autostart = attach(oban)

    assert not autostart.begun

    together = Barrier(4)

    def ask():
        together.wait()
        get(app, **GUNICORN)

    threads = [Thread(target=ask) for _ in range(4)]

    for thread in threads:
        thread.start()

    for thread in threads:
        thread.join()

    assert oban.started.wait(10)
    assert autostart.begun
    assert oban.starts == 1
    assert caplog.text.count("queues start at once under gunicorn") == 1


def test_a_test_client_proves_nothing(app, attach):
    oban = Pretender()
    autostart = attach(oban)
    get(app)

    assert not autostart.begun

    # What comes first does not decide for what comes after.
    get(app, **GUNICORN)

    assert autostart.begun


@pytest.mark.parametrize(
    ("options", "testing", "autostart"),
    [
        ({"queues": {}}, False, None),
        ({"testing": "manual"}, False, None),
        ({}, True, None),
        ({}, False, False),
    ],
    ids=str,
)
def test_a_request_starts_nothing_where_there_is_nothing_to_start(
    app, attach, options, testing, autostart
):
    app.testing = testing
    oban = Pretender(**options)
    found = attach(oban, autostart)
    get(app, **GUNICORN)

    assert not found.begun
    assert not oban.starts


def test_a_start_that_fails_is_tried_again(app, attach):
    away = DatabaseUnavailableError("away")
    oban = Pretender(away, RuntimeError("odd"), away)
    attach(oban)
    get(app, **GUNICORN)

    assert oban.started.wait(10)
    assert oban.starts == 4


def test_what_no_time_will_mend_is_not_tried_again(attach, caplog):
    oban = Pretender(ConfigError("queues", "is wrong"))
    autostart = attach(oban)
    autostart.begin("gunicorn")
    [start] = autostart._starts.values()
    start.thread.join(10)

    assert oban.starts == 1
    assert "cannot be started here" in caplog.text


def test_a_request_is_served_whatever_goes_wrong(app, caplog):
    def broken():
        raise RuntimeError("no Oban today")

    Autostart(broken, autostart=None).attach(app)
    get(app, **GUNICORN)
    get(app, **GUNICORN)

    assert caplog.text.count("could not be decided") == 1


def test_a_hook_and_a_request_start_them_once(app, attach):
    oban = Pretender()
    autostart = attach(oban)

    assert autostart.begin("gunicorn").start

    get(app, **GUNICORN)

    assert oban.started.wait(10)
    assert oban.starts == 1


def test_the_end_stops_what_was_started_and_starts_nothing_more(app, attach):
    oban = Pretender()
    autostart = attach(oban)
    autostart.begin("gunicorn")

    assert oban.started.wait(10)
    assert autostart.end(grace=3.0)
    assert oban.stops[0] == 3.0
    assert not oban.running

    get(app, **GUNICORN)

    assert (oban.starts, autostart.begun) == (1, False)


def test_an_end_before_any_start_is_the_end(app, attach):
    oban = Pretender()
    autostart = attach(oban)

    assert autostart.end()

    get(app, **GUNICORN)

    assert (oban.starts, oban.stops) == (0, [])


def test_a_start_that_is_tried_again_ends_when_it_is_told_to(attach, monkeypatch):
    monkeypatch.setattr(servers, "FIRST_PAUSE", 60.0)
    oban = Pretender(*[DatabaseUnavailableError("away")] * 9)
    autostart = attach(oban)
    autostart.begin("gunicorn")
    [start] = autostart._starts.values()
    autostart.end()
    start.thread.join(10)

    assert not start.thread.is_alive()
    assert not oban.running


def test_an_end_waits_for_a_start_that_is_under_way(attach):
    gate = Event()
    oban = Pretender()
    begun = oban.start
    oban.start = lambda: gate.wait(10) and begun()
    autostart = attach(oban)
    autostart.begin("gunicorn")
    [start] = autostart._starts.values()
    thread, waited = start.thread, []

    def join(seconds):
        waited.append(seconds)
        gate.set()
        thread.join(seconds)

    start.thread = SimpleNamespace(is_alive=thread.is_alive, join=join)

    assert autostart.end(grace=3.0)
    assert not oban.running
    assert 3.0 < waited[0] <= 3.0 + servers.AFTER_GRACE


def test_a_fork_starts_anew(app, attach, monkeypatch):
    oban = Pretender()
    autostart = attach(oban)
    autostart.begin("gunicorn")

    assert oban.started.wait(10)

    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(os, "getpid", lambda: -1)

        assert not autostart.begun
        # Of the parent's it stops nothing.
        assert autostart.end()
        assert oban.stops == []

    assert autostart.begun


def test_an_application_is_found_behind_what_wraps_it(app, attach):
    autostart = attach(Pretender())

    class Middleware:
        def __init__(self, wsgi):
            self.wsgi = wsgi

        def __call__(self, environ, start_response):
            return self.wsgi(environ, start_response)

    def within(wsgi):
        return lambda environ, start_response: wsgi(environ, start_response)

    mounted = SimpleNamespace(__call__=None, mounts={"/shop": app})

    for wsgi in (
        app,
        Middleware(app),
        within(Middleware(app)),
        partial(app),
        app.wsgi_app,
        mounted,
    ):
        assert attached(wsgi) == [autostart], wsgi


class Touchy:
    """A middleware that has nothing for those who only look."""

    def __init__(self, wsgi):
        self.wsgi = wsgi

    def __call__(self, environ, start_response):
        return self.wsgi(environ, start_response)

    @property
    def __class__(self):
        raise RuntimeError("nothing is at work")

    @property
    def extensions(self):
        raise LookupError("no extensions")


def test_what_a_middleware_keeps_besides_may_fail_when_it_is_looked_at(app, attach):
    autostart = attach(Pretender())
    proxy = LocalProxy(lambda: current_app.logger)
    elsewhere = FlaskOban()

    def within(wsgi):
        def middleware(environ, start_response):
            proxy.info("served")
            elsewhere.get()

            return wsgi(environ, start_response)

        return middleware

    assert attached(within(Touchy(app))) == [autostart]

    # Another application may be at work; it is not served here.
    with Flask("another").app_context():
        assert attached(within(app)) == [autostart]


def test_where_no_application_is_found_all_are_meant(attach):
    autostart = attach(Pretender())

    assert autostart in attached(object())


# gunicorn


@pytest.fixture
def worker(app):
    return SimpleNamespace(
        wsgi=app, pid=os.getpid(), cfg=SimpleNamespace(graceful_timeout=30, timeout=30)
    )


def test_the_hooks_of_gunicorn_start_and_stop(attach, worker, caplog):
    oban = Pretender()
    attach(oban)
    gunicorn.post_worker_init(worker)

    assert oban.started.wait(10)
    assert not caplog.records

    worker.pid = -1
    gunicorn.worker_exit(None, worker)

    assert oban.running

    worker.pid = os.getpid()
    gunicorn.worker_exit(None, worker)

    assert not oban.running


@pytest.mark.parametrize("name", ["graceful_timeout", "timeout"])
def test_a_gunicorn_that_waits_too_little_is_told_of(attach, worker, caplog, name):
    attach(Pretender(shutdown_grace_period=20.0))
    setattr(worker.cfg, name, 24)
    gunicorn.post_worker_init(worker)

    assert f"gunicorn's {name} is 24 s, and stopping the queues may take 25" in caplog.text


def test_a_gunicorn_without_a_timeout_is_fine(attach, worker, caplog):
    attach(Pretender())
    worker.cfg.timeout = 0
    gunicorn.post_worker_init(worker)

    assert not caplog.records


def test_a_worker_of_gunicorn_serves_whatever_goes_wrong(app, worker, monkeypatch, caplog):
    def fails(*_):
        raise RuntimeError("no thread today")

    monkeypatch.setattr(Autostart, "begin", fails)
    monkeypatch.setattr(Autostart, "end", fails)
    Autostart(Pretender, autostart=None).attach(app)
    gunicorn.post_worker_init(worker)
    gunicorn.worker_exit(None, worker)

    assert caplog.text.count("RuntimeError: no thread today") == 2
    assert "could not be decided" in caplog.text
    assert "could not be stopped" in caplog.text


def nowhere():
    raise ConfigError("conninfo", "no database was given")


def test_options_that_are_wrong_are_told_in_a_line(app, worker, caplog):
    autostart = Autostart(nowhere, autostart=None)
    autostart.attach(app)
    gunicorn.post_worker_init(worker)
    get(app, **GUNICORN)

    assert not autostart.begun
    assert "queues do not start under gunicorn: conninfo: no database was given" in caplog.text
    assert [(record.levelname, record.exc_info) for record in caplog.records] == [("ERROR", None)]


def test_an_oban_that_cannot_be_made_is_told_once_and_leaves_nothing_to_stop(app, caplog):
    config = Pretender().config
    autostart = Autostart(nowhere, autostart=None, config=lambda: config)
    autostart.attach(app)
    get(app, **GUNICORN)
    [start] = autostart._starts.values()
    start.thread.join(10)

    assert [(record.levelname, record.exc_info) for record in caplog.records] == [("ERROR", None)]
    assert "no database was given" in caplog.text
    assert autostart.end()


# uWSGI


def test_the_workers_that_uwsgi_forks_start_the_queues(in_uwsgi, attach):
    module = in_uwsgi(0, **{"enable-threads": True})
    called = []
    module.post_fork_hook = lambda: called.append("theirs")
    oban = Pretender()
    attach(oban)

    assert not oban.starts

    module.number = 2
    module.post_fork_hook()

    assert oban.started.wait(10)
    assert called == ["theirs"]


def test_what_is_forked_and_serves_nothing_starts_nothing(in_uwsgi, attach):
    module = in_uwsgi(0, **{"enable-threads": True})
    oban = Pretender()
    autostart = attach(oban)
    # A mule.
    module.post_fork_hook()

    assert not autostart.begun


def test_the_decorators_of_uwsgi_keep_their_chain(in_uwsgi, monkeypatch):
    in_uwsgi(0)
    chain = []
    monkeypatch.setitem(sys.modules, "uwsgidecorators", SimpleNamespace(postfork_chain=chain))
    called = []
    uwsgi.call_after_fork(called.append)
    [hook] = chain
    hook()

    assert called == [0]


def test_a_lazy_worker_waits_for_its_request(in_uwsgi):
    module = in_uwsgi(1)
    uwsgi.call_after_fork(lambda worker: None)

    assert not hasattr(module, "post_fork_hook")


def test_without_threads_a_worker_of_uwsgi_says_so_once(in_uwsgi, app, attach, caplog):
    in_uwsgi(1)
    autostart = attach(Pretender())
    get(app, **{"uwsgi.version": b"2.0.21"})
    get(app, **{"uwsgi.version": b"2.0.21"})

    assert not autostart.begun
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "enable-threads = true" in caplog.text


def test_where_c_offers_no_exit_the_hook_of_uwsgi_is_taken(in_uwsgi, monkeypatch):
    monkeypatch.setattr(uwsgi.ctypes, "CDLL", lambda name: object())
    module = in_uwsgi(1)
    called = []
    module.atexit = lambda: called.append("theirs")
    uwsgi.call_at_exit(lambda: called.append("ours"))
    module.atexit()

    assert called == ["ours", "theirs"]


def test_outside_of_uwsgi_nobody_is_called(monkeypatch):
    monkeypatch.setattr(uwsgi.ctypes, "CDLL", None)
    uwsgi.call_at_exit(lambda: None)
    uwsgi.call_after_fork(lambda worker: None)

    assert surroundings.uwsgi.worker() is None
