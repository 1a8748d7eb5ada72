"""What people ask of metrics: curves of what ran and how long it took, and how queues stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Literal

from oban_sync.core.checks import check_choice, check_seconds, check_whole
from oban_sync.core.errors import ConfigError, shown
from oban_sync.core.metering import FINE_AGE, HOUR, MINUTE, MINUTE_AGE
from oban_sync.core.sketch import Sketch
from oban_sync.engine import metrics
from oban_sync.engine.metrics import Measured
from oban_sync.engine.metrics import QueueHealth as QueueHealth
from oban_sync.engine.session import Db

By = Literal["state", "queue", "worker", "node"]
Kind = Literal["exec_count", "exec_time", "wait_time"]

#: Curves of one chart; the others are one together.
MOST_SERIES = 50

#: What these are called.
OTHER = "(other)"

#: Points of one curve at the most.
MOST_POINTS = 1_000

#: States of runs that failed.
FAILED = ("retryable", "discarded")

#: Seconds that a point may stand for, where its span allows it; each is a multiple of the first
#: that is allowed.
_STEPS = (10, 20, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: The longest span, in seconds: ten years.
_LONGEST = 3_653 * 86_400.0


@dataclass(frozen=True, slots=True)
class Point:
    """What ran in one step of time. Times are seconds, within 2 % of the true ones.

    Attributes:
        at: When the step began.
        count: How many jobs ran.
        p50: Half of them took no longer; None where there were none, or times were not asked for.
        p95: 95 % of them took no longer.
        p99: 99 % of them took no longer.
        max: The longest.
    """

    at: datetime
    count: int
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """One curve.

    Attributes:
        label: The queue, worker, node or state.
        points: One for each step of time, without gaps, oldest first; the last one is not over yet.
    """

    label: str
    points: list[Point]


@dataclass(frozen=True, slots=True)
class Times:
    """How long things took, in seconds, within 2 %; None where there were none.

    Attributes:
        p50: Half of them took no longer.
        p95: 95 % of them took no longer.
        p99: 99 % of them took no longer.
        max: The longest.
    """

    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None


@dataclass(frozen=True, slots=True)
class MetricsSummary:
    """What ran in a span of time.

    Attributes:
        since: The span, in seconds.
        jobs: How many jobs ran, whatever they came to.
        throughput: Of these, a second.
        failures: Runs that failed, whether they are tried again or not.
        states: How many jobs, by what they came to.
        exec_time: How long they ran.
        wait_time: How long they waited, from when they were due to their start.
    """

    since: float
    jobs: int
    throughput: float
    failures: int
    states: dict[str, int]
    exec_time: Times
    wait_time: Times


@dataclass(frozen=True, slots=True)
class MetricsReport:
    """What a page of charts shows.

    Attributes:
        ran: Numbers and run times.
        waited: Numbers and wait times.
        failed: Numbers of runs that failed.
        summary: All in all.
    """

    ran: list[Series]
    waited: list[Series]
    failed: list[Series]
    summary: MetricsSummary


Blob = Callable[[Measured], bytes]

_ran: Blob = attrgetter("ran")
_waited: Blob = attrgetter("waited")

_BLOBS: dict[Kind, Blob | None] = {
    "exec_count": None,
    "exec_time": _ran,
    "wait_time": _waited,
}


def list_metrics(
    db: Db,
    *,
    since: float | timedelta = 3_600.0,
    by: By = "queue",
    series: Kind = "exec_count",
    queue: str | None = None,
    worker: str | None = None,
    node: str | None = None,
    state: str | None = None,
    points: int = 60,
) -> list[Series]:
    """Curves of the jobs that ran on nodes, from what these counted; no job is looked at.

    A job is counted when its run ends, and is here up to an interval later, ten seconds as a rule.
    Jobs that a drain ran are not counted. What is older than five minutes is known by
    minutes, and what is older than an hour by hours, so spans of more have longer steps. How long
    jobs of one node took is known for all queues together, and of one queue for five minutes.

    Args:
        db: Where the tables are.
        since: How far back, in seconds; whole steps, so up to a step more.
        by: What the curves stand for.
        series: ``exec_count`` for numbers alone; ``exec_time`` for how long jobs ran, and
            ``wait_time`` for how long they waited from when they were due.
        queue: Only of this queue ...
        worker: ... this worker ...
        node: ... the nodes of this name ...
        state: ... and runs that came to this: completed, retryable (failed, to be tried again),
            discarded, cancelled, or scheduled (snoozed).
        points: About how many points a curve has, 1 to 1,000.

    Returns:
        The curves, those of most jobs first; of more than 50 the others are one, ``(other)``.

    Raises:
        ConfigError: An argument is wrong.
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    check_choice("by", by, "state", "queue", "worker", "node")
    check_choice("series", series, "exec_count", "exec_time", "wait_time")
    seconds = _span(since)
    step = step_of(seconds, check_whole("points", points, 1, MOST_POINTS))
    now, measured = metrics.list_metrics(
        db,
        since=seconds,
        step=step,
        label=by,
        exec_time=series == "exec_time",
        wait_time=series == "wait_time",
        queue=queue,
        worker=worker,
        node=node,
        state=state,
    )

    return _Curves(measured, _steps(now, seconds, step), _BLOBS[series]).series


