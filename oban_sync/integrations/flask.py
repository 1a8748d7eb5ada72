"""Oban in Flask applications.

By the conventions of Flask-SQLAlchemy: make one, hand it the application, and use it wherever an
app context is.
"""

from __future__ import annotations

from typing import Any

try:
    from flask import Flask, current_app
except ImportError as error:
    raise ImportError(
        "oban_sync.integrations.flask needs Flask; install it by: pip install 'oban-sync[flask]'"
    ) from error

from oban_sync import settings as oban_settings
from oban_sync.core import instances
from oban_sync.core.config import Config
from oban_sync.core.errors import ConfigError
from oban_sync.integrations import flask_settings
from oban_sync.integrations.app_context import InAppContext, at_work
from oban_sync.integrations.delegated import Delegates
from oban_sync.integrations.flask_settings import Settings
from oban_sync.integrations.request_context import EXTENSION as READER
from oban_sync.integrations.request_context import (
    Carried,
    Reader,
    RequestContext,
    RequestContextFilter,
    request_context,
)
from oban_sync.integrations.servers import Autostart
from oban_sync.oban import Oban

__all__ = ["FlaskOban", "RequestContext", "RequestContextFilter", "request_context"]

#: Under which an application keeps its FlaskOban, and what that knows of it.
EXTENSION = "oban"
_STATE = "oban_state"

#: The `oban` of workers that do not say which Oban they mean.
_ANY = "Oban"


class FlaskOban(Delegates):
    """The Oban of a Flask application, or of several.

    Nothing is connected to and nothing started when it is made, nor by `init_app`. The Oban itself
    is made when it is first used; `get` gives it. Its methods are at hand here as well, and mean
    that of the application whose context is the current one.

    Every job runs in an app context of its own, which is torn down after it. A job that is run
    inline inside of an app context, or drained there by a test bound to a session, runs in that.

    Options come from the arguments, else from ``app.config`` as ``OBAN_QUEUES``, which
    ``app.config.from_prefixed_env()`` fills from ``FLASK_OBAN_QUEUES``, else from what an `Oban`
    itself reads. The database is that of ``OBAN_CONNINFO`` or ``OBAN_DSN``, else of
    ``SQLALCHEMY_DATABASE_URI``, else of ``DATABASE_URL``.

    Args:
        app: The application; as a call of `init_app`.
        options: Those of `Oban`, and these.
            autostart: False to start queues nowhere by themselves; True also where the server does
                not make certain that it is right; None where it does.
            fresh_context: True for an app context of its own for runs in the caller's, too.
            request_context: False, or names of what jobs take along of the request they are
                enqueued in: request_id, user, locale, traceparent.
            request_id_header: The header with the id of a request; X-Request-ID.
            user: A function that gives the id of who asks; by default Flask-Login knows it.
            app: Where child processes of queues find the application, as ``myapp.wsgi:app``; only
                by ``OBAN_APP``. Found by itself where it has a name in a module.

    Raises:
        ConfigError: An option is unknown or wrong.

    Example:
        >>> oban = FlaskOban()
        >>> app = Flask(__name__)
        >>> app.config["OBAN_CONNINFO"] = "postgresql://localhost/app"
        >>> oban.init_app(app)
    """

    def __init__(self, app: Flask | None = None, **options: Any) -> None:
        self._options = options

        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, **options: Any) -> None:
        """Give an application its Oban. To be called when it is configured; connects to nothing.

        Keys of ``app.config`` are checked now, and read when the Oban is first used.

        Args:
            app: The application.
            options: As for the constructor, of this application alone.

        Raises:
            RuntimeError: It has one already.
            ConfigError: An option is unknown or wrong.
        """
        if EXTENSION in app.extensions:
            raise RuntimeError(
                "A 'FlaskOban' instance has already been registered on this Flask app. Import and "
                "use that instance instead."
            )

        state = _State(app, {**self._options, **options})
        settings = state.settings()
        state.name = state.config().name

        app.extensions[EXTENSION] = self
        app.extensions[_STATE] = state
        app.extensions[READER] = Reader(header=settings.request_id_header, user=settings.user)
        instances.promise(state.name, state.oban)
        Autostart(state.oban, autostart=settings.autostart, config=state.config).attach(app)

    def get(self, app: Flask | None = None) -> Oban:
        """The Oban of an application, made when it is asked for first; connects to nothing.

        Args:
            app: The application; by default the one whose context is the current one.

        Raises:
            RuntimeError: There is no app context, or the application is not known here.
            ConfigError: An option is wrong, or it is not known where the database is.
        """
        if app is None:
            app = current_app

        if app.extensions.get(EXTENSION) is not self:
            raise RuntimeError(
                "The current Flask app is not registered with this 'FlaskOban' instance. Did you "
                "forget to call 'init_app', or did you create multiple 'FlaskOban' instances?"
            )

        state: _State = app.extensions[_STATE]

        return state.oban()

    def __repr__(self) -> str:
        app = at_work()
        known = app is not None and app.extensions.get(EXTENSION) is self

        return f"<FlaskOban {self.get()!r}>" if known else "<FlaskOban>"


