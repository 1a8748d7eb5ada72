"""Storing jobs and reading them back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from oban_sync import ConfigError, InvalidJobError, Worker, worker
from oban_sync.engine import batches


@worker(queue="alpha")
class Echo(Worker):
    def process(self, job):
        return None


def test_a_stored_job_reads_back_as_it_was_made(oban):
    args = {"text": 'a "quoted" \\ é 名 \N{GRINNING FACE}', "n": [1, 2.5, None, True, {"x": 2**60}]}
    made = Echo.enqueue(args, priority=3, tags=["B", "a"], meta={"k": "v"}, max_attempts=7)
    read = oban.get_job(made.id)

    for job in (made, read):
        assert job.args == args
        assert (job.queue, job.priority, job.max_attempts, job.attempt) == ("alpha", 3, 7, 0)
        assert (job.tags, job.meta, job.errors, job.state) == (
            ["b", "a"],
            {"k": "v"},
            [],
            "available",
        )
        assert job.worker == f"{__name__}.Echo"
        assert job.inserted_at.tzinfo is UTC
        assert job.scheduled_at == job.inserted_at
        assert job.completed_at is None

    assert made.inserted_at == read.inserted_at


def test_a_job_that_is_not_there_is_none(oban):
    assert oban.get_job(123_456) is None


def test_times_are_kept_to_the_microsecond_whatever_their_zone(oban):
    from zoneinfo import ZoneInfo

    moment = datetime(2031, 7, 1, 12, 30, 15, 123_456, ZoneInfo("America/New_York"))
    job = Echo.enqueue({}, scheduled_at=moment)

    assert job.state == "scheduled"
    assert oban.get_job(job.id).scheduled_at == moment.astimezone(UTC)


def test_a_delay_counts_on_the_databases_clock(oban, conn):
    job = Echo.enqueue({}, schedule_in=timedelta(hours=1))
    [(now,)] = conn.execute("SELECT timezone('UTC', now())").fetchall()
    ahead = job.scheduled_at - now.replace(tzinfo=UTC)

    assert timedelta(minutes=59) < ahead <= timedelta(hours=1)


def test_a_time_in_the_past_is_scheduled_and_due(oban):
    assert Echo.enqueue({}, scheduled_at=datetime(2020, 1, 1, tzinfo=UTC)).state == "scheduled"
    assert oban.drain_queue("alpha")["completed"] == 1


def test_ten_thousand_jobs_of_a_generator_come_back_in_order(oban, conn):
    made = oban.enqueue_many(Echo.new({"n": n}) for n in range(10_000))

    assert [job.args["n"] for job in made] == list(range(10_000))
    assert [job.id for job in made] == sorted(job.id for job in made)

    rows = conn.execute("SELECT id, (args ->> 'n')::int FROM oban_jobs ORDER BY id").fetchall()

    assert rows == [(job.id, job.args["n"]) for job in made]


def test_no_jobs_are_no_statement_and_no_error(oban):
    assert oban.enqueue_many([]) == []
    assert oban.enqueue_many(iter(())) == []


def test_several_arguments_are_taken_as_an_iterable(oban):
    made = oban.enqueue_many(Echo.new({"n": 1}), Echo.new({"n": 2}))

    assert [job.args["n"] for job in made] == [1, 2]


def test_large_jobs_are_split_by_size_as_well_as_by_number(oban, monkeypatch, factory):
    monkeypatch.setattr(batches, "MOST_CHARACTERS", 1_000)
    made = oban.enqueue_many(Echo.new({"text": "x" * 400, "n": n}) for n in range(9))

    assert [job.args["n"] for job in made] == list(range(9))
    assert factory.count() == 9


def test_a_generator_that_fails_stores_nothing(oban, factory, monkeypatch):
    monkeypatch.setattr(batches, "MOST_AHEAD", 2)

    def broken():
        for n in range(5):
            yield Echo.new({"n": n})

        raise RuntimeError("out of jobs")

    with pytest.raises(RuntimeError, match="out of jobs"):
        oban.enqueue_many(broken())

    assert factory.count() == 0


@pytest.mark.parametrize("wrong", [5, [5], ["x"], [Echo], None], ids=repr)
def test_what_is_no_job_is_refused_by_its_place(oban, factory, wrong):
    with pytest.raises(ConfigError, match="jobs"):
        oban.enqueue_many(wrong)

    assert factory.count() == 0


def test_args_changed_after_new_are_stored_changed_and_checked_again(oban):
    job = Echo.new({"n": 1})
    job.args["m"] = 2

    assert oban.get_job(oban.enqueue(job).id).args == {"n": 1, "m": 2}

    job.args["bad"] = object()

    with pytest.raises(InvalidJobError, match=r"args\.bad"):
        oban.enqueue(job)


def test_a_job_that_was_stored_or_ran_may_be_stored_again(oban):
    first = Echo.enqueue({"n": 1}, tags=["a"])
    again = oban.enqueue(first)
    later = oban.enqueue(Echo.enqueue(schedule_in=3600))
    loaded = oban.enqueue(oban.get_job(first.id))

    assert [oban.get_job(job.id).state for job in (again, later, loaded)] == [
        "available",
        "scheduled",
        "available",
    ]
    assert len({first.id, again.id, loaded.id}) == 3
    assert (again.args, again.tags, again.attempt) == ({"n": 1}, ["a"], 0)
    assert again.inserted_at >= first.inserted_at


def test_the_same_job_may_be_stored_twice(oban):
    job = Echo.new({"n": 1})
    first, second = oban.enqueue(job), oban.enqueue(job)

    assert first.id != second.id
    assert job.id is None


@pytest.mark.parametrize("queue", ['a"b', "a'b", "a b", "a\\b", "名前", "x" * 127, "%s", "{a}"])
def test_any_queue_name_works_from_end_to_end(make_oban, probe, queue):
    make_oban(queues={queue: 1}).start()
    probe.next("oban.notifier.connected")
    Echo.enqueue({}, queue=queue)

    assert probe.next("oban.job.stop")["job"].queue == queue
