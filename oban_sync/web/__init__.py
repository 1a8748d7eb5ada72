"""The dashboard: a Flask blueprint for applications, and a server of its own for those without one.

What it shows comes from `engine/` and `control/`; what it changes goes through `control/`, the same
door that the command line takes.
"""

try:
    import flask as _flask  # noqa: F401 - so that the message says what to install
except ImportError as error:
    raise ImportError(
        "oban_sync.web needs Flask; install it by: pip install 'oban-sync[web]'"
    ) from error

from oban_sync.web.actions import Action
from oban_sync.web.mounting import blueprint
from oban_sync.web.standalone import application, serve

__all__ = ["Action", "application", "blueprint", "serve"]
