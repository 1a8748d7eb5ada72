"""What travels over NOTIFY: reading whatever other nodes, or anybody, put there."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

#: PostgreSQL carries less than 8,000 bytes; what they unpack to is bounded too.
MOST_BYTES = 1_000_000


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
