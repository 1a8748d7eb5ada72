"""Where something is done: in a transaction of its own, or in one of the caller's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from oban_sync.engine import bound
from oban_sync.engine.retry import conflicts_retried
from oban_sync.engine.session import Db, Tx

Result = TypeVar("Result")


def in_transaction(db: Db, work: Callable[[Tx], Result], *, conn: Any = None) -> Result:
    """Do something that is to be there as a whole, or not at all.

    Args:
        db: Where the tables are.
        work: Does it; done again if a transaction of its own lost a race with another one.
        conn: Do it in this connection's transaction, which is neither committed nor tried again. By
            default in one of its own, committed when this returns.

    Raises:
        ConfigError: `conn` is not a connection.
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    if conn is not None:
        with bound.tx_on(conn, db.schema) as tx:
            return work(tx)

    def own() -> Result:
        with db.transaction() as tx:
            return work(tx)

    return conflicts_retried(own)
