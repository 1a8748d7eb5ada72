"""Expressions, the times they name, and what a definition may say."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oban_sync import ConfigError, WorkerNotFoundError, job, worker
from oban_sync.core import cron
from oban_sync.core.cron import Entry, Expression, due, due_between, next_after
from oban_sync.core.crontab import (
    CHANGES,
    SchedulerConfig,
    check_changes,
    check_cron,
    check_crontab,
    check_scheduler,
)
from oban_sync.core.registry import crontab

BERLIN = "Europe/Berlin"
NEW_YORK = "America/New_York"


def parsed(text):
    return Expression.checked("cron", text)


def times(text, timezone, first, last, most=100_000):
    """Local times, with their offset in hours, between two local times."""
    zone = ZoneInfo(timezone)
    moments = due_between(
        parsed(text),
        timezone,
        datetime.fromisoformat(first).replace(tzinfo=zone),
        datetime.fromisoformat(last).replace(tzinfo=zone),
        most,
    )

    return [moment.astimezone(zone).isoformat(timespec="minutes")[5:] for moment in moments]


# Expressions


@pytest.mark.parametrize(
    "text",
    [
        "* * * * *",
        "0 9 * * MON-FRI",
        " 0   9 * *\tmon-fri ",
        "*/15 0-6,22 1,15 JAN-MAR 7",
        "0 0 L * *",
        "0 0 * * 5#2",
        "0 0 29 2 *",
        "@hourly",
        "@Daily",
        "@midnight",
        "@weekly",
        "@monthly",
        "@yearly",
        "@annually",
        "@reboot",
    ],
)
def test_an_expression_is_accepted(text):
    assert parsed(text).text == (" ".join(text.split()))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "0 fields"),
        ("* * * *", "4 fields"),
        ("*/15 * * * * *", "6 fields"),
        ("* * * * * * *", "7 fields"),
        ("61 * * * *", "out of range"),
        ("* 24 * * *", "out of range"),
        ("0-99999999999 * * * *", "out of bands"),
        ("*/0 * * * *", "step"),
        ("* * * FOO *", "acceptable"),
        ("0 0 31 2 *", "never occur"),
        ("0 0 30 2 *", "never occur"),
        ("0 0 29 2 1#1", "no such day"),
        ("R * * * *", "cron does not have"),
        ("r/5 * * * *", "cron does not have"),
        ("0 H * * *", "cron does not have"),
        ("1,h(0-5) * * * *", "cron does not have"),
        ("\N{ARABIC-INDIC DIGIT ONE} * * * *", "cron does not have"),
        ("@houly", "Did you mean '@hourly'?"),
        ("@reboots", "Did you mean '@reboot'?"),
        ("1," * 200 + "1 * * * *", "255 characters"),
        (None, "string"),
        (5, "string"),
    ],
)
def test_an_expression_is_refused_with_the_reason(value, words):
    with pytest.raises(ConfigError, match=r"^cron\.expr: ") as caught:
        Expression.checked("cron.expr", value)

    assert words in str(caught.value)


@given(st.text(alphabet="0123456789*/-,#?LWlwhHrR@ \tMONJAN\0é", max_size=40))
@example("*/99999999999999999999999 * * * *")
@example("99999999999999999999999-1 * * * *")
@example("1-2-3 * * * *")
def test_any_text_is_an_expression_or_refused(text):
    try:
        found = parsed(text)
    except ConfigError:
        return

    assert found.is_reboot or next_after(found, "Etc/UTC", datetime(2026, 1, 1, tzinfo=UTC))


# Times


def test_both_ends_of_the_span_are_right():
    start = datetime(2026, 1, 1, 12, tzinfo=UTC)
    found = due_between(parsed("* * * * *"), "Etc/UTC", start, start + timedelta(minutes=3), 10)

    assert found == [start + timedelta(minutes=n) for n in (1, 2, 3)]
    assert due_between(parsed("* * * * *"), "Etc/UTC", start, start, 10) == []
    assert due_between(parsed("* * * * *"), "Etc/UTC", start, start - timedelta(1), 10) == []


def test_the_newest_count_when_there_are_too_many():
    found = times("* * * * *", "Etc/UTC", "2026-01-01", "2026-01-03", most=3)

    assert found == ["01-02T23:58+00:00", "01-02T23:59+00:00", "01-03T00:00+00:00"]


def test_days_are_matched_as_cron_does_it():
    # Either of the days, unless one of them starts with a star.
    assert times("0 0 13 * FRI", "Etc/UTC", "2026-02-28", "2026-03-14") == [
        f"03-{day}T00:00+00:00" for day in ("06", "13")
    ]
    assert times("0 0 10 * FRI", "Etc/UTC", "2026-03-05", "2026-03-12") == [
        f"03-{day}T00:00+00:00" for day in ("06", "10")
    ]
    assert times("0 0 */2 * FRI", "Etc/UTC", "2026-02-28", "2026-03-21") == ["03-13T00:00+00:00"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # A time of the day that is skipped comes right after the gap, once.
        ("30 2 * * *", ["28T02:30+01:00", "29T03:00+02:00", "30T02:30+02:00"]),
        ("0,15,30 2 * * *", ["29T03:00+02:00"]),
        ("0 2,3 * * *", ["29T03:00+02:00"]),
        # An interval follows the clock.
        ("*/20 2 * * *", []),
        ("30 */2 * * *", ["29T00:30+01:00", "29T04:30+02:00"]),
        ("30 * * * *", ["29T01:30+01:00", "29T03:30+02:00", "29T04:30+02:00"]),
    ],
)
def test_clocks_that_are_set_forward_in_berlin(text, expected):
    whole = len(expected) == 3 and expected[0].startswith("28")
    span = (
        ("2026-03-28T02:00", "2026-03-30T03:00")
        if whole
        else (
            "2026-03-29T01:00"
            if text.startswith("30 *") and "/2" not in text
            else "2026-03-29T00:00",
            "2026-03-29T04:59",
        )
    )

    assert times(text, BERLIN, *span) == [f"03-{moment}" for moment in expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # A time of the day that is repeated runs the first time.
        ("30 2 * * *", ["25T02:30+02:00"]),
        ("0 2,3 * * *", ["25T02:00+02:00", "25T03:00+01:00"]),
        # An interval runs in both hours.
        (
            "*/30 2 * * *",
            [f"25T02:{at}" for at in ("00+02:00", "30+02:00", "00+01:00", "30+01:00")],
        ),
        (
            "30 * * * *",
            [f"25T{at}" for at in ("01:30+02:00", "02:30+02:00", "02:30+01:00", "03:30+01:00")],
        ),
    ],
)
def test_clocks_that_are_set_back_in_berlin(text, expected):
    found = times(text, BERLIN, "2026-10-25T00:59", "2026-10-25T03:59")

    assert found == [f"10-{moment}" for moment in expected]


@pytest.mark.parametrize(
    ("text", "spring", "autumn"),
    [
        ("30 1 * * *", ["08T01:30-05:00"], ["01T01:30-04:00"]),
        ("30 2 * * *", ["08T03:00-04:00"], ["01T02:30-05:00"]),
        (
            "*/30 1 * * *",
            ["08T01:00-05:00", "08T01:30-05:00"],
            [
                "01T01:00-04:00",
                "01T01:30-04:00",
                "01T01:00-05:00",
                "01T01:30-05:00",
            ],
        ),
        ("*/30 2 * * *", [], ["01T02:00-05:00", "01T02:30-05:00"]),
    ],
)
def test_clocks_that_are_changed_in_new_york(text, spring, autumn):
    assert times(text, NEW_YORK, "2026-03-08T00:00", "2026-03-08T12:00") == [
        f"03-{moment}" for moment in spring
    ]
    assert times(text, NEW_YORK, "2026-11-01T00:00", "2026-11-01T12:00") == [
        f"11-{moment}" for moment in autumn
    ]


def test_a_day_that_was_left_out_is_made_up_for_once():
    # Samoa had no 30 December 2011.
    assert times("0 9 * * *", "Pacific/Apia", "2011-12-29T12:00", "2011-12-31T12:00") == [
        "12-31T00:00+14:00",
        "12-31T09:00+14:00",
    ]
    assert times("0 */12 30 * *", "Pacific/Apia", "2011-12-29", "2012-01-01") == []


FIELD = st.one_of(st.just(None), st.sets(st.integers(0, 59), min_size=1, max_size=4))
HOURS = st.one_of(st.just(None), st.sets(st.integers(0, 5), min_size=1, max_size=3))
CHANGES_OF_CLOCKS = [
    (BERLIN, datetime(2026, 3, 28, 20, tzinfo=UTC)),
    (BERLIN, datetime(2026, 10, 24, 20, tzinfo=UTC)),
    (NEW_YORK, datetime(2026, 3, 8, 2, tzinfo=UTC)),
    (NEW_YORK, datetime(2026, 11, 1, 1, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 4, 10, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 10, 3, 10, tzinfo=UTC)),
    ("Etc/UTC", datetime(2026, 6, 1, tzinfo=UTC)),
]


def by_hand(minutes, hours, timezone, after, upto):
    """Every minute looked at, with a clock on the wall and a memory of what it has shown."""
    zone = ZoneInfo(timezone)
    interval = minutes is None or hours is None
    found, seen = [], set()
    moment = after - timedelta(hours=3)
    last = None

    def fits(wall):
        return (minutes is None or wall.minute in minutes) and (hours is None or wall.hour in hours)

    while moment <= upto:
        wall = moment.astimezone(zone).replace(tzinfo=None, fold=0)
        skipped = []

        if last is not None:
            gap = (wall - last) // timedelta(minutes=1)
            skipped = [last + timedelta(minutes=n) for n in range(1, gap)]

        is_due = fits(wall) and (interval or wall not in seen)

        if is_due or (not interval and any(fits(item) for item in skipped)):
            found.append(moment)

        seen.add(wall)
        last = wall
        moment += timedelta(minutes=1)

    return [moment for moment in found if after < moment <= upto]


@given(
    FIELD,
    HOURS,
    st.sampled_from(CHANGES_OF_CLOCKS),
    st.integers(0, 600),
    st.integers(1, 600),
)
@settings(max_examples=150, deadline=None)
def test_times_are_what_looking_at_every_minute_finds(minutes, hours, change, offset, length):
    def said(values):
        return "*" if values is None else ",".join(map(str, sorted(values)))

    timezone, start = change
    expression = parsed(f"{said(minutes)} {said(hours)} * * *")
    after = start + timedelta(minutes=offset)
    upto = after + timedelta(minutes=length)
    expected = by_hand(minutes, hours, timezone, after, upto)

    assert due_between(expression, timezone, after, upto, 10_000) == expected

    if expected:
        assert next_after(expression, timezone, after) == expected[0]


@given(
    st.sampled_from(["* * * * *", "*/7 * * * *", "30 2 * * *", "0 3 * * MON", "0 0 1 * *"]),
    st.sampled_from([BERLIN, "Australia/Lord_Howe"]),
    st.integers(0, 8_000),
    st.integers(1, 3_000),
    st.integers(1, 50),
)
@settings(max_examples=50, deadline=None)
def test_only_the_newest_are_cut_out_of_the_whole(text, timezone, offset, length, most):
    after = datetime(2026, 3, 25, tzinfo=UTC) + timedelta(minutes=offset)
    upto = after + timedelta(minutes=length)
    whole = due_between(parsed(text), timezone, after, upto, 100_000)

    assert due_between(parsed(text), timezone, after, upto, most) == whole[-most:]


def test_the_next_time_may_be_years_away():
    after = datetime(2026, 3, 1, tzinfo=UTC)

    assert next_after(parsed("0 0 29 2 *"), "Etc/UTC", after) == datetime(2028, 2, 29, tzinfo=UTC)
    assert next_after(parsed("@reboot"), "Etc/UTC", after) is None
    # Skipped every spring it is asked about, so next year's.
    found = next_after(parsed("*/5 2 29 3 *"), BERLIN, datetime(2026, 3, 1, tzinfo=UTC))
    assert found == datetime(2027, 3, 29, 0, tzinfo=UTC)


def test_years_of_every_minute_are_not_walked_through():
    upto = datetime(2026, 1, 1, tzinfo=UTC)
    began = time.process_time()

    for text in ("* * * * *", "* * * 1 *", "0 0 29 2 *", "0 0 1 1 *"):
        due_between(parsed(text), BERLIN, upto - timedelta(days=366), upto, 1_000)

    # A minute for each would be half a million steps of 30 us.
    assert time.process_time() - began < 5.0


# What is due


NOW = datetime(2026, 5, 5, 12, 0, 0, 20_000, tzinfo=UTC)


def entry(text="* * * * *", **given):
    return Entry("e", parsed(text), "Etc/UTC", "W", {}, **given)


def found(text, catch_up, ago, window=86_400.0):
    return due(
        entry(text, catch_up=catch_up), after=NOW - timedelta(seconds=ago), now=NOW, window=window
    )


@pytest.mark.parametrize("catch_up", ["none", "last", "all"])
def test_what_a_failover_makes_late_runs_in_any_case(catch_up):
    late = NOW + timedelta(seconds=12)
    plan = due(
        entry("0 12 * * *", catch_up=catch_up), after=NOW - timedelta(1), now=late, window=60
    )

    assert (plan.times, plan.passed_at) == ([NOW.replace(microsecond=0)], None)


@pytest.mark.parametrize(
    ("catch_up", "count", "passed"),
    [("none", 1, 9), ("last", 1, 9), ("all", 10, 0)],
)
def test_missed_times_are_made_up_for_as_asked(catch_up, count, passed):
    plan = found("* * * * *", catch_up, ago=600)

    assert len(plan.times) == count
    assert plan.times[-1] == NOW.replace(microsecond=0)
    assert (plan.passed, plan.more) == (passed, False)
    assert (plan.passed_at is None) == (passed == 0)


@pytest.mark.parametrize(("catch_up", "count"), [("none", 0), ("last", 1), ("all", 1)])
def test_a_daily_time_missed_by_an_hour(catch_up, count):
    plan = found("0 11 * * *", catch_up, ago=20 * 3600)

    assert len(plan.times) == count
    assert plan.passed == 1 - count


def test_what_lies_before_the_window_is_forgotten():
    assert found("0 11 * * *", "all", ago=20 * 3600, window=1800.0) == cron.Due()
    assert len(found("*/30 * * * *", "all", ago=10**7, window=86_400.0).times) == 48


def test_no_more_than_a_thousand_are_made_up_for():
    plan = found("* * * * *", "all", ago=86_400)

    assert len(plan.times) == cron.MOST_TIMES
    assert plan.passed_at == plan.times[0] - timedelta(minutes=1)
    assert plan.more


def test_a_start_of_the_cluster_is_no_time():
    assert found("@reboot", "all", ago=86_400) == cron.Due()


# Entries


def test_a_job_is_marked_as_other_obans_mark_theirs():
    template = {"queue": "q", "args": {"a": 1}, "meta": {"m": 2}, "tags": ["t"], "priority": 3}
    made = Entry("e", parsed("@daily"), BERLIN, "W", template).job_at(NOW)

    assert (made.worker, made.queue, made.args, made.tags) == ("W", "q", {"a": 1}, ["t"])
    assert (made.priority, made.max_attempts) == (3, 20)
    assert made.meta == {
        "m": 2,
        "cron": True,
        "cron_expr": "@daily",
        "cron_name": "e",
        "cron_tz": BERLIN,
        "cron_at": "2026-05-05T12:00:00.020000+00:00",
    }


@pytest.mark.parametrize(
    "template",
    [
        {"args": [1]},
        {"meta": "x"},
        {"queue": 5},
        {"priority": 99},
        {"nonsense": 1},
        {"tags": 5},
        {"worker": "Other"},
        {"scheduled_at": "2026-01-01"},
    ],
    ids=str,
)
def test_a_template_that_is_none_makes_no_job(template):
    with pytest.raises(ConfigError):
        Entry("e", parsed("@daily"), BERLIN, "W", template).job_at(NOW)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Europe/Berln", "Did you mean 'Europe/Berlin'?"),
        ("", "time zone"),
        ("Europe", "time zone"),
        ("../../etc/passwd", "time zone"),
        ("/etc/localtime", "time zone"),
        ("localtime", "time zone"),
        ("a\0b", "time zone"),
        ("x" * 10_000, "time zone"),
        ("\N{SNOWMAN}", "time zone"),
        (5, "time zone"),
    ],
)
def test_a_time_zone_nobody_knows_is_refused(name, words):
    with pytest.raises(ConfigError, match="^tz: ") as caught:
        cron.check_timezone("tz", name)

    assert words in str(caught.value)
    assert len(str(caught.value)) < 300


# Definitions


def test_a_decorator_takes_an_expression_a_mapping_or_several():
    [plain] = check_cron("cron", "@daily")
    [full] = check_cron(
        "cron",
        {
            "expr": "0 9 * * *",
            "timezone": BERLIN,
            "catch_up": "all",
            "overlap": "skip",
            "name": "n",
            "args": {"a": 1},
            "queue": "q",
            "priority": 1,
            "max_attempts": 2,
            "tags": ["T"],
            "meta": {"m": 1},
        },
    )

    assert (plain.expression.text, plain.timezone, plain.name) == ("@daily", None, None)
    assert (plain.catch_up, plain.overlap, plain.job) == ("last", "allow", {})
    assert (full.timezone, full.catch_up, full.overlap, full.name) == (BERLIN, "all", "skip", "n")
    assert full.job == {
        "args": {"a": 1},
        "queue": "q",
        "priority": 1,
        "max_attempts": 2,
        "tags": ["t"],
        "meta": {"m": 1},
    }
    assert len(check_cron("cron", ["@daily", {"expr": "@hourly"}])) == 2


@pytest.mark.parametrize(
    ("value", "option", "words"),
    [
        (5, "cron", "expr"),
        ({}, "cron.expr", "missing"),
        ({"expr": "x"}, "cron", "1 fields"),
        ({"expr": "@daily", "timzone": "UTC"}, "cron.timzone", "Did you mean 'timezone'?"),
        ({"expr": "@daily", "timezone": "Mars"}, "cron.timezone", "Mars"),
        ({"expr": "@daily", "catch_up": "lats"}, "cron.catch_up", "Did you mean 'last'?"),
        ({"expr": "@daily", "overlap": True}, "cron.overlap", "allow, skip"),
        ({"expr": "@daily", "args": [1]}, "cron.args", "object"),
        ({"expr": "@daily", "args": {"a": float("nan")}}, "cron.args.a", "finite"),
        ({"expr": "@daily", "priority": 10}, "cron.priority", "0 (first) to 9"),
        ({"expr": "@daily", "name": ""}, "cron.name", "blank"),
        ({"expr": "@daily", 5: 1}, "cron.5", "unknown"),
        (["@daily", "@dayly"], "cron[1]", "Did you mean '@daily'?"),
    ],
    ids=str,
)
def test_a_wrong_definition_is_refused_with_its_place(value, option, words):
    with pytest.raises(ConfigError) as caught:
        worker(cron=value)

    assert caught.value.option == option
    assert words in str(caught.value)
    assert type(caught.value) is ConfigError


@worker(name="tests.cron.Listed", queue="lists", priority=4, meta={"m": 1}, oban="nobody's")
class Listed:
    def process(self, job):
        return None


@job(name="tests.cron.listed", oban="nobody's")
def listed(a):
    return a


def test_a_crontab_names_classes_functions_and_registered_names():
    lines = check_crontab(
        "cron",
        [
            ("@daily", Listed),
            ["@hourly", listed, {"args": {"a": 1}, "timezone": BERLIN}],
            ("@weekly", "tests.cron.Listed", {"name": "weekly", "queue": "other"}),
        ],
    )
    daily, hourly, weekly = crontab("an oban", lines, timezone=NEW_YORK)

    assert (daily.name, daily.timezone, daily.worker) == ("tests.cron.Listed", NEW_YORK) + (
        "tests.cron.Listed",
    )
    assert daily.template == {
        "args": {},
        "max_attempts": 20,
        "meta": {"m": 1},
        "priority": 4,
        "queue": "lists",
        "tags": [],
    }
    assert (hourly.name, hourly.timezone) == ("tests.cron.listed", BERLIN)
    assert hourly.template["args"] == {"a": 1}
    assert (weekly.name, weekly.template["queue"]) == ("weekly", "other")
    assert weekly.template["priority"] == 4


class Plain:
    pass


class Inherits(Listed):
    pass


@pytest.mark.parametrize(
    ("value", "option", "words"),
    [
        ("@daily", "cron", "not a list"),
        ({"@daily": Listed}, "cron", "not a list"),
        (5, "cron", "not a list"),
        (["@daily"], "cron[0]", "a worker"),
        ([("@daily",)], "cron[0]", "a worker"),
        ([("@daily", Listed, {}, 1)], "cron[0]", "a worker"),
        ([("@daily", Plain)], "cron[0]", "not a worker"),
        ([("@daily", Inherits)], "cron[0]", "not a worker"),
        ([("@daily", len)], "cron[0]", "not a worker"),
        ([("@daily", None)], "cron[0]", "not a worker"),
        ([("@daily", " ")], "cron[0]", "blank"),
        ([("@daily", Listed, 5)], "cron[0]", "mapping"),
        ([("@daily", listed.options(queue="q"))], "cron[0]", "third of the line"),
        ([("@daily", Listed), ("@x", Listed)], "cron[1]", "no cron expression"),
        ([("@daily", Listed, {"retries": 1})], "cron[0].retries", "unknown"),
    ],
    ids=str,
)
def test_a_wrong_crontab_is_refused_with_its_place(value, option, words):
    with pytest.raises(ConfigError) as caught:
        check_crontab("cron", value)

    assert caught.value.option == option
    assert words in str(caught.value)


def test_a_name_that_is_not_registered_is_found_at_the_start():
    lines = check_crontab("cron", [("@daily", "tests.cron.Lsted")])

    with pytest.raises(WorkerNotFoundError, match=r"Did you mean 'tests\.cron\.Listed'"):
        crontab("an oban", lines)


def test_an_oban_has_the_entries_of_its_own_workers():
    @worker(oban="first of two", name="tests.cron.One", cron="@daily", queue="q")
    class One:
        def process(self, job):
            return None

    @job(
        oban="first of two",
        name="tests.cron.two",
        cron=[{"expr": "@hourly", "args": {"a": 1}}, {"expr": "@hourly", "args": {"a": 2}}],
    )
    def two(a, b=5):
        return None

    one, first, second = crontab("first of two")

    assert (one.name, one.template["queue"]) == ("tests.cron.One", "q")
    # Named by what it says, the same on every node.
    assert (first.name, second.name) == ("tests.cron.two", "tests.cron.two-8853e164")
    assert second.template["args"] == {"a": 2}
    assert crontab("second of two") == []


def test_a_function_that_its_entry_cannot_call_is_refused():
    with pytest.raises(ConfigError, match="'day' is missing"):

        @job(name="tests.cron.report", cron="@daily")
        def report(day):
            return None

    with pytest.raises(ConfigError, match=r"cron\.args: unknown.*Did you mean 'day'"):

        @job(name="tests.cron.report", cron={"expr": "@daily", "args": {"days": 1}})
        def rapport(day=None):
            return None


def test_the_same_line_twice_and_a_name_twice_are_refused():
    twice = check_crontab("cron", [("@daily", Listed), ("@daily", Listed)])
    named = check_crontab(
        "cron", [("@daily", Listed, {"name": "n"}), ("@hourly", Listed, {"name": "n"})]
    )

    with pytest.raises(ConfigError, match="stands twice"):
        crontab("an oban", twice)

    with pytest.raises(ConfigError, match="two entries are named 'n'"):
        crontab("an oban", named)


def test_a_worker_whose_jobs_have_one_time_cannot_be_periodic():
    @worker(name="tests.cron.Once", scheduled_at=NOW)
    class Once:
        def process(self, job):
            return None

    @worker(name="tests.cron.Later", schedule_in=5)
    class Later:
        def process(self, job):
            return None

    with pytest.raises(ConfigError, match="scheduled_at"):
        crontab("an oban", check_crontab("cron", [("@daily", Once)]))

    [later] = crontab("an oban", check_crontab("cron", [("@daily", Later)]))
    assert later.template["schedule_in"] == 5.0
    assert later.job_at(NOW).state == "scheduled"


def test_what_the_worker_says_of_its_jobs_holds_for_those_of_its_entry():
    @worker(
        name="tests.cron.Said",
        deadline={"in": timedelta(hours=1), "force": True},
        weight=3,
        unique={"period": 60, "fields": ["worker"]},
        timeout=5,
        meta={"m": 1},
    )
    class Said:
        def process(self, job):
            return None

    [line] = crontab("an oban", check_crontab("cron", [("@daily", Said)]))
    stored = json.loads(json.dumps(line.template))
    made = Entry(line.name, line.expression, BERLIN, line.worker, stored).job_at(NOW)
    own = Said.new()

    # Not in each job, so that those that wait follow the code.
    assert "timeout" not in stored
    assert stored["meta"] == {"m": 1}
    assert stored["deadline"] == {"in": 3600.0, "force": True}
    assert (made.kept("weight"), made.kept("forced"), made.kept("timeout")) == (3, True, None)
    assert (made._deadline, made._unique) == (own._deadline, own._unique)


def test_an_entry_may_say_other_things_of_its_jobs_than_the_worker():
    @worker(name="tests.cron.Unsaid", weight=3, deadline=5, unique={"period": 60})
    class Unsaid:
        def process(self, job):
            return None

    said = {
        "timeout": timedelta(minutes=1),
        "deadline": 60,
        "weight": 7,
        "unique": {"period": "forever", "fields": ["worker"]},
    }
    [line] = crontab("an oban", check_crontab("cron", [("@daily", Unsaid, said)]))
    stored = json.loads(json.dumps(line.template))
    made = Entry(line.name, line.expression, BERLIN, line.worker, stored).job_at(NOW)

    assert (stored["timeout"], stored["weight"]) == (60.0, 7)
    assert stored["deadline"] == {"in": 60.0, "force": False}
    assert (made.kept("timeout"), made.kept("weight")) == (60.0, 7)
    assert made._unique == Unsaid.new(unique=said["unique"])._unique


def test_what_people_change_of_an_entry_wins():
    changes = check_changes("cron", {"timeout": 9, "weight": 2, "deadline": 3}, CHANGES)
    columns = {
        "expression": "@daily",
        "timezone": BERLIN,
        "worker": "W",
        "catch_up": "last",
        "overlap": "allow",
    }
    edited = json.loads(json.dumps(changes))
    made = Entry.read("e", columns, {"timeout": 5.0, "weight": 1}, edited).job_at(NOW)

    assert (made.kept("timeout"), made.kept("weight")) == (9.0, 2)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("timeout", 0, "more than 0"),
        ("timeout", "5", "not a delay"),
        ("weight", 0, "1 to"),
        ("deadline", {"inn": 5}, "Did you mean 'in'?"),
        ("deadline", -1, "not a delay"),
        ("unique", {"periood": 5}, "Did you mean 'period'?"),
    ],
)
def test_a_wrong_option_of_an_entrys_jobs_is_refused_with_its_place(option, value, words):
    for check in (
        lambda: check_cron("cron", {"expr": "@daily", option: value}),
        lambda: check_changes("cron", {option: value}, CHANGES),
    ):
        with pytest.raises(ConfigError) as caught:
            check()

        assert caught.value.option.startswith(f"cron.{option}")
        assert words in str(caught.value)


def test_changes_are_checked_and_hold_only_json():
    assert check_changes(
        "cron", {"expression": " @daily", "args": {"a": (1,)}, "tags": None}, CHANGES
    ) == {
        "expression": "@daily",
        "args": {"a": [1]},
    }

    with pytest.raises(ConfigError, match=r"cron\.worker: unknown"):
        check_changes("cron", {"worker": "Evil"}, CHANGES)


def test_options_of_the_scheduler():
    assert check_scheduler("scheduler", {}) == SchedulerConfig("Etc/UTC", 86_400.0, 2_592_000.0)
    assert check_scheduler("scheduler", {"timezone": BERLIN}).timezone == BERLIN

    for value in ({"timezone": "X"}, {"catch_up_window": 59}, {"keep_slots": 1}, {"zone": 1}):
        with pytest.raises(ConfigError, match=r"^scheduler\."):
            check_scheduler("scheduler", value)

    with pytest.raises(ConfigError, match="at the most"):
        check_scheduler("scheduler", {"catch_up_window": 10**9})


def test_a_worker_whose_keys_make_it_unique_may_have_a_cron_entry():
    @worker(
        name="tests.cron.Keyed",
        cron={"expr": "@daily", "args": {"id": 1}},
        unique={"keys": ["id"]},
        oban="a keyed oban",
    )
    class Keyed:
        def process(self, job):
            return None

    [line] = crontab("a keyed oban")

    assert line.job_at(NOW).is_unique
    assert Keyed.new({"id": 1}).is_unique
