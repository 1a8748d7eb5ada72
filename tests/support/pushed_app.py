"""An application whose module pushes its context and leaves it there; children import it.

It needs no database: what its jobs saw comes back with their outcome.
"""

from __future__ import annotations

import os
from contextvars import ContextVar

from flask import Flask, current_app, g

from oban_sync import Record, job
from oban_sync.integrations.flask import FlaskOban

app = Flask("pushed")
app.config["OBAN_CONNINFO"] = "postgresql://127.0.0.1:1/nowhere"
oban = FlaskOban(app)
app.app_context().push()

tenant = ContextVar("tenant", default="none")
tenant.set("the module's")

torn_down = 0


@app.teardown_appcontext
def count(error):
    global torn_down
    torn_down += 1


@job(queue="cpu", name="tests.pushed.leave")
def leave(what):
    """Leaves things behind, and tells what others have left."""
    seen = {
        "pid": os.getpid(),
        "app": current_app.name,
        "g": g.get("left"),
        "tenant": tenant.get(),
        "torn_down": torn_down,
    }
    g.left = what
    tenant.set(what)

    return Record(seen)
