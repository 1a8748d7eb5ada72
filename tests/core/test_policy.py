"""What becomes of a failure by the class of its exception, and how Retry-After is read."""

from __future__ import annotations

import email.message
import io
import json
import math
import urllib.error
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oban_sync import ConfigError, DatabaseUnavailableError, Snooze, job, worker
from oban_sync.core import clock
from oban_sync.core.job import Job
from oban_sync.core.policy import MOST_SNOOZES, Policy
from oban_sync.core.registry import resolve

NOW = datetime(2026, 5, 5, 12, 0, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _noon(monkeypatch):
    monkeypatch.setattr(clock, "utc_now", lambda: NOW)


class Busy(Exception):
    """As the exceptions of HTTP clients are: with the response."""

    def __init__(self, after=None):
        super().__init__("busy")
        headers = {} if after is None else {"Retry-After": after}
        self.response = SimpleNamespace(headers=headers)


def job_of(attempt=1, max_attempts=20, meta="{}"):
    fetched = (0, 0, 1, "W", "{}", meta, "[]", [], attempt, max_attempts, 0, 0, 0)

    return Job.fetched(fetched, "default", ["node", "uuid"])


def decided(policy, error, job=None):
    """State and delay of what a failure comes to, or None where the policy leaves that open."""
    found = policy.outcome(job or job_of(), error, f"Traceback\n{type(error).__name__}: text")

    return None if found is None else (found.state.value, found.schedule_in)


def test_each_kind_of_exception_has_its_own_end():
    policy = Policy.checked(
        retry_on={ConnectionError: 5, LookupError: timedelta(minutes=1)},
        discard_on=(ValueError, TypeError),
        snooze_on={Busy: 30.0},
    )

    assert decided(policy, ConnectionResetError()) == ("retryable", 5.0)
    assert decided(policy, KeyError()) == ("retryable", 60.0)
    assert decided(policy, ValueError()) == ("discarded", None)
    assert decided(policy, Busy()) == ("scheduled", 30.0)
    assert decided(policy, RuntimeError()) is None


def test_the_class_nearest_to_the_exceptions_own_decides():
    policy = Policy.checked(
        retry_on={OSError: 1, ConnectionResetError: 2},
        discard_on=[Exception, ConnectionError],
        snooze_on={BrokenPipeError: 3},
    )

    assert decided(policy, PermissionError()) == ("retryable", 1.0)
    assert decided(policy, ConnectionRefusedError()) == ("discarded", None)
    assert decided(policy, ConnectionResetError()) == ("retryable", 2.0)
    assert decided(policy, BrokenPipeError()) == ("scheduled", 3.0)
    assert decided(policy, ZeroDivisionError()) == ("discarded", None)
    assert decided(policy, KeyboardInterrupt()) is None


def test_of_two_parents_the_first_decides():
    class Both(KeyError, ConnectionError):
        pass

    policy = Policy.checked(retry_on={ConnectionError: 1}, discard_on=LookupError)

    assert decided(policy, Both()) == ("discarded", None)


@pytest.mark.parametrize("given", [ConnectionError, [ConnectionError], {ConnectionError: None}])
def test_what_retry_on_alone_does_not_name_is_given_up(given):
    policy = Policy.checked(retry_on=given)

    assert decided(policy, ConnectionResetError()) is None
    assert decided(policy, ValueError()) == ("discarded", None)


def test_beside_snooze_on_too():
    policy = Policy.checked(retry_on=ConnectionError, snooze_on={Busy: 1})

    assert decided(policy, Busy()) == ("scheduled", 1.0)
    assert decided(policy, ValueError()) == ("discarded", None)


def test_with_discard_on_what_neither_names_is_retried_as_usual():
    policy = Policy.checked(retry_on={ConnectionError: 1}, discard_on=ValueError)

    assert decided(policy, RuntimeError()) is None


def test_retry_on_can_name_the_rest():
    policy = Policy.checked(retry_on={ConnectionError: 1, Exception: None})

    assert decided(policy, RuntimeError()) is None


@pytest.mark.parametrize(
    "error",
    [DatabaseUnavailableError("gone"), KeyboardInterrupt(), SystemExit(1), GeneratorExit()],
    ids=lambda error: type(error).__name__,
)
def test_what_says_nothing_about_the_jobs_work_is_no_reason_to_give_it_up(error):
    assert decided(Policy.checked(retry_on=ConnectionError), error) is None


def test_snooze_on_or_discard_on_alone_leave_the_rest_as_it_is():
    assert decided(Policy.checked(snooze_on=Busy), ValueError()) is None
    assert decided(Policy.checked(discard_on=Busy), ValueError()) is None


def test_the_last_attempt_is_the_last_whatever_the_delay():
    policy = Policy.checked(retry_on={ValueError: 5}, snooze_on={Busy: 5})
    last = job_of(attempt=3, max_attempts=3)

    assert decided(policy, ValueError(), last) is None
    # Putting it off spends no attempt, so there is one left.
    assert decided(policy, Busy(), last) == ("scheduled", 5.0)


def test_a_job_that_is_given_up_keeps_the_error():
    found = Policy.checked(discard_on=ValueError).outcome(job_of(), ValueError(), "Traceback\nwhy")

    assert json.loads(found.to_json())["error"]["error"] == "Traceback\nwhy"


def test_a_function_gives_the_delay_by_job_and_error():
    policy = Policy.checked(
        retry_on={ConnectionError: lambda job, error: job.attempt * 10},
        snooze_on={Busy: lambda job, error: timedelta(seconds=7)},
        discard_on=TypeError,
    )

    assert decided(policy, ConnectionError(), job_of(attempt=3)) == ("retryable", 30.0)
    assert decided(policy, Busy()) == ("scheduled", 7.0)


def test_a_function_may_leave_the_delay_as_usual():
    policy = Policy.checked(
        retry_on={ConnectionError: lambda job, error: None},
        snooze_on={Busy: lambda job, error: None},
    )

    assert decided(policy, ConnectionError()) is None
    assert decided(policy, Busy("90")) == ("scheduled", 90.0)


@pytest.mark.parametrize("delay", [-1, math.nan, "soon", True, 1e20], ids=repr)
def test_a_function_that_gives_no_delay_is_an_error_of_its_own(delay):
    policy = Policy.checked(
        retry_on={ConnectionError: lambda job, error: delay},
        snooze_on={Busy: lambda job, error: delay},
    )

    for error in (ConnectionError(), Busy()):
        with pytest.raises(ValueError, match="is not a delay"):
            policy.outcome(job_of(), error, "text")


def test_putting_off_costs_no_attempt_and_says_why_without_growing_the_row():
    policy = Policy.checked(snooze_on=Busy)
    found = policy.outcome(
        job_of(meta='{"snoozed": 4, "snoozed_on_error": 2}'), Busy("20"), "Traceback\n  x\nBusy: b"
    )
    row = json.loads(found.to_json())

    assert (row["state"], row["spent"], row["schedule_in"]) == ("scheduled", False, 20.0)
    assert row["error"] is None
    assert row["meta"] == {"snoozed": 5, "snoozed_on_error": 3, "snoozed_because": "Busy: b"}


@pytest.mark.parametrize(
    "text", ["", "  \n ", "x" * 5_000, "nul \0 and half \ud800 pair"], ids=ascii
)
def test_whatever_the_error_says_can_be_written(text):
    row = Policy.checked(snooze_on=Busy).outcome(job_of(), Busy(), text).to_json()

    assert "\0" not in row
    assert "\\u0000" not in row
    row.encode()
    assert len(json.loads(row)["meta"]["snoozed_because"]) <= 300


def test_a_job_cannot_be_put_off_by_its_errors_for_ever():
    policy = Policy.checked(snooze_on={Busy: 1})

    assert decided(policy, Busy(), job_of(meta=f'{{"snoozed_on_error": {MOST_SNOOZES}}}')) is None
    assert decided(policy, Busy(), job_of(meta=f'{{"snoozed_on_error": {MOST_SNOOZES - 1}}}'))
    # What it put off itself does not count.
    assert decided(policy, Busy(), job_of(meta=f'{{"snoozed": {MOST_SNOOZES}}}'))


@pytest.mark.parametrize(
    "meta", ["[]", "x", '{"snoozed_on_error": "x"}', '{"snoozed_on_error": -1}'], ids=str
)
def test_a_counter_that_is_none_begins_anew(meta):
    found = Policy.checked(snooze_on={Busy: 1}).outcome(job_of(meta=meta), Busy(), "text")

    assert found.meta["snoozed_on_error"] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"retry_on": "ConnectionError"}, ["retry_on", "'ConnectionError'", "list", "mapping"]),
        ({"retry_on": 5}, ["retry_on", "5"]),
        ({"retry_on": int}, ["retry_on", "<class 'int'>", "exception class"]),
        ({"retry_on": ConnectionError()}, ["retry_on", "ConnectionError()"]),
        ({"retry_on": ()}, ["retry_on", "names no exception"]),
        ({"snooze_on": {}}, ["snooze_on", "names no exception"]),
        ({"discard_on": []}, ["discard_on", "names no exception"]),
        ({"discard_on": {ValueError: 5}}, ["discard_on", "list"]),
        ({"discard_on": [ValueError, "x"]}, ["discard_on[1]", "'x'", "exception class"]),
        ({"retry_on": {"x": 5}}, ["retry_on", "'x'", "exception class"]),
        ({"retry_on": {ValueError: -1}}, ["retry_on[ValueError]", "-1"]),
        ({"retry_on": {ValueError: "5"}}, ["retry_on[ValueError]", "'5'", "function"]),
        ({"retry_on": {ValueError: True}}, ["retry_on[ValueError]", "True"]),
        ({"snooze_on": {ValueError: math.nan}}, ["snooze_on[ValueError]", "nan"]),
        (
            {"snooze_on": {ValueError: lambda job: 5}},
            ["snooze_on[ValueError]", "job and the error"],
        ),
        (
            {"retry_on": ValueError, "discard_on": [KeyError, ValueError]},
            ["retry_on", "ValueError is in discard_on too"],
        ),
        ({"discard_on": ValueError, "snooze_on": ValueError}, ["discard_on", "snooze_on too"]),
        ({"retry_on": ValueError, "snooze_on": ValueError}, ["retry_on", "snooze_on too"]),
    ],
    ids=lambda value: str(value)[:50].split(" at 0x")[0],
)
def test_a_wrong_option_is_named_at_definition(options, words):
    for define in (
        lambda: worker(name="wrong", **options),
        lambda: job(name="wrong", **options),
    ):
        with pytest.raises(ConfigError) as caught:
            define()

        for word in words:
            assert word in str(caught.value)