def metrics_report(
    db: Db,
    *,
    since: float | timedelta = 3_600.0,
    by: By = "queue",
    queue: str | None = None,
    points: int = 60,
    timed: int = MOST_SERIES,
) -> MetricsReport:
    """All that a page of charts shows, from one look.

    Args:
        db: Where the tables are.
        since: As `list_metrics`, like the others.
        by: What the curves stand for.
        queue: Only of this queue.
        points: About how many points a curve has.
        timed: How many curves have times; of the others only numbers are told.

    Raises:
        ConfigError, DatabaseUnavailableError: As `list_metrics`.
    """
    check_choice("by", by, "state", "queue", "worker", "node")
    seconds = _span(since)
    step = step_of(seconds, check_whole("points", points, 1, MOST_POINTS))
    now, measured = metrics.list_metrics(
        db, since=seconds, step=step, label=by, exec_time=True, wait_time=True, queue=queue
    )
    steps = _steps(now, seconds, step)
    failed = [item for item in measured if item.state in FAILED]
    ran, waited = (_Curves(measured, steps, blob, timed) for blob in (_ran, _waited))

    return MetricsReport(
        ran.series,
        waited.series,
        _Curves(failed, steps, None).series,
        _summary(measured, now - steps[0], seconds, ran.whole, waited.whole),
    )


def metrics_summary(db: Db, *, since: float | timedelta = 3_600.0) -> MetricsSummary:
    """What ran in a span of time, all in all; as `list_metrics`.

    Args:
        db: Where the tables are.
        since: The span, in seconds up to now; whole steps, as there.

    Raises:
        ConfigError, DatabaseUnavailableError: As `list_metrics`.
    """
    seconds = _span(since)
    step = step_of(seconds, 60)
    now, measured = metrics.list_metrics(
        db, since=seconds, step=step, label="state", exec_time=True, wait_time=True
    )

    ran, waited = (metrics.sketch_of(b"".join(map(blob, measured))) for blob in (_ran, _waited))

    return _summary(measured, now - _steps(now, seconds, step)[0], seconds, ran, waited)


