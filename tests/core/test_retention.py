"""Which rule a finished job falls under, and what the pruner may be told."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest

from oban_sync import ConfigError
from oban_sync.core.retention import (
    FINISHED,
    PrunerConfig,
    Retention,
    check_pruner,
    scopes,
)


def checked(**options):
    return check_pruner("pruner", options)


def test_the_defaults_keep_every_finished_job_for_a_day():
    config = checked()

    assert config == PrunerConfig()
    assert (config.enabled, config.interval, config.limit) == (True, 30.0, 10_000)
    assert config.rule("completed", "any", "Any") == Retention(86_400.0)


@pytest.mark.parametrize("value", [False, "false", "0", {"enabled": False}])
def test_it_can_be_turned_off(value):
    assert not check_pruner("pruner", value).enabled


@pytest.mark.parametrize("value", [True, "true", {}, {"limit": None}])
def test_it_is_on_otherwise(value):
    assert check_pruner("pruner", value) == PrunerConfig()


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        (60, Retention(60.0)),
        ("60", Retention(60.0)),
        (0, Retention(0.0)),
        (timedelta(minutes=2), Retention(120.0)),
        ("forever", Retention()),
        ("Infinity", Retention()),
        (math.inf, Retention()),
        (timedelta.max, Retention()),
        (1e300, Retention()),
        ({"max_age": 60}, Retention(60.0)),
        ({"max_age": "forever"}, Retention()),
        ({"max_len": 5}, Retention(math.inf, 5)),
        ({"max_len": 0}, Retention(math.inf, 0)),
        ({"max_age": 60, "max_len": 5}, Retention(60.0, 5)),
        (Retention(3.0), Retention(3.0)),
    ],
    ids=str,
)
def test_a_rule_is_seconds_a_word_or_a_mapping(given, rule):
    config = checked(states={"completed": given}, queues={"q": given}, workers={"W": given})

    assert config.states["completed"] == config.queues["q"] == config.workers["W"] == rule


def test_a_number_to_keep_takes_the_place_of_the_default_age():
    assert checked(max_len=5).rule("completed", "q", "W") == Retention(math.inf, 5)
    assert checked(max_len=5, max_age=60).rule("completed", "q", "W") == Retention(60.0, 5)
    assert checked(max_len=None).rule("completed", "q", "W") == Retention(86_400.0)


@pytest.mark.parametrize(
    ("options", "option", "words"),
    [
        ({"intervall": 1}, "pruner.intervall", ["unknown", "interval"]),
        ({"interval": 0}, "pruner.interval", ["0.01"]),
        ({"limit": 0}, "pruner.limit", ["1 to 100,000"]),
        ({"max_age": -1}, "pruner.max_age", ["-1", "forever"]),
        ({"max_age": True}, "pruner.max_age", ["True", "seconds"]),
        ({"max_age": math.nan}, "pruner.max_age", ["nan"]),
        ({"max_age": "for ever"}, "pruner.max_age", ["'for ever'", "forever"]),
        ({"max_age": None}, "pruner.max_age", ["None", "forever"]),
        ({"max_len": -1}, "pruner.max_len", ["-1", "1,000,000"]),
        ({"max_len": 1.5}, "pruner.max_len", ["1.5"]),
        ({"states": 5}, "pruner.states", ["5", "mapping"]),
        ({"states": {"complete": 5}}, 'pruner.states["complete"]', ["completed", "Did you mean"]),
        ({"states": {"executing": 5}}, 'pruner.states["executing"]', ["cancelled, completed"]),
        ({"states": {7: 5}}, 'pruner.states["7"]', ["unknown"]),
        ({"states": {"completed": None}}, 'pruner.states["completed"]', ["None", "forever"]),
        ({"states": {"completed": {}}}, 'pruner.states["completed"]', ["max_age or max_len"]),
        (
            {"states": {"completed": {"max_age": None}}},
            'pruner.states["completed"]',
            ["max_age or max_len"],
        ),
        (
            {"states": {"completed": {"max_length": 5}}},
            'pruner.states["completed"].max_length',
            ["max_len"],
        ),
        ({"queues": {"q": "never"}}, 'pruner.queues["q"]', ["'never'", "forever"]),
        ({"queues": {"q": {"max_len": "x"}}}, 'pruner.queues["q"].max_len', ["'x'"]),
        ({"queues": {"": 5}}, "pruner.queues", ["blank"]),
        ({"queues": {5: 5}}, "pruner.queues", ["string"]),
        ({"queues": {"a\x00b": 5}}, "pruner.queues", ["cannot be printed"]),
        ({"queues": {"\ud800": 5}}, "pruner.queues", ["cannot be printed"]),
        ({"queues": ["q"]}, "pruner.queues", ["mapping"]),
        ({"workers": {"x" * 128: 5}}, "pruner.workers", ["127"]),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_a_wrong_option_is_named_with_its_path(options, option, words):
    with pytest.raises(ConfigError) as caught:
        checked(**options)

    assert caught.value.option == option

    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("value", [5, [], "sometimes"])
def test_what_is_neither_a_mapping_nor_a_flag_is_refused(value):
    with pytest.raises(ConfigError, match="pruner"):
        check_pruner("pruner", value)


@pytest.mark.parametrize(
    ("state", "queue", "worker", "age"),
    [
        ("completed", "audit", "Mail", 1.0),
        ("completed", "other", "Mail", 2.0),
        ("completed", "other", "Other", 2.0),
        ("cancelled", "audit", "Mail", 1.0),
        ("cancelled", "other", "Mail", 3.0),
        ("cancelled", "other", "Other", 4.0),
    ],
)
def test_the_queue_comes_before_the_state_and_that_before_the_worker(state, queue, worker, age):
    config = checked(max_age=4, queues={"audit": 1}, states={"completed": 2}, workers={"Mail": 3})

    assert config.rule(state, queue, worker) == Retention(age)


def test_ages_are_looked_through_once_per_state_and_numbers_once_per_rule():
    config = checked(
        max_age=60,
        queues={"audit": "forever", "few": {"max_len": 3}},
        states={"discarded": {"max_len": 5}},
        workers={"Mail": {"max_len": 7, "max_age": 5}},
    )
    found = {
        state: [(scope.keep, scope.least_age) for scope in scopes(config) if scope.state == state]
        for state in FINISHED
    }

    assert found == {
        "completed": [(None, 5.0), (3, 0.0), (7, 0.0)],
        "cancelled": [(None, 5.0), (3, 0.0), (7, 0.0)],
        # The rule for the state leaves nothing to the workers'.
        "discarded": [(3, 0.0), (5, 0.0)],
    }


def test_where_everything_is_kept_nothing_is_looked_through():
    assert scopes(checked(max_age="forever", queues={"q": "forever"})) == []
