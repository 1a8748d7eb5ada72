"""What a process saw, kept outside of the database: a JSON object a line, on the monotonic clock.

That clock is one for all processes of a machine, so the lines of several ledgers can be put in
order. Needs nothing but the standard library: oban-py's nodes write one too.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Ledger:
    """Appends to a file; every line is with the kernel when `note` returns, whoever dies next.

    Args:
        path: The file, made when missing.
        node: Who writes.
    """

    def __init__(self, path: str | Path, node: str) -> None:
        self._node = node
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, event: str, **fields: Any) -> float:
        """Write one line; the time it bears, in seconds."""
        at = time.monotonic()
        line = {"at": at, "node": self._node, "event": event, **fields}
        os.write(self._file, json.dumps(line, default=repr).encode() + b"\n")

        return at


@dataclass(frozen=True, slots=True)
class Event:
    """A line of a ledger.

    Attributes:
        at: Seconds on the monotonic clock.
        node: Who wrote it.
        name: What happened.
        fields: The rest of the line.
    """

    at: float
    node: str
    name: str
    fields: dict[str, Any]

    def __getitem__(self, field: str) -> Any:
        return self.fields[field]


class Reader:
    """Reads a ledger that is being written, a bit more each time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def more(self) -> list[Event]:
        """The lines written since the last call; one that is not whole yet is left for the next."""
        if not self._path.exists():
            return []

        with self._path.open("rb") as file:
            file.seek(self._read)
            data = file.read()

        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)

        return [_event(line) for line in whole.splitlines()]


def _event(line: bytes) -> Event:
    fields = json.loads(line)

    return Event(fields.pop("at"), fields.pop("node"), fields.pop("event"), fields)
