"""The options of the loops that keep a node alive and its cluster in order."""

from __future__ import annotations

from dataclasses import dataclass

from oban_sync.core.checks import Check, check_flag, check_options, check_seconds, check_whole
from oban_sync.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class StagerConfig:
    """The loop that makes due jobs available.

    Attributes:
        interval: Seconds between rounds; also how late a job may start when a NOTIFY was lost.
        limit: Most jobs staged by one statement; a full batch is followed by the next at once.
    """

    interval: float = 1.0
    limit: int = 5_000


@dataclass(frozen=True, slots=True)
class RefresherConfig:
    """The loop that tells the cluster that this node lives.

    Attributes:
        interval: Seconds between two beats.
        max_age: Seconds without a beat after which others take the node for dead, whatever its
            session lock says.
        unlocked_max_age: The same once its session lock is free, which it is the moment the process
            dies, and also while a live node connects anew.
    """

    interval: float = 3.0
    max_age: float = 60.0
    unlocked_max_age: float = 6.0


@dataclass(frozen=True, slots=True)
class LeadershipConfig:
    """The lease of the one node that does the work of the whole cluster.

    Attributes:
        enabled: Whether this node may lead.
        interval: Seconds between renewals.
        ttl: Seconds for which a lease lasts when it is not renewed.
    """

    enabled: bool = True
    interval: float = 2.5
    ttl: float = 8.0


@dataclass(frozen=True, slots=True)
class LifelineConfig:
    """The loop that gives back the jobs of nodes that died.

    Attributes:
        interval: Seconds between looks at the other nodes.
        rescue_after: Seconds after which a job is given back whose node cannot be known: it is none
            of ours, or its row was lost. Jobs of our own nodes are never judged by their age.
        limit: Most jobs given back by one statement; a full batch is followed by the next at once.
    """

    interval: float = 2.0
    rescue_after: float = 300.0
    limit: int = 1_000


def check_stager(option: str, value: object) -> StagerConfig:
    """The options of the stager."""
    return check_options(option, value, StagerConfig, {"interval": _interval, "limit": _limit})


def check_refresher(option: str, value: object) -> RefresherConfig:
    """The options of the refresher; the beats have to fit into the ages."""
    checked = check_options(
        option,
        value,
        RefresherConfig,
        {"interval": _interval, "max_age": check_seconds, "unlocked_max_age": check_seconds},
    )

    for name, beats in (("max_age", 4), ("unlocked_max_age", 2)):
        if (age := getattr(checked, name)) < beats * checked.interval:
            raise ConfigError(
                f"{option}.{name}",
                f"{age:g} is too short for an interval of {checked.interval:g}: a beat or two may "
                f"be late; give {beats * checked.interval:g} or more",
            )

    if checked.max_age < checked.unlocked_max_age:
        raise ConfigError(
            f"{option}.max_age", f"must not be less than unlocked_max_age {checked.max_age:g}"
        )

    return checked


def check_leadership(option: str, value: object) -> LeadershipConfig:
    """The options of the lease; True and False alone say whether this node may lead."""
    if isinstance(value, (bool, str)):
        return LeadershipConfig(enabled=check_flag(option, value))

    checked = check_options(
        option,
        value,
        LeadershipConfig,
        {"enabled": check_flag, "interval": _interval, "ttl": check_seconds},
    )

    # A leader trusts its lease until a second before the end, and has to be able to miss a renewal.
    if checked.ttl < 2 * checked.interval + 1.0:
        raise ConfigError(
            f"{option}.ttl",
            f"{checked.ttl:g} is too short for an interval of {checked.interval:g}; give "
            f"{2 * checked.interval + 1.0:g} or more",
        )

    return checked


def check_lifeline(option: str, value: object) -> LifelineConfig:
    """The options of the lifeline."""
    return check_options(
        option,
        value,
        LifelineConfig,
        {"interval": _interval, "rescue_after": _least_a_second, "limit": _limit},
    )


def _least_a_second(option: str, value: object) -> float:
    return check_seconds(option, value, least=1.0)


def _interval(option: str, value: object) -> float:
    return check_seconds(option, value, least=0.01)


def _limit(option: str, value: object) -> int:
    return check_whole(option, value, 1, 100_000)


#: How each of these options is checked.
CHECKS: dict[str, Check] = {
    "stager": check_stager,
    "refresher": check_refresher,
    "leadership": check_leadership,
    "lifeline": check_lifeline,
}
