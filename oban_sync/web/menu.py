"""The menu of the dashboard."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """A page in the menu.

    Attributes:
        endpoint: Its view, without the blueprint's name.
        title: What it is called.
        key: The key that leads to it, after a ``g``.
    """

    endpoint: str
    title: str
    key: str
