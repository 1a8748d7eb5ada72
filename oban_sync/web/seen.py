"""A job as pages show it: whatever its row holds, it can be looked at.

A job itself raises where somebody looks at what cannot be read. A page has to show the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, TypeVar

from flask import url_for

from oban_sync.core.errors import JobDecodeError
from oban_sync.core.filters import Filter, FilterError
from oban_sync.core.job import KEPT, Job, JobState
from oban_sync.core.progress import Progress
from oban_sync.web import formats
from oban_sync.web.hiding import Hider

Value = TypeVar("Value")

#: Errors that a page shows, the newest ones.
MOST_ERRORS = 50

#: Characters of one of them, and of all together; the newest come first.
MOST_ERROR = 20_000
MOST_ERROR_TEXT = 100_000

#: What of the meta is shown elsewhere, or of use to nobody.
_ELSEWHERE = (KEPT, "return", "recorded")

_FAILED = (JobState.RETRYABLE, JobState.CANCELLED, JobState.DISCARDED)

_FINISHED = (JobState.COMPLETED, JobState.CANCELLED, JobState.DISCARDED)


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure of a job.

    Attributes:
        attempt: Which attempt it was; None where nobody says.
        at: When; None likewise.
        summary: Its line that says what went wrong.
        text: All of it.
    """

    attempt: int | None
    at: datetime | None
    summary: str
    text: str

    @property
    def is_more(self) -> bool:
        """Whether there is more to it than its summary."""
        return formats.line(self.text).strip() != self.summary


@dataclass(frozen=True, slots=True)
class Step:
    """One station of a job.

    Attributes:
        name: A state, or ``inserted``.
        at: When it came there; None where that is not known.
        kind: ``past``, ``now``, or nothing for what is to come.
        note: What is to be known of it.
    """

    name: str
    at: datetime | None
    kind: str
    note: str = ""


class Seen:
    """A job, with everything in it made fit to be shown."""

    def __init__(self, job: Job, hider: Hider) -> None:
        self.job = job
        self.id = job.id or 0
        self.state = job.state
        self.queue = job.queue
        self.worker = job.worker
        self.attempt = job.attempt
        self.max_attempts = job.max_attempts
        self.priority = job.priority
        self.tags = [tag for tag in job.tags or [] if isinstance(tag, str)]
        self._hider = hider

    @property
    def title(self) -> str:
        """What it is called where there is one line."""
        return f"{formats.name_of(self.worker)[1]} {self.id}"

    @property
    def summary(self) -> str:
        """Its args in one line."""
        return self._hider.summary(self.job)

    @property
    def args(self) -> str:
        """Its args, for people."""
        return self._args[0]

    @property
    def meta(self) -> str:
        """Its meta, for people, without what is shown elsewhere."""
        return self._meta[0]

    @property
    def cut(self) -> list[str]:
        """Those of args and meta that are too long to be shown whole, and so to be edited."""
        return [name for name in ("args", "meta") if not getattr(self, f"_{name}")[1]]

    @cached_property
    def _args(self) -> tuple[str, bool]:
        return self._json("args", lambda found: found)

    @cached_property
    def _meta(self) -> tuple[str, bool]:
        return self._json("meta", own_meta)

    @property
    def node(self) -> str | None:
        """The node that started it last."""
        by = self.job.attempted_by or []

        return by[0] if by else None

    @property
    def is_finished(self) -> bool:
        """Whether it will not run again by itself."""
        return self.state in _FINISHED

    @property
    def inserted_at(self) -> datetime | None:
        """When it was stored."""
        return self._time("inserted_at")

    @property
    def scheduled_at(self) -> datetime | None:
        """When it may start."""
        return self._time("scheduled_at")

    @property
    def attempted_at(self) -> datetime | None:
        """When it was started last."""
        return self._time("attempted_at")

    @property
    def finished_at(self) -> datetime | None:
        """When it finished."""
        return self._time(f"{self.state.value}_at") if self.is_finished else None

    @property
    def at(self) -> datetime | None:
        """The time that matters in its state."""
        if self.is_finished:
            return self.finished_at

        if self.state is JobState.EXECUTING:
            return self.attempted_at

        return self.scheduled_at

    @property
    def took(self) -> float | None:
        """Seconds that its last run took, where it finished by that."""
        start, end = self.attempted_at, self.finished_at

        if start is None or end is None or end < start:
            return None

        return (end - start).total_seconds()

    @property
    def waited(self) -> float | None:
        """Seconds between the time it was due and its last start."""
        due, start = self.scheduled_at, self.attempted_at

        if due is None or start is None or self.state is JobState.RETRYABLE or start < due:
            return None

        return (start - due).total_seconds()

    @property
    def progress(self) -> Progress | None:
        """How far it has come."""
        return self._tried(lambda: self.job.progress)

    @property
    def cancel_asked(self) -> str | None:
        """Who asked it to stop, while it runs; "" where nobody knows who."""
        meta = self._tried(lambda: self.job.meta)

        if self.state is not JobState.EXECUTING or not isinstance(meta, dict):
            return None

        return str(meta.get("cancel_requested_by") or "") if "cancel_requested_at" in meta else None

    @property
    def recorded(self) -> str | None:
        """What it recorded; None for nothing."""
        meta = self._tried(lambda: self.job.meta)

        if not isinstance(meta, dict) or not meta.get("recorded"):
            return None

        try:
            return self._hider.pretty(self.job.recorded())
        except (JobDecodeError, TypeError, ValueError):
            return "cannot be read"

    @property
    def failures(self) -> list[Failure]:
        """What went wrong, the newest first."""
        errors = self._tried(lambda: self.job.errors) or []
        found: list[Failure] = []
        left = MOST_ERROR_TEXT

        for error in reversed(errors[-MOST_ERRORS:]):
            failure = _failure(error, min(MOST_ERROR, left))
            left = max(0, left - len(failure.text))
            found.append(failure)

        return found

    @property
    def cause(self) -> str:
        """Why it failed last, in one line; "" where it did not fail, or that is over."""
        if self.state not in _FAILED:
            return ""

        errors = self._tried(lambda: self.job.errors) or []

        return _failure(errors[-1], MOST_ERROR).summary if errors else ""

    @property
    def steps(self) -> list[Step]:
        """Where it has been, where it is, and what may come."""
        return list(_steps(self))

    def _json(self, field: str, part: Callable[[Any], Any]) -> tuple[str, bool]:
        found = self._tried(lambda: getattr(self.job, field))

        return ("cannot be read", True) if found is None else self._hider.cut(part(found))

    def _time(self, field: str) -> datetime | None:
        found: datetime | None = self._tried(lambda: getattr(self.job, field))

        return found

    @staticmethod
    def _tried(look: Callable[[], Value]) -> Value | None:
        try:
            return look()
        except JobDecodeError:
            return None


