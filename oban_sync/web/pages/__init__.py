"""The pages, one module each: where it stands in the menu, and the rules that it adds.

A module has ``MENU``, an `Entry` or None, and ``register(blueprint)``. What shows something is
added by ``blueprint.get``, what changes something by ``blueprint.post`` and `access.performs`,
without which it is refused.
"""

from __future__ import annotations

from typing import Protocol

from flask import Blueprint

from oban_sync.web.menu import Entry
from oban_sync.web.pages import (
    audit,
    crons,
    job,
    jobs,
    new_job,
    nodes,
    overview,
    preferences,
    queues,
)


class PageModule(Protocol):
    """A module of this package."""

    @property
    def MENU(self) -> Entry | None:
        """Where it stands in the menu."""
        ...

    def register(self, blueprint: Blueprint, /) -> None:
        """Add its rules."""
        ...


#: In the order of the menu. The first one is where the dashboard begins.
MODULES: tuple[PageModule, ...] = (
    overview,
    jobs,
    new_job,
    job,
    queues,
    crons,
    nodes,
    audit,
    preferences,
)


def register(blueprint: Blueprint) -> tuple[Entry, ...]:
    """Add the rules of every page to a blueprint; what stands in its menu."""
    for module in MODULES:
        module.register(blueprint)

    return tuple(module.MENU for module in MODULES if module.MENU is not None)
