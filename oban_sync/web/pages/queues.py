"""The queues: how much of them is busy, what waits, what was asked of them, and asking for more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from oban_sync.control import queues as control
from oban_sync.control.queues import pause_of
from oban_sync.control.transactions import in_transaction
from oban_sync.core import controls, limit_words
from oban_sync.core.controls import EVERY, Control
from oban_sync.engine import overview as engine
from oban_sync.engine.metrics import QueueHealth
from oban_sync.engine.orders import NodeInfo, NodeQueue
from oban_sync.engine.overview import Order, QueueLimits
from oban_sync.engine.session import Tx
from oban_sync.web import formats, forms, replies
from oban_sync.web.access import performs
from oban_sync.web.actions import Action
from oban_sync.web.curves import GROUPS, SHARES, SPAN_TITLES
from oban_sync.web.lately import lately
from oban_sync.web.menu import Entry
from oban_sync.web.pages.nodes import is_silent, own_nodes
from oban_sync.web.pages.overview import asked, charts_url, depth, drained, drawn, queue_health
from oban_sync.web.seen import link
from oban_sync.web.site import here, note, visit

MENU = Entry("queues", "Queues", "q")

#: What the curves of one queue may stand for.
_GROUPS = tuple(group for group in GROUPS if group != "queue")


@dataclass(frozen=True, slots=True)
class Row:
    """A queue in the list.

    Attributes:
        name: Its name.
        health: How it stands; None where nobody runs it and nothing waits in it.
        pause: Who paused it on every node, and until when; None where nobody did.
        on: Nodes of the dashboard's instance that run it.
        paused_on: Those of them on which it takes no jobs.
    """

    name: str
    health: QueueHealth | None
    pause: Control | None
    on: int
    paused_on: int

    @property
    def is_paused(self) -> bool:
        """Whether no node takes jobs of it."""
        return self.paused_on == self.on if self.on else self.pause is not None


@dataclass(frozen=True, slots=True)
class Place:
    """A queue on one node.

    Attributes:
        node: The node.
        queue: The queue, as the node tells of it; None where it does not run there.
        busy: Jobs of it that run there.
        silent: Whether the node should have beaten by now.
        pause: Who paused it there.
    """

    node: NodeInfo
    queue: NodeQueue | None
    busy: int
    silent: bool
    pause: Control | None


@dataclass(frozen=True, slots=True)
class Limited:
    """The limits of a queue.

    Attributes:
        rows: What is allowed, and how it stands.
        different: Whether nodes tell of different ones.
    """

    rows: list[tuple[str, str]]
    different: bool


def register(blueprint: Blueprint) -> None:
    """Add the rules."""
    blueprint.get("/queues")(queues)
    blueprint.get("/queue")(queue)
    blueprint.post("/queues/pause")(pause_queue)
    blueprint.post("/queues/resume")(resume_queue)
    blueprint.post("/queues/scale")(scale_queue)
    blueprint.post("/queues/start")(start_queue)
    blueprint.post("/queues/stop")(stop_queue)
    blueprint.post("/queues/reset")(reset_queue)


def queues() -> ResponseReturnValue:
    """The list."""
    orders = _orders()
    rows = _rows(orders)

    return replies.page(
        "queues",
        rows=rows,
        every=pause_of(orders, EVERY),
        nodes=_names(own_nodes()),
        depth=depth,
        drained=drained,
    )


def queue() -> ResponseReturnValue:
    """One queue."""
    name = forms.asked_name("name")
    orders = _orders()
    span, _, share = asked()
    by = forms.choice("by", _GROUPS, "worker")
    places = _places(name, orders)

    return replies.page(
        "queue",
        status=200 if name else 404,
        name=name,
        health=next((each for each in queue_health() if each.queue == name), None),
        pause=pause_of(orders, name),
        limits=_limits(name),
        places=places,
        # What a node that does not run it may start with.
        limit=max((each.queue.limit for each in places if each.queue), default=10),
        orders=[order for order in orders if order.control.queue in (name, EVERY)],
        said=_said,
        nodes=_names(own_nodes()),
        jobs=link("queues", name) if name else None,
        charts=[] if request.headers.get("HX-Request") else drawn(span, by, share, name),
        span=span,
        by=by,
        share=share,
        spans=SPAN_TITLES,
        groups=_GROUPS,
        shares=SHARES,
        url=partial(charts_url, ".queue", name=name, by=by),
        charts_url=charts_url(".charts", queue=name, by=by),
        depth=depth,
        drained=drained,
    )


@performs(Action.QUEUES_PAUSE)
def pause_queue() -> ResponseReturnValue:
    """Let nodes take no more jobs of a queue, or of any."""
    name, node = _asked_of()
    until = forms.minutes("minutes")
    by = forms.reason(visit().who)
    _ask(
        Action.QUEUES_PAUSE,
        name,
        node,
        lambda conn: here().oban.pause_queue(name, node=node, until=until, by=by, conn=conn),
        minutes=until and until / 60,
        reason=forms.field("reason"),
    )
    ends = "" if until is None else f" for {forms.field('minutes')} minutes"

    return replies.done(f"{_title(name, node)} takes no more jobs{ends}; what runs goes on.")


@performs(Action.QUEUES_RESUME)
def resume_queue() -> ResponseReturnValue:
    """Let nodes take jobs of a queue again, or of all."""
    name, node = _asked_of()
    by = visit().who
    _ask(
        Action.QUEUES_RESUME,
        name,
        node,
        lambda conn: here().oban.resume_queue(name, node=node, by=by, conn=conn),
    )

    return replies.done(f"{_title(name, node)} takes jobs again.")


@performs(Action.QUEUES_SCALE)
def scale_queue() -> ResponseReturnValue:
    """Change how many jobs of a queue run at once."""
    name, node = _asked_of()
    limit = forms.whole("limit")
    by = visit().who
    _ask(
        Action.QUEUES_SCALE,
        name,
        node,
        lambda conn: here().oban.scale_queue(name, limit, node=node, by=by, conn=conn),
        limit=limit,
    )

    return replies.done(f"{_title(name, node)} runs up to {limit} at once on each node.")


@performs(Action.QUEUES_START)
def start_queue() -> ResponseReturnValue:
    """Run a queue that nodes do not run."""
    name, node = _asked_of()
    limit = forms.whole("limit")
    paused = forms.field("paused") == "yes"
    by = visit().who
    _ask(
        Action.QUEUES_START,
        name,
        node,
        lambda conn: here().oban.start_queue(
            name, limit, node=node, paused=paused, by=by, conn=conn
        ),
        limit=limit,
        paused=paused,
    )

    return replies.done(f"{_title(name, node)} is started, with a limit of {limit}.")


@performs(Action.QUEUES_STOP)
def stop_queue() -> ResponseReturnValue:
    """Run a queue no more."""
    name, node = _asked_of()
    by = visit().who
    _ask(
        Action.QUEUES_STOP,
        name,
        node,
        lambda conn: here().oban.stop_queue(name, node=node, by=by, conn=conn),
    )

    return replies.done(f"{_title(name, node)} is being stopped; what runs may finish first.")


@performs(Action.QUEUES_RESET)
def reset_queue() -> ResponseReturnValue:
    """Let nodes run a queue as they are configured again."""
    name = forms.named("queue", "a queue")
    _ask(Action.QUEUES_RESET, name, None, lambda conn: here().oban.reset_queue(name, conn=conn))

    return replies.done(f"{_title(name, None)} runs as nodes are configured again.")


def _asked_of() -> tuple[str, str | None]:
    """The queue that a form is about, and the node; None for every one."""
    return forms.named("queue", "a queue"), request.form.get("node") or None


def _ask(
    action: Action,
    queue: str,
    node: str | None,
    order: Callable[[Any], None],
    **detail: object,
) -> None:
    """Ask something of a queue, and write that down, in one transaction."""
    kept = {
        key: value for key, value in {"node": node, **detail}.items() if value not in (None, "")
    }

    def both(tx: Tx) -> None:
        order(tx.conn)
        note(tx, action, "all queues" if queue == EVERY else f"queue {queue}", **kept)

    in_transaction(here().db, both)


def _title(queue: str, node: str | None) -> str:
    title = "Every queue" if queue == EVERY else f"Queue {queue}"

    return title if node is None else f"{title} on {node}"


def _rows(orders: Iterable[Order]) -> list[Row]:
    health = {each.queue: each for each in queue_health()}
    runs: dict[str, list[bool]] = {}

    for node in own_nodes():
        for each in node.queues:
            runs.setdefault(each.queue, []).append(each.paused)

    asked_for = {order.control.queue for order in orders if not order.control.ended} - {EVERY}

    return [
        Row(
            name,
            health.get(name),
            pause_of(orders, name),
            len(runs.get(name, ())),
            sum(runs.get(name, ())),
        )
        for name in sorted(health.keys() | runs.keys() | asked_for)
    ]


def _places(name: str, orders: Iterable[Order]) -> list[Place]:
    busy = engine.busy(here().db, name)
    places = []

    for node in own_nodes():
        pause = pause_of(orders, name, node.node)
        silent = is_silent(node)
        found = [each for each in node.queues if each.queue == name]

        for each in found:
            places.append(Place(node, each, busy.get((each.uuid, name), 0), silent, pause))

        if not found:
            places.append(Place(node, None, 0, silent, None))

    return places


def _limits(name: str) -> Limited | None:
    """The limits of a queue over all nodes, and how far they are used."""
    found = engine.queue_limits(here().db, name) if name else None

    return None if found is None else Limited(list(_limit_rows(found)), found.different)


def _limit_rows(found: QueueLimits) -> Iterator[tuple[str, str]]:
    limits = found.limits
    values = f"{formats.count(found.lanes, 'value')} {'has' if found.lanes == 1 else 'have'} jobs"
    each = f"{values} that run, up to {found.busiest:,} each" if found.lanes else "none runs"

    if (text := limit_words.global_limit(limits)) is not None:
        yield text, each if limits.partitioned else f"{found.running:,} of {limits.allowed:,} run"

    if (text := limit_words.rate_limit(limits)) is not None:
        yield text, _room(found)

    if (text := limit_words.turns(limits)) is not None:
        yield text, each


def _room(found: QueueLimits) -> str:
    """How many may start now, and when more may."""
    if found.room is None or found.limits.rate is None:
        return ""

    may = f"{found.room:,} may start now" if found.room else "none may start now"

    if found.again_in is None or found.room >= found.limits.rate.allowed:
        return may

    return f"{may}, more in {formats.duration(found.again_in)}"


def _orders() -> list[Order]:
    site = here()
    name = site.oban.name
    found: list[Order] = lately("orders", lambda: control.list_orders(site.db, name))

    return found


def _said(control: Control) -> str:
    """What was asked for, in words."""
    if control.aspect == controls.PAUSED:
        return "pause" if control.value else "take jobs"

    if control.aspect == controls.LIMIT:
        return f"run up to {control.value} at once"

    return "stop" if control.value is False else f"start, up to {control.value} at once"


def _names(nodes: Iterable[NodeInfo]) -> list[str]:
    return sorted({node.node for node in nodes})
