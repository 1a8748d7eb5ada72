"""Assertions, and what they say."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from oban_sync import ConfigError, InvalidJobError, testing
from oban_sync.testing import (
    all_enqueued,
    assert_enqueued,
    assert_enqueued_during,
    refute_enqueued,
    refute_enqueued_during,
)
from tests.testing.workers import Failing, Mailer, Parent, add


def message_of(**wanted):
    with pytest.raises(AssertionError) as failure:
        assert_enqueued(**wanted)

    return str(failure.value)


@pytest.mark.parametrize("worker", [Mailer, "kit.Mailer"], ids=str)
def test_the_newest_that_fits_is_given(oban, worker):
    first, second = Mailer.enqueue({"to": "ann", "n": 1}), Mailer.enqueue({"to": "ann", "n": 2})
    Parent.enqueue({"to": ["ann"]})

    assert assert_enqueued(worker=worker, args={"to": "ann"}).id == second.id
    assert [job.id for job in all_enqueued(worker=worker)] == [second.id, first.id]
    assert len(all_enqueued()) == 3


def test_a_function_is_a_worker(oban):
    job = add.enqueue(1, b=2)

    assert assert_enqueued(worker=add, args={"a": 1}).id == job.id
    assert assert_enqueued(worker=add.options(priority=3), args={"b": 2}).id == job.id


@pytest.mark.parametrize(
    "args",
    [
        {"user": {"id": 7}},
        {"ids": (1, 2)},
        {"user": {"name": None}, "flag": True},
        {},
    ],
    ids=str,
)
def test_args_hold_at_any_depth(oban, args):
    Mailer.enqueue({"user": {"id": 7, "name": None}, "ids": [1, 2], "flag": True})

    assert_enqueued(args=args)


@pytest.mark.parametrize(
    "args",
    [
        {"user": {"id": 8}},
        {"ids": [1]},
        {"ids": [2, 1]},
        {"flag": 1},
        {"user": {"age": None}},
        {"user": 7},
    ],
    ids=str,
)
def test_args_that_do_not_hold(oban, args):
    Mailer.enqueue({"user": {"id": 7, "name": None}, "ids": [1, 2], "flag": True})

    refute_enqueued(args=args)

    with pytest.raises(AssertionError):
        assert_enqueued(args=args)


@pytest.mark.parametrize(
    ("wanted", "other"),
    [
        ({"queue": "mail"}, {"queue": "post"}),
        ({"priority": 3}, {"priority": 0}),
        ({"max_attempts": 3}, {"max_attempts": 20}),
        ({"tags": "a"}, {"tags": ["a", "c"]}),
        ({"tags": ["b", "a"]}, {"tags": "c"}),
        ({"meta": {"by": {"id": 1}}}, {"meta": {"by": {"id": 2}}}),
        ({"scheduled_in": 60}, {"scheduled_in": 62}),
        ({"scheduled_in": timedelta(minutes=1)}, {"scheduled_in": 58}),
        ({"scheduled_in": 90, "delta": 31}, {"scheduled_in": 92, "delta": timedelta(seconds=31)}),
    ],
    ids=str,
)
def test_every_field_can_be_asked_for(oban, wanted, other):
    Mailer.enqueue(priority=3, tags=["a", "b"], meta={"by": {"id": 1, "role": "x"}}, schedule_in=60)

    assert_enqueued(**wanted)
    refute_enqueued(**other)


def test_a_time_can_be_asked_for(oban):
    when = datetime(2031, 5, 1, tzinfo=UTC)
    Mailer.enqueue(scheduled_at=when)

    assert_enqueued(scheduled_at=when + timedelta(seconds=0.9))
    refute_enqueued(scheduled_at=when + timedelta(seconds=1.1))


def test_jobs_that_ran_are_not_enqueued_any_more(oban):
    job = Mailer.enqueue()
    oban.drain_queue("mail")

    refute_enqueued(worker=Mailer)

    assert assert_enqueued(worker=Mailer, state="completed").id == job.id
    assert [one.id for one in all_enqueued(state="any")] == [job.id]


def test_inline_they_ran_already(make_oban):
    make_oban(testing="inline")
    job = Mailer.enqueue()

    assert assert_enqueued(worker=Mailer).id == job.id


def test_a_number_can_be_asked_for(oban):
    for to in "ab":
        Mailer.enqueue({"to": to})

    assert_enqueued(worker=Mailer, count=2)

    with pytest.raises(AssertionError, match=r"3 jobs should have been enqueued, 2 were:"):
        assert_enqueued(worker=Mailer, count=3)

    with pytest.raises(AssertionError, match=r"1 job should have been enqueued, 2 were:"):
        assert_enqueued(worker=Mailer, count=1)


def test_what_comes_late_is_waited_for(oban):
    waiting = threading.Event()

    def enqueue():
        waiting.wait(20)
        Mailer.enqueue({"to": "late"})

    thread = threading.Thread(target=enqueue)
    thread.start()

    try:
        refute_enqueued(worker=Mailer)
        waiting.set()

        assert assert_enqueued(worker=Mailer, timeout=20).args == {"to": "late"}
    finally:
        waiting.set()
        thread.join()

    with pytest.raises(AssertionError):
        refute_enqueued(worker=Mailer, timeout=20)


def test_the_nearest_jobs_are_shown_with_what_is_wrong_with_them(oban):
    far = Failing.enqueue()
    near = Mailer.enqueue({"to": "bob", "n": 1}, priority=3)
    nearest = Mailer.enqueue({"to": "bob", "n": 1}, priority=1)

    text = message_of(worker=Mailer, args={"to": "ann", "at": None}, priority=1)

    assert text == (
        "no job was enqueued with\n"
        "    worker    'kit.Mailer'\n"
        "    args      {'to': 'ann', 'at': None}\n"
        "    priority  1\n"
        "\n"
        "There are 3 jobs. They are:\n"
        "\n"
        f"    job {nearest.id}: kit.Mailer, available in queue 'mail'\n"
        "        args.to  is 'bob', not 'ann'\n"
        "        args.at  is missing, not None\n"
        "\n"
        f"    job {near.id}: kit.Mailer, available in queue 'mail'\n"
        "        args.to   is 'bob', not 'ann'\n"
        "        args.at   is missing, not None\n"
        "        priority  is 3, not 1\n"
        "\n"
        f"    job {far.id}: kit.Failing, available in queue 'mail'\n"
        "        worker    is 'kit.Failing', not 'kit.Mailer'\n"
        "        args.to   is missing, not 'ann'\n"
        "        args.at   is missing, not None\n"
        "        priority  is 0, not 1"
    )


def test_at_most_five_are_shown(oban):
    oban.enqueue_many(Mailer.new({"to": n}) for n in range(7))

    text = message_of(args={"to": 99})

    assert "There are 7 jobs. The nearest:" in text
    assert text.count("is ") == 5


def test_times_are_shown_as_people_write_them(oban):
    Mailer.enqueue(schedule_in=60)

    assert "scheduled_in  is 0:01:00, not 1:00:00" in message_of(scheduled_in=3600)


def test_that_there_is_none_is_said(oban):
    assert message_of(worker=Mailer).endswith("There are no jobs at all.")
    assert message_of() == "no job was enqueued. There are no jobs at all."


def test_jobs_that_ran_are_told_of_when_one_is_wanted_that_waits(oban):
    job = Mailer.enqueue()
    oban.drain_queue("mail")

    text = message_of(worker=Mailer)

    assert f"Of another state there is:\n    job {job.id}: kit.Mailer, completed" in text
    assert text.endswith("There are no others.")


def test_refuting_lists_those_there_are(oban):
    job = Mailer.enqueue({"to": "ann"})

    with pytest.raises(AssertionError) as failure:
        refute_enqueued(worker=Mailer)

    assert str(failure.value) == (
        "no job should have been enqueued, 1 was:\n"
        f"    job {job.id}: kit.Mailer, available in queue 'mail'\n"
        "        args {'to': 'ann'}"
    )


def test_only_what_comes_within_a_block_counts(oban):
    Mailer.enqueue({"to": "before"})

    with pytest.raises(AssertionError), assert_enqueued_during(worker=Mailer):
        pass

    with assert_enqueued_during(worker=Mailer, count=1) as found:
        Mailer.enqueue({"to": "ann"})
        oban.drain_queue("mail")

        with pytest.raises(ConfigError, match="when the block ends"):
            _ = found.job

    assert (found.job.args, found.job.state) == ({"to": "ann"}, "completed")

    with refute_enqueued_during(worker=Mailer):
        Failing.enqueue()

    with pytest.raises(AssertionError), refute_enqueued_during(worker=Mailer):
        Mailer.enqueue()


def test_an_error_in_the_block_is_the_one_that_is_raised(oban):
    with pytest.raises(LookupError), assert_enqueued_during(worker=Mailer):
        raise LookupError


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"workr": Mailer}, "workr: unknown; .*Did you mean 'worker'"),
        ({"worker": 7}, "worker: "),
        ({"args": {"at": datetime(2031, 1, 1)}}, r"args\.at: "),
        ({"priority": 10}, "priority: "),
        ({"scheduled_in": 1, "scheduled_at": datetime(2031, 1, 1, tzinfo=UTC)}, "scheduled_in: "),
        ({"delta": -1}, "delta: "),
        ({"count": 0}, "count: "),
        ({"state": "done"}, "state: "),
        ({"timeout": -1}, "timeout: "),
    ],
    ids=str,
)
def test_what_can_be_true_of_no_job_is_refused(oban, wanted, message):
    with pytest.raises(ConfigError, match=message):
        assert_enqueued(**wanted)


def test_the_oban_can_be_given(oban, make_oban, factory):
    make_oban(name="Other")
    job = Mailer.enqueue()

    assert assert_enqueued(worker=Mailer, oban=oban).id == job.id
    assert all_enqueued(oban="Other")[0].id == job.id
    assert issubclass(InvalidJobError, ConfigError)


def test_all_pages_are_looked_through(oban, monkeypatch):
    Mailer.enqueue({"to": "first"})
    monkeypatch.setattr("oban_sync.testing.assertions.MOST_LISTED", 2)
    Mailer.enqueue({"to": "second"})

    with testing.assert_enqueued_during(count=5):
        oban.enqueue_many(Mailer.new({"to": number}) for number in range(5))

    assert testing.assert_enqueued(args={"to": "first"}).id
    assert [job.args["to"] for job in testing.all_enqueued()] == [4, 3, 2, 1, 0, "second", "first"]

    with testing.refute_enqueued_during(worker=Failing):
        Mailer.enqueue()

    with pytest.raises(AssertionError, match="1 was"):
        testing.refute_enqueued(args={"to": "first"})


@pytest.mark.parametrize(
    ("look", "options", "message"),
    [
        (testing.refute_enqueued, {"state": []}, "state: the list is empty"),
        (testing.all_enqueued, {"state": iter(())}, "state: the list is empty"),
        (testing.assert_enqueued, {"count": 0}, "count: .*refute_enqueued"),
    ],
    ids=["refute", "all", "count"],
)
def test_what_would_be_true_of_no_job_is_refused(oban, look, options, message):
    with pytest.raises(ConfigError, match=message):
        look(worker=Mailer, **options)


def test_within_lists_too_one_is_not_true(oban):
    Mailer.enqueue({"flags": [1, {"on": 0}]})

    testing.assert_enqueued(args={"flags": [1.0, {"on": 0}]})
    testing.refute_enqueued(args={"flags": [True, {"on": False}]})
    testing.refute_enqueued(args={"flags": [1, {"on": 0}, 2]})
