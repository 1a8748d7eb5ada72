"""The registered workers of this process.

Only what was decorated in this process can run: a row names a worker, and never an import.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from pathlib import PurePath
from typing import Any, Literal

from oban_sync.core.cron import DEFAULT_TIMEZONE, Entry
from oban_sync.core.crontab import Line, entries
from oban_sync.core.errors import ConfigError, WorkerNotFoundError, nearest, shown
from oban_sync.core.job import Job
from oban_sync.core.options import JobOptions
from oban_sync.core.outcome import Outcome

#: How the runs of a worker get what they do their work by, inside of one transaction with their
#: outcome: from the Oban, or from a function of the application; None where they get nothing.
Transactional = Callable[[], Any] | Literal[True] | None


class Registration:
    """A registered worker: its name, its options, and how a job of it is run.

    Attributes:
        name: The name stored in `oban_jobs.worker`.
        oban: Name of the Oban instance its jobs are stored by.
        options: The defaults of its jobs.
        perform: Runs one job of it on the calling thread; where it is transactional, with the
            connection or session as the second argument.
        backoff: Gives the seconds until a failed job is tried again; None for the usual ones.
        timeout: Gives the seconds that a run of a job may take, or None for any; what was stored
            with the job wins over it. None where the worker says nothing.
        policy: Gives what a failure comes to, from the job, the error and its text; or None where
            it is a failure like any other. May raise, since it calls the application's code.
        crons: When jobs of it are inserted by the clock.
        transactional: Whether its work is committed together with its outcome, and by what.
    """

    __slots__ = (
        "backoff",
        "crons",
        "module",
        "name",
        "oban",
        "options",
        "origin",
        "perform",
        "policy",
        "timeout",
        "transactional",
    )

    def __init__(
        self,
        name: str,
        origin: str,
        options: JobOptions,
        oban: str,
        perform: Callable[..., Any],
        backoff: Callable[[Job], Any] | None,
        crons: tuple[Line, ...] = (),
        *,
        timeout: Callable[[Job], object] | None = None,
        policy: Callable[[Job, BaseException, str], Outcome | None] | None = None,
        transactional: Transactional = None,
    ) -> None:
        self.name = name
        self.origin = origin
        self.options = options
        self.oban = oban
        self.module = origin.partition(".")[0]
        self.perform = perform
        self.backoff = backoff
        self.crons = crons
        self.timeout = timeout
        self.policy = policy
        self.transactional = transactional


#: What a script's own module is called, and what the same is called in a child process.
MAIN = ("__main__", "__mp_main__")

_registry: dict[str, Registration] = {}


def resolve(name: str) -> Registration:
    """The worker registered under a name.

    Raises:
        WorkerNotFoundError: There is none in this process. Nothing is ever imported to find it.
    """
    try:
        return _registry[name]
    except KeyError:
        raise WorkerNotFoundError(
            f"no worker named {shown(name)} is registered in this process; import the module that "
            "defines it before starting, or list that module in imports=."
            f"{nearest(name, _registry)}"
        ) from None


def registered(oban: str | None = None) -> dict[str, str]:
    """The registered workers by name, sorted, each with the queue it uses by default.

    Args:
        oban: Only those whose jobs are stored by this instance; any of them runs anybody's jobs.
    """
    return {
        name: found.options.values.get("queue", "default")
        for name, found in sorted(_registry.items())
        if oban is None or found.oban == oban
    }


def transactional(queue: str) -> list[str]:
    """The registered workers that use a queue by default and take what their Oban gives them.

    Sorted. Where that Oban has no `session`, each run of them keeps a connection of its pool.
    """
    return [
        name
        for name, used in registered().items()
        if used == queue and _registry[name].transactional is True
    ]


def crontab(
    oban: str, given: Iterable[Line] = (), *, timezone: str = DEFAULT_TIMEZONE
) -> list[Entry]:
    """The cron entries of an Oban: those its registered workers bring, by name, and those given.

    Raises:
        ConfigError: Two have the same name, or are the same.
        WorkerNotFoundError: One is for a worker that is not registered in this process.
    """
    own = [
        (found, line)
        for _, found in sorted(_registry.items())
        if found.oban == oban
        for line in found.crons
    ]

    return entries([*own, *((resolve(line.worker or ""), line) for line in given)], timezone)


def default_name(target: Any) -> str:
    """``module.qualified_name``, with the module as other processes would import it.

    A script's functions live in ``__main__``, which names another module in every process; the
    name of the file, or of the package run by ``python -m``, is stored instead.
    """
    module = target.__module__

    if module in MAIN:
        main = sys.modules[module]
        spec = getattr(main, "__spec__", None)
        file = getattr(main, "__file__", None)

        if spec is not None:
            module = spec.name.removesuffix(".__main__")
        elif file:
            module = PurePath(file).stem

    return f"{module}.{target.__qualname__}"


def register(registration: Registration) -> None:
    """Make a worker known to this process.

    Raises:
        ConfigError: Another worker has its name.
    """
    taken = _registry.get(registration.name)

    # The same place again is a reload, or a cell run twice in a notebook.
    if taken is not None and taken.origin != registration.origin:
        if taken.module in MAIN or registration.module in MAIN:
            raise ConfigError(
                "name",
                f"{registration.name!r} was defined twice, because its file runs as a script and "
                "is imported as a module too; move the workers into a module of their own",
            )

        raise ConfigError(
            "name",
            f"{registration.name!r} is the name of {taken.origin} already; give "
            f"{registration.origin} another name=",
        )

    _registry[registration.name] = registration


def origin(target: Any) -> str:
    """Where a class or function was defined."""
    return f"{target.__module__}.{target.__qualname__}"


def load(module: str) -> None:
    """Import a module that defines workers.

    Raises:
        ConfigError: There is no such module.
    """
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A module missing inside that one is its own trouble, with its own traceback.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise

        raise ConfigError("imports", f"there is no module {error.name!r}") from error
