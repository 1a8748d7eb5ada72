"""nodes, metrics, audit and health: how everything is, and how it went."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import click

from oban_sync import schema
from oban_sync.cli.completing import queue_names
from oban_sync.cli.options import FAILED
from oban_sync.cli.screen import (
    Cell,
    Column,
    Table,
    is_ascii,
    json_option,
    present,
    print_json,
    show,
    watch_option,
)
from oban_sync.cli.words import NOTHING, at, curve, number, rate, since, span, span_given
from oban_sync.control import audit
from oban_sync.control import queues as desk
from oban_sync.control.metrics import Point, Series, list_metrics, queue_health
from oban_sync.core.clock import utc_now
from oban_sync.core.errors import DatabaseUnavailableError, SchemaError
from oban_sync.oban import Oban

#: Seconds without a beat after which a node is taken for dead by people; others take longer.
_SILENT = 15.0

#: Points of a curve.
_WIDTH = 30


@watch_option
@json_option
def nodes(oban: Oban, watch: float | None, as_json: bool) -> None:
    """List the nodes that take part, of every instance on these tables."""

    def look() -> tuple[list[Any], object]:
        found = desk.list_nodes(oban.db)

        return [_nodes_table(found)], [asdict(node) for node in found]

    present(look, as_json=as_json, watch=watch)


@click.option(
    "--since",
    "seconds",
    type=span_given,
    default="1h",
    show_default=True,
    metavar="SPAN",
    help="How far back, as 15m, 1h, 24h or 7d.",
)
@click.option(
    "--by",
    type=click.Choice(["queue", "worker", "node", "state"]),
    default="queue",
    show_default=True,
    help="What the rows stand for.",
)
@click.option("--queue", shell_complete=queue_names, help="Only of this queue.")
@click.option("--worker", help="Only of this worker.")
@watch_option
@json_option
def metrics(
    oban: Oban,
    seconds: float,
    by: Any,
    queue: str | None,
    worker: str | None,
    watch: float | None,
    as_json: bool,
) -> None:
    """Show what ran: how much, how fast, how much of it failed, and the curve.

    P50 and P95 are about how long jobs ran, WAIT about how long 95 of 100 waited for their start.
    """

    def curves(kind: Any, points: int, state: str | None = None) -> list[Series]:
        return list_metrics(
            oban.db,
            since=seconds,
            by=by,
            series=kind,
            queue=queue,
            worker=worker,
            state=state,
            points=points,
        )

    def look() -> tuple[list[Any], object]:
        counts = curves("exec_count", _WIDTH)
        ran = {one.label: one.points for one in curves("exec_time", 1)}
        waited = {one.label: one.points for one in curves("wait_time", 1)}
        failed: dict[str, int] = {}

        for state in ("retryable", "discarded"):
            for one in curves("exec_count", 1, state):
                failed[one.label] = failed.get(one.label, 0) + _total(one.points)

        found = [
            {
                by: one.label,
                "jobs": _total(one.points),
                "per_second": _total(one.points) / seconds,
                "failures": failed.get(one.label, 0),
                "p50": _about(ran.get(one.label, ()), "p50"),
                "p95": _about(ran.get(one.label, ()), "p95"),
                "max": max((p.max for p in ran.get(one.label, ()) if p.max), default=None),
                "wait_p95": _about(waited.get(one.label, ()), "p95"),
                "curve": [point.count for point in one.points],
            }
            for one in counts
        ]

        return [_metrics_table(found, by, seconds)], found

    present(look, as_json=as_json, watch=watch)


@click.option(
    "--limit",
    type=click.IntRange(1, audit.MOST_LISTED),
    default=20,
    show_default=True,
    help="Most entries shown.",
)
@click.option("--before", "before_id", type=click.IntRange(0), metavar="ID", help="The next page.")
@click.option("--who", help="Only what this person did.")
@click.option("--action", help="Only this, as jobs:cancel; jobs: for all that was done to jobs.")
@watch_option
@json_option
def show_audit(
    oban: Oban,
    limit: int,
    before_id: int | None,
    who: str | None,
    action: str | None,
    watch: float | None,
    as_json: bool,
) -> None:
    """Show who changed what by hand, from here or from the dashboard, the newest first."""

    def look() -> tuple[list[Any], object]:
        found = audit.list_audit(oban.db, limit=limit, before_id=before_id, who=who, action=action)

        return [_audit_table(found)], [asdict(entry) for entry in found]

    present(look, as_json=as_json, watch=watch)


@click.option("--node", metavar="NODE", help="A node of this name has to be alive.")
@click.option(
    "--queue",
    "names",
    multiple=True,
    metavar="QUEUE",
    shell_complete=queue_names,
    help="A live node has to run this queue; the limits below are of it. May be given several "
    "times. [default: limits are of every queue]",
)
@click.option(
    "--queue-depth", type=click.IntRange(0, 9_999), metavar="N", help="Most available jobs."
)
@click.option(
    "--oldest", type=span_given, metavar="SPAN", help="Longest that an available job may wait."
)
@json_option
def health(
    oban: Oban,
    node: str | None,
    names: tuple[str, ...],
    queue_depth: int | None,
    oldest: float | None,
    as_json: bool,
) -> None:
    """Exit with 0 when all is well, and with 1 when not: for probes of containers.

    Looks whether the database can be asked and the tables are as they should be, and at what else
    is asked for. What goes on inside of a worker process is told by --node, from its beats.
    """
    problems = list(_problems(oban, node, names, queue_depth, oldest))

    if as_json:
        print_json({"ok": not problems, "problems": problems})
    else:
        well = [Cell("Everything is well.", "green")]
        show([Cell(problem, "red") for problem in problems] or well)

    if problems:
        sys.exit(FAILED)


def _problems(
    oban: Oban,
    node: str | None,
    names: Sequence[str],
    queue_depth: int | None,
    oldest: float | None,
) -> Iterable[str]:
    try:
        schema.verify(oban.conninfo, prefix=oban.prefix)
        living = [one for one in desk.list_nodes(oban.db) if one.beat_age <= _SILENT]
        found = {queue.queue: queue for queue in queue_health(oban.db)}
    except (DatabaseUnavailableError, SchemaError) as error:
        yield str(error)
        return

    if node is not None and not any((one.node, one.name) == (node, oban.name) for one in living):
        yield f"no node {node} of {oban.name} has beaten in the last {_SILENT:.0f} s"

    for name in names:
        if name not in found or not found[name].nodes:
            yield f"no live node runs queue {name}"

    for name, queue in found.items():
        if names and name not in names:
            continue

        if queue_depth is not None and queue.available > queue_depth:
            depth = f"{queue.available:,} jobs available"
            yield f"queue {name} has {depth}, {queue_depth:,} are allowed"

        if oldest is not None and queue.oldest_age > oldest:
            yield f"a job of queue {name} has waited {span(queue.oldest_age)}"


def _nodes_table(found: Sequence[Any]) -> Table:
    now = utc_now()

    return Table(
        [
            Column("NODE", shrinks=True),
            Column("INSTANCE"),
            Column("UUID"),
            Column("QUEUES", shrinks=True),
            Column("BEAT", right=True),
            Column("UP SINCE"),
            Column("VERSION"),
            Column("PYTHON"),
            Column("PROCESS"),
            Column("NOTE", shrinks=True),
        ],
        [
            [
                node.node,
                node.name,
                node.uuid[:8],
                ", ".join(map(_queue, node.queues)) or "none",
                Cell(span(round(node.beat_age, 1)), "red" if node.beat_age > _SILENT else ""),
                since(node.started_at, now),
                node.version or NOTHING,
                node.python or NOTHING,
                NOTHING if node.pid is None else f"{node.pid} on {node.host or '?'}",
                _node_note(node),
            ]
            for node in found
        ],
        empty="No node takes part.",
    )


def _queue(queue: Any) -> str:
    return f"{queue.queue}:{queue.limit}{' (paused)' if queue.paused else ''}"


def _node_note(node: Any) -> Cell:
    if node.beat_age > _SILENT:
        return Cell("silent", "red")

    notes = ["leads"] if node.leader else []

    if node.degraded:
        return Cell(", ".join([*notes, "hears nothing, looks instead"]), "yellow")

    return Cell(", ".join(notes), "green")


def _metrics_table(found: Sequence[dict[str, Any]], by: str, seconds: float) -> Table:
    plain = is_ascii()

    return Table(
        [
            Column(by.upper(), shrinks=True),
            Column("JOBS", right=True),
            Column("SPEED", right=True),
            Column("FAILED", right=True),
            Column("P50", right=True),
            Column("P95", right=True),
            Column("MAX", right=True),
            Column("WAIT", right=True),
            Column(f"LAST {span(seconds).upper()}"),
        ],
        [
            [
                one[by],
                number(one["jobs"]),
                rate(one["per_second"]),
                Cell(number(one["failures"]), "red" if one["failures"] else ""),
                span(one["p50"]),
                span(one["p95"]),
                span(one["max"]),
                span(one["wait_p95"]),
                Cell(curve(one["curve"], plain=plain), "cyan"),
            ]
            for one in found
        ],
        empty=f"No job ran in the last {span(seconds)}, as far as nodes have told.",
    )


def _audit_table(found: Sequence[Any]) -> Table:
    return Table(
        [
            Column("ID", right=True),
            Column("AT"),
            Column("WHO", shrinks=True),
            Column("VIA"),
            Column("ACTION"),
            Column("SUBJECT", shrinks=True),
            Column("DETAIL", shrinks=True),
        ],
        [
            [
                str(entry.id),
                at(entry.at),
                entry.who or NOTHING,
                entry.via,
                entry.action,
                entry.subject,
                ", ".join(f"{key}={value}" for key, value in entry.detail.items()),
            ]
            for entry in found
        ],
        empty="Nobody changed anything by hand.",
    )


def _total(points: Iterable[Point]) -> int:
    return sum(point.count for point in points)


def _about(points: Iterable[Point], percentile: str) -> float | None:
    """A percentile of several points, weighted by their jobs: about, since it cannot be exact."""
    known = [(getattr(one, percentile), one.count) for one in points if one.count]
    known = [(value, count) for value, count in known if value is not None]
    jobs = sum(count for _, count in known)

    return sum(value * count for value, count in known) / jobs if jobs else None
