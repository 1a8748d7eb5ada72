"""Exceptions raised in other threads: into their work, and never anywhere else."""

from __future__ import annotations

import gc
import sys
import threading
import time
from threading import Event, Thread

import pytest

from oban_sync.core.errors import JobInterrupt
from oban_sync.runtime.interrupts import Stretch


def spin(subject):
    while True:
        pass


def hammered(work, subject=None):
    """Run a stretch while another thread raises into it without a pause."""
    stretch = Stretch(JobInterrupt)
    stop = Event()

    def hammer():
        while not stop.is_set():
            stretch.interrupt()

    thread = Thread(target=hammer)
    thread.start()

    try:
        result = stretch.run(work, subject)
    finally:
        stop.set()
        thread.join()

    return stretch, result


@pytest.fixture
def under_fire():
    """Threads take turns quickly, and no finalizer of other tests' objects runs in between.

    An exception that comes into one is lost, and Python tells of it, which would fail the test.
    """
    before = sys.getswitchinterval()
    gc.collect()
    gc.disable()
    sys.setswitchinterval(1e-5)

    yield

    sys.setswitchinterval(before)
    gc.enable()


def test_work_is_done_once_and_gives_its_result():
    stretch = Stretch(JobInterrupt)

    assert stretch.run(str, 5) == "5"
    assert stretch.done
    assert stretch.error is None
    assert not stretch.interrupt()
    assert not stretch.unless_ended(pytest.fail)


def test_what_work_raises_is_kept():
    stretch = Stretch(JobInterrupt)

    assert stretch.run(int, "x") is None
    assert not stretch.done
    assert isinstance(stretch.error, ValueError)


def test_an_endless_loop_is_interrupted(under_fire):
    stretch, _ = hammered(spin)

    assert not stretch.done
    assert isinstance(stretch.error, JobInterrupt)


def test_nothing_is_raised_before_the_work_begins():
    stretch = Stretch(JobInterrupt)

    assert not stretch.interrupt()
    assert stretch.run(str, 1) == "1"


def test_no_exception_ever_escapes_from_a_stretch(under_fire):
    """Short work, hammered without a pause, thousands of times; the marker must always be met."""
    stop = Event()
    current = [None]
    outcomes = {"done": 0, "interrupted": 0}

    def hammer():
        while not stop.is_set():
            if (stretch := current[0]) is not None:
                stretch.interrupt()

    def short(rounds):
        total = 0

        for number in range(rounds):
            total += number

        return total

    threads = [Thread(target=hammer) for _ in range(2)]

    for thread in threads:
        thread.start()

    try:
        for rounds in range(5_000):
            stretch = Stretch(JobInterrupt)
            current[0] = stretch
            result = stretch.run(short, rounds % 200)

            # Calls and a jump back are where a stray exception would come.
            for _ in range(3):
                time.monotonic()

            assert stretch.done or isinstance(stretch.error, JobInterrupt)
            assert not stretch.done or result == sum(range(rounds % 200))
            outcomes["done" if stretch.done else "interrupted"] += 1
    finally:
        stop.set()

        for thread in threads:
            thread.join()

    assert sum(outcomes.values()) == 5_000
    assert all(outcomes.values())


def test_one_that_a_finalizer_swallowed_can_be_raised_again(monkeypatch):
    inside, swallowed = Event(), Event()
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: swallowed.set())

    class Finalized:
        def __del__(self):
            inside.set()
            spin(None)

    def work(subject):
        Finalized()
        spin(None)

    def raise_again():
        inside.wait(10)
        stretch.interrupt()
        swallowed.wait(10)

        while stretch.interrupt():
            time.monotonic()

    stretch = Stretch(JobInterrupt)
    thread = Thread(target=raise_again)
    thread.start()
    stretch.run(work, None)
    thread.join()

    assert isinstance(stretch.error, JobInterrupt)
    assert swallowed.is_set()


def test_a_shield_keeps_the_exception_until_its_end():
    events = []

    def work(stretch):
        stretch.shield()
        stretch.shield()
        assert stretch.interrupt()
        events.append("shielded")
        stretch.unshield()
        events.append("still shielded")

        try:
            stretch.unshield()
        except JobInterrupt:
            events.append("raised")

        # Once.
        stretch.shield()
        stretch.unshield()
        events.append("free")

    stretch = Stretch(JobInterrupt)
    stretch.run(work, stretch)

    assert stretch.error is None
    assert events == ["shielded", "still shielded", "raised", "free"]


def test_nothing_comes_through_a_shield_under_fire(under_fire):
    breaches = []

    def work(stretch):
        while True:
            stretch.shield()

            try:
                for _ in range(100):
                    time.monotonic()
            except JobInterrupt as error:
                breaches.append(error)
            finally:
                stretch.unshield()

    for _ in range(300):
        stretch = Stretch(JobInterrupt)
        thread = Thread(target=lambda stretch=stretch: eventually_interrupt(stretch))
        thread.start()
        stretch.run(work, stretch)
        thread.join()

        assert isinstance(stretch.error, JobInterrupt)

    assert not breaches


def eventually_interrupt(stretch):
    while not stretch.interrupt():
        time.monotonic()


def test_a_shield_of_another_thread_is_none(under_fire):
    stretch = Stretch(JobInterrupt)
    thread = Thread(target=lambda: (stretch.shield(), stretch.shield(), stretch.unshield()))
    thread.start()
    thread.join()
    other, _ = hammered(spin)

    assert isinstance(other.error, JobInterrupt)
    assert stretch._shields == 0


def test_the_stack_shows_where_the_work_is_without_our_own_frames():
    inside, go_on = Event(), Event()

    def waiting_here(subject):
        inside.set()
        go_on.wait(10)

    made = []

    def thread_of_a_slot():
        made.append(Stretch(JobInterrupt))
        made[0].run(waiting_here, None)

    thread = threading.Thread(target=thread_of_a_slot)
    thread.start()
    assert inside.wait(10)
    stack = made[0].stack()
    go_on.set()
    thread.join()

    assert stack.splitlines()[0].strip().startswith(f'File "{__file__}"')
    assert "in waiting_here" in stack
    assert "go_on.wait(10)" in stack
    assert "thread_of_a_slot" not in stack
