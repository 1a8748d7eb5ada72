"""What a node costs that has nothing to do: transactions, memory, processor, connections.

A private server writes every statement with its transaction to its log, so that the count is exact
and says which node it was: PostgreSQL's own statistics are up to ten seconds late, and know nothing
of nodes. The log also gives the statements by name. ``--dsn`` and ``--commit-delay`` do not count
here.

  ours        a node with everything on, at 1 and at 10 queues: the leader, then with a follower
              beside it, which is counted by itself
  peers       one node of each, alone, at as many queues

Memory is that of the whole process: RSS as `ps` shows it, and USS, what nobody shares with it and
would be free without it. CPU is in percent of one core, wake-ups are times that a thread waited and
came back.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

import oban_sync
from benchmarks import peers, rig
from oban_sync.embedded import Server

#: Time, process, client with its port, database, transaction.
PREFIX = "%n %p %r %d %v "

_LINE = re.compile(
    r"(?P<time>\d+\.\d+) \d+ \S+\((?P<port>\d+)\) (?P<database>\S+) (?P<transaction>\d+/\d+) "
    r"LOG:  (?:statement|execute [^:]*|fastpath[^:]*): (?P<text>.*)"
)

#: What PostgreSQL and the driver call parameters, and white space.
_PARAMETER = re.compile(r"\$\d+|%\(\w+\)s")
_SPACE = re.compile(r"\s+")

_SOCKET = re.compile(r"socket:\[(\d+)\]")

#: Seconds after the start in which nothing counts: a node has much to do when it comes, and keeps
#: the connections that it needed for it for a while.
SETTLING = 45.0
SHORT_SETTLING = 6.0

#: What an idle node may cost at most, whatever the number of its queues.
GOALS = {
    "transactions_per_second": (1.3, "transactions/s"),
    "rss_mb": (45.0, "MB"),
    "cpu_percent": (0.5, "% CPU"),
    "connections": (4, "connections"),
}

#: Jobs at once in each queue.
LIMIT = 10


class Process:
    """A process, seen through /proc; so only on Linux."""

    def __init__(self, pid: int) -> None:
        self._path = Path("/proc") / str(pid)

    def memory(self) -> tuple[float, float]:
        """RSS and USS in megabytes."""
        lines = (self._path / "smaps_rollup").read_text().splitlines()
        sizes = {
            name: int(rest.split()[0]) / 1024
            for name, _, rest in (line.partition(":") for line in lines[1:])
        }

        return sizes["Rss"], sizes["Private_Clean"] + sizes["Private_Dirty"]

    def cpu_seconds(self) -> float:
        """What all its threads ran."""
        return sum(int(text.split()[0]) for text in self._of_threads("schedstat")) / 1e9

    def wakeups(self) -> int:
        """How often a thread waited for something and came back."""
        return sum(
            int(line.split()[1])
            for text in self._of_threads("status")
            for line in text.splitlines()
            if line.startswith("voluntary_ctxt_switches")
        )

    def ports(self) -> set[int]:
        """The local ports of its TCP connections."""
        inodes = {
            found[1]
            for descriptor in (self._path / "fd").iterdir()
            if (found := _SOCKET.match(_target(descriptor)))
        }
        lines = [
            line.split()
            for name in ("tcp", "tcp6")
            for line in (self._path / "net" / name).read_text().splitlines()[1:]
        ]

        return {int(fields[1].rpartition(":")[2], 16) for fields in lines if fields[9] in inodes}

    def _of_threads(self, name: str) -> Iterator[str]:
        for thread in (self._path / "task").iterdir():
            try:
                yield (thread / name).read_text()
            except OSError:
                # It ended since.
                continue


def _target(descriptor: Path) -> str:
    try:
        return os.readlink(descriptor)
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a node cost over a while.

    Attributes:
        transactions: Per second.
        statements: Per second, by name.
        rss: Megabytes.
        uss: Megabytes.
        cpu: Percent of a core.
        wakeups: Per second.
        connections: Names of its connections, with how many there are of each.
    """

    transactions: float
    statements: dict[str, float]
    rss: float
    uss: float
    cpu: float
    wakeups: float
    connections: dict[str, int]


