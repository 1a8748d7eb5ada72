"""What the dashboard shows of a job's args, meta and result."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from oban_sync.core import redaction
from oban_sync.core.errors import JobDecodeError
from oban_sync.core.filters import Filter
from oban_sync.core.job import Job

#: Characters of JSON that a page shows; the rest of more is left out.
MOST_SHOWN = 100_000

MOST_SUMMARY = 200


@dataclass(frozen=True, slots=True)
class Hider:
    """Hides values by their keys.

    Attributes:
        words: Parts of keys whose values are hidden; none to show everything.
    """

    words: tuple[str, ...] = redaction.WORDS

    @classmethod
    def of(cls, words: Iterable[str] | None) -> Hider:
        """One for these words; None for the usual ones."""
        return cls() if words is None else cls(tuple(words))

    def value(self, value: Any) -> Any:
        """Any JSON."""
        return redaction.redacted(value, self.words)

    def restored(self, edited: Any, original: Any, field: str) -> Any:
        """What was edited on a page, with what that page hid.

        Raises:
            InvalidJobError: Something hidden cannot be put back; names its path in the field.
        """
        return redaction.restored(edited, original, self.words, field=field)

    def pretty(self, value: Any) -> str:
        """JSON for people to read, hidden where need be, and not endless."""
        return self.cut(value)[0]

    def cut(self, value: Any) -> tuple[str, bool]:
        """The same, and whether it is all there is."""
        text, whole = redaction.written(value, self.words, most=MOST_SHOWN, indent=2)

        if not whole:
            text = f"{text}\n... cut: all of it has {_size(value):,} characters ..."

        return text, whole

    def summary(self, job: Job) -> str:
        """A job's args in one line, found without a look at more of them than fits in there."""
        try:
            args = job.args
        except JobDecodeError:
            return "cannot be read"

        if not args:
            return ""

        text, whole = redaction.written(args, self.words, most=MOST_SUMMARY)

        return text[1:-1] if whole else f"{text[1 : MOST_SUMMARY - 1]}…"

    def refusal(self, wanted: Filter) -> str | None:
        """Why a filter may not be used: by trying values one after the other, it would tell them.

        None if it may be.
        """
        for field in ("args", "meta"):
            for path, _ in getattr(wanted, field):
                if hidden := [part for part in path if redaction.is_hidden(part, self.words)]:
                    return f"{field}.{'.'.join(path)}: what stands under {hidden[0]!r} is hidden"

        return None


def _size(value: Any) -> int:
    # Without blanks: with them it would be written by Python alone, which takes long.
    return len(json.dumps(value, ensure_ascii=False))
