"""How jobs are counted for charts: the options, and for how long what was counted is kept."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from oban_sync.core.checks import check_flag, check_options, check_seconds
from oban_sync.core.errors import ConfigError, shown

#: Seconds that rows of nodes may stand for: ten come out of each.
INTERVALS = (1, 2, 5, 10)

#: Seconds that rows stand for when the leader has made them of what nodes wrote, and when it has
#: summed them up once, twice and three times.
FINE = 10
MINUTE = 60
HOUR = 3_600
LONG = 3 * HOUR

#: Seconds after which it does each of that. A chart reads no more than some thousand rows, whether
#: it is one of an hour or of a week.
RAW_AGE = 15
FINE_AGE = 300
MINUTE_AGE = HOUR
HOUR_AGE = 24 * HOUR


class Scope(StrEnum):
    """What rows are told apart by. Each job is in one row of every scope but `RAW`, or of that."""

    #: As nodes wrote them: by everything.
    RAW = "raw"
    #: By everything, without times.
    EACH = "each"
    #: By queue.
    QUEUES = "queues"
    #: By queue and worker.
    WORKERS = "workers"
    #: By queue and state.
    OUTCOMES = "outcomes"
    #: By node and state.
    NODES = "nodes"
    #: By state.
    STATES = "states"


#: Those that the leader makes.
SUMMED = tuple(scope for scope in Scope if scope is not Scope.RAW)


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """Counting what jobs come to, for charts.

    Attributes:
        enabled: Whether this node counts.
        interval: Seconds that are counted together and written at once: 1, 2, 5 or 10.
        keep: Seconds for which it is kept what was counted; by three hours in the end.
        broadcast: Whether Oban Web is told, too: which queues run what each second, how many jobs
            ran, and what the crontab is. For dashboards that are there already; it costs some
            notifications a second.
        name: The name of the instance that is told to Oban Web; this one's where it is None.
        counts: Whether the leader tells Oban Web how many jobs there are; False where a node of
            another Oban does, or they would count twice.
    """

    enabled: bool = True
    interval: float = 10.0
    keep: float = 30 * 86_400.0
    broadcast: bool = False
    name: str | None = None
    counts: bool = True


def check_metrics(option: str, value: object) -> MetricsConfig:
    """The options of counting; True and False alone turn it on and off."""
    if isinstance(value, (bool, str)):
        return MetricsConfig(enabled=check_flag(option, value))

    checked = check_options(
        option,
        value,
        MetricsConfig,
        {
            "enabled": check_flag,
            "interval": _interval,
            "keep": lambda path, given: check_seconds(path, given, least=float(HOUR)),
            "broadcast": check_flag,
            "name": _name,
            "counts": check_flag,
        },
    )

    if checked.broadcast and not checked.enabled:
        raise ConfigError(
            f"{option}.broadcast", "True needs jobs to be counted; leave `enabled` on as well"
        )

    return checked


def _interval(option: str, value: object) -> float:
    interval = check_seconds(option, value)

    if interval not in INTERVALS:
        allowed = ", ".join(map(str, INTERVALS[:-1]))
        raise ConfigError(
            option, f"{shown(value)} is not allowed; give {allowed} or {INTERVALS[-1]} seconds"
        )

    return interval


def _name(option: str, value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable() or " " in value:
        raise ConfigError(option, f"{shown(value)} is not allowed; give a name without spaces")

    return value
