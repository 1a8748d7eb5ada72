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

_EVENTS = ("oban.job.stop", "oban.job.exception", "oban.job.fenced", "oban.producer.release")


def attach() -> None:
    """Log the end of every job: failures as warnings, the rest as information.

    Lines go to the logger ``oban_sync.jobs``, with the fields in ``record.fields``.
    """
    bus.attach(_IDENTIFIER, _EVENTS, _handle)


def detach() -> None:
    """Stop logging jobs."""
    bus.detach(_IDENTIFIER)


class TextFormatter(logging.Formatter):
    """``2026-11-23 12:00:00.123 INFO job completed id=1 worker=app.Mailer``, on one line."""

    default_msec_format = "%s.%03d"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line; a traceback follows where the record has one."""
        head, *trace = super().format(record).split("\n")
        fields = getattr(record, "fields", {})
        text = " ".join([printable(head), *(f"{key}={_value(fields[key])}" for key in fields)])

        return "\n".join([text, *map(printable, trace)])


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        whole = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
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
            log.warning("job handed back", extra={"fields": _job_fields(job)})
    elif event == "oban.job.fenced":
        log.warning("job fenced", extra={"fields": _job_fields(fields["job"])})
    else:
        more = {
            "duration_ms": round(fields["duration"] / 1e6, 3),
            "waited_ms": round(fields["queue_time"] / 1e6, 3),
        }
        level = logging.INFO

        if event == "oban.job.exception":
            level = logging.WARNING
            more["error"] = f"{fields['error_type']}: {fields['error_message']}"[:500]

        log.log(
            level,
            "job %s",
            fields["state"],
            extra={"fields": {**_job_fields(fields["job"]), **more}},
        )


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
