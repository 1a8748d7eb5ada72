"""What the package and a node do not import: it would take time and memory, and serve nobody."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

#: Slow to import, each for something that most programs do not do.
RARE = ("croniter", "dateutil", "difflib", "multiprocessing", "tenacity", "tomllib")

#: Only another room needs them, or an optional dependency.
FOREIGN = (
    "click",
    "django",
    "flask",
    "oban_sync.__main__",
    "oban_sync.cli",
    "oban_sync.embedded",
    "oban_sync.integrations",
    "oban_sync.testing",
    "oban_sync.web",
    "pytest",
    "rich",
    "sqlalchemy",
    "werkzeug",
)

NODE = """
from threading import Event
import oban_sync

performed = Event()

@oban_sync.job(unique=True)
def report():
    performed.set()

queues = {"default": 2, "others": 1}

with oban_sync.Oban(given["dsn"], prefix=given["prefix"], queues=queues, prioritizer=True) as oban:
    oban.enqueue(report.new())
    assert performed.wait(30)
"""


def imported_by(code, **given):
    """The modules there are after this code was run by an interpreter of its own."""
    script = f"""
import json, sys
given = json.loads(sys.argv[1])
{code}
print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(given)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr

    return set(json.loads(done.stdout.splitlines()[-1]))


def unwanted(modules, names):
    return sorted(
        module
        for module in modules
        if any(module == name or module.startswith(f"{name}.") for name in names)
    )


@pytest.fixture(scope="module")
def of_psycopg():
    """What comes with the driver is not ours to leave out."""
    return imported_by("import psycopg, psycopg_pool")


@pytest.fixture(scope="module")
def imported():
    return imported_by("import oban_sync")


@pytest.mark.parametrize("name", [*RARE, *FOREIGN, "uuid"])
def test_the_package_does_not_import(name, imported, of_psycopg):
    assert unwanted(imported - of_psycopg, [name]) == []


def test_a_node_without_entries_and_process_queues_imports_nothing_for_them(
    dsn, prefix, of_psycopg
):
    modules = imported_by(NODE, dsn=dsn, prefix=prefix)

    assert "oban_sync.runtime.producer" in modules
    assert unwanted(modules - of_psycopg, [*RARE, *FOREIGN]) == []


def test_what_is_rare_is_imported_when_it_is_asked_for():
    modules = imported_by(
        "import oban_sync\n@oban_sync.job(cron='0 9 * * *')\ndef report():\n    pass\n"
    )

    assert unwanted(modules, ["croniter"]) != []
