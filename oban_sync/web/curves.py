"""The charts: what ran, how long it took, how long it waited, and what failed.

All of it comes from what nodes counted; no job is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast

from markupsafe import Markup

from oban_sync.control import metrics
from oban_sync.control.metrics import By, MetricsReport, Point, Series, Times
from oban_sync.core.clock import utc_now
from oban_sync.core.job import JobState
from oban_sync.engine.session import Db
from oban_sync.web import formats, svg

#: Spans of time by their names in addresses: seconds, and about how many points a curve has.
SPANS: dict[str, tuple[float, int]] = {
    "5m": (300.0, 30),
    "1h": (3_600.0, 60),
    "24h": (86_400.0, 48),
    "7d": (604_800.0, 56),
}

SPAN_TITLES = {"5m": "5 min", "1h": "1 h", "24h": "24 h", "7d": "7 d"}

#: What curves may stand for.
GROUPS: tuple[By, ...] = ("queue", "state", "worker", "node")

#: Which times are drawn.
SHARES = ("p50", "p95", "p99", "max")

#: Curves of a chart; the others are one.
MOST_LINES = 7

#: What these are called.
OTHERS = "all others"

#: Seconds until what ran is counted for certain.
_LATE = 12.0

Share = Literal["p50", "p95", "p99", "max"]


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart.

    Attributes:
        name: Identifies it on its page.
        title: What stands above it.
        unit: ``rate`` for jobs a second, ``count`` for jobs, ``time`` for seconds.
        figure: The number that stands for all of it.
        times: When its points were, in seconds since 1970.
        lines: Its curves.
    """

    name: str
    title: str
    unit: str
    figure: str
    times: list[float]
    lines: list[svg.Line]

    @property
    def begins(self) -> datetime | None:
        """When its first point was."""
        return datetime.fromtimestamp(self.times[0], UTC) if self.times else None

    @property
    def drawing(self) -> Markup:
        """It, for where no scripts run."""
        return svg.curves(self.lines, label=f"{self.title}: {self.figure}")

    @property
    def top(self) -> str:
        """What the upper edge of the drawing stands for."""
        return self.text(svg.highest(self.lines)) if self.lines else ""

    def text(self, value: float | None) -> str:
        """A value of it, as people read it."""
        return _text(self.unit, value)

    def last(self, line: svg.Line) -> str:
        """The newest value of a curve."""
        return self.text(
            next((value for value in reversed(line.values) if value is not None), None)
        )

    def most(self, line: svg.Line) -> str:
        """The highest value of a curve."""
        return self.text(max((value for value in line.values if value is not None), default=None))

    def as_json(self) -> dict[str, Any]:
        """It, for scripts."""
        return {
            "name": self.name,
            "unit": self.unit,
            "figure": self.figure,
            "times": self.times,
            "lines": [
                {
                    "label": line.label,
                    "shown": formats.line(line.label),
                    "kind": line.kind,
                    "values": line.values,
                }
                for line in self.lines
            ],
        }


def read(db: Db, *, span: str, by: str, queue: str | None = None) -> MetricsReport:
    """Read what charts need.

    Args:
        db: Where the tables are.
        span: One of `SPANS`.
        by: One of `GROUPS`.
        queue: Only of this queue.
    """
    since, points = SPANS[span]

    return metrics.metrics_report(
        db, since=since, by=cast(By, by), queue=queue, points=points, lines=MOST_LINES
    )


def charts(found: MetricsReport, *, by: str, share: str) -> list[Chart]:
    """The charts of what was read.

    Args:
        found: What was read.
        by: What it was read by.
        share: One of `SHARES`: which times are drawn.
    """
    summary = found.summary
    share = cast(Share, share)

    def timed(point: Point, _: float) -> float | None:
        return cast("float | None", getattr(point, share))

    def rate(point: Point, seconds: float) -> float | None:
        return point.count / seconds

    def count(point: Point, _: float) -> float | None:
        return float(point.count)

    # A queue has one colour in all of them; what fails may be too few jobs to be among the others.
    labels = dict.fromkeys(series.label for series in (*found.ran, *found.failed))
    kinds = {label: kind_of(by, label, place) for place, label in enumerate(labels)}

    return [
        _chart(
            "throughput",
            "Throughput",
            "rate",
            f"{formats.number(summary.throughput)}/s",
            found.ran,
            kinds,
            rate,
            others=found.others,
        ),
        _chart(
            "run",
            "Run time",
            "time",
            _share_text(share, summary.exec_time),
            found.ran[: len(found.ran) - bool(found.others)],
            kinds,
            timed,
        ),
        _chart(
            "wait",
            "Wait time",
            "time",
            _share_text(share, summary.wait_time),
            found.waited[: len(found.waited) - bool(found.others)],
            kinds,
            timed,
        ),
        _chart(
            "failures",
            "Failures",
            "count",
            f"{summary.failures:,}{f' of {formats.compact(summary.jobs)}' if summary.jobs else ''}",
            found.failed,
            kinds,
            count,
            others=found.failed_others,
        ),
    ]


def kind_of(by: str, label: str, place: int) -> str:
    """The class that gives a curve its colour."""
    if by == "state" and label in set(JobState):
        return f"s-{label}"

    return "c-other" if label in (OTHERS, metrics.OTHER) else f"c-{place % MOST_LINES}"


def _chart(
    name: str,
    title: str,
    unit: str,
    figure: str,
    series: Sequence[Series],
    kinds: Mapping[str, str],
    value: Callable[[Point, float], float | None],
    *,
    others: int = 0,
) -> Chart:
    """A chart of some series.

    Args:
        kinds: What gives each curve its colour, by label.
        others: How many curves the last one stands for.
    """
    times, spans = _steps(series)
    lines = []

    for each in series:
        values = [value(point, seconds) for point, seconds in zip(each.points, spans, strict=False)]
        lines.append(svg.Line(values, kinds.get(each.label, "c-other"), each.label))

    if others:
        last = lines.pop()
        lines.append(svg.Line(last.values, "c-other", f"{OTHERS} ({others})"))

    return Chart(name, title, unit, figure, times, lines)


def _steps(series: Sequence[Series]) -> tuple[list[float], list[float]]:
    """When the steps began that can be drawn, and how many seconds of each are over."""
    if not series:
        return [], []

    points = series[0].points
    step = (points[1].at - points[0].at).total_seconds() if len(points) > 1 else 60.0
    now = utc_now().timestamp()
    times = [point.at.timestamp() for point in points]

    # Of a step that has just begun, or is not counted yet, next to nothing is known.
    while len(times) > 1 and not _is_known(times[-1], step, now):
        times.pop()

    return times, [max(1.0, min(step, now - at)) for at in times]


def _is_known(at: float, step: float, now: float) -> bool:
    return now - (at + step) >= _LATE or (step >= 20 * _LATE and now - at >= 5 * _LATE)


def _share_text(share: str, times: Times) -> str:
    return f"{share} {formats.duration(getattr(times, share))}"


def _text(unit: str, value: float | None) -> str:
    if value is None:
        return "–"

    if unit == "time":
        return formats.duration(value)

    return f"{formats.number(value)}/s" if unit == "rate" else formats.compact(value)