def main() -> None:
    """Measure, and print the table."""
    given = options()

    with _server() as (dsn, log), rig.database(dsn) as bench:
        known = rig.facts(bench)
        rig.say(str(known))
        found, missing = peers.ready(bench, peers.names(given), python=given.peer_python)
        figures = [
            figure
            for queues in given.queues
            for figure in [
                *of_ours(given, bench, log, queues),
                *(of_peer(given, bench, log, queues, peer) for peer in found),
            ]
        ]

    texts = [shown(figures), *([told(figures)] if given.statements else []), *missing]
    rig.finish(given, known, "idle", [*figures, *goals(given, figures)], "\n\n".join(texts))


def options() -> Namespace:
    """The command line."""
    parser = rig.parser("idle", __doc__)
    parser.add_argument(
        "--seconds",
        type=rig.positive,
        default=30,
        metavar="N",
        help="how long each node is watched (default: 30)",
    )
    parser.add_argument(
        "--queues",
        type=rig.positives,
        default=[1, 10],
        metavar="N,N",
        help="queues of a node (default: 1,10)",
    )
    parser.add_argument("--short", action="store_true", help="10 seconds each, at 10 queues")
    parser.add_argument("--statements", action="store_true", help="list the statements by name")
    peers.add_options(parser)
    given = parser.parse_args()
    given.settling = SETTLING

    if given.short:
        given.seconds, given.queues, given.settling = 10, [10], SHORT_SETTLING

    if given.smoke:
        given.seconds, given.queues, given.settling = 1, [1], 0.5

    return given


@contextmanager
def _server() -> Iterator[tuple[str, Path]]:
    directory = Path(tempfile.mkdtemp(prefix="oban-sync-bench-"))
    settings = {"log_statement": "all", "log_line_prefix": PREFIX, "log_destination": "stderr"}

    try:
        with Server(str(directory), settings=settings) as url:
            yield url, directory / "server.log"
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def of_ours(given: Namespace, dsn: str, log: Path, queues: int) -> list[dict[str, Any]]:
    """What a leader costs, and what a follower does beside it."""
    told_of = {"dsn": dsn, "schema": rig.SCHEMA, "queues": queues, "limit": LIMIT}

    with ExitStack() as stack:
        first = Process(stack.enter_context(rig.serving("idling", told_of)).pid)
        [leader] = watched([first], given, dsn, log)
        figures = [_figure("leader", queues, leader)]
        second = Process(stack.enter_context(rig.serving("idling", told_of)).pid)
        [_, follower] = watched([first, second], given, dsn, log)

        return [*figures, _figure("follower", queues, follower)]


def of_peer(
    given: Namespace, dsn: str, log: Path, queues: int, peer: peers.Contender
) -> dict[str, Any]:
    """What a peer costs that is alone."""
    with peer.serving(limit=LIMIT, queues=queues) as serving:
        [cost] = watched([Process(serving.pid)], given, dsn, log)

    return _figure(peer.name, queues, cost)


def _figure(contender: str, queues: int, cost: Cost) -> dict[str, Any]:
    rig.say(
        f"{contender:9} {queues:2} queues  {cost.transactions:5.2f} transactions/s, "
        f"{cost.rss:5.1f} MB, {cost.cpu:5.2f} % CPU, {sum(cost.connections.values())} connections"
    )

    return {
        "contender": contender,
        "queues": queues,
        "transactions_per_second": round(cost.transactions, 2),
        "rss_mb": round(cost.rss, 1),
        "uss_mb": round(cost.uss, 1),
        "cpu_percent": round(cost.cpu, 2),
        "wakeups_per_second": round(cost.wakeups, 1),
        "connections": sum(cost.connections.values()),
        "connections_by_name": cost.connections,
        "statements_per_second": {key: round(each, 3) for key, each in cost.statements.items()},
    }


