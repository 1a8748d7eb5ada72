"""How far a job has come, by its own account: what it may say, and how that is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import index
from typing import Any, Final, Protocol

from oban_sync.core import payload
from oban_sync.core.errors import InvalidJobError, shown

#: What it is kept as, among what the library keeps with a job.
PROGRESS: Final = "progress"

#: Characters of a note; longer ones are cut.
MOST_NOTE = 200

#: Numbers as every reader of JSON and SQL can take them.
MOST_STEPS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job has come: what `Job.report_progress` was given last.

    Attributes:
        done: How much is done.
        total: Of how much; None where the job does not know.
        note: What it does at the moment, in words for people; None for nothing.
        at: When it said so, by the clock of the machine that ran it.
        attempt: In which attempt. That of an earlier one stands until the next one says something.
    """

    done: float
    total: float | None
    note: str | None
    at: datetime
    attempt: int

    @property
    def fraction(self) -> float | None:
        """How much of it is done, from 0.0 to 1.0; None where the total is not known."""
        if self.total is None:
            return None

        # Totals are often guesses, and of nothing all is done.
        return 1.0 if self.done >= self.total else self.done / self.total

    def kept(self) -> dict[str, Any]:
        """What stands for it in the job's row."""
        return {
            "done": self.done,
            "total": self.total,
            "note": self.note,
            "at": self.at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "attempt": self.attempt,
        }


class Report(Protocol):
    """What one run has said of its progress; it is told from any thread."""

    @property
    def last(self) -> Progress | None:
        """What it said last."""
        ...

    def tell(self, done: float, total: float | None, note: str | None) -> None:
        """Take what the job says; raises as `Job.report_progress`."""
        ...

    def end(self) -> Progress | None:
        """Take no more; what it said last, which is to be kept with the outcome."""
        ...


def steps(argument: str, value: Any) -> float:
    """A number of steps, or of whatever is counted.

    Raises:
        InvalidJobError: It is no number from 0 up.
    """
    kind = type(value)

    if kind is not int and kind is not float:
        value = _plain(argument, value)

    # In this order NaN is refused too.
    if not 0 <= value <= MOST_STEPS:
        raise InvalidJobError(argument, f"{shown(value)} is not allowed; give a number from 0 up")

    return value  # type: ignore[no-any-return]


def note_of(value: object) -> str | None:
    """A note as it is kept: no longer than it may be, and of characters that PostgreSQL takes.

    What is wrong with a text is the fault of the data it tells of, and no reason to fail a job.

    Raises:
        InvalidJobError: It is no text.
    """
    if value is None:
        return None

    if not isinstance(value, str):
        raise InvalidJobError("note", f"{shown(value)} is not allowed; give text, or None")

    text = str(value)

    return payload.clean_text(text if len(text) <= MOST_NOTE else f"{text[: MOST_NOTE - 1]}…")


def progress_of(kept: object) -> Progress | None:
    """The progress of what `Progress.kept` gave; None of anything else."""
    if not isinstance(kept, Mapping):
        return None

    total, attempt = kept.get("total"), kept.get("attempt")

    try:
        return Progress(
            done=steps("done", kept.get("done")),
            total=None if total is None else steps("total", total),
            note=note_of(kept.get("note")),
            at=datetime.fromisoformat(kept["at"]).astimezone(UTC),
            attempt=attempt if type(attempt) is int else 0,
        )
    except (LookupError, TypeError, ValueError, OverflowError):
        return None


def _plain(argument: str, value: Any) -> float:
    """Numbers of other types, as those of NumPy, as Python's own."""
    if not isinstance(value, bool):
        if isinstance(value, float):
            return float(value)

        try:
            return index(value)
        except TypeError:
            pass

    raise InvalidJobError(argument, f"{shown(value)} is not allowed; give a number from 0 up")
