"""How many connections a process needs."""

from __future__ import annotations

import pytest

from oban_sync.core.budget import budget
from oban_sync.core.config import Config


def of(**options):
    return Config.checked({"conninfo": "dbname=x", **options})


@pytest.mark.parametrize(
    ("options", "runs", "total"),
    [
        ({}, True, 10),
        ({"pool_size": 3}, True, 3),
        ({"queues": {"a": 5}}, False, 10),
        ({"queues": {"a": 5}}, True, 10 + 3 + 3),
        ({"queues": {name: 5 for name in "abcdefgh"}}, True, 10 + 5 + 3),
        ({"queues": {"a": 5}, "listen_conninfo": "off"}, True, 10 + 3 + 2),
        ({"queues": {"a": 5}, "leadership": False}, True, 10 + 3 + 2),
        ({"queues": {"a": {"limit": 4, "executor": "process"}}}, True, 10 + 3 + 3 + 4),
    ],
    ids=str,
)
def test_connections_are_counted_by_what_they_are_for(options, runs, total):
    assert budget(of(**options), runs=runs).total == total


def test_a_budget_reads_as_a_sum():
    config = of(queues={"a": {"limit": 2, "executor": "process"}})

    assert str(budget(config, runs=True)) == ("10 application + 3 queues + 3 reserved + 2 children")
