"""Who hears what the notifier hears: new jobs, signals, and words among nodes of ours."""

from __future__ import annotations

from functools import partial
from typing import Any

from oban_sync.runtime.leader import Leader
from oban_sync.runtime.notifier import Notifier
from oban_sync.runtime.refresher import Refresher
from oban_sync.runtime.roster import Roster
from oban_sync.runtime.stacks import StackTaker


def connect(
    notifier: Notifier,
    prefix: str,
    roster: Roster,
    refresher: Refresher,
    leader: Leader | None,
    stacks: StackTaker,
) -> None:
    """Pass on what comes over the channels of a schema; before the start.

    Args:
        notifier: Hears it.
        prefix: The schema.
        roster: Hears of new jobs, and of signals.
        refresher: Looks for the rows behind signals.
        leader: Hears that another one resigned.
        stacks: Hears that somebody asks where a job is.
    """

    def inserted(payload: dict[str, Any]) -> None:
        if not isinstance(queue := payload["queue"], str):
            raise ValueError("no queue is named")

        roster.wake(queue)

    def signalled(payload: dict[str, Any]) -> None:
        if roster.heard(payload):
            refresher.wake()

    def synced(payload: dict[str, Any]) -> None:
        if "order" in payload:
            roster.announced(payload["order"], payload["signal"], payload.get("by"))
        elif "reset" in payload:
            roster.forget(payload["reset"])
            refresher.wake()
        elif "stack" in payload:
            stacks.asked(payload["stack"])
        elif leader is not None:
            leader.wake()

    channel = partial("{}.oban_{}".format, prefix)
    notifier.on(channel("insert"), inserted)
    notifier.on(channel("signal"), signalled)
    notifier.on(channel("sync"), synced)
