"""Whose request a job comes from: read where it is enqueued, at hand where it runs."""

from __future__ import annotations

import logging
import re
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any

from flask import Request, current_app, g, has_request_context, request, session

from oban_sync.core import payload
from oban_sync.core.errors import JobDecodeError
from oban_sync.core.job import CURRENT, Job

log = logging.getLogger("oban_sync.integrations")

#: Under which an application keeps its Reader.
EXTENSION = "oban_request"

#: Under which a request keeps the id that was made for it.
_MADE = "oban_sync.request_id"

#: Most characters of an id that came from outside, and of a user's.
MOST_ID = 128
MOST_USER = 255

#: No spaces, quotes or line ends: ids stand in log lines.
_ID = re.compile(rf"[A-Za-z0-9._:/+=@-]{{1,{MOST_ID}}}")

_LOCALE = re.compile(r"[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8}){0,4}")

#: Version, trace, parent and flags; later versions may have more, which is of no account here.
_TRACEPARENT = re.compile(
    r"((?!ff)[0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What is known of the request that is being served, or that a job comes from.

    Attributes:
        request_id: Of the ``X-Request-ID`` header, or made for the request.
        user: Who asked: the id that Flask-Login knows, or what ``user=`` of FlaskOban gave.
        locale: In which language: that of Flask-Babel, or the one that the browser likes best.
        traceparent: The W3C header of that name, for tracing.
    """

    request_id: str | None = None
    user: str | None = None
    locale: str | None = None
    traceparent: str | None = None


#: All that jobs may take along.
FIELDS = tuple(asdict(RequestContext()))

_NOTHING = RequestContext()


@dataclass(frozen=True, slots=True)
class _Brought:
    """What the job at work brought, and the request in which it runs itself, if it does."""

    context: RequestContext
    within: Request | None


_brought: ContextVar[_Brought | None] = ContextVar("oban_sync_brought", default=None)

#: An application's own function is being asked; it may enqueue jobs, or log.
_asking: ContextVar[bool] = ContextVar("oban_sync_asking", default=False)


def request_context() -> RequestContext:
    """What is known of the request at work: in a job, of the one that it was enqueued in.

    A job that another one enqueued comes from the same request. Fields are None where nothing is
    known; outside of requests and jobs all of them are.

    Example:
        >>> request_context().request_id is None
        True
    """
    if (brought := _from_job()) is not None:
        return brought

    if not has_request_context():
        return _NOTHING

    reader = Reader.here()

    return RequestContext(**{name: reader.read(name) for name in FIELDS})


@contextmanager
def brought_by(job: Job) -> Iterator[RequestContext]:
    """Make the request that a job comes from the one at work."""
    context = _kept_in(job)
    token = _brought.set(_Brought(context, _request()))

    try:
        yield context
    finally:
        _brought.reset(token)


def _kept_in(job: Job) -> RequestContext:
    try:
        carried = job.carried if job.keeps else {}
    except JobDecodeError:
        # It is the job's to find out, when it looks.
        carried = {}

    # Rows may have been written by anybody.
    found = {name: value for name in FIELDS if isinstance(value := carried.get(name), str)}

    return RequestContext(**found)


class Reader:
    """Reads what is known of a request.

    Args:
        header: The header that has the request's id.
        user: Gives the id of who asks; by default Flask-Login does.
    """

    def __init__(
        self, *, header: str = "X-Request-ID", user: Callable[[], object] | None = None
    ) -> None:
        self._header = header
        self._user = user

    @staticmethod
    def here() -> Reader:
        """The one of the application at work."""
        found = current_app.extensions.get(EXTENSION)

        return found if isinstance(found, Reader) else _DEFAULT

    def read(self, name: str) -> str | None:
        """A field of the request that is being served; None where nothing is known.

        What the application's own functions raise is logged: a job is not to be lost by it.
        """
        if name == "request_id":
            return self.request_id()

        if name == "traceparent":
            return _traceparent()

        if _asking.get():
            return None

        token = _asking.set(True)

        try:
            with _nothing_flushed():
                return self._who() if name == "user" else _locale()
        except Exception:
            log.warning("the %s of a request could not be told", name, exc_info=True)

            return None
        finally:
            _asking.reset(token)

    def request_id(self) -> str:
        """The id that the request came with, where it is a decent one, or one that is made."""
        given = request.headers.get(self._header, "")

        if _ID.fullmatch(given):
            return given

        made: str = request.environ.setdefault(_MADE, uuid.uuid4().hex)

        return made

    def _who(self) -> str | None:
        if self._user is not None:
            found = self._user()
        elif hasattr(current_app, "login_manager") and "flask_login" in sys.modules:
            found = _logged_in()
        else:
            return None

        if found is None:
            return None

        who = str(found)[:MOST_USER]
        # What no row can hold is left out: cleaned, it might be somebody else's.
        payload.encode_any(who, "user")

        return who


class Carried:
    """Takes one field along with the jobs; where they run, `brought_by` puts all in place."""

    def __init__(self, name: str) -> None:
        self._name = name

    def capture(self) -> str | None:
        """The field, in a request, or in a job that came from one."""
        if (brought := _from_job()) is not None:
            found: str | None = getattr(brought, self._name)

            return found

        return Reader.here().read(self._name) if has_request_context() else None

    def restore(self, value: Any) -> AbstractContextManager[object]:
        """Nothing is left to be done."""
        return nullcontext()


@contextmanager
def localized(context: RequestContext) -> Iterator[None]:
    """Have Flask-Babel speak the language of the request, where it is there; in an app context."""
    babel = sys.modules.get("flask_babel")

    if context.locale is None or babel is None or "babel" not in current_app.extensions:
        yield

        return

    try:
        forced = babel.force_locale(context.locale.replace("-", "_"))
        forced.__enter__()
    except Exception as error:
        log.debug("Flask-Babel does not know the locale %r: %s", context.locale, error)
        yield

        return

    try:
        yield
    finally:
        forced.__exit__(None, None, None)


class RequestContextFilter(logging.Filter):
    """Gives log records a `request_id`, `job_id` and `job_worker`, or ``-`` where there is none.

    For a handler, so that records of all loggers pass through it. The lines that tell of the end of
    a job, which are written when its request is gone, have those of the job.

    Example:
        >>> handler = logging.StreamHandler()
        >>> handler.addFilter(RequestContextFilter())
        >>> form = logging.Formatter("%(request_id)s %(job_id)s %(message)s")
        >>> handler.setFormatter(form)
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add to a record; every one passes."""
        told = getattr(record, "job", None)
        job = told if isinstance(told, Job) else CURRENT.get(None)
        request_id = _kept_in(told).request_id if isinstance(told, Job) else _request_id()
        record.request_id = request_id or "-"
        record.job_id = "-" if job is None or job.id is None else job.id
        record.job_worker = "-" if job is None else job.worker

        return True


def _request() -> Request | None:
    """The request that is being served; the object itself, since the proxy means each one."""
    return request._get_current_object() if has_request_context() else None  # type: ignore[attr-defined] # noqa: SLF001


def _from_job() -> RequestContext | None:
    """What the job at work brought, unless a request is served inside of it, by a test client."""
    brought = _brought.get()

    if brought is None:
        return None

    return brought.context if _request() in (None, brought.within) else None


def _logged_in() -> object:
    """The id of Flask-Login's user, who is not loaded for it.

    That would be a query of the application's, in a session that may hold half of its work.
    """
    if "_login_user" in g:
        return g._login_user.get_id()  # noqa: SLF001

    return session.get("_user_id")


def _nothing_flushed() -> AbstractContextManager[object]:
    """Whatever is asked of the application, its session keeps what it was not told to send.

    A query sends it otherwise, half filled in as it may be, and a failure ends the transaction.
    """
    scoped: Any = getattr(current_app.extensions.get("sqlalchemy"), "session", None)
    registry = getattr(scoped, "registry", None)

    # One that is not there yet has nothing to send.
    if registry is None or not registry.has():
        return nullcontext()

    quiet: AbstractContextManager[object] = scoped.no_autoflush

    return quiet


def _request_id() -> str | None:
    if (brought := _from_job()) is not None:
        return brought.request_id

    return Reader.here().request_id() if has_request_context() else None


def _locale() -> str | None:
    babel = sys.modules.get("flask_babel")

    if babel is not None and "babel" in current_app.extensions:
        chosen = babel.get_locale()
        found = None if chosen is None else str(chosen)
    else:
        found = request.accept_languages.best

    return found if found is not None and _LOCALE.fullmatch(found) else None


def _traceparent() -> str | None:
    given = request.headers.get("traceparent", "").strip()
    found = _TRACEPARENT.match(given)

    if found is None:
        return None

    rest = given[found.end() :]

    return found[0] if not rest or (found[1] != "00" and rest.startswith("-")) else None


_DEFAULT = Reader()
