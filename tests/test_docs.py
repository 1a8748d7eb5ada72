"""The documentation: its code runs, its command lines are taken, its links lead somewhere."""

from __future__ import annotations

import doctest
import json
import re
import sys
import tomllib
from types import ModuleType
from typing import Any

import pytest
from click import Command, Group, Option

import oban_sync.control.enqueueing
import oban_sync.core.job
import oban_sync.core.worker
import oban_sync.oban
import oban_sync.telemetry.bus
from oban_sync import telemetry
from oban_sync.cli.main import main
from oban_sync.core import worker
from tests.support import pages
from tests.support.commands import (
    WrongCommandError,
    check_dockerfile,
    check_ini,
    check_procfile,
    check_shell,
)
from tests.support.pages import EXAMPLES, FREE, PAGES, ROOT, Block, blocks, unfenced

IN_PLACE = [page for page in PAGES if not pages.has_files(page) and pages.runs(page)]


class Operations:
    def __init__(self, conn: Any) -> None:
        self._conn = conn

    def execute(self, statement: str) -> None:
        self._conn.execute(statement)


@pytest.mark.parametrize("page", IN_PLACE, ids=pages.title)
def test_the_code_of_a_page_runs(page, dsn, tables, conn, monkeypatch, capsys):
    # A module that can be found, as annotations of mapped classes are looked up in theirs.
    module = ModuleType(f"docs_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    names: dict[str, Any] = vars(module)
    names["op"] = Operations(conn)

    try:
        for block in blocks(page):
            if block.runs:
                exec(compile(block.on(pages.url(dsn)), f"{page.name}:{block.line}", "exec"), names)

        if page.name == "README.md":
            oban = names["oban"]

            names["sign_up"]("ann@example.com")
            names["newsletter"](f"{number}@example.com" for number in range(100))
            added = names["add"].options(schedule_in=5).enqueue(1, 2)

            assert oban.drain_queue("mailers")["completed"] == 101
            assert oban.drain_queue("default")["completed"] == 1
            assert oban.get_job(added.id).recorded() == 3
            assert "mail to ann@example.com" in capsys.readouterr().out
            assert conn.execute("SELECT count(*) FROM users").fetchone() == (1,)
    finally:
        telemetry.detach("slow-jobs")

        for found in list(names.values()):
            if isinstance(found, oban_sync.oban.Oban):
                found.stop()


@pytest.mark.parametrize("page", PAGES, ids=pages.title)
def test_blocks_that_do_not_run_are_right_all_the_same(page):
    known = {
        "files": pages.scripts(page),
        "source": "\n".join(block.code for block in blocks(page)) + pages.example_source(page),
    }

    for block in blocks(page):
        try:
            look_at(block, known)
        except Exception as error:
            error.add_note(f"in {page.name}, line {block.line}")

            raise


def look_at(block: Block, known: dict[str, Any]) -> None:
    match block.language:
        case "sh":
            check_shell(block.code, **known)
        case "procfile":
            check_procfile(block.code, **known)
        case "dockerfile":
            check_dockerfile(block.code, **known)
        case "ini":
            check_ini(block.code, **known)
        case "toml":
            tomllib.loads(block.code)
        case "json":
            json.loads(block.code)
        case "python" | "py" | pages.CHECK:
            compile(block.code, "page", "exec")
        case language if language.startswith("python-"):
            compile(block.code, "page", "exec")
        case language:
            assert language in FREE, f"nobody knows {language!r}; say what is to be done with it"


@pytest.mark.parametrize("page", PAGES, ids=pages.title)
def test_code_is_in_blocks_that_name_their_language(page):
    assert list(unfenced(page)) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "oban-sync begin",
        "oban-sync start --queue default:10",
        "export OBAN_DSN=x && oban-sync install --dns x",
        "flask oban begin",
        "flask --app app init-tables",
        'pip install "oban-sync[embeded]"',
        "python3 dev.py && python3 other.py",
        "gunicorn --worker 3 wsgi:app",
        "pytest --drain",
    ],
)
def test_a_command_line_that_is_not_taken_is_told(wrong):
    with pytest.raises(WrongCommandError):
        check_shell(wrong, files={"dev.py"}, source='@app.cli.command("init-db")')


