"""How long finished jobs are kept: the options of the pruner, and which rule a job falls under."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from oban_sync.core.checks import check_flag, check_options, check_seconds, check_whole
from oban_sync.core.errors import ConfigError, InvalidJobError, shown, unknown
from oban_sync.core.options import check_name

#: The states in which a job has ended.
FINISHED = ("completed", "cancelled", "discarded")

#: Words for an age that no job reaches.
FOREVER = ("forever", "infinity")

#: Seconds of a hundred years; PostgreSQL cannot count back much further than fifty times that.
LONGEST = 36_525 * 86_400.0

#: Most jobs a `max_len` may keep: finding the newest n takes a look at each of them, every round.
MOST_KEPT = 1_000_000


@dataclass(frozen=True, slots=True)
class Retention:
    """One rule. Where both are given, a job goes as soon as either says so.

    Attributes:
        max_age: Seconds for which a job is kept after it ended; `math.inf` for ever.
        max_len: How many jobs of each state are kept, the newest; None for any number.
    """

    max_age: float = math.inf
    max_len: int | None = None


@dataclass(frozen=True, slots=True)
class PrunerConfig:
    """The loop that deletes finished jobs.

    A job falls under exactly one rule: that of its queue, else of its state, else of its worker,
    else the default. Its age counts from when it was completed, cancelled or discarded. A `max_len`
    counts the jobs of one state that fall under the same rule.

    Attributes:
        enabled: Whether anything is deleted.
        interval: Seconds between rounds; a round goes on until nothing is left to delete.
        limit: Most jobs deleted by one statement.
        max_age: The default rule's; see `Retention`. Given as an option, a `max_len` without a
            `max_age` takes its place.
        max_len: The default rule's.
        states: Rules by state.
        queues: Rules by queue.
        workers: Rules by worker.
    """

    enabled: bool = True
    interval: float = 30.0
    limit: int = 10_000
    max_age: float = 86_400.0
    max_len: int | None = None
    states: Mapping[str, Retention] = field(default_factory=dict)
    queues: Mapping[str, Retention] = field(default_factory=dict)
    workers: Mapping[str, Retention] = field(default_factory=dict)

    def rule(self, state: str, queue: str, worker: str) -> Retention:
        """The rule that a job falls under."""
        for rules, name in ((self.queues, queue), (self.states, state), (self.workers, worker)):
            if (found := rules.get(name)) is not None:
                return found

        return Retention(self.max_age, self.max_len)


@dataclass(frozen=True, slots=True)
class Scope:
    """Finished jobs of one state that are looked through together.

    A job's age is that of its queue in `queues`, else of its worker in `workers`, else `age`; with
    `math.inf` it is not among them.

    Attributes:
        state: The state.
        queues: Ages by queue.
        workers: Ages by worker.
        age: The age of all others.
        keep: How many of them stay, whatever their age; None where the age alone decides.
    """

    state: str
    queues: Mapping[str, float]
    workers: Mapping[str, float]
    age: float
    keep: int | None = None

    @property
    def least_age(self) -> float:
        """Seconds below which no job of the scope may be deleted."""
        return min(self.age, *self.queues.values(), *self.workers.values(), math.inf)


def scopes(config: PrunerConfig) -> list[Scope]:
    """What has to be looked through: by age once per state, by number once per rule and state."""
    return [scope for state in FINISHED for scope in _scopes(config, state)]


def _scopes(config: PrunerConfig, state: str) -> list[Scope]:
    queues = config.queues
    # A rule for the state leaves nothing to those of the workers.
    workers = {} if state in config.states else config.workers
    rest = config.states.get(state, Retention(config.max_age, config.max_len))
    by_age = Scope(state, _ages(queues), _ages(workers), rest.max_age)
    found = [by_age] if by_age.least_age < math.inf else []
    other_queues = dict.fromkeys(queues, math.inf)
    other_workers = dict.fromkeys(workers, math.inf)

    for queue, rule in queues.items():
        if rule.max_len is not None:
            found.append(Scope(state, {queue: 0.0}, {}, math.inf, rule.max_len))

    for worker, rule in workers.items():
        if rule.max_len is not None:
            found.append(Scope(state, other_queues, {worker: 0.0}, math.inf, rule.max_len))

    if rest.max_len is not None:
        found.append(Scope(state, other_queues, other_workers, 0.0, rest.max_len))

    return found


def _ages(rules: Mapping[str, Retention]) -> dict[str, float]:
    return {name: rule.max_age for name, rule in rules.items()}


def check_pruner(option: str, value: object) -> PrunerConfig:
    """The options of the pruner; True and False alone turn it on and off."""
    if isinstance(value, (bool, str)):
        return PrunerConfig(enabled=check_flag(option, value))

    if isinstance(value, Mapping):
        if "max_age" in value and value["max_age"] is None:
            # Elsewhere None is the default. Here it looks like "never", and would delete jobs.
            raise _wrong_age(f"{option}.max_age", None)

        if value.get("max_len") is not None and "max_age" not in value:
            value = {**value, "max_age": math.inf}

    return check_options(
        option,
        value,
        PrunerConfig,
        {
            "enabled": check_flag,
            "interval": lambda path, given: check_seconds(path, given, least=0.01),
            "limit": lambda path, given: check_whole(path, given, 1, 100_000),
            "max_age": _check_age,
            "max_len": _check_len,
            "states": lambda path, given: _check_rules(path, given, _check_state),
            "queues": lambda path, given: _check_rules(path, given, _check_name),
            "workers": lambda path, given: _check_rules(path, given, _check_name),
        },
    )


def _check_rules(
    option: str, value: object, check: Callable[[str, object], str]
) -> dict[str, Retention]:
    if not isinstance(value, Mapping):
        raise ConfigError(
            option,
            f'{shown(value)} is not a mapping; give seconds, "forever", {{"max_age": seconds}} or '
            '{"max_len": number} by name',
        )

    return {
        check(option, name): _check_retention(f'{option}["{name}"]', given)
        for name, given in value.items()
    }


def _check_retention(option: str, value: object) -> Retention:
    if isinstance(value, Retention):
        return value

    if not isinstance(value, Mapping):
        return Retention(_check_age(option, value))

    found = check_options(option, value, Retention, {"max_age": _check_age, "max_len": _check_len})

    if all(item is None for item in value.values()):
        raise ConfigError(option, "holds no rule; give max_age or max_len")

    return found


def _check_age(option: str, value: object) -> float:
    if isinstance(value, str) and value.strip().lower() in FOREVER:
        return math.inf

    if isinstance(value, timedelta):
        value = value.total_seconds()

    if value == math.inf:
        return math.inf

    try:
        age = check_seconds(option, value)
    except ConfigError:
        raise _wrong_age(option, value) from None

    return age if age < LONGEST else math.inf


def _wrong_age(option: str, value: object) -> ConfigError:
    return ConfigError(
        option,
        f'{shown(value)} is not allowed; give seconds, 0 or more, a timedelta, or "forever"',
    )


def _check_len(option: str, value: object) -> int:
    return check_whole(option, value, 0, MOST_KEPT)


def _check_state(option: str, value: object) -> str:
    if not isinstance(value, str) or value not in FINISHED:
        raise ConfigError(f'{option}["{value}"]', unknown(value, FINISHED))

    return str(value)


def _check_name(option: str, value: object) -> str:
    try:
        return check_name(option, value)
    except InvalidJobError as error:
        raise ConfigError(option, error.problem) from None
