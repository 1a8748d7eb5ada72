"""Hooks for gunicorn's configuration file.

Queues then run in every worker from its start, and not from its first request on, and stop before
the worker exits:

    # gunicorn.conf.py
    from oban_sync.integrations.gunicorn import post_worker_init, worker_exit

With and without ``preload_app``; nothing is started in the process that forks the workers.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from oban_sync.core.config import Config
from oban_sync.integrations import servers

log = logging.getLogger("oban_sync.integrations")


def post_worker_init(worker: Any) -> None:
    """Start the queues of the application that a worker of gunicorn has just loaded.

    What cannot be started is logged, and tried again: the worker serves in any case.
    """
    try:
        for autostart in servers.attached(worker.wsgi):
            if autostart.begin("gunicorn").start:
                _compare(worker.cfg, autostart.config)
    except Exception:
        log.exception("whether queues start in this worker could not be decided")


def worker_exit(server: Any, worker: Any) -> None:
    """Stop the queues of a worker that is about to exit: running jobs get the grace period."""
    # gunicorn calls it in the parent too, for a worker that was gone already.
    if worker.pid != os.getpid():
        return

    try:
        for autostart in servers.attached(getattr(worker, "wsgi", None)):
            autostart.end()
    except Exception:
        log.exception("the queues of this worker could not be stopped")


def _compare(cfg: Any, config: Config) -> None:
    """Tell where gunicorn would kill a worker before its jobs have had their grace."""
    needed = config.shutdown_grace_period + servers.AFTER_GRACE

    # A worker that is replaced has to be heard of all the while, and exits within `timeout`.
    for name in ("graceful_timeout", "timeout"):
        seconds = getattr(cfg, name)

        if 0 < seconds < needed:
            log.warning(
                "gunicorn's %s is %g s, and stopping the queues may take %g: raise it, or lower "
                "shutdown_grace_period, or jobs are cut off",
                name,
                seconds,
                needed,
            )
