"""Small statements of several loops in one transaction and one round trip.

What a node asks while it has nothing to do is cheap for PostgreSQL. What costs is that
each question is a transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from oban_sync.engine import wire
from oban_sync.engine.session import Tx
from oban_sync.engine.statements import numbered

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Ask:
    """A statement that may go along with others.

    Attributes:
        name: Its file in `queries/`.
        params: Its parameters; lists are of text.
    """

    name: str
    params: Mapping[str, object]


def together(tx: Tx, asks: Sequence[Ask]) -> list[Rows]:
    """Run statements in order, in one transaction and one round trip; the rows of each.

    All are sent before the first is answered: PostgreSQL ends the transaction whatever becomes of
    this process meanwhile, so no lock is held while it stalls. Each statement sees what was
    committed before it began. Not behind a pooler, see `can_go_together`.
    """
    return wire.run_together(tx.conn, [_step(ask, tx.schema) for ask in asks])


def can_go_together() -> bool:
    """Whether the driver's libpq is able to; before that of PostgreSQL 14 it is not."""
    return psycopg.capabilities.has_pipeline()


def _step(ask: Ask, schema: str) -> tuple[str, list[object]]:
    text, order = numbered(ask.name, schema)
    values = (ask.params[key] for key in order)

    return text, [_texts(value) if isinstance(value, list) else value for value in values]


def _texts(items: Collection[str]) -> str:
    """A text[] as text; in quotes a backslash and a quote are all that means something."""
    quoted = (item.replace("\\", "\\\\").replace('"', '\\"') for item in items)

    return "{" + ",".join(f'"{item}"' for item in quoted) + "}"
