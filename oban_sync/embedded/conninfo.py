"""``embedded:PATH`` as a conninfo."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oban_sync.core.errors import EmbeddedServerError
from oban_sync.embedded import Server

#: How such a conninfo begins.
SCHEME = "embedded:"


def server_of(conninfo: str) -> Server | None:
    """The server that a conninfo asks for; None when it is an ordinary one."""
    if not conninfo.startswith(SCHEME):
        return None

    path = conninfo.removeprefix(SCHEME)

    if not path.strip():
        raise EmbeddedServerError("embedded: names no folder; give embedded:PATH")

    return Server(path)


@contextmanager
def reachable(conninfo: str, *, create: bool = True) -> Iterator[str]:
    """A conninfo that PostgreSQL understands, valid inside the block.

    Args:
        conninfo: Any conninfo; for an embedded one the server runs during the block.
        create: Make a server that is not there yet.

    Raises:
        EmbeddedServerError: The server could not be started, or is not there.
    """
    server = server_of(conninfo)

    if server is None:
        yield conninfo

        return

    if not create and not Path(server.path).exists():
        raise EmbeddedServerError(f"there is no database in {server.path} yet")

    with server as dsn:
        yield dsn
