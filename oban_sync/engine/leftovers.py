"""What was left in a connection of the application by whoever used it."""

from __future__ import annotations

from typing import Any, Literal

from psycopg.pq import TransactionStatus

from oban_sync.engine import callers

#: A transaction that failed and was not ended, or one that wrote and was not committed.
Left = Literal["failed", "wrote"]


def left_in(conn: Any) -> Left | None:
    """What stands uncommitted in a driver's connection; None for nothing that matters.

    Sends one query, and only to a connection in a transaction. Any driver may be given; those that
    do not tell whether they are in a transaction are taken to be in none.

    Args:
        conn: A psycopg 3 or psycopg2 connection.
    """
    status = _status(conn)

    if status == TransactionStatus.INERROR:
        return "failed"

    if status != TransactionStatus.INTRANS:
        return None

    # It reads no table, so the schema is of no account.
    [[wrote]] = callers.run_on(conn, "transaction_wrote", "public")

    return "wrote" if wrote else None


def _status(conn: Any) -> int | None:
    if (told := getattr(getattr(conn, "info", None), "transaction_status", None)) is not None:
        return int(told)

    ask = getattr(conn, "get_transaction_status", None)

    return int(ask()) if callable(ask) else None