class AppOban(Oban):
    """The Oban of an application, whose child processes load the application too.

    Attributes:
        place: Where they find it, as ``module:attribute``; None if that is not known.
    """

    place: str | None = None

    def start(self) -> Oban:
        """As `Oban.start`.

        Raises:
            ConfigError: It is not known where child processes find the application, either.
        """
        lost = [queue.name for queue in self._config.queues if queue.executor.kind == "process"]

        if lost and self.place is None:
            raise ConfigError(
                "OBAN_APP",
                f"child processes of {', '.join(map(repr, lost))} have to find the application, "
                "and it has no name in a module; say where it is, or what function makes it, as "
                '"myapp.wsgi:app" or "myapp:create_app"',
            )

        return super().start()


class _State:
    """What is known of one application.

    Attributes:
        name: The name of its Oban.
        place: Where it was found, by whoever found it.
    """

    name: str

    def __init__(self, app: Flask, given: dict[str, Any]) -> None:
        self.place: str | None = None
        self._app = app
        self._given = given
        self._made: dict[str, Oban] = {}

    def settings(self) -> Settings:
        """Its options, as they stand now."""
        return flask_settings.read(self._app, self._given)

    def config(self) -> Config:
        """The options of its Oban, without one: it may never be said where its database is."""
        if (made := self._made.get(EXTENSION)) is not None:
            return made.config

        options = {"conninfo": flask_settings.NOWHERE, **self.settings().options}

        if "pool" in options:
            del options["conninfo"]

        return oban_settings.resolve(options)

    def oban(self) -> Oban:
        """Its Oban."""
        if (made := self._made.get(EXTENSION)) is not None:
            return made

        # No lock, which may be held by another thread when the process is forked: of two that come
        # here at once, both make one, and have the same in the end. Nothing is opened by that.
        return self._made.setdefault(EXTENSION, self._make())

    def _make(self) -> Oban:
        settings = self.settings()
        options = dict(settings.options)

        if "conninfo" not in options and "pool" not in options:
            options["conninfo"] = flask_settings.conninfo(self._app)

        options["around"] = InAppContext(
            self._app, always=settings.fresh_context, inner=options.get("around")
        )
        options["carry"] = flask_settings.carriers(settings, options.get("carry"), Carried)
        config = oban_settings.resolve(options)
        place = config.app

        if place is None and any(queue.executor.kind == "process" for queue in config.queues):
            place = flask_settings.place_of(self._app, self.place)

        options["app"] = place

        # It was promised under its name, in the order of the applications and not of their use.
        with instances.kept_as_they_are():
            oban = AppOban(**options)

        oban.place = place

        return oban


class _Applications:
    """The Obans of Flask applications, for those that enqueue: a `Framework`."""

    def here(self, name: str) -> Oban | None:
        """The Oban of the application at work, for its workers and those that do not say whose."""
        app = at_work()
        state = None if app is None else app.extensions.get(_STATE)

        # By the name first: there may be no database for its own, and another one is meant.
        if not isinstance(state, _State) or name not in (_ANY, state.name):
            return None

        return state.oban()

    def of(self, application: object, at: str | None) -> Oban | None:
        """The Oban of an application; None of what is none, or has none."""
        if not isinstance(application, Flask):
            return None

        state = application.extensions.get(_STATE)

        if not isinstance(state, _State):
            return None

        if at is not None:
            state.place = at

        return state.oban()


def settings_of(app: Flask) -> Settings | None:
    """What an application says about its Oban; None if it has none."""
    state = app.extensions.get(_STATE)

    return state.settings() if isinstance(state, _State) else None


instances.join(_Applications())
