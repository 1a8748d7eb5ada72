"""What people type to find jobs: how it is read, written, and refused."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oban_sync.core.filters import MOST_CHARACTERS, Filter, FilterError, parse, readings
from oban_sync.core.job import JobState


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", Filter()),
        ("  \n ", Filter()),
        ("queues:a,b", Filter(queues=("a", "b"))),
        ("queues:a queues:b,a", Filter(queues=("a", "b"))),
        ("workers:App::Mailer", Filter(workers=("App::Mailer",))),
        ('workers:"two words"', Filter(workers=("two words",))),
        (r'workers:"a \"b\" \\c"', Filter(workers=('a "b" \\c',))),
        ('workers:a"b', Filter(workers=('a"b',))),
        ("tags:Urgent", Filter(tags=("urgent",))),
        ("nodes:web-1", Filter(nodes=("web-1",))),
        ("priorities:0,1", Filter(priorities=(0, 1))),
        ("states:executing,Available", Filter(states=(JobState.EXECUTING, JobState.AVAILABLE))),
        ("ids:1,22", Filter(ids=(1, 22))),
        ("args.user.id:7", Filter(args=((("user", "id"), ("7",)),))),
        ('meta.path:"two words",x', Filter(meta=((("path",), ("two words", "x")),))),
        ('args."first name":Ann', Filter(args=((("first name",), ("Ann",)),))),
        ('args."a.b":""', Filter(args=((("a.b",), ("",)),))),
        ("args.a:1 args.a:2 args.b:3", Filter(args=((("a",), ("1", "2")), (("b",), ("3",))))),
        (
            "queues:a states:discarded args.x:1",
            Filter(states=(JobState.DISCARDED,), queues=("a",), args=((("x",), ("1",)),)),
        ),
    ],
)
def test_a_filter_is_read(text, wanted):
    assert parse(text) == wanted
    assert parse(wanted.text) == wanted
    assert bool(wanted) == bool(text.strip())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mailers", "'mailers' is no term; give a key and what it may be, as workers:mailers"),
        ("queue:a", "there is no 'queue'; terms are .* Did you mean 'queues'"),
        ("queues:", "names no value"),
        ("queues: a", "'queues:' names no value"),
        ("queues:a,", "comma"),
        ("queues:a,,b", "comma"),
        (':"x"', "cannot be read"),
        ('workers:"a', "quotes of '.*' are not closed"),
        ('workers:"a"b', "cannot be read"),
        ("states:done", "there is no state 'done'; states are"),
        ("states:complete", "Did you mean 'completed'"),
        ("priorities:10", "0 \\(first\\) to 9"),
        ("priorities:-1", "priorities"),
        ("ids:x", "'x' is no id"),
        ("ids:9223372036854775808", "is no id"),
        ("args:7", "names no key of the args"),
        ("queues.a:7", "only args and meta"),
        (f"queues:{'x' * 128}", "1 to 127 characters"),
        ("workers:a\0b", "no job can hold"),
        ("args.x:\ud800", "no job can hold"),
        (f"args.{'.'.join('x' * 21)}:1", "20 are allowed"),
        (f"ids:{','.join(map(str, range(1_001)))}", "more than 1,000"),
        (f"args.a:{','.join(map(str, range(51)))}", "more than 50 values of args and meta"),
        (" ".join(f"args.a{n}:1 meta.a{n}:1" for n in range(26)), "more than 50 values"),
        ("x" * (MOST_CHARACTERS + 1), "characters"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_sentence(text, said):
    with pytest.raises(FilterError, match=said) as told:
        parse(text)

    assert told.value.option == "filter"
    assert len(str(told.value)) < 500
    assert str(pickle.loads(pickle.dumps(told.value))) == str(told.value)


def test_only_text_is_a_filter():
    with pytest.raises(FilterError, match="is not text"):
        parse(7)


def test_terms_are_added_and_taken_away_for_links():
    wanted = parse("queues:a args.x:1,2")

    assert wanted.adding("queues", "b").text == "queues:a,b args.x:1,2"
    assert wanted.adding("queues", "a") == wanted
    assert wanted.adding("priorities", 3).text == "queues:a priorities:3 args.x:1,2"
    assert wanted.adding("args.y.z", "two words").text == 'queues:a args.x:1,2 args.y.z:"two words"'
    assert wanted.without("queues", "a").text == "args.x:1,2"
    assert wanted.without("queues").text == "args.x:1,2"
    assert wanted.without("args.x", 1).text == "queues:a args.x:2"
    assert wanted.without("args.x").text == "queues:a"
    assert wanted.without("args.y") == wanted
    assert wanted.without("states") == wanted

    for wrong in (lambda: wanted.adding("queue", "x"), lambda: wanted.without("nobody")):
        with pytest.raises(FilterError, match="there is no"):
            wrong()


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("x", ['"x"']),
        ("7", ['"7"', "7"]),
        ("-7.50", ['"-7.50"', "-7.50"]),
        ("1e9", ['"1e9"', "1e9"]),
        ("1e9999", ['"1e9999"']),
        ("007", ['"007"']),
        ("NaN", ['"NaN"']),
        ("true", ['"true"', "true"]),
        ("null", ['"null"', "null"]),
        ('"', ['"\\""']),
        ("", ['""']),
        ("{}", ['"{}"']),
    ],
)
def test_a_value_stands_for_text_and_for_what_it_reads_as(value, read):
    assert readings(value) == read


words = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=20
)
paths = st.lists(words, min_size=1, max_size=3).map(tuple)
inside = st.dictionaries(
    paths, st.lists(words, min_size=1, max_size=3, unique=True).map(tuple), max_size=2
).map(lambda found: tuple(found.items()))
several = st.lists(words, max_size=3, unique=True).map(tuple)


@given(
    wanted=st.builds(
        Filter,
        states=st.lists(st.sampled_from(JobState), max_size=3, unique=True).map(tuple),
        queues=several,
        workers=several,
        nodes=several,
        priorities=st.lists(st.integers(0, 9), max_size=3, unique=True).map(tuple),
        ids=st.lists(st.integers(0, 2**63 - 1), max_size=3, unique=True).map(tuple),
        args=inside,
        meta=inside,
    )
)
def test_whatever_a_filter_holds_its_text_reads_as_the_same(wanted):
    assert parse(wanted.text) == wanted


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text):
    try:
        wanted = parse(text)
    except FilterError:
        return

    assert parse(wanted.text) == wanted


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("queues:a states:discarded", "states:discarded queues:a"),
        ("args.token:TOP,x meta.a.b:2 tags:t", "tags:t args.token:[hidden] meta.a.b:[hidden]"),
        ("args.a:[hidden]", "args.a:[hidden]"),
        ("", ""),
    ],
)
def test_a_filter_can_be_told_without_what_it_looks_for_in_jobs(text, masked):
    assert parse(text).masked == masked
    assert parse(masked).masked == masked
