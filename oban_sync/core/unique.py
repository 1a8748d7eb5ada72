"""Unique jobs: what makes two jobs the same, and for how long.

The options of a worker come in here, and the key of a job goes out: jobs are the same when their
keys are. That one of them holds it at a time is decided by an index of the database.
"""

from __future__ import annotations

import json
from binascii import b2a_base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from functools import cached_property, lru_cache
from hashlib import sha256
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any

from oban_sync.core import backoff, payload
from oban_sync.core.errors import InvalidJobError, nearest, shown, unknown
from oban_sync.core.state import BITS, INCOMPLETE, JobState

#: What may make two jobs the same.
FIELDS = ("args", "meta", "queue", "worker")

#: What a new job may change in the one it was found to be the same as.
REPLACEABLE = (
    "args",
    "max_attempts",
    "meta",
    "priority",
    "queue",
    "scheduled_at",
    "tags",
    "worker",
)

#: Sets of states by name, as Oban has them.
GROUPS: Mapping[str, tuple[JobState, ...]] = {
    "all": tuple(JobState),
    "incomplete": INCOMPLETE,
    "scheduled": (JobState.SCHEDULED,),
    "successful": (*INCOMPLETE, JobState.COMPLETED),
}

FOREVER = "forever"

DEFAULT_PERIOD = 60.0

_USUAL = ("args", "queue", "worker")

#: What is kept of it in a job's meta, as by Oban Pro.
META_KEYS = ("uniq", "uniq_bmp", "uniq_key")

#: Begins our keys: others write them too, with rules of their own.
PREFIX = "oban_sync:"

_OPTIONS = ("fields", "keys", "period", "replace", "states")

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


@dataclass(frozen=True)
class Unique:
    """What makes a job unique, checked.

    Attributes:
        period: Seconds from the insertion of a job within which another one counts as the same;
            None is for ever.
        fields: What is compared, of `FIELDS`.
        keys: Only these keys of args and meta; all of them when empty.
        states: Those a job has to be in to be found.
        replace: What a new job changes in the one that was found, by the state of that.
    """

    period: float | None
    fields: tuple[str, ...]
    keys: tuple[str, ...]
    states: tuple[JobState, ...]
    replace: Mapping[JobState, tuple[str, ...]]

    def as_options(self) -> dict[str, Any]:
        """The same as an option that `check_unique` takes, fit for JSON."""
        return {
            "period": FOREVER if self.period is None else self.period,
            "fields": list(self.fields),
            "keys": list(self.keys),
            "states": [state.value for state in self.states],
            "replace": {state.value: list(fields) for state, fields in self.replace.items()},
        }

    def check(self, args: str, meta: str) -> None:
        """See that a job has what makes it unique.

        Raises:
            InvalidJobError: A key is missing.
        """
        if self.keys:
            self._compared(args, meta)

    def key(self, *, worker: str, queue: str, args: str, meta: str) -> str:
        """The key of a job whose args and meta are these JSON objects.

        Numbers count as PostgreSQL compares them: 1 is 1.0, and "1" is neither.

        Raises:
            InvalidJobError: One of `keys` is missing.
        """
        if self.fields == _USUAL and not self.keys:
            compared: Any = _read(args)
        else:
            compared = self._compared(args, meta)

        names = (worker if "worker" in self.fields else "", queue if "queue" in self.fields else "")
        text = f"{self._rules}\n{names[0]}\n{names[1]}\n{_canonical(compared)}"
        digest = b2a_base64(sha256(text.encode()).digest(), newline=False)

        # Without the padding, as by Oban Pro.
        return f"{PREFIX}{digest[:-1].decode()}"

    @cached_property
    def _rules(self) -> str:
        return payload.dumps([self.fields, self.keys])

    @cached_property
    def held(self) -> str:
        """The states, as JSON, in which a job keeps its key from others.

        All in which it waits or runs are among them. A job may leave a state that is not in
        `states`, and come back to one that is; had it lost its key meanwhile, the statement that
        brings it back would be refused. A new job takes the key from it while it is in a state
        that is not in `states`.
        """
        return payload.dumps(sorted(BITS[state] for state in {*INCOMPLETE, *self.states}))

    @cached_property
    def array(self) -> str:
        """The states as an array of PostgreSQL's, as text."""
        return f"{{{','.join(self.states)}}}"

    @cached_property
    def row(self) -> str:
        """What statements need to know beside the key: the inside of a JSON object."""
        values = {"states": self.array, "period": self.period, "replace": self.replace or None}

        return payload.dumps(values)[1:-1]

    def _compared(self, args: str, meta: str) -> dict[str, Any]:
        found: dict[str, Any] = {}

        if "args" in self.fields:
            found["args"] = _read(args)

        if "meta" in self.fields:
            found["meta"] = {
                name: value
                for name, value in _read(meta).items()
                # What the library keeps there is not the application's.
                if name not in (*META_KEYS, "oban_sync")
            }

        if not self.keys:
            return found

        for key in self.keys:
            if not any(key in value for value in found.values()):
                raise InvalidJobError(
                    " or ".join(found),
                    f"the key {shown(key)} is missing, and unique.keys names it",
                )

        return {
            field: {key: value[key] for key in self.keys if key in value}
            for field, value in found.items()
        }


