"""flask oban, and oban-sync with a Flask application."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner
from flask import Flask
from psycopg_pool import ConnectionPool

from oban_sync import ConfigError, schema, worker
from oban_sync.cli.application import load_oban
from oban_sync.cli.main import main
from oban_sync.integrations.flask import FlaskOban
from oban_sync.integrations.flask_commands import oban as commands
from tests.support.probe import eventually

ROOT = Path(__file__).parents[2]

SHOP = """
import os
from flask import Flask, current_app
from oban_sync import Oban, Record, job
from oban_sync.integrations.flask import FlaskOban

oban = FlaskOban()

@job(queue="alpha")
def where():
    return Record([current_app.name, os.getpid(), Oban.get_instance() is oban.get()])

def create_app():
    app = Flask("shop")
    app.config["OBAN_CONNINFO"] = os.environ["SHOP_DATABASE"]
    app.config.from_prefixed_env()
    oban.init_app(app, stager={"interval": 0.2})
    return app
"""


@worker(queue="alpha", name="tests.flask.Counted")
class Counted:
    """Does nothing."""

    def process(self, job):
        return None


@pytest.fixture
def invoke(dsn, empty_prefix):
    """Run a command of ``flask oban`` in an application; gives what it says."""
    app = Flask("site")
    app.config.update(OBAN_CONNINFO=dsn, OBAN_PREFIX=empty_prefix, OBAN_QUEUES={"alpha": 2})
    oban = FlaskOban(app)

    def run(*arguments, code=0, of=app, **options):
        result = of.test_cli_runner().invoke(commands, arguments, **options)

        assert result.exit_code == code, result.output

        return result.output

    run.app = app

    yield run

    oban.get(app).stop()


@pytest.fixture
def start(tmp_path, dsn, prefix):
    """Start a command in a folder with a shop; ends what is left."""
    processes = []

    def run(*arguments, more="", **environment):
        (tmp_path / "shop.py").write_text(SHOP + more)
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "SHOP_DATABASE": dsn,
                "FLASK_OBAN_PREFIX": prefix,
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)

        return process

    yield run

    for process in processes:
        if process.poll() is None:
            process.kill()

        process.communicate()


def test_the_tables_are_installed_checked_upgraded_and_removed(invoke, empty_prefix):
    assert "CREATE" in invoke("install", "--sql")
    assert "oban-sync install --prefix" in invoke("verify", code=1)
    assert f"Installed version {schema.LATEST} in schema {empty_prefix}" in invoke("install")
    assert f"at version {schema.LATEST}" in invoke("verify")
    assert "already" in invoke("upgrade")
    assert "BEGIN" in invoke("upgrade", "--sql", "1")
    assert "There is nobody to ask here: add --yes." in invoke("uninstall", code=2)
    assert "Removed" in invoke("uninstall", "--yes")


def test_status_tells_how_things_stand(invoke, dsn):
    assert "trouble" in invoke("status", code=1)

    invoke("install")

    with invoke.app.app_context():
        Counted.enqueue()

    said = invoke("status")

    assert "alpha:2" in said
    assert "available          1" in said
    assert "No living node runs any queue" in said
    assert f"version   {schema.LATEST}" in said

    password = psycopg.conninfo.conninfo_to_dict(dsn).get("password")

    assert password is None or f":{password}@" not in said


def test_a_database_that_cannot_be_reached_is_told_in_one_line():
    app = Flask("site")
    FlaskOban(app, conninfo="postgresql://u:s3cret@127.0.0.1:1/x")
    result = app.test_cli_runner().invoke(commands, ["status"])

    assert result.exit_code == 1
    assert "could not be reached" in result.output
    assert "s3cret" not in result.output


def test_status_tells_the_dead_from_the_living(invoke, dsn, empty_prefix):
    invoke("install")

    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            f"""INSERT INTO "{empty_prefix}".oban_sync_nodes
                (uuid, name, node, beats, max_age, unlocked_max_age, beat_at)
            VALUES ('living-1', 'Oban', 'web', 1, 60, 6, now()),
                ('dead-one', 'Oban', 'old', 1, 60, 6, now() - interval '70 seconds')"""
        )
        said = invoke("status")

        assert "Nodes\n" in said
        assert "web  living-1  no queues" in said
        assert "old  dead-one  dead: silent for 70 s" in said

        conn.execute(f"""DELETE FROM "{empty_prefix}".oban_sync_nodes WHERE node = 'web'""")

        assert "No living node runs any queue." in invoke("status")


def test_status_needs_no_pool_of_the_application(invoke, dsn, empty_prefix):
    invoke("install")
    pool = ConnectionPool(dsn, open=False)
    app = Flask("pooled")
    FlaskOban(app, pool=pool, prefix=empty_prefix)
    said = invoke("status", of=app)

    assert "trouble" not in said
    assert "available" in said
    assert pool.closed


def test_the_doctor_knows_the_application(invoke):
    assert "fail" in invoke("doctor", code=1)

    invoke("install")
    said = json.loads(invoke("doctor", "--json", "--processes", "3"))

    assert said["status"] in ("ok", "warn")
    assert "3" in json.dumps(said["checks"])


def test_an_application_without_an_oban_is_told_what_to_do(invoke):
    assert "FlaskOban(app)" in invoke("verify", code=2, of=Flask("stranger"))


def test_what_a_role_may_not_do_is_told_in_a_line(invoke, dsn, conn, empty_prefix):
    name = f"commands_{uuid.uuid4().hex[:12]}"
    conn.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    conninfo = psycopg.conninfo.make_conninfo(dsn, user=name, password="secret")
    app = Flask("stranger")
    oban = FlaskOban(app, conninfo=conninfo, prefix=empty_prefix, queues={"alpha": 1})

    try:
        for command in ("status", "verify", "install", "start"):
            said = invoke(command, code=1, of=app).splitlines()[-1]

            assert said.startswith("Error: PostgreSQL says: permission denied"), command
    finally:
        oban.get(app).stop()
        conn.execute(f"DROP OWNED BY {name}")
        conn.execute(f"DROP ROLE {name}")


def test_the_doctor_of_an_application_without_an_oban_says_so_in_json(invoke):
    found = json.loads(invoke("doctor", "--json", code=1, of=Flask("stranger")))

    assert "FlaskOban(app)" in found["checks"][0]["text"]


def test_start_says_when_there_is_nothing_to_run(start):
    process = start("flask", "--app", "shop", "oban", "start")

    assert process.wait(30) == 2
    assert "--queues default:10" in process.stderr.read()


def test_every_command_and_option_has_help():
    for name, command in commands.commands.items():
        result = CliRunner().invoke(commands, [name, "--help"])

        assert result.exit_code == 0
        assert command.help, name

        for option in command.params:
            assert option.help or option.name == "log_level", option.name


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "command",
    [
        ["flask", "--app", "shop", "oban", "start"],
        ["oban_sync", "start", "--app", "shop:create_app()"],
        ["oban_sync", "start", "--app", "shop:create_app"],
    ],
    ids=" ".join,
)
def test_queues_run_until_a_signal_comes_with_the_application_around_each_job(
    start, make_oban, command
):
    client = make_oban()
    stored = client.enqueue(a_job("shop.where"))
    process = start(*command, "--queues", "alpha:2", "--grace", "5", "--node", "shop-1")
    eventually(lambda: client.get_job(stored).state == "completed", within=30)
    name, pid, own = client.get_job(stored).recorded()

    assert (name, pid, own) == ("shop", process.pid, True)
    assert [node.node for node in client.list_nodes()] == ["shop-1"]

    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=30)

    assert process.returncode == 0, log
    assert "worker=shop.where" in log


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("command", "more", "environment"),
    [
        (["flask", "--app", "shop", "oban", "start"], "", {}),
        (["flask", "--app", "shop", "oban", "start"], "app = create_app()", {}),
        (["flask", "oban", "start"], "", {"FLASK_APP": "shop.py"}),
        (["oban_sync", "start", "--app", "shop:create_app"], "", {}),
        (
            ["flask", "--app", "shop:create_app('x')", "oban", "start"],
            "plain = create_app\ndef create_app(name=None): return plain()",
            {"FLASK_OBAN_APP": "shop:create_app"},
        ),
    ],
    ids=["factory", "module", "environment", "oban-sync", "said"],
)
def test_children_of_process_queues_load_the_application(
    start, make_oban, command, more, environment
):
    client = make_oban()
    stored = client.enqueue(a_job("shop.where"))
    queues = '{"alpha": {"limit": 1, "executor": "process"}}'
    process = start(*command, more=more, FLASK_OBAN_QUEUES=queues, **environment)
    eventually(lambda: client.get_job(stored).state not in ("available", "executing"), within=40)
    found = client.get_job(stored)

    assert found.state == "completed", found.errors

    name, pid, own = found.recorded()

    assert (name, own) == ("shop", True)
    assert pid != process.pid

    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)

    assert process.returncode == 0


def test_where_children_would_not_find_the_application_the_start_says_so(start):
    process = start(
        *["flask", "--app", "shop:create_app('x')", "oban", "start"],
        more="plain = create_app\ndef create_app(name): return plain()",
        FLASK_OBAN_QUEUES='{"alpha": {"limit": 1, "executor": "process"}}',
    )

    assert process.wait(30) == 2
    assert "OBAN_APP" in process.stderr.read()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("shop:oban", "name the application that was given to its init_app instead"),
        ("shop:bare", "FlaskOban"),
        ("shop:where", "not an Oban"),
        ("shop:create_ap", "Did you mean 'create_app'"),
    ],
)
def test_what_is_no_application_with_an_oban_is_told(
    tmp_path, monkeypatch, dsn, path, words, request
):
    monkeypatch.setenv("SHOP_DATABASE", dsn)
    # Its own name for each test, since modules stay.
    name = f"shop_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(
        f'{SHOP.replace("@job(", f"@job(name={name!r}, ")}bare = Flask("bare")\n'
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    app = f"{name}:{path.partition(':')[2]}"
    result = CliRunner().invoke(main, ["verify", "--app", app, "--app-dir", str(tmp_path)])

    assert result.exit_code == 2
    assert words in result.output


FACTORIES = """
import os
from functools import partial
from flask import Flask
from oban_sync.integrations.flask import FlaskOban

