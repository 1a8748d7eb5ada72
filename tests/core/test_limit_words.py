"""The limits of queues, as nodes tell of them and as people read them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from oban_sync.core import limit_words
from oban_sync.core.limits import check_limits

BY = {"args": ["account_id"]}


def limits(**options):
    return check_limits("queues.alpha", options)


@pytest.mark.parametrize(
    ("options", "allowed", "rate", "turns"),
    [
        ({"global_limit": 1}, "1 job at once, over all nodes", None, None),
        (
            {"global_limit": 1_000, "rate_limit": {"allowed": 1, "period": 0.5}},
            "1,000 jobs at once, over all nodes",
            "1 start in 0.5 s",
            None,
        ),
        (
            {"global_limit": {"allowed": 2, "partition": BY, "burst": True}},
            "2 jobs at once for each args 'account_id', over all nodes; more while slots are free",
            None,
            None,
        ),
        (
            {"partition": ["worker", BY], "rate_limit": {"allowed": 5, "period": 60}},
            None,
            "5 starts in 60 s for each args 'account_id' and worker",
            None,
        ),
        (
            {"rate_limit": {"allowed": 4, "period": 2, "algorithm": "token_bucket"}},
            None,
            "4 starts in 2 s, one more every 0.5 s",
            None,
        ),
        (
            {"rate_limit": {"allowed": 4, "period": 2, "algorithm": "fixed_window"}},
            None,
            "4 starts in 2 s, counted anew each time",
            None,
        ),
        ({"fair": "worker"}, None, None, "turns by worker"),
    ],
    ids=["one", "both", "burst", "partition", "bucket", "window", "fair"],
)
def test_what_a_node_tells_is_read_and_put_in_words(options, allowed, rate, turns):
    given = limits(**options)
    found = limit_words.read(json.loads(json.dumps(limit_words.told(given))))

    assert found == replace(given, queue="", partition=(), weights=())
    assert limit_words.global_limit(found) == allowed
    assert limit_words.rate_limit(found) == rate
    assert limit_words.turns(found) == turns


@pytest.mark.parametrize(
    "changes",
    [
        {"allowed": "2"},
        {"allowed": 0},
        {"allowed": True},
        {"partitioned": True},
        {"fair": True},
        {"allowed": 10**20},
        *(
            {
                "rate": {
                    "allowed": 1,
                    "period": period,
                    "algorithm": "fixed_window",
                    "partitioned": False,
                }
            }
            for period in (0, -1, 10**400, 1e300, float("inf"), float("nan"))
        ),
        {"by": 5},
        {"by": [["env", "x"]]},
        {"by": ["worker"]},
        {"rate": []},
        {"rate": {"allowed": 1}},
        {"rate": {"allowed": 1, "period": "x", "algorithm": "fixed_window", "partitioned": False}},
        {"rate": {"allowed": 1, "period": 1, "algorithm": "guess", "partitioned": False}},
    ],
    ids=lambda changes: json.dumps(changes)[:60],
)
def test_what_somebody_else_wrote_is_no_limit(changes):
    assert limit_words.read({**limit_words.told(limits(global_limit=2)), **changes}) is None


@pytest.mark.parametrize("said", [None, 5, "x", [], {}], ids=str)
def test_what_is_no_object_is_no_limit(said):
    assert limit_words.read(said) is None
