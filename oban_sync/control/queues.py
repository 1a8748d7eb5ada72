"""What people ask of queues: to pause, resume, start, stop and scale.

What is asked for stands in a row and outlives everybody who follows it: a node that starts later
finds it, and a lost notification costs a beat. The signal that goes with the row is the one that
oban-py and Elixir nodes know; for them it is all there is.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from oban_sync.core import controls
from oban_sync.core.checks import check_seconds, check_whole
from oban_sync.core.clock import utc_now
from oban_sync.core.errors import ConfigError, InvalidJobError, shown
from oban_sync.core.options import check_name
from oban_sync.engine import orders
from oban_sync.engine.orders import NodeInfo
from oban_sync.engine.retry import conflicts_retried
from oban_sync.engine.session import Db

Until = datetime | timedelta | float | int | None


def pause_queue(
    db: Db,
    name: str,
    queue: str,
    *,
    node: str | None = None,
    until: Until = None,
    by: str | None = None,
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
        by: Who pauses it, for those who wonder.

    Raises:
        ConfigError: An argument is wrong.
        DatabaseUnavailableError: PostgreSQL could not be reached; nothing changed, as far as known.
    """
    _order(db, name, queue, node, controls.PAUSED, True, {"action": "pause"}, by, until)


def resume_queue(
    db: Db, name: str, queue: str, *, node: str | None = None, by: str | None = None
) -> None:
    """Let nodes take jobs of a queue again; as `pause_queue`."""
    _order(db, name, queue, node, controls.PAUSED, False, {"action": "resume"}, by)


def pause_all_queues(
    db: Db, name: str, *, node: str | None = None, until: Until = None, by: str | None = None
) -> None:
    """Let nodes take no more jobs of any queue, those included that start later."""
    pause_queue(db, name, controls.EVERY, node=node, until=until, by=by)


def resume_all_queues(db: Db, name: str, *, node: str | None = None, by: str | None = None) -> None:
    """Let nodes take jobs of every queue again, also of those that were paused one by one."""
    resume_queue(db, name, controls.EVERY, node=node, by=by)


def scale_queue(
    db: Db, name: str, queue: str, limit: int, *, node: str | None = None, by: str | None = None
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

    Raises:
        ConfigError, DatabaseUnavailableError: As `pause_queue`.
    """
    limit = check_whole("limit", limit, 1, controls.MOST_LIMIT)
    payload = {"action": "scale", "limit": limit}
    _order(db, name, _one(queue), node, controls.LIMIT, limit, payload, by)


def start_queue(
    db: Db,
    name: str,
    queue: str,
    limit: int,
    *,
    node: str | None = None,
    paused: bool = False,
    by: str | None = None,
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

    Raises:
        ConfigError, DatabaseUnavailableError: As `pause_queue`.
    """
    limit = check_whole("limit", limit, 1, controls.MOST_LIMIT)
    payload: dict[str, Any] = {"action": "start", "limit": limit}

    if paused:
        # Before the start, so that no job is taken in between.
        pause_queue(db, name, _one(queue), node=node, by=by)
        payload["paused"] = True

    _order(db, name, _one(queue), node, controls.RUNNING, limit, payload, by)


def stop_queue(
    db: Db, name: str, queue: str, *, node: str | None = None, by: str | None = None
) -> None:
    """Run a queue no more; its running jobs get the grace period, and are then handed back.

    Heard as `pause_queue`, and lasts until `start_queue`, also for nodes that start later.

    Args:
        db: Where the tables are.
        name: The Oban instance.
        queue: The queue.
        node: Only this node; by default every node.
        by: Who stops it.

    Raises:
        ConfigError, DatabaseUnavailableError: As `pause_queue`.
    """
    _order(db, name, _one(queue), node, controls.RUNNING, False, {"action": "stop"}, by)


def reset_queue(db: Db, name: str, queue: str) -> None:
    """Forget what was asked of a queue: nodes run it as they are configured again.

    Heard as `pause_queue`, by our nodes only.

    Args:
        db: Where the tables are.
        name: The Oban instance.
        queue: The queue, or ``"*"`` for all, what was asked of all at once included.

    Raises:
        ConfigError, DatabaseUnavailableError: As `pause_queue`.
    """
    if queue != controls.EVERY:
        _named(queue)

    with db.session() as tx:
        orders.reset(tx, name, queue)


def list_nodes(db: Db) -> list[NodeInfo]:
    """The nodes that take part, of every instance on these tables, and their queues.

    One that died is among them until its jobs are given back, which takes seconds.

    Raises:
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    with db.session() as tx:
        return orders.list_nodes(tx)


def _order(
    db: Db,
    name: str,
    queue: str,
    node: str | None,
    aspect: str,
    value: object,
    payload: dict[str, Any],
    by: str | None,
    until: Until = None,
) -> None:
    if queue != controls.EVERY:
        _named(queue)

    node = _label("node", node)
    ends_at = _end(until)
    # Only the keys that every kind of node knows: others stop the producers of Elixir's.
    ident = "any" if node is None else f"{name}.{node}"
    payload = {**payload, "ident": ident, "queue": queue}

    def write() -> None:
        with db.session() as tx:
            orders.write(
                tx,
                name=name,
                queue=queue,
                node=controls.EVERY if node is None else node,
                aspect=aspect,
                value=value,
                by=_label("by", by),
                until=ends_at,
                payload=payload,
            )

    conflicts_retried(write)


def _one(queue: object) -> str:
    if queue == controls.EVERY:
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