def test_an_async_function_is_refused():
    async def later(job, error):
        return 5

    with pytest.raises(ConfigError, match=r"retry_on\[ValueError\].*async"):
        Policy.checked(retry_on={ValueError: later})


def test_without_options_there_is_no_policy():
    @worker(name="without-policy")
    class Plain:
        def process(self, job):
            return None

    assert Policy.checked() is None
    assert resolve("without-policy").policy is None


def test_workers_and_functions_carry_their_policy():
    @worker(name="policy-of-class", discard_on=ValueError)
    class Carrying:
        def process(self, job):
            return None

    @job(name="policy-of-function", snooze_on={ValueError: 5})
    def carrying():
        return None

    of_class = resolve("policy-of-class").policy(job_of(), ValueError(), "text")
    of_function = resolve("policy-of-function").policy(job_of(), ValueError(), "text")

    assert (of_class.state, of_function.state) == ("discarded", "scheduled")
    assert Carrying.new().meta == {}
    assert carrying.new().meta == {}


class Rude:
    """Whatever is looked at raises."""

    def __getattr__(self, name):
        raise RuntimeError(name)


class Response:
    """As of requests: false when it tells of an error."""

    def __init__(self, **headers):
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def __bool__(self):
        return False


def http_error(value):
    headers = email.message.Message()
    headers["retry-after"] = value

    return urllib.error.HTTPError("http://x", 429, "Too Many", headers, io.BytesIO())


