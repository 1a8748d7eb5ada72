"""The house: who may import whom, and what a line may do where it stands."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import oban_sync
from oban_sync.engine import statements

PACKAGE = Path(oban_sync.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
QUERIES = sorted((PACKAGE / "queries").glob("*.sql"))

#: Room -> the rooms it may import. A module at the top is a room of its own.
ROOMS: dict[str, set[str]] = {
    "core": set(),
    "telemetry": {"core"},
    "embedded": {"core"},
    "engine": {"core", "telemetry"},
    "runtime": {"core", "telemetry", "engine"},
    "plugins": {"core", "telemetry", "engine", "runtime"},
    "settings": {"core"},
    "control": {"core", "telemetry", "engine"},
    "assembly": {"core", "embedded", "engine", "runtime", "plugins"},
    "schema": {"core", "embedded", "engine"},
    "methods": {"engine"},
    "oban": {
        "core",
        "telemetry",
        "engine",
        "runtime",
        "control",
        "assembly",
        "methods",
        "settings",
    },
    "testing": {"core", "telemetry", "engine", "runtime", "control", "oban", "public"},
    "integrations": {
        "core",
        "telemetry",
        "embedded",
        "engine",
        "runtime",
        "settings",
        "schema",
        "oban",
        "cli",
        "public",
    },
    "web": {"core", "telemetry", "engine", "control", "oban", "public"},
    "cli": {
        "core",
        "telemetry",
        "embedded",
        "control",
        "assembly",
        "settings",
        "schema",
        "oban",
        "web",
        "public",
    },
    "public": {"core", "telemetry", "engine", "runtime", "control", "schema", "oban"},
    "__main__": {"cli"},
}

#: What is imported or named -> where it may be. A path names one module, a name a whole room.
POWERS: dict[str, set[str]] = {
    "psycopg": {
        "engine",
        "embedded",
        "schema.py",
        "assembly.py",
        "control/enqueueing.py",
        "runtime/notifier.py",
        "cli/options.py",
    },
    "psycopg_pool": {"engine", "oban.py", "assembly.py"},
    "tenacity": {"engine/retry.py", "embedded"},
    "threading": {
        "runtime",
        "telemetry/bus.py",
        "engine/callers.py",
        "engine/cancelling.py",
        "engine/transactions.py",
        "control/rate_limits.py",
        "web/searches.py",
        "integrations/servers.py",
        "testing/assertions.py",
    },
    "concurrent.futures": {"runtime/slots.py"},
    "queue": {"runtime"},
    "signal": {
        "runtime/foreground.py",
        "runtime/children.py",
        "runtime/child.py",
        "embedded",
    },
    "subprocess": {"embedded"},
    "tempfile": {"embedded", "cli"},
    "shutil": {"embedded", "cli"},
    "click": {"cli", "integrations"},
    "rich": {"cli"},
    "croniter": {"core/walls.py"},
    "asyncio": set(),
    "ctypes": {"runtime/interrupts.py", "integrations/uwsgi.py"},
    "multiprocessing": {"runtime/processes.py", "runtime/children.py", "runtime/child.py"},
    "pebble": set(),
    "pickle": set(),
    "flask": {"integrations", "web"},
    "werkzeug": {"integrations", "web"},
    "jinja2": {"web"},
    "markupsafe": {"web"},
    "waitress": {"web"},
    "opentelemetry": {"integrations/opentelemetry.py"},
    "prometheus_client": {"integrations/prometheus.py"},
    "sentry_sdk": {"integrations/sentry.py"},
    "sqlalchemy": {"integrations", "testing"},
    "pytest": {"testing/plugin.py"},
    "gunicorn": set(),
    "uwsgi": set(),
    "django": set(),
    "os.environ": {
        "settings.py",
        "embedded",
        "integrations/flask_settings.py",
        "integrations/surroundings.py",
    },
    "os.getenv": set(),
    "os._exit": {
        "cli",
        "runtime/foreground.py",
        "runtime/child.py",
        "runtime/executor.py",
        "runtime/slots.py",
    },
    "sys.exit": {"cli"},
    "time.sleep": {"runtime/producer.py"},  # of 0, to yield; it waits for nothing
    "datetime.now": {"core/clock.py"},
    "time.time": set(),
    "print": set(),
    "open": {"embedded"},
    "eval": set(),
    "exec": set(),
}


def room_of(path: Path) -> str:
    if path.name == "__init__.py" and len(path.parts) == 1:
        return "public"

    return path.parts[0] if len(path.parts) > 1 else path.stem


def imports_of(tree: ast.AST) -> list[str]:
    found = []

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]

    return found


def rooms_imported(tree: ast.AST) -> set[str]:
    rooms = set()

    for name in imports_of(tree):
        parts = name.split(".")

        if parts[0] != "oban_sync":
            continue

        known = len(parts) > 1 and (parts[1] in ROOMS)
        rooms.add(parts[1] if known else "public")

    return rooms


def powers_used(tree: ast.AST) -> set[str]:
    imported = set(imports_of(tree))
    names = set()

    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            # Without a dot it would be any variable that has a module's name.
            names |= {f"{node.value.id}.{node.attr}"} & {name for name in POWERS if "." in name}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            names |= {node.func.id} & {"print", "open", "eval", "exec"}

    return {
        power
        for power in POWERS
        if power in names or any(f"{name}.".startswith(f"{power}.") for name in imported)
    }


def broken_rules(path: Path, source: str) -> list[str]:
    """What the source may not do at this place."""
    tree = ast.parse(source)
    room = room_of(path)
    rooms = rooms_imported(tree) - {room} - ROOMS[room]
    powers = {
        power
        for power in powers_used(tree)
        if room not in POWERS[power] and path.as_posix() not in POWERS[power]
    }

    return sorted([f"imports room {name}" for name in rooms] + [f"uses {name}" for name in powers])


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.as_posix())
def test_a_module_imports_and_uses_only_what_its_room_may(path):
    assert broken_rules(path, (PACKAGE / path).read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("path", "source", "broken"),
    [
        ("core/job.py", "from oban_sync.engine import jobs", "imports room engine"),
        ("engine/jobs.py", "from oban_sync.runtime.loop import Loop", "imports room runtime"),
        ("runtime/loop.py", "import oban_sync.oban", "imports room oban"),
        ("runtime/loop.py", "from oban_sync import Oban", "imports room public"),
        ("core/job.py", "import psycopg", "uses psycopg"),
        ("engine/ack.py", "from threading import Thread", "uses threading"),
        ("core/clock.py", "import time\ntime.sleep(1)", "uses time.sleep"),
        ("runtime/loop.py", "import time\ntime.sleep(1)", "uses time.sleep"),
        ("core/job.py", "from datetime import datetime\ndatetime.now()", "uses datetime.now"),
        ("engine/ack.py", "print('x')", "uses print"),
        ("oban.py", "import os\nos.environ['X']", "uses os.environ"),
        (
            "cli/start.py",
            "from concurrent.futures import ThreadPoolExecutor",
            "uses concurrent.futures",
        ),
    ],
    ids=str,
)
def test_a_planted_violation_is_found(path, source, broken):
    assert broken in broken_rules(Path(path), source)


def test_no_room_imports_upwards_in_a_circle():
    def below(room, seen=()):
        assert room not in seen, f"{room} is below itself: {seen}"

        for other in ROOMS[room]:
            below(other, (*seen, room))

    for room in ROOMS:
        below(room)


def test_sql_is_only_in_query_files():
    statement = re.compile(r"\b(SELECT\s.+\sFROM|INSERT INTO|UPDATE\s.+\sSET|DELETE FROM)\s", re.S)
    allowed = {"cli/showcase.py", "engine/connections.py", "engine/callers.py"}
    found = []

    for path in MODULES:
        for node in ast.walk(ast.parse((PACKAGE / path).read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                docstring = "\n" in node.value and '"""' in ast.unparse(node)

                if statement.search(node.value) and not docstring and "Example" not in node.value:
                    found.append(path.as_posix())

    assert set(found) <= allowed


