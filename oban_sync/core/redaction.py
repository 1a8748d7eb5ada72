"""Which parts of args and meta are not for everybody who may look at a job."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from oban_sync.core.errors import InvalidJobError

#: What stands in place of a hidden value.
HIDDEN = "[hidden]"

#: Keys that hold one of these, in any spelling, hide what they stand for: ``user_password``,
#: ``X-Api-Key``, ``accessToken``. Those of up to four letters have to be a word of the key, or its
#: plural, so that ``card`` hides ``card_number`` and ``cards``, and not ``discarded``.
WORDS = (
    "access_key",
    "account_number",
    "api_key",
    "auth",
    "authorization",
    "bearer",
    "card",
    "card_number",
    "cookie",
    "credential",
    "credit_card",
    "csrf",
    "cvc",
    "cvv",
    "database_url",
    "dsn",
    "encryption_key",
    "iban",
    "jwt",
    "mfa_code",
    "otp",
    "pass",
    "passcode",
    "passphrase",
    "passwd",
    "password",
    "pin",
    "pin_code",
    "private_key",
    "pwd",
    "secret",
    "security_code",
    "session_id",
    "signature",
    "signing_key",
    "ssh_key",
    "ssn",
    "token",
)

#: Words of up to so many letters count as whole words only.
_SHORT = 4

#: Levels of lists and objects that are looked into; what is deeper is hidden.
_MOST_DEPTH = 100

#: Characters of a key that is remembered; nobody makes up longer ones by the thousand.
_MOST_KEY = 100

#: Words of a key, in its shape, which says of each character what it is: U an upper case letter, s
#: the letter s, L any other letter, D a digit. ``APIKeys`` is two words, and ``PINs`` is one.
_PARTS = re.compile(r"UU+s(?![sLU])|U+(?![sL])|U?[sL]+|D+")


def is_hidden(key: str, words: Iterable[str] = WORDS) -> bool:
    """Whether what stands under a key is hidden.

    Args:
        key: A key of an object.
        words: What hides it; case, and what is between letters, make no difference.
    """
    words = tuple(words)

    return _hides(key, words) if len(key) <= _MOST_KEY else _looked_up(key, words)


def redacted(value: Any, words: Iterable[str] = WORDS) -> Any:
    """A copy of a JSON value in which `HIDDEN` stands for what is not for everybody.

    Args:
        value: Args, meta, or a part of them.
        words: See `is_hidden`; none hides nothing.
    """
    return _redacted(value, tuple(words), 0)


def written(
    value: Any, words: Iterable[str] = WORDS, *, most: int, indent: int | None = None
) -> tuple[str, bool]:
    """The beginning of what `redacted` gives, as JSON, without a look at the rest of it.

    Args:
        value: Args, meta, or a part of them.
        words: See `is_hidden`.
        most: Most characters.
        indent: Blanks for each level, as of `json.dumps`; None for one line.

    Returns:
        The text, and whether it is all of it.

    Raises:
        TypeError: Something in it is no JSON.
    """
    parts, size = [], 0

    for part in _written(value, tuple(words), most, indent, 0):
        parts.append(part)
        size += len(part)

        if size > most:
            return "".join(parts)[:most], False

    return "".join(parts), True


def restored(
    edited: Any, original: Any, words: Iterable[str] = WORDS, *, field: str = "args"
) -> Any:
    """What was made of a redacted value, with what `redacted` hid put back where it was left so.

    Values come back to where they were. An entry of a list gets its own back where it was left
    alone, wherever it stands now, or where it stands where it stood, in a list of as many, and
    nothing that was to be seen of it was changed.

    Args:
        edited: A JSON value that was made of ``redacted(original, words)`` by a person.
        original: What that was made of.
        words: As they were then.
        field: What it is called in an error.

    Raises:
        InvalidJobError: `HIDDEN` stands where it cannot be told what it stood for, and then it
            names the path; or it is nested too deep.
    """
    words = tuple(words)

    if not words:
        return edited

    try:
        return _restored(edited, original, words, 0, field)
    except RecursionError:
        raise InvalidJobError(field, "is nested too deep") from None


@lru_cache(maxsize=4_096)
def _hides(key: str, words: tuple[str, ...]) -> bool:
    return _looked_up(key, words)


def _looked_up(key: str, words: tuple[str, ...]) -> bool:
    parts = _parts(key)
    whole = "".join(parts)
    short, long = _sorted(words)

    return any(word in whole for word in long) or any(_holds(parts, word) for word in short)


def _holds(parts: list[str], word: tuple[str, ...]) -> bool:
    """Whether a word is among those of a key, in the singular or with an s."""
    wanted = "".join(word)

    if wanted in parts or f"{wanted}s" in parts:
        return True

    many = (*word[:-1], f"{word[-1]}s")
    width = len(word)

    return width > 1 and any(
        tuple(parts[at : at + width]) in (word, many) for at in range(len(parts) - width + 1)
    )


@lru_cache(maxsize=64)
def _sorted(words: tuple[str, ...]) -> tuple[list[tuple[str, ...]], list[str]]:
    """The words that have to stand by themselves, in parts, and those that need not."""
    split = [tuple(_parts(word)) for word in words]
    short = [parts for parts in split if 0 < len("".join(parts)) <= _SHORT]
    long = ["".join(parts) for parts in split if len("".join(parts)) > _SHORT]

    return short, long


def _parts(text: str) -> list[str]:
    text = unicodedata.normalize("NFC", text)
    shape = "".join(map(_kind, text))

    return [text[found.start() : found.end()].lower() for found in _PARTS.finditer(shape)]


def _kind(char: str) -> str:
    if char.isalpha():
        return "s" if char == "s" else "U" if char.isupper() or char.istitle() else "L"

    return "D" if char.isdigit() else "_"


def _redacted(value: Any, words: tuple[str, ...], depth: int) -> Any:
    if not isinstance(value, (Mapping, list, tuple)):
        return value

    if depth >= _MOST_DEPTH:
        return HIDDEN if words else value

    if isinstance(value, Mapping):
        return {
            key: HIDDEN if _is_secret(key, item, words) else _redacted(item, words, depth + 1)
            for key, item in value.items()
        }

    return [_redacted(item, words, depth + 1) for item in value]


def _is_secret(key: Any, item: Any, words: tuple[str, ...]) -> bool:
    return item is not None and isinstance(key, str) and is_hidden(key, words)


def _written(
    value: Any, words: tuple[str, ...], most: int, indent: int | None, depth: int
) -> Iterator[str]:
    if isinstance(value, str):
        # Each of its characters takes one at the least.
        yield json.dumps(value[: most + 1], ensure_ascii=False)
        return

    if not isinstance(value, (Mapping, list, tuple)):
        yield json.dumps(value)
        return

    if depth >= _MOST_DEPTH:
        yield json.dumps(HIDDEN if words else value, ensure_ascii=False)
        return

    is_object = isinstance(value, Mapping)
    opens, closes = "{}" if is_object else "[]"

    if not value:
        yield opens + closes
        return

    line = "" if indent is None else f"\n{' ' * (indent * (depth + 1))}"
    between = ", " if indent is None else f",{line}"
    yield opens + line

    if isinstance(value, Mapping):
        for number, (key, item) in enumerate(value.items()):
            name = json.dumps({key: 0}, ensure_ascii=False)[1:-4]
            yield f"{between if number else ''}{name}: "
            shown = HIDDEN if _is_secret(key, item, words) else item
            yield from _written(shown, words, most, indent, depth + 1)
    else:
        for number, item in enumerate(value):
            if number:
                yield between

            yield from _written(item, words, most, indent, depth + 1)

    yield closes if indent is None else f"\n{' ' * (indent * depth)}{closes}"


def _restored(edited: Any, original: Any, words: tuple[str, ...], depth: int, path: str) -> Any:
    if edited == HIDDEN:
        if original == HIDDEN:
            return original

        # What is too deep is hidden as a whole.
        if depth >= _MOST_DEPTH and isinstance(original, (Mapping, list, tuple)):
            return original

        raise InvalidJobError(path, "is hidden, and it is not clear what it was; give its value")

    if depth >= _MOST_DEPTH:
        return edited

    if isinstance(edited, Mapping):
        known = original if isinstance(original, Mapping) else {}

        return {
            key: known[key]
            if item == HIDDEN and _is_secret(key, known.get(key), words)
            else _restored(item, known.get(key), words, depth + 1, f"{path}.{key}")
            for key, item in edited.items()
        }

    if isinstance(edited, list):
        entries = list(original) if isinstance(original, (list, tuple)) else []

        return _restored_entries(edited, entries, words, depth, path)

    return edited


def _restored_entries(
    edited: list[Any], original: list[Any], words: tuple[str, ...], depth: int, path: str
) -> list[Any]:
    if HIDDEN not in (text := _exact(edited)):
        return edited

    seen = [_redacted(item, words, depth + 1) for item in original]

    if text == _exact(seen):
        return original

    alike: dict[str, dict[str, Any]] = {}

    for item, old in zip(seen, original, strict=True):
        alike.setdefault(_exact(item), {})[_exact(old)] = old

    found = []

    for at, item in enumerate(edited):
        place = f"{path}[{at}]"
        same = list(alike.get(_exact(item), {}).values())
        stands = len(edited) == len(original) and _is_alike(item, seen[at], words)

        if len(same) == 1:
            found.append(same[0])
        else:
            old = original[at] if stands else None
            found.append(_restored(item, old, words, depth + 1, place))

    return found


def _is_alike(item: Any, seen: Any, words: tuple[str, ...]) -> bool:
    """Whether all that was to be seen of an entry is as it was; hidden values may be given anew."""
    if isinstance(item, Mapping) and isinstance(seen, Mapping):
        return item.keys() == seen.keys() and all(
            (seen[key] == HIDDEN and is_hidden(key, words)) or _is_alike(one, seen[key], words)
            for key, one in item.items()
        )

    if isinstance(item, list) and isinstance(seen, list):
        return len(item) == len(seen) and all(map(_is_alike, item, seen, [words] * len(item)))

    return _exact(item) == _exact(seen)


def _exact(value: Any) -> str:
    """Text that is the same for the same JSON: 1 is neither 1.0 nor true."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
