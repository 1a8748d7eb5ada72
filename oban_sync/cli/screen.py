"""What the commands show: tables as wide as the terminal, one JSON document, or plain lines.

Whatever came from rows goes through `printable`. Colours and redrawing need rich and a terminal;
everything else gets aligned columns, uncut, that other programs can read.
"""

from __future__ import annotations

import json
import select
import shutil
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, TypeAlias

import click

from oban_sync.cli.options import Command
from oban_sync.cli.words import at
from oban_sync.core.clock import utc_now
from oban_sync.core.errors import DatabaseUnavailableError
from oban_sync.telemetry.log import printable

#: Styles of the states, in rich's words.
STATE_STYLES: Mapping[str, str] = {
    "suspended": "dim",
    "scheduled": "dim",
    "available": "cyan",
    "executing": "blue",
    "retryable": "yellow",
    "completed": "green",
    "cancelled": "magenta",
    "discarded": "red",
}

_GAP = "  "


@dataclass(frozen=True, slots=True)
class Cell:
    """Text with a style, in rich's words; where there are no colours it is only the text."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        title: Its heading.
        right: Whether its cells stand at the right, as numbers do.
        shrinks: Whether it gives way first where the terminal is too narrow.
    """

    title: str
    right: bool = False
    shrinks: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells.

    Attributes:
        columns: Headings.
        rows: Each with a cell for every column.
        empty: What is said where there are no rows.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell | str]]
    empty: str = "Nothing."


#: Lines and tables, from top to bottom.
View: TypeAlias = Sequence[str | Cell | Table]


def state_cell(state: str) -> Cell:
    """The name of a state in its colour."""
    return Cell(state, STATE_STYLES.get(state, ""))


def json_option(command: Command) -> Command:
    """Add ``--json``."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON document, and nothing else."
    )(command)


def watch_option(command: Command) -> Command:
    """Add ``--watch``."""
    return click.option(
        "--watch",
        is_flag=False,
        flag_value=2.0,
        default=None,
        type=click.FloatRange(0.1, 3_600.0),
        metavar="[SECONDS]",
        help="Show it again every 2 seconds, or as often as given, until Ctrl-C.",
    )(command)


def print_json(value: object) -> None:
    """Print one JSON document; times in ISO form.

    Letters stay letters; what is not printable is escaped, for it could steer a terminal.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, default=_plain)
    click.echo("".join(char if char.isprintable() or char == "\n" else _u(char) for char in text))


def present(
    look: Callable[[], tuple[View, object]], *, as_json: bool, watch: float | None = None
) -> None:
    """Show what `look` finds, once or again and again.

    Args:
        look: Gives it for people, and as JSON.
        as_json: Print the latter.
        watch: Seconds between two looks; None for one look.
    """
    if as_json and watch is not None:
        raise click.UsageError("--json prints one document, so there is nothing to --watch")

    if as_json:
        print_json(look()[1])
    elif watch is None:
        show(look()[0])
    else:
        _watch(lambda: look()[0], watch)


def show(view: View) -> None:
    """Print a view."""
    if _is_drawn():
        from rich.console import Console

        Console(highlight=False).print(_drawn(view))
    else:
        most = shutil.get_terminal_size().columns if is_terminal() else None
        click.echo("\n".join(lines_of(view, most)))


def lines_of(view: View, most: int | None = None) -> list[str]:
    """A view as plain lines, cut to so many columns where that is asked for."""
    lines: list[str] = []

    for part in view:
        if isinstance(part, Table):
            lines.extend(_aligned(part))
        else:
            lines.append(_text(part))

    return lines if most is None else [_cut(line, most) for line in lines]


def is_terminal() -> bool:
    """Whether somebody looks at what is printed."""
    return sys.stdout.isatty()


def is_ascii() -> bool:
    """Whether only ASCII characters can be printed."""
    try:
        "▁█".encode(sys.stdout.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return True

    return False


def pause(seconds: float) -> None:
    """Wait; Ctrl-C ends it, as it ends everything."""
    select.select([], [], [], seconds)


def _watch(look: Callable[[], View], seconds: float) -> None:
    def again() -> View:
        head = f"{at(utc_now())}, every {seconds:g} s; Ctrl-C ends it"

        try:
            return [Cell(head, "dim"), "", *look()]
        except DatabaseUnavailableError as error:
            # Whoever watches wants to see when it comes back.
            return [Cell(head, "dim"), "", Cell(str(error), "red")]

    try:
        if _is_drawn():
            _redraw(again, seconds)

        while True:
            show([*again(), ""])
            pause(seconds)
    except KeyboardInterrupt:
        # That is how watching ends, and no failure.
        return


def _redraw(look: Callable[[], View], seconds: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)

    with Live(_drawn(look()), console=console, auto_refresh=False) as live:
        while True:
            pause(seconds)
            live.update(_drawn(look()), refresh=True)


def _is_drawn() -> bool:
    if not is_terminal():
        return False

    try:
        import rich  # noqa: F401 - whether it is installed
    except ImportError:
        return False

    return True


def _drawn(view: View) -> Any:
    from rich.console import Group
    from rich.table import Table as Drawn
    from rich.text import Text

    def text(cell: Cell | str, *, cut: bool = False) -> Text:
        # Never markup: brackets in the data are no styles.
        style = cell.style if isinstance(cell, Cell) else ""

        return Text(_text(cell), style, no_wrap=cut, overflow="ellipsis" if cut else "fold")

    parts: list[Any] = []

    for part in view:
        if not isinstance(part, Table):
            parts.append(text(part))
        elif not part.rows:
            parts.append(text(part.empty))
        else:
            drawn = Drawn(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")

            for column in part.columns:
                drawn.add_column(
                    Text(column.title),
                    justify="right" if column.right else "left",
                    no_wrap=not column.shrinks,
                    overflow="ellipsis",
                )

            for row in part.rows:
                drawn.add_row(*(text(cell, cut=True) for cell in row))

            parts.append(drawn)

    return Group(*parts)


def _aligned(table: Table) -> list[str]:
    if not table.rows:
        return [table.empty]

    rows = [
        [column.title for column in table.columns],
        *([_text(cell) for cell in row] for row in table.rows),
    ]
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]

    return [
        _GAP.join(
            _padded(cell, width, right=column.right)
            for cell, width, column in zip(row, widths, table.columns, strict=True)
        ).rstrip()
        for row in rows
    ]


def _text(cell: Cell | str) -> str:
    return printable(cell.text if isinstance(cell, Cell) else cell)


def _padded(text: str, width: int, *, right: bool) -> str:
    blank = " " * (width - _width(text))

    return blank + text if right else text + blank


def _width(text: str) -> int:
    """Columns that a text takes in a terminal."""
    if text.isascii():
        return len(text)

    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def _cut(line: str, most: int) -> str:
    if _width(line) <= most:
        return line

    while line and _width(line) >= most:
        line = line[:-1]

    return f"{line}…"


def _u(char: str) -> str:
    """A character as JSON escapes it; of those beyond 16 bits both halves."""
    return json.dumps(char)[1:-1] if not char.isascii() else f"\\u{ord(char):04x}"


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()

    if isinstance(value, Enum):
        return value.value

    if isinstance(value, (set, frozenset, tuple)):
        return list(value)

    return str(value)
