"""Who did what to jobs, queues and cron entries by hand, from the dashboard or the command line.

What the application's own code does is not written down: it does nothing by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from oban_sync.core import payload
from oban_sync.core.checks import check_choice, check_whole
from oban_sync.core.filters import FilterError, parse
from oban_sync.core.redaction import HIDDEN
from oban_sync.engine import audit
from oban_sync.engine.audit import AuditEntry
from oban_sync.engine.session import Db, Tx

#: Most entries given by one call.
MOST_LISTED = 1_000

VIA = ("dashboard", "cli")

_MOST_TEXT = 1_000
_MOST_DETAIL = 64_000


def record(
    where: Db | Tx,
    name: str,
    *,
    via: str,
    who: str | None,
    action: str,
    subject: str,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Write down that somebody did something.

    Args:
        where: The transaction that it was done in, so that one is not there without the other; or
            the tables, for what was done in a transaction of its own.
        name: The Oban instance.
        via: ``dashboard`` or ``cli``.
        who: Who did it, in words; None where nobody knows.
        action: What was done, as ``jobs:cancel``.
        subject: To what, as ``job 7``. Long ones are cut.
        detail: What else is to be known of it; JSON. Not for args, which may be personal.

    Raises:
        ConfigError: `via` is another.
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    values = {
        "name": name,
        "via": check_choice("via", via, *VIA),
        "who": None if who is None else _text(who),
        "action": _text(action),
        "subject": _text(subject),
        "detail": payload.encode(detail or {}, "detail", most_bytes=_MOST_DETAIL),
    }

    if isinstance(where, Tx):
        audit.insert(where, **values)  # type: ignore[arg-type]
    else:
        with where.session() as tx:
            audit.insert(tx, **values)  # type: ignore[arg-type]


def list_audit(
    db: Db,
    *,
    limit: int = 100,
    before_id: int | None = None,
    who: str | None = None,
    action: str | None = None,
) -> list[AuditEntry]:
    """What people did, the newest first.

    Filters come without the values of args and meta, however they were written down.

    Args:
        limit: Most entries, 1 to 1,000.
        before_id: Only what was before this entry: the last one of the page before.
        who: Only what this person did.
        action: Only this action, as ``jobs:cancel``; ``jobs:`` for every one on jobs.

    Raises:
        ConfigError: `limit` is not allowed.
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    most = check_whole("limit", limit, 1, MOST_LISTED)

    with db.session() as tx:
        found = audit.list_entries(tx, who=who, action=action, before_id=before_id, most=most)

    return [_masked(entry) for entry in found]


def _masked(entry: AuditEntry) -> AuditEntry:
    """An entry with nothing of args and meta in it: earlier versions wrote filters as they were."""
    if not isinstance(text := entry.detail.get("filter"), str):
        return entry

    bare = _bare(text)
    # That of a dashboard named the filter twice, the first time cut where it was long.
    subject = f"jobs {bare}" if entry.subject.startswith("jobs ") else entry.subject

    return replace(entry, subject=_text(subject), detail={**entry.detail, "filter": bare})


def _bare(text: str) -> str:
    try:
        return parse(text).masked
    except FilterError:
        return HIDDEN


def _text(text: str) -> str:
    return payload.clean_text(text, most=_MOST_TEXT)
