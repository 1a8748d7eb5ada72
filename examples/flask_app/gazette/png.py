"""Pictures, in nothing but Python: slow enough to be worth a process queue.

An application would take Pillow, which also knows more than 8-bit PNGs without interlacing.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

SIGNATURE = b"\x89PNG\r\n\x1a\n"

#: Most pixels of a picture: what its header says decides how much memory it takes.
MOST_PIXELS = 2_000_000

#: Bytes of a pixel, by the colour type: grey, RGB, palette, grey with alpha, RGB with alpha.
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


class NotSupportedError(Exception):
    """Not a PNG, a broken one, or one of a kind that this does not know."""


@dataclass(frozen=True, slots=True)
class Image:
    """An RGB picture, row by row."""

    width: int
    height: int
    rows: list[bytes]

    def fitted(self, size: int) -> Image:
        """The picture with no side longer than `size`; itself when it is that small already."""
        scale = size / max(self.width, self.height)

        if scale >= 1:
            return self

        width, height = max(1, round(self.width * scale)), max(1, round(self.height * scale))
        rows = []

        for y in range(height):
            sources = self.rows[self._span(y, height, self.height)]
            row = bytearray()

            for x in range(width):
                columns = self._span(x, width, self.width)
                count = len(sources) * (columns.stop - columns.start)

                for channel in range(3):
                    part = slice(columns.start * 3 + channel, columns.stop * 3, 3)
                    row.append(sum(sum(source[part]) for source in sources) // count)

            rows.append(bytes(row))

        return Image(width, height, rows)

    @staticmethod
    def _span(index: int, parts: int, whole: int) -> slice:
        """The pixels that one pixel of the smaller picture is the mean of."""
        start = index * whole // parts

        return slice(start, max(start + 1, (index + 1) * whole // parts))


def decode(content: bytes) -> Image:
    """Read a PNG.

    Raises:
        NotSupportedError: It is none, broken, too large, or of an unusual kind.
    """
    try:
        chunks = list(_chunks(content))
        width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    except (struct.error, IndexError):
        raise NotSupportedError("this is not a PNG") from None

    if depth != 8 or kind not in CHANNELS or interlaced:
        raise NotSupportedError("only PNGs of 8 bits without interlacing are known here")

    if not 0 < width * height <= MOST_PIXELS:
        raise NotSupportedError(f"{width} x {height} is too large")

    channels = CHANNELS[kind]
    expected = (width * channels + 1) * height

    try:
        # Bounded, for a few bytes may unpack to gigabytes.
        packed = b"".join(data for name, data in chunks if name == b"IDAT")
        raw = zlib.decompressobj().decompress(packed, expected)
    except zlib.error as error:
        raise NotSupportedError(f"the picture is broken: {error}") from None

    if len(raw) != expected:
        raise NotSupportedError("the picture is broken: there is a part missing")

    palette = next((data for name, data in chunks if name == b"PLTE"), b"")

    if kind == 3 and len(palette) < 3 * (max(raw) + 1):
        palette = palette.ljust(768, b"\0")

    rows = [_rgb(row, kind, palette) for row in _unfiltered(raw, width * channels, channels)]

    return Image(width, height, rows)


def encode(image: Image) -> bytes:
    """Write a PNG."""
    header = struct.pack(">IIBBBBB", image.width, image.height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in image.rows))

    return SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    )


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not content.startswith(SIGNATURE):
        raise NotSupportedError("this is not a PNG")

    at = len(SIGNATURE)

    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        yield content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        at += length + 12


def _unfiltered(raw: bytes, length: int, channels: int) -> Iterator[bytes]:
    above = bytes(length)

    for start in range(0, len(raw), length + 1):
        kind, row = raw[start], bytearray(raw[start + 1 : start + 1 + length])

        if kind > 4:
            raise NotSupportedError("the picture is broken: a row has an unknown filter")

        for index in range(length) if kind else ():
            left = row[index - channels] if index >= channels else 0

            match kind:
                case 1:
                    guess = left
                case 2:
                    guess = above[index]
                case 3:
                    guess = (left + above[index]) // 2
                case _:
                    corner = above[index - channels] if index >= channels else 0
                    guess = _paeth(left, above[index], corner)

            row[index] = (row[index] + guess) & 255

        above = bytes(row)
        yield above


def _paeth(left: int, up: int, corner: int) -> int:
    estimate = left + up - corner

    return min((left, up, corner), key=lambda value: abs(estimate - value))


def _rgb(row: bytes, kind: int, palette: bytes) -> bytes:
    match kind:
        case 0:
            return bytes(value for value in row for _ in range(3))
        case 3:
            return b"".join(palette[value * 3 : value * 3 + 3] for value in row)
        case 4:
            return bytes(value for value in row[::2] for _ in range(3))
        case 6:
            rgb = bytearray(len(row) // 4 * 3)

            for channel in range(3):
                rgb[channel::3] = row[channel::4]

            return bytes(rgb)
        case _:
            return row
