"""The loop that raises waiting jobs: its options, who does it, and what it tells."""

from __future__ import annotations

import math
import time
from datetime import timedelta
from queue import SimpleQueue

import psycopg
import pytest

from oban_sync import ConfigError, telemetry, worker
from oban_sync.core.ageing import PrioritizerConfig, check_prioritizer
from oban_sync.plugins.prioritizer import Prioritizer
from tests.support.probe import eventually


@pytest.fixture
def make(db):
    """Makes a prioritizer that leads."""

    def make(leads=lambda: True, database=db, **options):
        return Prioritizer(database, check_prioritizer("prioritizer", options), leads=leads)

    return make


@pytest.fixture
def heard():
    """The fields of every round's end."""
    found = SimpleQueue()
    telemetry.attach(
        "test-prioritizer",
        ["oban.prioritizer.prioritize.stop", "oban.prioritizer.prioritize.exception"],
        lambda event, fields: found.put(fields),
    )

    yield found

    telemetry.detach("test-prioritizer")


@pytest.fixture
def backlog(conn):
    """Inserts so many jobs that could have started so long ago."""

    def insert(count, ago=310, queue="default", priority=5):
        conn.execute(
            """
            INSERT INTO oban_jobs (worker, queue, priority, scheduled_at)
            SELECT 'W', %s, %s, timezone('UTC', now()) - make_interval(secs => %s)
            FROM generate_series(1, %s)
            """,
            [queue, priority, ago, count],
        )

    return insert


class Silent:
    """A database that must not be asked."""

    def __getattr__(self, name):
        raise AssertionError(f"{name} was used")


def test_a_round_goes_on_until_everybody_has_risen(make, backlog, factory, heard):
    for queue in "abc":
        backlog(100, queue=queue)
        backlog(10, queue=queue, priority=7)

    prioritizer = make(limit=100)

    assert [prioritizer.tick() for _ in range(3)] == [0.0, 0.0, 0.0]
    assert prioritizer.tick() is None
    assert sum(heard.get()["raised_count"] for _ in range(4)) == 330
    assert factory.count(priority=4) == 300
    assert factory.count(priority=6) == 30

    assert prioritizer.tick() is None
    assert heard.get() | {"duration_ns": 0} == {
        "raised_count": 0,
        "refused_count": 0,
        "duration_ns": 0,
    }


def test_who_has_waited_for_long_starts_before_those_who_are_more_important(make, make_oban, conn):
    started = []

    @worker(name="tests.prioritizer.Started", queue="alpha")
    class Started:
        def process(self, job):
            started.append(job.args["who"])

    oban = make_oban()

    for who, priority in (("old", 3), ("older", 4), ("late", 3), ("first", 0)):
        oban.enqueue(Started.new({"who": who}, priority=priority))

    conn.execute(
        """
        UPDATE oban_jobs SET scheduled_at = timezone('UTC', now()) - make_interval(
            secs => CASE args ->> 'who' WHEN 'old' THEN 610 WHEN 'older' THEN 620 ELSE 0 END
        )
        """
    )
    make().tick()
    oban.drain_queue("alpha")

    assert started == ["older", "old", "first", "late"]


def test_only_the_leader_asks_the_database(make, heard):
    assert make(leads=lambda: False, database=Silent()).tick() is None
    assert heard.empty()


@pytest.mark.parametrize("value", [False, "false", {"enabled": False}], ids=str)
def test_turned_off_it_asks_nothing(value, heard):
    config = check_prioritizer("prioritizer", value)

    assert Prioritizer(Silent(), config, leads=lambda: True).tick() is None
    assert heard.empty()


def test_the_end_of_the_lease_ends_a_round(make, backlog, factory, heard):
    backlog(40)
    asked = iter([True, True, True] + [False] * 10)
    prioritizer = make(limit=10, leads=lambda: next(asked))

    assert [prioritizer.tick() for _ in range(3)] == [0.0, 0.0, None]
    assert factory.count(priority=4) == 10
    assert [heard.get()["raised_count"] for _ in range(2)] == [10, 0]


