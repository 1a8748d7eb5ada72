"""What a run of a job came to: what `process` may return, and what is written for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Any

from oban_sync.core import backoff, clock, payload, recorded, retry_after
from oban_sync.core.carrying import with_kept
from oban_sync.core.errors import InvalidJobError, shown
from oban_sync.core.job import KEPT, Job, JobState
from oban_sync.core.progress import PROGRESS


@dataclass(frozen=True, slots=True)
class Record:
    """Return this from `process` to complete the job and keep a value with it.

    The value must be JSON and is read with `Job.recorded`. oban-py and Oban Web read it too.

    Attributes:
        value: The value to keep.
        limit: Most bytes it may take; 8 MB by default.

    Raises:
        InvalidJobError: The value is not JSON, or too large.
    """

    value: Any
    limit: int = recorded.MOST_BYTES
    encoded: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        payload.encode_any(self.value, "recorded value", most_bytes=self.limit)
        encoded = recorded.encode(self.value)

        if len(encoded) > self.limit:
            raise InvalidJobError(
                "recorded value", f"{len(encoded):,} bytes, {self.limit:,} are allowed"
            )

        object.__setattr__(self, "encoded", encoded)


@dataclass(frozen=True, slots=True)
class Snooze:
    """Return this from `process` to run the job again later without spending the attempt.

    Attributes:
        seconds: How long to wait, as seconds or timedelta; from 0 up to a century.
        meta: Merged into the job's meta, beside the ``snoozed`` counter.

    Raises:
        ValueError: The delay is negative, not finite or no delay at all.
    """

    seconds: float | timedelta
    meta: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "seconds", backoff.seconds(self.seconds))

        if self.meta is not None:
            payload.encode(self.meta, "meta")

    @classmethod
    def after(
        cls,
        value: object,
        *,
        default: float | timedelta = 60.0,
        at_most: float | timedelta = 86_400.0,
        meta: dict[str, Any] | None = None,
    ) -> Snooze:
        """A snooze for as long as a server asks for, by its Retry-After. Nothing is added to that.

        Args:
            value: The header's value (seconds, or an HTTP date by this machine's clock), the
                headers, a response that has them, or an exception that has a response, as those of
                requests, httpx and urllib do.
            default: How long where there is none, or one that cannot be read.
            at_most: The longest, whatever the server asks for; a day by default.
            meta: As for `Snooze`.

        Raises:
            ValueError: `default` or `at_most` is no delay.

        Example:
            >>> Snooze.after("120").seconds
            120.0
            >>> Snooze.after({"Retry-After": "soon"}, default=30).seconds
            30.0
        """
        longest = backoff.seconds(at_most)
        usual = backoff.seconds(default)
        asked = retry_after.seconds_of(value)

        return cls(min(usual if asked is None else asked, longest), meta)


@dataclass(frozen=True, slots=True)
class Cancel:
    """Return this from `process` to stop the job for good; the reason is kept in its errors."""

    reason: str = "cancelled"


@dataclass(frozen=True, slots=True)
class Discard:
    """Return this from `process` to give the job up, whatever attempts are left.

    For failures that trying again cannot mend. The reason is kept in the job's errors.
    """

    reason: str = "discarded"


class Loss(Enum):
    """How much of an outcome is left out so that at least its state can be written."""

    NOTHING = "nothing"
    DETAILS = "details"
    ERROR = "error"


class Outcome:
    """What one run came to, ready to be written. Made by the executor, owned by nobody after.

    Attributes:
        job: The job as it was started.
        state: The state to write.
        plain: Nothing but ``completed`` is to be written, so the fast statement does.
        error: The failure to raise again where a caller runs jobs inline.
        error_type: The name of the failure's class, for telemetry; None where nothing was raised.
        error_message: What it says.
        duration_ns: How long the run took, in nanoseconds; 0 where that is not known.
        written: Whether it is in the row already, committed with the work of a transactional run;
            False where it was refused, because somebody else has the job by now, and the work was
            undone. None where it is yet to be written.
    """

    __slots__ = (
        "duration_ns",
        "error",
        "error_message",
        "error_text",
        "error_type",
        "job",
        "meta",
        "plain",
        "schedule_in",
        "spent",
        "state",
        "written",
    )

    def __init__(
        self,
        job: Job,
        state: JobState,
        *,
        meta: dict[str, Any] | None = None,
        error: BaseException | None = None,
        error_text: str | None = None,
        schedule_in: float | None = None,
        spent: bool = True,
    ) -> None:
        if (told := job.end_report()) is not None:
            # Whether it was written before or not: what it was written with may be undone.
            meta = with_kept(meta or {}, KEPT, **{PROGRESS: told.kept()})

        self.job = job
        self.state = state
        self.meta = meta
        self.error = error
        self.error_text = error_text
        self.error_type: str | None = None
        self.error_message: str | None = None
        self.schedule_in = schedule_in
        self.spent = spent
        self.plain = state is JobState.COMPLETED and meta is None
        self.duration_ns = 0
        self.written: bool | None = None

    def __repr__(self) -> str:
        return f"<Outcome {self.state.value} of {self.job!r}>"

    def to_json(self, loss: Loss = Loss.NOTHING) -> str:
        """The outcome as the ack statement takes it.

        Args:
            loss: What to leave out, after PostgreSQL refused the whole.

        Raises:
            Exception: Something in it cannot be written as JSON after all.
        """
        kept = loss is Loss.NOTHING
        text = "the outcome was refused by the database; see the node's log"

        return payload.dumps(
            {
                "id": self.job.key[0],
                "fence": clock.to_wire(clock.from_micros(self.job.key[1])),
                "state": self.state.value,
                "spent": self.spent,
                "schedule_in": self.schedule_in,
                "meta": self.meta if kept else None,
                "error": None
                if loss is Loss.ERROR
                else self._entry(self.error_text if kept else text),
            }
        )

    def _entry(self, text: str | None) -> dict[str, Any] | None:
        if text is None:
            return None

        at = clock.utc_now().isoformat(timespec="microseconds").replace("+00:00", "Z")

        return {"at": at, "attempt": self.job.attempt, "error": payload.clean_text(text)}


def of_result(job: Job, result: object) -> Outcome:
    """The outcome of a run that returned."""
    if result is None:
        return Outcome(job, JobState.COMPLETED)

    match result:
        case Record():
            return Outcome(
                job, JobState.COMPLETED, meta={"recorded": True, "return": result.encoded}
            )
        case Snooze():
            return Outcome(
                job,
                JobState.SCHEDULED,
                meta={**(result.meta or {}), "snoozed": counted(job, "snoozed") + 1},
                schedule_in=backoff.seconds(result.seconds),
                spent=False,
            )
        case Cancel():
            return Outcome(job, JobState.CANCELLED, error_text=_reason(result.reason))
        case Discard():
            return Outcome(job, JobState.DISCARDED, error_text=_reason(result.reason))
        case type() if result in (Record, Snooze, Cancel, Discard):
            raise TypeError(f"process returned the class {result.__name__}; return one of it")
        case _:
            return Outcome(job, JobState.COMPLETED)


def counted(job: Job, name: str) -> int:
    """What a counter in a job's meta says; 0 where it is none, or cannot be read."""
    try:
        count = job.meta.get(name, 0)
    except Exception:
        return 0

    # A row may hold any number, and one digit more than Python prints could not be written.
    return count if type(count) is int and 0 <= count < 2**31 else 0


def _reason(reason: object) -> str:
    return reason if isinstance(reason, str) else shown(reason, most=1_000)
