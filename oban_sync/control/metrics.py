"""What people ask of metrics: curves of what ran and how long it took, and how queues stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Literal

from oban_sync.core.checks import check_choice, check_seconds, check_whole
from oban_sync.core.errors import ConfigError, shown
from oban_sync.core.metering import FINE, FINE_AGE, HOUR, HOUR_AGE, LONG, MINUTE, MINUTE_AGE
from oban_sync.engine import metrics
from oban_sync.engine.metrics import Look, Measured, Whole
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

#: Which share of all took no longer, for each of the times that are told.
SHARES = (0.5, 0.95, 0.99)

#: Seconds that a point may stand for, where its span allows it; each is a multiple of the first
#: that is allowed.
_STEPS = (10, 20, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: The longest span, in seconds: ten years.
_LONGEST = 3_653 * 86_400.0


@dataclass(frozen=True, slots=True)
class Point:
    """What ran in one step of time. Times are seconds, within 4 % of the true ones.

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
    """How long things took, in seconds, within 4 %; None where there were none.

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
        others: How many curves the last one of `ran` and `waited` stands for, called ``(other)``; 0
            where none were put together.
        failed_others: Likewise of `failed`.
        summary: All in all.
    """

    ran: list[Series]
    waited: list[Series]
    failed: list[Series]
    others: int
    failed_others: int
    summary: MetricsSummary


#: Which times of what was measured are meant, and which number.
Blob = Callable[[Measured], bytes | None]
Number = Callable[[Measured], int]

_RAN: Blob = attrgetter("ran")
_WAITED: Blob = attrgetter("waited")
_JOBS: Number = attrgetter("jobs")
_FAILED: Number = attrgetter("failed")


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
    Jobs that a drain ran are not counted. What is older than five minutes is known by minutes, than
    an hour by hours, and than a day by three hours, so longer spans have longer steps. How long
    jobs took is known by queue and worker, by queue and state, and by node and state; what else
    comes together, as a worker on one node, has numbers alone.

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
    seconds, step = _asked(since, points)

    with db.session() as tx:
        steps = _steps(metrics.now(tx), seconds, step)
        look = Look(steps.start, step, by, queue, worker, node, state)
        found = metrics.measured(tx, look, ran=series == "exec_time", waited=series == "wait_time")

    curves = _Curves(found, steps, most=MOST_SERIES, kept=MOST_SERIES - 1)

    return curves.series(_WAITED if series == "wait_time" else _RAN, timed_others=True)


def metrics_report(
    db: Db,
    *,
    since: float | timedelta = 3_600.0,
    by: By = "queue",
    queue: str | None = None,
    points: int = 60,
    lines: int = 7,
) -> MetricsReport:
    """All that a page of charts shows, from one look.

    Args:
        db: Where the tables are.
        since: As `list_metrics`, like the others.
        by: What the curves stand for.
        queue: Only of this queue.
        points: About how many points a curve has.
        lines: How many curves a chart has; the others are one, without times.

    Raises:
        ConfigError, DatabaseUnavailableError: As `list_metrics`.
    """
    check_choice("by", by, "state", "queue", "worker", "node")
    seconds, step = _asked(since, points)

    with db.session() as tx:
        now = metrics.now(tx)
        steps = _steps(now, seconds, step)
        look = Look(steps.start, step, by, queue)
        found = metrics.measured(tx, look, ran=True, waited=True)
        whole = metrics.whole(tx, look)

    curves = _Curves(found, steps, most=lines, kept=lines)
    failed = _Curves(found, steps, _FAILED, most=lines, kept=lines)

    return MetricsReport(
        ran=curves.series(_RAN),
        waited=curves.series(_WAITED),
        failed=failed.series(),
        others=curves.others,
        failed_others=failed.others,
        summary=_summary(whole, now - steps.start, seconds),
    )


