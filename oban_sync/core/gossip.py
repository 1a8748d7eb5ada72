"""What Oban Web is told of a node that is none of Elixir's: payloads as oban-py sends them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from oban_sync.core import payload

#: Bytes of one notification. PostgreSQL carries less than 8,000, and nothing has to be packed.
MOST_BYTES = 7_600

#: Running jobs of a queue that are told; more would not fit, even packed.
MOST_RUNNING = 1_500

Payload = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who tells.

    Attributes:
        name: The name of the instance as Oban Web knows it.
        node: What people call the node.
    """

    name: str
    node: str


def check(
    speaker: Speaker,
    *,
    uuid: str,
    queue: str,
    limit: int,
    paused: bool,
    running: list[int],
    started_at: str,
) -> Payload:
    """How a queue of a node stands."""
    return {
        "uuid": uuid,
        "name": speaker.name,
        "node": speaker.node,
        "queue": queue,
        "local_limit": limit,
        "paused": paused,
        "running": running[:MOST_RUNNING],
        "started_at": started_at,
    }


def times(series: str, *, state: str, queue: str, worker: str, bins: Mapping[int, int]) -> Payload:
    """How long jobs took: ``exec_time`` or ``wait_time``."""
    data = {str(number): count for number, count in sorted(bins.items())}

    return {
        "series": series,
        "state": state,
        "queue": queue,
        "worker": worker,
        "value": {"data": data, "size": sum(data.values())},
    }


def count(series: str, *, state: str, queue: str, jobs: int, worker: str | None = None) -> Payload:
    """How many jobs: ``exec_count`` of a worker, or ``full_count`` of all there are."""
    item: Payload = {"series": series, "state": state, "queue": queue}

    if worker is not None:
        item["worker"] = worker

    return {**item, "value": {"data": [jobs]}}


def gossip(checks: Iterable[Payload]) -> Iterator[str]:
    """Payloads for the channel ``gossip``."""
    return _split({}, "checks", checks)


def metrics(speaker: Speaker, at: int, items: Iterable[Payload]) -> Iterator[str]:
    """Payloads for the channel ``metrics``.

    Args:
        speaker: Who tells.
        at: The time, in seconds since 1970.
        items: From `times` and `count`.
    """
    head = {"name": speaker.name, "node": speaker.node, "time": at}

    return _split(head, "metrics", items)


def cronitor(
    speaker: Speaker, lines: Iterable[tuple[str, str, Mapping[str, Any]]]
) -> Iterator[str]:
    """Payloads for the channel ``cronitor``: expressions, workers and options."""
    head = {"name": speaker.name, "node": speaker.node}

    rows = ([expression, worker, dict(more)] for expression, worker, more in lines)

    return _split(head, "crontab", rows)


def _split(head: Payload, key: str, items: Iterable[Any]) -> Iterator[str]:
    """Texts of JSON, each with as many items as fit; plain, so that everybody can read them.

    An item that is too large has one of its own, for whoever sends it to pack.
    """
    start = payload.dumps({**head, key: []})[:-2]
    texts: list[str] = []
    size = room = MOST_BYTES - len(start.encode())

    for item in items:
        text = payload.dumps(item)
        needed = len(text.encode()) + 1

        if needed > room:
            yield f"{start}{text}]}}"
            continue

        if needed > size:
            yield f"{start}{','.join(texts)}]}}"
            texts, size = [], room

        texts.append(text)
        size -= needed

    if texts:
        yield f"{start}{','.join(texts)}]}}"
