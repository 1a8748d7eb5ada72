"""The SQL files, found by name and bound to a schema."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from psycopg import sql

from oban_sync.core import clock

_QUERIES = files("oban_sync") / "queries"
_PLACE = re.compile(r"/\* ([a-z]+(?: literal)?) \*/")
_PARAMETER = re.compile(r"%\((\w+)\)s")
_NOW = re.compile(r"\b(?:now|clock_timestamp|statement_timestamp)\(\)")


def statement(name: str, schema: str) -> str:
    """The statement of a file in `queries/`, without its header, for one schema.

    With the virtual clock, the time of this moment stands in it.
    """
    text = _statement(name, schema)

    return at_this_moment(text) if clock.is_virtual() else text


def positional(name: str, schema: str) -> tuple[str, tuple[str, ...]]:
    """The same for drivers that know no named parameters: the text with ``%s``, and their order."""
    text, order = _positional(name, schema)

    return at_this_moment(text) if clock.is_virtual() else text, order


@cache
def numbered(name: str, schema: str) -> tuple[str, tuple[str, ...]]:
    """The same with ``$1``, as PostgreSQL itself has it; what is used twice is sent once.

    Never with a time in it: these are prepared once, and run for as long as the process does.
    """
    text = _statement(name, schema)
    order = tuple(dict.fromkeys(_PARAMETER.findall(text)))

    return _PARAMETER.sub(lambda found: f"${order.index(found[1]) + 1}", text), order


@cache
def shaped(
    name: str, schema: str, pieces: tuple[tuple[str, str], ...]
) -> tuple[str, tuple[str, ...]]:
    """As `numbered`, with pieces of SQL in the places that are called ``/* name */``."""
    text, order = numbered(name, schema)

    return filled(text, dict(pieces)), order


def at_this_moment(text: str) -> str:
    """SQL with the time of this process's clock wherever it asks for PostgreSQL's."""
    moment = clock.to_wire(clock.utc_now())

    return _NOW.sub(f"'{moment}+00'::pg_catalog.timestamptz", text)


def filled(text: str, pieces: Mapping[str, str]) -> str:
    """SQL with pieces in place of ``/* name */``; a piece itself is taken as it is."""
    return _PLACE.sub(lambda found: pieces.get(found[1], found[0]), text)


@cache
def migration(name: str, schema: str) -> tuple[str, ...]:
    """The statements of a file in `queries/migrations/`, one by one, for one schema."""
    text = (_QUERIES / "migrations" / f"{name}.sql").read_text("utf-8")

    # Cut before the name of the schema is put in: a $ in it is no quote.
    return tuple(_bound(part, schema) for part in _split(_body(text)))


def migration_names() -> tuple[str, ...]:
    """The migrations in order; each name starts with its number."""
    names = (item.name.removesuffix(".sql") for item in (_QUERIES / "migrations").iterdir())

    return tuple(sorted(name for name in names if name[0].isdigit()))


@cache
def _statement(name: str, schema: str) -> str:
    return _bound(_body((_QUERIES / f"{name}.sql").read_text("utf-8")), schema)


@cache
def _positional(name: str, schema: str) -> tuple[str, tuple[str, ...]]:
    text = _statement(name, schema)

    return _PARAMETER.sub("%s", text), tuple(_PARAMETER.findall(text))


def _body(text: str) -> str:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]

    return "\n".join(lines).strip()


def _bound(text: str, schema: str) -> str:
    name = sql.Identifier(schema).as_string(None)
    literal = "'" + schema.replace("'", "''") + "'"

    return (
        text.replace("/* schema */", f"{name}.")
        .replace("/* schema name */", name)
        .replace("/* schema literal */", literal)
    )


def _split(text: str) -> list[str]:
    """Cut at the semicolons that end a line outside of ``$tag$`` quotes."""
    statements: list[str] = []
    lines: list[str] = []
    quoted = False

    for line in text.splitlines():
        if not line.strip() and not lines:
            continue

        lines.append(line)
        quoted ^= len(re.findall(r"\$\w+\$", line)) % 2 == 1

        if line.endswith(";") and not quoted:
            statements.append("\n".join(lines))
            lines = []

    return statements
