"""How many searches a process of the dashboard makes at once: they take the application's
connections, and a filter may keep one for seconds.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from werkzeug.exceptions import ServiceUnavailable

from oban_sync.web import replies

#: Searches at once.
MOST = 2

#: Seconds that one waits for others, and after which who was sent away may come again.
PATIENCE = 2.0

_turns = threading.BoundedSemaphore(MOST)


@contextmanager
def turn() -> Iterator[None]:
    """Search while the block lasts, after those that came before.

    Raises:
        ServiceUnavailable: That took too long; with the page that says so.
    """
    if not _turns.acquire(timeout=PATIENCE):
        response = replies.page(
            "problem",
            status=503,
            heading="Others look for jobs at the moment",
            text="It takes them long. Try again in a moment.",
            looks=True,
        )
        response.headers["Retry-After"] = str(max(1, round(PATIENCE)))

        raise ServiceUnavailable(response=response)

    try:
        yield
    finally:
        _turns.release()
