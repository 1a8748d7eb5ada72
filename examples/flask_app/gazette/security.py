"""Tokens against forged forms, addresses nobody can guess, and who is an editor."""

from __future__ import annotations

import hmac
import secrets

from flask import Flask, Response, abort, current_app, request, session
from itsdangerous import BadSignature, URLSafeSerializer


def init_app(app: Flask) -> None:
    """Check every form of an application. Flask-WTF does this for larger ones."""
    app.before_request(_check_token)
    app.jinja_env.globals.update(form_token=form_token, job_token=job_token)


def form_token() -> str:
    """What every form of this visitor has to bring along."""
    return str(session.setdefault("form_token", secrets.token_urlsafe(16)))


def job_token(job_id: int) -> str:
    """The id of a job, signed: ids are counted up, and a job's page is for who was sent there."""
    return str(_signer().dumps(job_id))


def job_of(token: str) -> int:
    """The id that was signed.

    Raises:
        NotFound: It was not.
    """
    try:
        return int(_signer().loads(token))
    except BadSignature:
        abort(404)


def require_editor() -> Response | None:
    """Let nobody but editors go on."""
    expected = current_app.config["EDITOR_PASSWORD"]

    if expected is None:
        abort(503, "Set FLASK_EDITOR_PASSWORD to open the editors' pages.")

    given = request.authorization.password if request.authorization else None

    # Compared as bytes: hmac takes no text beyond ASCII.
    if not expected or hmac.compare_digest((given or "").encode(), str(expected).encode()):
        return None

    return Response(
        "For editors.", 401, {"WWW-Authenticate": 'Basic realm="Gazette", charset="UTF-8"'}
    )


def _check_token() -> None:
    if request.method not in ("GET", "HEAD", "OPTIONS"):
        given = request.form.get("form_token", "")

        if not hmac.compare_digest(given.encode(), form_token().encode()):
            abort(400, "This form is too old. Go back, reload the page, and send it again.")


def _signer() -> URLSafeSerializer:
    return URLSafeSerializer(current_app.secret_key or "", salt="job")
