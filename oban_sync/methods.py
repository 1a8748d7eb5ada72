"""Methods made of functions: a method of `Oban` is a function of `control/`, in one line."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from oban_sync.engine import callers
from oban_sync.engine.session import Db

Params = ParamSpec("Params")
Result = TypeVar("Result")
Desk = TypeVar("Desk")


class Front(Protocol):
    """The part of an Oban that these methods need."""

    @property
    def name(self) -> str:
        """The name of the instance."""
        ...

    @property
    def db(self) -> Db:
        """The application pool."""
        ...


def at_desk(
    function: Callable[Concatenate[Desk, Params], Result],
) -> Callable[Concatenate[Desk, Params], Result]:
    """A method of a function that takes the Oban itself."""
    return function


def on_tables(
    function: Callable[Concatenate[Db, Params], Result],
) -> Callable[Concatenate[Front, Params], Result]:
    """A method of a function that works on the tables."""

    @wraps(function)
    def method(self: Front, /, *args: Params.args, **kwargs: Params.kwargs) -> Result:
        return function(self.db, *args, **kwargs)

    return method


def on_bound(
    function: Callable[Concatenate[Db, Params], Result],
) -> Callable[Concatenate[Front, Params], Result]:
    """The same, in the transaction of the connection that is bound to the thread, if one is."""

    @wraps(function)
    def method(self: Front, /, *args: Params.args, **kwargs: Params.kwargs) -> Result:
        if kwargs.get("conn") is None:
            kwargs["conn"] = callers.bound_to(self)

        return function(self.db, *args, **kwargs)

    return method


def in_name(
    function: Callable[Concatenate[Db, str, Params], Result],
) -> Callable[Concatenate[Front, Params], Result]:
    """A method of a function that works on what belongs to an instance, by its name."""

    @wraps(function)
    def method(self: Front, /, *args: Params.args, **kwargs: Params.kwargs) -> Result:
        return function(self.db, self.name, *args, **kwargs)

    return method
