"""The nodes: what they are, whether they still beat, and what they run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flask import Blueprint
from flask.typing import ResponseReturnValue

from oban_sync.engine import overview as engine
from oban_sync.engine.orders import NodeInfo, NodeQueue
from oban_sync.web import replies
from oban_sync.web.lately import lately
from oban_sync.web.menu import Entry
from oban_sync.web.seen import link
from oban_sync.web.site import here

MENU = Entry("nodes", "Nodes", "n")

#: Seconds without a beat after which a node is said to be silent; they beat every three.
SILENT = 10.0


@dataclass(frozen=True, slots=True)
class Load:
    """A queue of a node.

    Attributes:
        queue: The queue, as the node tells of it.
        busy: Jobs of it that run there.
    """

    queue: NodeQueue
    busy: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A node as the page shows it.

    Attributes:
        node: What the tables tell of it.
        loads: What it runs.
        silent: Whether it should have beaten by now.
        alike: Whether its version is that of most nodes.
    """

    node: NodeInfo
    loads: list[Load]
    silent: bool
    alike: bool

    @property
    def busy(self) -> int:
        """Jobs that run on it."""
        return sum(load.busy for load in self.loads)

    @property
    def slots(self) -> int:
        """Jobs at once on it."""
        return sum(load.queue.limit for load in self.loads)


def register(blueprint: Blueprint) -> None:
    """Add the rule."""
    blueprint.get("/nodes")(nodes)


def nodes() -> ResponseReturnValue:
    """The page."""
    site = here()
    found = all_nodes()
    busy = site.kept("busy", lambda: engine.busy(site.db))
    versions = [node.version for node in found if node.version is not None]
    usual = max(set(versions), key=versions.count) if versions else None
    seen = [
        Seen(
            node,
            [Load(queue, busy.get((queue.uuid, queue.queue), 0)) for queue in node.queues],
            is_silent(node),
            node.version in (usual, None),
        )
        for node in found
    ]

    return replies.page("nodes", instances=_by_name(seen, site.oban.name), link=link)


def all_nodes() -> list[NodeInfo]:
    """The nodes of every instance on these tables."""
    found: list[NodeInfo] = lately("nodes", here().oban.list_nodes)

    return found


def own_nodes() -> list[NodeInfo]:
    """The nodes of the instance that the dashboard belongs to."""
    name = here().oban.name

    return [node for node in all_nodes() if node.name == name]


def is_silent(node: NodeInfo) -> bool:
    """Whether a node should have beaten by now."""
    return node.beat_age > SILENT


def _by_name(seen: Iterable[Seen], own: str) -> list[tuple[str, list[Seen]]]:
    """The nodes of each instance, the dashboard's own first."""
    found: dict[str, list[Seen]] = {own: []}

    for each in seen:
        found.setdefault(each.node.name, []).append(each)

    others = sorted(name for name in found if name != own)

    return [(name, found[name]) for name in (own, *others)]
