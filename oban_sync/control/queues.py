"""What people ask of queues: to pause, resume, start, stop and scale.

What is asked for stands in a row and outlives everybody who follows it: a node that starts later
finds it, and a lost notification costs a beat. The signal that goes with the row is the one that
oban-py and Elixir nodes know; for them it is all there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from oban_sync.control.transactions import in_transaction
from oban_sync.core import controls
from oban_sync.core.checks import check_seconds, check_whole
from oban_sync.core.clock import utc_now
from oban_sync.core.controls import EVERY, Control
from oban_sync.core.errors import ConfigError, InvalidJobError, shown
from oban_sync.core.options import check_name
from oban_sync.engine import orders, overview
from oban_sync.engine.orders import NodeInfo
from oban_sync.engine.overview import Order
from oban_sync.engine.session import Db, Tx

Until = datetime | timedelta | float | int | None

#: Characters of the name of a node, and of who asks: what goes to the nodes has to be short.
MOST_LABEL = 255


def pause_queue(
    db: Db,
    name: str,
    queue: str,
    *,
    node: str | None = None,
    until: Until = None,
    by: str | None = None,
    conn: Any = None,
) -> None:
    """Let nodes take no more jobs of a queue; running ones go on.

    Nodes hear of it within a second, and by their next beat at the latest. It lasts until
    `resume_queue`, also for nodes that start later.

    Args:
        db: Where the tables are.
        name: The Oban instance.
        queue: The queue, whether anybody runs it or not.
        node: Only this node; by default every node.
        until: When it ends by itself: an aware datetime, or seconds or timedelta from now. Nodes
            follow with the next beat, within three seconds.
        by: Who pauses it, for those who wonder; up to 255 characters.
        conn: Do it in this connection's transaction; nodes hear of it when that is committed.

    Raises:
        ConfigError: An argument is wrong.
        DatabaseUnavailableError: PostgreSQL could not be reached; nothing changed, as far as known.
    """
    order = _order(name, queue, node, controls.PAUSED, True, {"action": "pause"}, by, until)
    in_transaction(db, order, conn=conn)


def resume_queue(
    db: Db,
    name: str,
    queue: str,
    *,
    node: str | None = None,
    by: str | None = None,
    conn: Any = None,
) -> None:
    """Let nodes take jobs of a queue again; as `pause_queue`."""
    order = _order(name, queue, node, controls.PAUSED, False, {"action": "resume"}, by)
    in_transaction(db, order, conn=conn)


def pause_all_queues(
    db: Db,
    name: str,
    *,
    node: str | None = None,
    until: Until = None,
    by: str | None = None,
    conn: Any = None,
) -> None:
    """Let nodes take no more jobs of any queue, those included that start later."""
    pause_queue(db, name, EVERY, node=node, until=until, by=by, conn=conn)


def resume_all_queues(
    db: Db, name: str, *, node: str | None = None, by: str | None = None, conn: Any = None
) -> None:
    """Let nodes take jobs of every queue again, also of those that were paused one by one."""
    resume_queue(db, name, EVERY, node=node, by=by, conn=conn)


def scale_queue(
    db: Db,
    name: str,
    queue: str,
    limit: int,
    *,
    node: str | None = None,
    by: str | None = None,
    conn: Any = None,
) -> None:
    """Change how many jobs of a queue may run at once on each node.

    Heard as `pause_queue`. A lower limit is reached as jobs finish. It lasts until the next call,
    over what nodes are configured with.

    Args:
        db: Where the tables are.
        name: The Oban instance.
        queue: The queue.
        limit: Jobs at once on each node, 1 to 10,000.
        node: Only this node; by default every node.
        by: Who scales it.
        conn: Do it in this connection's transaction, as `pause_queue`.

    Raises:
        ConfigError, DatabaseUnavailableError: As `pause_queue`.
    """
    limit = check_whole("limit", limit, 1, controls.MOST_LIMIT)
    payload = {"action": "scale", "limit": limit}
    order = _order(name, _one(queue), node, controls.LIMIT, limit, payload, by)
    in_transaction(db, order, conn=conn)


def start_queue(
    db: Db,
    name: str,
    queue: str,
    limit: int,
    *,
    node: str | None = None,
    paused: bool = False,
    by: str | None = None,
    conn: Any = None,
) -> None:
    """Run a queue that nodes are not configured with, or that was stopped.

    Heard as `pause_queue`, and lasts until `stop_queue`, also for nodes that start later. On a node
    that runs the queue already, it is scaled.

    Args:
        db: Where the tables are.
        name: The Oban instance.
        queue: The queue.
        limit: Jobs at once on each node, 1 to 10,000.
        node: Only this node; by default every node that runs any queues.
        paused: Start it paused.
        by: Who starts it.
        conn: Do it in this connection's transaction, as `pause_queue`.

    Raises:
        ConfigError, DatabaseUnavailableError: As `pause_queue`.
    """
    limit = check_whole("limit", limit, 1, controls.MOST_LIMIT)
    payload: dict[str, Any] = {"action": "start", "limit": limit}

    if paused:
        payload["paused"] = True

    start = _order(name, _one(queue), node, controls.RUNNING, limit, payload, by)
    pause = _order(name, queue, node, controls.PAUSED, True, {"action": "pause"}, by)

    def both(tx: Tx) -> None:
        if paused:
            # Before the start, so that no job is taken in between.
            pause(tx)

        start(tx)

    in_transaction(db, both, conn=conn)


def stop_queue(
    db: Db,
    name: str,
    queue: str,
    *,
    node: str | None = None,
    by: str | None = None,
    conn: Any = None,
) -> None:
    """Run a queue no more; its running jobs get the grace period, and are then handed back.

    Heard as `pause_queue`, and lasts until `start_queue`, also for nodes that start later.

    Args:
        db: Where the tables are.
        name: The Oban instance.
        queue: The queue.
        node: Only this node; by default every node.
        by: Who stops it.
        conn: Do it in this connection's transaction, as `pause_queue`.

    Raises:
        ConfigError, DatabaseUnavailableError: As `pause_queue`.
    """
    order = _order(name, _one(queue), node, controls.RUNNING, False, {"action": "stop"}, by)
    in_transaction(db, order, conn=conn)


def reset_queue(db: Db, name: str, queue: str, *, conn: Any = None) -> None:
    """Forget what was asked of a queue: nodes run it as they are configured again.

    Heard as `pause_queue`, by our nodes only.

    Args:
        db: Where the tables are.
        name: The Oban instance.
        queue: The queue, or ``"*"`` for all, what was asked of all at once included.
        conn: Do it in this connection's transaction, as `pause_queue`.

    Raises:
        ConfigError, DatabaseUnavailableError: As `pause_queue`.
    """
    if queue != EVERY:
        _named(queue)

    in_transaction(db, lambda tx: orders.reset(tx, name, queue), conn=conn)


def list_nodes(db: Db) -> list[NodeInfo]:
    """The nodes that take part, of every instance on these tables, and their queues.

    One that died is among them until its jobs are given back, which takes seconds.

    Raises:
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    with db.session() as tx:
        return orders.list_nodes(tx)


