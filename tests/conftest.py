"""One PostgreSQL for the run, a database per worker process, a schema per test."""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import psycopg
import pytest
from psycopg import sql

from oban_sync import Oban, schema, telemetry
from oban_sync.core import instances
from oban_sync.embedded import Server
from oban_sync.engine.connections import open_loop_pool
from oban_sync.engine.session import Db
from tests.support.factory import Factory
from tests.support.private import private_server
from tests.support.probe import Probe

#: A server for all tests, unless OBAN_SYNC_TEST_DSN names one. Never for tests of crashes: they
#: start their own, which keeps what it promised to keep.
FAST = {"fsync": "off", "full_page_writes": "off", "max_connections": 300, "shared_buffers": "64MB"}

_DSN = pytest.StashKey[str]()
_SERVER = pytest.StashKey[AbstractContextManager[Server]]()


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        config.stash[_DSN] = config.workerinput["dsn"]
    elif given := os.environ.get("OBAN_SYNC_TEST_DSN"):
        config.stash[_DSN] = given
    elif not config.option.collectonly:
        server = private_server(**FAST)
        config.stash[_DSN] = server.__enter__().dsn
        config.stash[_SERVER] = server


def pytest_configure_node(node: Any) -> None:
    node.workerinput["dsn"] = node.config.stash[_DSN]


def pytest_unconfigure(config: pytest.Config) -> None:
    if server := config.stash.get(_SERVER, None):
        server.__exit__(None, None, None)


@pytest.fixture(scope="session")
def dsn(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of this worker process, emptied afterwards."""
    given = request.config.stash[_DSN]
    name = f"oban_test_{uuid.uuid4().hex[:12]}"

    with psycopg.connect(given, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

    yield psycopg.conninfo.make_conninfo(given, dbname=name)

    with psycopg.connect(given, autocommit=True) as conn:
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def empty_prefix(dsn: str) -> Iterator[str]:
    """The name of a schema that does not exist yet; quoting it is not optional."""
    name = f"Test_{uuid.uuid4().hex[:12]}"

    yield name

    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))


@pytest.fixture
def prefix(dsn: str, empty_prefix: str) -> str:
    """A schema of this test, with the tables."""
    schema.install(dsn, prefix=empty_prefix)

    return empty_prefix


@pytest.fixture
def conn(dsn: str, prefix: str) -> Iterator[psycopg.Connection[Any]]:
    """An autocommit connection that finds the test's tables without a prefix."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("SELECT set_config('search_path', %s, false)", [f'"{prefix}"'])

        yield conn


@pytest.fixture
def db(dsn: str, prefix: str) -> Iterator[Db]:
    """What the library's own loops work with."""
    with open_loop_pool(dsn, name="test", size=4) as pool:
        yield Db(pool, prefix)


@pytest.fixture
def factory(conn: psycopg.Connection[Any]) -> Factory:
    """Makes rows in any state."""
    return Factory(conn)


@pytest.fixture
def make_oban(dsn: str, prefix: str) -> Iterator[Any]:
    """Makes Obans on the test's tables, and stops them afterwards."""
    made: list[Oban] = []

    def make(**options: Any) -> Oban:
        options = {"conninfo": dsn, "prefix": prefix, "stager": {"interval": 0.2}, **options}
        made.append(Oban(**options))

        return made[-1]

    yield make

    for oban in made:
        oban.stop(grace=1.0)


@pytest.fixture
def oban(make_oban: Any) -> Oban:
    """An Oban without queues: it enqueues and drains."""
    return make_oban()


@pytest.fixture
def probe() -> Iterator[Probe]:
    """Collects the library's events."""
    probe = Probe()
    probe.attach()

    yield probe

    probe.detach()


@pytest.fixture(autouse=True)
def _clean_slate(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings from outside, and nothing of ours left behind."""
    for name in os.environ:
        if name.startswith("OBAN_") or name == "DATABASE_URL":
            monkeypatch.delenv(name)

    before = set(threading.enumerate())
    root = logging.getLogger()
    level, handlers = root.level, set(root.handlers)

    yield

    # Commands that are run within the test's own process set up the log for good.
    root.setLevel(level)

    for handler in set(root.handlers) - handlers:
        if type(handler) is logging.StreamHandler:
            root.removeHandler(handler)

    instances.clear()
    telemetry.log.detach()
    left = [
        thread
        for thread in threading.enumerate()
        if thread not in before and thread.name.startswith("oban-")
    ]

    for thread in left:
        thread.join(5.0)

    assert not [thread for thread in left if thread.is_alive()], "threads were left behind"
