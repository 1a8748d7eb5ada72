"""Who may come in, and the one door that every change goes through."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec
from urllib.parse import urlencode

from flask import abort, current_app, g, redirect, request
from flask.typing import ResponseReturnValue

from oban_sync.core.errors import ConfigError, JobNotFoundError, NotRunningError
from oban_sync.web import replies, security
from oban_sync.web.actions import Action
from oban_sync.web.site import Site, begin, visit

Params = ParamSpec("Params")

#: What marks a view that changes something; see `performs`.
_MARK = "oban_action"

#: Endpoints that need no rights. Who asks is not looked into: probes come often, and get an answer
#: whatever is wrong with the rest of the application.
OPEN = ("static", "healthz", "metrics")


def performs(
    action: Action,
) -> Callable[[Callable[Params, ResponseReturnValue]], Callable[Params, ResponseReturnValue]]:
    """Make a view one that changes something: whoever may not do that gets no further.

    What is wrong with what was asked for is told on the page that it came from.
    """

    def decorate(
        view: Callable[Params, ResponseReturnValue],
    ) -> Callable[Params, ResponseReturnValue]:
        @wraps(view)
        def checked(*args: Params.args, **kwargs: Params.kwargs) -> ResponseReturnValue:
            if not visit().rights.may(action):
                abort(403, f"You may look at this, but not do it: {action.value}.")

            visit().check_origin()

            try:
                return view(*args, **kwargs)
            except (ConfigError, JobNotFoundError, NotRunningError) as error:
                return replies.failed(str(error))

        checked.__dict__[_MARK] = action

        return checked

    return decorate


def action_of(view: Callable[..., Any]) -> Action | None:
    """What a view does; None for one that only shows something."""
    found = getattr(view, _MARK, None)

    return found if isinstance(found, Action) else None


def guard(site: Site) -> ResponseReturnValue | None:
    """Let a request in, or not; called before each one."""
    g.oban_site = site
    endpoint = (request.endpoint or "").rpartition(".")[2]

    if endpoint in OPEN and request.method in security.SAFE:
        return None

    if (refusal := misdirected(site)) is not None:
        return refusal

    made = begin(site)

    if not made.rights.look:
        return _turned_away(site)

    # Nothing is changed by a view that does not say what it does.
    if (
        request.method not in security.SAFE
        and action_of(current_app.view_functions[request.endpoint or ""]) is None
    ):
        abort(405)

    return None


def misdirected(site: Site) -> ResponseReturnValue | None:
    """What is said to who asks by a strange name for a dashboard that lets everybody in.

    It has nothing else to tell a page of elsewhere by, whose name was made to point here.
    """
    if site.access is not None or security.is_near(request.host, site.origins):
        return None

    scheme = "https" if request.is_secure else "http"
    text = (
        "This dashboard lets everybody do everything (insecure=True). So that no page of elsewhere "
        "can get at it, it is shown under names of this machine, as localhost, and under "
        f"addresses, as 127.0.0.1, but not under {request.host!r}.\n\n"
        "If that name is yours, give it to the blueprint: "
        f'origins=["{scheme}://{request.host}"]. Or say with access= who may do what.\n'
    )

    return text, 421, {"Content-Type": "text/plain; charset=utf-8"}


def _turned_away(site: Site) -> ResponseReturnValue:
    if request.headers.get("HX-Request"):
        # A page of somebody who was logged out meanwhile; it is loaded anew as a whole.
        return "", 403, {"HX-Refresh": "true"}

    if site.login is None:
        abort(403, "You may not see this. Whoever runs this application decides who may.")

    if not isinstance(site.login, str):
        return site.login()

    # Flask-Login and others go on from there to what was asked for.
    between = "&" if "?" in site.login else "?"
    # Two slashes would lead to another host.
    wanted = urlencode({"next": "/" + request.full_path.rstrip("?").lstrip("/")})

    return redirect(f"{site.login}{between}{wanted}")
