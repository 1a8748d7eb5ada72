"""What signals to queues may say: whom they mean, and of which queue."""

from __future__ import annotations

import os

from oban_sync.core import controls
from oban_sync.core.errors import ConfigError
from oban_sync.core.options import check_name


def idents_of(name: str, node: str, *, told_as: str | None = None) -> frozenset[str]:
    """What signals say that mean this node, or every one.

    Args:
        name: The Oban instance.
        node: What people call the node.
        told_as: What Oban Web is told that the instance is called, if that is another name. It may
            be told of the process as well.
    """
    names, nodes = {name, told_as or name}, {node, f"{node}.{os.getpid()}"}

    return frozenset({"any", *(f"{each}.{place}" for each in names for place in nodes)})


def queue_of(queue: object, aspect: str) -> str:
    """The queue that a wish is about.

    Raises:
        ValueError: It is none, or every one where that cannot be.
    """
    if not isinstance(queue, str):
        raise ValueError("no queue is named")

    if queue == controls.EVERY:
        if aspect != controls.PAUSED:
            raise ValueError("only pausing and resuming means every queue")

        return queue

    try:
        check_name("queue", queue)
    except ConfigError as error:
        raise ValueError(error.problem) from None

    return queue
