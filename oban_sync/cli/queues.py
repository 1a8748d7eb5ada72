"""oban-sync queues: how queues stand, and what is asked of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import click

from oban_sync.cli.changing import ask, by_option, record, who, yes_option
from oban_sync.cli.completing import queue_names
from oban_sync.cli.options import Command
from oban_sync.cli.reach import Verb
from oban_sync.cli.screen import (
    Cell,
    Column,
    Table,
    json_option,
    present,
    print_json,
    show,
    watch_option,
)
from oban_sync.cli.words import at, end_given, number, rate, since, span
from oban_sync.control import queues as desk
from oban_sync.control.metrics import QueueHealth, queue_health
from oban_sync.control.transactions import in_transaction
from oban_sync.core.clock import utc_now
from oban_sync.core.controls import EVERY, MOST_LIMIT, Control
from oban_sync.oban import Oban

#: Depths are counted up to this; see the view.
_MOST_COUNTED = 10_000

#: Nodes that a queue was paused on one by one which are told; the others are counted.
_MOST_PAUSES = 3

#: Seconds that a job waits until that is worth a colour.
_LATE = 60.0


def several(command: Command) -> Command:
    """Add the names of queues, or ``--all``."""
    command = click.option("--all", "every", is_flag=True, help="Every queue at once.")(command)

    return click.argument("queues", nargs=-1, metavar="[QUEUE]...", shell_complete=queue_names)(
        command
    )


def node_option(command: Command) -> Command:
    """Add ``--node``."""
    return click.option("--node", metavar="NODE", help="Only this node. [default: every node]")(
        command
    )


queue_argument = click.argument("queue", shell_complete=queue_names)
limit_argument = click.argument("limit", type=click.IntRange(1, MOST_LIMIT))


@watch_option
@json_option
def list_queues(oban: Oban, watch: float | None, as_json: bool) -> None:
    """Show how the queues stand over all nodes.

    Those that a live node runs, or that have jobs available or executing. Depths are counted up to
    10,000. DRAIN is how long the available jobs take at the speed of the last minute. STATE tells
    who paused a queue, when, and until when.
    """

    def look() -> tuple[list[Any], object]:
        orders = desk.list_orders(oban.db, oban.name)
        found = [(queue, _pauses(orders, queue.queue)) for queue in queue_health(oban.db)]

        return [_table(found)], [_json(*each) for each in found]

    present(look, as_json=as_json, watch=watch)


@several
@node_option
@click.option("--until", type=end_given, metavar="WHEN", help="As 30m, or 2026-12-24T18:00Z.")
@by_option
@json_option
def pause(
    oban: Oban,
    queues: tuple[str, ...],
    every: bool,
    node: str | None,
    until: datetime | None,
    by: str | None,
    as_json: bool,
) -> None:
    """Take no more jobs of queues, until they are resumed; running jobs go on.

    Nodes hear of it within a second, and those that start later find it.
    """
    by = who(by)

    def order(queue: str, conn: Any) -> None:
        desk.pause_queue(oban.db, oban.name, queue, node=node, until=until, by=by, conn=conn)

    ends = None if until is None else until.isoformat()
    end = "" if until is None else f" until {at(until)}"
    names = _meant(queues, every)
    _order(oban, "pause", names, order, f"paused{end}", node, by, as_json, until=ends)


@several
@node_option
@by_option
@json_option
def resume(
    oban: Oban,
    queues: tuple[str, ...],
    every: bool,
    node: str | None,
    by: str | None,
    as_json: bool,
) -> None:
    """Take jobs of queues again."""
    by = who(by)

    def order(queue: str, conn: Any) -> None:
        desk.resume_queue(oban.db, oban.name, queue, node=node, by=by, conn=conn)

    _order(oban, "resume", _meant(queues, every), order, "resumed", node, by, as_json)


@queue_argument
@limit_argument
@node_option
@by_option
@json_option
def scale(
    oban: Oban, queue: str, limit: int, node: str | None, by: str | None, as_json: bool
) -> None:
    """Change how many jobs of a queue run at once on each node."""
    by = who(by)

    def order(queue: str, conn: Any) -> None:
        desk.scale_queue(oban.db, oban.name, queue, limit, node=node, by=by, conn=conn)

    done = f"scaled to {limit:,} at once"
    _order(oban, "scale", [queue], order, done, node, by, as_json, limit=limit)


@queue_argument
@limit_argument
@click.option("--paused", is_flag=True, help="Start it paused.")
@node_option
@by_option
@json_option
def start(
    oban: Oban,
    queue: str,
    limit: int,
    paused: bool,
    node: str | None,
    by: str | None,
    as_json: bool,
) -> None:
    """Run a queue that nodes are not configured with, or that was stopped."""
    by = who(by)

    def order(queue: str, conn: Any) -> None:
        desk.start_queue(
            oban.db, oban.name, queue, limit, node=node, paused=paused, by=by, conn=conn
        )

    done = f"started, {limit:,} at once{', paused' if paused else ''}"
    _order(oban, "start", [queue], order, done, node, by, as_json, limit=limit, paused=paused)


@queue_argument
@node_option
@yes_option
@by_option
@json_option
def stop(
    oban: Oban, queue: str, node: str | None, yes: bool, by: str | None, as_json: bool
) -> None:
    """Run a queue no more; its running jobs get the grace period, and are then handed back."""
    by = who(by)
    ask(f"Stop queue {queue} on {_where(node)}?", yes=yes)

    def order(queue: str, conn: Any) -> None:
        desk.stop_queue(oban.db, oban.name, queue, node=node, by=by, conn=conn)

    _order(oban, "stop", [queue], order, "stopped", node, by, as_json)


@several
@yes_option
@by_option
@json_option
def reset(
    oban: Oban, queues: tuple[str, ...], every: bool, yes: bool, by: str | None, as_json: bool
) -> None:
    """Forget what was asked of queues: nodes run them as they are configured again."""
    by = who(by)
    names = _meant(queues, every)
    ask(f"Forget what was asked of {_listed(names)}?", yes=yes)

    def order(queue: str, conn: Any) -> None:
        desk.reset_queue(oban.db, oban.name, queue, conn=conn)

    _order(oban, "reset", names, order, "as configured again", None, by, as_json)


#: The commands by name.
VERBS: Mapping[str, Verb] = {
    "list": list_queues,
    "pause": pause,
    "resume": resume,
    "scale": scale,
    "start": start,
    "stop": stop,
    "reset": reset,
}


def _order(
    oban: Oban,
    verb: str,
    names: Sequence[str],
    order: Callable[[str, Any], None],
    done: str,
    node: str | None,
    by: str,
    as_json: bool,
    **detail: Any,
) -> None:
    """Ask something of queues and write it down, in one transaction, and say so."""
    nodes = desk.list_nodes(oban.db)
    known = {queue.queue for one in nodes for queue in one.queues}

    def all_of_it(tx: Any) -> None:
        for name in names:
            order(name, tx.conn)
            subject = "every queue" if name == EVERY else f"queue {name}"
            record(tx, oban, f"queues:{verb}", subject, by, node=node, **detail)

    in_transaction(oban.db, all_of_it)

    if as_json:
        print_json({"action": f"queues:{verb}", "queues": list(names), "node": node, **detail})
        return

    be = "are" if len(names) > 1 else "is"
    show([f"{_sentence(_listed(names))} {be} {done} on {_where(node)}."])
    strangers = [name for name in names if name not in known and name != EVERY]

    if strangers and verb != "start":
        show([Cell(f"No live node runs {', '.join(strangers)} at the moment.", "yellow")])

    if node is not None and node not in {one.node for one in nodes}:
        show([Cell(f"No live node is called {node} at the moment.", "yellow")])


def _meant(queues: tuple[str, ...], every: bool) -> list[str]:
    if queues and every:
        raise click.UsageError("give names of queues, or --all; not both")

    if not queues and not every:
        raise click.UsageError("which queues? Give their names, or --all")

    return [EVERY] if every else list(dict.fromkeys(queues))


def _listed(names: Sequence[str]) -> str:
    if list(names) == [EVERY]:
        return "every queue"

    return f"queue{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _where(node: str | None) -> str:
    return "every node" if node is None else f"node {node}"


def _pauses(orders: Sequence[Any], queue: str) -> list[tuple[str | None, Control]]:
    """Who paused a queue: on every node, as None, or else on which ones."""
    if (pause := desk.pause_of(orders, queue)) is not None:
        return [(None, pause)]

    nodes = sorted({order.node for order in orders} - {EVERY})
    found = [(node, desk.pause_of(orders, queue, node)) for node in nodes]

    return [(node, pause) for node, pause in found if pause is not None]


def _json(queue: QueueHealth, pauses: Sequence[tuple[str | None, Control]]) -> dict[str, Any]:
    told = [
        {"node": node, "by": pause.by, "at": pause.at, "until": pause.until}
        for node, pause in pauses
    ]

    return {**asdict(queue), "pauses": told}


def _table(found: Sequence[tuple[QueueHealth, Sequence[tuple[str | None, Control]]]]) -> Table:
    return Table(
        [
            Column("QUEUE", shrinks=True),
            Column("AVAILABLE", right=True),
            Column("EXECUTING", right=True),
            Column("SCHEDULED", right=True),
            Column("RETRYABLE", right=True),
            Column("OLDEST", right=True),
            Column("BUSY", right=True),
            Column("NODES", right=True),
            Column("SPEED", right=True),
            Column("DRAIN", right=True),
            Column("STATE", shrinks=True),
        ],
        [
            [
                queue.queue,
                _depth(queue.available),
                _depth(queue.executing),
                _depth(queue.scheduled),
                _depth(queue.retryable),
                Cell(
                    span(queue.oldest_age) if queue.available else "-",
                    "yellow" if queue.oldest_age > _LATE else "",
                ),
                f"{queue.busy}/{queue.slots}",
                str(queue.nodes),
                rate(queue.throughput),
                span(queue.drain_estimate) if queue.available else "-",
                _state(queue, pauses),
            ]
            for queue, pauses in found
        ],
        empty="No live node runs a queue, and no job is available or executing.",
    )


def _depth(count: int) -> str:
    return f"{number(_MOST_COUNTED)}+" if count >= _MOST_COUNTED else number(count)


def _state(queue: QueueHealth, pauses: Sequence[tuple[str | None, Control]]) -> Cell:
    if not queue.nodes:
        state = Cell("not run", "red")
    else:
        state = Cell("paused", "yellow") if queue.paused else Cell("runs", "green")

    if not pauses:
        return state

    told = "; ".join(_told(*each) for each in pauses[:_MOST_PAUSES])
    more = f"; and {len(pauses) - _MOST_PAUSES:,} more" if len(pauses) > _MOST_PAUSES else ""
    # What was asked for a moment ago, nodes may not have done yet.
    text = f"{told}{more}" if queue.paused else f"{state.text}, {told}{more}"

    return Cell(text, "yellow" if queue.nodes else state.style)


def _told(node: str | None, pause: Control) -> str:
    """As ``paused on web-1 by ann: deploy, 3 min ago, until 2026-12-24 18:00:00 UTC``."""
    parts = ["paused" if node is None else f"paused on {node}"]

    if pause.by is not None:
        parts.append(f"by {pause.by}")

    text = " ".join(parts)

    if pause.at is not None:
        text = f"{text}, {since(pause.at, utc_now())}"

    return text if pause.until is None else f"{text}, until {at(pause.until)}"
