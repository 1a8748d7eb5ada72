"""What was asked of queues, and who is there to follow it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from oban_sync.engine import signals
from oban_sync.engine.session import Tx


def write(
    tx: Tx,
    *,
    name: str,
    queue: str,
    node: str,
    aspect: str,
    value: object,
    by: str | None,
    until: datetime | None,
    payload: dict[str, Any],
) -> None:
    """Store one order over those that it makes void, and send the signal that goes with it.

    Args:
        tx: Where.
        name: The Oban instance.
        queue: The queue, or ``*``.
        node: The node, or ``*``.
        aspect: See `core.controls.Control`.
        value: Likewise.
        by: Who asks.
        until: When it ends by itself.
        payload: The signal.
    """
    tx.tuples(
        "control_write",
        name=name,
        queue=queue,
        node=node,
        aspect=aspect,
        value=json.dumps(value),
        set_by=by,
        until=until,
        channel=tx.channel("signal"),
        # Always short enough to be plain JSON: names have at most 255 characters.
        payload=signals.encode(payload),
        sync=tx.channel("sync"),
    )


def reset(tx: Tx, name: str, queue: str) -> None:
    """Forget what was asked of a queue, or of all by ``*``."""
    tx.tuples("control_reset", name=name, queue=queue, sync=tx.channel("sync"))


@dataclass(frozen=True, slots=True)
class NodeQueue:
    """One queue of a node.

    Attributes:
        queue: Its name.
        limit: Jobs at once.
        paused: Whether it takes no jobs.
        uuid: Identifies its producer.
    """

    queue: str
    limit: int
    paused: bool
    uuid: str


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node that takes part, as the tables tell of it.

    Attributes:
        uuid: Its identity, minted at its start.
        name: Its Oban instance.
        node: What people call it.
        leader: Whether it leads its instance.
        started_at: When it started.
        beat_at: Its last beat.
        queues: What it runs, by name.
        beat_age: Seconds since its last beat, by the database's clock.
        version: Its version of oban_sync. As all that follows None where a node does not say: its
            version is older than that.
        python: Its version of Python.
        pid: Its process id, on ...
        host: ... this machine.
        threads: How many threads its process had, a minute ago or less.
        degraded: Whether it may hear of nothing at the moment, and has to look for jobs and orders.
        workers: The names of all that it can run.
    """

    uuid: str
    name: str
    node: str
    leader: bool
    started_at: datetime
    beat_at: datetime
    queues: list[NodeQueue]
    beat_age: float = 0.0
    version: str | None = None
    python: str | None = None
    pid: int | None = None
    host: str | None = None
    threads: int | None = None
    degraded: bool | None = None
    workers: list[str] | None = None


def list_nodes(tx: Tx) -> list[NodeInfo]:
    """The nodes that take part, oldest first."""
    return [
        NodeInfo(
            uuid,
            name,
            node,
            leader,
            started_at,
            beat_at,
            [NodeQueue(**queue) for queue in json.loads(queues)],
            beat_age,
            workers=workers,
            **_said(info),
        )
        for (
            uuid,
            name,
            node,
            leader,
            started_at,
            beat_at,
            beat_age,
            queues,
            info,
            workers,
        ) in tx.tuples("node_list")
    ]


#: What a node says of itself that is told, and what it has to be.
_TOLD: Mapping[str, type] = {
    "version": str,
    "python": str,
    "pid": int,
    "host": str,
    "threads": int,
    "degraded": bool,
}


def _said(info: str) -> dict[str, Any]:
    """What a node says of itself; anything else that stands in its row is left out."""
    said = json.loads(info)

    if not isinstance(said, dict):
        return {}

    # By type, because a bool is an int.
    return {name: said[name] for name, kind in _TOLD.items() if type(said.get(name)) is kind}
