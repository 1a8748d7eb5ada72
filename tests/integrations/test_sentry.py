"""Errors and traces for Sentry, by a transport that keeps what it is given."""

from __future__ import annotations

import json
from threading import Event

import pytest
import sentry_sdk
from sentry_sdk.transport import Transport

from oban_sync import Job, telemetry
from oban_sync.integrations import sentry
from tests.support import traced_workers as workers
from tests.support.probe import eventually


class Kept(Transport):
    """Keeps the items of envelopes."""

    def __init__(self, options=None):
        super().__init__(options)
        self.items = []

    def capture_envelope(self, envelope):
        for item in envelope.items:
            if (payload := item.payload.json) is not None:
                self.items.append((item.type, payload))

    def of(self, kind, count=1):
        """Waits for so many of a kind."""
        eventually(lambda: len([1 for name, _ in self.items if name == kind]) >= count)

        return [payload for name, payload in self.items if name == kind]


@pytest.fixture
def kept():
    transport = Kept()
    sentry_sdk.init(
        dsn="http://key@localhost/1",
        transport=transport,
        traces_sample_rate=1.0,
        default_integrations=False,
        auto_enabling_integrations=False,
    )

    yield transport

    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(None)


@pytest.fixture
def attach(kept):
    yield sentry.attach

    sentry.detach()


@pytest.fixture
def run(attach, make_oban):
    return make_oban(queues={"traced": 2}).start()


def test_a_failure_is_reported_with_what_is_known_of_the_job(attach, run, kept):
    attach()
    job = workers.fails.enqueue()
    [event] = kept.of("event")
    about = event["contexts"]["oban job"]

    assert event["exception"]["values"][-1]["type"] == "ValueError"
    assert event["exception"]["values"][-1]["mechanism"] == {"type": "oban", "handled": True}
    assert event["exception"]["values"][-1]["stacktrace"]["frames"][-1]["function"] == "fails"
    assert (about["id"], about["worker"], about["attempt"]) == (job.id, "tests.traced.fails", 1)
    assert "args" not in about
    assert event["tags"]["oban.queue"] == "traced"
    assert event["transaction"] == "tests.traced.fails"
    assert event["level"] == "warning"


def test_the_last_failure_is_an_error(attach, run, kept):
    attach(retries=False)
    job = workers.fails.enqueue()
    eventually(lambda: run.get_job(job.id).state == "retryable")
    run.retry_job(job.id)
    [event] = kept.of("event")

    assert event["level"] == "error"
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is False
    assert event["contexts"]["oban job"]["attempt"] == 2


def test_args_are_sent_where_they_are_asked_for_and_secrets_hidden(attach, run, kept):
    attach(args=True)
    workers.fails.enqueue(secret="s3cret")
    [event] = kept.of("event")

    assert event["contexts"]["oban job"]["args"] == {"secret": "[hidden]"}


def test_a_function_decides_what_is_sent_of_args(attach, run, kept):
    attach(args=lambda job: sorted(job.args))
    workers.fails.enqueue(secret="s3cret")
    [event] = kept.of("event")

    assert event["contexts"]["oban job"]["args"] == ["secret"]


def test_a_run_is_a_transaction_in_the_trace_that_enqueued_it(attach, run, kept):
    attach()

    with sentry_sdk.start_transaction(op="http.server", name="request"):
        job = workers.look.enqueue()

    first, second = kept.of("transaction", 2)
    request, process = (first, second) if first["transaction"] == "request" else (second, first)
    [publish] = [span for span in request["spans"] if span["op"] == "queue.publish"]
    trace = process["contexts"]["trace"]

    assert publish["data"]["messaging.message.id"] == str(job.id)
    assert publish["data"]["messaging.destination.name"] == "traced"
    assert process["transaction"] == "tests.traced.look"
    assert trace["op"] == "queue.process"
    assert trace["trace_id"] == request["contexts"]["trace"]["trace_id"]
    assert trace["parent_span_id"] == publish["span_id"]
    assert trace["data"]["messaging.message.retry.count"] == 0
    assert trace["data"]["messaging.message.receive.latency"] >= 0
    assert trace["status"] == "ok"


