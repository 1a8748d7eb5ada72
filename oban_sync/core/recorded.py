"""The values jobs record, in the form Oban, oban-py and Oban Web share.

They keep them in ``meta.return`` as base64 (without padding) of the Erlang external term format.
Only the JSON-like part of that format is written, and the parts that could name atoms, functions or
processes are refused when reading, except the atoms true, false, nil and what stands for a string.

The format: https://www.erlang.org/doc/apps/erts/erl_ext_dist.html
"""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

#: Most bytes of one recorded value, encoded; also the bound for unpacking a compressed one.
MOST_BYTES = 8_000_000


class _Term:
    """The tags of the format."""

    VERSION = 131
    COMPRESSED = 80
    NEW_FLOAT = 70
    SMALL_INTEGER = 97
    INTEGER = 98
    FLOAT = 99
    ATOM = 100
    SMALL_TUPLE = 104
    NIL = 106
    STRING = 107
    LIST = 108
    BINARY = 109
    SMALL_BIG = 110
    LARGE_BIG = 111
    SMALL_ATOM = 115
    MAP = 116
    ATOM_UTF8 = 118
    SMALL_ATOM_UTF8 = 119


_CONSTANTS: dict[bytes, Any] = {b"nil": None, b"null": None, b"true": True, b"false": False}


def encode(value: object) -> str:
    """Encode a JSON value that `payload.encode_any` accepts."""
    out = bytearray([_Term.VERSION])
    _write(value, out)

    return base64.b64encode(out).decode().rstrip("=")


def decode(text: str) -> Any:
    """Read a recorded value.

    Raises:
        ValueError: It is not in the format, uses a term that is no data, or is too large.
    """
    data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)

    try:
        if data[0] != _Term.VERSION:
            raise ValueError(f"not the external term format: it starts with {data[0]}")

        if data[1] == _Term.COMPRESSED:
            size = int.from_bytes(data[2:6], "big")

            # To zlib, a size of 0 would be no limit.
            if not 0 < size <= MOST_BYTES:
                raise ValueError(f"{size} bytes when unpacked, {MOST_BYTES} are allowed")

            data = data[:1] + zlib.decompressobj().decompress(data[6:], size)

        value, _end = _read(data, 1)
    except (IndexError, struct.error, zlib.error, RecursionError) as error:
        raise ValueError(f"the term is damaged: {error}") from error

    return value


def _write(value: object, out: bytearray) -> None:
    if value is None or value is True or value is False:
        name = {None: b"nil", True: b"true", False: b"false"}[value]
        out += struct.pack(">BB", _Term.SMALL_ATOM, len(name)) + name
    elif isinstance(value, int):
        _write_integer(int(value), out)
    elif isinstance(value, float):
        out += struct.pack(">Bd", _Term.NEW_FLOAT, value)
    elif isinstance(value, str):
        data = value.encode()
        out += struct.pack(">BI", _Term.BINARY, len(data)) + data
    elif isinstance(value, (list, tuple)):
        if value:
            out += struct.pack(">BI", _Term.LIST, len(value))

            for item in value:
                _write(item, out)

        out.append(_Term.NIL)
    elif hasattr(value, "items"):
        out += struct.pack(">BI", _Term.MAP, len(value))  # type: ignore[arg-type]

        for key, item in value.items():
            _write(key, out)
            _write(item, out)
    else:
        raise TypeError(f"{type(value).__name__} cannot be recorded")


def _write_integer(value: int, out: bytearray) -> None:
    if 0 <= value <= 255:
        out += struct.pack(">BB", _Term.SMALL_INTEGER, value)
    elif -(2**31) <= value < 2**31:
        out += struct.pack(">Bi", _Term.INTEGER, value)
    else:
        magnitude = abs(value)
        data = magnitude.to_bytes((magnitude.bit_length() + 7) // 8, "little")
        sign = int(value < 0)
        out += (
            struct.pack(">BBB", _Term.SMALL_BIG, len(data), sign)
            if len(data) < 256
            else struct.pack(">BIB", _Term.LARGE_BIG, len(data), sign)
        )
        out += data


def _read(data: bytes, at: int) -> tuple[Any, int]:
    tag = data[at]
    at += 1

    match tag:
        case _Term.SMALL_INTEGER:
            return data[at], at + 1
        case _Term.INTEGER:
            return struct.unpack_from(">i", data, at)[0], at + 4
        case _Term.NEW_FLOAT:
            return struct.unpack_from(">d", data, at)[0], at + 8
        case _Term.FLOAT:
            return float(data[at : at + 31].rstrip(b"\0")), at + 31
        case _Term.BINARY:
            size = struct.unpack_from(">I", data, at)[0]
            return _taken(data, at + 4, size).decode("utf-8"), at + 4 + size
        case _Term.STRING:
            size = struct.unpack_from(">H", data, at)[0]
            return list(_taken(data, at + 2, size)), at + 2 + size
        case _Term.NIL:
            return [], at
        case _Term.LIST:
            return _read_list(data, at)
        case _Term.MAP:
            return _read_map(data, at)
        case _Term.SMALL_TUPLE:
            return _read_items(data, at + 1, data[at])
        case _Term.SMALL_BIG | _Term.LARGE_BIG:
            return _read_big(data, at, small=tag == _Term.SMALL_BIG)
        case _Term.ATOM | _Term.ATOM_UTF8:
            size = struct.unpack_from(">H", data, at)[0]
            return _constant(_taken(data, at + 2, size)), at + 2 + size
        case _Term.SMALL_ATOM | _Term.SMALL_ATOM_UTF8:
            size = data[at]
            return _constant(_taken(data, at + 1, size)), at + 1 + size
        case _:
            raise ValueError(f"term {tag} is not data")


def _read_items(data: bytes, at: int, count: int) -> tuple[list[Any], int]:
    if count > len(data):
        raise ValueError("the term is cut short")

    items = []

    for _ in range(count):
        item, at = _read(data, at)
        items.append(item)

    return items, at


def _read_list(data: bytes, at: int) -> tuple[list[Any], int]:
    items, at = _read_items(data, at + 4, struct.unpack_from(">I", data, at)[0])

    # A proper list ends with the empty list.
    if data[at] != _Term.NIL:
        raise ValueError("an improper list is not data")

    return items, at + 1


def _read_map(data: bytes, at: int) -> tuple[dict[Any, Any], int]:
    pairs, at = _read_items(data, at + 4, 2 * struct.unpack_from(">I", data, at)[0])
    names = [key if isinstance(key, str) else str(key) for key in pairs[::2]]

    return dict(zip(names, pairs[1::2], strict=True)), at


def _read_big(data: bytes, at: int, *, small: bool) -> tuple[int, int]:
    size = data[at] if small else struct.unpack_from(">I", data, at)[0]
    at += 1 if small else 4
    magnitude = int.from_bytes(_taken(data, at + 1, size), "little")

    return -magnitude if data[at] else magnitude, at + 1 + size


def _taken(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise ValueError("the term is cut short")

    return data[at : at + size]


def _constant(name: bytes) -> Any:
    # Other atoms stand for strings, as map keys written by Elixir do.
    return _CONSTANTS[name] if name in _CONSTANTS else name.decode("utf-8")
