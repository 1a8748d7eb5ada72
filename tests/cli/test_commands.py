"""install, upgrade, verify, uninstall and demo, as somebody types them."""

from __future__ import annotations

import subprocess
import sys

import psycopg
import pytest
from click.testing import CliRunner

from oban_sync import schema
from oban_sync.cli.main import main


@pytest.fixture
def run(dsn, empty_prefix):
    runner = CliRunner()

    def invoke(*arguments, code=0, **options):
        result = runner.invoke(main, arguments, env={"OBAN_DSN": dsn}, **options)

        assert result.exit_code == code, result.output

        return result.output

    return invoke


def test_the_tables_are_installed_checked_upgraded_and_removed(run, empty_prefix):
    prefix = ["--prefix", empty_prefix]

    assert "oban-sync install --prefix" in run("verify", *prefix, code=1)
    assert "nothing is installed" in run("upgrade", *prefix, code=1)
    assert f"Installed version {schema.LATEST}" in run("install", *prefix)
    assert f"Installed version {schema.LATEST}" in run("install", *prefix)
    assert f"at version {schema.LATEST}" in run("verify", *prefix)
    assert "already" in run("upgrade", *prefix)
    assert "Aborted" in run("uninstall", *prefix, code=1, input="n\n")
    assert f"at version {schema.LATEST}" in run("verify", *prefix)
    assert "Removed" in run("uninstall", *prefix, "--yes")
    assert "nothing is installed" in run("uninstall", *prefix, "--yes", code=1)


def test_an_older_installation_is_upgraded(run, dsn, empty_prefix):
    schema.install(dsn, prefix=empty_prefix, version=2)

    assert "oban-sync upgrade" in run("verify", "--prefix", empty_prefix, code=1)
    assert f"from version 2 to {schema.LATEST}" in run("upgrade", "--prefix", empty_prefix)
    assert "as it should be" in run("verify", "--prefix", empty_prefix)


def test_the_printed_statements_install_the_same(run, dsn, empty_prefix):
    script = run("install", "--sql", "--prefix", empty_prefix)

    assert script.startswith("BEGIN;")

    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(script)

    assert "as it should be" in run("verify", "--prefix", empty_prefix)


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
def test_a_mistake_is_told_in_one_line(run, arguments, code, words):
    output = run(*arguments, code=code)

    assert words in output
    assert "Traceback" not in output


def test_a_password_on_the_command_line_is_warned_about_and_never_shown(run):
    output = run("verify", "--dsn", "postgresql://u:s3cret@127.0.0.1:1/x", code=1)

    assert "Warning" in output
    assert "s3cret" not in output


def test_without_a_database_it_says_where_one_could_be_given():
    result = CliRunner().invoke(main, ["verify"], env={"OBAN_DSN": None, "DATABASE_URL": None})

    assert result.exit_code == 2
    assert "OBAN_DSN" in result.output


def test_every_command_has_help():
    for command in ([], *([name] for name in main.commands)):
        result = CliRunner().invoke(main, [*command, "--help"])

        assert result.exit_code == 0
        assert "Usage" in result.output


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
