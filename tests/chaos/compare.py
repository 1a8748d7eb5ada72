"""The same faults for oban_sync and for oban-py, each with the settings that it comes with."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import oban_sync
from tests.chaos.checker import leaders_by_moment
from tests.chaos.cluster import Cluster
from tests.chaos.process import Node
from tests.chaos.servers import database
from tests.support.oban_py_peer import VERSION, UnavailableError, peer_python
from tests.support.private import private_server

#: Seconds after which an orphaned job is no longer waited for.
PATIENCE = 480.0

POISONS = (
    "a blank worker name",
    "NUL in an error",
    "an error that cannot be shown",
    "Snooze(timedelta)",
    "sys.exit",
)


@dataclass
class Contender:
    """A library and how its nodes are started.

    Attributes:
        name: For people.
        command: Its node's program; None for our own.
        installs: Whether its first node makes the tables.
    """

    name: str
    command: list[str] | None = None
    installs: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def cluster(self, server: Any, seed: str) -> Iterator[ContenderCluster]:
        """Its nodes, on a database of their own."""
        with (
            tempfile.TemporaryDirectory(prefix="oban-sync-chaos-") as folder,
            database(server, installed=not self.installs) as dsn,
        ):
            cluster = ContenderCluster(self, dsn, Path(folder), seed)

            try:
                yield cluster
            finally:
                cluster.end()


class ContenderCluster(Cluster):
    """A cluster of a contender's nodes, which have the settings it comes with."""

    def __init__(self, contender: Contender, dsn: str, folder: Path, seed: str) -> None:
        super().__init__(dsn, folder, random=Random(seed), pace={}, history=False)
        self._contender = contender

    def start(self, **options: Any) -> Node:
        """Start one more node, the first of which may have to make the tables."""
        command = self._contender.command

        if command is not None and self._contender.installs and not self.nodes:
            command = [*command, "install"]

        return super().start(command=command, **self._contender.options, **options)


def kill_9(cluster: Cluster) -> str:
    """Kill one of three nodes while it runs jobs; after how long they run elsewhere."""
    for _ in range(3):
        cluster.start()

    cluster.insert("Slow", *[{"seconds": 3.0}] * 24)
    victim = cluster.wait(
        lambda: next((node for node in cluster.alive if len(node.running) >= 2), None), within=60
    )
    at = victim.kill()
    left = set(victim.running)

    def again() -> dict[int, float]:
        return {
            event["job"]: event.at - at
            for event in cluster.events("begin")
            if event["job"] in left and event.at > at
        }

    with suppress(AssertionError):
        cluster.wait(lambda: len(again()) == len(left), within=PATIENCE)

    found = again()

    if len(found) < len(left):
        return f"{len(left) - len(found)} of {len(left)} not within {PATIENCE:g} s"

    return f"{max(found.values()):.1f} s"


def leader_overlap(cluster: Cluster) -> str:
    """Start three nodes five seconds apart; at how many moments not exactly one led."""
    cluster.start()
    cluster.wait(lambda: cluster.leader, within=60)

    for _ in range(2):
        cluster.idle(5.0)
        cluster.start()

    since = time.monotonic()
    cluster.idle(60.0)
    leaders = leaders_by_moment(cluster.evidence(), 0.1, since, time.monotonic() - 1.0)
    wrong = [count for count in leaders if count != 1]

    if not wrong:
        return f"never, in {len(leaders)} samples"

    return f"in {len(wrong)} of {len(leaders)} samples, {max(wrong)} at once"


def poison(cluster: Cluster) -> str:
    """Put one bad job before twenty good ones, for every kind on a node of its own; what stops."""
    nodes, good = {}, {}

    for number, kind in enumerate(POISONS):
        queue = f"poison{number}"
        nodes[kind] = cluster.start(queues={queue: 5})
        nodes[kind].expendable = True

        if kind == "a blank worker name":
            cluster.execute("INSERT INTO oban_jobs (worker, queue) VALUES (' ', %s)", queue)
        else:
            cluster.insert("Poison", {"kind": kind}, queue=queue, max_attempts=1)

        good[kind] = cluster.insert("Quick", *[{}] * 10, queue=queue)

    # And some that come when the harm is done.
    cluster.idle(3.0)

    for number, kind in enumerate(POISONS):
        good[kind] += cluster.insert("Quick", *[{}] * 10, queue=f"poison{number}")

    with suppress(AssertionError):
        cluster.wait(
            lambda: not any(cluster.unfinished(jobs) for jobs in good.values()), within=20.0
        )

    stopped = [
        f"{kind} (ends the process)" if nodes[kind].gone else kind
        for kind, jobs in good.items()
        if cluster.unfinished(jobs)
    ]

    if not stopped:
        return f"none of {len(POISONS)} queues"

    return f"{len(stopped)} of {len(POISONS)} queues: {', '.join(stopped)}"


ROWS: dict[str, Callable[[Cluster], str]] = {
    "kill -9 of one of three nodes: all its jobs run elsewhere after": kill_9,
    "three nodes started 5 s apart: not exactly one leader": leader_overlap,
    "one bad job in a queue stops": poison,
}


def table(seed: str) -> str:
    """Run everything; a table in Markdown.

    Raises:
        UnavailableError: There is no oban-py on this machine.
    """
    program = str(Path(__file__).with_name("oban_py_node.py"))
    contenders = [
        Contender(f"oban_sync {oban_sync.__version__}"),
        Contender(f"oban-py {VERSION}", [str(peer_python()), program], installs=True),
    ]

    def measured(contender: Contender, scenario: Callable[[Cluster], str]) -> str:
        with contender.cluster(server, seed) as cluster:
            return scenario(cluster)

    with (
        private_server(max_connections=300) as server,
        # They mostly wait, so they may do it side by side.
        ThreadPoolExecutor(len(ROWS) * len(contenders)) as pool,
    ):
        cells = {
            (name, contender.name): pool.submit(measured, contender, scenario)
            for name, scenario in ROWS.items()
            for contender in contenders
        }
        lines = [
            f"| fault | {' | '.join(contender.name for contender in contenders)} |",
            f"| --- |{' --- |' * len(contenders)}",
            *(
                f"| {name} | "
                + " | ".join(cells[name, contender.name].result() for contender in contenders)
                + " |"
                for name in ROWS
            ),
        ]

    return "\n".join(lines)


__all__ = ["UnavailableError", "table"]
