"""Draining a queue on the caller's own thread."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta

import pytest

from oban_sync import ConfigError, Oban, ObanError, Snooze, worker
from oban_sync.core.clock import utc_now

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
class Deleting:
    def process(self, job):
        with Oban.get_instance().connection() as conn:
            conn.execute(
                f'DELETE FROM "{Oban.get_instance().prefix}".oban_jobs WHERE id = %s', [job.id]
            )


@worker(queue="alpha")
class Interrupted:
    def process(self, job):
        raise KeyboardInterrupt


@worker(queue="alpha")
class Urging:
    def process(self, job):
        Echo.enqueue({"n": "urgent"}, priority=0)


@worker(queue="alpha")
class Cancelling:
    def process(self, job):
        Oban.get_instance().cancel_job(job.args["id"])


@worker(queue="alpha")
class Hourly:
    def process(self, job):
        RAN.append(("hourly", len(RAN)))

        if len(RAN) < job.args.get("times", 100):
            Hourly.enqueue(job.args, schedule_in=job.args.get("every", 3600))


@worker(queue="alpha", max_attempts=2)
class Ending:
    def process(self, job):
        raise {"Outcome": Outcome, "SystemExit": SystemExit}[job.args["by"]]


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


def enqueued(*numbers, **options):
    return [Echo.enqueue({"n": number}, **options) for number in numbers]


def ran():
    return [number for _, number in RAN]


def test_several_queues_or_all_are_drained_as_one(oban):
    enqueued("last", queue="alpha", priority=5)
    enqueued("first", queue="beta", priority=1)
    enqueued("other", queue="gamma", priority=3)

    assert oban.drain_queue(["alpha", "beta"]) == counts(completed=2)
    assert ran() == ["first", "last"]
    assert oban.drain_queue(None) == counts(completed=1)
    assert ran()[2:] == ["other"]


@pytest.mark.parametrize("recursion", [True, False])
def test_a_limit_ends_it(oban, factory, recursion):
    enqueued(*range(4))

    assert oban.drain_queue("alpha", with_limit=3, with_recursion=recursion) == counts(completed=3)
    assert ran() == [0, 1, 2]
    assert factory.count(state="available") == 1


@pytest.mark.parametrize("until", [timedelta(minutes=2), "a datetime"], ids=str)
def test_only_those_due_by_a_time_may_be_run(oban, factory, until):
    if until == "a datetime":
        until = utc_now() + timedelta(minutes=2)

    enqueued("soon", schedule_in=60)
    enqueued("late", schedule_in=180)

    assert oban.drain_queue("alpha", with_scheduled=until) == counts(completed=1)
    assert ran() == ["soon"]
    assert factory.count(state="scheduled") == 1


@pytest.mark.parametrize("recursion", [True, False])
def test_a_seed_gives_an_order_that_can_be_had_again(oban, recursion):
    orders = []

    for seed in (7, 7, 8):
        RAN.clear()
        enqueued(*range(20))
        oban.drain_queue("alpha", seed=seed, with_recursion=recursion)
        orders.append(ran())

    assert orders[0] == orders[1]
    assert sorted(orders[0]) == sorted(orders[2]) == list(range(20))
    assert orders[0] not in (orders[2], list(range(20)))


def test_a_job_that_somebody_holds_is_passed_over(oban, conn, factory):
    held, _ = enqueued("held", "free")

    with conn.transaction():
        conn.execute("SELECT FROM oban_jobs WHERE id = %s FOR UPDATE", [held.id])

        assert oban.drain_queue("alpha", with_scheduled=False) == counts(completed=1)

    assert ran() == ["free"]
    assert factory.states(held.id) == ["available"]


def test_a_job_that_was_deleted_while_it_ran_is_fenced(oban, probe):
    Deleting.enqueue()

    # Nowhere does it stand that it was completed.
    assert oban.drain_queue("alpha") == counts()
    assert probe.next("oban.job.fenced")["state"] == "completed"


def test_runs_that_count_in_no_state_are_runs_all_the_same(oban, factory):
    for _ in range(3):
        Deleting.enqueue()

    assert oban.drain_queue("alpha", with_limit=2) == counts()
    assert factory.count(queue="alpha") == 1


def test_a_job_s_context_is_a_copy_of_the_callers(oban):
    variable = ContextVar("variable", default="nothing")
    seen = []

    @worker(queue="alpha", name="tests.drained.Setting")
    class Setting:
        def process(self, job):
            seen.append(variable.get())
            variable.set("the job's")

    with varied(variable, "the caller's"):
        Setting.enqueue()
        Setting.enqueue()
        oban.drain_queue("alpha")

        assert variable.get() == "the caller's"

    assert seen == ["the caller's"] * 2


@contextmanager
def varied(variable, value):
    token = variable.set(value)

    try:
        yield
    finally:
        variable.reset(token)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"with_limit": 0}, "with_limit: 0"),
        ({"with_scheduled": 60}, "with_scheduled: 60 is not allowed; give True"),
        ({"queue": 7}, "queue: 7"),
        ({"queue": ["alpha", ""]}, r"queue\[1\]: "),
    ],
    ids=str,
)
def test_what_is_no_wish_is_refused(oban, options, message):
    with pytest.raises(ConfigError, match=message):
        oban.drain_queue(**options)


@pytest.mark.parametrize("recursion", [True, False])
def test_scheduled_jobs_that_are_not_reached_stay_scheduled(oban, factory, recursion):
    enqueued("now")
    [later] = enqueued("later", schedule_in=3600)

    assert oban.drain_queue("alpha", with_limit=1, with_recursion=recursion)["completed"] == 1
    assert factory.states(later.id) == ["scheduled"]

    Failing.enqueue()

    with pytest.raises(ValueError, match="failed"):
        oban.drain_queue("alpha", with_recursion=recursion)

    assert factory.states(later.id) == ["scheduled"]


def test_a_job_that_jumps_the_queue_is_run_next(oban):
    enqueued("first", "last", priority=5)
    Urging.enqueue(priority=4)

    assert oban.drain_queue("alpha") == counts(completed=4)
    assert ran() == ["urgent", "first", "last"]


def test_one_that_another_job_has_cancelled_is_not_run(oban, factory):
    victim = Echo.enqueue({"n": "victim"}, priority=2)
    Echo.enqueue({"n": "after"}, priority=3)
    Cancelling.enqueue({"id": victim.id}, priority=1)

    assert oban.drain_queue("alpha") == counts(completed=2)
    assert ran() == ["after"]
    assert factory.states(victim.id) == ["cancelled"]


def test_jobs_that_enqueue_one_another_for_later_without_an_end_are_told(oban, monkeypatch):
    monkeypatch.setattr("oban_sync.runtime.drainer._MOST_LATER", 5)
    enqueued(*range(10), schedule_in=60)

    # However many are stored: only a chain of them has no end.
    assert oban.drain_queue("alpha") == counts(completed=10)

    Hourly.enqueue()

    with pytest.raises(ObanError, match=r"Hourly.*last of 5 .*with_scheduled=False"):
        oban.drain_queue("alpha")

    assert len(RAN) == 16


def test_jobs_that_are_due_may_follow_one_another_for_as_long_as_they_like(oban, monkeypatch):
    monkeypatch.setattr("oban_sync.runtime.drainer._MOST_LATER", 5)
    Hourly.enqueue({"every": 0, "times": 20})

    assert oban.drain_queue("alpha") == counts(completed=20)


class Outcome(BaseException):
    """As pytest ends a test that failed, or is skipped."""


def test_what_is_no_exception_is_raised_with_safety_too(oban, factory):
    job = Ending.enqueue({"by": "Outcome"})

    with pytest.raises(Outcome):
        oban.drain_queue("alpha", with_safety=True)

    assert factory.states(job.id) == ["retryable"]


def test_an_exit_is_a_failure(oban):
    Ending.enqueue({"by": "SystemExit"}, max_attempts=1)

    assert oban.drain_queue("alpha", with_safety=True) == counts(discarded=1)
