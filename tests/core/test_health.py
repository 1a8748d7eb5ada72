"""What is said of a node's health."""

from __future__ import annotations

from oban_sync.core.health import Health, idle, judged

WELL = {
    "ended": (),
    "lapsed": False,
    "beaten": True,
    "beat_age": 1.0,
    "degraded": False,
    "leader": True,
    "queues": ["alpha"],
}


def test_a_node_without_trouble_is_well():
    assert judged(**WELL) == Health(
        True, True, [], running=True, leader=True, beat_age=1.0, queues=("alpha",)
    )


def test_one_that_hears_nothing_is_well_enough():
    found = judged(**{**WELL, "degraded": True})

    assert found.ok
    assert found.degraded


def test_one_that_lost_a_thread_has_to_be_restarted():
    found = judged(**{**WELL, "ended": ["queue-alpha"]})

    assert not found.ok
    assert not found.alive
    assert found.problems == ["the thread queue-alpha has ended"]


def test_one_that_cannot_tell_that_it_lives_is_alive_and_not_well():
    found = judged(**{**WELL, "lapsed": True, "beat_age": 61.2})

    assert not found.ok
    assert found.alive
    assert found.problems == [
        "its last beat was 61 s ago, so it takes no jobs, and others may take its own"
    ]


def test_one_that_never_reached_postgresql_says_so():
    found = judged(**{**WELL, "beaten": False, "beat_age": 7.0})

    assert found.problems == [
        "no beat could be written in 7 s since the start, so it takes no jobs"
    ]


def test_what_runs_nothing_is_well_unless_it_should():
    assert idle(stopped=False, wants=[]).ok
    assert idle(stopped=True, wants=[]).problems == ["it was stopped"]
    assert idle(stopped=False, wants=["a", "b"]).problems == [
        "it was not started, so these queues do not run here: a, b"
    ]


def test_one_that_is_being_stopped_is_alive_and_takes_no_requests():
    found = judged(**{**WELL, "stopping": True})

    assert found.alive
    assert not found.ok
    assert found.problems == ["it is being stopped, and takes no jobs"]
