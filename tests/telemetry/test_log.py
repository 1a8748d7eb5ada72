"""The structured log."""

from __future__ import annotations

import json
import logging

import pytest

from oban_sync.core.job import Job
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
