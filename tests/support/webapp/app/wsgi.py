"""An application with queues of its own, as servers load it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time

from flask import Flask, current_app, has_app_context, request

from oban_sync import job
from oban_sync.integrations.flask import FlaskOban

logging.basicConfig(level=logging.INFO)

if "WITHOUT_THREADS" in os.environ:
    # Only what it says of itself: this build of it always runs them.
    del sys.modules["uwsgi"].has_threads

app = Flask("webapp")
app.config.from_mapping(
    OBAN_QUEUES={"effects": 4},
    OBAN_SHUTDOWN_GRACE_PERIOD=float(os.environ.get("GRACE", "5")),
    OBAN_STAGER={"interval": 0.2},
)
oban = FlaskOban(app)

#: The handlers of signals before anything was started, by process.
handlers: dict[int, list[object]] = {}


def handlers_now() -> list[object]:
    return [signal.getsignal(number) for number in signal.valid_signals()]


@job(queue="effects", max_attempts=3)
def effect(key: str, seconds: float = 0.0) -> None:
    """Leave a row that tells where this ran."""
    time.sleep(seconds)
    name = current_app.name if has_app_context() else "none"

    with oban.get(app).connection() as conn:
        conn.execute("INSERT INTO effects VALUES (%s, %s, %s)", [key, os.getpid(), name])


@app.post("/jobs/<key>")
def post(key: str) -> tuple[str, int]:
    """Store a request and a job in one transaction, and perhaps think better of it."""
    try:
        with oban.connection() as conn, conn.transaction():
            conn.execute("INSERT INTO requests VALUES (%s)", [key])
            effect.enqueue(key, float(request.args.get("seconds", "0")))

            if "fail" in request.args:
                raise LookupError(key)
    except LookupError:
        return "rolled back", 409

    return "stored", 200


@app.get("/process")
def process() -> dict[str, object]:
    """What there is to say of the process that answers."""
    return {
        "pid": os.getpid(),
        "running": oban.get().running,
        "same_signals": handlers.get(os.getpid()) == handlers_now(),
    }


def first(wsgi):
    """Look at the handlers of signals before the application sees its first request."""

    def look(environ, start_response):
        handlers.setdefault(os.getpid(), handlers_now())

        return wsgi(environ, start_response)

    return look


app.wsgi_app = first(app.wsgi_app)
