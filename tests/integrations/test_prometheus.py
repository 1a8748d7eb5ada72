"""Metrics for Prometheus, read by its own parser."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from oban_sync import NotRunningError
from oban_sync.integrations import prometheus
from tests.support import traced_workers as workers
from tests.support.probe import eventually


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def attach(registry):
    def attach(*obans, **options):
        prometheus.attach(*obans, registry=registry, **options)

    yield attach

    prometheus.detach()


def samples(body=None):
    """All samples, by name and labels."""
    text = (prometheus.metrics_response()[0] if body is None else body).decode()

    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_runs_are_counted_and_timed(attach, oban):
    attach()
    workers.look.enqueue()
    workers.fails.enqueue()
    oban.drain_queue("traced", with_safety=True, with_limit=2)
    seen = samples()

    assert seen["oban_jobs_total", "completed", "tests.traced.look", "traced"] == 1
    assert seen["oban_jobs_total", "retryable", "tests.traced.fails", "traced"] == 1
    assert seen["oban_job_duration_seconds_count", "tests.traced.look", "traced"] == 1
    assert seen["oban_job_duration_seconds_bucket", "+Inf", "tests.traced.look", "traced"] == 1
    assert seen["oban_job_wait_seconds_count", "traced"] == 2
    assert seen["oban_jobs_inserted_total", "traced"] == 2


def test_the_node_and_its_queues_are_gauges(attach, make_oban):
    oban = make_oban(queues={"traced": 7}, node="blue")
    attach(oban)
    assert samples()["oban_node_up", "Oban", "blue"] == 0

    oban.start()
    eventually(lambda: samples()["oban_leader", "Oban", "blue"] == 1)
    eventually(lambda: samples()["oban_node_up", "Oban", "blue"] == 1)
    seen = samples()
    assert seen["oban_queue_slots", "Oban", "traced"] == 7
    assert seen["oban_queue_running", "Oban", "traced"] == 0
    assert seen["oban_queue_paused", "Oban", "traced"] == 0
    oban.pause_queue("traced")
    eventually(lambda: samples()["oban_queue_paused", "Oban", "traced"] == 1)


def test_the_cluster_s_queues_are_there_where_they_are_asked_for(attach, oban, factory):
    factory.job(queue="far")
    attach(oban)
    assert not [key for key in samples() if key[0].startswith("oban_cluster")]

    attach(oban, cluster=oban)
    seen = samples()
    assert seen["oban_cluster_queue_jobs", "available", "far"] == 1
    assert seen["oban_cluster_queue_oldest_age_seconds", "far"] >= 0
    assert seen["oban_cluster_queue_nodes", "far"] == 0


def test_a_database_that_is_away_leaves_the_rest(attach, make_oban):
    away = make_oban(conninfo="host=127.0.0.1 port=1 connect_timeout=1")
    attach(cluster=away)

    assert not [key for key in samples() if key[0].startswith("oban_cluster")]


def test_workers_that_are_not_known_share_a_name(attach, oban, factory):
    attach()
    factory.job(queue="traced", worker="made.up.Name")
    oban.drain_queue("traced", with_safety=True)

    assert ("oban_jobs_total", "(unknown)", "retryable", "traced") in samples()


def test_troubles_are_counted(attach):
    from oban_sync import telemetry

    attach()
    telemetry.emit("oban.loop.exception", {"loop": "stager", "error": ValueError()})
    telemetry.emit("oban.producer.release", {"queue": "q", "jobs": [1, 2, 3]})
    telemetry.emit("oban.job.timeout", {"job": None, "step": "flag", "elapsed": 1})
    telemetry.emit("oban.job.timeout", {"job": None, "step": "interrupt", "elapsed": 1})

    kinds = {key[1]: value for key, value in samples().items() if key[0] == "oban_troubles_total"}
    assert kinds == {"loop": 1, "handed_back": 3, "timed_out": 1}


def test_attaching_again_and_detaching_leave_nothing_behind(attach, registry):
    attach()
    attach()
    prometheus.detach()

    assert list(registry.collect()) == []

    with pytest.raises(NotRunningError, match="attach"):
        prometheus.metrics_response()


def test_they_can_be_served_on_a_port_of_their_own(attach, oban, unused_port):
    attach()
    workers.look.enqueue()
    stop = prometheus.serve(unused_port)

    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{unused_port}/metrics") as reply:
            assert samples(reply.read())["oban_jobs_inserted_total", "traced"] == 1
    finally:
        stop()


@pytest.fixture
def unused_port():
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))

        return listener.getsockname()[1]


PROCESS = """
import sys
from oban_sync import Oban
from oban_sync.integrations import prometheus
from tests.support import traced_workers as workers

oban = Oban(sys.argv[1], prefix=sys.argv[2])
prometheus.attach(oban)
workers.look.enqueue()
oban.drain_queue("traced")
sys.stdout.buffer.write(prometheus.metrics_response()[0])
oban.stop()
"""


def test_several_processes_are_added_up(dsn, prefix, tmp_path):
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": "."}

    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", PROCESS, dsn, prefix],
            capture_output=True,
            env=environment,
            timeout=50,
        )
        assert done.returncode == 0, done.stderr.decode()

    seen = samples(done.stdout)
    assert seen["oban_jobs_total", "completed", "tests.traced.look", "traced"] == 2
    assert ("oban_leader", "Oban", *()) in {key[:2] for key in seen}


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=x",
        "application/openmetrics-text; version=1.x.0; escaping=y",
        "text/plain;version=x",
        "text/plain;version=1.0.0;escaping=bogus",
        ",;,;=",
    ],
)
def test_what_asks_for_no_version_that_there_is_gets_the_plain_format(attach, oban, accept):
    attach(oban)
    body, kind = prometheus.metrics_response(accept)

    assert b"oban_node_up" in body
    assert kind.startswith("text/plain")