def queue_health(db: Db) -> list[QueueHealth]:
    """How the queues stand over all nodes, by name, as the view ``oban_queue_health`` has it.

    Those are in it that a live node runs, or that have jobs available or executing. Its cost is
    bounded: depths are counted up to 10,000, whatever there is.

    Raises:
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    return metrics.queue_health(db)


def step_of(since: float, points: int) -> int:
    """Seconds of a step, for about so many points; never shorter than what is known of the span."""
    least = 10

    if since > MINUTE_AGE:
        least = HOUR
    elif since > FINE_AGE:
        least = MINUTE

    wanted = since / points

    for step in _STEPS:
        if step >= least and step >= wanted:
            return step

    days = _STEPS[-1]

    return int(-(-wanted // days)) * days


def _span(since: object) -> float:
    seconds = check_seconds("since", since, least=1.0)

    if seconds > _LONGEST:
        raise ConfigError("since", f"{shown(since)} is not allowed; give ten years or less")

    return seconds


def _steps(now: float, seconds: float, step: int) -> range:
    """When the steps of a span begin, up to the one that goes on.

    Of rows from a time to come, after the clock was set back, nothing is shown.
    """
    return range(int((now - seconds) // step) * step, int(now // step) * step + step, step)


def _summary(
    measured: Iterable[Measured], covered: float, seconds: float, ran: Sketch, waited: Sketch
) -> MetricsSummary:
    states: dict[str, int] = {}

    for item in measured:
        states[item.state] = states.get(item.state, 0) + item.jobs

    jobs = sum(states.values())

    return MetricsSummary(
        since=seconds,
        jobs=jobs,
        throughput=jobs / covered,
        failures=sum(states.get(state, 0) for state in FAILED),
        states=states,
        exec_time=_times(ran),
        wait_time=_times(waited),
    )


class _Curves:
    """The curves of what was counted.

    Attributes:
        series: The curves.
        whole: How long all of it took together.
    """

    def __init__(
        self,
        measured: Iterable[Measured],
        steps: range,
        blob: Blob | None,
        timed: int = MOST_SERIES,
    ) -> None:
        self._blob = blob
        self.whole = Sketch()
        self.series = []

        for place, (label, items) in enumerate(_by_label(measured).items()):
            points = [self._point(at, items.get(at, ()), place < timed) for at in steps]
            self.series.append(Series(label, points))

            if blob is not None and place >= timed:
                blobs = (blob(item) for found in items.values() for item in found)
                self.whole.merge(metrics.sketch_of(b"".join(blobs)))

    def _point(self, at: int, items: Sequence[Measured], is_timed: bool) -> Point:
        when, count = _EPOCH + timedelta(seconds=at), sum(item.jobs for item in items)

        if self._blob is None or not is_timed or not items:
            return Point(when, count)

        sketch = metrics.sketch_of(b"".join(map(self._blob, items)))
        self.whole.merge(sketch)
        times = _times(sketch)

        return Point(when, count, times.p50, times.p95, times.p99, times.max)


def _by_label(measured: Iterable[Measured]) -> dict[str, dict[int, list[Measured]]]:
    """What belongs to each curve, by step; the curves of most jobs first."""
    found: dict[str, dict[int, list[Measured]]] = {}
    jobs: dict[str, int] = {}

    for item in measured:
        found.setdefault(item.label, {}).setdefault(item.at, []).append(item)
        jobs[item.label] = jobs.get(item.label, 0) + item.jobs

    # Those that were counted together already come last.
    ranks = sorted(found, key=lambda label: (label == OTHER, -jobs[label], label))

    if len(ranks) <= MOST_SERIES:
        return {label: found[label] for label in ranks}

    kept = {label: found[label] for label in ranks[: MOST_SERIES - 1] if label != OTHER}
    rest: dict[int, list[Measured]] = {}

    for label in ranks:
        for at, items in () if label in kept else found[label].items():
            rest.setdefault(at, []).extend(items)

    return {**kept, OTHER: rest}


def _times(sketch: Sketch) -> Times:
    def seconds(nanoseconds: float | None) -> float | None:
        return None if nanoseconds is None else nanoseconds / 1e9

    return Times(*map(seconds, (*sketch.quantiles(0.5, 0.95, 0.99), sketch.max)))
