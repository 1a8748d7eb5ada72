"""What nodes say of themselves, and when they say it."""

from __future__ import annotations

import json
import os
import platform
import socket
import threading

import pytest

import oban_sync
from oban_sync import DatabaseUnavailableError, NodeInfo
from oban_sync.core import registry
from oban_sync.core.config import Config
from oban_sync.engine import nodes
from oban_sync.engine.nodes import UNCHANGED
from oban_sync.runtime import presence
from oban_sync.runtime.presence import Introduction
from tests.support.probe import eventually
from tests.support.workers import Echo

OPTIONS = {"conninfo": "postgresql://", "queues": {"alpha": 1, "beta": {"global_limit": 2}}}


@pytest.fixture
def deaf():
    return {"now": False}


@pytest.fixture
def introduction(deaf):
    return Introduction(Config.checked(OPTIONS), degraded=lambda: deaf["now"])


def info(told):
    return json.loads(told.info)


def test_a_node_tells_what_it_is_with_its_first_beat(make_oban):
    made = make_oban(node="web-1", queues={"alpha": 1}).start()
    [listed] = made.list_nodes()

    assert isinstance(listed, NodeInfo)
    assert listed.version == oban_sync.__version__
    assert listed.python == platform.python_version().rstrip("+")
    assert (listed.pid, listed.host) == (os.getpid(), socket.gethostname())
    assert listed.threads >= 2
    assert "tests.Echo" in listed.workers
    assert listed.workers == sorted(listed.workers)
    assert 0.0 <= listed.beat_age < 60.0
    eventually(lambda: made.list_nodes()[0].degraded is False)


def test_a_node_that_hears_of_nothing_says_so(make_oban):
    made = make_oban(queues={"alpha": 1}, listen_conninfo="off").start()

    eventually(lambda: made.list_nodes()[0].degraded is True)


def test_a_node_that_is_older_than_this_is_listed_as_it_is(oban, factory):
    factory.node("alpha", node="old")
    [listed] = oban.list_nodes()

    assert listed.node == "old"
    assert (listed.version, listed.pid, listed.workers, listed.degraded) == (None,) * 4


@pytest.mark.parametrize(
    "said", ["5", "[]", '{"pid": true, "version": 5, "threads": "x", "degraded": 1, "host": null}']
)
def test_what_makes_no_sense_is_not_told(oban, factory, said):
    factory.node("alpha", info=said, beat_at="-infinity")
    [listed] = oban.list_nodes()

    assert (listed.version, listed.pid, listed.threads) == (None, None, None)
    assert (listed.degraded, listed.host) == (None, None)


def test_what_is_known_is_not_said_again(introduction):
    assert introduction.news().workers is not None

    introduction.told()

    assert introduction.news() is UNCHANGED


def test_what_was_not_written_is_said_again(introduction):
    first = introduction.news()

    assert introduction.news() == first


def test_a_node_that_becomes_deaf_says_so_and_that_it_hears_again(introduction, deaf):
    deaf["now"] = True

    # While it starts, the notifier is on its way.
    assert info(introduction.news())["degraded"] is False

    introduction.told()

    assert info(introduction.news())["degraded"] is True

    introduction.told()
    deaf["now"] = False

    assert info(introduction.news())["degraded"] is False


def test_workers_that_are_imported_later_are_said(introduction, monkeypatch):
    introduction.news()
    introduction.told()
    monkeypatch.setitem(registry._registry, "tests.Later", registry.resolve("tests.Echo"))

    assert "tests.Later" in introduction.news().workers


def test_of_too_many_workers_none_is_said(introduction, monkeypatch):
    monkeypatch.setattr(presence, "MOST_WORKERS", 0)
    told = introduction.news()

    assert told.workers is None
    assert told.info is not None


def test_another_number_of_threads_is_said_a_minute_later(introduction):
    introduction.news()
    introduction.told()
    leave = threading.Event()
    another = threading.Thread(target=leave.wait)
    another.start()

    try:
        assert introduction.news() is UNCHANGED

        introduction._threads_at -= 61.0

        assert info(introduction.news())["threads"] == threading.active_count()
    finally:
        leave.set()
        another.join()


def test_limits_of_queues_are_said(introduction):
    assert info(introduction.news())["limits"] == {
        "beta": {
            "allowed": 2,
            "partitioned": False,
            "burst": False,
            "fair": False,
            "by": [],
            "rate": None,
        }
    }


def test_queues_whose_children_set_themselves_up_are_said():
    executor = {"kind": "process", "setup": "some.module:load"}
    queues = {"alpha": 1, "beta": {"limit": 1, "executor": "process"}}
    queues["gamma"] = {"limit": 1, "executor": executor}
    made = Introduction(Config.checked({**OPTIONS, "queues": queues}), degraded=lambda: False)

    assert info(made.news())["setups"] == ["gamma"]


def test_what_is_being_stopped_is_said_once():
    stopping = []
    made = Introduction(
        Config.checked(OPTIONS), degraded=lambda: False, stopping=lambda: list(stopping)
    )

    assert info(made.news())["stopping"] == []

    made.told()
    stopping.append("some uuid")

    assert info(made.news())["stopping"] == ["some uuid"]

    made.told()

    assert made.news() is UNCHANGED


def test_beats_that_say_nothing_new_leave_what_was_said(make_oban, monkeypatch):
    said = []
    original = nodes.beat

    def beat(*args, presence, **more):
        said.append(presence)

        return original(*args, presence=presence, **more)

    monkeypatch.setattr(nodes, "beat", beat)
    made = make_oban(queues={"alpha": 1}).start()
    refresher = made._lifecycle._supervisor._refresher

    for _ in range(3):
        before = len(said)
        refresher.wake()
        eventually(lambda before=before: len(said) > before)

    assert said[0] is not UNCHANGED
    assert said[-1] is UNCHANGED
    eventually(lambda: made.list_nodes()[0].version == oban_sync.__version__)
    assert "tests.Echo" in made.list_nodes()[0].workers


def test_a_node_that_was_taken_for_dead_says_it_all_anew(make_oban, conn, probe):
    made = make_oban(queues={"alpha": 1}).start()
    refresher = made._lifecycle._supervisor._refresher
    refresher.wake()
    eventually(lambda: refresher._beats > 1)
    conn.execute("DELETE FROM oban_sync_nodes")
    refresher.wake()
    probe.next("oban.node.renewed")

    eventually(lambda: made.list_nodes() and made.list_nodes()[0].version is not None)
    assert Echo.enqueue().id is not None


def test_what_a_failed_beat_was_to_say_is_said_by_the_next(make_oban, monkeypatch):
    original = nodes.beat
    tries = []

    def beat(*args, **more):
        tries.append(more["presence"])

        if len(tries) == 1:
            raise DatabaseUnavailableError("away")

        return original(*args, **more)

    monkeypatch.setattr(nodes, "beat", beat)
    make_oban(queues={"alpha": 1}).start()

    assert tries[0].info is not None
    assert tries[1].info is not None