def test_whoever_leads_again_begins_anew(make, backlog, factory):
    backlog(5, queue="b")
    leading = [True]
    prioritizer = make(limit=5, leads=lambda: leading[0])
    prioritizer.tick()
    leading[0] = False
    prioritizer.tick()
    backlog(5, queue="a")
    leading[0] = True

    while prioritizer.tick() is not None:
        pass

    assert factory.count(priority=4) == 10


def test_on_its_thread_it_raises_by_itself_and_stops_at_once(make, backlog, factory):
    backlog(30)
    prioritizer = make(interval=0.05, limit=7, after=300.0)
    prioritizer.start()

    try:
        eventually(lambda: factory.count(priority=5) == 0)
    finally:
        prioritizer.request_stop()

    assert prioritizer.join(time.monotonic() + 10.0)


def test_an_outage_is_ridden_out(make, dsn, conn, backlog, factory):
    backlog(5)
    prioritizer = make(interval=0.05)
    prioritizer.start()

    try:
        eventually(lambda: factory.count(priority=5) == 0)

        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid NOT IN (pg_backend_pid(), %s)",
                [conn.info.backend_pid],
            )

        backlog(5)
        eventually(lambda: factory.count(priority=5) == 0)
    finally:
        prioritizer.request_stop()
        assert prioritizer.join(time.monotonic() + 10.0)


def test_options_are_read():
    config = check_prioritizer(
        "prioritizer",
        {
            "after": timedelta(minutes=1),
            "interval": 5,
            "limit": 7,
            "max_priority": 2,
            "queues": {"a": 3.0, "b": "never"},
            "workers": {"W": False, "V": math.inf},
        },
    )

    assert config == PrioritizerConfig(
        True, 5.0, 7, 60.0, 2, {"a": 3.0, "b": math.inf}, {"W": math.inf, "V": math.inf}
    )
    assert check_prioritizer("prioritizer", True) == PrioritizerConfig(enabled=True)
    assert check_prioritizer("prioritizer", {}) == PrioritizerConfig(enabled=True)
    assert check_prioritizer("prioritizer", config) is config
    assert not PrioritizerConfig().enabled


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (5, ["prioritizer", "mapping"]),
        ("maybe", ["prioritizer", "true or false"]),
        ({"afterr": 5}, ["prioritizer.afterr", "Did you mean 'after'?"]),
        ({"after": -1}, ["prioritizer.after", "-1", "never"]),
        ({"after": "soon"}, ["prioritizer.after", "soon", "never"]),
        ({"after": True}, ["prioritizer.after", "True"]),
        ({"after": math.nan}, ["prioritizer.after"]),
        ({"interval": 0}, ["prioritizer.interval", "0.01"]),
        ({"interval": math.inf}, ["prioritizer.interval"]),
        ({"limit": 0}, ["prioritizer.limit"]),
        ({"max_priority": 10}, ["prioritizer.max_priority", "0 to 9"]),
        ({"max_priority": -1}, ["prioritizer.max_priority"]),
        ({"queues": ["a"]}, ["prioritizer.queues", "mapping"]),
        ({"queues": {"a": -5}}, ['prioritizer.queues["a"]', "-5"]),
        ({"queues": {"a": None}}, ['prioritizer.queues["a"]', "None"]),
        ({"queues": {"": 5}}, ["prioritizer.queues", "blank"]),
        ({"workers": {7: 5}}, ["prioritizer.workers", "7"]),
    ],
    ids=str,
)
def test_a_wrong_option_is_named_with_what_is_allowed(given, words):
    with pytest.raises(ConfigError) as caught:
        check_prioritizer("prioritizer", given)

    for word in words:
        assert word in str(caught.value)
