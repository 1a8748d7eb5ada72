"""What travels over NOTIFY: writing what every Oban understands, reading whatever anybody sends."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Mapping
from typing import Any

from oban_sync.core import payload

#: PostgreSQL carries less than 8,000 bytes ...
MOST_SENT_BYTES = 7_900

#: ... and what they unpack to is bounded too.
MOST_BYTES = 1_000_000


def encode(values: Mapping[str, Any]) -> str:
    """Write a payload that every Oban reads: plain JSON, or base64 of gzipped JSON when it is big.

    Raises:
        ValueError: It is not JSON, or too big even when packed; split it.
    """
    # Strict, because one payload that is no JSON makes nodes of Oban for Elixir deaf for good.
    return carried(payload.encode(values, "payload", most_bytes=MOST_BYTES))


def carried(text: str) -> str:
    """A payload in the form in which PostgreSQL carries it: as it is, or packed when it is big.

    Raises:
        ValueError: It is too big even when packed.
    """
    if len(text.encode()) <= MOST_SENT_BYTES:
        return text

    # Never with the Z: that Oban puts before it since version 2.21: oban-py cannot read that.
    packed = base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()

    if len(packed) > MOST_SENT_BYTES:
        raise ValueError(
            f"a payload of {len(packed):,} bytes when packed cannot be sent, "
            f"{MOST_SENT_BYTES:,} are allowed"
        )

    return packed


def decode(text: str) -> dict[str, Any]:
    """Read a payload of any Oban: plain JSON, or base64 of gzipped JSON with or without ``Z:``.

    Raises:
        ValueError: It is none of these, not an object, or too large when unpacked.
    """
    if text.startswith(("Z:", "H4sI")):
        packed = text.removeprefix("Z:")
        unzip = zlib.decompressobj(wbits=31)

        try:
            raw = unzip.decompress(
                base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True), MOST_BYTES
            )
        except zlib.error as error:
            raise ValueError(f"the payload cannot be unpacked: {error}") from error

        if unzip.unconsumed_tail:
            raise ValueError(f"the payload unpacks to more than {MOST_BYTES} bytes")

        text = raw.decode()

    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("the payload is nested too deep") from error

    if not isinstance(value, dict):
        raise ValueError(f"the payload is a {type(value).__name__}, not an object")

    return value
