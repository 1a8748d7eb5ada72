"""What a visitor chooses for themselves: how often pages refresh, and how they look.

It is kept in cookies and changes nothing for anybody else, so looking is all it takes.
"""

from __future__ import annotations

from flask import Blueprint, make_response, redirect, request
from flask.typing import ResponseReturnValue

from oban_sync.web.replies import came_from
from oban_sync.web.site import REFRESHES, THEMES, remember

MENU = None


def register(blueprint: Blueprint) -> None:
    """Add the rule."""
    blueprint.get("/preferences")(preferences)


def preferences() -> ResponseReturnValue:
    """Keep what was chosen, and go back."""
    response = make_response(redirect(came_from(), 303))

    if (refresh := request.args.get("refresh")) in [str(each) for each in REFRESHES]:
        remember(response, "refresh", refresh)

    if (theme := request.args.get("theme")) in THEMES:
        remember(response, "theme", theme)

    return response
