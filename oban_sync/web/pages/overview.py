"""The overview: what runs, how long it takes, which queues fall behind, and what fails."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from flask import Blueprint, jsonify, request, url_for
from flask.typing import ResponseReturnValue

from oban_sync.control import metrics
from oban_sync.control.metrics import MetricsReport
from oban_sync.core.filters import Filter
from oban_sync.core.job import JobState
from oban_sync.engine import overview as engine
from oban_sync.engine.metrics import MOST_COUNTED, QueueHealth
from oban_sync.engine.overview import Failure
from oban_sync.web import curves, formats, forms, replies
from oban_sync.web.curves import GROUPS, SHARES, SPAN_TITLES, SPANS, Chart
from oban_sync.web.lately import lately
from oban_sync.web.menu import Entry
from oban_sync.web.seen import link
from oban_sync.web.site import here

MENU = Entry("overview", "Overview", "o")

#: Kinds of failures that are shown.
MOST_KINDS = 15

#: Queues that are shown; all of them are on their own page.
MOST_QUEUES = 20

#: Seconds that charts of a span are kept for: nodes tell what they counted every ten, and the steps
#: of long spans are hours.
CHARTS_KEPT = {"5m": 5.0, "1h": 5.0, "24h": 30.0, "7d": 60.0}

#: Likewise how the queues stand, and what failed: nothing that pages ask for costs more.
HEALTH_KEPT = 4.5

#: Numbers and addresses differ from failure to failure of the same kind.
_VARIES = re.compile(r"0x[0-9a-fA-F]+|[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|\d+")


@dataclass(slots=True)
class Kind:
    """Failures that look the same: of one worker, with the same line of error.

    Attributes:
        worker: The worker.
        newest: The newest of them.
        line: Its error in one line.
        jobs: How many there are.
        discarded: How many of these will not be tried again.
        queues: Where they ran.
    """

    worker: str
    newest: Failure
    line: str
    jobs: int = 0
    discarded: int = 0
    queues: set[str] = field(default_factory=set)


def register(blueprint: Blueprint) -> None:
    """Add the rules."""
    blueprint.get("/overview")(overview)
    blueprint.get("/charts")(charts)


def overview() -> ResponseReturnValue:
    """The page."""
    site = here()
    health = queue_health()
    failures: list[Failure] = site.kept(
        "failures", lambda: engine.recent_failures(site.db), HEALTH_KEPT
    )
    kinds = kinds_of(failures)
    span, by, share = asked()

    return replies.page(
        "overview",
        # Not part of what refreshes itself: scripts keep them up to date.
        charts=[] if request.headers.get("HX-Request") else drawn(span, by, share),
        span=span,
        by=by,
        share=share,
        spans=SPAN_TITLES,
        groups=GROUPS,
        shares=SHARES,
        url=charts_url,
        charts_url=charts_url(".charts"),
        queues=sorted(health, key=_urgency)[:MOST_QUEUES],
        queue_count=len(health),
        sums=_sums(health),
        kinds=kinds[:MOST_KINDS],
        kind_count=len(kinds),
        failure_count=len(failures),
        link=link,
        failed_link=_failed_link,
        depth=depth,
        drained=drained,
    )


def charts() -> ResponseReturnValue:
    """The same charts for scripts, as JSON."""
    queue = forms.asked_name("queue") or None
    span, by, share = asked()

    return jsonify(charts=[chart.as_json() for chart in drawn(span, by, share, queue)])


def asked() -> tuple[str, str, str]:
    """The span, the groups and the times that the address asks for."""
    return (
        forms.choice("span", SPANS, "1h"),
        forms.choice("by", GROUPS, "queue"),
        forms.choice("share", SHARES, "p95"),
    )


def charts_url(endpoint: str = ".overview", **changes: str) -> str:
    """The way to a page with charts, or to their JSON: what the address asks for, with changes."""
    span, by, share = asked()
    kept: dict[str, str] = {"span": span, "by": by, "share": share, **changes}

    return url_for(endpoint, **kept)  # type: ignore[arg-type]


def drawn(span: str, by: str, share: str, queue: str | None = None) -> list[Chart]:
    """The charts of all queues, or of one."""
    site = here()

    def read() -> MetricsReport:
        return curves.read(site.db, span=span, by=by, queue=queue)

    # There are few of all queues; those of one would be as many as there are names.
    found = site.kept(f"charts {span} {by}", read, CHARTS_KEPT[span]) if queue is None else read()

    return curves.charts(found, by=by, share=share)


def queue_health() -> list[QueueHealth]:
    """How the queues stand."""
    site = here()
    found: list[QueueHealth] = lately("health", lambda: metrics.queue_health(site.db), HEALTH_KEPT)

    return found


def depth(available: int) -> str:
    """How many jobs wait in a queue; beyond some nobody counts."""
    more = "+" if available >= MOST_COUNTED else ""

    return f"{formats.number(available)}{more}"


def drained(health: QueueHealth) -> str:
    """In which time a queue will be empty, as it goes."""
    if not health.available:
        return "–"

    if health.drain_estimate is None:
        # Where jobs run, and none has ended lately, nobody can tell.
        return "never" if health.paused or not health.nodes else "unknown"

    more = "> " if health.available >= MOST_COUNTED else ""

    return f"{more}{formats.duration(health.drain_estimate)}"


def kinds_of(failures: Iterable[Failure]) -> list[Kind]:
    """Failures by what they look like; what fails most comes first."""
    found: dict[tuple[str, str], Kind] = {}
    lines: dict[str | None, str] = {}

    for failure in failures:
        # What fails again and again says the same each time, and it may be long.
        if (line := lines.get(failure.error)) is None:
            line = formats.first_line(failure.error) or "no error was recorded"
            lines[failure.error] = line

        key = failure.worker, _VARIES.sub("#", line)
        kind = found.setdefault(key, Kind(failure.worker, failure, line))
        kind.jobs += 1
        kind.discarded += failure.state == "discarded"
        kind.queues.add(failure.queue)

    return sorted(found.values(), key=lambda kind: kind.jobs, reverse=True)


def _failed_link(worker: str) -> str | None:
    return link("workers", worker, Filter(states=(JobState.RETRYABLE, JobState.DISCARDED)))


def _urgency(health: QueueHealth) -> tuple[bool, float, str]:
    return health.available == 0, -health.oldest_age, health.queue


def _sums(health: Iterable[QueueHealth]) -> dict[str, float]:
    names = ("available", "executing", "scheduled", "retryable", "slots", "busy", "throughput")

    return {name: sum(getattr(each, name) for each in health) for name in names}
