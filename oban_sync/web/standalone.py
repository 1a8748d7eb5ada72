"""The dashboard by itself, where no application serves it: an application of one blueprint.

It runs no jobs, and touches the tables as little as somebody lets it: it is read-only unless that
is said otherwise, and heard by this machine alone unless there is a password.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Callable

from flask import Flask, Response, abort, request

from oban_sync.core.checks import check_whole
from oban_sync.core.errors import ConfigError, shown
from oban_sync.web import security
from oban_sync.web.actions import ALL, READ_ONLY
from oban_sync.web.mounting import blueprint
from oban_sync.web.site import Owner

#: Names that this machine has for itself.
_LOCAL = ("localhost", "127.0.0.1", "::1")

#: Characters that a password has at least that can be tried from elsewhere.
LEAST_PASSWORD = 8

_THREADS = 4


def application(
    oban: Owner,
    *,
    host: str = "127.0.0.1",
    read_only: bool = True,
    user: str | None = None,
    password: str | None = None,
    insecure: bool = False,
) -> Flask:
    """The WSGI application that `serve` serves, for another server.

    Args:
        oban: Whose dashboard it is.
        host: Where it will listen. A loopback address is only asked by names of this machine, so
            that no page of elsewhere can pretend to be there.
        read_only: Show everything, and change nothing.
        user: Who is let in, with `password`: HTTP Basic, so over TLS where others can listen.
        password: Of `user`.
        insecure: Let everybody in who can reach it, at an address that is not this machine's alone.

    Raises:
        ConfigError: Others can reach it, and there is no password.
    """
    local = _is_local(host)

    if (user is None) != (password is None):
        raise ConfigError("password", "there is a password without a user, or the other way round")

    if not local and password is None and not insecure:
        raise ConfigError(
            "host",
            f"others can reach {shown(host)}; give a user and a password, or say "
            "insecure=True (--user and --password, or --insecure)",
        )

    if password is not None and len(password) < (0 if local else LEAST_PASSWORD):
        raise ConfigError(
            "password", f"has {len(password)} characters; give {LEAST_PASSWORD} at least"
        )

    app = Flask("oban_sync.web", static_folder=None)
    app.secret_key = secrets.token_bytes(32)
    names = {*_LOCAL, host.lower()}

    def guard() -> Response | None:
        if local and not security.is_hosted(request.host, names):
            abort(
                421,
                f"This is not {request.host}. Ask for it by an address of this machine, "
                "as http://127.0.0.1.",
            )

        if password is None or user is None:
            return None

        # A probe gets its answer, but not what is wrong.
        if request.path == "/healthz" and "why" not in request.args:
            return None

        return None if _knows(user, password) else _challenge()

    app.before_request(guard)
    app.after_request(security.with_headers)
    app.register_blueprint(
        blueprint(
            oban,
            access=lambda who: READ_ONLY if read_only else ALL,
            user=lambda: user,
        )
    )

    return app


def serve(
    oban: Owner,
    *,
    host: str = "127.0.0.1",
    port: int = 4000,
    read_only: bool = True,
    user: str | None = None,
    password: str | None = None,
    insecure: bool = False,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the dashboard until SIGINT, on this thread and a few more.

    Args:
        oban: Whose dashboard it is. It need not be started, and is not by this.
        host: Where to listen; by default only this machine can reach it.
        port: The port; 0 for any that is free.
        read_only: As of `application`, as are the others.
        user: Likewise.
        password: Likewise.
        insecure: Likewise.
        ready: Called with the address when it listens.

    Raises:
        ConfigError: An option is wrong, or waitress is not installed.
        OSError: The address is taken, or not this machine's.
    """
    check_whole("port", port, 0, 65_535)
    app = application(
        oban, host=host, read_only=read_only, user=user, password=password, insecure=insecure
    )

    try:
        from waitress.server import create_server  # type: ignore[import-untyped]
    except ImportError:
        raise ConfigError(
            "web", "waitress is not installed; install it by: pip install 'oban-sync[web]'"
        ) from None

    server = create_server(
        app,
        host=host,
        port=port,
        threads=_THREADS,
        ident=None,
        # Nothing that is sent to it is large.
        max_request_body_size=4_000_000,
    )

    if ready is not None:
        ready(_address(host, server))

    # Ends by SIGINT.
    server.run()


def _address(host: str, server: object) -> str:
    # Of a name with several addresses it listens on all of them.
    listening = getattr(server, "effective_listen", None)
    port = listening[0][1] if listening else getattr(server, "effective_port", 0)
    shown_host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104

    if ":" in shown_host and not shown_host.startswith("["):
        shown_host = f"[{shown_host}]"

    return f"http://{shown_host}:{port}/"


def _is_local(host: str) -> bool:
    if host.lower() == "localhost":
        return True

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _knows(user: str, password: str) -> bool:
    given = request.authorization

    if given is None or given.type != "basic":
        return False

    # Both, however the first one went, and each in a time that tells nothing.
    right_user = hmac.compare_digest((given.username or "").encode(), user.encode())
    right_password = hmac.compare_digest((given.password or "").encode(), password.encode())

    return right_user and right_password


def _challenge() -> Response:
    return Response(
        "A user and a password are needed.\n",
        401,
        {"WWW-Authenticate": 'Basic realm="Oban", charset="UTF-8"'},
        mimetype="text/plain",
    )
