"""How many connections to PostgreSQL a process needs at the most."""

from __future__ import annotations

from dataclasses import dataclass

from oban_sync.core.config import OFF, Config

#: Connections the loops share at the most, however many queues there are.
MOST_LOOP_CONNECTIONS = 5


@dataclass(frozen=True, slots=True)
class Budget:
    """The connections of one process, by what they are for.

    Attributes:
        application: What enqueueing and the application's own statements share; none until used.
        loops: What producers and duties share.
        reserved: One each for LISTEN, for beats, and for the lease of the leader.
        children: One for each child of a process queue that enqueues.
    """

    application: int
    loops: int = 0
    reserved: int = 0
    children: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.application + self.loops + self.reserved + self.children

    def __str__(self) -> str:
        parts = {
            "application": self.application,
            "queues": self.loops,
            "reserved": self.reserved,
            "children": self.children,
        }

        return " + ".join(f"{number} {name}" for name, number in parts.items() if number)


def loop_connections(queues: int) -> int:
    """The size of the pool that the loops share."""
    # Two besides the producers' own: a duty at work must not keep the others waiting.
    return min(queues + 2, MOST_LOOP_CONNECTIONS)


def budget(config: Config, *, runs: bool) -> Budget:
    """The most connections of a process.

    Args:
        config: Its options.
        runs: It runs the queues, and does not only enqueue.
    """
    given = getattr(config.pool, "max_size", None)
    application = config.pool_size if given is None else int(given)

    if not runs or not config.queues:
        return Budget(application)

    return Budget(
        application,
        loop_connections(len(config.queues)),
        1 + (config.listen_conninfo != OFF) + config.leadership.enabled,
        sum(queue.limit for queue in config.queues if queue.executor.kind == "process"),
    )
