"""What people may do in the dashboard, by name, and what they are allowed of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from oban_sync.core.errors import ConfigError, shown, unknown


class Action(StrEnum):
    """Something that changes jobs, queues or cron entries, or asks a node for something."""

    JOBS_ADD = "jobs:add"
    JOBS_CANCEL = "jobs:cancel"
    JOBS_DELETE = "jobs:delete"
    JOBS_EDIT = "jobs:edit"
    JOBS_RETRY = "jobs:retry"
    JOBS_RUN = "jobs:run"
    JOBS_STACK = "jobs:stack"
    QUEUES_PAUSE = "queues:pause"
    QUEUES_RESET = "queues:reset"
    QUEUES_RESUME = "queues:resume"
    QUEUES_SCALE = "queues:scale"
    QUEUES_START = "queues:start"
    QUEUES_STOP = "queues:stop"
    CRONS_DELETE = "crons:delete"
    CRONS_PAUSE = "crons:pause"
    CRONS_RESUME = "crons:resume"
    CRONS_RUN = "crons:run"


ALL = "all"
READ_ONLY = "read_only"

#: What `access` gives: everything, looking only, these actions besides looking, or nothing at all.
Allowed: TypeAlias = str | Iterable[Action | str] | bool | None


@dataclass(frozen=True, slots=True)
class Rights:
    """What one request may do.

    Attributes:
        look: Whether it may see anything.
        actions: What it may do besides.
    """

    look: bool
    actions: frozenset[Action]

    def may(self, action: Action | str) -> bool:
        """Whether an action is allowed."""
        return self.look and action in self.actions


NOTHING = Rights(look=False, actions=frozenset())


def rights_of(allowed: Allowed) -> Rights:
    """What an application's `access` function gave, as rights.

    Raises:
        ConfigError: It gave something else. Nobody is let in by a slip of the pen.
    """
    # What `user and "all"` gives of nobody is meant as None.
    if allowed is None or allowed is False:
        return NOTHING

    if allowed == ALL:
        return Rights(look=True, actions=frozenset(Action))

    if allowed == READ_ONLY:
        return Rights(look=True, actions=frozenset())

    if isinstance(allowed, str) or not isinstance(allowed, Iterable):
        raise ConfigError(
            "access",
            f"gave {shown(allowed)}; it has to give {ALL!r}, {READ_ONLY!r}, a set of actions, "
            "or None",
        )

    names = [action.value for action in Action]
    actions = set()

    for name in allowed:
        if name not in names:
            raise ConfigError("access", f"gave the action {shown(name)}: {unknown(name, names)}")

        actions.add(Action(name))

    return Rights(look=True, actions=frozenset(actions))
