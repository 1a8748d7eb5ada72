"""Pictures: read, made smaller, written; and what is none is told from what is one."""

from __future__ import annotations

import struct
import zlib

import pytest
from gazette import png
from gazette.png import Image, NotSupportedError


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def made_of(
    rows: bytes, *, width: int = 2, height: int = 1, kind: int = 2, more: bytes = b""
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)

    return png.SIGNATURE + chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(rows))


def test_what_is_written_is_read() -> None:
    image = Image(3, 2, [bytes(range(9)), bytes(range(100, 109))])

    assert png.decode(png.encode(image)) == image


@pytest.mark.parametrize(
    ("rows", "kind", "expected"),
    [
        (b"\0\1\2\3\4\5\6", 2, [1, 2, 3, 4, 5, 6]),
        (b"\0\7\x09", 0, [7, 7, 7, 9, 9, 9]),
        (b"\0\7\xff\x09\xff", 4, [7, 7, 7, 9, 9, 9]),
        (b"\0\1\2\3\xff\4\5\6\xff", 6, [1, 2, 3, 4, 5, 6]),
        (b"\0\1\0", 3, [4, 5, 6, 1, 2, 3]),
    ],
)
def test_pictures_of_every_kind_of_pixel_are_read(
    rows: bytes, kind: int, expected: list[int]
) -> None:
    content = made_of(rows, kind=kind, more=chunk(b"PLTE", bytes(range(1, 7))))

    assert png.decode(content).rows == [bytes(expected)]


@pytest.mark.parametrize(
    ("kind", "second", "expected"),
    [
        (1, [1, 1, 1, 1, 1, 1], [1, 1, 1, 2, 2, 2]),
        (2, [1, 1, 1, 1, 1, 1], [11, 21, 31, 41, 51, 61]),
        (3, [1, 1, 1, 1, 1, 1], [6, 11, 16, 24, 31, 39]),
        (4, [1, 1, 1, 1, 1, 1], [11, 21, 31, 41, 51, 61]),
    ],
)
def test_filters_of_rows_are_undone(kind: int, second: list[int], expected: list[int]) -> None:
    first = [10, 20, 30, 40, 50, 60]
    image = png.decode(made_of(bytes([0, *first, kind, *second]), height=2))

    assert image.rows == [bytes(first), bytes(expected)]


def test_a_picture_is_made_smaller_by_means_of_its_pixels() -> None:
    image = Image(4, 2, [bytes([0, 0, 0, 100, 100, 100] * 2)] * 2)

    assert image.fitted(2) == Image(2, 1, [bytes([50] * 6)])
    assert image.fitted(4) is image


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GIF89a",
        png.SIGNATURE,
        png.SIGNATURE + b"rubbish",
        made_of(b"\0\1\2\3"),
        made_of(b"\x09\1\2\3\4\5\6"),
        made_of(b"\0\1\2\3\4\5\6", kind=5),
        made_of(b"", width=60_000, height=60_000),
        made_of(b"\0\1\2\3\4\5\6", width=0),
        made_of(b"\0\1\2\3\4\5\6")[:-20],
        png.SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)),
    ],
)
def test_what_cannot_be_read_is_told(content: bytes) -> None:
    with pytest.raises(NotSupportedError):
        png.decode(content)


def test_a_small_file_cannot_unpack_to_a_large_picture() -> None:
    with pytest.raises(NotSupportedError, match="missing"):
        png.decode(made_of(b"\0" * 10_000_000, width=1_000, height=1_000)[:200])