def callers(name: str) -> list[str]:
    quoted = re.compile(rf'"{name}"')

    return [
        path.as_posix()
        for path in MODULES
        for _ in quoted.finditer((PACKAGE / path).read_text("utf-8"))
    ]


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path.stem)
def test_a_query_has_exactly_one_caller_and_that_in_the_engine(path):
    [caller] = callers(path.stem)

    assert caller.startswith("engine/")


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path.stem)
def test_a_query_documents_exactly_the_parameters_it_takes(path):
    text = path.read_text("utf-8")
    header = [line for line in text.splitlines() if line.startswith("--")]
    documented = {
        match[1] for line in header if (match := re.match(r"--   (\w+)  +\S", line)) is not None
    }
    taken = set(re.findall(r"%\((\w+)\)s", statements.statement(path.stem, "public")))

    assert documented == taken
    assert any(line.startswith("-- Gives: ") for line in header)


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path.stem)
def test_a_query_names_tables_only_through_the_schema(path):
    body = statements.statement(path.stem, "SCHEMA")

    names = r"\boban_(jobs|job_state|peers|producers|leaders|sync_(?!notify)\w+)\b"

    for match in re.finditer(names, body):
        before = body[: match.start()]

        assert before.endswith(('"SCHEMA".', "'.")), f"unqualified {match[0]}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.as_posix())
def test_no_module_is_longer_than_500_lines(path):
    assert len((PACKAGE / path).read_text("utf-8").splitlines()) <= 500


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.as_posix())
def test_every_module_class_and_public_function_says_what_it_is_for(path):
    tree = ast.parse((PACKAGE / path).read_text("utf-8"))

    assert ast.get_docstring(tree)

    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue

        assert ast.get_docstring(node), node.name

        for item in node.body if isinstance(node, ast.ClassDef) else []:
            if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
                overload = any("overload" in ast.unparse(name) for name in item.decorator_list)

                said = ast.get_docstring(item) or item.name in ("process", "backoff")

                assert overload or said, f"{node.name}.{item.name}"
