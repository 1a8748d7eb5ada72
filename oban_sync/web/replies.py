"""What a view gives back: a page, the part of it that changes, or the way to the next one."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from flask import Response, g, make_response, redirect, render_template, request
from werkzeug.exceptions import HTTPException

from oban_sync.core.errors import DatabaseUnavailableError, SchemaError
from oban_sync.web.site import root, say, visit

#: What is not worth a new page: the browser lets times go on by itself.
_TIMES = re.compile(rb"(<time [^>]*>)[^<]*(?=</time>)")


def page(template: str, *, status: int = 200, **values: Any) -> Response:
    """A page; where htmx asks for it, only what refreshes itself, and only if it has changed.

    Args:
        template: A file of `templates/oban/`, without its ending.
        status: The status.
        values: What the template gets.
    """
    partial = request.headers.get("HX-Request") == "true"
    shell = "oban/live.html" if partial else "oban/layout.html"
    response = make_response(render_template(f"oban/{template}.html", shell=shell, **values))
    response.status_code = status
    response.vary.add("HX-Request")

    if not partial or status != 200:
        return response

    body = _TIMES.sub(rb"\1", response.get_data())
    response.set_etag(hashlib.sha256(body).hexdigest()[:32], weak=True)
    response.make_conditional(request)

    return response


def done(text: str, to: str | None = None) -> Response:
    """Go on to a page, by default to where the form was, and say there what was done."""
    return _on("done", text, to)


def failed(text: str, to: str | None = None) -> Response:
    """The same, saying what went wrong."""
    return _on("failed", text, to)


def came_from() -> str:
    """The page that a form was on, as it says in its field ``back``; the first page otherwise.

    Only pages of this dashboard: a form must not send anybody elsewhere.
    """
    start, back = root(), request.values.get("back", "")

    # Browsers take a backslash for a slash, and leave out tabs and ends of lines.
    if back.startswith(start) and not back.startswith("//") and re.fullmatch(r"[!-\[\]-~]+", back):
        return back

    return start


def refused(error: HTTPException) -> Response:
    """The page for what is not there, or not allowed."""
    status = error.code or 500

    # Some are made with a response of their own: a redirect, a file that was not modified.
    if error.response is not None or status < 400:
        return make_response(error.get_response())

    return _problem(status, error.name, error.description or "")


def unreachable(error: DatabaseUnavailableError | SchemaError) -> Response:
    """The page for a database that is not there, or has not got the tables."""
    if isinstance(error, SchemaError):
        return _problem(503, "The tables are missing, or of another version", str(error))

    return _problem(503, "The database cannot be reached", str(error))


def _problem(status: int, heading: str, text: str) -> Response:
    if "oban_visit" not in g:
        # Before it was known who asks: then nobody is told more than that.
        return make_response(heading, status, {"Content-Type": "text/plain; charset=utf-8"})

    looks = visit().rights.look

    return page("problem", status=status, heading=heading, text=text, looks=looks)


def _on(kind: str, text: str, to: str | None) -> Response:
    response = make_response(redirect(came_from() if to is None else to, 303))
    say(response, kind, text)

    return response
