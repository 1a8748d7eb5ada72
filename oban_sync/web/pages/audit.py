"""Who did what by hand, newest first."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue

from oban_sync.control import audit as control
from oban_sync.control.jobs import MOST_ID
from oban_sync.engine.audit import AuditEntry
from oban_sync.web import replies
from oban_sync.web.actions import Action
from oban_sync.web.menu import Entry
from oban_sync.web.site import here

MENU = Entry("audit", "Audit", "a")

#: Entries on one page.
PER_PAGE = 50

#: Characters of what else is known of an action.
_MOST_DETAIL = 300

_SUBJECT = re.compile(r"(?P<kind>job|queue|cron) (?P<name>.+)", re.S)


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that somebody did.

    Attributes:
        entry: It.
        to: The page of what it was done to; None where there is none.
        detail: What else is to be known of it, in one line.
    """

    entry: AuditEntry
    to: str | None
    detail: str


def register(blueprint: Blueprint) -> None:
    """Add the rule."""
    blueprint.get("/audit")(audit)


def audit() -> ResponseReturnValue:
    """The page."""
    who = request.args.get("who", "").strip()
    action = request.args.get("action", "").strip()
    before = _before()
    found = control.list_audit(
        here().db,
        limit=PER_PAGE + 1,
        before_id=before,
        who=_storable(who) or None,
        action=_storable(action) or None,
    )
    shown = found[:PER_PAGE]

    return replies.page(
        "audit",
        rows=[Row(entry, _to(entry.subject), _detail(entry)) for entry in shown],
        who=who,
        action=action,
        actions=_actions(),
        before=before,
        filtered=bool(who or action),
        older=url_for(".audit", who=who or None, action=action or None, before=shown[-1].id)
        if len(found) > PER_PAGE
        else None,
        newest=url_for(".audit", who=who or None, action=action or None),
        who_url=lambda name: url_for(".audit", who=name, action=action or None),
    )


def _before() -> int | None:
    text = request.args.get("before", "")

    if not text:
        return None

    # Longer ones are not even read: Python refuses that from some length on.
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(MOST_ID))

    if not digits or int(text) > MOST_ID:
        abort(400, "That is no place in the audit.")

    return int(text)


def _storable(text: str) -> str:
    """What can be looked for: no row holds what cannot be stored."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _actions() -> list[tuple[str, list[str]]]:
    """The actions by what they are done to; ``jobs:`` stands for all of these."""
    found: dict[str, list[str]] = {}

    for action in Action:
        found.setdefault(f"{action.value.partition(':')[0]}:", []).append(action.value)

    return list(found.items())


def _to(subject: str) -> str | None:
    match = _SUBJECT.fullmatch(subject)

    if match is None:
        return None

    kind, name = match["kind"], match["name"]

    if kind != "job":
        return url_for(f".{kind}", name=name)

    return url_for(".job", job_id=int(name)) if re.fullmatch(r"[0-9]{1,18}", name) else None


def _detail(entry: AuditEntry) -> str:
    if not entry.detail:
        return ""

    shown = here().hider.value(entry.detail)
    text = ", ".join(
        f"{key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for key, value in shown.items()
    )

    return text if len(text) <= _MOST_DETAIL else f"{text[: _MOST_DETAIL - 1]}…"
