"""The structured log."""

from __future__ import annotations

import json
import logging

import pytest

from oban_sync import ConfigError
from oban_sync.core.job import CURRENT, Job
from oban_sync.telemetry import bus, log


@pytest.fixture
def job():
    job = Job(worker="app.Mailer", queue="mailers", args='{"card":"s3cret"}')
    job.id = 7
    job.attempt = 1

    return job


@pytest.fixture
def logged(caplog):
    log.attach()

    with caplog.at_level(logging.INFO, logger="oban_sync.jobs"):
        yield caplog

    log.detach()


def ended(job, state, **fields):
    return {"job": job, "state": state, "duration": 1_500_000, "queue_time": 2_000_000, **fields}


def test_a_finished_job_is_one_line_with_its_facts_and_without_its_args(logged, job):
    bus.emit("oban.job.stop", ended(job, "completed"))
    [record] = logged.records
    line = log.TextFormatter().format(record)

    assert line.endswith(
        "INFO job completed id=7 worker=app.Mailer queue=mailers attempt=1/20"
        " duration_ms=1.5 waited_ms=2.0"
    )
    assert json.loads(log.JsonFormatter().format(record))["id"] == 7
    assert "s3cret" not in line


def test_a_failed_job_is_a_warning_with_its_error(logged, job):
    fields = ended(job, "retryable", error_type="ValueError", error_message="a\nb \x1b[31m")
    bus.emit("oban.job.exception", fields)
    [record] = logged.records
    line = log.TextFormatter().format(record)

    assert record.levelno == logging.WARNING
    assert "\n" not in line
    assert "\x1b" not in line
    assert "ValueError: a" in line


def test_handed_back_and_fenced_jobs_are_told(logged, job):
    bus.emit("oban.producer.release", {"queue": "mailers", "jobs": [job, job]})
    bus.emit("oban.job.fenced", {"job": job, "state": "completed"})

    assert [record.what for record in logged.records] == [
        "job handed back",
        "job handed back",
        "job fenced",
    ]


def test_a_traceback_follows_its_line():
    try:
        raise ValueError("x\x1b[31m")
    except ValueError as error:
        record = logging.LogRecord(
            "oban_sync", logging.ERROR, "", 1, "it failed", (), (type(error), error, None)
        )

    text = log.TextFormatter().format(record)

    assert text.splitlines()[0].endswith("it failed")
    assert "\x1b" not in text
    assert "ValueError" in json.loads(log.JsonFormatter().format(record))["traceback"]


@pytest.mark.parametrize("text", ["plain", "é 名", "tab\tkept"])
def test_printable_text_stays_as_it_is(text):
    assert log.printable(text) == text


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", "a\rb", "\x9b", "\u202e", "\x07"])
def test_text_that_could_steer_a_terminal_is_escaped(text):
    assert log.printable(text).isprintable()


def test_lines_about_what_went_well_have_the_level_that_is_wanted(caplog, job):
    log.attach(level="debug", starts=True)

    with caplog.at_level(logging.DEBUG, logger="oban_sync.jobs"):
        bus.emit("oban.job.start", {"job": job, "monotonic_time": 1})
        bus.emit("oban.job.stop", ended(job, "completed"))
        bus.emit("oban.job.exception", ended(job, "retryable", error_type="E", error_message="m"))

    log.detach()
    assert [(record.what, record.levelname) for record in caplog.records] == [
        ("job started", "DEBUG"),
        ("job completed", "DEBUG"),
        ("job retryable", "WARNING"),
    ]


def test_a_level_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="loud"):
        log.attach(level="loud")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (True, {"card": "[hidden]", "to": "ann"}),
        (lambda job: sorted(job.args), ["card", "to"]),
    ],
    ids=["redacted", "by a function"],
)
def test_args_are_logged_where_they_are_asked_for(caplog, job, args, expected):
    job.args.update({"to": "ann"})
    log.attach(args=args)

    with caplog.at_level(logging.INFO, logger="oban_sync.jobs"):
        bus.emit("oban.job.stop", ended(job, "completed"))

    log.detach()
    [record] = caplog.records
    assert record.fields["args"] == expected
    assert "s3cret" not in log.TextFormatter().format(record)


def test_args_that_cannot_be_read_lose_no_line(caplog):
    job = Job(worker="app.Mailer", queue="mailers", args="[1]")
    log.attach(args=True)

    with caplog.at_level(logging.INFO, logger="oban_sync.jobs"):
        bus.emit("oban.job.stop", ended(job, "completed"))

    log.detach()
    assert "cannot be read" in caplog.records[0].fields["args"]


def test_a_line_that_a_job_logs_names_the_job_and_has_what_was_given_with_it(job):
    record = logging.getLogger("app").makeRecord(
        "app", logging.INFO, "file", 1, "sent", (), None, extra={"to": "ann", "fields": 3}
    )
    token = CURRENT.set(job)

    try:
        line = json.loads(log.JsonFormatter().format(record))
    finally:
        CURRENT.reset(token)

    assert (line["job_id"], line["worker"], line["attempt"]) == (7, "app.Mailer", "1/20")
    assert (line["to"], line["message"]) == ("ann", "sent")


def test_what_an_application_gives_with_a_line_cannot_pass_for_its_time_or_level():
    record = logging.getLogger("app").makeRecord(
        "app", logging.INFO, "file", 1, "sent", (), None, extra={"level": "x", "time": "y"}
    )
    line = json.loads(log.JsonFormatter().format(record))

    assert line["level"] == "info"
    assert line["time"] != "y"
