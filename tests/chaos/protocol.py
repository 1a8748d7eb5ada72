"""So much of PostgreSQL's protocol that a proxy can tell which reply it is to lose."""

from __future__ import annotations

import struct
from collections.abc import Callable

#: Requests of a client before its start packet, which the server answers by a single byte.
SSL_AND_GSS = (80877103, 80877104)


class Trap:
    """Lets PostgreSQL carry out a statement, and its client never hear of it.

    The connection of the first matching statements is cut, when PostgreSQL has committed.

    Args:
        matching: Told the text of every statement that is run.
        times: How many replies are lost.

    Attributes:
        sprung: How many were lost so far.
    """

    def __init__(self, matching: Callable[[str], bool], times: int) -> None:
        self.matching = matching
        self.left = times
        self.sprung = 0


class Frames:
    """Cuts one direction of a connection into PostgreSQL's messages."""

    def __init__(self, *, typed: bool) -> None:
        self.typed = typed
        self.skip = 0
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """The messages that are whole now: their type, and what is in them."""
        skipped = min(self.skip, len(data))
        self.skip -= skipped
        rest = self._rest + data[skipped:]
        found = []

        while len(rest) >= (head := 5 if self.typed else 4):
            size = head - 4 + struct.unpack_from("!i", rest, head - 4)[0]

            if len(rest) < size:
                break

            kind, body, rest = rest[: head - 4], rest[head:size], rest[size:]
            found.append((kind, body))

            if not self.typed and struct.unpack("!i", body[:4])[0] not in SSL_AND_GSS:
                self.typed = True

        self._rest = rest

        return found


class Talk:
    """What is known of one connection's conversation, to tell when a reply is to be lost."""

    def __init__(self) -> None:
        self.losing = False
        self._asked = Frames(typed=False)
        self._answered = Frames(typed=True)
        self._texts: dict[bytes, str] = {}
        self._portals: dict[bytes, str] = {}
        self._marked: Trap | None = None
        self._in_transaction = False

    def asks(self, data: bytes, trap: Trap | None) -> None:
        """Follow what the client sends; `losing` is set once its reply is to be held back."""
        for kind, body in self._asked.feed(data):
            if kind == b"" and struct.unpack("!i", body[:4])[0] in SSL_AND_GSS:
                self._answered.skip += 1
            elif kind == b"P":
                name, text, _ = body.split(b"\0", 2)
                self._texts[name] = text.decode(errors="replace")
            elif kind == b"B":
                portal, name, _ = body.split(b"\0", 2)
                self._portals[portal] = self._texts.get(name, "")
            elif kind == b"E":
                self._runs(self._portals.get(body.split(b"\0", 1)[0], ""), trap)
            elif kind == b"Q":
                self._runs(body.rstrip(b"\0").decode(errors="replace"), trap)

    def answers(self, data: bytes) -> bool:
        """Follow what the server sends; whether the reply that is to be lost is complete."""
        done = False

        for kind, body in self._answered.feed(data):
            if kind == b"Z":
                self._in_transaction = body != b"I"
                done = done or (self.losing and not self._in_transaction)

        return done

    def lost(self) -> None:
        """Count the reply that was lost."""
        if self._marked is not None:
            self._marked.sprung += 1

    def _runs(self, text: str, trap: Trap | None) -> None:
        if self._marked is None and trap is not None and trap.left > 0 and trap.matching(text):
            trap.left -= 1
            self._marked = trap

        if self._marked is None:
            return

        if not self._in_transaction or text.upper().startswith("COMMIT"):
            self.losing = True
        elif text.upper().startswith("ROLLBACK") and " TO " not in text.upper():
            self._marked.left += 1
            self._marked = None
