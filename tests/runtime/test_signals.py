"""Which signals mean a node, whoever sends them."""

from __future__ import annotations

import json
import os

import pytest

from oban_sync.runtime.signals import idents_of, queue_of


def test_a_node_is_meant_by_every_name_that_others_know_it_by():
    pid = os.getpid()

    assert idents_of("Oban", "web") == {"any", "Oban.web", f"Oban.web.{pid}"}
    assert idents_of("jobs", "web", told_as="Oban") == {
        "any",
        "jobs.web",
        f"jobs.web.{pid}",
        "Oban.web",
        f"Oban.web.{pid}",
    }


@pytest.mark.parametrize("ident", ["MyApp.Oban.web", "MyApp.Oban.web.{pid}", "jobs.web"])
def test_a_signal_of_oban_web_to_one_node_is_followed(make_oban, conn, prefix, probe, ident):
    made = make_oban(
        name="jobs", node="web", queues={"alpha": 1}, metrics={"name": "MyApp.Oban"}
    ).start()
    notifier = made._lifecycle.supervisor._notifier
    assert notifier.ready.wait(10)

    for said in (ident.replace("web", "other"), ident):
        signal = {"action": "pause", "queue": "alpha", "ident": said.format(pid=os.getpid())}
        conn.execute("SELECT pg_notify(%s, %s)", [f"{prefix}.oban_signal", json.dumps(signal)])

    probe.next("oban.queue.paused", queue="alpha")
    assert made.check_queue("alpha").paused


@pytest.mark.parametrize(
    ("queue", "aspect"), [(5, "paused"), (None, "limit"), ("*", "limit"), ("", "paused")]
)
def test_a_signal_about_no_queue_is_refused(queue, aspect):
    with pytest.raises(ValueError, match=r"queue|empty|name"):
        queue_of(queue, aspect)


def test_every_queue_can_be_paused():
    assert queue_of("*", "paused") == "*"
    assert queue_of("alpha", "limit") == "alpha"