def holding(response):
    error = RuntimeError("held")
    error.response = response

    return error


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (120, 120.0),
        (0, 0.0),
        (1.5, 1.5),
        (timedelta(minutes=2), 120.0),
        ("120", 120.0),
        (" 120 ", 120.0),
        ("1.5", 1.5),
        (b"120", 120.0),
        ("Tue, 05 May 2026 12:02:00 GMT", 120.0),
        ("Tue, 05 May 2026 14:02:00 +0200", 120.0),
        ("Tuesday, 05-May-26 12:02:00 GMT", 120.0),
        ("Tue May  5 12:02:00 2026", 120.0),
        ("Tue, 05 May 2026 11:00:00 GMT", 0.0),
        (NOW + timedelta(seconds=5), 5.0),
        (NOW.replace(tzinfo=None) + timedelta(seconds=5), 5.0),
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": "7"}, 7.0),
        ({"RETRY-AFTER": 7}, 7.0),
        (Response(Retry_After="7"), 7.0),
        (holding(Response(Retry_After="7")), 7.0),
        (SimpleNamespace(headers=None, response=Response(Retry_After="7")), 7.0),
        (SimpleNamespace(headers={}, response=Response(Retry_After="7")), 7.0),
        (SimpleNamespace(retry_after=7), 7.0),
        (SimpleNamespace(retry_after=NOW + timedelta(seconds=7)), 7.0),
        (http_error("7"), 7.0),
    ],
    ids=lambda value: str(value)[:40].split(" at 0x")[0],
)
def test_a_retry_after_is_read_wherever_it_is(value, seconds):
    assert Snooze.after(value, default=33).seconds == seconds


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "soon",
        "-5",
        -5,
        True,
        math.nan,
        "nan",
        "inf",
        "1e3",
        "1_000",
        "١٢",
        "99/99/9999",
        "Tue, 99 May 2026 12:02:00 GMT",
        b"\xff",
        {},
        {"Retry-After": ["7"]},
        {7: 7},
        object(),
        Rude(),
        Response(),
        holding(None),
        holding(Rude()),
        SimpleNamespace(headers=7),
        ValueError("plain"),
    ],
    ids=lambda value: ascii(value)[:40].split(" at 0x")[0],
)
def test_one_that_cannot_be_read_counts_as_the_default(value):
    assert Snooze.after(value, default=33).seconds == 33.0
    assert Snooze.after(value).seconds == 60.0


@pytest.mark.parametrize(
    "value",
    [10**400, "9" * 90, math.inf, "Fri, 31 Dec 9999 23:59:59 GMT", timedelta.max],
    ids=ascii,
)
def test_nobody_is_put_off_for_longer_than_allowed(value):
    assert Snooze.after(value).seconds == 86_400.0
    assert Snooze.after(value, at_most=timedelta(hours=1)).seconds == 3_600.0


def test_what_is_given_for_it_must_be_delays():
    with pytest.raises(ValueError, match="is not a delay"):
        Snooze.after(5, default=-1)

    with pytest.raises(ValueError, match="is not a delay"):
        Snooze.after(5, at_most="day")


def test_meta_goes_along():
    assert Snooze.after("5", meta={"a": 1}) == Snooze(5, {"a": 1})


@given(st.one_of(st.text(max_size=200), st.binary(max_size=50), st.floats(), st.integers()))
def test_whatever_a_server_sends_is_a_delay_within_bounds(value):
    assert 0 <= Snooze.after(value).seconds <= 86_400.0
    assert 0 <= Snooze.after({"Retry-After": value}).seconds <= 86_400.0
