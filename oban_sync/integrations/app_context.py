"""What runs of jobs happen in, in a Flask application."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from flask import Flask, current_app, has_app_context

from oban_sync.core import modes
from oban_sync.core.job import Job
from oban_sync.integrations.request_context import brought_by, localized


class InAppContext:
    """Gives every run an app context of its own, and what its request was.

    Args:
        app: The application.
        always: Whether runs inside of an app context of the application, where jobs are run inline,
            get one of their own too. It would hide the caller's session from them, and be torn down
            under the caller's objects. Drained ones do anyway.
        inner: What the application itself puts around its runs, inside of the context.
    """

    def __init__(
        self,
        app: Flask,
        *,
        always: bool = False,
        inner: Callable[[Job], AbstractContextManager[object]] | None = None,
    ) -> None:
        self._app = app
        self._always = always
        self._inner = inner if inner is not None else _nothing

    @contextmanager
    def __call__(self, job: Job) -> Iterator[None]:
        """What one run happens in."""
        keeps = not self._always and modes.lends_context() and at_work() is self._app
        outer = nullcontext() if keeps else _own_context(self._app, job)

        with brought_by(job) as request, outer, localized(request), self._inner(job):
            yield


def at_work() -> Flask | None:
    """The application whose context is the current one on this thread."""
    # The object itself: the proxy would be another application elsewhere.
    return current_app._get_current_object() if has_app_context() else None  # type: ignore[attr-defined] # noqa: SLF001


@contextmanager
def _own_context(app: Flask, job: Job) -> Iterator[None]:
    context = app.app_context()

    with _watched(app, job) as watch:
        context.push()

        try:
            if watch is not None:
                watch.opened()

            yield
        except BaseException as error:
            _leave(context, watch, error)

            raise
        else:
            _leave(context, watch, None)


def _leave(context: Any, watch: Any, error: BaseException | None) -> None:
    try:
        if watch is not None:
            watch.closing(failed=error is not None)
    finally:
        try:
            context.pop(error)
        except BaseException:
            if watch is not None:
                watch.cut_off()

            raise


def _watched(app: Flask, job: Job) -> AbstractContextManager[Any]:
    if "sqlalchemy" not in app.extensions:
        return nullcontext()

    # Here, because SQLAlchemy need not be installed.
    from oban_sync.integrations.pool_watch import watched

    return watched(app, job)


def _nothing(_job: Job) -> AbstractContextManager[object]:
    return nullcontext()
