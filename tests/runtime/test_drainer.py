"""Draining a queue on the caller's own thread."""

from __future__ import annotations

import threading

import pytest

from oban_sync import ObanError, Snooze, worker

RAN: list[tuple[str, object]] = []


@worker(queue="alpha")
class Echo:
    def process(self, job):
        RAN.append((threading.current_thread().name, job.args.get("n")))


@worker(queue="alpha")
class Parent:
    def process(self, job):
        Echo.enqueue({"n": "child"})


@worker(queue="alpha", max_attempts=3)
class Failing:
    def process(self, job):
        raise ValueError("failed")


@worker(queue="alpha")
class Restless:
    def process(self, job):
        return Snooze(3600)


@worker(queue="alpha")
class Interrupted:
    def process(self, job):
        raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _forget():
    RAN.clear()


def counts(**given):
    zero = dict.fromkeys(("cancelled", "completed", "discarded", "retryable", "scheduled"), 0)

    return {**zero, **given}


def test_jobs_run_on_the_callers_thread_in_order(oban):
    oban.enqueue_many(Echo.new({"n": n}) for n in range(3))

    assert oban.drain_queue("alpha") == counts(completed=3)
    assert [(threading.current_thread().name, n) for n in range(3)] == RAN


def test_an_empty_queue_drains_to_nothing(oban):
    assert oban.drain_queue("nothing here") == counts()


def test_other_queues_are_left_alone(oban, factory):
    Echo.enqueue(queue="beta")

    assert oban.drain_queue("alpha") == counts()
    assert factory.count(state="available") == 1


def test_recursion_runs_what_jobs_enqueue_and_can_be_left_out(oban):
    Parent.enqueue()

    assert oban.drain_queue("alpha", with_recursion=False) == counts(completed=1)
    assert RAN == []
    assert oban.drain_queue("alpha") == counts(completed=1)
    assert RAN[0][1] == "child"


def test_scheduled_jobs_are_run_whatever_their_time_and_can_be_left_out(oban):
    Echo.enqueue(schedule_in=3600)

    assert oban.drain_queue("alpha", with_scheduled=False) == counts()
    assert oban.drain_queue("alpha") == counts(completed=1)


def test_a_failure_is_raised_after_it_was_recorded_and_the_rest_stays_available(oban, factory):
    failing = Failing.enqueue()
    rest = [Echo.enqueue().id for _ in range(2)]

    for recursion in (True, False):
        with pytest.raises(ValueError, match="failed"):
            oban.drain_queue("alpha", with_recursion=recursion)

        assert factory.states(failing.id, *rest) == ["retryable", "available", "available"]
        assert [factory.row(job_id)["attempt"] for job_id in rest] == [0, 0]
        factory._conn.execute("UPDATE oban_jobs SET priority = 0, scheduled_at = '2020-01-01'")
        factory._conn.execute("UPDATE oban_jobs SET scheduled_at = '2021-01-01' WHERE attempt = 0")

    assert len(factory.row(failing.id)["errors"]) == 2


def test_with_safety_failures_are_only_counted(oban, factory):
    failing = Failing.enqueue()
    Echo.enqueue()

    assert oban.drain_queue("alpha", with_safety=True, with_scheduled=False) == counts(
        completed=1, retryable=1
    )
    assert oban.drain_queue("alpha", with_safety=True) == counts(discarded=1, retryable=1)
    assert factory.states(failing.id) == ["discarded"]


def test_an_interrupt_is_always_passed_on(oban, factory):
    job = Interrupted.enqueue()

    with pytest.raises(KeyboardInterrupt):
        oban.drain_queue("alpha", with_safety=True)

    assert factory.states(job.id) == ["retryable"]


def test_a_job_that_snoozes_for_ever_is_told_and_not_waited_for(oban):
    Restless.enqueue()

    with pytest.raises(ObanError, match=r"Restless.*with_scheduled=False"):
        oban.drain_queue("alpha")


def test_a_snoozing_job_is_counted_and_left_when_scheduled_jobs_are_left_out(oban):
    Restless.enqueue()

    assert oban.drain_queue("alpha", with_scheduled=False) == counts(scheduled=1)