def own_meta(meta: dict[str, Any]) -> dict[str, Any]:
    """A job's meta without what the library keeps in it."""
    return {key: value for key, value in meta.items() if key not in _ELSEWHERE}


def link(key: str, value: object, wanted: Filter | None = None) -> str | None:
    """The list of jobs with a value more in its filter; None of what no filter can hold."""
    try:
        text = (wanted or Filter()).adding(key, value).text
    except FilterError:
        return None

    return url_for(".jobs", q=text)


def _steps(seen: Seen) -> list[Step]:
    state = seen.state
    steps = [Step("inserted", seen.inserted_at, "past")]
    due, inserted = seen.scheduled_at, seen.inserted_at
    waited = due is not None and inserted is not None and (due - inserted).total_seconds() > 1

    if state is JobState.SUSPENDED:
        steps.append(Step("suspended", None, "now"))
    elif state is JobState.SCHEDULED:
        steps.append(Step("scheduled", due, "now", "due"))
    elif waited and seen.attempt <= 1 and state is not JobState.RETRYABLE:
        steps.append(Step("scheduled", due, "past", "due"))

    if state is JobState.AVAILABLE:
        steps.append(Step("available", due, "now"))
    elif state in (JobState.SCHEDULED, JobState.SUSPENDED):
        steps.append(Step("available", None, ""))

    started = f"attempt {seen.attempt} of {seen.max_attempts}" if seen.attempt else ""

    if state is JobState.EXECUTING:
        steps.append(Step("executing", seen.attempted_at, "now", started))
    elif seen.attempted_at is not None:
        before = [
            index for index, step in enumerate(steps) if step.kind != "past" and step.name != "due"
        ]
        place = before[0] if before else len(steps)
        steps.insert(place, Step("executing", seen.attempted_at, "past", started))

        if before:
            steps.append(Step("executing", None, ""))
    elif not seen.is_finished:
        steps.append(Step("executing", None, ""))

    if state is JobState.RETRYABLE:
        steps.append(Step("retryable", due, "now", "due"))

    if seen.is_finished:
        steps.append(Step(state.value, seen.finished_at, "now"))
    else:
        steps.append(Step("completed", None, ""))

    return steps


def _failure(error: Any, most: int) -> Failure:
    if not isinstance(error, dict):
        return Failure(None, None, formats.first_line(error), _cut(str(error), most))

    attempt, text = error.get("attempt"), str(error.get("error") or "")

    number = attempt if isinstance(attempt, int) else None

    return Failure(number, _moment(error.get("at")), formats.first_line(text), _cut(text, most))


def _moment(text: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(text))

        # The ends of time are none in some zones.
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _cut(text: str, most: int) -> str:
    left = len(text) - most

    return text if left <= 0 else f"{text[:most]}\n... {left:,} characters left out ..."
