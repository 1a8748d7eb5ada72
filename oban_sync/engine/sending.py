"""Statements that PostgreSQL works on while Python does something else.

Storing many jobs takes both of them about as long: done at the same time, it takes half of that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import generators
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult

from oban_sync.core import clock
from oban_sync.engine import wire
from oban_sync.engine.callers import run_on
from oban_sync.engine.statements import at_this_moment, numbered

#: What there is to do while PostgreSQL is at work.
Meanwhile = Callable[[], None]


def is_plain(conn: psycopg.Connection[Any]) -> bool:
    """Whether what is sent past psycopg's cursors arrives as it is meant on this connection."""
    return conn.pgconn.parameter_status(b"client_encoding") == b"UTF8"


def run_alone(
    conn: psycopg.Connection[Any], name: str, schema: str, /, **params: str | None
) -> list[tuple[Any, ...]]:
    """Run a statement that waits for nobody, on a connection that nobody else uses.

    It is waited for inside of libpq, where a Ctrl-C does not reach.
    """
    by_itself = conn.pgconn.transaction_status == TransactionStatus.IDLE

    if by_itself and conn.prepare_threshold is not None and not clock.is_virtual():
        text, order = numbered(name, schema)

        return wire.run(conn, text, [params[key] for key in order])

    return run_for(conn, name, schema, lambda: None, **params)


def run_for(
    conn: Any, name: str, schema: str, meanwhile: Meanwhile | None, /, **params: str | None
) -> list[tuple[Any, ...]]:
    """Run a statement for an application; see `callers.run_on`.

    Args:
        conn: Any kind of connection; with `meanwhile`, one of psycopg's that nobody else uses,
            and that `is_plain`.
        name: The statement.
        schema: The schema of the tables.
        meanwhile: To be done while it runs, where it is one of several; None on a connection that
            is not ours.
        params: Its parameters.
    """
    if meanwhile is None:
        return run_on(conn, name, schema, **params)

    text, order = numbered(name, schema)
    values = [params[key] for key in order]

    if clock.is_virtual():
        text = at_this_moment(text)

    return run_meanwhile(conn, text, values, meanwhile)


def run_meanwhile(
    conn: psycopg.Connection[Any],
    text: str,
    params: Sequence[str | None],
    meanwhile: Meanwhile,
) -> list[tuple[Any, ...]]:
    """Run a statement, and do something else before its rows are waited for.

    Args:
        conn: Nobody else may use it by then, `meanwhile` included.
        text: SQL with ``$1``. It is not prepared: poolers need not know of it.
        params: Texts.
        meanwhile: What it raises is raised, once the statement is over.
    """
    values = [None if item is None else item.encode() for item in params]
    conn.pgconn.send_query_params(text.encode(), values)

    try:
        # What does not go at once goes when it is waited for.
        conn.pgconn.flush()
        meanwhile()
    except BaseException:
        with suppress(psycopg.Error):
            _result(conn)

        raise

    return _rows(conn, _result(conn))


def _result(conn: psycopg.Connection[Any]) -> PGresult:
    result: PGresult = conn.wait(generators.execute(conn.pgconn))[-1]

    return result


def _rows(conn: psycopg.Connection[Any], result: PGresult) -> list[tuple[Any, ...]]:
    if result.status != ExecStatus.TUPLES_OK:
        raise psycopg.errors.error_from_result(result)

    transformer = Transformer(conn)
    transformer.set_pgresult(result)

    return transformer.load_rows(0, result.ntuples, tuple)
