"""Events and those who follow them."""

from __future__ import annotations

import logging
import threading

import pytest

from oban_sync import ConfigError, telemetry, worker
from oban_sync.telemetry import bus


@pytest.fixture(autouse=True)
def _detached():
    yield

    for identifier in ("one", "two"):
        telemetry.detach(identifier)


def test_a_handler_hears_the_events_it_asked_for_and_no_others():
    heard = []
    telemetry.attach("one", ["a.b", "a.c"], lambda event, fields: heard.append((event, fields)))
    telemetry.emit("a.b", {"n": 1})
    telemetry.emit("a.x", {"n": 2})
    telemetry.emit("a.c", {"n": 3})

    assert heard == [("a.b", {"n": 1}), ("a.c", {"n": 3})]
    assert telemetry.listened("a.b")
    assert not telemetry.listened("a.x")


def test_attaching_again_under_a_name_replaces_and_detaching_ends():
    heard = []
    telemetry.attach("one", ["a.b"], lambda event, fields: heard.append("first"))
    telemetry.attach("one", "a.b", lambda event, fields: heard.append("second"))
    telemetry.emit("a.b", {})
    telemetry.detach("one")
    telemetry.detach("one")
    telemetry.emit("a.b", {})

    assert heard == ["second"]
    assert not telemetry.listened("a.b")


def test_a_handler_that_raises_is_logged_and_stays_and_the_others_hear(caplog):
    heard = []

    def fail(event, fields):
        raise ValueError("handler trouble")

    telemetry.attach("one", ["a.b"], fail)
    telemetry.attach("two", ["a.b"], lambda event, fields: heard.append(event))

    with caplog.at_level(logging.ERROR):
        telemetry.emit("a.b", {})
        telemetry.emit("a.b", {})

    assert heard == ["a.b", "a.b"]
    assert [record.exc_info[0] for record in caplog.records] == [ValueError, ValueError]


def test_what_cannot_be_called_is_refused():
    with pytest.raises(ConfigError, match="handler"):
        telemetry.attach("one", ["a.b"], "print")


def test_a_span_tells_of_its_end_and_of_its_failure():
    heard = []
    names = ["s.start", "s.stop", "s.exception"]
    telemetry.attach("one", names, lambda event, fields: heard.append((event, fields)))

    with telemetry.span("s", queue="q") as seen:
        seen(count=3)

    with pytest.raises(ValueError, match="x"), telemetry.span("s"):
        raise ValueError("x")

    assert [event for event, _ in heard] == ["s.start", "s.stop", "s.start", "s.exception"]
    assert heard[1][1]["queue"] == "q"
    assert heard[1][1]["count"] == 3
    assert heard[1][1]["duration_ns"] >= 0
    assert str(heard[3][1]["error"]) == "x"


def test_handlers_come_and_go_while_events_happen():
    stop = threading.Event()

    def emit():
        while not stop.is_set():
            telemetry.emit("a.b", {})

    threads = [threading.Thread(target=emit) for _ in range(3)]

    for thread in threads:
        thread.start()

    for _ in range(300):
        telemetry.attach("one", ["a.b"], lambda event, fields: None)
        telemetry.detach("one")

    stop.set()

    for thread in threads:
        thread.join(5)

    assert "one" not in str(bus._handlers)


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_handler_that_raises_anything_loses_no_job(make_oban, factory, error):
    from tests.support.probe import eventually

    def fail(event, fields):
        raise error

    @worker(queue="alpha", name=f"handled-{error.__name__}")
    class Handled:
        def process(self, job):
            return None

    telemetry.attach("one", ["oban.job.start", "oban.job.stop", "oban.producer.turn"], fail)
    oban = make_oban(queues={"alpha": 2}).start()
    oban.enqueue_many(Handled.new() for _ in range(5))
    eventually(lambda: factory.count(state="completed") == 5)

    assert factory.count(attempt=1) == 5
