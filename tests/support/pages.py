"""The code blocks of the documentation, and where a page's files are written and run.

What authors write:

``python``
    Runs; all blocks of a page, in its order and in one namespace. `postgresql://localhost/app` is
    the test's database, and so is `embedded:.postgres`.
Named files
    A block whose first line is a comment with nothing but a file name, as ``# app.py``. A page with
    such Python files runs in a process and a folder of its own: all files are written first, and
    a Python file is imported where it stands on the page. Tests among the files are run by pytest.
Hidden checks
    ``<!-- check``, Python, ``-->``: runs like a Python block, and readers do not see it.
``python-celery``, ``python-rq``, ...
    Code of other systems: compiles, does not run.
``py``
    A fragment, as part of a conftest: compiles, does not run.
``sh``, ``procfile``, ``dockerfile``, ``ini``
    Their command lines are parsed by the commands they name; see `tests.support.commands`.
``toml``, ``json``, ``ini``
    Are parsed.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(EXAMPLES.rglob("README.md")),
]

#: Languages that are left alone; plain text names none.
FREE = {"", "apache", "diff", "elixir", "html", "jinja", "nginx", "sql", "text", "yaml"}

#: The command line that runs the program of a page, which comes as the last argument.
PYTHON = [sys.executable, "-W", "error", "-c"]

CHECK = "check"

_BLOCK = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=indent)(?P=fence) *$"
    r"|^<!-- check\n(?P<check>.*?)^-->",
    re.S | re.M,
)

#: As ``# app.py``; or a name without an extension that everybody knows.
_NAME = re.compile(r"(?:#|;|//) ((?:[\w.-]+/)*(?:[\w-]+(?:\.[\w-]+)+|Procfile|Dockerfile))\s*")

_DATABASE = re.compile(r"postgresql(\+psycopg2?)?://localhost/app\b|embedded:\.postgres\b")


@dataclass(frozen=True, slots=True)
class Block:
    """A code block.

    Attributes:
        language: What stands after the fence; `CHECK` for a hidden check.
        code: Its text.
        line: Where its code begins on the page.
        file: The file that it is, or None.
    """

    language: str
    code: str
    line: int
    file: str | None

    @property
    def runs(self) -> bool:
        return self.language in ("python", CHECK)

    @property
    def is_test(self) -> bool:
        return self.file is not None and Path(self.file).name.startswith(("test_", "conftest"))

    def on(self, url: str) -> str:
        """The code, on a database of the test's.

        Args:
            url: As libpq takes it; SQLAlchemy is told the driver that the page names.
        """
        return _DATABASE.sub(
            lambda match: url.replace("postgresql:", f"postgresql{match[1] or ''}:", 1), self.code
        )


def title(page: Path) -> str:
    """The name of a page in the names of tests."""
    return page.parent.name if page.name == "README.md" and page.parent != ROOT else page.stem


def runs(page: Path) -> bool:
    """Whether it has code to run."""
    return any(block.runs for block in blocks(page))


def has_files(page: Path) -> bool:
    """Whether it consists of Python files, rather than of code that runs where it stands."""
    return page != ROOT / "README.md" and any(
        block.runs and block.file is not None and block.file.endswith(".py")
        for block in blocks(page)
    )


def has_tests(page: Path) -> bool:
    """Whether tests are among its files."""
    return any(block.is_test for block in blocks(page))


def scripts(page: Path) -> set[str]:
    """What ``python FILE`` may name on a page."""
    named = {block.file for block in blocks(page) if block.file is not None}
    beside = {path.name for path in page.parent.glob("*.py")}

    return named | beside | {path.name for path in ROOT.glob("*.py")}


def example_source(page: Path) -> str:
    """The code of the example that a page is of."""
    if not page.is_relative_to(EXAMPLES):
        return ""

    folder = page if page.is_dir() else page.parent

    return "\n".join(path.read_text("utf-8") for path in sorted(folder.rglob("*.py")))


def sections(page: Path) -> set[str]:
    """What a link may name after ``#``, as GitHub makes it of the headings."""
    text = page.read_text("utf-8")
    found = set(re.findall(r"<a (?:id|name)=[\"']([^\"']+)", text))

    for heading in re.findall(r"^#+ (.*)$", _BLOCK.sub("", text), re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        found.add(re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-"))

    return found


def url(dsn: str) -> str:
    """A conninfo as a URL, for those who take nothing else."""
    return f"postgresql:///?{urlencode(conninfo_to_dict(dsn), quote_via=quote)}"


@contextmanager
def tables(dsn: str, prefix: str, conn: psycopg.Connection[Any]) -> Iterator[dict[str, str]]:
    """Let connections that say nothing else find a test's tables, and one of users.

    Gives:
        The variables that the page's code needs besides.
    """
    role = f'ALTER ROLE CURRENT_USER IN DATABASE "{conn.info.dbname}"'
    conn.execute("CREATE TABLE users (email text)")
    conn.execute(f"{role} SET search_path = '{prefix}'")

    try:
        yield {"OBAN_PREFIX": prefix}
    finally:
        conn.execute(f"{role} RESET search_path")


def blocks(page: Path) -> list[Block]:
    """All code blocks and hidden checks of a page."""
    text = page.read_text("utf-8")
    found = []

    for match in _BLOCK.finditer(text):
        language = CHECK if match["check"] is not None else match["language"].strip()
        code = match["check"] if language == CHECK else textwrap.dedent(match["code"])
        line = text.count("\n", 0, match.start()) + 2
        named = _NAME.fullmatch(code.partition("\n")[0]) if language != CHECK else None

        found.append(Block(language, code, line, named[1] if named else None))

    return found


def unfenced(page: Path) -> Iterator[tuple[int, str]]:
    """Code blocks made by indenting, with the lines they begin at."""
    text = _BLOCK.sub(lambda match: "\n" * match[0].count("\n"), page.read_text("utf-8"))
    item = False
    lines = text.split("\n")

    for number, line in enumerate(lines, 1):
        if re.match(r"\s*(?:[-*]|\d+\.) ", line):
            item = True
        elif line and not line.startswith(" "):
            item = False
        elif line.startswith("    ") and not item and not lines[number - 2].strip():
            yield number, line


def write_files(page: Path, folder: Path, url: str) -> None:
    """Write the files that a page names."""
    for block in blocks(page):
        if block.file is not None and not block.language.startswith("python-"):
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.on(url), "utf-8")


def script(page: Path, url: str) -> str:
    """The program that runs a page in the folder of its files."""
    lines = ["import sys", "sys.path.insert(0, '.')", f"__name__ = {page.stem!r}"]

    for block in blocks(page):
        if block.runs and not block.is_test:
            # So that a traceback names the page.
            lines.append(_step(block, block.on(url), f"{page.name}:{block.line}"))

    return "\n".join(lines)


def _step(block: Block, code: str, place: str) -> str:
    if block.file is None:
        return f"exec(compile({code!r}, {place!r}, 'exec'))"

    name = block.file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")

    if "." in Path(block.file).stem:
        return f"exec(compile({code!r}, {block.file!r}, 'exec'), {{'__name__': 'file'}})"

    return f"from {name} import *"
