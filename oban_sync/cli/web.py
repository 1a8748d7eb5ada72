"""web: the dashboard, served by a process of its own."""

from __future__ import annotations

from importlib.util import find_spec

import click

from oban_sync.core.errors import ConfigError
from oban_sync.oban import Oban

HOST = "127.0.0.1"
PORT = 4000


@click.option("--host", default=HOST, show_default=True, help="Where to listen.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=PORT,
    show_default=True,
    help="0 for any that is free.",
)
@click.option(
    "--read-only/--read-write",
    default=True,
    show_default=True,
    help="Whether it shows everything and changes nothing.",
)
@click.option("--user", metavar="NAME", help="Who is let in, by a password.")
@click.option(
    "--password",
    metavar="TEXT",
    envvar="OBAN_WEB_PASSWORD",
    show_envvar=True,
    help="Better by the environment: others can read command lines. Asked for where there is a "
    "terminal.",
)
@click.option("--insecure", is_flag=True, help="Let others in without a password.")
def web(
    oban: Oban,
    host: str,
    port: int,
    read_only: bool,
    user: str | None,
    password: str | None,
    insecure: bool,
) -> None:
    """Serve the dashboard until Ctrl-C.

    By default only this machine can reach it, and it changes nothing. For others to reach it,
    --host needs --user and a password of 8 characters or more. It speaks plain HTTP: put a proxy
    with TLS in front of it.
    """
    if user is not None and password is None:
        password = click.prompt(f"Password of {user}", hide_input=True, err=True)

    # A password of the environment alone is none that somebody asked for here.
    serve_dashboard(
        oban,
        host=host,
        port=port,
        read_only=read_only,
        user=user,
        password=None if user is None else password,
        insecure=insecure,
    )


def serve_dashboard(
    oban: Oban,
    *,
    host: str = HOST,
    port: int = PORT,
    read_only: bool = True,
    user: str | None = None,
    password: str | None = None,
    insecure: bool = False,
) -> None:
    """Serve it, and say where; the extra ``web`` has to be installed."""
    try:
        from oban_sync.web import serve
    except ImportError as error:
        raise ConfigError("web", str(error)) from error

    try:
        serve(
            oban,
            host=host,
            port=port,
            read_only=read_only,
            user=user,
            password=password,
            insecure=insecure,
            ready=lambda address: click.echo(f"Dashboard at {address}, until Ctrl-C."),
        )
    except OSError as error:
        raise ConfigError("--port", f"cannot listen on {host}:{port}: {error.strerror}") from error


def is_installed() -> bool:
    """Whether there is all that it takes."""
    return all(find_spec(name) is not None for name in ("flask", "waitress"))
