"""What Oban Web is told: shapes as oban-py 0.7 sends them, in what PostgreSQL carries."""

from __future__ import annotations

import json

from oban_sync.core import gossip
from oban_sync.core.gossip import Speaker

SPEAKER = Speaker("Oban", "web-1")


def test_a_queue_is_told_as_oban_py_tells_it():
    check = gossip.check(
        SPEAKER,
        uuid="u",
        queue="alpha",
        limit=2,
        paused=False,
        running=[120],
        started_at="2026-11-01T10:00:00+00:00",
    )
    [text] = gossip.gossip([check])

    assert json.loads(text) == {
        "checks": [
            {
                "uuid": "u",
                "node": "web-1",
                "name": "Oban",
                "queue": "alpha",
                "local_limit": 2,
                "paused": False,
                "running": [120],
                "started_at": "2026-11-01T10:00:00+00:00",
            }
        ]
    }


def test_metrics_are_told_as_oban_py_tells_them():
    label = {"state": "completed", "queue": "events", "worker": "W"}
    items = [
        gossip.times("exec_time", bins={490: 4}, **label),
        gossip.count("exec_count", jobs=4, **label),
        gossip.count("full_count", state="completed", queue="events", jobs=96),
    ]
    [text] = gossip.metrics(SPEAKER, 1795425447, items)

    assert json.loads(text) == {
        "name": "Oban",
        "node": "web-1",
        "time": 1795425447,
        "metrics": [
            {"series": "exec_time", **label, "value": {"data": {"490": 4}, "size": 4}},
            {"series": "exec_count", **label, "value": {"data": [4]}},
            {
                "series": "full_count",
                "state": "completed",
                "queue": "events",
                "value": {"data": [96]},
            },
        ],
    }


def test_a_crontab_is_told_with_options():
    [text] = gossip.cronitor(SPEAKER, [("* * * * *", "W", {"name": "ab"})])

    assert json.loads(text) == {
        "name": "Oban",
        "node": "web-1",
        "crontab": [["* * * * *", "W", {"name": "ab"}]],
    }


def test_nothing_to_tell_is_not_told():
    assert list(gossip.gossip([])) == []
    assert list(gossip.metrics(SPEAKER, 1, [])) == []


def test_much_to_tell_is_told_in_parts_that_fit():
    items = [
        gossip.count("full_count", state="available", queue=f"queue-\N{SNOWMAN}-{n}", jobs=n)
        for n in range(1_000)
    ]
    texts = list(gossip.metrics(SPEAKER, 1, items))
    told = [item for text in texts for item in json.loads(text)["metrics"]]

    assert len(texts) > 1
    assert all(len(text.encode()) < 8_000 for text in texts)
    assert told == items


def test_what_fits_nowhere_has_a_payload_of_its_own():
    items = [
        gossip.count("full_count", state="available", queue=queue, jobs=1)
        for queue in ("a", "x" * 9_000, "b")
    ]
    told = [
        [item["queue"][:1] for item in json.loads(text)["metrics"]]
        for text in gossip.metrics(SPEAKER, 1, items)
    ]

    assert told == [["x"], ["a", "b"]]


def test_a_queue_that_runs_thousands_of_jobs_is_told_with_some():
    check = gossip.check(
        SPEAKER,
        uuid="u",
        queue="q",
        limit=10_000,
        paused=False,
        running=list(range(10**12, 10**12 + 10_000)),
        started_at="",
    )
    [text] = gossip.gossip([check])

    assert len(json.loads(text)["checks"][0]["running"]) == gossip.MOST_RUNNING
