"""What those hear who LISTEN for new jobs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

Bells = Callable[[], list[Any]]


@contextmanager
def listening(dsn: str, prefix: str, *, leads: bool = False) -> Iterator[Bells]:
    """Gives a function that tells what was heard since it was last called, decoded.

    Args:
        dsn: The database.
        prefix: The schema.
        leads: Be a leader of oban-py, for whom every insert rings.
    """
    channel = f"{prefix}.oban_insert"

    with psycopg.connect(dsn, autocommit=True) as listener:
        if leads:
            lease = sql.SQL(
                "INSERT INTO {}.oban_leaders (name, node, elected_at, expires_at)"
                " VALUES ('listener', 'n', '2026-01-01', '2999-01-01')"
            )
            listener.execute(lease.format(sql.Identifier(prefix)))

        listener.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))

        def bells() -> list[Any]:
            # Notifications come in the order of commits, so before this one nothing is missing.
            listener.execute("SELECT pg_notify(%s, 'the end')", [channel])
            heard = [note.payload for note in listener.notifies(timeout=0)]

            while "the end" not in heard:
                heard += [note.payload for note in listener.notifies(timeout=5, stop_after=1)]

            return [json.loads(payload) for payload in heard if payload != "the end"]

        yield bells
