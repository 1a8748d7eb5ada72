"""Values in PostgreSQL's own binary form, and the shortest way to run a statement.

For the few statements of the hot path: text of arrays and of timestamps costs PostgreSQL a tenth of
a turn, and follows the session's DateStyle. A timestamp is the number of microseconds since 2000.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import repeat
from struct import Struct
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg.adapt import AdaptersMap, Dumper, Transformer
from psycopg.pq import DiagnosticField, ExecStatus, Format
from psycopg.pq.abc import PGresult
from psycopg.types.numeric import Int8BinaryLoader

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


#: By connection: the names of the statements prepared on it.
_prepared: WeakKeyDictionary[Any, dict[str, bytes]] = WeakKeyDictionary()


def run(
    conn: psycopg.Connection[Any], text: str, params: Sequence[object]
) -> list[tuple[Any, ...]]:
    """Run a statement straight through libpq, prepared: no cursor, and one wait.

    A cursor takes 30 us more. Only outside of a transaction.
    """
    names = _prepared.setdefault(conn, {})
    values: list[Any] = [
        item.data if isinstance(item, Bigints) else (item if item is None else str(item).encode())
        for item in params
    ]
    formats = [Format.BINARY if isinstance(item, Bigints) else Format.TEXT for item in params]

    # Twice, because psycopg drops all prepared statements when a transaction is rolled back.
    for last in (False, True):
        if text not in names:
            names[text] = f"oban_{len(names)}".encode()
            _checked(conn.pgconn.prepare(names[text], text.encode()))

        result = conn.pgconn.exec_prepared(names[text], values, formats, Format.BINARY)

        if last or result.error_field(DiagnosticField.SQLSTATE) != b"26000":
            break

        names.clear()

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
