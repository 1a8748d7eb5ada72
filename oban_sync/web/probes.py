"""Pages for machines: is this node well, and its numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from flask import Blueprint, abort, jsonify, make_response, request
from flask.typing import ResponseReturnValue

from oban_sync.web.access import misdirected
from oban_sync.web.site import begin, here

#: Gives the body and the content type of the page with numbers, of the Accept header.
Metrics: TypeAlias = Callable[[str], tuple[bytes, str]]


def register(blueprint: Blueprint, metrics: Metrics | None) -> None:
    """Add ``healthz``, and ``metrics`` where there is something to give."""
    blueprint.get("/healthz")(healthz)

    if metrics is not None:

        def given() -> ResponseReturnValue:
            body, kind = metrics(request.headers.get("Accept", ""))

            return body, 200, {"Content-Type": kind}

        blueprint.add_url_rule("/metrics", "metrics", given)


def healthz() -> ResponseReturnValue:
    """200 while the node of this process is well, else 503.

    What is wrong is told with ``?why``, to who may look at the dashboard.
    """
    site = here()
    health = site.oban.health()
    told: dict[str, object] = {"ok": health.ok}

    if "why" in request.args:
        if (refusal := misdirected(site)) is not None:
            return refusal

        if not begin(site).rights.look:
            abort(403)

        told["problems"] = list(health.problems)

    return make_response(jsonify(told), 200 if health.ok else 503)
