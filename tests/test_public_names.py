"""What the package offers by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import oban_sync

DOCS = Path(__file__).parent.parent / "docs"


def test_all_is_exactly_the_public_names_in_order():
    names = [
        name
        for name, value in vars(oban_sync).items()
        if not name.startswith("_")
        and (not isinstance(value, ModuleType) or name in ("schema", "telemetry"))
    ]

    assert sorted(names) == list(oban_sync.__all__) == sorted(oban_sync.__all__)


def test_every_public_name_has_a_docstring():
    for name in oban_sync.__all__:
        assert getattr(oban_sync, name).__doc__, name


def test_every_public_name_and_method_is_in_the_reference():
    reference = (DOCS / "reference.md").read_text("utf-8")
    names = list(oban_sync.__all__)

    for cls in (oban_sync.Oban, oban_sync.Job, oban_sync.JobFunction, oban_sync.Worker):
        names += [name for name in vars(cls) if not name.startswith("_")]

    for module in (oban_sync.schema, oban_sync.telemetry):
        names += [
            name
            for name, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "").startswith(module.__name__)
            if not name.startswith("_")
        ]

    assert [name for name in names if f"`{name}" not in reference] == []


def test_importing_the_package_brings_no_command_line_web_or_test_code():
    code = "import sys, oban_sync; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = done.stdout.split()

    for name in ("click", "flask", "sqlalchemy", "pytest", "asyncio.runners_x", "oban_sync.cli"):
        assert name not in modules