def test_an_error_belongs_to_the_trace_of_its_run(attach, run, kept):
    attach()
    workers.fails.enqueue()
    [event], [process] = kept.of("event"), kept.of("transaction")

    assert event["contexts"]["trace"]["trace_id"] == process["contexts"]["trace"]["trace_id"]
    assert process["contexts"]["trace"]["status"] == "internal_error"


def test_what_a_job_sets_in_its_scope_is_not_the_next_one_s(attach, make_oban, kept):
    attach()
    oban = make_oban()
    outer = sentry_sdk.get_isolation_scope()
    workers.fails.enqueue()
    oban.drain_queue("traced", with_safety=True, with_limit=1)
    kept.of("event")

    assert sentry_sdk.get_isolation_scope() is outer
    assert not sentry._attached[0]._begun


def test_snoozing_and_discarding_by_word_are_no_errors(attach, run, kept):
    attach()
    workers.ends.enqueue("snooze")
    workers.ends.enqueue("discard")
    kept.of("transaction", 2)

    assert [kind for kind, _ in kept.items if kind == "event"] == []


def test_without_a_client_nothing_happens(make_oban):
    sentry.attach()

    try:
        oban = make_oban()
        job = workers.look.enqueue()
        oban.drain_queue("traced")
        assert oban.get_job(job.id).meta.get("oban_sync") is None
    finally:
        sentry.detach()

    assert not telemetry.listened("oban.job.error")


@pytest.fixture
def everything():
    """A client as `init` makes it by default, which sends local variables, and one more source."""
    transport = Kept()

    def known(event, hint):
        for value in event.get("exception", {}).get("values", ()):
            for frame in value["stacktrace"]["frames"]:
                frame["vars"] = {"found": "s3cret"}

        return event

    sentry_sdk.init(
        dsn="http://key@localhost/1", transport=transport, auto_enabling_integrations=False
    )
    sentry_sdk.get_global_scope().add_event_processor(known)

    yield transport

    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(None)
    sentry_sdk.get_global_scope().clear()


@pytest.mark.parametrize("args", [False, True])
def test_the_variables_of_what_failed_are_never_sent(everything, make_oban, args):
    sentry.attach(args=args)

    try:
        make_oban(queues={"traced": 2}).start()
        workers.fails.enqueue(secret="s3cret")
        [event] = everything.of("event")
    finally:
        sentry.detach()

    frames = event["exception"]["values"][-1]["stacktrace"]["frames"]

    assert frames[-1]["function"] == "fails"
    assert not any("vars" in frame for frame in frames)
    assert '"s3cret"' not in json.dumps(event).replace('secret=\\"s3cret\\"', "")
    assert event["contexts"]["oban job"].get("args") == ({"secret": "[hidden]"} if args else None)


class Flushed(Kept):
    """Counts how often it is to send what it was given, which may take all the time there is."""

    def __init__(self, answers):
        super().__init__()
        self.answers = answers
        self.asked = 0

    def flush(self, timeout, callback=None):
        self.asked += 1

        if not self.answers:
            Event().wait(timeout)


@pytest.mark.parametrize(("answers", "asked"), [(True, 3), (False, 1)], ids=["quick", "mute"])
def test_the_jobs_of_a_child_do_not_wait_one_by_one_for_a_sentry_that_does_not_answer(
    attach, monkeypatch, answers, asked
):
    monkeypatch.setattr(sentry, "FLUSH_PATIENCE", 0.3)
    transport = Flushed(answers)
    sentry_sdk.init(
        dsn="http://key@localhost/1",
        transport=transport,
        default_integrations=False,
        auto_enabling_integrations=False,
    )
    attach()

    for _ in range(3):
        job = Job(worker="W", queue="alpha", args={})
        telemetry.emit("oban.child.start", {"job": job, "carried": {}})
        telemetry.emit("oban.child.stop", {"job": job, "state": "completed"})

    assert transport.asked == asked
