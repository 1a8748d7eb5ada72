"""For how long a node may believe that its jobs are its own."""

from __future__ import annotations

import time

import pytest

from oban_sync.core.job import Job
from oban_sync.core.lease import Lease


def aged(lease, seconds):
    lease.renew(time.monotonic() - seconds)

    return lease


@pytest.mark.parametrize(
    ("uses_lock", "locked", "age", "ended"),
    [
        (True, True, 50, False),
        (True, True, 59.5, True),
        (True, False, 4, False),
        (True, False, 5.5, True),
        (False, False, 50, False),
        (False, False, 59.5, True),
    ],
)
def test_a_lease_lasts_shorter_while_the_session_is_gone(uses_lock, locked, age, ended):
    lease = Lease(60, 6, uses_lock=uses_lock)

    if locked:
        lease.lock()

    assert aged(lease, age).ended is ended


def test_a_short_lease_keeps_most_of_its_length():
    assert aged(Lease(2, 2), 1.4).ended is False
    assert aged(Lease(2, 2), 1.6).ended is True


def test_a_lease_without_an_age_never_ends():
    assert aged(Lease(), 1e9).ended is False


def test_a_job_knows_when_its_lease_has_ended_and_when_it_was_vouched_for_again():
    lease = Lease(60, 6)
    job = Job(worker="w")

    assert job.lease_lost() is False

    job.leased(lease)
    assert job.lease_lost() is False

    aged(lease, 61)
    assert job.lease_lost() is True

    # Renewed, but nobody has looked at the job's row yet.
    lease.generation += 1
    aged(lease, 0)
    assert job.lease_lost() is True

    job.leased(lease)
    assert job.lease_lost() is False


def test_a_job_is_cancelled_once_it_was_asked_to_stop():
    job = Job(worker="w")

    assert job.cancelled() is False

    job.ask_to_stop()

    assert job.cancelled() is True


def test_a_lease_that_has_ended_is_brought_back_by_a_beat_alone():
    lease = aged(Lease(60, 6, uses_lock=True), 10)
    lease.lock()

    assert lease.ended is True

    aged(lease, 0)
    assert lease.ended is False

    lease.unlock()
    lease.lock()
    assert lease.ended is False
