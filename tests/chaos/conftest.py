"""A PostgreSQL per worker process that keeps what it acknowledged, and a database per scenario."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest

from oban_sync.embedded import Server
from tests.chaos import sizes
from tests.chaos.cluster import Cluster
from tests.chaos.figures import versions
from tests.chaos.proxy import Proxy
from tests.chaos.servers import database
from tests.support.private import private_server


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "chaos: long scenarios; they are left out unless -m asks for them"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "chaos" not in config.option.markexpr:
        long = [item for item in items if item.get_closest_marker("chaos")]
        items[:] = [item for item in items if item not in set(long)]
        config.hook.pytest_deselected(items=long)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the figures of the scenarios, which xdist's workers cannot print themselves."""
    told = [
        (seed, line)
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, (seed, line) in getattr(report, "user_properties", ())
        if name == "chaos" and getattr(report, "when", "") == "call"
    ]

    if told:
        terminalreporter.section(f"chaos, seed {told[0][0]}")
        terminalreporter.write_line(versions())
        terminalreporter.write_line("\n".join(dict.fromkeys(line for _, line in told)))


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A server for breaking. Unlike that of the other tests it waits for its disk."""
    with private_server() as server:
        yield server


@pytest.fixture
def server_up(server: Server) -> Iterator[Server]:
    """The server, running again at the end whatever was done to it."""
    yield server

    server.start()


@pytest.fixture
def random(request: pytest.FixtureRequest) -> Random:
    """What the scenario leaves to chance; the seed, printed, repeats it."""
    return Random(f"{sizes.SEED}:{request.node.name}")


@pytest.fixture
def figure(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Any:
    """Tells what was measured, in one line."""
    print(f"seed {sizes.SEED}; {versions()}")

    def tell(text: str) -> None:
        line = f"{request.node.name}: {text}"
        print(line)
        record_property("chaos", (sizes.SEED, line))

    return tell


@pytest.fixture
def make_cluster(tmp_path: Path, random: Random, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Makes clusters, each on a database of its own; ends all of their processes."""
    with ExitStack() as stack:

        def make(*, dsn: str | None = None, **options: Any) -> Cluster:
            given = dsn or stack.enter_context(database(request.getfixturevalue("server_up")))
            folder = tmp_path / uuid.uuid4().hex[:6]
            folder.mkdir()
            cluster = Cluster(given, folder, random=random, **options)
            stack.callback(cluster.end)

            return cluster

        yield make


@pytest.fixture
def make_proxy() -> Iterator[Callable[[str], Proxy]]:
    """Makes proxies."""
    with ExitStack() as stack:
        yield lambda dsn: stack.enter_context(Proxy(dsn))
