"""Putting the dashboard into an application: the blueprint."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, abort, redirect, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

import oban_sync
from oban_sync.core.errors import ConfigError, DatabaseUnavailableError, SchemaError, shown
from oban_sync.web import access as doors
from oban_sync.web import formats, pages, probes, replies
from oban_sync.web.actions import Allowed
from oban_sync.web.hiding import Hider
from oban_sync.web.site import (
    REFRESHES,
    THEMES,
    Login,
    Owner,
    Site,
    chosen,
    finish,
    here,
    root,
    visit,
)

_HOW = """a dashboard that anybody may use would let anybody run your code. Say who may do what:

    def access(user):
        if user is None:
            return None                      # is not let in
        return "all" if user.is_admin else "read_only"

    app.register_blueprint(blueprint(oban, access=access), url_prefix="/oban")

or give insecure=True where only you can reach it"""


def blueprint(
    oban: Owner,
    *,
    access: Callable[[Any], Allowed] | None = None,
    insecure: bool = False,
    name: str = "oban",
    user: Callable[[], Any] | None = None,
    login: Login = None,
    redact: Iterable[str] | None = None,
    title: str | None = None,
    metrics: probes.Metrics | None = None,
    origins: Collection[str] = (),
    refresh: int = 2,
) -> Blueprint:
    """The dashboard, to be registered with a Flask application.

    Everything is decided by the server at each request: a page shows no button for what its user
    may not do, and a request for it is refused all the same. Changes are written down, with who
    made them, and can be read at ``audit``.

    Args:
        oban: An `Oban`, a `FlaskOban`, or a function that gives an Oban.
        access: Called at each request with the user; gives ``"all"``, ``"read_only"``, a set of
            `Action` besides looking, or None for who is not let in.
        insecure: Let everybody do everything, where there is no `access`. It is shown under names
            and addresses of this machine only, and under the hosts of `origins`.
        name: The name of the blueprint; another one for each of several dashboards.
        user: Gives who asks. By default that is Flask-Login's ``current_user`` where it is in use,
            and else ``flask.g.user``; None when nobody is logged in.
        login: Where people are sent who are not let in: a path, or a function that gives a
            response. By default they get a page that says so, with status 403.
        redact: Parts of keys in args, meta and results whose values are hidden. By default those
            that sound like secrets; an empty list shows everything.
        title: What stands above the pages; by default the name of the Oban.
        metrics: Gives the page ``metrics``, as
            ``oban_sync.integrations.prometheus.metrics_response`` does: body and content type, of
            what is accepted. Whoever can reach the dashboard can read it then, without `access`.
            By default there is no such page.
        origins: Origins that are ours as well, as ``https://ops.example.com``, where a proxy
            changes the Host header.
        refresh: Seconds after which pages refresh themselves, 1, 2, 5, 15, or 0 for never; people
            can choose another one.

    Raises:
        ConfigError: There is neither `access` nor ``insecure=True``, or an option is wrong.

    Example:
        >>> from flask import Flask
        >>> from oban_sync.web import blueprint
        >>> app = Flask(__name__)
        >>> app.secret_key = "from your settings"
        >>> dashboard = blueprint(oban, access=lambda user: user and "all")
        >>> app.register_blueprint(dashboard, url_prefix="/oban")
    """
    if access is None and not insecure:
        raise ConfigError("access", f"is missing, and {_HOW}")

    _check_callable("access", access)
    _check_callable("user", user)
    _check_callable("metrics", metrics)

    if login is not None and not isinstance(login, str):
        _check_callable("login", login)

    if isinstance(redact, str):
        raise ConfigError("redact", f"{shown(redact)} is not a list of words")

    if refresh not in REFRESHES:
        raise ConfigError("refresh", f"{shown(refresh)} is not allowed; give one of {REFRESHES}")

    for origin in origins:
        parts = urlsplit(origin)

        if not parts.scheme or not parts.netloc or origin != f"{parts.scheme}://{parts.netloc}":
            raise ConfigError(
                "origins", f"{shown(origin)} is no origin; give them as https://ops.example.com"
            )

    site = Site(
        owner=oban,
        name=name,
        title=title,
        access=access,
        user=user,
        login=login,
        origins=frozenset(origins),
        hider=Hider.of(redact),
        refresh=refresh,
    )
    made = Blueprint(
        name,
        __name__,
        template_folder="templates",
        static_folder="static",
        static_url_path="/static",
    )
    made.before_request(partial(doors.guard, site))
    made.after_request(finish)
    menu = pages.register(made)
    probes.register(made, metrics)
    made.add_url_rule("/", "home", lambda: redirect(url_for(f".{menu[0].endpoint}")))
    made.add_url_rule("/<path:rest>", "nowhere", _nowhere)
    made.context_processor(
        lambda: {
            "asset": _asset,
            "can": lambda action: visit().rights.may(action),
            "entries": menu,
            "f": formats,
            "here_path": _here_path,
            "oban_root": root,
            "refreshes": REFRESHES,
            "refresh": int(chosen("refresh", [str(each) for each in REFRESHES], str(site.refresh))),
            "theme": chosen("theme", THEMES, "auto"),
            "themes": THEMES,
            "title": site.title or _title(),
            "version": oban_sync.__version__,
            "visit": visit(),
        }
    )
    made.register_error_handler(HTTPException, replies.refused)
    made.register_error_handler(DatabaseUnavailableError, replies.unreachable)
    made.register_error_handler(SchemaError, replies.unreachable)

    return made


def _nowhere(rest: str) -> ResponseReturnValue:
    abort(404, "There is no such page.")


def _asset(filename: str) -> str:
    # The version makes browsers that keep it for long ask for that of the next one.
    return url_for(".static", filename=filename, v=oban_sync.__version__)


def _here_path() -> str:
    return request.script_root + (request.full_path if request.query_string else request.path)


def _title() -> str:
    name = here().oban.name

    # A name that says so by itself stands alone.
    return name if name.lower().startswith("oban") else f"Oban {name}"


def _check_callable(option: str, value: object) -> None:
    if value is not None and not callable(value):
        raise ConfigError(option, f"{shown(value)} cannot be called")
