"""Emptying the tables, for tests that cannot roll back."""

from __future__ import annotations

import re
from typing import Any

from oban_sync.core.errors import ConfigError, ObanError
from oban_sync.engine import callers, drains
from oban_sync.engine.session import is_busy
from oban_sync.testing.binding import oban_of

#: Seconds to wait for rows that others hold.
_PATIENCE = 10.0

_TEST = re.compile(r"(?<![a-z])tests?(?![a-z])", re.IGNORECASE)


def reset_oban(oban: Any = None, *, force: bool = False) -> int:
    """Delete all jobs of an Oban's schema, and cron entries, pauses and counted rates with them.

    For tests that cannot roll back what they did: those of several processes, or of a browser.
    Tests that share a database, as those of pytest-xdist may, take away each other's jobs: give
    each process a database or a prefix of its own. Waits up to ten seconds for rows that others
    hold.

    Args:
        oban: The Oban, or its name; by default the one that is bound, or that of the name "Oban".
        force: Do so though nothing says that this is a database for tests: neither ``test`` in its
            name or the prefix, as a word, nor the ``testing`` that the Oban was constructed with.

    Returns:
        How many jobs there were.

    Raises:
        ConfigError: Nothing says that it is a database for tests.
        ObanError: Rows were held for longer, as by a transaction that a test has left open.
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    desk = oban_of(oban)

    with desk.db.transaction() as tx:
        database = drains.database(tx)

        # A mode that the test is in says nothing of the database.
        if not (
            force or desk.config.testing or _TEST.search(database) or _TEST.search(desk.prefix)
        ):
            raise ConfigError(
                "oban",
                f"the database {database!r} does not look like one for tests, so its jobs are kept;"
                " construct Oban(testing=...), or call reset_oban(force=True) if you mean it",
            )

        # In the test's own transaction the setting would outlive this.
        if callers.bound_to(desk, wholly=True) is None:
            drains.limit_waiting(tx, _PATIENCE)

        try:
            return drains.empty(tx)
        except Exception as error:
            if not is_busy(error):
                raise

            raise ObanError(
                f"the jobs of {database!r} could not be deleted, because another transaction holds "
                f"some for more than {_PATIENCE:g} s; end what a test has left open, as sessions, "
                "connections, threads and processes, before resetting"
            ) from error
