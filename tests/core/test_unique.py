"""The options of unique jobs, and the keys they make."""

from __future__ import annotations

import json
import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oban_sync import InvalidJobError, Worker, worker
from oban_sync.core.job import Job
from oban_sync.core.state import BITS, INCOMPLETE, JobState
from oban_sync.core.unique import FIELDS, GROUPS, PREFIX, REPLACEABLE, check_unique

SCALARS = st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"))
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    SCALARS | NUMBERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), JSON, max_size=4)


def key(args, *, options=True, worker="W", queue="q", meta=None):
    unique = check_unique("unique", options)

    return unique.key(
        worker=worker,
        queue=queue,
        args=args if isinstance(args, str) else json.dumps(args),
        meta=json.dumps(meta or {}),
    )


def test_what_is_not_said_is_as_in_oban():
    unique = check_unique("unique", {})

    assert unique.period == 60.0
    assert unique.fields == ("args", "queue", "worker")
    assert unique.keys == ()
    assert set(unique.states) == set(JobState) - {"cancelled", "discarded"}
    assert unique.replace == {}


def test_true_is_for_ever_and_false_and_none_are_not_unique():
    assert check_unique("unique", True) == check_unique("unique", {"period": "forever"})
    assert check_unique("unique", True).period is None
    assert check_unique("unique", False) is None


@pytest.mark.parametrize("period", [90, 90.0, timedelta(seconds=90)])
def test_a_period_is_seconds_or_a_timedelta(period):
    assert check_unique("unique", {"period": period}).period == 90.0


@pytest.mark.parametrize(
    ("options", "path", "problem"),
    [
        (5, "unique", "True, or a dict"),
        ("forever", "unique", "True, or a dict"),
        ({"perod": 5}, "unique.perod", "Did you mean 'period'"),
        ({"timestamp": "scheduled_at"}, "unique.timestamp", "unknown"),
        ({"period": 0}, "unique.period", "no two jobs"),
        ({"period": timedelta(0)}, "unique.period", "no two jobs"),
        ({"period": -1}, "unique.period", "-1"),
        ({"period": math.inf}, "unique.period", "'forever'"),
        ({"period": math.nan}, "unique.period", "nan"),
        ({"period": True}, "unique.period", "True"),
        ({"period": None}, "unique.period", "None"),
        ({"period": "for ever"}, "unique.period", "Did you mean 'forever'"),
        ({"period": 10**400}, "unique.period", "delay"),
        ({"fields": []}, "unique.fields", "is empty"),
        ({"fields": "args"}, "unique.fields", "not a list"),
        ({"fields": ["arg"]}, "unique.fields[0]", "Did you mean 'args'"),
        ({"fields": ["args", 5]}, "unique.fields[1]", "5"),
        ({"keys": "id"}, "unique.keys", "not a list"),
        ({"keys": ["id", 5]}, "unique.keys[1]", "5"),
        ({"keys": ["a\0b"]}, "unique.keys[0]", "NUL"),
        ({"keys": ["id"], "fields": ["worker"]}, "unique.keys", "neither is among the fields"),
        ({"states": []}, "unique.states", "is empty"),
        ({"states": "incomplet"}, "unique.states", "Did you mean 'incomplete'"),
        ({"states": "executing"}, "unique.states", "in a list"),
        ({"states": ["running"]}, "unique.states[0]", "unknown"),
        ({"states": {"available": 1}}, "unique.states", "not a list"),
        ({"replace": 5}, "unique.replace", "not a list"),
        ({"replace": ["arg"]}, "unique.replace[0]", "Did you mean 'args'"),
        ({"replace": ["state"]}, "unique.replace[0]", "unknown"),
        ({"replace": {"running": ["args"]}}, "unique.replace.running", "unknown"),
        ({"replace": {"available": []}}, "unique.replace.available", "is empty"),
        ({"replace": {"available": ["schedule_at"]}}, "unique.replace.available[0]", "Did you"),
        ({"replace": {"cancelled": ["args"]}}, "unique.replace.cancelled", "ever found"),
    ],
    ids=repr,
)
def test_an_option_that_makes_no_sense_is_named_by_its_path(options, path, problem):
    with pytest.raises(InvalidJobError) as told:
        check_unique("unique", options)

    assert told.value.option == path
    assert problem in told.value.problem


