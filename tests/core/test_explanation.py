"""From what is known about a job to the sentence that says why it does not run."""

from __future__ import annotations

import json
import re

import pytest

from oban_sync import JobState
from oban_sync.core.errors import nearest
from oban_sync.core.explanation import Reason, judge

NOW = "2026-11-29T12:00:00"

JOB = {
    "id": 7,
    "state": "available",
    "queue": "mailers",
    "worker": "app.Mail",
    "priority": 0,
    "attempt": 0,
    "max_attempts": 20,
    "inserted_at": "2026-11-29T11:59:59",
    "scheduled_at": "2026-11-29T11:59:59",
    "attempted_at": None,
    "completed_at": None,
    "cancelled_at": None,
    "discarded_at": None,
    "node": None,
    "owner": None,
    "error": None,
    "error_at": None,
    "deadline_at": None,
    "deaths": 0,
    "unwanted": False,
    "cancel_requested_at": None,
    "cancel_requested_by": None,
    "workflow": None,
    "deps": None,
}

NODE = {
    "uuid": "n1",
    "name": "Oban",
    "node": "web-1",
    "lives": True,
    "beat_age": 1.0,
    "producer": "p1",
    "limit": 5,
    "paused": False,
    "busy": 0,
    "knows": True,
    "stops": False,
    "beat": 3.0,
    "degraded": False,
    "look": 1.0,
}

OWNER = {
    "uuid": "n1",
    "name": "Oban",
    "node": "web-1",
    "lives": True,
    "locked": True,
    "beat_age": 1.0,
    "beat": 3.0,
    "patience": 60.0,
}

CONTROL = {
    "seq": 1,
    "name": "Oban",
    "queue": "mailers",
    "node": "*",
    "aspect": "paused",
    "value": True,
    "set_by": "anna",
    "set_at": "2026-11-29T11:57:00+00:00",
    "until": None,
    "ended": False,
}

LIMITS = {
    "allowed": None,
    "partitioned": False,
    "burst": False,
    "fair": False,
    "by": [],
    "rate": None,
    "running": 0,
    "in_lane": 0,
    "room": None,
    "again_in": None,
    "weight": None,
}

RATE = {"allowed": 60, "period": 60.0, "algorithm": "sliding_window", "partitioned": False}

RUNNING = {"jobs": 0, "alike": 0, "strangers": 0, "ids": [], "alike_ids": []}


def explained(job=None, *, nodes=({},), controls=(), owner=None, limits=None, **facts):
    """The explanation of a job that would start any moment but for what is given."""
    nodes = [{**NODE, **node} for node in nodes]

    return judge(
        {
            "now": NOW,
            "job": {**JOB, **(job or {})},
            "key_held_by": [],
            "before": 0,
            "running": {**RUNNING, **facts.pop("running", {})},
            "nodes": nodes,
            "workers": ["app.Mail", "app.Import"],
            "alive": sum(node["lives"] for node in nodes),
            "queues": ["mailers", "media"],
            "owner": None if owner is None else {**OWNER, **owner},
            "rescue_after": 300.0,
            "leaders": [],
            "controls": [{**CONTROL, **control} for control in controls],
            "limits": None if limits is None else {**LIMITS, **limits},
            "most_before": 1_000,
            "suspect_at": 2,
            **facts,
        }
    )


def runs(**job):
    return {"state": "executing", "attempt": 1, "node": "web-1", "owner": "p1"} | job


LATER = "2026-11-29T12:00:30"