def metrics_summary(db: Db, *, since: float | timedelta = 3_600.0) -> MetricsSummary:
    """What ran in a span of time, all in all; as `list_metrics`.

    Args:
        db: Where the tables are.
        since: The span, in seconds up to now; whole steps, as there.

    Raises:
        ConfigError, DatabaseUnavailableError: As `list_metrics`.
    """
    seconds, step = _asked(since, 60)

    with db.session() as tx:
        now = metrics.now(tx)
        steps = _steps(now, seconds, step)
        whole = metrics.whole(tx, Look(steps.start, step, "state"))

    return _summary(whole, now - steps.start, seconds)


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
    least = FINE

    for age, period in ((FINE_AGE, MINUTE), (MINUTE_AGE, HOUR), (HOUR_AGE, LONG)):
        if since > age:
            least = period

    wanted = since / points

    for step in _STEPS:
        if step >= least and step >= wanted:
            return step

    days = _STEPS[-1]

    return int(-(-wanted // days)) * days


def _asked(since: object, points: object) -> tuple[float, int]:
    """The seconds of a span, and of each of its steps."""
    seconds = _span(since)

    return seconds, step_of(seconds, check_whole("points", points, 1, MOST_POINTS))


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


def _summary(whole: Iterable[Whole], covered: float, seconds: float) -> MetricsSummary:
    found = list(whole)
    states = {item.state: item.jobs for item in found}
    jobs = sum(states.values())
    ran, waited = (
        metrics.sketch_of(b"".join(map(blob, found)))
        for blob in (attrgetter("ran"), attrgetter("waited"))
    )

    return MetricsSummary(
        since=seconds,
        jobs=jobs,
        throughput=jobs / covered,
        failures=sum(states.get(state, 0) for state in metrics.FAILED),
        states=states,
        exec_time=Times(*_seconds(*ran.quantiles(*SHARES), ran.max)),
        wait_time=Times(*_seconds(*waited.quantiles(*SHARES), waited.max)),
    )


class _Curves:
    """The curves of what was measured, those of most jobs first.

    Attributes:
        others: How many of them were put together to one, the last, called `OTHER`.
    """

    def __init__(
        self,
        measured: Iterable[Measured],
        steps: range,
        number: Number = _JOBS,
        *,
        most: int,
        kept: int,
    ) -> None:
        """Sort them.

        Args:
            measured: What was measured, each label once in a step.
            steps: When each step begins.
            number: What is counted; where all of it is 0, there is no curve.
            most: Of more curves than these ...
            kept: ... so many are kept, and the others are put together.
        """
        self._moments = [(at, _EPOCH + timedelta(seconds=at)) for at in steps]
        self._number = number
        found: dict[str, dict[int, Measured]] = {}
        jobs: dict[str, int] = {}

        for item in measured:
            if count := number(item):
                label = item.label
                jobs[label] = jobs.get(label, 0) + count
                found.setdefault(label, {})[item.at] = item

        # Those that were counted together already come last.
        ranks = sorted(found, key=lambda label: (label == OTHER, -jobs[label], label))
        rest = ranks[kept:] if len(ranks) > most else []
        self.others = len(rest)
        self._kept = {label: found[label] for label in ranks[: len(ranks) - len(rest)]}
        self._rest: dict[int, list[Measured]] = {}

        for label in rest:
            for at, item in found[label].items():
                self._rest.setdefault(at, []).append(item)

    def series(self, blob: Blob | None = None, *, timed_others: bool = False) -> list[Series]:
        """The curves, with a point for every step.

        Args:
            blob: Which times they tell, besides numbers.
            timed_others: Whether those that were put together tell times as well.
        """
        number = self._number
        curves = [
            Series(
                label,
                [
                    _point(moment, number(item), blob and blob(item))
                    if (item := items.get(at)) is not None
                    else Point(moment, 0)
                    for at, moment in self._moments
                ],
            )
            for label, items in self._kept.items()
        ]

        if self.others:
            curves.append(Series(OTHER, list(self._together(blob if timed_others else None))))

        return curves

    def _together(self, blob: Blob | None) -> Iterator[Point]:
        for at, moment in self._moments:
            items = self._rest.get(at, ())
            data = None if blob is None else b"".join([blob(item) or b"" for item in items])

            yield _point(moment, sum([self._number(item) for item in items]), data)


def _point(moment: datetime, count: int, data: bytes | None) -> Point:
    """A point, with the times of packed sketches."""
    if not data:
        return Point(moment, count)

    return Point(moment, count, *_seconds(*metrics.quantiles_of(data, *SHARES)))


def _seconds(*nanoseconds: float | None) -> list[float | None]:
    return [None if each is None else each / 1e9 for each in nanoseconds]
