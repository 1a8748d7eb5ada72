"""A structured log of what jobs do, made from the events.

Each line says what happened and carries its facts as fields: as ``key=value`` in text, or as one
JSON object. Args are never logged; they may be personal.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from oban_sync.telemetry import bus

log = logging.getLogger("oban_sync.jobs")

_IDENTIFIER = "oban-sync-log"

_FAILURES = ("oban.job.exception", "oban.job.fenced")
_EVENTS = ("oban.job.stop", *_FAILURES, "oban.producer.release")

_attached = False


def attach(*, failures_only: bool = False) -> None:
    """Log the end of every job: failures as warnings, the rest as information.

    Lines go to the logger ``oban_sync.jobs``, with the fields in ``record.fields`` and the job in
    ``record.job``, for filters. An Oban
    attaches it for failures when it starts its queues, so that they do not go unseen; tracebacks
    are in the job's errors.

    Args:
        failures_only: Leave out what went well, and change nothing where it is attached already.
    """
    global _attached

    if not (failures_only and _attached):
        bus.attach(_IDENTIFIER, _FAILURES if failures_only else _EVENTS, _handle)
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
    """One JSON object a line: time (UTC), level, logger, message, and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        whole = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": getattr(record, "what", None) or record.getMessage(),
            **getattr(record, "fields", {}),
        }

        if record.exc_info:
            whole["traceback"] = self.formatException(record.exc_info)

        return json.dumps(whole, default=str)


def printable(text: str) -> str:
    """Text that came from rows, without characters that could steer a terminal or forge a line."""
    if text.isprintable():
        return text

    return "".join(
        char if char.isprintable() or char == "\t" else repr(char)[1:-1] for char in text
    )


def _handle(event: str, fields: dict[str, Any]) -> None:
    if event == "oban.producer.release":
        for job in fields["jobs"]:
            _log(logging.WARNING, "job handed back", job, _job_fields(job))
    elif event == "oban.job.fenced":
        _log(logging.WARNING, "job fenced", fields["job"], _job_fields(fields["job"]))
    else:
        more = {
            "duration_ms": round(fields["duration"] / 1e6, 3),
            "waited_ms": round(fields["queue_time"] / 1e6, 3),
        }
        level = logging.INFO

        if event == "oban.job.exception":
            level = logging.WARNING
            more["error"] = f"{fields['error_type']}: {fields['error_message']}"[:500]

        job = fields["job"]
        _log(level, f"job {fields['state']}", job, {**_job_fields(job), **more})


def _log(level: int, what: str, job: Any, fields: dict[str, Any]) -> None:
    # The facts are in the message too, for whoever formats records with a formatter of their own.
    text = " ".join(f"{key}={_value(fields[key])}" for key in fields)
    log.log(level, "%s %s", what, text, extra={"what": what, "fields": fields, "job": job})


def _job_fields(job: Any) -> dict[str, Any]:
    return {
        "id": job.id,
        "worker": job.worker,
        "queue": job.queue,
        "attempt": f"{job.attempt}/{job.max_attempts}",
    }


def _value(value: object) -> str:
    text = printable(str(value))

    return json.dumps(text, ensure_ascii=False) if " " in text or '"' in text else text
