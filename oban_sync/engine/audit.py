"""Who changed what by hand: rows that are written with the change itself, and read by people."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from oban_sync.engine.session import Tx


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One thing that somebody did.

    Attributes:
        id: Counts up.
        at: When, by the database's clock.
        name: The Oban instance that was addressed.
        via: From where: ``dashboard`` or ``cli``.
        who: Who did it; None where nobody knew.
        action: What: ``jobs:cancel``, ``queues:pause``.
        subject: To what: ``job 7``, ``queue mailers``.
        detail: What else is to be known of it.
    """

    id: int
    at: datetime
    name: str
    via: str
    who: str | None
    action: str
    subject: str
    detail: dict[str, Any]


def insert(
    tx: Tx,
    *,
    name: str,
    via: str,
    who: str | None,
    action: str,
    subject: str,
    detail: str,
) -> None:
    """Write one entry; `detail` is a JSON object as text."""
    tx.tuples(
        "audit_insert",
        name=name,
        via=via,
        who=who,
        action=action,
        subject=subject,
        detail=detail,
    )


def list_entries(
    tx: Tx,
    *,
    who: str | None = None,
    action: str | None = None,
    before_id: int | None = None,
    most: int,
) -> list[AuditEntry]:
    """The newest entries, of one person or one kind of action where that is asked for."""
    rows = tx.unprepared("audit_list", who=who, action=action, before_id=before_id, most=most)

    return [
        AuditEntry(entry_id, at, name, via, by, done, subject, _object(detail))
        for entry_id, at, name, via, by, done, subject, detail in rows
    ]


def _object(text: str) -> dict[str, Any]:
    found = json.loads(text)

    return found if isinstance(found, dict) else {"detail": found}
