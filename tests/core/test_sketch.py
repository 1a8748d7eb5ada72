"""Sketches: as exact as they say, whatever is counted and however it is put together."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oban_sync.core.sketch import LAST, Sketch, bin_of, packed, value_of

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
def test_a_quantile_is_within_two_percent_of_the_exact_one(values, share):
    found = sketch_of(values).quantile(share)

    assert found == pytest.approx(exact(values, share), rel=0.02 + 1e-9)


@given(many)
def test_the_longest_is_within_two_percent_of_the_exact_one(values):
    assert sketch_of(values).max == pytest.approx(max(values), rel=0.02 + 1e-9)


@given(many, many)
def test_merged_sketches_are_as_one_of_all(ones, others):
    merged = sketch_of(ones)
    merged.merge(sketch_of(others))

    assert merged == sketch_of([*ones, *others])
    assert merged.size == len(ones) + len(others)


@given(many, many)
def test_packed_sketches_are_added_by_putting_one_behind_the_other(ones, others):
    both = packed(sketch_of(ones).bins) + packed(sketch_of(others).bins)

    assert Sketch.unpacked(both) == sketch_of([*ones, *others])


@given(st.dictionaries(st.integers(0, LAST), st.integers(1, 2**40)))
def test_what_is_packed_is_unpacked_as_it_was(bins):
    assert Sketch.unpacked(packed(bins)).bins == bins


def test_a_packed_sketch_is_the_same_on_every_machine():
    assert packed({}) == b""
    assert packed({491: 2, 490: 0x12345}).hex() == "ea810100ea014523eb010200"


def test_bins_that_do_not_exist_are_packed_as_the_nearest():
    assert Sketch.unpacked(packed({LAST + 7: 1, -3: 2, 5: 0})).bins == {LAST: 1, 0: 2}


@given(times)
def test_bins_are_those_of_oban_met(nanoseconds):
    assert bin_of(nanoseconds) == math.ceil(
        math.log(nanoseconds) / math.log(1.02 / 0.98)
    ) or nanoseconds == pytest.approx((1.02 / 0.98) ** bin_of(nanoseconds), rel=1e-9)


def test_what_took_no_time_counts_as_a_nanosecond():
    sketch = sketch_of([0, -5, 0.5])

    assert sketch.bins == {0: 3}
    assert sketch.quantile(0.5) == pytest.approx(1, rel=0.021)


def test_of_nothing_there_is_no_quantile():
    assert Sketch().quantile(0.5) is None
    assert Sketch().max is None
    assert Sketch().size == 0


def test_bins_that_no_time_has_are_no_reason_to_fail():
    assert value_of(10**9) == value_of(LAST)
    assert value_of(-5) == value_of(0)


@pytest.mark.parametrize("data", [b"x", b"xyz", b"ab"])
def test_bytes_that_are_no_sketch_are_refused(data):
    with pytest.raises(ValueError, match=r"bytes|multiple"):
        Sketch.unpacked(data)
