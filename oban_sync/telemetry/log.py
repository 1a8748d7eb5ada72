"""A structured log of what jobs do, made from the events.

Each line says what happened and carries its facts as fields: as ``key=value`` in text, or as one
JSON object. Args are not logged unless somebody asks for it; they may be personal.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any

from oban_sync.core.errors import ConfigError, JobDecodeError, shown
from oban_sync.core.job import CURRENT, Job
from oban_sync.core.redaction import redacted
from oban_sync.telemetry import bus

log = logging.getLogger("oban_sync.jobs")

_IDENTIFIER = "oban-sync-log"

_FAILURES = ("oban.job.exception", "oban.job.fenced")
_EVENTS = ("oban.job.stop", *_FAILURES, "oban.producer.release")

#: Names that levels may be given by.
LEVELS = ("debug", "info", "warning", "error", "critical")

#: What every record has, so that the rest is what the application added.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

#: Characters of args in a line.
MOST_ARGS = 2_000

#: What is logged of args: nothing, all but what is hidden, or what a function gives.
Args = bool | Callable[[Job], Any]

_attached = False


def attach(
    *,
    failures_only: bool = False,
    level: int | str = logging.INFO,
    args: Args = False,
    starts: bool = False,
) -> None:
    """Log the end of every job: failures as warnings, the rest as information.

    Lines go to the logger ``oban_sync.jobs``, with the fields in ``record.fields`` and the job in
    ``record.job``, for filters. An Oban
    attaches it for failures when it starts its queues, so that they do not go unseen; tracebacks
    are in the job's errors.

    Args:
        failures_only: Leave out what went well, and change nothing where it is attached already.
        level: The level of lines about what went well, by number or name.
        args: Whether the jobs' args are logged, with passwords and the like left out (see
            `core.redaction`), or a function of the job that gives what is logged of them.
        starts: Whether the starts of jobs are logged too.

    Raises:
        ConfigError: There is no such level.
    """
    global _attached

    lines = _Lines(_level(level), args)

    if failures_only and _attached:
        return

    more = ("oban.job.start",) if starts else ()
    bus.attach(_IDENTIFIER, _FAILURES if failures_only else (*more, *_EVENTS), lines.handle)
    _attached = True


def detach() -> None:
    """Stop logging jobs."""
    global _attached

    bus.detach(_IDENTIFIER)
    _attached = False


class TextFormatter(logging.Formatter):
    """``2026-11-23 12:00:00.123 INFO job completed id=1 worker=app.Mailer``, on one line."""

    default_msec_format = "%s.%03d"

    def format(self, record: logging.LogRecord) -> str:
        """The line; a traceback follows where the record has one."""
        message = printable(record.getMessage())
        line = f"{self.formatTime(record)} {record.levelname} {message}"
        trace = self.formatException(record.exc_info).splitlines() if record.exc_info else []

        return "\n".join([line, *map(printable, trace)])


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, and the fields.

    A line that a job logs has ``job_id``, ``worker``, ``queue`` and ``attempt``; what is given as
    ``extra=`` is in it too.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields = getattr(record, "fields", None)
        whole = {
            # First in the line, and not to be given by anybody else.
            **dict.fromkeys(("time", "level", "logger", "message")),
            **(fields if isinstance(fields, dict) else _extras(record)),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": getattr(record, "what", None) or record.getMessage(),
        }

        if record.exc_info:
            whole["traceback"] = self.formatException(record.exc_info)

        if record.stack_info:
            whole["stack"] = record.stack_info

        return json.dumps(whole, default=str)


def printable(text: str) -> str:
    """Text that came from rows, without characters that could steer a terminal or forge a line."""
    if text.isprintable():
        return text

    return "".join(
        char if char.isprintable() or char == "\t" else repr(char)[1:-1] for char in text
    )


class _Lines:
    """Makes lines of events.

    Args:
        level: The level of those about what went well.
        args: What is logged of the jobs' args.
    """

    def __init__(self, level: int, args: Args) -> None:
        self._level = level
        self._args = args

    def handle(self, event: str, fields: dict[str, Any]) -> None:
        """Write the lines of an event."""
        if event == "oban.producer.release":
            for job in fields["jobs"]:
                self._log(logging.WARNING, "job handed back", job)
        elif event == "oban.job.fenced":
            self._log(logging.WARNING, "job fenced", fields["job"])
        elif event == "oban.job.start":
            self._log(self._level, "job started", fields["job"])
        else:
            more = {
                "duration_ms": round(fields["duration"] / 1e6, 3),
                "waited_ms": round(fields["queue_time"] / 1e6, 3),
            }
            level = self._level

            if event == "oban.job.exception":
                level = logging.WARNING
                more["error"] = f"{fields['error_type']}: {fields['error_message']}"[:500]

            self._log(level, f"job {fields['state']}", fields["job"], more)

    def _log(self, level: int, what: str, job: Any, more: dict[str, Any] | None = None) -> None:
        # The hot path: most of the time nobody wants to know what went well.
        if not log.isEnabledFor(level):
            return

        fields = {**_job_fields(job), **(more or {})}

        if self._args:
            fields["args"] = _args_of(job, self._args)

        # The facts are in the message too, for whoever formats records with a formatter of its own.
        text = " ".join(f"{key}={_value(fields[key])}" for key in fields)
        log.log(level, "%s %s", what, text, extra={"what": what, "fields": fields, "job": job})


def _level(given: object) -> int:
    if isinstance(given, str) and given.lower() in LEVELS:
        return int(getattr(logging, given.upper()))

    if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
        return given

    raise ConfigError("level", f"{shown(given)} is not allowed; give one of {', '.join(LEVELS)}")


def _args_of(job: Any, wanted: Args) -> Any:
    try:
        return wanted(job) if callable(wanted) else redacted(job.args)
    except JobDecodeError as error:
        return f"({error})"


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    """What the application gave with a record, and the job that it was made in."""
    given = {name: item for name, item in vars(record).items() if name not in _USUAL}
    job = CURRENT.get()

    if job is None:
        return given

    about = _job_fields(job)

    return {"job_id": about.pop("id"), **about, **given}


def _job_fields(job: Any) -> dict[str, Any]:
    return {
        "id": job.id,
        "worker": job.worker,
        "queue": job.queue,
        "attempt": f"{job.attempt}/{job.max_attempts}",
    }


def _value(value: object) -> str:
    text = value if isinstance(value, str) else _flat(value)
    text = printable(text)

    return json.dumps(text, ensure_ascii=False) if " " in text or '"' in text else text


def _flat(value: object) -> str:
    if not isinstance(value, (dict, list)):
        return str(value)

    text = json.dumps(value, default=str, ensure_ascii=False, separators=(",", ":"))

    return text if len(text) <= MOST_ARGS else f"{text[: MOST_ARGS - 1]}…"