def watched(nodes: list[Process], given: Namespace, dsn: str, log: Path) -> list[Cost]:
    """What each of these nodes costs, all of them being there."""
    time.sleep(given.settling)
    used = [(node.cpu_seconds(), node.wakeups()) for node in nodes]
    began, started = time.time(), time.monotonic()
    time.sleep(given.seconds)
    ended, seconds = time.time(), time.monotonic() - started
    used = [
        (node.cpu_seconds() - cpu, node.wakeups() - wakeups)
        for node, (cpu, wakeups) in zip(nodes, used, strict=True)
    ]
    names = _connections(dsn)
    database = str(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"])
    sent = list(_sent(log, began, ended, database))
    known = _names()
    costs = []

    for node, (cpu, wakeups) in zip(nodes, used, strict=True):
        ports = node.ports()
        mine = [found for found in sent if int(found["port"]) in ports]
        # One that was only for a moment is not seen; what is left over would belong to nobody.
        statements = Counter(_named(found["text"], known) for found in mine)
        rss, uss = node.memory()
        costs.append(
            Cost(
                len({found["transaction"] for found in mine}) / seconds,
                {name: count / seconds for name, count in statements.most_common()},
                rss,
                uss,
                cpu / seconds * 100,
                wakeups / seconds,
                dict(Counter(names[port] for port in ports & names.keys())),
            )
        )

    owned = set().union(*(node.ports() for node in nodes))

    if strangers := [found for found in sent if int(found["port"]) not in owned]:
        texts = {_named(found["text"], known) for found in strangers}
        rig.say(f"{len(strangers)} statements of connections closed since: {', '.join(texts)}")

    return costs


def _connections(dsn: str) -> dict[int, str]:
    """Names of the database's connections by the client's port."""
    other = psycopg.conninfo.make_conninfo(dsn, dbname="postgres")

    with psycopg.connect(other) as conn:
        rows = conn.execute(
            "SELECT client_port, application_name FROM pg_stat_activity "
            "WHERE client_port > 0 AND pid <> pg_backend_pid()"
        ).fetchall()

    return dict(rows)


def _sent(log: Path, began: float, ended: float, database: str) -> Iterator[dict[str, str]]:
    """The statements in a while of a server's log."""
    entry = ""

    for line in [*log.read_text("utf-8", errors="replace").splitlines(), "0.0 the end"]:
        # What goes on over several lines is indented by a tab.
        if line.startswith("\t"):
            entry += f" {line.strip()}"
            continue

        found = _LINE.match(entry)
        entry = line

        if found and found["database"] == database and began <= float(found["time"]) < ended:
            yield found.groupdict()


def _names() -> dict[str, str]:
    """The library's statements, as they are seen in a log: the file by its text."""
    queries = Path(oban_sync.__file__).parent / "queries"
    found = {}

    for path in queries.glob("*.sql"):
        lines = path.read_text("utf-8").splitlines()
        text = " ".join(line for line in lines if not line.lstrip().startswith("--"))
        found[_plain(text.replace("/* schema */", f'"{rig.SCHEMA}".'))] = path.stem

    return found


def _plain(text: str) -> str:
    return _SPACE.sub(" ", _PARAMETER.sub("?", text)).strip().rstrip(";")


def _named(text: str, known: dict[str, str]) -> str:
    plain = _plain(text)

    # COMMIT is anybody's.
    return (known.get(plain) if " " in plain else None) or plain[:40] or "(empty)"


def shown(figures: list[dict[str, Any]]) -> str:
    """The table."""
    heads = [
        "node",
        "queues",
        "transactions/s",
        "statements/s",
        "RSS MB",
        "USS MB",
        "CPU %",
        "wake-ups/s",
        "connections",
    ]
    rows = [
        [
            figure["contender"],
            str(figure["queues"]),
            f"{figure['transactions_per_second']:.2f}",
            f"{sum(figure['statements_per_second'].values()):.2f}",
            f"{figure['rss_mb']:.1f}",
            f"{figure['uss_mb']:.1f}",
            f"{figure['cpu_percent']:.2f}",
            f"{figure['wakeups_per_second']:.1f}",
            str(figure["connections"]),
        ]
        for figure in figures
    ]

    return rig.table(heads, rows)


def told(figures: list[dict[str, Any]]) -> str:
    """Statements and connections by name."""
    rows = [
        [figure["contender"], str(figure["queues"]), name, f"{each:.2f}"]
        for figure in figures
        for name, each in [
            *figure["statements_per_second"].items(),
            *(
                (f"connection {name}", count)
                for name, count in figure["connections_by_name"].items()
            ),
        ]
    ]

    return rig.table(["node", "queues", "statement or connection", "per second, or how many"], rows)


def goals(given: Namespace, figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The figures of ours that are held against goals."""
    return [
        rig.goal(
            f"idle {figure['contender']}, {figure['queues']} queues, {unit}",
            figure[key],
            at_most=most,
        )
        for figure in figures
        if figure["contender"] in ("leader", "follower")
        for key, (most, unit) in GOALS.items()
        # So soon after the start connections are kept that are not needed.
        if not (given.short and key == "connections")
    ]


if __name__ == "__main__":
    rig.run(main)