def test_the_decorator_checks_at_definition():
    with pytest.raises(InvalidJobError, match=r"^unique\.period: "):

        @worker(unique={"period": 0})
        class Wrong(Worker):
            def process(self, job):
                return None


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "period": st.just("forever") | st.floats(0.001, 1e9),
        "fields": st.lists(st.sampled_from(FIELDS), min_size=1),
        "states": st.sampled_from([*GROUPS]) | st.lists(st.sampled_from([*JobState]), min_size=1),
        "replace": st.lists(st.sampled_from(REPLACEABLE)),
    },
)


@given(OPTIONS)
def test_options_survive_a_column_of_json(options):
    unique = check_unique("unique", options)
    again = check_unique("unique", json.loads(json.dumps(unique.as_options())))

    assert again == unique
    # One instance for all jobs with these options, since it remembers its form in JSON.
    assert again is check_unique("unique", options)


@given(OPTIONS)
def test_a_job_keeps_its_key_wherever_it_waits_or_runs(options):
    unique = check_unique("unique", options)

    assert set(json.loads(unique.held)) == {BITS[state] for state in {*INCOMPLETE, *unique.states}}


# Keys.


def test_a_key_has_the_length_that_the_index_takes():
    assert len(key({"a": 1})) == 53
    assert key({"a": 1}).startswith(PREFIX)


SAME = [
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({"a": 1}, {"a": 1.0}),
    ({"a": [1, {"b": 0, "c": 2}]}, {"a": [1.0, {"c": 2.0, "b": -0.0}]}),
    ({"a": 1e23}, {"a": 10**23}),
    ({"a": 1e300}, {"a": 10**300}),
    ({"a": "é"}, '{"a": "\\u00e9"}'),
    ({"a": 0.1}, '{"a": 0.10}'),
    ({"a": 100.0}, '{"a": 1e2}'),
]

OTHER = [
    ({"a": 1}, {"a": "1"}),
    ({"a": 1}, {"a": True}),
    ({"a": 0}, {"a": False}),
    ({"a": None}, {}),
    ({"a": None}, {"a": "null"}),
    ({"a": [1, 2]}, {"a": [2, 1]}),
    ({"a": 1}, {"a": [1]}),
    ({"a": {}}, {"a": []}),
    ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
    ({"a": "b,c"}, {"a": ["b", "c"]}),
    ({"a": "é"}, {"a": "e\N{COMBINING ACUTE ACCENT}"}),
    ({"a": 2**53}, {"a": 2**53 + 1}),
    ({"a": 0.1}, {"a": 0.2}),
]


@pytest.mark.parametrize(("one", "other"), SAME, ids=repr)
def test_args_that_postgresql_holds_for_equal_make_one_key(one, other, conn):
    texts = [item if isinstance(item, str) else json.dumps(item) for item in (one, other)]

    assert conn.execute("SELECT %s::jsonb = %s::jsonb", texts).fetchone() == (True,)
    assert key(one) == key(other)


@pytest.mark.parametrize(("one", "other"), OTHER, ids=repr)
def test_args_that_differ_make_another(one, other, conn):
    texts = [json.dumps(one), json.dumps(other)]

    assert conn.execute("SELECT %s::jsonb = %s::jsonb", texts).fetchone() == (False,)
    assert key(one) != key(other)


@given(OBJECTS, OBJECTS)
def test_keys_are_the_same_exactly_for_the_same_args(one, other):
    again = json.loads(json.dumps(one), object_pairs_hook=lambda pairs: dict(reversed(pairs)))

    assert key(one) == key(again)
    assert (key(one) == key(other)) == (spelled(one) == spelled(other))


def spelled(value):
    """As jsonb holds it, with the kind of everything."""
    match value:
        case bool() | None:
            return ("constant", value)
        case int() | float():
            return ("number", value)
        case str():
            return ("text", value)
        case list():
            return ("list", [spelled(item) for item in value])
        case _:
            return ("object", {name: spelled(item) for name, item in value.items()})


