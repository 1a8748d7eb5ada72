"""Limits of a queue over the whole cluster, and how its jobs take turns.

What is allowed is checked here, when a queue is configured; `engine.limits` keeps it, when jobs are
taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oban_sync.core import checks, payload
from oban_sync.core.checks import check_choice, check_flag, check_whole
from oban_sync.core.errors import (
    ConfigError,
    InvalidJobError,
    JobDecodeError,
    nearest,
    shown,
    unknown,
)
from oban_sync.core.job import Job

#: The keys of a queue's options that are read here.
KEYS = ("global_limit", "rate_limit", "partition", "fair")

#: How starts are counted over time.
ALGORITHMS = ("sliding_window", "fixed_window", "token_bucket")

MOST_ALLOWED = 1_000_000

#: Jobs of one key in a row, in a queue with fair share.
MOST_WEIGHT = 1_000

#: A millisecond to a year.
LEAST_PERIOD, MOST_PERIOD = 0.001, 366 * 86_400.0

_FORM = '"worker", {"args": ["key"]}, {"meta": ["key"]}, or a list of these'


@dataclass(frozen=True, slots=True, order=True)
class Field:
    """One thing that divides the jobs of a queue.

    Attributes:
        source: ``worker``, ``args`` or ``meta``.
        key: The key inside of args or meta; empty for the worker.
    """

    source: str
    key: str = ""


#: What divides a queue: always in one order, so that all nodes reckon alike.
Partition = tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Rate:
    """How many jobs may start in a time.

    Attributes:
        allowed: So many, or so much weight.
        period: Seconds.
        algorithm: One of `ALGORITHMS`.
        partitioned: Counted for each value of the partition by itself.
    """

    allowed: int
    period: float
    algorithm: str = "sliding_window"
    partitioned: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """What a queue may do beside its limit on one node; nothing by default.

    Attributes:
        queue: The option that holds it all, for messages.
        allowed: Most jobs at once, over all nodes.
        partitioned: Whether that is meant for each value of the partition.
        burst: Whether one value may have more while slots would stay empty.
        rate: How many may start in a time.
        partition: What divides the queue.
        fair: Whether the values of `lane_by` take turns.
        lane_by: What divides the queue, for limits or for turns.
        weights: Values of the one key that jobs take turns by, as JSON, and how many jobs in a row
            each gets; others get one.
    """

    queue: str = ""
    allowed: int | None = None
    partitioned: bool = False
    burst: bool = False
    rate: Rate | None = None
    partition: Partition = ()
    fair: bool = False
    lane_by: Partition = ()
    weights: tuple[tuple[str, int], ...] = ()

    @property
    def most_running(self) -> int | None:
        """Most jobs of the queue at once over all nodes, where that is one number."""
        return None if self.partitioned else self.allowed

    @property
    def any(self) -> bool:
        """Whether there is anything to look after."""
        return self.allowed is not None or self.rate is not None or self.fair

    def missing(self, job: Job) -> str | None:
        """Why a job cannot be told apart by the partition; None when it can.

        Raises:
            JobDecodeError: Its args or meta cannot be read.
        """
        for field in self.partition:
            if field.source == "worker":
                continue

            held = job.args if field.source == "args" else job.meta

            if field.key not in held:
                return (
                    f"{field.source} lack the key {field.key!r}, by which {self.queue}.partition "
                    "divides the queue"
                )

        return None

    def refusal(self, job: Job) -> str | None:
        """Why a job that was taken cannot be run under these limits; None when it can.

        One that cannot be read at all is not judged: its run fails by itself.
        """
        try:
            weight = job.kept("weight")

            # What the fetch reads is the row: it charged such a job as the whole of a window.
            if self.rate is not None and _is_number(weight) and weight > self.rate.allowed:
                return (
                    f"the job weighs {weight}, and {self.queue}.rate_limit.allowed is "
                    f"{self.rate.allowed}: it can never fit"
                )

            return self.missing(job)
        except JobDecodeError:
            return None


def check_limits(path: str, given: Mapping[str, object]) -> Limits:
    """The limits among a queue's options.

    Args:
        path: Names the queue in errors.
        given: Only what is named in `KEYS`.

    Raises:
        ConfigError: An option is wrong, or two of them contradict each other.
    """
    shared = _partition(f"{path}.partition", given["partition"]) if "partition" in given else ()
    allowed, own, burst = _global(f"{path}.global_limit", given.get("global_limit"))
    rate, rated = _rate(f"{path}.rate_limit", given.get("rate_limit"))
    fair, weights = _fair(f"{path}.fair", given["fair"]) if "fair" in given else ((), ())

    if shared and allowed is None and rate is None:
        raise ConfigError(
            f"{path}.partition", "divides nothing; give a global_limit or a rate_limit, or fair"
        )

    partition = _only_one(
        {
            f"{path}.partition": shared,
            f"{path}.global_limit.partition": own,
            f"{path}.rate_limit.partition": rated,
        }
    )

    if fair and partition and fair != partition:
        raise ConfigError(
            f"{path}.fair",
            f"is by {_worded(fair)}, the partition by {_worded(partition)}; a queue is divided "
            "one way",
        )

    if burst and not (shared or own):
        raise ConfigError(f"{path}.global_limit.burst", "is for a partition; give one")

    return Limits(
        queue=path,
        allowed=allowed,
        partitioned=allowed is not None and bool(shared or own),
        burst=burst,
        rate=rate and Rate(rate.allowed, rate.period, rate.algorithm, bool(shared or rated)),
        partition=partition,
        fair=bool(fair),
        lane_by=partition or fair,
        weights=weights,
    )


def check_rate(option: str, given: object) -> Rate:
    """A limit over time, without a partition.

    Raises:
        ConfigError: It is wrong.
    """
    _known(option, given, ("allowed", "period", "algorithm"))

    return _rate(option, given)[0] or _lacks(option, "allowed", "period")


def lane_of(partition: Partition, path: str, key: object) -> tuple[str, dict[str, Any], Any]:
    """The worker, args and meta of a job that would be in the lane of a key.

    Args:
        partition: What divides the lanes.
        path: Names the argument in errors.
        key: The value, where there is one field. Else a mapping, as ``{"worker": "app.Import",
            "args": {"account_id": 7}}``.

    Raises:
        ConfigError: The key does not name the lane.
    """
    if len(partition) == 1:
        [field] = partition
        key = {field.source: key if field.source == "worker" else {field.key: key}}

    sources: dict[str, Any] = {"worker": "", "args": {}, "meta": {}}

    for field in partition:
        held = key.get(field.source) if isinstance(key, Mapping) else None

        if field.source == "worker":
            sources["worker"] = held
        elif isinstance(held, Mapping) and field.key in held:
            sources[field.source][field.key] = held[field.key]
        else:
            held = None

        if held is None or (field.source == "worker" and not isinstance(held, str)):
            raise ConfigError(path, f"{shown(key)} does not name {_worded(partition)}")

    return sources["worker"], sources["args"], sources["meta"]


def _global(option: str, given: object) -> tuple[int | None, Partition, bool]:
    if given is None or not isinstance(given, Mapping):
        allowed = None if given is None else check_whole(option, given, 1, MOST_ALLOWED)

        return allowed, (), False

    _known(option, given, ("allowed", "partition", "burst"))

    if given.get("allowed") is None:
        _lacks(option, "allowed")

    burst = given.get("burst")
    divided = given.get("partition")

    return (
        check_whole(f"{option}.allowed", given["allowed"], 1, MOST_ALLOWED),
        () if divided is None else _partition(f"{option}.partition", divided),
        False if burst is None else check_flag(f"{option}.burst", burst),
    )


def _rate(option: str, given: object) -> tuple[Rate | None, Partition]:
    if given is None:
        return None, ()

    said = _known(option, given, ("allowed", "period", "algorithm", "partition"))

    if said.get("allowed") is None or said.get("period") is None:
        _lacks(option, *(key for key in ("allowed", "period") if said.get(key) is None))

    divided = said.get("partition")
    rate = Rate(
        check_whole(f"{option}.allowed", said["allowed"], 1, MOST_ALLOWED),
        _period(f"{option}.period", said["period"]),
        check_choice(f"{option}.algorithm", said.get("algorithm") or ALGORITHMS[0], *ALGORITHMS),
    )

    return rate, () if divided is None else _partition(f"{option}.partition", divided)


def _fair(option: str, given: object) -> tuple[Partition, tuple[tuple[str, int], ...]]:
    if not isinstance(given, Mapping) or "weights" not in given:
        return _partition(option, given), ()

    by = {key: item for key, item in given.items() if key != "weights"}
    partition = _partition(option, by)
    weights = given["weights"]
    path = f"{option}.weights"

    if not isinstance(weights, Mapping) or not weights:
        raise ConfigError(path, f'{shown(weights)} is not allowed; give {{"acme": 3}}')

    if len(partition) != 1:
        raise ConfigError(path, f"are for one key, not for {_worded(partition)}")

    found = {}

    for value, weight in weights.items():
        if not isinstance(value, str | int | float | bool):
            raise ConfigError(path, f"{shown(value)} is no value of a key")

        said = _jsonable(path, value)
        found[said] = check_whole(f"{path}[{value!r}]", weight, 1, MOST_WEIGHT)

    return partition, tuple(sorted(found.items()))


def _partition(option: str, given: object) -> Partition:
    parts = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    fields = [field for part in parts for field in _fields(option, part)]

    if not fields:
        raise ConfigError(option, f"{shown(given)} divides nothing; give {_FORM}")

    for field in fields:
        if fields.count(field) > 1:
            raise ConfigError(option, f"{_worded((field,))} stands in it twice")

    return tuple(sorted(fields))


def _fields(option: str, part: object) -> Iterable[Field]:
    if isinstance(part, str):
        if part != "worker":
            name = "key" if part in ("args", "meta") else part
            where = part if part in ("args", "meta") else "args"

            raise ConfigError(
                option,
                f'{shown(part)} is not allowed; give {{"{where}": "{name}"}}, or "worker".'
                f"{nearest(part, ['worker'])}",
            )

        return [Field("worker")]

    if not isinstance(part, Mapping):
        raise ConfigError(option, f"{shown(part)} is not allowed; give {_FORM}")

    fields = []

    for source, keys in part.items():
        if source not in ("args", "meta"):
            raise ConfigError(f"{option}.{source}", unknown(source, ("args", "meta")))

        for key in [keys] if isinstance(keys, str) else _listed(f"{option}.{source}", keys):
            if not isinstance(key, str) or not key or "\0" in key:
                raise ConfigError(f"{option}.{source}", f"{shown(key)} is not the name of a key")

            _jsonable(f"{option}.{source}", key)
            fields.append(Field(source, key))

    return fields


def _jsonable(option: str, value: object) -> str:
    try:
        return payload.encode_any(value, option)
    except InvalidJobError as error:
        raise ConfigError(option, error.problem) from None


def _listed(option: str, keys: object) -> Sequence[object]:
    if not isinstance(keys, list | tuple) or not keys:
        raise ConfigError(option, f'{shown(keys)} is not allowed; give keys, as ["account_id"]')

    return keys


def _only_one(partitions: Mapping[str, Partition]) -> Partition:
    said = {option: partition for option, partition in partitions.items() if partition}

    for (first, one), (second, other) in zip(
        list(said.items()), list(said.items())[1:], strict=False
    ):
        if one != other:
            raise ConfigError(
                second,
                f"is by {_worded(other)}, {first} by {_worded(one)}; a queue is divided one way",
            )

    return next(iter(said.values()), ())


def _known(option: str, given: object, allowed: Iterable[str]) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError(option, f"{shown(given)} is not a mapping of {', '.join(allowed)}")

    for key in given:
        if key not in allowed:
            raise ConfigError(f"{option}.{key}", unknown(key, allowed))

    return given


def _lacks(option: str, *keys: str) -> Any:
    raise ConfigError(option, f"lacks {' and '.join(keys)}")


def _period(option: str, given: object) -> float:
    period = checks.check_seconds(option, given)

    if not LEAST_PERIOD <= period <= MOST_PERIOD:
        raise ConfigError(
            option,
            f"{shown(given)} is not allowed; give seconds, {LEAST_PERIOD:g} to {MOST_PERIOD:,.0f}",
        )

    return period


def _worded(partition: Partition) -> str:
    return ", ".join(
        f"{field.source} {field.key!r}" if field.key else field.source for field in partition
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
