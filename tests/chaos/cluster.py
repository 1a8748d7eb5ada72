"""Nodes on one database: what is done to them, what they noted, and the evidence of it."""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from random import Random
from threading import Event as Signal
from typing import Any

import psycopg

from tests.chaos.evidence import CHAOS, Change, Evidence
from tests.chaos.ledger import Event, Ledger, Reader
from tests.chaos.process import Node

#: Seconds between looks at what the nodes noted.
LOOK = 0.02

#: Leases and intervals as short as their logic allows, for scenarios that do not time promises.
FAST: dict[str, Any] = {
    "refresher": {"interval": 0.5, "max_age": 4.0, "unlocked_max_age": 1.5},
    "leadership": {"interval": 0.5, "ttl": 2.5},
    "lifeline": {"interval": 0.3},
    "stager": {"interval": 0.3},
}

#: The defaults, spelled out for those who reckon with them.
USUAL: dict[str, Any] = {
    "refresher": {"interval": 3.0, "max_age": 60.0, "unlocked_max_age": 6.0},
    "leadership": {"interval": 2.5, "ttl": 8.0},
    "lifeline": {"interval": 2.0},
}


class Cluster:
    """Nodes on one database.

    Args:
        dsn: The database, with the tables.
        folder: For ledgers and logs.
        random: Where all that is left to chance comes from.
        pace: The options of the nodes' loops.
        history: Whether to keep the changes of every row.
    """

    def __init__(
        self,
        dsn: str,
        folder: Path,
        *,
        random: Random,
        pace: dict[str, Any] | None = None,
        history: bool = True,
    ) -> None:
        self.dsn = dsn
        self.folder = folder
        self.random = random
        self.pace = FAST if pace is None else pace
        self.nodes: list[Node] = []
        self.inserted: list[int] = []
        self.ledger = Ledger(folder / "chaos.jsonl", CHAOS)
        self._history = history
        self._readers = [Reader(folder / "chaos.jsonl")]
        self._events: dict[str, list[Event]] = defaultdict(list)
        self._tokens = 0

        if history:
            text = Path(__file__).with_name("history.sql").read_text("utf-8")
            self.execute(text.replace("/* schema */", ""))

    def start(
        self,
        *,
        dsn: str | None = None,
        queues: dict[str, int] | None = None,
        wait: bool = True,
        minute: tuple[float, float] | None = None,
        sample: float = 0.1,
        command: list[str] | None = None,
        **options: Any,
    ) -> Node:
        """Start one more node.

        Args:
            dsn: Its way to the database, a proxy for instance.
            queues: By default ``{"alpha": 10}``.
            wait: Return when it runs.
            minute: Seconds that a minute of its cron entries takes, and from when on; see `clock`.
            sample: Seconds between notes of whether it leads.
            command: Another program than our own.
            options: More of the Oban's.
        """
        name = f"n{len(self.nodes) + 1}"
        path = self.folder / f"{name}.jsonl"
        options = {
            "conninfo": dsn or self.dsn,
            "queues": {"alpha": 10} if queues is None else queues,
            "node": name,
            "shutdown_grace_period": 1.0,
            **self.pace,
            **options,
        }
        spec = {"name": name, "ledger": str(path), "options": options}
        spec |= {"sample": sample, "minute": minute}
        self._readers.append(Reader(path))
        own = [sys.executable, "-m", "tests.chaos.node"]
        node = Node(self, name, spec, command or own)
        self.nodes.append(node)

        if wait:
            self.wait(lambda: node.events("started"), within=30.0)

        return node

    @property
    def alive(self) -> list[Node]:
        """The nodes whose process has not been seen to end."""
        return [node for node in self.nodes if not node.gone]

    @property
    def leader(self) -> Node | None:
        """The node that said last that it leads."""
        return next((node for node in self.alive if node.leads), None)

    # The database

    def execute(self, text: str, *params: Any) -> list[tuple[Any, ...]]:
        """Run a statement on a connection of its own; its rows, if it gives any."""
        with psycopg.connect(self.dsn, autocommit=True, connect_timeout=5) as conn:
            cursor = conn.execute(text, params or None)

            return cursor.fetchall() if cursor.description else []

    def insert(self, worker: str, *args: dict[str, Any], **columns: Any) -> list[int]:
        """Insert a job for each dict of args, all in one transaction; their ids."""
        columns = {"queue": "alpha", "max_attempts": 20, **columns}
        rows = self.execute(
            "INSERT INTO oban_jobs (worker, args, queue, max_attempts)"
            " SELECT %s, value, %s, %s"
            " FROM jsonb_array_elements(%s::jsonb) WITH ORDINALITY ORDER BY ordinality"
            " RETURNING id",
            *(f"chaos.{worker}", columns["queue"], columns["max_attempts"], json.dumps(args)),
        )
        ids = [row[0] for row in rows]
        self.inserted += ids

        return ids

    def unfinished(self, jobs: list[int]) -> int:
        """How many of the jobs have not come to their end."""
        [(count,)] = self.execute(
            "SELECT count(*) FROM oban_jobs WHERE id = ANY (%s)"
            " AND state::text NOT IN ('completed', 'discarded', 'cancelled')",
            jobs,
        )

        return count

    def states(self) -> dict[str, int]:
        """How many jobs are in each state."""
        return dict(self.execute("SELECT state::text, count(*) FROM oban_jobs GROUP BY 1"))

    def row(self, job: int) -> dict[str, Any]:
        """The row of a job."""
        [(row,)] = self.execute("SELECT to_jsonb(j) FROM oban_jobs j WHERE id = %s", job)

        return row

    # What the nodes note

    def events(self, *names: str, node: str | None = None) -> list[Event]:
        """What was noted under these names, by time."""
        for reader in self._readers:
            for event in reader.more():
                self._events[event.name].append(event)

        found = [
            event
            for name in names
            for event in self._events[name]
            if node is None or event.node == node
        ]

        return sorted(found, key=lambda event: event.at)

    def wait(self, condition: Callable[[], Any], *, within: float, reason: str = "") -> Any:
        """Ask until the answer is true; fail after so many seconds, or when a node dies."""
        deadline = time.monotonic() + within
        pause = Signal()

        while not (answer := self._asked(condition)):
            self.reap()
            late = time.monotonic() > deadline
            assert not late, f"{reason or 'it never became true'} within {within} s{self._logs()}"
            pause.wait(LOOK)

        return answer

    def reap(self) -> list[Node]:
        """Notice which nodes ended by themselves; those that should not have fail the scenario."""
        ended = [node for node in self.alive if node.process.poll() is not None]

        for node in ended:
            node.noticed()
            assert node.expendable, f"{node.name} ended with {node.process.poll()}:\n{node.said()}"

        return ended

    def idle(self, seconds: float) -> None:
        """Let time pass, for scenarios in which nothing is to happen meanwhile."""
        until = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() >= until, within=seconds + 30)

    def settle(self, *, within: float = 30.0) -> None:
        """Wait until every job that was inserted here has come to its end."""
        self.wait(
            lambda: not self.unfinished(self.inserted),
            within=within,
            reason="not all jobs came to their end",
        )

    def evidence(self) -> Evidence:
        """All that is known now."""
        self.reap()
        self.events()
        changes: list[Change] = []

        if self._history:
            # The trigger's clock is the machine's, and so is that of the ledgers.
            ahead = time.time() - time.monotonic()
            rows = self.execute(
                "SELECT seq, extract(epoch FROM at)::float8, operation, job, state, attempt, fence,"
                " owner, coalesce(rescued, 0), coalesce(errors, 0) FROM chaos.history ORDER BY seq"
            )
            changes = [Change(row[0], row[1] - ahead, *row[2:]) for row in rows]

        return Evidence(
            [event for events in self._events.values() for event in events],
            changes,
            dict(self.execute("SELECT id, state::text FROM oban_jobs")),
            list(self.inserted),
        )

    # Faults

    def fault(self, node: Node, *, locked: bool) -> int:
        """Note that a node cannot renew its lease from now on.

        Args:
            locked: Whether PostgreSQL still sees its session, so that the longer age counts.
        """
        ages = self.pace["refresher"]
        age = ages["max_age"] if locked else ages["unlocked_max_age"]
        self._tokens += 1
        # Its last beat may have been up to two intervals ago.
        lease = max(0.0, age - 2 * ages["interval"])
        self.ledger.note("fault", of=node.name, lease=lease, token=self._tokens)

        return self._tokens

    def fault_over(self, token: int) -> None:
        """Note that the node is free again."""
        self.ledger.note("fault_over", token=token)

    def end(self) -> None:
        """See that no process is left."""
        for node in self.nodes:
            node.end()

    def _asked(self, condition: Callable[[], Any]) -> Any:
        # The database may be away: that is what many scenarios are about.
        try:
            return condition()
        except psycopg.OperationalError:
            return None

    def _logs(self) -> str:
        return "".join(f"\n--- {node.name}:\n{node.said()}" for node in self.nodes[-4:])
