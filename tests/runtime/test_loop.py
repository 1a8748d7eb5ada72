"""The base of every background thread."""

from __future__ import annotations

import random
import time
from queue import SimpleQueue
from threading import Event, Thread

import pytest

from oban_sync.core.errors import DatabaseUnavailableError
from oban_sync.runtime.loop import Loop


class Recorder(Loop):
    """Says when it ticks, and does what it is told in the tick."""

    def __init__(self, *, interval=60.0, work=lambda: None):
        super().__init__("recorder", interval=interval)
        self.ticks: SimpleQueue[float] = SimpleQueue()
        self.work = work
        self.was_opened = self.was_closed = 0

    def opened(self):
        self.was_opened += 1

    def closed(self):
        self.was_closed += 1

    def tick(self):
        self.ticks.put(time.monotonic())

        return self.work()


@pytest.fixture
def started():
    loops = []

    def start(loop):
        loops.append(loop)
        loop.start()
        loop.ticks.get(timeout=5)

        return loop

    yield start

    for loop in loops:
        loop.request_stop()
        assert loop.join(time.monotonic() + 5)
        assert loop.was_closed == 1


def test_the_first_tick_comes_at_once_and_a_wake_brings_the_next(started):
    loop = started(Recorder())
    loop.wake()
    loop.ticks.get(timeout=5)

    assert loop.was_opened == 1


def test_a_wake_during_a_tick_is_not_lost(started):
    entered, go_on = Event(), Event()

    def work():
        entered.set()
        go_on.wait(5)

    loop = started(Recorder(work=work))
    entered.wait(5)
    loop.wake()
    go_on.set()

    loop.ticks.get(timeout=5)


def test_a_full_batch_is_followed_by_the_next_tick_at_once(started):
    pauses = [0.0, 0.0, 0.0, None]
    loop = started(Recorder(work=lambda: pauses.pop(0) if pauses else None))

    for _ in range(3):
        loop.ticks.get(timeout=5)


@pytest.mark.parametrize(
    "error", [RuntimeError("x"), SystemExit(), KeyboardInterrupt(), DatabaseUnavailableError("x")]
)
def test_a_failing_tick_never_ends_the_thread(started, error):
    left = [error, error]

    def work():
        if left:
            raise left.pop()

    loop = started(Recorder(interval=0.05, work=work))

    for _ in range(4):
        loop.ticks.get(timeout=5)

    assert loop.alive


def test_failures_pause_longer_and_longer_up_to_a_bound():
    loop = Recorder()
    loop.request_stop()

    def fail():
        raise RuntimeError

    loop.work = fail
    pauses = [loop._guarded_tick() for _ in range(12)]

    assert pauses[0] <= 0.11
    assert pauses[3] > pauses[0]
    assert max(pauses) <= Loop.LONGEST_PAUSE * 1.1

    loop.work = lambda: 3.0
    assert loop._guarded_tick() == 3.0

    loop.work = fail
    assert loop._guarded_tick() <= 0.11


def test_the_interval_is_jittered():
    loop = Recorder(interval=10.0)
    pauses = {loop._guarded_tick() for _ in range(20)}

    assert len(pauses) > 1
    assert all(9.0 <= pause <= 11.0 for pause in pauses)


def test_a_stop_before_the_start_and_twice_is_fine():
    loop = Recorder()
    loop.request_stop()
    loop.request_stop()

    assert loop.join(time.monotonic())

    loop.start()

    assert loop.join(time.monotonic() + 5)
    assert loop.was_closed == 1


def test_racing_starts_wakes_and_stops_always_end():
    for _ in range(50):
        loop = Recorder(interval=0.01)
        threads = [
            Thread(target=target)
            for target in (loop.wake, loop.request_stop, loop.wake, loop.request_stop)
        ]
        random.shuffle(threads)
        loop.start()

        for thread in threads:
            thread.start()

        for thread in threads:
            thread.join(5)

        assert loop.join(time.monotonic() + 5)