CASES = [
    # What became of it.
    (
        {"job": {"state": "completed", "attempt": 2, "completed_at": "2026-11-29T11:57:00"}},
        Reason.COMPLETED,
        "It completed 3 minutes ago, at 11:57:00 UTC, in attempt 2.",
    ),
    (
        {
            "job": {
                "state": "cancelled",
                "cancelled_at": "2026-11-29T11:57:00",
                "cancel_requested_by": "anna",
            }
        },
        Reason.CANCELLED,
        "It was cancelled 3 minutes ago, at 11:57:00 UTC, by anna.",
    ),
    (
        {
            "job": {
                "state": "cancelled",
                "cancelled_at": None,
                "error": "not started: its deadline was at 11:00",
            }
        },
        Reason.CANCELLED,
        "It was cancelled: not started: its deadline was at 11:00.",
    ),
    (
        # By hand, after an attempt that failed.
        {
            "job": {
                "state": "cancelled",
                "cancelled_at": "2026-11-29T11:57:00",
                "cancel_requested_by": "anna",
                "error": "ValueError: no such address",
                "error_at": "2026-11-29T11:56:00Z",
            }
        },
        Reason.CANCELLED,
        "It was cancelled 3 minutes ago, at 11:57:00 UTC, by anna.",
    ),
    (
        # By itself.
        {
            "job": {
                "state": "cancelled",
                "cancelled_at": "2026-11-29T11:57:00",
                "error": "ValueError: no such address",
                "error_at": "2026-11-29T11:56:59.9Z",
            }
        },
        Reason.CANCELLED,
        "It was cancelled 3 minutes ago, at 11:57:00 UTC: ValueError: no such address.",
    ),
    (
        {
            "job": {
                "state": "discarded",
                "attempt": 20,
                "discarded_at": "2026-11-27T12:00:00",
                "error": 'Traceback (most recent call last):\n  File "a.py", line 3, in process\n'
                "    raise ValueError\nValueError: no such address.",
            }
        },
        Reason.DISCARDED,
        "It was given up 2 days ago, at 2026-11-27 12:00 UTC, in attempt 20 of 20: "
        "ValueError: no such address.",
    ),
    # It runs, as far as is known.
    (
        {"job": runs(attempted_at="2026-11-29T11:58:00"), "owner": {}},
        Reason.EXECUTING,
        "It runs on node 'web-1' since 11:58:00 UTC, for 2 minutes.",
    ),
    (
        {
            "job": runs(
                unwanted=True,
                cancel_requested_by="anna",
                cancel_requested_at="2026-11-29T11:59:50.000000Z",
            ),
            "owner": {},
        },
        Reason.STOPPING,
        "It was asked to stop 10 seconds ago by anna, and still runs on node 'web-1'.",
    ),
    (
        {"job": runs(), "owner": {"beat_age": 20.0}, "nodes": [{}, {"node": "web-2"}]},
        Reason.SILENT,
        "It was started by node 'web-1', which has not been heard of for 20 seconds. It is given "
        "back in about 40 seconds, unless the node is heard of again.",
    ),
    (
        {
            "job": runs(),
            "owner": {"beat_age": 2.0, "locked": False, "patience": 6.0},
            "nodes": [{}, {"node": "web-2"}],
        },
        Reason.SILENT,
        "It was started by node 'web-1', which has not been heard of for 2 seconds and its session "
        "has ended. It is given back in about 4 seconds, unless the node is heard of again.",
    ),
    (
        {"job": runs(), "owner": {"beat_age": 70.0, "lives": False}, "nodes": [{}]},
        Reason.SILENT,
        "It was started by node 'web-1', which has not been heard of for 70 seconds. It is given "
        "back any moment.",
    ),
    (
        {"job": runs(), "owner": {"beat_age": 70.0, "lives": False}, "nodes": []},
        Reason.SILENT,
        "It was started by node 'web-1', which has not been heard of for 70 seconds. No other node "
        "is there to give it back: start one.",
    ),
    (
        {"job": runs(attempted_at="2026-11-29T11:58:00", node="exA")},
        Reason.SILENT,
        "It was started by node 'exA', of which nothing is known: it is gone, or one of another "
        "Oban, or a drain runs it. It is given back in about 3 minutes, unless the node is heard "
        "of again.",
    ),
    # It has to wait in any case.
    (
        {"job": {"deadline_at": "2026-11-29T11:57:00.000000Z"}},
        Reason.DEADLINE,
        "Its deadline passed 3 minutes ago, at 11:57:00 UTC: it is cancelled when a node takes it, "
        "and does not run.",
    ),
    (
        {"job": {"attempt": 20}},
        Reason.EXHAUSTED,
        "All of its 20 attempts are used up, so that no node takes it; retry it to give it another "
        "one.",
    ),
    (
        {"job": {"state": "suspended"}},
        Reason.SUSPENDED,
        "It is suspended, until whoever suspended it lets it go on, or it is retried.",
    ),
    (
        {"job": {"state": "suspended", "deps": ["a", "b"], "workflow": "w1"}},
        Reason.SUSPENDED,
        "It is suspended, and waits for 'a' and 'b' of workflow 'w1'.",
    ),
    (
        {"job": {"state": "scheduled", "scheduled_at": LATER, "deaths": 2}},
        Reason.QUARANTINED,
        "2 processes died while it ran, so it is suspected to be the cause, and started apart from "
        "other suspects: in 30 seconds, at 12:00:30 UTC.",
    ),
    (
        {"job": {"state": "scheduled", "scheduled_at": "2026-11-30T09:00:00"}},
        Reason.SCHEDULED,
        "It is scheduled to start in 21 hours, at 2026-11-30 09:00 UTC.",
    ),
    (
        {"job": {"state": "scheduled", "scheduled_at": "infinity"}},
        Reason.SCHEDULED,
        "It is scheduled for a time that never comes; retry it to start it now.",
    ),
    (
        {
            "job": {
                "state": "retryable",
                "scheduled_at": LATER,
                "attempt": 1,
                "error": "** (RuntimeError) no\n    lib/a.ex:1",
                "error_at": "2026-11-29T11:59:50Z",
            }
        },
        Reason.RETRYABLE,
        "It failed 10 seconds ago, in attempt 1 of 20: ** (RuntimeError) no. The next one starts "
        "in 30 seconds, at 12:00:30 UTC.",
    ),
    # Something keeps it back.
    (
        {"nodes": []},
        Reason.NO_NODE,
        "No node is alive, so nobody runs queue 'mailers': start one.",
    ),
    (
        {"job": {"queue": "mailrs"}, "nodes": [], "alive": 2},
        Reason.NO_NODE,
        "No living node runs queue 'mailrs'. Did you mean 'mailers'?",
    ),
    (
        {"nodes": [{"lives": False, "beat_age": 120.0}], "alive": 1, "queues": []},
        Reason.NO_NODE,
        "No living node runs queue 'mailers'. Node 'web-1', which ran it, has not been heard of "
        "for 2 minutes.",
    ),
    (
        {"nodes": [], "alive": 1, "controls": [{"aspect": "running", "value": False}]},
        Reason.NO_NODE,
        "No node runs queue 'mailers': anna stopped it 3 minutes ago.",
    ),
    (
        {"nodes": [], "alive": 1, "queues": [], "running": {"strangers": 1}},
        Reason.NO_NODE,
        "No living node runs queue 'mailers'. Nodes of another Oban, which cannot be seen from "
        "here, may run it.",
    ),
    (
        {"nodes": [{"beat_age": 45.0}]},
        Reason.SILENT,
        "Node 'web-1', the only one that takes jobs of queue 'mailers', has not been heard of for "
        "45 seconds.",
    ),
    (
        # One is heard of, but takes nothing.
        {
            "nodes": [
                {"beat_age": 45.0},
                {"node": "web-2", "beat_age": 30.0, "beat": 10.0},
                {"node": "web-3", "paused": True},
            ]
        },
        Reason.SILENT,
        "No node that takes jobs of queue 'mailers' has been heard of for 30 seconds.",
    ),
    (
        {"nodes": [{"stops": True, "busy": 1}]},
        Reason.LEAVING,
        "Node 'web-1', which runs queue 'mailers', is being stopped and takes no more jobs.",
    ),
    (
        {"controls": [{"aspect": "running", "value": False}]},
        Reason.LEAVING,
        "Queue 'mailers' is being stopped on every node: anna stopped it 3 minutes ago.",
    ),
    (
        {
            "nodes": [{"stops": True}, {"node": "web-2"}],
            "controls": [{"aspect": "running", "value": False, "node": "web-2"}],
        },
        Reason.LEAVING,
        "No node takes jobs of queue 'mailers' any more: node 'web-1' is being stopped and on "
        "'web-2' anna stopped it 3 minutes ago.",
    ),
    (
        # Who knows it takes nothing.
        {
            "nodes": [{"paused": True}, {"node": "web-2", "knows": False}],
        },
        Reason.UNKNOWN_WORKER,
        "No node that takes jobs of queue 'mailers' knows worker 'app.Mail', so it fails when it "
        "is started.",
    ),
    (
        # Of those that stay, none takes any.
        {
            "nodes": [{"stops": True}, {"node": "web-2"}],
            "controls": [{"node": "web-2"}],
        },
        Reason.PAUSED,
        "Queue 'mailers' is paused on every node that runs it: on 'web-2' anna paused it 3 minutes "
        "ago.",
    ),
    (
        {
            "nodes": [{"stops": True}, {"node": "web-2", "limit": 1, "busy": 1}],
            "running": {"jobs": 1, "ids": [1]},
        },
        Reason.SLOTS_FULL,
        "On node 'web-2' the slot of queue 'mailers' is taken (job 1); the others take no jobs.",
    ),
    (
        {"job": {"worker": "app.Mial"}, "nodes": [{"knows": False}, {"knows": False}]},
        Reason.UNKNOWN_WORKER,
        "No node that runs queue 'mailers' knows worker 'app.Mial', so it fails when it is "
        "started. Did you mean 'app.Mail'?",
    ),
    (
        {"controls": [{"until": "2026-11-29T14:30:00+00:00"}]},
        Reason.PAUSED,
        "Queue 'mailers' is paused on every node: anna paused it 3 minutes ago, until 14:30 UTC.",
    ),
    (
        {"controls": [{"queue": "*", "set_by": None}]},
        Reason.PAUSED,
        "All queues are paused on every node: they were paused 3 minutes ago.",
    ),
    (
        {"controls": [{"queue": "*"}]},
        Reason.PAUSED,
        "All queues are paused on every node: anna paused them 3 minutes ago.",
    ),
    (
        {
            "nodes": [{}, {"node": "web-2"}],
            "controls": [{"node": "web-1"}, {"seq": 2, "node": "web-2", "set_by": None}],
        },
        Reason.PAUSED,
        "Queue 'mailers' is paused on every node that runs it: on 'web-1' anna paused it 3 minutes "
        "ago and on 'web-2' it was paused 3 minutes ago.",
    ),
    (
        {"nodes": [{"paused": True}]},
        Reason.PAUSED,
        "Queue 'mailers' is paused on every node that runs it: on 'web-1' by a signal that does "
        "not say whose it is.",
    ),
    (
        {"limits": {"allowed": 2, "running": 2}, "running": {"jobs": 2, "ids": [3, 4]}},
        Reason.GLOBAL_LIMIT,
        "Queue 'mailers' may run 2 jobs at once over all nodes, and runs 2 (jobs 3, 4).",
    ),
    (
        {
            "limits": {"allowed": 2, "partitioned": True, "by": [["args", "tenant"]], "in_lane": 2},
            "running": {"jobs": 9, "alike": 2, "ids": [1], "alike_ids": [3, 4]},
        },
        Reason.LANE_BUSY,
        "Of the jobs of queue 'mailers' with the same args 'tenant', 2 may run at once, and 2 do "
        "(jobs 3, 4).",
    ),
    (
        {"limits": {"rate": RATE, "room": 0.0, "again_in": 12.0, "weight": 1}},
        Reason.RATE_LIMIT,
        "Queue 'mailers' may start 60 in 60 s, of which none is left; there is more room in 12 "
        "seconds, at 12:00:12 UTC.",
    ),
    (
        {
            "limits": {
                "rate": RATE | {"partitioned": True},
                "by": [["worker", ""]],
                "room": 2.0,
                "again_in": 1.0,
                "weight": 3,
            }
        },
        Reason.RATE_LIMIT,
        "Queue 'mailers' may start 60 in 60 s for the same worker, of which 2 are left, and it "
        "weighs 3; there is more room in 1 second, at 12:00:01 UTC.",
    ),
    (
        {
            "nodes": [{"busy": 5}, {"node": "web-2", "busy": 6}],
            "running": {"jobs": 11, "ids": [1, 2]},
        },
        Reason.SLOTS_FULL,
        "On 2 nodes all 10 slots of queue 'mailers' are taken (jobs 1, 2 and 9 more).",
    ),
    (
        {
            "nodes": [{"limit": 1, "busy": 1}, {"node": "web-2"}],
            "controls": [{"node": "web-2"}],
            "running": {"jobs": 1, "ids": [1]},
        },
        Reason.SLOTS_FULL,
        "On node 'web-1' the slot of queue 'mailers' is taken (job 1); on the others it is paused.",
    ),
    ({"before": 1}, Reason.BEHIND, "1 job of queue 'mailers' comes before it."),
    ({"before": 1_000}, Reason.BEHIND, "1,000 jobs or more of queue 'mailers' come before it."),
    (
        {"job": {"state": "scheduled", "scheduled_at": "2026-11-29T11:59:58"}},
        Reason.DUE,
        "It has been due for 2 seconds; it is made available within 1 second.",
    ),
    (
        {"job": {"state": "retryable", "scheduled_at": "2026-11-29T11:57:00", "attempt": 1}},
        Reason.DUE,
        "It has been due for 3 minutes; the nodes that run its queue are behind with making jobs "
        "available.",
    ),
    (
        {"nodes": [{"degraded": True}]},
        Reason.DEGRADED,
        "No node that runs queue 'mailers' hears of new jobs at the moment, so it is found by "
        "looking, within 1 second.",
    ),
    ({}, Reason.SOON, "It is available, nothing keeps it, and it should start any moment."),
    (
        {"job": {"scheduled_at": "2026-11-29T11:57:00"}},
        Reason.SOON,
        "It has been available for 3 minutes, and nothing is known that keeps it: it should start "
        "any moment, unless another transaction holds its row.",
    ),
]