def create_app(name="plain", *, prefix="public"):
    app = Flask(name)
    FlaskOban(app, conninfo=os.environ["SHOP_DATABASE"], prefix=prefix, name=name)
    return app

def needs(name):
    return create_app(name)

class Factory:
    def __call__(self, name="made"):
        return create_app(name)

class Shop:
    create = staticmethod(create_app)

made = Factory()
bound = partial(create_app, "bound")
"""


@pytest.fixture
def factories(tmp_path, monkeypatch, dsn, request):
    """The name of a module with functions that make applications, of each test's own."""
    name = f"factories_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    monkeypatch.setenv("SHOP_DATABASE", dsn)
    monkeypatch.setattr(sys, "path", [*sys.path])

    return name, str(tmp_path)


@pytest.mark.parametrize(
    ("call", "name", "prefix"),
    [
        ("create_app", "plain", "public"),
        ("create_app()", "plain", "public"),
        ("create_app('given', prefix='other')", "given", "other"),
        ("Shop.create('dotted')", "dotted", "public"),
        ("made()", "made", "public"),
        ("made('given')", "given", "public"),
        ("bound", "bound", "public"),
    ],
)
def test_an_application_may_be_made_by_a_call(factories, call, name, prefix):
    module, folder = factories
    found = load_oban(f"{module}:{call}", folder)

    assert (found.name, found.prefix) == (name, prefix)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("needs", "cannot be called like that: missing a required argument: 'name'"),
        ("create_app(1, 2)", "cannot be called like that"),
        ("create_app(", "neither a name nor a call"),
        ("create_app(open('x'))", "neither a name nor a call with plain values"),
        ("create_app(*['x'])", "neither a name nor a call with plain values"),
        ("create_app(**{'name': 'x'})", "neither a name nor a call with plain values"),
        ("FlaskOban.nothing()", "has no 'FlaskOban.nothing'"),
        ("made", "not an Oban"),
    ],
)
def test_a_call_that_cannot_be_is_told(factories, call, words):
    module, folder = factories

    with pytest.raises(ConfigError, match="--app") as told:
        load_oban(f"{module}:{call}", folder)

    assert words in str(told.value)


def a_job(name):
    """One of a worker that is not known here."""
    job = Counted.new()
    job.worker = name

    return job
