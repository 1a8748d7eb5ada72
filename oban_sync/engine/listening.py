"""What a producer says of its need to be told of new jobs, and when it can rely on being told."""

from __future__ import annotations

from oban_sync.engine.session import Tx


def listen(tx: Tx, owner: str) -> int:
    """Say that inserts have to notify a producer of its jobs.

    Returns:
        Where to draw the line: whoever inserted jobs without seeing that it listens is a
        transaction of a smaller number. Such a one got its number before it looked.
    """
    _say(tx, owner, listening=True)
    # A statement of its own: only after the other one's commit does everybody see it.
    [(number,)] = tx.tuples("transaction_next")

    return int(number)


def ignore(tx: Tx, owner: str) -> None:
    """Say that they need not. A crash of PostgreSQL may undo it, which only costs notifications."""
    _say(tx, owner, listening=False)


def have_ended(tx: Tx, number: int) -> bool:
    """Whether all transactions of a smaller number have ended."""
    [(oldest,)] = tx.tuples("transaction_oldest")

    return int(oldest) >= number


def _say(tx: Tx, owner: str, *, listening: bool) -> None:
    commit = "on" if listening else "off"
    tx.run("producer_listen", owner=owner, listening=listening, commit=commit)
