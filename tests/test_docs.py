"""Every Python block of the README and the documentation runs."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import Any

import pytest
from click import Command, Group

import oban_sync.control.enqueueing
import oban_sync.core.job
import oban_sync.core.worker
import oban_sync.oban
import oban_sync.telemetry.bus
from oban_sync import telemetry
from oban_sync.cli.main import main
from oban_sync.core import worker

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.S | re.M)
WITH_CODE = [page for page in PAGES if BLOCK.search(page.read_text("utf-8"))]


class Operations:
    def __init__(self, conn: Any) -> None:
        self._conn = conn

    def execute(self, statement: str) -> None:
        self._conn.execute(statement)


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page, dsn, prefix, conn, monkeypatch, capsys):
    monkeypatch.setenv("OBAN_PREFIX", prefix)
    conn.execute("CREATE TABLE users (email text)")
    conn.execute(
        f"ALTER ROLE CURRENT_USER IN DATABASE \"{conn.info.dbname}\" SET search_path = '{prefix}'"
    )
    names: dict[str, Any] = {
        "__name__": f"docs_{page.stem}",
        "op": Operations(conn),
    }

    try:
        for block in BLOCK.findall(page.read_text("utf-8")):
            code = block.replace("postgresql://localhost/app", dsn)
            exec(compile(code, str(page), "exec"), names)

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

            oban.stop()
    finally:
        conn.execute(f'ALTER ROLE CURRENT_USER IN DATABASE "{conn.info.dbname}" RESET search_path')
        telemetry.detach("slow-jobs")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


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
            assert getattr(option, "help", None) or option.name == "log_level", option.name


def test_every_event_is_documented():
    page = (ROOT / "docs" / "telemetry.md").read_text("utf-8")
    source = "\n".join(path.read_text("utf-8") for path in (ROOT / "oban_sync").rglob("*.py"))

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
