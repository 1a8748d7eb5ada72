"""Trying again: how often, with which pauses, and what is said of it."""

from __future__ import annotations

import logging
from threading import Event
from types import SimpleNamespace

import psycopg
import pytest

from oban_sync.core.errors import DatabaseUnavailableError
from oban_sync.engine.retry import conflicts_retried, until_available

log = logging.getLogger("oban_sync.test")


class Work:
    """Fails with these errors, one after the other, and then gives "done"."""

    def __init__(self, *errors):
        self._errors = list(errors)
        self.tries = 0

    def __call__(self):
        self.tries += 1

        if self._errors:
            raise self._errors.pop(0)

        return "done"


class Stopping:
    """Notes the pauses instead of making them; the stop comes with the last of so many."""

    def __init__(self, most=1_000):
        self.pauses = []
        self._most = most

    def is_set(self):
        return len(self.pauses) >= self._most

    def wait(self, timeout=None):
        self.pauses.append(timeout)

        return self.is_set()


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that would have been made."""
    pauses = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=pauses.append))

    return pauses


def conflicts(count):
    return [psycopg.errors.DeadlockDetected(f"deadlock {number}") for number in range(count)]


def outages(count):
    return [DatabaseUnavailableError(f"outage {number}") for number in range(count)]


def test_what_succeeds_is_done_once(pauses, caplog):
    work = Work()

    assert conflicts_retried(work) == "done"
    assert until_available(work, stopping=Event(), what="loop", log=log) == "done"
    assert work.tries == 2
    assert pauses == []
    assert caplog.records == []


def test_a_lost_race_is_run_again_after_a_pause(pauses):
    work = Work(*conflicts(3))

    assert conflicts_retried(work) == "done"
    assert work.tries == 4
    assert len(pauses) == 3
    assert all(0.0 < pause <= 0.1 for pause in pauses)


def test_a_race_is_run_twenty_times_at_most(pauses):
    work = Work(*conflicts(30))

    with pytest.raises(psycopg.errors.DeadlockDetected, match="deadlock 19"):
        conflicts_retried(work)

    assert work.tries == 20
    assert len(pauses) == 19
    assert max(pauses) <= 0.55


@pytest.mark.parametrize("before", [0, 2])
def test_another_error_ends_the_race(before, pauses):
    work = Work(*conflicts(before), ValueError("no"))

    with pytest.raises(ValueError, match="no"):
        conflicts_retried(work)

    assert work.tries == before + 1


def test_an_outage_is_waited_for_and_told_of_once(caplog):
    work, stopping = Work(*outages(5)), Stopping()

    assert until_available(work, stopping=stopping, what="loop", log=log, longest=0.4) == "done"
    assert work.tries == 6
    assert len(stopping.pauses) == 5
    assert 0.1 <= stopping.pauses[0] <= 0.2
    assert max(stopping.pauses) <= 0.5
    assert [record.getMessage() for record in caplog.records] == [
        "loop is waiting for PostgreSQL: outage 0",
        "loop reached PostgreSQL again",
    ]


def test_an_outage_is_not_waited_for_once_the_stop_came():
    work, stopping = Work(*outages(5)), Event()
    stopping.set()

    with pytest.raises(DatabaseUnavailableError, match="outage 0"):
        until_available(work, stopping=stopping, what="loop", log=log)

    assert work.tries == 1


def test_a_stop_ends_the_wait_for_an_outage():
    work, stopping = Work(*outages(30)), Stopping(most=3)

    with pytest.raises(DatabaseUnavailableError):
        until_available(work, stopping=stopping, what="loop", log=log)

    assert len(stopping.pauses) == 3
    assert work.tries <= 4
