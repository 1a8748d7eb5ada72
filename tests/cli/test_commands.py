"""install, upgrade, verify, uninstall and demo, as somebody types them."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from oban_sync import schema
from oban_sync.cli.main import main
from oban_sync.integrations.flask_commands import oban as flask_oban
from tests.support.probe import is_alive


@pytest.fixture
def invoke(dsn, empty_prefix):
    runner = CliRunner()

    def call(*arguments, code=0, **options):
        result = runner.invoke(main, arguments, env={"OBAN_DSN": dsn}, **options)

        assert result.exit_code == code, result.output

        return result.output

    return call


def test_the_tables_are_installed_checked_upgraded_and_removed(invoke, empty_prefix):
    prefix = ["--prefix", empty_prefix]

    assert "oban-sync install --prefix" in invoke("verify", *prefix, code=1)
    assert "nothing is installed" in invoke("upgrade", *prefix, code=1)
    assert f"Installed version {schema.LATEST}" in invoke("install", *prefix)
    assert f"Installed version {schema.LATEST}" in invoke("install", *prefix)
    assert f"at version {schema.LATEST}" in invoke("verify", *prefix)
    assert "already" in invoke("upgrade", *prefix)
    assert "There is nobody to ask here: add --yes." in invoke("uninstall", *prefix, code=2)
    assert f"at version {schema.LATEST}" in invoke("verify", *prefix)
    assert "Removed" in invoke("uninstall", *prefix, "--yes")
    assert "nothing is installed" in invoke("uninstall", *prefix, "--yes", code=1)


def test_an_older_installation_is_upgraded(invoke, dsn, empty_prefix):
    schema.install(dsn, prefix=empty_prefix, version=2)

    assert "oban-sync upgrade" in invoke("verify", "--prefix", empty_prefix, code=1)
    assert f"from version 2 to {schema.LATEST}" in invoke("upgrade", "--prefix", empty_prefix)
    assert "as it should be" in invoke("verify", "--prefix", empty_prefix)


def test_the_printed_statements_install_the_same(invoke, dsn, empty_prefix):
    script = invoke("install", "--sql", "--prefix", empty_prefix)

    assert script.startswith("BEGIN;")

    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(script)

    assert "as it should be" in invoke("verify", "--prefix", empty_prefix)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["verify", "--prefix", 'a"b'], 2, "prefix"),
        (["install", "--sql", "--prefix", "a b"], 2, "prefix"),
        (["upgrade", "--sql", "99"], 2, "from_version"),
        (["verify", "--dsn", "postgresql://127.0.0.1:1/x"], 1, "could not be reached"),
        (["verify", "--dsn", "nonsense"], 2, "neither a libpq string nor a URL"),
        (["verify", "--dsn", "host=127.0.0.1 connect_timeout=zz"], 1, "connect_timeout"),
        (["verfy"], 2, "No such command"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_told_in_one_line(invoke, arguments, code, words):
    output = invoke(*arguments, code=code)

    assert words in output
    assert "Traceback" not in output


def test_a_password_on_the_command_line_is_warned_about_and_never_shown(invoke):
    output = invoke("verify", "--dsn", "postgresql://u:s3cret@127.0.0.1:1/x", code=1)

    assert "Warning" in output
    assert "s3cret" not in output


def test_without_a_database_it_says_where_one_could_be_given():
    result = CliRunner().invoke(main, ["verify"], env={"OBAN_DSN": None, "DATABASE_URL": None})

    assert result.exit_code == 2
    assert "OBAN_DSN" in result.output


def every_command(command, path=()):
    yield path, command

    for name, inner in getattr(command, "commands", {}).items():
        yield from every_command(inner, (*path, name))


@pytest.mark.parametrize("path", [path for path, _ in every_command(main)], ids=" ".join)
def test_every_command_and_option_has_help(path):
    result = CliRunner().invoke(main, [*path, "--help"])
    command = dict(every_command(main))[path]

    assert result.exit_code == 0
    assert "Usage" in result.output
    assert command.help

    for option in command.params:
        argument = option.param_type_name == "argument"

        assert argument or option.help or option.name == "log_level", option.name


def test_flask_oban_has_the_same_commands():
    own = {path: command.help for path, command in every_command(main) if path}
    shared = {path: command.help for path, command in every_command(flask_oban) if path}

    for path in own:
        if path[0] in ("jobs", "queues", "crons", "nodes", "metrics", "audit", "health", "web"):
            assert shared[path] == own[path]


@pytest.mark.timeout(120)
def test_the_demo_runs_its_jobs_and_leaves_nothing_behind(dsn):
    done = subprocess.run(
        [sys.executable, "-m", "oban_sync", "demo", "--dsn", dsn, "--burst", "500"],
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert done.returncode == 0, done.stderr
    assert "300/300" in done.stdout
    assert "Failing       discarded        5    10" in done.stdout
    assert "LookupError: no such mailbox" in done.stdout
    assert "20 users, 20 welcome mails" in done.stdout
    assert "every thread has ended" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr

    with psycopg.connect(dsn) as conn:
        found = conn.execute("SELECT to_regnamespace('oban_demo')").fetchone()

    assert found == (None,)


@pytest.mark.timeout(120)
def test_the_demo_ends_with_the_dashboard_in_a_terminal(terminal, dsn):
    demo = terminal("demo", "--dsn", dsn, "--burst", 0)
    said = demo.until("until Ctrl-C.", within=90)
    address = re.search(r"Dashboard at (http://[\d.:]+)/,", said)[1]

    with urllib.request.urlopen(address, timeout=10) as reply:
        assert reply.status == 200

    demo.interrupt()

    assert demo.end() == 0, demo.said
    assert "Removed schema oban_demo." in demo.said
    assert "Traceback" not in demo.said


@pytest.fixture
def open_folder():
    """A folder that the user of a server may enter: those of pytest are root's alone."""
    with tempfile.TemporaryDirectory(prefix="oban-sync-test-") as name:
        Path(name).chmod(0o755)

        yield Path(name)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("moment", ["Started a private PostgreSQL", "until Ctrl-C."])
def test_a_demo_that_is_terminated_leaves_no_server_behind(terminal, open_folder, moment):
    demo = terminal("demo", "--web", "--burst", 0, TMPDIR=str(open_folder))
    demo.until(moment, within=90)
    [folder] = open_folder.glob("oban-sync-demo-*")
    server = int((folder / "data" / "postmaster.pid").read_text().split()[0])
    demo.process.terminate()

    assert demo.end() in (0, 143), demo.said
    assert "Traceback" not in demo.said
    assert list(open_folder.glob("oban-sync-demo-*")) == []

    assert not is_alive(server)
