"""Emptying the tables, for tests that cannot roll back."""

from __future__ import annotations

import re
from typing import Any

from oban_sync.core.errors import ConfigError
from oban_sync.engine import drains
from oban_sync.testing.binding import oban_of

_TEST = re.compile(r"(?<![a-z])tests?(?![a-z])", re.IGNORECASE)


def reset_oban(oban: Any = None, *, force: bool = False) -> int:
    """Delete all jobs of an Oban's schema, and cron entries, pauses and counted rates with them.

    For tests that cannot roll back what they did: those of several processes, or of a browser.
    Tests that share a database, as those of pytest-xdist may, take away each other's jobs: give
    each process a database or a prefix of its own.

    Args:
        oban: The Oban, or its name; by default the one that is bound, or that of the name "Oban".
        force: Do so though nothing says that this is a database for tests: neither ``test`` in its
            name or the prefix, as a word, nor the Oban's `testing`.

    Returns:
        How many jobs there were.

    Raises:
        ConfigError: Nothing says that it is a database for tests.
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    desk = oban_of(oban)

    with desk.db.transaction() as tx:
        database = drains.database(tx)

        if not (force or desk.testing or _TEST.search(database) or _TEST.search(desk.prefix)):
            raise ConfigError(
                "oban",
                f"the database {database!r} does not look like one for tests, so its jobs are kept;"
                " construct Oban(testing=...), or call reset_oban(force=True) if you mean it",
            )

        return drains.empty(tx)