@pytest.mark.parametrize(("given", "reason", "sentence"), CASES, ids=lambda item: str(item)[:40])
def test_a_situation_has_a_reason_and_a_sentence(given, reason, sentence):
    found = explained(**given)

    assert (found.reason, found.sentence) == (reason, sentence)
    assert (found.job_id, found.state) == (
        7,
        JobState(given.get("job", JOB).get("state", "available")),
    )


def test_every_reason_is_among_these_situations():
    assert {reason for _, reason, _ in CASES} == set(Reason)


def test_what_would_still_hold_comes_first_and_the_rest_is_told_as_well():
    found = explained(
        {"state": "scheduled", "scheduled_at": LATER, "worker": "app.Gone"},
        nodes=[{"knows": False, "busy": 5, "degraded": True}],
        controls=[{}],
        limits={"allowed": 2, "running": 2},
    )

    assert found.reason is Reason.SCHEDULED
    assert [other["reason"] for other in found.facts["also"]] == [
        "unknown_worker",
        "paused",
        "global_limit",
        "slots_full",
    ]
    assert "anna paused it" in found.facts["also"][1]["sentence"]


def test_the_facts_are_json():
    found = explained(controls=[{}])

    assert json.loads(json.dumps(found.facts)) == found.facts


@pytest.mark.parametrize(
    "given",
    [
        # On one of two nodes: the other takes it.
        {"nodes": [{}, {"node": "web-2"}], "controls": [{"node": "web-2"}]},
        # What was asked of others.
        {"controls": [{"name": "Other"}]},
        # It has ended, and nodes have not said yet that they follow.
        {
            "controls": [{"ended": True, "set_at": "2026-11-29T11:59:55Z"}],
            "nodes": [{"paused": True}],
        },
        {"controls": [{"value": False, "set_at": NOW}], "nodes": [{"paused": True}]},
        # What no node understands.
        {"controls": [{"value": "yes"}]},
        {"controls": [{"aspect": "colour"}]},
        # One of two knows it, and of one it is not known.
        {"nodes": [{"knows": False}, {"node": "web-2"}]},
        {"nodes": [{"knows": None}]},
        # One of two is stopped, or not heard of, or stopped before.
        {"nodes": [{"stops": True, "busy": 5}, {"node": "web-2"}]},
        {"nodes": [{"beat_age": 45.0}, {"node": "web-2"}]},
        {"nodes": [{"stops": None, "beat": "often", "beat_age": 7.0}]},
        {
            "controls": [
                {"aspect": "running", "value": False},
                {"seq": 2, "aspect": "running", "value": 5},
            ]
        },
        # One of two has a slot.
        {"nodes": [{"busy": 5}, {"node": "web-2"}]},
        {"limits": {"allowed": 2, "partitioned": True, "burst": True, "in_lane": 2}},
        {"limits": {"rate": RATE, "room": 1.0, "again_in": 1.0, "weight": 1}},
        {"nodes": [{"degraded": None, "look": "often"}]},
        {"job": {"deadline_at": "soon"}},
    ],
    ids=str,
)
def test_what_does_not_hold_is_not_told(given):
    found = explained(**given)

    assert (found.reason, found.facts["also"]) == (Reason.SOON, [])


