"""gunicorn for the web process; it reads this file by itself."""

import os

bind = f"127.0.0.1:{os.environ.get('PORT', '8000')}"
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
worker_class = "gthread"
threads = 4
# Requests may finish when it is asked to stop.
graceful_timeout = 30
# Loaded once, and shared by the workers: nothing is connected to before they are forked.
preload_app = True

# For FLASK_OBAN_AUTOSTART=true, which runs queues in the workers: from their start on, rather than
# from their first request; and they stop before the worker ends. Else these two do nothing.
from oban_sync.integrations.gunicorn import post_worker_init, worker_exit  # noqa: E402, F401