def test_only_the_fields_that_are_named_count():
    base = {"args": {"a": 1}, "worker": "W", "queue": "q", "meta": {"m": 1}}
    changes = {"args": {"a": 2}, "worker": "V", "queue": "r", "meta": {"m": 2}}

    for field, change in changes.items():
        for named in FIELDS:
            one = key(base["args"], options={"fields": [named]}, **rest(base))
            changed = {**base, field: change}
            other = key(changed["args"], options={"fields": [named]}, **rest(changed))

            assert (one == other) == (named != field)


def rest(values):
    return {name: value for name, value in values.items() if name != "args"}


def test_different_rules_make_different_keys():
    options = [
        {},
        {"fields": ["args"]},
        {"fields": ["args", "worker"]},
        {"keys": ["a"]},
        {"keys": ["a", "b"]},
        {"fields": ["args", "queue", "worker", "meta"]},
    ]
    keys = {key({"a": 1, "b": 2}, options=given) for given in options}

    assert len(keys) == len(options)
    assert key({"a": 1}, options={"period": 5}) == key({"a": 1}, options={"states": "all"})


def test_names_of_fields_cannot_be_taken_for_one_another():
    assert key({}, worker="a", queue="b") != key({}, worker="b", queue="a")


def test_only_the_keys_that_are_named_count():
    options = {"keys": ["id", "kind"]}

    assert key({"id": 1, "kind": "x", "at": 1}, options=options) == key(
        {"at": 2, "kind": "x", "id": 1.0}, options=options
    )
    assert key({"id": 1, "kind": "x"}, options=options) != key(
        {"id": 1, "kind": None}, options=options
    )


def test_keys_are_looked_for_in_meta_too_where_that_counts():
    options = {"fields": ["args", "meta"], "keys": ["id", "tenant"]}

    assert key({"id": 1, "x": 1}, options=options, meta={"tenant": 7, "y": 1}) == key(
        {"id": 1, "x": 2}, options=options, meta={"tenant": 7, "y": 2}
    )

    with pytest.raises(InvalidJobError, match="^args or meta: the key 'tenant' is missing"):
        key({"id": 1}, options=options)


def test_what_the_library_keeps_in_meta_does_not_count():
    options = {"fields": ["meta"]}
    kept = {"uniq": True, "uniq_key": "x", "uniq_bmp": [], "oban_sync": {"timeout": 5}}

    assert key({}, options=options, meta={"a": 1}) == key(
        {}, options=options, meta={"a": 1, **kept}
    )


@worker(unique={"keys": ["account_id"]})
class Keyed(Worker):
    def process(self, job):
        return None


def test_args_without_a_key_that_counts_are_refused_when_the_job_is_made():
    with pytest.raises(InvalidJobError, match="^args: the key 'account_id' is missing"):
        Keyed.new({"acount_id": 1})

    with pytest.raises(InvalidJobError, match="account_id"):
        Keyed.new()

    assert Keyed.new({"account_id": None}).is_unique


def test_a_key_taken_away_after_new_is_missed_when_the_job_is_stored():
    job = Keyed.new({"account_id": 1})
    del job.args["account_id"]

    with pytest.raises(InvalidJobError, match="account_id"):
        job.to_row()


def test_unique_may_be_taken_away_from_one_job():
    assert Keyed.new({"account_id": 1}).is_unique
    assert not Keyed.new({}, unique=False).is_unique


def test_a_job_without_its_key_carries_none_of_another():
    meta = '{"a":1,"uniq":true,"uniq_bmp":[1],"uniq_key":"old"}'

    assert json.loads(f"{{{Job(worker='W', meta=meta).to_row().text}}}")["meta"] == {"a": 1}

    unique = Job(worker="W", meta=meta, unique=check_unique("unique", True))
    stored = json.loads(f"{{{unique.to_row().text}}}")["meta"]

    assert stored["a"] == 1
    assert stored["uniq_key"].startswith(PREFIX)
