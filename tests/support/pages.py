"""The code blocks of the documentation, and where a page's files are written and run.

What authors write:

``python``
    Runs; all blocks of a page, in its order and in one namespace. `postgresql://localhost/app` is
    the test's database.
Named files
    A block whose first line is a comment with nothing but a file name, as ``# app.py``. A page with
    such Python files runs in a process and a folder of its own: all files are written first, and
    a Python file is imported where it stands on the page. Tests among the files are run by pytest.
Hidden checks
    ``<!-- check``, Python, ``-->``: runs like a Python block, and readers do not see it.
``python-celery``, ``python-rq``, ...
    Code of other systems: compiles, does not run.
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
from dataclasses import dataclass
from pathlib import Path

#: Languages that are left alone.
FREE = {"apache", "diff", "elixir", "html", "jinja", "nginx", "sql", "text", "yaml"}

#: Languages that a test looks into.
CHECKED = {"dockerfile", "ini", "json", "procfile", "python", "sh", "toml"}

CHECK = "check"

_BLOCK = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=indent)(?P=fence) *$"
    r"|^<!-- check\n(?P<check>.*?)^-->",
    re.S | re.M,
)

#: As ``# app.py``; or a name without an extension that everybody knows.
_NAME = re.compile(r"(?:#|;|//) ((?:[\w.-]+/)*(?:[\w-]+(?:\.[\w-]+)+|Procfile|Dockerfile))\s*")

_DATABASE = re.compile(r"postgresql(\+psycopg2?)?://localhost/app\b")


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
            url: As libpq has it; SQLAlchemy is told the driver that the page names.
        """
        return _DATABASE.sub(
            lambda match: url.replace("postgresql:", f"postgresql{match[1] or ''}:", 1), self.code
        )


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
        if block.file is not None:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.on(url), "utf-8")


def script(page: Path, url: str) -> str:
    """The program that runs a page in the folder of its files."""
    lines = ["import sys", "sys.path.insert(0, '.')"]

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


def python_of(page: Path) -> list[str]:
    """The command line that runs a page's program, which comes as the last argument."""
    return [sys.executable, "-W", "error", "-c"]