@pytest.mark.parametrize(
    ("check", "wrong"),
    [
        (check_procfile, "worker oban-sync start --app wsgi:app"),
        (check_procfile, "worker: oban-sync begin"),
        (check_dockerfile, "FORM python:3.13"),
        (check_dockerfile, 'CMD ["oban-sync", "begin"]'),
        (check_ini, "[Service]\nExecStart=/srv/app/bin/oban-sync begin"),
    ],
)
def test_a_command_in_a_file_of_a_server_that_is_not_taken_is_told(check, wrong):
    with pytest.raises(WrongCommandError):
        check(wrong)


@pytest.mark.parametrize(
    "path",
    sorted(
        path
        for path in EXAMPLES.rglob("*")
        if path.name in ("Procfile", "Dockerfile") or path.suffix in (".service", ".ini", ".toml")
    ),
    ids=lambda path: path.name,
)
def test_the_files_of_the_example_name_commands_that_exist(path):
    known = {
        "files": {found.name for found in EXAMPLES.rglob("*.py")},
        "source": pages.example_source(EXAMPLES),
    }
    language = {".service": "ini", ".ini": "ini", ".toml": "toml"}.get(
        path.suffix, path.name.lower()
    )

    look_at(Block(language, path.read_text("utf-8"), 1, None), known)


@pytest.mark.parametrize("page", PAGES, ids=pages.title)
def test_links_between_pages_lead_somewhere(page):
    for target, _, section in re.findall(
        r"\]\((?!https?:)([^)#]*)(#([^)]+))?\)", page.read_text("utf-8")
    ):
        other = page.parent / target if target else page

        assert other.exists(), target

        if section:
            assert section in pages.sections(other), f"{target}#{section}"


def commands(group: Group, path: str = "") -> list[tuple[str, Command]]:
    found = []

    for name, command in group.commands.items():
        found.append((f"{path}{name}", command))

        if isinstance(command, Group):
            found += commands(command, f"{path}{name} ")

    return found


def test_every_command_and_option_has_a_help_text_and_is_in_the_reference():
    reference = (ROOT / "docs" / "reference.md").read_text("utf-8")

    for name, command in commands(main):
        assert command.help, name
        assert f"`{name}`" in reference or f"oban-sync {name}" in reference

        for option in command.params:
            # Arguments are told of in the command's own text.
            if isinstance(option, Option):
                assert option.help or option.name == "log_level", option.name


def test_every_event_is_documented():
    page = (ROOT / "docs" / "telemetry.md").read_text("utf-8")
    # OpenTelemetry's metrics are called after its own fashion.
    source = "\n".join(
        path.read_text("utf-8")
        for path in (ROOT / "oban_sync").rglob("*.py")
        if path.name != "opentelemetry.py"
    )

    for event in re.findall(r'"(oban\.[a-z]+\.[a-z]+)"', source):
        stem, _, last = event.rpartition(".")

        assert f"`{event}" in page or (f"`{stem}." in page and f"`.{last}`" in page), event


MODULES = [
    oban_sync.core.worker,
    oban_sync.oban,
    oban_sync.control.enqueueing,
    oban_sync.core.job,
    oban_sync.telemetry.bus,
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_examples_of_the_docstrings_run(module, oban, make_oban, conn):
    conn.execute("CREATE TABLE IF NOT EXISTS public.users (email text)")
    names = {
        "add": worker.job(name=f"add-{module.__name__}")(lambda a, b: a + b),
        "job": worker.job,
        "worker": worker.worker,
        "oban": oban,
        "session": conn,
        "MailerWorker": worker.worker(name=f"mailer-{module.__name__}")(
            type("MailerWorker", (), {"process": lambda self, job: None})
        ),
        "Oban": lambda conninfo, **options: make_oban(name="Docs", **options),
    }
    results = doctest.testmod(module, extraglobs=names, optionflags=doctest.ELLIPSIS)

    assert results.failed == 0


@pytest.fixture
def tables(dsn, prefix, conn, monkeypatch):
    """The jobs' tables and one of users, found by every connection that says nothing else."""
    with pages.tables(dsn, prefix, conn) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

        yield