def check_unique(option: str, value: object) -> Unique | None:
    """True, which is for ever; or a mapping of options, for a minute. None when it is False.

    Raises:
        InvalidJobError: It is none of these, or what it says makes no sense; names the path.
    """
    if isinstance(value, Unique):
        return value

    if value is False:
        return None

    if value is True:
        return _ALWAYS

    if not isinstance(value, Mapping):
        raise InvalidJobError(
            option, f"{shown(value)} is not allowed; give True, or a dict of {', '.join(_OPTIONS)}"
        )

    for name in value:
        if name not in _OPTIONS:
            raise InvalidJobError(f"{option}.{name}", unknown(name, _OPTIONS))

    fields = _names(f"{option}.fields", value.get("fields", _USUAL), FIELDS)
    keys = _keys(f"{option}.keys", value.get("keys", ()))
    states = _states(f"{option}.states", value.get("states", "successful"))

    if keys and not {"args", "meta"} & set(fields):
        raise InvalidJobError(
            f"{option}.keys",
            "are keys of args or meta, and neither is among the fields that are compared",
        )

    period = _period(f"{option}.period", value.get("period", DEFAULT_PERIOD))
    replace = _replace(f"{option}.replace", value.get("replace", {}), states)

    return _made(period, fields, keys, states, tuple(replace.items()))


@lru_cache(maxsize=256)
def _made(
    period: float | None,
    fields: tuple[str, ...],
    keys: tuple[str, ...],
    states: tuple[JobState, ...],
    replace: tuple[tuple[JobState, tuple[str, ...]], ...],
) -> Unique:
    # The same one again for the next job: it remembers what it is in JSON.
    return Unique(period, fields, keys, states, dict(replace))


def _period(option: str, value: object) -> float | None:
    if value == FOREVER:
        return None

    if isinstance(value, str):
        raise InvalidJobError(
            option,
            f"{shown(value)} is not a period; give seconds, a timedelta, or {FOREVER!r}."
            f"{nearest(value, [FOREVER])}",
        )

    try:
        seconds = backoff.seconds(value)
    except ValueError as error:
        advice = f", or {FOREVER!r}" if isinstance(value, (int, float, timedelta)) else ""

        raise InvalidJobError(option, f"{error}{advice}") from None

    if seconds == 0:
        raise InvalidJobError(
            option, f"{shown(value)} is not allowed: no two jobs would ever be the same"
        )

    return seconds


def _keys(option: str, value: object) -> tuple[str, ...]:
    keys = _items(option, value)

    for index, key in enumerate(keys):
        if not isinstance(key, str):
            raise InvalidJobError(f"{option}[{index}]", f"{shown(key)} is not a string")

        payload.encode_any(key, f"{option}[{index}]")

    return tuple(sorted(set(keys)))


def _states(option: str, value: object) -> tuple[JobState, ...]:
    if isinstance(value, str):
        if value not in GROUPS:
            raise InvalidJobError(
                option,
                f"{shown(value)} is not a group of states; {unknown(value, GROUPS)} "
                "Give single states in a list",
            )

        found = set(GROUPS[value])
    else:
        found = {JobState(name) for name in _names(option, value, [*JobState])}

    return tuple(state for state in JobState if state in found)


def _replace(
    option: str, value: object, states: tuple[JobState, ...]
) -> dict[JobState, tuple[str, ...]]:
    if value is None or value == () or value == [] or value == {}:
        return {}

    if not isinstance(value, Mapping):
        fields = _names(option, value, REPLACEABLE)

        return dict.fromkeys(states, fields)

    replace: dict[JobState, tuple[str, ...]] = {}

    for name, fields in value.items():
        if name not in [*JobState]:
            raise InvalidJobError(f"{option}.{name}", unknown(name, map(str, JobState)))

        if name not in states:
            raise InvalidJobError(
                f"{option}.{name}",
                f"no job in that state is ever found; add it to the states, which are "
                f"{', '.join(states)}",
            )

        replace[JobState(name)] = _names(f"{option}.{name}", fields, REPLACEABLE)

    return replace


def _names(option: str, value: object, allowed: Iterable[str]) -> tuple[str, ...]:
    names = _items(option, value)

    if not names:
        raise InvalidJobError(option, f"is empty; give some of {', '.join(sorted(allowed))}")

    for index, name in enumerate(names):
        if not isinstance(name, str) or name not in [*allowed]:
            raise InvalidJobError(
                f"{option}[{index}]", f"{shown(name)} is {unknown(name, map(str, allowed))}"
            )

    return tuple(sorted(set(names)))


def _items(option: str, value: object) -> list[Any]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise InvalidJobError(option, f"{shown(value)} is not a list of names")

    return list(value)


def _canonical(value: Mapping[str, Any]) -> str:
    # Quicker than the encoder for what the args of most jobs are: it is made anew each time.
    texts: list[str] = []

    for name in sorted(value):
        item = value[name]

        if type(item) is int:
            texts.append(f"{_quoted(name)}:{item}")
        elif type(item) is str:
            texts.append(f"{_quoted(name)}:{_quoted(item)}")
        else:
            return _encode(value)

    return f"{{{','.join(texts)}}}"


def _read(text: str) -> dict[str, Any]:
    value: dict[str, Any] = _decoder.raw_decode(text)[0]

    return value


def _number(text: str) -> int | float:
    """A number as jsonb compares it: one without a fraction is a whole one, however written."""
    exact = Decimal(text)

    return int(exact) if exact == exact.to_integral_value() else float(text)


#: Kept, because making one takes longer than what it does for the args of most jobs.
_decoder = json.JSONDecoder(parse_float=_number)

#: What is asked for most.
_ALWAYS = _made(None, _USUAL, (), _states("states", "successful"), ())
