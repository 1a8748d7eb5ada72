"""What crosses between a process and its children, and back: plain data, never a user's object.

Towards the child it is pickled, because times cross too. What comes back is JSON: whatever state a
child is in, reading what it says runs no code of it.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from oban_sync.core import payload
from oban_sync.core.job import Job, JobState
from oban_sync.core.outcome import Outcome

Fields = dict[str, Any]

_PLAIN = (
    "id",
    "key",
    "queue",
    "worker",
    "attempt",
    "max_attempts",
    "priority",
    "tags",
    "attempted_by",
)

#: Kept as the text or number of the database until somebody looks.
_LAZY = (
    "args",
    "meta",
    "errors",
    "inserted_at",
    "scheduled_at",
    "attempted_at",
    "completed_at",
    "cancelled_at",
    "discarded_at",
)

#: The longest data whose length takes four bytes.
_MOST = 0x7FFFFFFF

_OUTCOME = (
    "error_text",
    "error_type",
    "error_message",
    "schedule_in",
    "spent",
    "meta",
    "written",
)


def fields_of(job: Job) -> Fields:
    """A job as it goes to a child; what it holds of its node's lease stays here."""
    fields = {name: getattr(job, name) for name in _PLAIN}
    fields |= {name: getattr(job, f"_{name}") for name in _LAZY}
    fields["state"] = job.state.value

    return fields


def job_of(fields: Fields) -> Job:
    """The job of what `fields_of` gave."""
    return Job.loaded(**fields)


def framed(data: bytes) -> bytes:
    """Data as a connection of multiprocessing sends it: after its length."""
    size = len(data)

    return (struct.pack("!i", size) if size <= _MOST else struct.pack("!iQ", -1, size)) + data


def unframed(stream: bytearray) -> bytes | None:
    """The first data of what came from such a connection, taken out; None for not yet.

    Raises:
        ValueError: It is no such stream.
    """
    if len(stream) < 4:
        return None

    start, (size,) = 4, struct.unpack_from("!i", stream)

    if size < -1:
        raise ValueError(f"{size} is no length")

    if size == -1:
        if len(stream) < 12:
            return None

        start, (size,) = 12, struct.unpack_from("!Q", stream, 4)

    if len(stream) < start + size:
        return None

    data = bytes(stream[start : start + size])
    del stream[: start + size]

    return data


def message(kind: str, content: object = None) -> bytes:
    """What a child says to its parent.

    Raises:
        ValueError, TypeError: It cannot be written as JSON.
    """
    try:
        text = payload.dumps([kind, content])
    except RecursionError as error:
        raise ValueError("it is nested too deeply, or endless") from error

    # Error texts may hold half a surrogate pair.
    return text.encode("utf-8", "surrogatepass")


def read(data: bytes) -> tuple[str, Any]:
    """The kind and content of a message.

    Raises:
        ValueError: It is none.
    """
    try:
        kind, content = json.loads(data.decode("utf-8", "surrogatepass"))
    except (TypeError, RecursionError) as error:
        raise ValueError("it is no pair, or nested too deeply") from error

    return kind, content


def content_of(outcome: Outcome) -> Fields:
    """An outcome as it comes back."""
    return {name: getattr(outcome, name) for name in _OUTCOME} | {"state": outcome.state.value}


def outcome_of(job: Job, content: Fields) -> Outcome:
    """The outcome of what `content_of` gave, for the job as it is known here.

    Raises:
        LookupError, ValueError: It is none.
    """
    outcome = Outcome(
        job,
        JobState(content["state"]),
        meta=content["meta"],
        error_text=content["error_text"],
        schedule_in=content["schedule_in"],
        spent=content["spent"],
    )
    outcome.error_type = content["error_type"]
    outcome.error_message = content["error_message"]
    outcome.written = None if content["written"] is None else bool(content["written"])

    return outcome
