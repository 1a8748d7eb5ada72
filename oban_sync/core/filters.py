"""What people type to find jobs: ``queues:mailers states:discarded args.user.id:7``.

Terms stand side by side, and a job has to pass all of them; of the values of one term, separated by
commas, any will do. The words are those of Oban Web. Pure: `engine.inspect` finds the jobs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, cast

from oban_sync.core.errors import ConfigError, nearest, shown
from oban_sync.core.options import MOST_NAME_CHARACTERS, MOST_TAG_CHARACTERS
from oban_sync.core.redaction import HIDDEN
from oban_sync.core.state import JobState

#: Most characters of a filter, most values of one of its terms, and most keys in a path.
MOST_CHARACTERS = 20_000
MOST_VALUES = 1_000
MOST_PATH = 20

#: Most values of all terms on args and meta together: each is looked for in each job.
MOST_INSIDE = 50

#: Largest id of a job.
MOST_ID = 2**63 - 1

#: One condition on what is inside of args or meta: the keys that lead there, and what may be there.
Inside = tuple[tuple[str, ...], tuple[str, ...]]

_INSIDE = ("args", "meta")

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PLAIN_KEY = r'[^\s.:,"]+'
_PLAIN_VALUE = r'[^\s,"][^\s,]*'
_KEY = rf"(?:{_QUOTED}|{_PLAIN_KEY})"
_VALUE = rf"(?:{_QUOTED}|{_PLAIN_VALUE})"

_TERM = re.compile(rf"({_KEY}(?:\.{_KEY})*):({_VALUE}(?:,{_VALUE})*)(?=\s|$)", re.S)
_KEYS = re.compile(_KEY, re.S)
_VALUES = re.compile(_VALUE, re.S)

#: A number as JSON has it. Neither long enough nor large enough to be more than PostgreSQL takes.
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,99})(?:\.[0-9]{1,99})?(?:[eE][+-]?[0-9]{1,3})?")


class FilterError(ConfigError):
    """A filter that cannot be read; the message quotes the term and says what is allowed.

    Also one that would take too long.
    """


class SlowFilterError(FilterError):
    """A filter whose jobs could not be found in the time that a search may take."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs are meant. Without any condition it is all of them, and false.

    Attributes:
        states: In one of these states.
        queues: In one of these queues.
        workers: Of one of these workers.
        tags: With one of these tags.
        nodes: Last started by a node of one of these names.
        priorities: With one of these priorities.
        ids: One of these jobs.
        args: With args that have one of these values at each of these paths.
        meta: With such meta.
    """

    states: tuple[JobState, ...] = ()
    queues: tuple[str, ...] = ()
    workers: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    priorities: tuple[int, ...] = ()
    ids: tuple[int, ...] = ()
    args: tuple[Inside, ...] = ()
    meta: tuple[Inside, ...] = ()

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in KEYS)

    def __str__(self) -> str:
        return self.text

    @property
    def text(self) -> str:
        """The filter as people type it; `parse` makes the same of it."""
        return " ".join(_texts(self))

    @property
    def masked(self) -> str:
        """The same without the values of args and meta, which may be personal or secret."""
        bare = {
            name: tuple((path, (HIDDEN,)) for path, _ in getattr(self, name)) for name in _INSIDE
        }

        return replace(self, **cast(Any, bare)).text

    def adding(self, key: str, *values: object) -> Filter:
        """The same with values more for one term; values that are there already are there once.

        Args:
            key: ``queues``, ``states``, ... or a path, as ``args.user.id``.
            values: Text, or numbers.

        Raises:
            FilterError: There is no such term, or it takes no such value.
        """
        return _adding(self, _path(key), [_text(value) for value in values], _shown(key, values))

    def without(self, key: str, *values: object) -> Filter:
        """The same without some values of a term, or without the whole term if none are named.

        Raises:
            FilterError: There is no such term.
        """
        path = _path(key)
        name = _name(path, key)
        less = {_text(value) for value in values}

        if name not in _INSIDE:
            kept = tuple(one for one in getattr(self, name) if less and str(one) not in less)

            return _with(self, name, kept)

        inside = tuple(
            (at, left)
            for at, there in getattr(self, name)
            if (left := tuple(one for one in there if at != path[1:] or _keeps(one, less)))
        )

        return _with(self, name, inside)


#: What terms may begin with.
KEYS = tuple(field.name for field in fields(Filter))


def parse(text: str) -> Filter:
    """Read a filter as people type it; blank text is the filter that all jobs pass.

    A value that holds blanks or commas stands in double quotes, in which ``\\"`` and ``\\\\`` stand
    for the quote and the backslash; so does a key of a path that holds dots or colons.

    Raises:
        FilterError: A term cannot be read; quotes it, and says what is allowed.

    Example:
        >>> parse('queues:mailers,media args.user.name:"Ann Lee"').queues
        ('mailers', 'media')
    """
    if not isinstance(text, str):
        raise FilterError("filter", f"{shown(text)} is not text, as queues:mailers")

    if len(text) > MOST_CHARACTERS:
        raise FilterError("filter", f"{len(text):,} characters, {MOST_CHARACTERS:,} are allowed")

    found = Filter()

    for term, path, values in _terms(text):
        found = _adding(found, path, values, term)

    return found


def readings(value: str) -> list[str]:
    """The JSON scalars that a value may stand for: the text, and what it reads as."""
    found = [json.dumps(value, ensure_ascii=False)]

    if value in ("true", "false", "null") or _NUMBER.fullmatch(value):
        found.append(value)

    return found


def quoted(text: str) -> str:
    """A value as it may stand in a term."""
    return text if re.fullmatch(_PLAIN_VALUE, text, re.S) else _in_quotes(text)


def _texts(wanted: Filter) -> Iterator[str]:
    for name in KEYS:
        if name in _INSIDE:
            for path, values in getattr(wanted, name):
                keys = [key if re.fullmatch(_PLAIN_KEY, key) else _in_quotes(key) for key in path]
                yield f"{'.'.join([name, *keys])}:{','.join(map(quoted, values))}"
        elif values := getattr(wanted, name):
            yield f"{name}:{','.join(quoted(str(value)) for value in values)}"


def _terms(text: str) -> Iterator[tuple[str, tuple[str, ...], list[str]]]:
    rest = text.lstrip()

    while rest:
        if (found := _TERM.match(rest)) is None:
            raise FilterError("filter", _trouble(rest))

        rest = rest[found.end() :].lstrip()
        keys = tuple(_bare(key) for key in _KEYS.findall(found[1]))

        yield found[0], keys, [_bare(value) for value in _VALUES.findall(found[2])]


def _trouble(text: str) -> str:
    """What is wrong with a term that cannot be read, at the beginning of a text."""
    term = text.split()[0]
    key, colon, values = term.partition(":")

    if text.count('"') - text.count('\\"') & 1 and '"' in term:
        return f"the quotes of {shown(term)} are not closed"

    if not colon:
        return f"{shown(term)} is no term; give a key and what it may be, as workers:{term[:80]}"

    if not values:
        return f"{shown(term)} names no value; give some behind the colon, as {key}:one,another"

    if values.endswith(",") or ",," in values or values.startswith(","):
        return f"{shown(term)} has a comma with no value behind it, or before it"

    return (
        f"{shown(term)} cannot be read; put values that hold blanks, commas or quotes in double "
        'quotes, as args.name:"Ann Lee"'
    )


def _path(key: str) -> tuple[str, ...]:
    """The keys of a term, of what stands before its colon."""
    if not re.fullmatch(rf"{_KEY}(?:\.{_KEY})*", key, re.S):
        raise FilterError("filter", f"{shown(key)} is no key of a filter; {_allowed()}")

    return tuple(_bare(part) for part in _KEYS.findall(key))


def _name(path: tuple[str, ...], term: str) -> str:
    name = path[0]

    if name not in KEYS:
        raise FilterError(
            "filter", f"{shown(term)}: there is no {shown(name)}; {_allowed()}{nearest(name, KEYS)}"
        )

    if name in _INSIDE and len(path) == 1:
        raise FilterError("filter", f"{shown(term)} names no key of the {name}, as {name}.id:7")

    if name not in _INSIDE and len(path) > 1:
        raise FilterError("filter", f"{shown(term)}: only args and meta have keys, as args.id:7")

    if len(path) > MOST_PATH:
        raise FilterError("filter", f"{shown(term)}: {len(path)} keys, {MOST_PATH} are allowed")

    return name


def _adding(wanted: Filter, path: tuple[str, ...], values: list[str], term: str) -> Filter:
    name = _name(path, term)

    for text in (*path, *values):
        if not _storable(text):
            raise FilterError("filter", f"{shown(term)} holds a character that no job can hold")

    if name in _INSIDE:
        inside: dict[tuple[str, ...], tuple[str, ...]] = dict(getattr(wanted, name))
        inside[path[1:]] = _joined(inside.get(path[1:], ()), values, term)
        joined = _with(wanted, name, tuple(inside.items()))

        if sum(len(there) for _, there in (*joined.args, *joined.meta)) > MOST_INSIDE:
            raise FilterError(
                "filter", f"{shown(term)}: more than {MOST_INSIDE} values of args and meta"
            )

        return joined

    checked = [_CHECKS[name](value, term) for value in values]

    return _with(wanted, name, _joined(getattr(wanted, name), checked, term))


def _with(wanted: Filter, name: str, values: tuple[Any, ...]) -> Filter:
    changes: dict[str, Any] = {name: values}

    return replace(wanted, **changes)


def _joined(there: Iterable[Any], more: Iterable[Any], term: str) -> tuple[Any, ...]:
    joined = tuple(dict.fromkeys([*there, *more]))

    if len(joined) > MOST_VALUES:
        raise FilterError("filter", f"{shown(term)}: more than {MOST_VALUES:,} values")

    return joined


def _state(value: str, term: str) -> JobState:
    try:
        return JobState(value.lower())
    except ValueError:
        raise FilterError(
            "filter",
            f"{shown(term)}: there is no state {shown(value)}; states are {', '.join(JobState)}."
            f"{nearest(value.lower(), [state.value for state in JobState])}",
        ) from None


def _label(value: str, term: str) -> str:
    if not value or len(value) > MOST_NAME_CHARACTERS:
        raise FilterError(
            "filter", f"{shown(term)}: a name has 1 to {MOST_NAME_CHARACTERS} characters"
        )

    return value


def _node(value: str, term: str) -> str:
    if not value:
        raise FilterError("filter", f"{shown(term)}: a node has a name")

    return value


def _tag(value: str, term: str) -> str:
    if not (tag := value.strip().lower()) or len(tag) > MOST_TAG_CHARACTERS:
        raise FilterError(
            "filter", f"{shown(term)}: a tag has 1 to {MOST_TAG_CHARACTERS} characters"
        )

    return tag


def _priority(value: str, term: str) -> int:
    if not re.fullmatch("[0-9]", value):
        raise FilterError("filter", f"{shown(term)}: priorities are 0 (first) to 9 (last)")

    return int(value)


def _id(value: str, term: str) -> int:
    if not re.fullmatch("[0-9]{1,19}", value) or int(value) > MOST_ID:
        raise FilterError(
            "filter", f"{shown(term)}: {shown(value)} is no id; ids are whole numbers"
        )

    return int(value)


_CHECKS: Mapping[str, Any] = {
    "states": _state,
    "queues": _label,
    "workers": _label,
    "tags": _tag,
    "nodes": _node,
    "priorities": _priority,
    "ids": _id,
}


def _allowed() -> str:
    return f"terms are {', '.join(f'{name}:' for name in _CHECKS)}, args.KEY: and meta.KEY:."


def _storable(text: str) -> bool:
    """Whether PostgreSQL takes it: no NUL, no half of a pair."""
    return "\0" not in text and (text.isascii() or not re.search("[\ud800-\udfff]", text))


def _keeps(value: str, less: set[str]) -> bool:
    return bool(less) and value not in less


def _bare(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.S) if text.startswith('"') else text


def _in_quotes(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')

    return f'"{escaped}"'


def _text(value: object) -> str:
    return str(value)


def _shown(key: str, values: Iterable[object]) -> str:
    return f"{key}:{','.join(quoted(_text(value)) for value in values)}"
