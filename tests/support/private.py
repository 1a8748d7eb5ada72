"""A PostgreSQL server of one test's own, for breaking."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from oban_sync.embedded import Server


@contextmanager
def private_server(**settings: Any) -> Iterator[Server]:
    """A running server in a folder that is removed afterwards.

    Not below pytest's own folders: under root the server runs as another user, who may not enter
    those.
    """
    folder = tempfile.mkdtemp(prefix="oban-sync-test-")
    server = Server(folder, settings=settings)

    try:
        server.start()

        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
