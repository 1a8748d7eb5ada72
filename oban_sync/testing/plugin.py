"""The pytest plugin: fixtures for tests of applications that enqueue jobs.

For it pytest imports oban_sync, with psycopg. Flask and SQLAlchemy are left to those who use them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from random import Random, SystemRandom
from typing import Any

import pytest

_SEED = pytest.StashKey[int | None]()

#: A seed has so many digits at the most, for those who type it.
_MOST_SEED = 10**6


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--oban-seed`` and ``oban_testing``."""
    group = parser.getgroup("oban_sync")
    group.addoption(
        "--oban-seed",
        metavar="N",
        help="drain queues in a random order, which follows from this number and the test; "
        "'random' draws one, and shows it",
    )
    parser.addini("oban_testing", "the mode of every test: manual, inline or disabled", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Settle the seed, once for all processes of a run."""
    given = getattr(config, "workerinput", {}).get("oban_seed", config.getoption("--oban-seed"))

    if given == "random":
        given = SystemRandom().randrange(_MOST_SEED)

    try:
        config.stash[_SEED] = None if given is None else int(given)
    except ValueError:
        raise pytest.UsageError(
            f"--oban-seed: {given!r} is neither a number nor 'random'"
        ) from None

    mode = config.getini("oban_testing")

    if mode not in ("", "manual", "inline", "disabled"):
        raise pytest.UsageError(
            f"oban_testing: {mode!r} is not allowed; give manual, inline or disabled"
        )


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of pytest-xdist the seed."""
    node.workerinput["oban_seed"] = node.config.stash[_SEED]


def pytest_report_header(config: pytest.Config) -> str | None:
    """Show the seed, so that the order can be had again."""
    seed = config.stash[_SEED]

    return None if seed is None else f"oban_sync: drains in a random order, --oban-seed={seed}"


@pytest.fixture(autouse=True)
def _oban_testing(request: pytest.FixtureRequest) -> Iterator[None]:
    mode = request.config.getini("oban_testing")
    seed = request.config.stash[_SEED]

    if not mode and seed is None:
        yield

        return

    from oban_sync import testing
    from oban_sync.core import modes

    with ExitStack() as stack:
        if mode:
            stack.enter_context(testing.mode(mode))

        if seed is not None:
            # Of each test its own, whatever runs before it and in which process.
            by = Random(f"{seed} {request.node.nodeid}")  # noqa: S311 - it keeps no secret
            stack.enter_context(modes.shuffled(by))

        yield


@pytest.fixture
def oban_bound() -> Iterator[Callable[..., Any]]:
    """``oban_bound(conn)``: bind an Oban until the end of the test; see `testing.bound`.

    Of an Oban that is not the one of the name "Oban", ``oban_bound(conn, oban)``. Gives the Oban.
    Roll the connection back after it, in a fixture that this one's user asks for.
    """
    from oban_sync import testing

    with ExitStack() as stack:

        def bind(conn: Any, oban: Any = None) -> Any:
            return stack.enter_context(testing.bound(oban, conn))

        yield bind


@pytest.fixture
def oban_rolled_back() -> Iterator[Callable[..., Any]]:
    """``oban_rolled_back(db)``: undo at the end of the test all that it does; see `rolled_back`."""
    from oban_sync import testing

    with ExitStack() as stack:

        def begin(db: Any, **options: Any) -> Any:
            return stack.enter_context(testing.rolled_back(db, **options))

        yield begin
