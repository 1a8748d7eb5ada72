"""What is well and what is not: with an Oban's options, its database, and its jobs.

Everything is only looked at. A question that cannot be answered is a check that says why; no
trouble of the database is an exception here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from oban_sync.control.report import FAIL, OK, WARN, Check, Report
from oban_sync.core import registry
from oban_sync.core.budget import Budget, budget
from oban_sync.core.config import OFF, Config
from oban_sync.core.errors import ObanError
from oban_sync.core.serving import Decision, Facts, decided
from oban_sync.engine import checkup
from oban_sync.engine.checkup import HolderRow, NodeRow, QueueRow, RefusedError, TableRow
from oban_sync.engine.session import Tx

#: Seconds for which a transaction may be open before it is told of.
LONG_TRANSACTION = 300.0

#: Transactions since the snapshot of a standby or a slot before it is told of.
OLD_SNAPSHOT = 1_000_000

#: Seconds that two clocks may differ by.
MOST_SKEW = 2.0

#: Seconds that jobs may execute without a living node before it is told of; by then they should
#: have been rescued.
MOST_ORPHANED = 30.0

#: Dead rows, for each living one, before they are told of; and how many there have to be.
DEAD_SHARE = 2.0
MANY_DEAD = 50_000

#: The share of the server's connections that may be planned for.
FULL = 0.8

#: Milliseconds below which a statement's timeout is shorter than our own statements may take.
SHORT_TIMEOUT = 10_000

#: Names in a list before it is cut off.
MOST_NAMES = 5


def examine(
    config: Config,
    conninfo: str,
    *,
    web: bool = False,
    autostart: bool | None = None,
    processes: int = 1,
) -> Report:
    """Look at everything that can be looked at; takes seconds, and changes nothing.

    Args:
        config: An Oban's options.
        conninfo: Where its database is; an ordinary one, also where it was given embedded:PATH.
        web: It is a web application's, whose queues may start in the processes that serve it.
        autostart: Whether they do so by themselves, as `core.serving.decided` has it.
        processes: How many of its processes connect.
    """
    plan = _Plan(config, processes, embedded=not web or autostart is not False)

    return Report(
        (
            *(_in_web_servers(config, autostart) if web else ()),
            *_in_database(plan, conninfo),
        )
    )


@dataclass(frozen=True, slots=True)
class _Plan:
    """How an application is to run.

    Attributes:
        config: Its options.
        processes: How many.
        embedded: Each runs its queues; else one more does.
    """

    config: Config
    processes: int
    embedded: bool

    @property
    def connections(self) -> int:
        """All that it may need."""
        workers = 1 if self.config.queues and not self.embedded else 0

        return self.processes * self.each.total + workers * budget(self.config, runs=True).total

    @property
    def each(self) -> Budget:
        """What each process may need."""
        return budget(self.config, runs=self.embedded)

    def __str__(self) -> str:
        plural = "process" if self.processes == 1 else "processes"
        text = f"{self.processes} {plural} of up to {self.each.total} ({self.each})"

        if not self.config.queues or self.embedded:
            return text

        worker = budget(self.config, runs=True)

        return f"{text} and a worker process of up to {worker.total} ({worker})"


def _in_web_servers(config: Config, autostart: bool | None) -> Iterator[Check]:
    """Where queues would start."""
    servers = {
        "flask run": Facts(server="flask run"),
        "gunicorn": Facts(server="gunicorn"),
        "gunicorn, with hooks": Facts(server="gunicorn", asked=True),
        "uWSGI": Facts(server="uWSGI", forks=True),
        "uWSGI, lazy-apps": Facts(server="uWSGI"),
        "mod_wsgi, embedded": Facts(server="mod_wsgi", shared=True),
    }
    plan = {name: _decided(facts, config, autostart) for name, facts in servers.items()}

    if not any(decision.start for decision in plan.values()):
        plan = {"any server": plan["gunicorn"]}

    # Of servers that nobody may use here, none is worth a warning.
    for name, decision in plan.items():
        yield Check(f"under {name}", OK, f"{decision.effect}: {decision.reason}")


def _decided(facts: Facts, config: Config, autostart: bool | None) -> Decision:
    return decided(
        facts,
        autostart=autostart,
        queues=bool(config.queues),
        testing=config.testing is not None,
    )


def _in_database(plan: _Plan, conninfo: str) -> Iterator[Check]:
    try:
        with checkup.visit(conninfo, plan.config.prefix) as tx:
            yield from _connected(tx, plan, conninfo)
    except ObanError as error:
        yield Check("database", FAIL, str(error), "nothing further could be asked")


def _connected(tx: Tx, plan: _Plan, conninfo: str) -> Iterator[Check]:
    config = plan.config
    pooled = checkup.is_pooled(tx)

    first: dict[str, Callable[[], Iterable[Check]]] = {
        "server": lambda: _server(tx),
        "pooler": lambda: _pooler(pooled, config),
        "listen": lambda: _listen(tx, config, conninfo),
        "connections": lambda: _connections(tx, plan, pooled=pooled),
        "vacuum": lambda: _vacuum(tx),
        "tables": lambda: _tables(tx, config),
    }
    then: dict[str, Callable[[], Iterable[Check]]] = {
        "rights": lambda: _rights(tx, config),
        "nodes": lambda: _nodes(checkup.nodes(tx), config),
        "queues": lambda: _queues(checkup.queues(tx)),
        "workers": lambda: _workers(tx),
        "orphans": lambda: _orphans(tx),
    }
    last = OK

    for name, ask in first.items():
        for check in _answers(tx, name, ask):
            last = check.status

            yield check

    # That was whether the tables are there, of which the rest is asked.
    if last == OK:
        for name, ask in then.items():
            yield from _answers(tx, name, ask)


def _answers(tx: Tx, name: str, ask: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """The answers to a question, or why there is none.

    Raises:
        DatabaseUnavailableError: The connection is lost, and so are all further questions.
    """
    try:
        with checkup.asked(tx):
            yield from list(ask())
    except RefusedError as error:
        # Whoever may not look into the tables cannot work with them.
        yield Check(name, FAIL if name == "tables" else WARN, f"could not be asked: {error}")
    except ObanError as error:
        if checkup.is_lost(tx):
            raise

        yield Check(name, FAIL, str(error))


def _server(tx: Tx) -> Iterator[Check]:
    row, ahead = checkup.server(tx)
    where = f"PostgreSQL {row.version_text}, database {row.database}, role {row.role}"

    if row.read_only:
        yield Check(
            "server", FAIL, f"{where}: it takes no writes", "connect to the primary, not a standby"
        )
    elif row.isolation != "read committed":
        yield Check(
            "server",
            WARN,
            f"{where}: transactions are {row.isolation} by default",
            "oban_sync sets its own; transactions of yours that enqueue may have to be repeated",
        )
    elif row.synchronous_commit == "off":
        yield Check(
            "server",
            WARN,
            f"{where}: synchronous_commit is off",
            "a crash of PostgreSQL loses the last jobs; turn it on where that matters",
        )
    elif 0 < row.statement_timeout < SHORT_TIMEOUT:
        yield Check(
            "server",
            WARN,
            f"{where}: statement_timeout is {row.statement_timeout} ms",
            "enqueueing many jobs at once may take longer",
        )
    else:
        yield Check("server", OK, where)

    skewed = abs(ahead) > MOST_SKEW
    way = "ahead of" if ahead > 0 else "behind"
    text = f"PostgreSQL's is {abs(ahead):.1f} s {way} this machine's"

    yield Check(
        "clock",
        WARN if skewed else OK,
        text,
        "jobs are due by PostgreSQL's clock; let NTP keep both" if skewed else "",
    )


def _pooler(pooled: bool, config: Config) -> Iterator[Check]:
    if not pooled:
        yield Check("pooler", OK, "none stands before PostgreSQL")
    elif config.listen_conninfo is None:
        yield Check(
            "pooler",
            WARN,
            "one stands before PostgreSQL, and may swallow notifications",
            "give listen_conninfo a URL that leads past it, or 'off'",
        )
    else:
        yield Check("pooler", OK, "one stands before PostgreSQL; listen_conninfo knows of it")


def _listen(tx: Tx, config: Config, conninfo: str) -> Iterator[Check]:
    if config.listen_conninfo == OFF:
        yield Check("listen", OK, "off: jobs and orders are found by looking, every second")
    elif checkup.hears(tx, config.listen_conninfo or conninfo):
        yield Check("listen", OK, "a notification came round")
    else:
        yield Check(
            "listen",
            WARN,
            "a notification was sent, and did not arrive",
            "give listen_conninfo a URL that leads to PostgreSQL itself",
        )


def _connections(tx: Tx, plan: _Plan, *, pooled: bool) -> Iterator[Check]:
    server, _ = checkup.server(tx)
    ours = (f"oban-sync {plan.config.name}:", "oban-sync: ")
    others = sum(
        row.sessions for row in checkup.sessions(tx) if not row.application.startswith(ours)
    )
    room = server.max_connections - server.reserved - others
    needed = plan.connections
    text = (
        f"{plan} need {needed}; there is room for {room}: max_connections "
        f"{server.max_connections}, less {server.reserved} reserved and {others} in use by others"
    )

    if pooled:
        yield Check("connections", OK, f"{text}. The pooler has limits of its own")
    elif needed > room:
        yield Check(
            "connections",
            FAIL,
            text,
            "lower pool_size, run fewer processes, or let the queues have processes of their own; "
            "else raise max_connections",
        )
    elif needed > FULL * room:
        yield Check("connections", WARN, text, "little is left for a deploy, which doubles them")
    else:
        yield Check("connections", OK, text)


def _vacuum(tx: Tx) -> Iterator[Check]:
    held = [row for row in checkup.holders(tx, seconds=LONG_TRANSACTION) if _matters(row)]
    table = checkup.table(tx)

    if held:
        yield Check(
            "vacuum",
            WARN,
            f"dead rows must stay because of {_listed(_holder(row) for row in held)}",
            "end those; the jobs table gets slower for as long as they last",
        )
    elif table is not None and not table.autovacuum:
        yield Check(
            "vacuum", FAIL, "autovacuum is off for the jobs table", "turn it on; it grows for ever"
        )
    elif table is not None and table.dead > max(MANY_DEAD, DEAD_SHARE * table.live):
        yield Check(
            "vacuum", WARN, _size(table), "VACUUM oban_jobs, and see why autovacuum is behind"
        )
    else:
        yield Check("vacuum", OK, "nothing keeps it back" if table is None else _size(table))


def _matters(row: HolderRow) -> bool:
    if row.kind in ("session", "prepared"):
        return row.idle or (row.seconds or 0.0) > LONG_TRANSACTION

    return (row.xids or 0) > OLD_SNAPSHOT


def _holder(row: HolderRow) -> str:
    detail = f" ({row.detail})" if row.detail else ""
    age = "" if row.seconds is None else f" for {row.seconds:,.0f} s"

    return f"{row.kind} {row.name}{detail}{' idle' if row.idle else ''}{age}"


def _size(table: TableRow) -> str:
    return f"about {table.live:,} jobs, {table.dead:,} dead rows, {table.bytes / 1e6:,.1f} MB"


def _tables(tx: Tx, config: Config) -> Iterator[Check]:
    version = checkup.installed(tx)

    yield Check("tables", OK, f"version {version} in schema {config.prefix}")


def _rights(tx: Tx, config: Config) -> Iterator[Check]:
    found = checkup.rights(tx)
    lacking = _listed(f"{'/'.join(row.lacking)} on {row.name}" for row in found)
    enqueues = not any(
        row.name.startswith("oban_jobs") and {"SELECT", "INSERT", "USAGE"} & set(row.lacking)
        for row in found
    )

    if not found:
        yield Check("rights", OK, "the role may do all that is needed")
    elif config.queues or not enqueues:
        yield Check(
            "rights",
            FAIL,
            f"the role lacks {lacking}",
            "grant it these, or connect as the role that owns the tables",
        )
    else:
        yield Check(
            "rights",
            WARN,
            f"the role may enqueue, and run no jobs: it lacks {lacking}",
            "grant it these where queues are to run, or jobs to be cancelled",
        )


def _nodes(found: list[NodeRow], config: Config) -> Iterator[Check]:
    living = [row for row in found if row.lives and row.name == config.name]
    dead = [row for row in found if not row.lives]
    names = _listed(f"{row.node} ({', '.join(row.queues) or 'no queues'})" for row in living)

    if dead:
        oldest = max(row.seconds for row in dead)
        yield Check(
            "nodes",
            WARN,
            f"{len(dead)} of {len(found)} do not beat, the oldest for {oldest:,.0f} s",
            "their jobs are given back by any node that lives" if not living else "",
        )
    elif not living:
        yield Check("nodes", OK, "no node runs at the moment")
    elif not any(row.leads for row in living):
        yield Check(
            "nodes",
            WARN,
            f"{len(living)} of {config.name}: {names}; none leads",
            "unless an election is going on: let one have leadership, for cron and pruning",
        )
    else:
        yield Check("nodes", OK, f"{len(living)} of {config.name}: {names}")


def _queues(found: list[QueueRow]) -> Iterator[Check]:
    alone = [row for row in found if row.nodes == 0]
    paused = [row for row in found if row.nodes and row.paused]
    waiting = _listed(f"{row.queue} ({_count(row.waiting)})" for row in found)

    if alone:
        names = _listed(
            f"{row.queue} ({_count(row.waiting)}, for {row.seconds:,.0f} s)" for row in alone
        )
        yield Check(
            "queues", WARN, f"jobs wait where no living node looks: {names}", "run these queues"
        )

    if paused:
        names = _listed(f"{row.queue} ({_count(row.waiting)})" for row in paused)
        yield Check("queues", WARN, f"jobs wait in paused queues: {names}", "resume them")

    if not alone and not paused:
        yield Check("queues", OK, f"jobs wait in {waiting}" if found else "no job waits")


def _workers(tx: Tx) -> Iterator[Check]:
    known = registry.registered()

    if not known:
        yield Check("workers", OK, "none is loaded here; name the application to compare")

        return

    missing = [row for row in checkup.workers(tx) if row.worker not in known]

    if missing:
        names = _listed(f"{row.worker} in {row.queue} ({_count(row.waiting)})" for row in missing)
        yield Check(
            "workers",
            WARN,
            f"jobs wait for workers that are not loaded here: {names}",
            "import their modules, or list them in imports",
        )
    else:
        yield Check("workers", OK, f"{len(known)} are loaded, and all that jobs wait for")


def _orphans(tx: Tx) -> Iterator[Check]:
    found = checkup.owners(tx)

    if found.ownerless and (found.seconds or 0.0) > MOST_ORPHANED:
        yield Check(
            "orphans",
            WARN,
            f"{found.ownerless} of {found.executing} executing jobs have no living node, the "
            f"oldest for {found.seconds:,.0f} s",
            "any node gives them back; those of Elixir's nodes after rescue_after",
        )
    else:
        yield Check("orphans", OK, f"none; executing jobs: {found.executing}")


def _count(number: int) -> str:
    return f"{number:,}{' or more' if number >= checkup.MOST_JOBS else ''}"


def _listed(items: Iterable[Any]) -> str:
    names = [str(item) for item in items]
    more = len(names) - MOST_NAMES

    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