def list_orders(db: Db, name: str) -> list[Order]:
    """What was asked of queues and is not void, in the order in which it was asked for.

    Raises:
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    return overview.list_orders(db, name)


def pause_of(orders: Iterable[Order], queue: str, node: str = EVERY) -> Control | None:
    """Who paused a queue on a node, or on all of them; None where it is not paused there."""
    fitting = [order.control for order in orders if order.node in (EVERY, node)]

    return controls.wanted(fitting, queue, None).pause


def _order(
    name: str,
    queue: str,
    node: str | None,
    aspect: str,
    value: object,
    payload: dict[str, Any],
    by: str | None,
    until: Until = None,
) -> Callable[[Tx], None]:
    """What writes an order that was checked, in a transaction."""
    if queue != EVERY:
        _named(queue)

    node = _label("node", node)
    by = _label("by", by)
    ends_at = _end(until)
    # Only the keys that every kind of node knows: others stop the producers of Elixir's.
    ident = "any" if node is None else f"{name}.{node}"
    payload = {**payload, "ident": ident, "queue": queue}

    return lambda tx: orders.write(
        tx,
        name=name,
        queue=queue,
        node=EVERY if node is None else node,
        aspect=aspect,
        value=value,
        by=by,
        until=ends_at,
        payload=payload,
    )


def _one(queue: object) -> str:
    if queue == EVERY:
        raise ConfigError("queue", f"{shown(queue)} means every queue; give the name of one")

    return _named(queue)


def _named(queue: object) -> str:
    try:
        return check_name("queue", queue)
    except InvalidJobError as error:
        raise ConfigError("queue", error.problem) from None


def _label(option: str, value: object) -> str | None:
    if value is None:
        return None

    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ConfigError(option, f"{shown(value)} is not allowed; give a name")

    if len(value) > MOST_LABEL:
        raise ConfigError(
            option, f"has {len(value):,} characters; give a name of up to {MOST_LABEL}"
        )

    return value


def _end(until: Until) -> datetime | None:
    if until is None:
        return None

    if isinstance(until, datetime):
        if until.utcoffset() is None:
            raise ConfigError("until", f"{until.isoformat()} has no timezone")

        if until <= utc_now():
            raise ConfigError("until", f"{until.isoformat()} is past; give a time to come")

        return until.astimezone(UTC)

    return utc_now() + timedelta(seconds=check_seconds("until", until, least=0.1))
