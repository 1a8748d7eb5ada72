"""gunicorn's configuration, with the hooks for queues."""

from oban_sync.integrations import gunicorn

worker_exit = gunicorn.worker_exit


def post_worker_init(worker):
    import os

    import wsgi

    wsgi.handlers[os.getpid()] = wsgi.handlers_now()
    gunicorn.post_worker_init(worker)
