"""Options of limits: what is taken, and what is said of the rest."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oban_sync.core.config import check_queues
from oban_sync.core.errors import ConfigError
from oban_sync.core.job import Job
from oban_sync.core.limits import (
    ALGORITHMS,
    Field,
    Limits,
    Rate,
    check_limits,
    check_rate,
    lane_of,
)

PATH = 'queues["media"]'
K, L, WORKER = Field("args", "k"), Field("args", "l"), Field("worker")


def limits(**options):
    return check_limits(PATH, options)


def test_nothing_is_looked_after_by_default():
    assert not Limits().any
    assert Limits().most_running is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"global_limit": 3}, {"allowed": 3}),
        ({"global_limit": "3"}, {"allowed": 3}),
        ({"global_limit": {"allowed": 3}}, {"allowed": 3}),
        (
            {"global_limit": {"allowed": 3, "partition": {"args": "k"}, "burst": True}},
            {
                "allowed": 3,
                "partitioned": True,
                "burst": True,
                "partition": (K,),
                "lane_by": (K,),
            },
        ),
        (
            {"global_limit": 3, "partition": "worker"},
            {"allowed": 3, "partitioned": True, "partition": (WORKER,), "lane_by": (WORKER,)},
        ),
        (
            {"rate_limit": {"allowed": 60, "period": timedelta(minutes=1)}},
            {"rate": Rate(60, 60.0, "sliding_window")},
        ),
        (
            {
                "rate_limit": {
                    "allowed": 60,
                    "period": 0.5,
                    "algorithm": "token_bucket",
                    "partition": [{"args": ["l", "k"]}, "worker"],
                }
            },
            {
                "rate": Rate(60, 0.5, "token_bucket", partitioned=True),
                "partition": (K, L, WORKER),
                "lane_by": (K, L, WORKER),
            },
        ),
        (
            {"global_limit": 2, "rate_limit": {"allowed": 1, "period": 1}, "partition": "worker"},
            {
                "allowed": 2,
                "partitioned": True,
                "rate": Rate(1, 1.0, partitioned=True),
                "partition": (WORKER,),
                "lane_by": (WORKER,),
            },
        ),
        (
            {"global_limit": 2, "rate_limit": {"allowed": 1, "period": 1, "partition": "worker"}},
            {
                "allowed": 2,
                "rate": Rate(1, 1.0, partitioned=True),
                "partition": (WORKER,),
                "lane_by": (WORKER,),
            },
        ),
        ({"fair": {"args": ["k"]}}, {"fair": True, "lane_by": (K,)}),
        (
            {"fair": {"args": "k", "weights": {"acme": 3, 7: 2}}},
            {"fair": True, "lane_by": (K,), "weights": (('"acme"', 3), ("7", 2))},
        ),
        (
            {"fair": {"args": "k"}, "global_limit": 2, "partition": {"args": ["k"]}},
            {
                "fair": True,
                "allowed": 2,
                "partitioned": True,
                "partition": (K,),
                "lane_by": (K,),
            },
        ),
    ],
    ids=str,
)
def test_what_options_mean(options, expected):
    assert limits(**options) == Limits(queue=PATH, **expected)
    assert limits(**options).any


RATE = {"allowed": 1, "period": 1}


@pytest.mark.parametrize(
    ("options", "option", "words"),
    [
        ({"global_limit": 0}, "global_limit", "0 is not allowed; give a whole number from 1"),
        ({"global_limit": -3}, "global_limit", "-3"),
        ({"global_limit": True}, "global_limit", "True"),
        ({"global_limit": 1.5}, "global_limit", "1.5"),
        ({"global_limit": {}}, "global_limit", "lacks allowed"),
        ({"global_limit": {"allowd": 3}}, "global_limit.allowd", "Did you mean 'allowed'?"),
        ({"global_limit": {"allowed": 0}}, "global_limit.allowed", "0 is not"),
        ({"global_limit": {"allowed": 1, "burst": 3}}, "global_limit.burst", "true or false"),
        ({"global_limit": {"allowed": 1, "burst": True}}, "global_limit.burst", "partition"),
        ({"rate_limit": 60}, "rate_limit", "60 is not a mapping of allowed, period"),
        ({"rate_limit": {"allowed": 60}}, "rate_limit", "lacks period"),
        ({"rate_limit": {**RATE, "period": 0}}, "rate_limit.period", "give seconds, 0.001 to"),
        ({"rate_limit": {**RATE, "period": -1}}, "rate_limit.period", "-1"),
        ({"rate_limit": {**RATE, "period": float("nan")}}, "rate_limit.period", "nan"),
        ({"rate_limit": {**RATE, "period": 1e12}}, "rate_limit.period", "31,622,400"),
        ({"rate_limit": {**RATE, "allowed": 0}}, "rate_limit.allowed", "0"),
        (
            {"rate_limit": {**RATE, "algorithm": "sliding"}},
            "rate_limit.algorithm",
            "Did you mean 'sliding_window'?",
        ),
        ({"rate_limit": {**RATE, "perod": 1}}, "rate_limit.perod", "Did you mean 'period'?"),
        ({"partition": "worker"}, "partition", "divides nothing"),
        ({"global_limit": 1, "partition": "wrker"}, "partition", "Did you mean 'worker'?"),
        ({"global_limit": 1, "partition": {"arg": "k"}}, "partition.arg", "Did you mean 'args'?"),
        ({"global_limit": 1, "partition": {"args": []}}, "partition.args", "give keys"),
        ({"global_limit": 1, "partition": {"args": [1]}}, "partition.args", "1 is not the name"),
        ({"global_limit": 1, "partition": {"args": "a\0"}}, "partition.args", "is not the name"),
        ({"global_limit": 1, "partition": []}, "partition", "divides nothing"),
        ({"global_limit": 1, "partition": {}}, "partition", "divides nothing"),
        ({"global_limit": 1, "partition": 7}, "partition", "7 is not allowed"),
        (
            {"global_limit": 1, "partition": ["worker", "worker"]},
            "partition",
            "worker stands in it twice",
        ),
        (
            {"global_limit": {"allowed": 1, "partition": "worker"}, "partition": {"args": "k"}},
            "global_limit.partition",
            "a queue is divided one way",
        ),
        (
            {
                "global_limit": {"allowed": 1, "partition": "worker"},
                "rate_limit": {**RATE, "partition": {"args": "k"}},
            },
            "rate_limit.partition",
            "is by args 'k', queues[\"media\"].global_limit.partition by worker",
        ),
        (
            {"global_limit": 1, "partition": "worker", "fair": {"args": "k"}},
            "fair",
            "is by args 'k', the partition by worker",
        ),
        ({"fair": {"args": "k", "weights": {}}}, "fair.weights", "give"),
        ({"fair": {"args": "k", "weights": {"a": 0}}}, "fair.weights['a']", "0 is not allowed"),
        ({"fair": {"args": ["k", "l"], "weights": {"a": 1}}}, "fair.weights", "are for one key"),
        ({"fair": {"args": "k", "weights": {("a",): 1}}}, "fair.weights", "no value of a key"),
        ({"fair": {"args": "k", "wieghts": {}}}, "fair.wieghts", "unknown"),
        ({"fair": True}, "fair", "True is not allowed"),
    ],
    ids=str,
)
def test_what_is_wrong_names_the_option(options, option, words):
    with pytest.raises(ConfigError) as raised:
        limits(**options)

    assert raised.value.option == f"{PATH}.{option}"
    assert words in raised.value.problem


def test_the_limit_of_a_node_falls_back_to_the_global_one():
    [queue] = check_queues("queues", {"media": {"global_limit": 3}})
    assert queue.limit == 3

    [queue] = check_queues("queues", {"media": {"limit": 10, "global_limit": 3}})
    assert queue.limit == 10

    with pytest.raises(ConfigError, match="limit: is missing"):
        check_queues("queues", {"media": {"global_limit": 3, "partition": "worker"}})


def test_a_limit_of_its_own_has_no_partition():
    assert check_rate("sms", RATE) == Rate(1, 1.0)

    with pytest.raises(ConfigError, match="partition: unknown"):
        check_rate("sms", {**RATE, "partition": "worker"})

    with pytest.raises(ConfigError, match="lacks allowed and period"):
        check_rate("sms", {})


BY_K = limits(global_limit=1, partition=[{"args": "k", "meta": "m"}, "worker"])


@pytest.mark.parametrize(
    ("args", "meta", "missing"),
    [
        ('{"k": 1}', '{"m": null}', None),
        ('{"k": null}', '{"m": 1}', None),
        ("{}", '{"m": 1}', "args lack the key 'k', by which queues[\"media\"].partition divides"),
        ('{"k": 1}', "{}", "meta lack the key 'm'"),
    ],
)
def test_a_job_without_the_partition_key_is_refused_and_told_why(args, meta, missing):
    job = Job(worker="W", queue="media", args=args, meta=meta)

    for reason in (BY_K.missing(job), BY_K.refusal(job)):
        assert reason is None if missing is None else missing in reason


def test_fair_share_needs_no_key():
    assert limits(fair={"args": "k"}).refusal(Job(worker="W")) is None


@pytest.mark.parametrize(
    ("weight", "refused"), [(1, False), (5, False), (6, True), (5.5, True), (None, False)]
)
def test_a_job_that_can_never_fit_is_refused_and_told_why(weight, refused):
    held = limits(rate_limit={"allowed": 5, "period": 1})
    job = Job(
        worker="W", meta='{"oban_sync": {"weight": %s}}' % ("null" if weight is None else weight)
    )
    reason = held.refusal(job)

    if refused:
        assert f"weighs {weight}" in reason
        assert 'queues["media"].rate_limit.allowed is 5' in reason
    else:
        assert reason is None


def test_a_job_that_cannot_be_read_is_left_to_fail_by_itself():
    assert BY_K.refusal(Job(worker="W", args="[1]")) is None


@pytest.mark.parametrize(
    ("partition", "key", "expected"),
    [
        ((K,), 7, ("", {"k": 7}, {})),
        ((K,), None, ("", {"k": None}, {})),
        ((WORKER,), "app.W", ("app.W", {}, {})),
        ((Field("meta", "m"),), "x", ("", {}, {"m": "x"})),
        (
            (K, L, WORKER),
            {"worker": "W", "args": {"k": 1, "l": 2}},
            ("W", {"k": 1, "l": 2}, {}),
        ),
    ],
)
def test_a_key_names_a_lane(partition, key, expected):
    assert lane_of(partition, "key", key) == expected


@pytest.mark.parametrize(
    ("partition", "key"),
    [((WORKER,), 7), ((K, L), {"args": {"k": 1}}), ((K, L), 7), ((K, WORKER), {"args": {"k": 1}})],
)
def test_a_key_that_names_no_lane_is_refused(partition, key):
    with pytest.raises(ConfigError, match="key: .* does not name"):
        lane_of(partition, "key", key)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 20)
    | st.floats()
    | st.sampled_from(["worker", "args", "k", "", *ALGORITHMS, "a\0"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "args",
                    "meta",
                    "allowed",
                    "period",
                    "algorithm",
                    "partition",
                    "burst",
                    "weights",
                    "k",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["global_limit", "rate_limit", "partition", "fair"]), anything, min_size=1
    )
)
def test_whatever_is_given_is_understood_or_refused_by_name(options):
    options = {key: value for key, value in options.items() if value is not None}
    held = refused = None

    try:
        held = check_limits(PATH, options)
    except ConfigError as error:
        refused = error

    if refused is not None:
        assert refused.option.startswith(f"{PATH}.")
        assert refused.problem
    else:
        assert held.any or not options
        assert list(held.lane_by) == sorted(set(held.lane_by))
        assert bool(held.partition) == (
            held.partitioned or (held.rate is not None and held.rate.partitioned)
        )


@pytest.mark.parametrize(
    "value", [float("nan"), "\0", "\ud800", pytest.param(10**5000, id="endless")], ids=ascii
)
def test_what_no_row_can_hold_has_no_weight_and_is_no_key(value):
    with pytest.raises(ConfigError, match=r"fair\.weights"):
        check_limits("q", {"fair": {"args": "k", "weights": {value: 2}}})

    with pytest.raises(ConfigError, match=r"fair\.args"):
        check_limits("q", {"fair": {"args": value}})
