"""How one job and many jobs look, in a terminal and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from oban_sync.cli.screen import Cell, Column, Table, View, state_cell
from oban_sync.cli.words import at, number, since, span
from oban_sync.core.causes import cause_of
from oban_sync.core.clock import utc_now
from oban_sync.core.errors import JobDecodeError
from oban_sync.core.explanation import Explanation
from oban_sync.core.job import Job, JobState
from oban_sync.core.job_logs import AttemptLog, LogLine
from oban_sync.core.progress import Progress
from oban_sync.core.redaction import redacted, written

#: The time that is of most interest, by the state of a job.
_TIME = {
    JobState.SUSPENDED: "inserted_at",
    JobState.SCHEDULED: "scheduled_at",
    JobState.AVAILABLE: "scheduled_at",
    JobState.EXECUTING: "attempted_at",
    JobState.RETRYABLE: "scheduled_at",
    JobState.COMPLETED: "completed_at",
    JobState.CANCELLED: "cancelled_at",
    JobState.DISCARDED: "discarded_at",
}

_TIMES = (
    *("inserted_at", "scheduled_at", "attempted_at"),
    *("completed_at", "cancelled_at", "discarded_at"),
)

#: Parts of meta that stand elsewhere on the page, or are of no use to people.
_ELSEWHERE = ("oban_sync", "recorded", "return")

_LEVEL_STYLES = {"warning": "yellow", "error": "red", "critical": "bold red", "debug": "dim"}

_MOST_SUMMARY = 200


def jobs_table(jobs: Sequence[Job], *, args: bool) -> Table:
    """Many jobs, one in a row."""
    now = utc_now()
    columns = [
        Column("ID", right=True),
        Column("STATE"),
        Column("QUEUE", shrinks=True),
        Column("WORKER", shrinks=True),
        Column("TRIES", right=True),
        Column("WHEN"),
        *([Column("ARGS", shrinks=True)] if args else []),
        Column("NOTE", shrinks=True),
    ]
    rows: list[list[Cell | str]] = [
        [
            str(job.id),
            state_cell(job.state),
            job.queue,
            job.worker,
            f"{job.attempt}/{job.max_attempts}",
            since(_read(job, _TIME[job.state]), now),
            *([_summary(_read(job, "args"))] if args else []),
            _note(job),
        ]
        for job in jobs
    ]

    return Table(columns, rows, empty="No jobs.")


def job_json(job: Job, *, args: bool) -> dict[str, Any]:
    """A job in a list, as JSON; its errors are only counted, and the last is told."""
    errors = _errors(job)
    found = {
        **_columns(job),
        "progress": _progress_json(_progress(job)),
        "failures": len(errors),
        "last_error": errors[-1].get("error") if errors else None,
    }

    return {**found, "args": redacted(_read(job, "args"))} if args else found


def whole_json(job: Job, explained: Explanation | None, *, reveal: bool) -> dict[str, Any]:
    """All there is of a job, as JSON."""
    hide = _kept if reveal else redacted

    return {
        **_columns(job),
        "args": hide(_read(job, "args")),
        "meta": hide(_meta(job)),
        "progress": _progress_json(_progress(job)),
        "recorded": hide(_recorded(job)),
        "errors": _errors(job),
        "explanation": None if explained is None else explanation_json(explained),
    }


def job_page(job: Job, explained: Explanation | None, *, reveal: bool) -> View:
    """All there is of a job, for people."""
    hide = _kept if reveal else redacted
    node = job.attempted_by[0] if job.attempted_by else None
    title = f"Job {job.id}, {job.state}"

    return [
        Cell(title, "bold"),
        *([Cell(explained.sentence, "italic")] if explained is not None else []),
        "",
        *_facts(
            ("worker", job.worker),
            ("queue", job.queue),
            ("priority", str(job.priority)),
            ("tries", f"{job.attempt} of {job.max_attempts}"),
            ("node", node),
            ("tags", ", ".join(map(str, job.tags)) or None),
            ("progress", _progress_text(_progress(job))),
        ),
        *_section("Timeline", _timeline(job)),
        *_section("Args", _json_lines(hide(_read(job, "args")))),
        *_section("Meta", _json_lines(hide(_meta(job)))),
        *_section("Recorded", _json_lines(hide(_recorded(job)))),
        *_section("Errors", _error_lines(job)),
    ]


def explanation_json(explained: Explanation) -> dict[str, Any]:
    """Why a job does not run, as JSON."""
    return {
        "job_id": explained.job_id,
        "state": explained.state,
        "reason": explained.reason.value,
        "sentence": explained.sentence,
        "facts": explained.facts,
    }


def explanation_lines(explained: Explanation) -> View:
    """The same for people: the sentence, and what else holds."""
    also = explained.facts.get("also") or []
    more = [f"  {one.get('sentence', '')}" for one in also if isinstance(one, dict)]

    return [explained.sentence, *(["Besides:", *more] if more else [])]


def log_head(run: AttemptLog) -> Cell:
    """The heading of what one run logged."""
    return Cell(f"Attempt {run.attempt}, {at(run.attempted_at)}, on {run.node}", "bold")


def log_cells(run: AttemptLog, seen: int = 0) -> Iterator[Cell]:
    """What one run logged, but for so many lines that were shown before."""
    if run.dropped > seen:
        yield Cell(f"  ({run.dropped - seen:,} earlier lines were dropped)", "dim")

    for line in run.lines[max(0, seen - run.dropped) :]:
        yield from _log_cells(line)


def logs_json(runs: Iterable[AttemptLog]) -> list[dict[str, Any]]:
    """What a job logged, as JSON."""
    return [
        {
            "attempt": run.attempt,
            "attempted_at": run.attempted_at,
            "node": run.node,
            "dropped": run.dropped,
            "lines": [
                {
                    "at": line.at,
                    "level": line.level,
                    "logger": line.logger,
                    "message": line.message,
                }
                for line in run.lines
            ],
        }
        for run in runs
    ]


def _log_cells(line: LogLine) -> Iterator[Cell]:
    clock = line.at.strftime("%H:%M:%S.%f")[:-3]
    first, *rest = line.message.splitlines() or [""]
    style = _LEVEL_STYLES.get(line.level, "")

    yield Cell(f"  {clock} {line.level:<8} {line.logger}: {first}", style)
    yield from (Cell(f"    {more}", style) for more in rest)


def _columns(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "state": job.state.value,
        "queue": job.queue,
        "worker": job.worker,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "priority": job.priority,
        "tags": job.tags,
        "node": job.attempted_by[0] if job.attempted_by else None,
        **{name: _read(job, name) for name in _TIMES},
    }


def _timeline(job: Job) -> list[str]:
    now = utc_now()
    moments = [(name, _read(job, name)) for name in _TIMES]
    inserted, scheduled, attempted, *ends = (moment for _, moment in moments)
    ended = next((moment for moment in ends if moment is not None), None)
    said = {}

    if attempted is not None and scheduled is not None and attempted >= scheduled:
        said["attempted_at"] = f"waited {span((attempted - scheduled).total_seconds())}"

    if attempted is not None and ended is not None and ended >= attempted:
        said.update(
            {name: f"ran {span((ended - attempted).total_seconds())}" for name in _TIMES[3:]}
        )

    # A job that may start at once has nothing to say about that.
    shown = [
        (name.removesuffix("_at"), moment, said.get(name))
        for name, moment in moments
        if moment is not None and not (name == "scheduled_at" and moment == inserted)
    ]
    shown.sort(key=lambda step: step[1])

    return [
        f"{name:<10}{at(moment)}  {since(moment, now)}{f', {more}' if more else ''}"
        for name, moment, more in shown
    ]


def _error_lines(job: Job) -> list[str]:
    lines = []

    for error in _errors(job):
        lines.append(f"attempt {error.get('attempt', '?')}, {error.get('at', 'at some time')}")
        lines.extend(f"  {line}" for line in str(error.get("error", "")).splitlines())

    return lines


def _note(job: Job) -> str:
    """What is of most interest about a job in a list."""
    if job.state is JobState.EXECUTING:
        return _progress_text(_progress(job)) or ""

    if job.state in (JobState.RETRYABLE, JobState.CANCELLED, JobState.DISCARDED):
        errors = _errors(job)

        return cause_of(str(errors[-1].get("error", "")))[:_MOST_SUMMARY] if errors else ""

    return ""


def _facts(*pairs: tuple[str, str | None]) -> list[str]:
    return [f"  {name:<10}{value}" for name, value in pairs if value is not None]


def _section(title: str, lines: Sequence[str]) -> list[str | Cell]:
    return ["", Cell(title, "bold"), *(f"  {line}" for line in lines)] if lines else []


def _json_lines(value: object) -> list[str]:
    if value in (None, {}):
        return []

    return json.dumps(value, indent=2, ensure_ascii=False).splitlines()


def _summary(value: object) -> str:
    if not value:
        return ""

    text, whole = written(value, most=_MOST_SUMMARY)

    return text if whole else f"{text[: _MOST_SUMMARY - 1]}…"


def _progress_text(progress: Progress | None) -> str | None:
    if progress is None:
        return None

    done = number(progress.done)

    if progress.total is not None and progress.fraction is not None:
        done = f"{done} of {number(progress.total)} ({progress.fraction:.0%})"

    return f"{done} {progress.note}" if progress.note else done


def _progress_json(progress: Progress | None) -> dict[str, Any] | None:
    if progress is None:
        return None

    return {
        "done": progress.done,
        "total": progress.total,
        "note": progress.note,
        "at": progress.at,
        "attempt": progress.attempt,
    }


def _progress(job: Job) -> Progress | None:
    try:
        return job.progress
    except JobDecodeError:
        return None


def _recorded(job: Job) -> Any:
    try:
        return job.recorded()
    except JobDecodeError:
        return None


def _meta(job: Job) -> Any:
    meta = _read(job, "meta")

    if not isinstance(meta, dict):
        return meta

    return {key: value for key, value in meta.items() if key not in _ELSEWHERE}


def _errors(job: Job) -> list[dict[str, Any]]:
    return [error for error in _read(job, "errors") or [] if isinstance(error, dict)]


def _read(job: Job, field: str) -> Any:
    """A field, or None where the row holds something that cannot be read."""
    try:
        return getattr(job, field)
    except JobDecodeError:
        return None


def _kept(value: Any) -> Any:
    return value
