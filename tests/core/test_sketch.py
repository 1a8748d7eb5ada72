"""Sketches: as exact as they say, whatever is counted and however it is put together."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oban_sync.core.sketch import (
    LAST,
    Sketch,
    bin_of,
    merge,
    met_bin_of,
    of_met,
    packed,
    times_of,
    value_of,
)

#: From a nanosecond to a month.
times = st.integers(min_value=1, max_value=2_592_000 * 10**9)
many = st.lists(times, min_size=1, max_size=200)
shares = st.floats(min_value=0.0, max_value=1.0)


def sketch_of(values):
    sketch = Sketch()

    for value in values:
        sketch.add(value)

    return sketch


def exact(values, share):
    return sorted(values)[math.floor(share * (len(values) - 1))]


@given(many, shares)
def test_a_quantile_is_within_four_percent_of_the_exact_one(values, share):
    found = sketch_of(values).quantile(share)

    assert found == pytest.approx(exact(values, share), rel=0.04 + 1e-9)


@given(many)
def test_the_longest_is_within_four_percent_of_the_exact_one(values):
    assert sketch_of(values).max == pytest.approx(max(values), rel=0.04 + 1e-9)


@given(many, many)
def test_merged_sketches_are_as_one_of_all(ones, others):
    merged = sketch_of(ones)
    merge(merged.bins, sketch_of(others).bins)

    assert merged == sketch_of([*ones, *others])
    assert merged.size == len(ones) + len(others)


@given(many, many)
def test_packed_sketches_are_added_by_putting_one_behind_the_other(ones, others):
    both = packed(sketch_of(ones).bins) + packed(sketch_of(others).bins)

    assert Sketch.unpacked(both) == sketch_of([*ones, *others])


@given(many, many, st.lists(shares, max_size=4))
def test_times_of_packed_sketches_are_those_of_the_sketch(ones, others, wanted):
    both = packed(sketch_of(ones).bins) + packed(sketch_of(others).bins)
    sketch = sketch_of([*ones, *others])

    assert times_of(both, *wanted) == [*sketch.quantiles(*wanted), sketch.max]


@pytest.mark.parametrize(
    "bins",
    [{}, {3: 2**16}, {3: 2**40, 5: 7}, {3: 1, LAST: 2}],
    ids=["none", "many", "very many", "the last"],
)
def test_times_are_right_however_many_there_are(bins):
    sketch = Sketch(bins)

    assert times_of(packed(bins), 0.5, 0.99) == [*sketch.quantiles(0.5, 0.99), sketch.max]


@pytest.mark.parametrize(
    "data", ["0000f501", "0100ff7f", "0100f5010000f601", "0100bc02", "0100bd02"]
)
def test_times_of_what_somebody_else_wrote_are_no_reason_to_fail(data):
    junk = bytes.fromhex(data)
    sketch = Sketch.unpacked(junk)

    assert times_of(junk, 0.5) == [sketch.quantile(0.5), sketch.max]


@given(st.dictionaries(st.integers(0, LAST), st.integers(1, 2**40)))
def test_what_is_packed_is_unpacked_as_it_was(bins):
    assert Sketch.unpacked(packed(bins)).bins == bins


def test_a_packed_sketch_is_the_same_on_every_machine():
    assert packed({}) == b""
    assert packed({491: 2, 490: 0x12345}).hex() == "0100ea814523ea010200eb01"


def test_bins_that_do_not_exist_are_packed_as_the_nearest():
    assert Sketch.unpacked(packed({LAST + 7: 1, -3: 2, 5: 0})).bins == {LAST: 1, 0: 2}


@given(times)
def test_nodes_count_by_the_bins_of_oban_met(nanoseconds):
    assert met_bin_of(nanoseconds) == math.ceil(
        math.log(nanoseconds) / math.log(1.02 / 0.98)
    ) or nanoseconds == pytest.approx((1.02 / 0.98) ** met_bin_of(nanoseconds), rel=1e-9)


@given(many)
def test_of_two_bins_of_oban_met_one_is_made(values):
    of_two = {}

    for value in values:
        of_two[met_bin_of(value)] = of_two.get(met_bin_of(value), 0) + 1

    assert Sketch(of_met(of_two)) == sketch_of(values)
    assert all(bin_of(value) in of_met(of_two) for value in values)


def test_what_took_no_time_counts_as_a_nanosecond():
    sketch = sketch_of([0, -5, 0.5])

    assert sketch.bins == {0: 3}
    assert sketch.quantile(0.5) == pytest.approx(1, rel=0.041)


def test_of_nothing_there_is_no_quantile():
    assert Sketch().quantile(0.5) is None
    assert Sketch().max is None
    assert Sketch().size == 0


def test_bins_that_no_time_has_are_no_reason_to_fail():
    assert value_of(10**9) == value_of(LAST)
    assert value_of(-5) == value_of(0)


@pytest.mark.parametrize("data", [b"x", b"xyz", b"ab"])
def test_bytes_that_are_no_sketch_are_refused(data):
    for read in (Sketch.unpacked, times_of):
        with pytest.raises(ValueError, match=r"bytes|multiple"):
            read(data)
