"""Limits of a queue over the whole cluster, and how its jobs take turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: The keys of a queue's options that are read here.
KEYS = ("global_limit", "rate_limit", "partition", "fair")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a queue may do beside its limit on one node; nothing by default."""

    @property
    def most_running(self) -> int | None:
        """Most jobs of the queue at once over all nodes, where that is one number."""
        return None

    @property
    def any(self) -> bool:
        """Whether there is anything to look after."""
        return False


def check_limits(path: str, given: Mapping[str, object]) -> Limits:
    """The limits among a queue's options.

    Args:
        path: Names the queue in errors.
        given: Only what is named in `KEYS`.
    """
    raise NotImplementedError(path, given)
