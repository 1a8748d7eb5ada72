"""A job: one row of `oban_jobs`, before and after it is stored."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final

from oban_sync.core import clock, payload, recorded
from oban_sync.core.carrying import with_kept
from oban_sync.core.deadline import Deadline as Deadline
from oban_sync.core.deadline import seconds_to_start, with_deadline
from oban_sync.core.errors import JobDecodeError, NotRunningError
from oban_sync.core.lazy import Lazy, parsed_list, parsed_moment, parsed_object
from oban_sync.core.lease import Lease
from oban_sync.core.progress import PROGRESS, Progress, Report, progress_of
from oban_sync.core.row import KEPT as KEPT
from oban_sync.core.row import Row as Row
from oban_sync.core.row import row_of, usual_of
from oban_sync.core.state import JobState as JobState
from oban_sync.core.unique import Unique

# Asking the enum takes longer than all else that is done with one here.
_AVAILABLE, _EXECUTING, _SCHEDULED = JobState.AVAILABLE, JobState.EXECUTING, JobState.SCHEDULED


class Job:
    """One job.

    Made by `Worker.new` and `Worker.enqueue`, and handed to `process`. Times are aware UTC
    datetimes, or None where the job has not come that far. `args` and `meta` are parsed when first
    looked at; looking raises `JobDecodeError` when a row holds something else than an object.

    Attributes:
        id: The row's id; None until the job is stored.
        state: Where the job stands, a `JobState`.
        queue: The queue it runs in.
        worker: The registered name of the worker that performs it.
        attempt: Times started.
        max_attempts: Most times it may be started.
        priority: 0 (first) to 9.
        tags: Free labels.
        attempted_by: ``[node, producer uuid]`` of the last start.
        key: The id and the start of this run; what may be written for it is found by both.
    """

    __slots__ = (
        "_args",
        "_attempted_at",
        "_begin_report",
        "_cancelled",
        "_cancelled_at",
        "_completed_at",
        "_conflict",
        "_deadline",
        "_discarded_at",
        "_errors",
        "_generation",
        "_inserted_at",
        "_lane",
        "_lease",
        "_meta",
        "_report",
        "_schedule_in",
        "_scheduled_at",
        "_timed_out",
        "_unique",
        "attempt",
        "attempted_by",
        "id",
        "key",
        "max_attempts",
        "priority",
        "queue",
        "state",
        "tags",
        "worker",
    )

    id: int | None
    key: tuple[int, int]
    state: JobState
    queue: str
    worker: str
    attempt: int
    max_attempts: int
    priority: int
    tags: list[str]
    attempted_by: list[str]

    #: What the worker works on: a dict with string keys.
    args = Lazy("args", parsed_object)
    #: Data about the job, kept by the library and the application: a dict.
    meta = Lazy("meta", parsed_object)
    #: One ``{"at", "attempt", "error"}`` per failure, oldest first.
    errors = Lazy("errors", parsed_list)

    #: When the job was stored.
    inserted_at = Lazy("inserted_at", parsed_moment)
    #: When the job may start, or might first have started.
    scheduled_at = Lazy("scheduled_at", parsed_moment)
    #: When the job was last started.
    attempted_at = Lazy("attempted_at", parsed_moment)
    #: When the job completed.
    completed_at = Lazy("completed_at", parsed_moment)
    #: When the job was cancelled.
    cancelled_at = Lazy("cancelled_at", parsed_moment)
    #: When the job was given up.
    discarded_at = Lazy("discarded_at", parsed_moment)

    def __init__(
        self,
        *,
        worker: str,
        queue: str = "default",
        args: str = "{}",
        meta: str = "{}",
        tags: list[str] | None = None,
        priority: int = 0,
        max_attempts: int = 20,
        scheduled_at: datetime | None = None,
        schedule_in: float | None = None,
        unique: Unique | None = None,
        timeout: float | None = None,
        deadline: Deadline | None = None,
        weight: int | None = None,
    ) -> None:
        self.id = None
        self.state = _AVAILABLE if scheduled_at is None and schedule_in is None else _SCHEDULED
        self.queue = queue
        self.worker = worker
        self.attempt = 0
        self.max_attempts = max_attempts
        self.priority = priority
        self.tags = [] if tags is None else tags
        self.attempted_by = []
        self._lease: Lease | None = None
        self._generation = 0
        self._cancelled = False
        self._report: Report | None = None
        self._args: Any = args
        self._meta: Any = meta
        self._unique = unique
        self._deadline = deadline

        if unique is not None:
            unique.check(args, meta)

        if timeout is not None or weight is not None or deadline is not None:
            forced = deadline and deadline.force or None
            kept = {"timeout": timeout, "weight": weight, "forced": forced}

            if kept := {name: value for name, value in kept.items() if value is not None}:
                self._meta = payload.dumps(with_kept(self.meta, KEPT, **kept))

        self._errors: Any = "[]"
        self._inserted_at: Any = None
        self._scheduled_at: Any = scheduled_at
        self._attempted_at: Any = None
        self._completed_at: Any = None
        self._cancelled_at: Any = None
        self._discarded_at: Any = None
        self._schedule_in = schedule_in

    def __repr__(self) -> str:
        # Never the args: they may be personal, and reprs end up in logs.
        return (
            f"<Job {self.id} {self.worker!r} {self.state.value} "
            f"queue={self.queue!r} attempt={self.attempt}/{self.max_attempts}>"
        )

    @property
    def conflict(self) -> bool:
        """Whether this is a job that was there before, found in place of a new unique one."""
        return getattr(self, "_conflict", False)

    @property
    def is_unique(self) -> bool:
        """Whether it is looked for another one that is the same when this is stored."""
        return getattr(self, "_unique", None) is not None

    def cancelled(self) -> bool:
        """Whether this run was asked to stop: by somebody, or because its time is up.

        Heard within a second, and by the next beat at the latest. Threads cannot be stopped from
        outside, so long work looks now and then, and returns ``Cancel("...")``. A job that fails or
        snoozes after it was asked is cancelled, one that completes is completed.
        """
        return self._cancelled

    def timed_out(self) -> bool:
        """Whether this run took longer than its timeout, which is why it was asked to stop."""
        return getattr(self, "_timed_out", False)

    def lease_lost(self) -> bool:
        """Whether another node may have been given this job while it runs here.

        True from the moment at which this node could not renew its lease in time, and false again
        once the database says that nobody took the job. What the run comes to is still written,
        unless the job was started elsewhere by then. Long work that must not be done twice looks
        before each step.
        """
        lease = self._lease

        return lease is not None and (lease.ended or self._generation != lease.generation)

    def leased(self, lease: Lease) -> None:
        """Tie this run to a node's lease as it stands now: the job is known to be the node's."""
        self._lease = lease
        self._generation = lease.generation

    def disowned(self) -> None:
        """Make `lease_lost` true, whatever the lease: the job may be somebody else's by now."""
        self._generation = -1

    def doubted(self) -> None:
        """Make `lease_lost` true until `leased` is called: whose it is has to be looked up."""
        self._generation = -2

    @property
    def is_disowned(self) -> bool:
        """Whether `disowned` was called, and `leased` not since."""
        return self._generation == -1

    def ask_to_stop(self, *, timed_out: bool = False) -> None:
        """Make `cancelled` true, and `timed_out` where that is the reason."""
        if timed_out:
            self._timed_out = True

        self._cancelled = True

    def report_progress(
        self, done: float, total: float | None = None, note: str | None = None
    ) -> None:
        """Tell how far this run has come, for whoever looks at `progress`.

        Written at once, and then every half second at most, so it may be called in the tightest of
        loops and from any thread of the job; what was told last is kept with the outcome in any
        case. It is seen before the end of a transactional job. When the database cannot be reached
        the job goes on: it waits up to a second, and ten more go by before the next try.

        Args:
            done: How much is done, 0 or more.
            total: Of how much. It may be a guess, and change; None for not known.
            note: A few words for people, of which 200 characters are kept. Not for secrets.

        Raises:
            InvalidJobError: A number is below 0 or none, or the note is no text.
            NotRunningError: The job does not run here: it was only read.

        Example:
            >>> @job(queue="imports")
            ... def load(rows):
            ...     for done, row in enumerate(rows, 1):
            ...         current_job().report_progress(done, len(rows), note=row["name"])
        """
        if (report := self._report) is None:
            if (begin := getattr(self, "_begin_report", None)) is None:
                raise NotRunningError(f"{self!r} does not run here: only running jobs get on")

            # Of two threads that come here at once, the first value of one counts: who knows which.
            self._report = report = begin(self)

        report.tell(done, total, note)

    @property
    def progress(self) -> Progress | None:
        """How far the job has come, as it was told by `report_progress`; None for not a word.

        That of an earlier attempt stands until the next one tells something.

        Raises:
            JobDecodeError: The meta cannot be read.
        """
        told = None if self._report is None else self._report.last

        return progress_of(self.kept(PROGRESS)) if told is None else told

    def reporting(self, begin: Callable[[Job], Report]) -> None:
        """Let `report_progress` be of use from now on; what it needs is made when it is called."""
        self._begin_report = begin

    def end_report(self) -> Progress | None:
        """The run is over: what it told last, if anything. Nothing more is taken."""
        return None if self._report is None else self._report.end()

    @property
    def keeps(self) -> bool:
        """Whether the library may keep something with this job; quick, and true more often."""
        return type(self._meta) is not str or KEPT in self._meta

    def kept(self, name: str) -> Any:
        """What the library keeps with this job, in its meta under `KEPT`; None when nothing.

        Raises:
            JobDecodeError: The meta cannot be read.
        """
        # Of most jobs the meta is never parsed.
        if not self.keeps:
            return None

        kept = self.meta.get(KEPT)

        return kept.get(name) if isinstance(kept, dict) else None

    @property
    def carried(self) -> dict[str, Any]:
        """What was taken along from where the job was enqueued, by name; see ``Oban(carry=)``."""
        found = self.kept("carried")

        return found if isinstance(found, dict) else {}

    def recorded(self) -> Any:
        """The value the job recorded by returning ``Record(value)``.

        Returns:
            The value; None when nothing was recorded.

        Raises:
            JobDecodeError: The stored value cannot be read.
        """
        meta = self.meta

        if not meta.get("recorded"):
            return None

        try:
            return recorded.decode(meta["return"])
        except (KeyError, TypeError, ValueError) as error:
            raise JobDecodeError(f"job {self.id}: the recorded value cannot be read") from error

    def to_row(self, carried: dict[str, Any] | None = None) -> Row:
        """The job for the insert statement, every value checked by now.

        Fields that were looked at are encoded again, since a dict may have been changed. Whatever
        another job's key or run left in the meta is dropped.

        Args:
            carried: What it carries along from where it is enqueued.

        Raises:
            InvalidJobError: One of them was changed into something that cannot be stored, or a key
                that makes the job unique was taken away.
        """
        return row_of(
            self,
            usual_of(self.queue, self.worker, self.priority, self.max_attempts, self.tags),
            self._args,
            self._meta,
            schedule_in=self._schedule_in,
            # Of a job that was stored or run already, the time is no wish but what it came to.
            scheduled_at=self.scheduled_at if self.state is _SCHEDULED else None,
            deadline=seconds_to_start(getattr(self, "_deadline", None), self.kept("deadline")),
            unique=getattr(self, "_unique", None),
            carried=carried,
        )

    def stored(self, row: Row, job_id: int, inserted_at: str, scheduled_at: str | None) -> Job:
        """A copy of this job as the database stored it; the job itself may be enqueued again.

        Args:
            row: What was stored.
            job_id: The id it got.
            inserted_at: The time of that, as PostgreSQL prints it.
            scheduled_at: The time it was scheduled for, likewise; None for the same.
        """
        if scheduled_at is None:
            scheduled_at = inserted_at

        job = _blank()
        job.id = job_id
        job.state = _SCHEDULED if self.state is _SCHEDULED else _AVAILABLE
        job.queue = self.queue
        job.worker = self.worker
        job.attempt = 0
        job.max_attempts = self.max_attempts
        job.priority = self.priority
        job.tags = self.tags
        job.attempted_by = []
        job._args = self._args
        job._meta = row.meta
        job._errors = "[]"
        job._inserted_at = inserted_at
        job._scheduled_at = scheduled_at
        job._attempted_at = None
        job._completed_at = None
        job._cancelled_at = None
        job._discarded_at = None
        job._schedule_in = None
        job._lease = None
        job._cancelled = False
        job._report = None
        job._unique = row.unique
        job._deadline = getattr(self, "_deadline", None)

        if row.deadline is not None:
            start = clock.from_wire(scheduled_at)
            job._meta = with_deadline(job.meta, KEPT, row.deadline, start)

        return job

    def found_for(self, row: Row) -> Job:
        """Make this, a job read from the table, the one found in place of a new unique one."""
        self._conflict = True
        self._unique = row.unique

        return self

    @classmethod
    def fetched(
        cls,
        row: FetchedRow,
        queue: str,
        attempted_by: list[str],
        lease: Lease | None = None,
        since: int = 0,
    ) -> Job:
        """A job just taken from its queue. This is the hot path: no parsing, no checks.

        Args:
            row: Its columns.
            queue: The queue.
            attempted_by: Who took it.
            lease: The lease it is held by, if any ...
            since: ... and the generation of that.
        """
        job = _blank()
        (
            job.priority,
            job._scheduled_at,
            job.id,
            job.worker,
            job._args,
            job._meta,
            job._errors,
            tags,
            job.attempt,
            job.max_attempts,
            job._inserted_at,
            job._attempted_at,
            _,
        ) = row
        job.tags = [] if tags is None else tags
        # Of its own, because process may change every field of its job, and reading one parses it.
        job.key = (row[2], row[11])
        job.state = _EXECUTING
        job.queue = queue
        job.attempted_by = attempted_by
        job._completed_at = None
        job._cancelled_at = None
        job._discarded_at = None
        job._schedule_in = None
        job._lease = lease
        job._generation = since
        job._cancelled = False
        job._report = None

        return job

    @classmethod
    def loaded(cls, **fields: Any) -> Job:
        """A job read from the table by column name; jsonb and timestamps as text."""
        job = _blank()
        job._schedule_in = None
        job._lease = None
        job._cancelled = False
        job._report = None
        job._unique = None
        job._deadline = None
        job.state = JobState(fields.pop("state"))
        job.tags = fields.pop("tags") or []
        job.attempted_by = fields.pop("attempted_by") or []

        for name in ("args", "meta", "errors"):
            setattr(job, f"_{name}", fields.pop(name) or ("[]" if name == "errors" else "{}"))

        for name, value in fields.items():
            setattr(job, f"_{name}" if name.endswith("_at") else name, value)

        return job


FetchedRow = tuple[int, int, int, str, str, str, str, list[str] | None, int, int, int, int, int]


def _blank() -> Job:
    return Job.__new__(Job)


CURRENT: Final[ContextVar[Job | None]] = ContextVar("oban_sync_current_job", default=None)


def current_job() -> Job | None:
    """The job that runs on this thread, or None outside of a job.

    Meant for functions decorated with `@job`, which do not get the job as an argument, and for code
    they call. Threads that a job starts itself do not see it unless they copy the context.
    """
    return CURRENT.get()
