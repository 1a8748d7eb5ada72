"""Values in PostgreSQL's own binary form, and the shortest way to run a statement.

For the few statements of the hot path: text of arrays and of timestamps costs PostgreSQL a tenth of
a turn, and follows the session's DateStyle. A timestamp is the number of microseconds since 2000.
"""

from __future__ import annotations

import selectors
from collections.abc import Collection, Sequence
from itertools import count, repeat
from struct import Struct
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg.adapt import AdaptersMap, Dumper, Transformer
from psycopg.pq import DiagnosticField, ExecStatus, Format
from psycopg.pq.abc import PGconn, PGresult
from psycopg.types.numeric import Int8BinaryLoader

#: Seconds after which what is to be sent is looked after again, while PostgreSQL takes none of it.
_LOOK_INTERVAL = 0.1

_HEADER = Struct("!iiiii").pack
_ELEMENT = Struct("!iq").pack


class Bigints:
    """A bigint[]: one parameter type whatever the values, so one prepared plan."""

    __slots__ = ("data",)

    #: PostgreSQL's number of the element's type.
    OID = 20

    def __init__(self, values: Collection[int]) -> None:
        elements = b"".join(map(_ELEMENT, repeat(8), values))
        self.data = _HEADER(1, 0, self.OID, len(values), 1) + elements


class Timestamps(Bigints):
    """A timestamp[]."""

    __slots__ = ()

    OID = 1114


class _BigintsDumper(Dumper):
    format = Format.BINARY
    oid = 1016

    def dump(self, obj: Bigints) -> bytes:
        return obj.data


class _TimestampsDumper(_BigintsDumper):
    oid = 1115


def _adapters() -> AdaptersMap:
    adapters = AdaptersMap(psycopg.adapters)
    adapters.register_dumper(Bigints, _BigintsDumper)
    adapters.register_dumper(Timestamps, _TimestampsDumper)
    adapters.register_loader("timestamp", Int8BinaryLoader)

    return adapters


class _Context:
    """Where psycopg finds the adapters; not the application's connection."""

    adapters = _adapters()
    connection = None


class Cursor(psycopg.RawCursor[tuple[Any, ...]]):
    """A cursor with these adapters, whatever the application registered on its connection."""

    @property
    def adapters(self) -> AdaptersMap:
        """See `Bigints`, `Timestamps`."""
        return _Context.adapters


#: No name comes twice, whatever of those before is still there.
_numbers = count()

#: By connection: the names of the statements prepared on it.
_prepared: WeakKeyDictionary[Any, dict[str, bytes]] = WeakKeyDictionary()


def run(
    conn: psycopg.Connection[Any], text: str, params: Sequence[object]
) -> list[tuple[Any, ...]]:
    """Run a statement straight through libpq, prepared: no cursor, and one wait.

    A cursor takes 30 us more. Only outside of a transaction.
    """
    names = _prepared.setdefault(conn, {})
    values, formats = _sent(params)

    # Twice, because psycopg drops all prepared statements when a transaction is rolled back.
    for last in (False, True):
        name = _name(conn, names, text)
        result = conn.pgconn.exec_prepared(name, values, formats, Format.BINARY)

        if last or not _is_forgotten(result):
            break

        names.clear()

    return _loaded(result)


def run_together(
    conn: psycopg.Connection[Any], steps: Sequence[tuple[str, Sequence[object]]]
) -> list[list[tuple[Any, ...]]]:
    """Run statements as `run` does, in one transaction and one round trip; the rows of each.

    Each sees what others committed before it began, the first ones' wait for locks included.
    """
    names = _prepared.setdefault(conn, {})
    sent = [(text, _sent(params)) for text, params in steps]

    for last in (False, True):
        called = [(_name(conn, names, text), *values) for text, values in sent]

        try:
            results = _pipelined(conn.pgconn, called)
        except BaseException:
            # In the middle of it the connection is of no use to anybody.
            conn.close()
            raise

        if last or not any(_is_forgotten(result) for result in results):
            break

        names.clear()

    # All or nothing: those after a failed one only say that.
    return [_loaded(result) for result in results]


def _pipelined(pgconn: PGconn, called: Sequence[tuple[bytes, Any, Any]]) -> list[PGresult]:
    pgconn.enter_pipeline_mode()

    for name, values, formats in called:
        pgconn.send_query_prepared(name, values, formats, result_format=Format.BINARY)

    pgconn.pipeline_sync()
    results: list[PGresult] = []

    while (result := _next(pgconn)) is not None and result.status != ExecStatus.PIPELINE_SYNC:
        results.append(result)

    if result is None:
        raise psycopg.OperationalError(pgconn.error_message.decode(errors="replace").strip())

    pgconn.exit_pipeline_mode()

    return results


def _next(pgconn: PGconn) -> PGresult | None:
    """The next statement's result; None where the connection is lost."""
    # Every result is followed by nothing, and so is the end of a connection.
    for _ in range(2):
        while pgconn.flush() or pgconn.is_busy():
            # libpq's own wait would keep the interpreter from other threads.
            _wait(pgconn)

        if (result := pgconn.get_result()) is not None:
            return result

    return None


def _wait(pgconn: PGconn) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(pgconn.socket, selectors.EVENT_READ)
        selector.select(_LOOK_INTERVAL)

    pgconn.consume_input()


def _sent(params: Sequence[object]) -> tuple[list[Any], list[Format]]:
    """Values and their formats; text has no type, so that a number's size makes no difference."""
    values: list[Any] = [
        item.data if isinstance(item, Bigints) else (item if item is None else str(item).encode())
        for item in params
    ]
    formats = [Format.BINARY if isinstance(item, Bigints) else Format.TEXT for item in params]

    return values, formats


def _name(conn: psycopg.Connection[Any], names: dict[str, bytes], text: str) -> bytes:
    if text not in names:
        name = f"oban_{next(_numbers)}".encode()
        _checked(conn.pgconn.prepare(name, text.encode()))
        # Only now: of one that could not be prepared there is nothing to remember.
        names[text] = name

    return names[text]


def _is_forgotten(result: PGresult) -> bool:
    return result.error_field(DiagnosticField.SQLSTATE) == b"26000"


def _loaded(result: PGresult) -> list[tuple[Any, ...]]:
    transformer = Transformer(_Context)
    transformer.set_pgresult(_checked(result))

    return transformer.load_rows(0, result.ntuples, tuple)


def _checked(result: PGresult) -> PGresult:
    if result.status in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
        return result

    if result.error_field(DiagnosticField.SQLSTATE) is None:
        # Of libpq's own making: the connection is lost.
        raise psycopg.OperationalError(result.error_message.decode(errors="replace").strip())

    raise psycopg.errors.error_from_result(result)
