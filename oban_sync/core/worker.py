"""Workers: the decorators that make classes and functions enqueueable."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import update_wrapper
from typing import (
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    overload,
)

from oban_sync.core import instances
from oban_sync.core.crontab import check_cron
from oban_sync.core.definition import checked, refuse_bare, timeout_method
from oban_sync.core.errors import ConfigError, InvalidJobError, shown
from oban_sync.core.job import Job
from oban_sync.core.options import CHECKS, JobOptions
from oban_sync.core.policy import Policy
from oban_sync.core.registry import Registration, default_name, origin, register
from oban_sync.core.shape import arguments_of, check_args, check_shape, refuse_deferred

P = ParamSpec("P")
R = TypeVar("R")
W = TypeVar("W", bound="Worker")


class Worker:
    """What a class decorated with `@worker` offers.

    Inheriting from it changes nothing at run time; it lets type checkers see `new` and `enqueue`,
    which mypy cannot learn from a class decorator.
    """

    @classmethod
    def new(cls, args: Mapping[str, Any] | None = None, /, **options: Any) -> Job:
        """Make a job without storing it.

        Args:
            args: What the worker works on: JSON, an object with string keys.
            options: queue, priority, max_attempts, tags, meta, schedule_in (seconds or timedelta;
                also as scheduled_in), scheduled_at (aware datetime), unique, timeout, deadline,
                weight. They win over the decorator's.

        Raises:
            InvalidJobError: Names the field, the path inside it, and what is allowed.
        """
        registration = _registration(cls)

        return registration.options.merged(options).job(registration.name, args)

    @classmethod
    def enqueue(
        cls, args: Mapping[str, Any] | None = None, /, *, conn: Any = None, **options: Any
    ) -> Job:
        """Make a job and store it; see `Oban.enqueue` for `conn` and `new` for the rest."""
        registration = _registration(cls)
        job = registration.options.merged(options).job(registration.name, args)

        return instances.get(registration.oban).enqueue(job, conn=conn)

    def process(self, job: Job, *given: Any, **_: Any) -> Any:
        """Do the work. Returning completes the job, raising fails it.

        Define it as ``process(self, job)``; that of a transactional worker gets the connection or
        session as well: ``process(self, job, session)``.
        """
        raise NotImplementedError(f"{type(self).__qualname__} has no process")


class Decorator(Protocol):
    """What `@worker(...)` returns."""

    @overload
    def __call__(self, cls: type[W], /) -> type[W]: ...

    @overload
    def __call__(self, cls: type, /) -> type[Worker]: ...


def worker(
    without_parentheses: None = None,
    /,
    *,
    name: str | None = None,
    oban: str = "Oban",
    cron: object = None,
    timeout: object = None,
    retry_on: object = None,
    discard_on: object = None,
    snooze_on: object = None,
    transactional: Callable[[], Any] | bool | None = None,
    **options: Any,
) -> Decorator:
    """Make a class with a `process` method a worker.

    The class gains `new` and `enqueue`. For every run a fresh instance is made, on one of the
    queue's threads, and `process(job)` is called. What it returns completes the job, except
    `Record`, `Snooze`, `Cancel` and `Discard`; an exception fails it, and it is retried after
    `backoff(job)` seconds (or a timedelta), or 15 + 2^attempt seconds where the class has none.
    A method `timeout(job)` gives the seconds that a run may take, or None for any.

    What becomes of an exception can be told by its class; of several, the one nearest to the
    exception's own counts. Each option takes a class, a list of them, or a mapping of classes to
    seconds (or a timedelta, or a function of the job and the error). `retry_on` alone has all
    others discarded; with `discard_on`, those that neither names are retried.

    Args:
        name: Stored in the job's row; by default the module and qualified name of the class. Give
            one to share jobs with Elixir ("MyApp.Mailer"), or to keep it when the class moves.
        oban: Name of the Oban instance that stores the jobs.
        cron: When to insert a job by the clock: ``"0 9 * * MON-FRI"``, ``{"expr": ..., "timezone":
            ..., "catch_up": "none" | "last" | "all", "overlap": "allow" | "skip", "name": ...,
            "args": {...}}``, or a list of these.
        timeout: Seconds or timedelta that a run may take. Not stored with the jobs: those that wait
            follow the code. The method wins over it, and what `enqueue` says over both.
        retry_on: Exceptions that are retried, after their delay; None is the usual one.
        discard_on: Exceptions that a job is given up for at once.
        snooze_on: Exceptions that put the job off without spending the attempt, up to 1,000 times;
            for as long as their Retry-After says (see `Snooze.after`) where no delay is given.
        transactional: True to have `process(job, session)` called inside of a transaction that is
            committed together with the job's outcome when it returns, and rolled back when it
            raises: what it does in the database happens exactly once. It gets a Session where the
            Oban was given ``session=``, and else a psycopg connection; or by a function given here:
            a sessionmaker, a scoped_session, or one that gives a context manager of a connection.
        options: queue, priority, max_attempts, tags, meta, schedule_in, scheduled_at, unique,
            deadline, weight: defaults for every job.

    Raises:
        ConfigError: An option is wrong, `process` is missing, async or of the wrong shape, or the
            name is taken.

    Example:
        >>> @worker(queue="mailers", max_attempts=5)
        ... class MailerWorker:
        ...     def process(self, job):
        ...         print("to", job.args["to"])
    """
    refuse_bare("worker", without_parentheses)
    policy = Policy.checked(retry_on=retry_on, discard_on=discard_on, snooze_on=snooze_on)
    defined = checked(name, oban, timeout, policy, transactional, options)
    crons = () if cron is None else check_cron("cron", cron)

    def decorate(cls: Any) -> Any:
        if not isinstance(cls, type):
            raise ConfigError("worker", f"{shown(cls)} is not a class; use @job for functions")

        process = getattr(cls, "process", None)

        if not callable(process) or process is Worker.process:
            raise ConfigError("worker", f"{cls.__qualname__} has no method process(self, job)")

        refuse_deferred(process, f"{cls.__qualname__}.process")
        check_shape(cls, transactional=defined.transactional is not None)

        backoff = (lambda job: cls().backoff(job)) if hasattr(cls, "backoff") else None
        registration = Registration(
            name or default_name(cls),
            origin(cls),
            defined.options,
            oban,
            _plainly(cls) if defined.transactional is None else _with_what_is_given(cls),
            backoff,
            crons,
            timeout=timeout_method(cls) or defined.timeout,
            policy=defined.policy,
            transactional=defined.transactional,
        )
        register(registration)
        given: Any = cls
        given.__oban_worker__ = registration

        if not issubclass(cls, Worker):
            given.new = Worker.__dict__["new"]
            given.enqueue = Worker.__dict__["enqueue"]

        return cls

    return decorate


@overload
def job(
    without_parentheses: None = None,
    /,
    *,
    name: str | None = None,
    oban: str = "Oban",
    cron: object = None,
    timeout: object = None,
    retry_on: object = None,
    discard_on: object = None,
    snooze_on: object = None,
    transactional: Literal[False] | None = None,
    **options: Any,
) -> Callable[[Callable[P, R]], JobFunction[P, R]]:
    """Of a function whose arguments are all those of its jobs."""


@overload
def job(
    without_parentheses: None = None,
    /,
    *,
    name: str | None = None,
    oban: str = "Oban",
    cron: object = None,
    timeout: object = None,
    retry_on: object = None,
    discard_on: object = None,
    snooze_on: object = None,
    transactional: Callable[[], Any] | Literal[True],
    **options: Any,
) -> Callable[[Callable[Concatenate[Any, P], R]], TransactionalJobFunction[P, R]]:
    """Of one that gets a connection or session first."""


def job(
    without_parentheses: None = None,
    /,
    *,
    name: str | None = None,
    oban: str = "Oban",
    cron: object = None,
    timeout: object = None,
    retry_on: object = None,
    discard_on: object = None,
    snooze_on: object = None,
    transactional: Callable[[], Any] | bool | None = None,
    **options: Any,
) -> Callable[[Callable[..., R]], JobFunction[..., R]]:
    """Make a function enqueueable; calling it stays an ordinary call.

    Arguments are stored by parameter name and must be JSON. The running job is at `current_job()`.
    Return values and exceptions count as for `@worker`.

    Args:
        name: As for `@worker`.
        oban: As for `@worker`.
        cron: As for `@worker`; args by parameter name.
        timeout: As for `@worker`.
        retry_on: As for `@worker`.
        discard_on: As for `@worker`.
        snooze_on: As for `@worker`.
        transactional: As for `@worker`. The connection or session is the function's first argument;
            who enqueues gives the others, and who calls the function gives all of them.
        options: As for `@worker`.

    Raises:
        ConfigError: An option is wrong, the function is async, or the name is taken.

    Example:
        >>> @job(queue="default")
        ... def add(a, b):
        ...     return a + b
        >>> add(1, 2)
        3
        >>> add.new(1, b=2).args
        {'a': 1, 'b': 2}
    """
    refuse_bare("job", without_parentheses)
    policy = Policy.checked(retry_on=retry_on, discard_on=discard_on, snooze_on=snooze_on)
    defined = checked(name, oban, timeout, policy, transactional, options)
    crons = () if cron is None else check_cron("cron", cron)
    way = defined.transactional
    kind = JobFunction if way is None else TransactionalJobFunction

    def decorate(function: Callable[..., R]) -> JobFunction[..., R]:
        if isinstance(function, type) or not callable(function):
            raise ConfigError(
                "job", f"{shown(function)} is not a function; use @worker for classes"
            )

        refuse_deferred(function, getattr(function, "__qualname__", shown(function)))
        wrapped: JobFunction[..., R] = kind(function, defined.options, oban, name)

        for line in crons:
            given = line.job.get("args", {})
            check_args("cron.args", function, given, transactional=way is not None)

        wrapped.registration.crons = crons
        wrapped.registration.timeout = defined.timeout
        wrapped.registration.policy = defined.policy
        wrapped.registration.transactional = way
        register(wrapped.registration)

        return wrapped

    return decorate


class JobFunction(Generic[P, R]):
    """A function decorated with `@job`: call it, or enqueue a call of it."""

    def __init__(
        self, function: Callable[P, R], options: JobOptions, oban: str, name: str | None
    ) -> None:
        update_wrapper(self, function)
        self._function = function
        self._options = options
        self._conn: Any = None
        self._signature = self._arguments(function)
        self.registration = Registration(
            name or default_name(function), origin(function), options, oban, self._perform, None
        )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function here and now."""
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<job {self.registration.name}>"

    @property
    def defaults(self) -> JobOptions:
        """The options of the jobs made through this object."""
        return self._options

    def options(self, *, conn: Any = None, **options: Any) -> Self:
        """The same function with other options for the jobs made through what is returned.

        Args:
            conn: The connection or session to enqueue by; see `Oban.enqueue`.
            options: As for `Worker.new`.

        Raises:
            InvalidJobError: An option is unknown or wrong.

        Example:
            >>> stored = add.options(priority=3, schedule_in=60).enqueue(1, 2)
        """
        other = object.__new__(type(self))
        update_wrapper(other, self._function)
        other._function = self._function
        other._signature = self._signature
        other.registration = self.registration
        other._options = self._options.merged(options)
        other._conn = conn if conn is not None else self._conn

        return other

    def new(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Make a job of this call without storing it.

        Raises:
            TypeError: The arguments do not fit the function's signature.
            InvalidJobError: An argument is not JSON; names it.
        """
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            options = [name for name in kwargs if name in CHECKS]
            advice = f"; give {options[0]} to .options({options[0]}=...)" if options else ""
            raise TypeError(f"{self.registration.name}: {error}{advice}") from None

        arguments = dict(bound.arguments)

        for parameter in self._signature.parameters.values():
            if parameter.name in arguments:
                if parameter.kind is parameter.VAR_KEYWORD:
                    extra = arguments.pop(parameter.name)

                    for clash in extra.keys() & arguments.keys():
                        raise InvalidJobError(
                            f"args.{clash}", "names two arguments, which one object cannot hold"
                        )

                    arguments.update(extra)
                elif parameter.kind is parameter.VAR_POSITIONAL:
                    arguments[parameter.name] = list(arguments[parameter.name])

        return self._options.job(self.registration.name, arguments)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Store a job of this call; call `options(...)` first for a queue, a time or a connection.

        Raises:
            TypeError: The arguments do not fit the function's signature.
            InvalidJobError: An argument is not JSON; nothing was written.
        """
        job = self.new(*args, **kwargs)

        return instances.get(self.registration.oban).enqueue(job, conn=self._conn)

    @staticmethod
    def _arguments(function: Callable[..., object]) -> inspect.Signature:
        return arguments_of(function)

    def _perform(self, job: Job, *given: Any) -> Any:
        parameters = self._signature.parameters.values()

        if all(item.kind not in _BY_POSITION for item in parameters):
            return self._function(*given, **job.args)

        named = dict(job.args)
        rest = [item.name for item in parameters if item.kind is item.VAR_POSITIONAL]
        extra = named.pop(rest[0], []) if rest else []
        positional = [
            named.pop(item.name)
            for item in parameters
            if item.name in named
            and (item.kind is item.POSITIONAL_ONLY or (extra and item.kind is _BY_EITHER))
        ]

        return self._function(*given, *positional, *extra, **named)


class TransactionalJobFunction(JobFunction[P, R]):
    """One that gets a connection or session first, which who enqueues does not give."""

    def __call__(  # type: ignore[override]
        self, session: Any, /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call the function here and now, with a connection or session of the caller's."""
        call: Callable[..., R] = self._function

        return call(session, *args, **kwargs)

    @staticmethod
    def _arguments(function: Callable[..., object]) -> inspect.Signature:
        return arguments_of(function, transactional=True)


_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
_BY_EITHER = inspect.Parameter.POSITIONAL_OR_KEYWORD


def _registration(cls: Any) -> Registration:
    registration: Registration | None = cls.__dict__.get("__oban_worker__")

    if registration is None:
        raise ConfigError(
            "worker",
            f"{cls.__qualname__} inherits from a worker but is not one; decorate it with @worker, "
            "or its jobs would run the parent's process",
        )

    return registration


def _plainly(cls: Any) -> Callable[[Job], Any]:
    return lambda job: cls().process(job)


def _with_what_is_given(cls: Any) -> Callable[..., Any]:
    return lambda job, *given: cls().process(job, *given)