def test_a_queue_that_nobody_runs_is_paused_as_well():
    found = explained(nodes=[], controls=[{}])

    assert found.reason is Reason.NO_NODE
    assert [other["reason"] for other in found.facts["also"]] == ["paused"]


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("anna", "anna paused it"),
        ("anna: a new release", "anna (a new release) paused it"),
        ("anna: ", "anna:  paused it"),
        (": why", ": why paused it"),
    ],
)
def test_the_reason_of_a_pause_stands_apart_from_who_gave_it(by, said):
    found = explained(controls=[{"set_by": by}])

    assert found.reason is Reason.PAUSED
    assert said in found.sentence


def test_a_long_error_is_cut():
    found = explained({"state": "discarded", "error": "x" * 5_000})

    assert len(found.sentence) < 300
    assert "xxx …" in found.sentence


def test_a_long_error_is_not_cut_within_a_word():
    found = explained({"state": "discarded", "error": "ValueError: " + "address " * 500})

    assert "address …" in found.sentence
    assert not re.search(r"\baddres?\b|addre ", found.sentence)


def test_names_of_one_module_are_not_taken_for_each_other():
    assert nearest("app.jobs.NoSuch", ["app.jobs.Long", "app.jobs.Other"]) == ""
    assert nearest("app.jobs.Lnog", ["app.jobs.Long"]) == " Did you mean 'app.jobs.Long'?"
    assert nearest("jobs.Long", ["app.jobs.Long"]) == " Did you mean 'app.jobs.Long'?"
