"""Tells Oban Web of this node, over the notifications that it listens to."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from oban_sync.core import gossip
from oban_sync.core.clock import utc_now
from oban_sync.core.config import Config
from oban_sync.core.cron import DEFAULT_TIMEZONE
from oban_sync.core.errors import ConfigError, DatabaseUnavailableError
from oban_sync.core.gossip import Payload, Speaker
from oban_sync.core.job import JobState
from oban_sync.engine import crons, metrics
from oban_sync.engine.crons import Stored
from oban_sync.engine.metrics import FullCounts
from oban_sync.engine.session import Db, reason
from oban_sync.runtime.roster import QueueInfo
from oban_sync.runtime.tally import Cell, Part

log = logging.getLogger("oban_sync.plugins")

#: Seconds of one round.
INTERVAL = 1.0

#: Seconds between two tellings of the crontab, which Oban Web forgets after 60.
CRON_INTERVAL = 30.0

#: Seconds between two estimates of how many jobs there are in states that have many.
SAMPLE_INTERVAL = 5.0

#: An expression, the worker, and options.
Line = tuple[str, str, Mapping[str, Any]]


class Broadcaster:
    """Send what Oban Web shows: the queues, what ran, how many jobs there are, the crontab.

    Nobody has to listen, and what cannot be sent is not sent later. Works on the thread of whoever
    calls `tell`.

    Args:
        db: The loops' pool.
        speaker: Who tells.
        instance: The name of the instance, whose cron entries are told.
        queues: The queues of this node.
        leads: Whether this node leads: the leader alone tells how many jobs there are, and the
            crontab.
        counts: Whether it tells how many jobs there are.
    """

    def __init__(
        self,
        db: Db,
        speaker: Speaker,
        *,
        instance: str,
        queues: Callable[[], list[QueueInfo]],
        leads: Callable[[], bool],
        counts: bool = True,
    ) -> None:
        self._db = db
        self._speaker = speaker
        self._instance = instance
        self._queues = queues
        self._leads = leads
        self._counts = counts
        self._cron_at = 0.0
        self._sample_at = 0.0
        self._sampled: FullCounts = {}
        self._troubles: set[str] = set()

    def tell(self, parts: Sequence[Part]) -> None:
        """Send one round: how things stand, and what was counted since the last one."""
        leads = self._leads()
        # What can only be told by looking must not keep the rest from being told.
        counts = self._tried(self._full_counts) if leads and self._counts else []
        crontab = self._tried(self._crontab) if leads and self._is_cron_time() else []

        def send() -> list[Any]:
            with self._db.session() as tx:
                metrics.notify(tx, list(self._notes(parts, counts, crontab)))

            return []

        self._tried(send)

    def _tried(self, work: Callable[[], list[Any]]) -> list[Any]:
        """What work comes to, or nothing: the next round tells how things stand then."""
        try:
            return work()
        except Exception as error:
            told = f"{type(error).__name__}: {reason(error)}"
            # Once as a warning: it would come every second.
            level = logging.DEBUG if told in self._troubles else logging.WARNING

            if isinstance(error, DatabaseUnavailableError):
                level = logging.DEBUG
            elif len(self._troubles) < _MOST_TROUBLES:
                self._troubles.add(told)

            log.log(level, "Oban Web is not told: %s", told)

            return []

    def _notes(
        self, parts: Sequence[Part], counts: Sequence[Payload], crontab: Sequence[Line]
    ) -> Iterator[tuple[str, str]]:
        checks = [self._check(info) for info in self._queues() if not info.stopping]

        for text in gossip.gossip(checks):
            yield "gossip", text

        items = [*_counted(parts), *counts]

        for text in gossip.metrics(self._speaker, int(utc_now().timestamp()), items):
            yield "metrics", text

        for text in gossip.cronitor(self._speaker, crontab):
            yield "cronitor", text

    def _check(self, info: QueueInfo) -> Payload:
        return gossip.check(
            self._speaker,
            uuid=info.uuid,
            queue=info.queue,
            limit=info.limit,
            paused=info.paused,
            running=info.running,
            started_at=info.started_at.isoformat(),
        )

    def _full_counts(self) -> list[Payload]:
        counts, many = metrics.full_counts(self._db)

        if time.monotonic() >= self._sample_at:
            self._sampled = metrics.sampled_counts(self._db, many)
            self._sample_at = time.monotonic() + SAMPLE_INTERVAL

        counts.update(item for item in self._sampled.items() if item[0][0] in many)

        return [
            gossip.count("full_count", state=state, queue=queue, jobs=jobs)
            for (state, queue), jobs in sorted(counts.items())
            if jobs
        ]

    def _is_cron_time(self) -> bool:
        return time.monotonic() >= self._cron_at

    def _crontab(self) -> list[Line]:
        with self._db.session() as tx:
            stored = crons.list_entries(tx, self._instance)

        self._cron_at = time.monotonic() + CRON_INTERVAL

        return [line for entry in stored if (line := _line(entry)) is not None]


#: Kinds of trouble that are remembered.
_MOST_TROUBLES = 100


def _line(stored: Stored) -> Line | None:
    """A line of the crontab; None for what inserts no jobs."""
    if stored.paused or not (stored.dynamic or stored.declared):
        return None

    try:
        entry = stored.read()
    except ConfigError:
        return None

    zone = {} if entry.timezone == DEFAULT_TIMEZONE else {"timezone": entry.timezone}

    return entry.expression.text, entry.worker, {"name": entry.name, **zone}


def _counted(parts: Sequence[Part]) -> Iterator[Payload]:
    """What ran: one item of a kind for each queue, worker and state, as Oban Web keys them."""
    cells: dict[tuple[str, str, JobState], Cell] = {}

    for part in parts:
        for key, cell in part.cells.items():
            worker, state = (key, JobState.COMPLETED) if isinstance(key, str) else key
            # Into one of our own: parts are counted elsewhere as well.
            cells.setdefault((part.queue, worker, state), Cell()).add(cell)

    for (queue, worker, state), cell in cells.items():
        label = {"state": state.value, "queue": queue, "worker": worker}

        yield gossip.count("exec_count", jobs=cell.jobs, **label)

        for series, bins in (("exec_time", cell.ran), ("wait_time", cell.waited)):
            if bins:
                yield gossip.times(series, bins=bins, **label)


def broadcaster(
    db: Db,
    config: Config,
    node: str,
    queues: Callable[[], list[QueueInfo]],
    leads: Callable[[], bool],
) -> Broadcaster | None:
    """What tells Oban Web of a node, if that is wanted."""
    if not config.metrics.broadcast:
        return None

    # Processes of one host are nodes of the same name, unless they were given others.
    told = node if config.node else f"{node}.{os.getpid()}"
    speaker = Speaker(config.metrics.name or config.name, told)

    return Broadcaster(
        db,
        speaker,
        instance=config.name,
        queues=queues,
        leads=leads,
        counts=config.metrics.counts,
    )
