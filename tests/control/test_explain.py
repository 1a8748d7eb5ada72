"""Why a job does not run: every reason, on real nodes and rows."""

from __future__ import annotations

import json
import re
import threading
from datetime import UTC, datetime, timedelta

import pytest

from oban_sync import ConfigError, JobNotFoundError, worker
from oban_sync.core.clock import utc_now
from oban_sync.core.explanation import Reason
from oban_sync.core.limits import check_limits
from oban_sync.engine import explain, nodes
from oban_sync.engine.limits import lanes_of
from tests.support.probe import eventually
from tests.support.workers import Echo, Held, a_gate


@worker(queue="alpha", name="tests.Failing", max_attempts=2)
class Failing:
    def process(self, job):
        raise ValueError("no such address")


@pytest.fixture
def gate():
    with a_gate() as gate:
        yield gate


@pytest.fixture
def start(make_oban):
    """Starts a node that has told the cluster all of itself."""

    def start(name="one", **options):
        options = {"queues": {"alpha": 1}, **options}
        made = make_oban(node=name, **options).start()
        refresher = made._lifecycle._supervisor._refresher
        before = refresher._beats
        refresher.wake()
        # By then the notifier hears, and this beat was written.
        eventually(lambda: refresher._beats > before and 0.0 < refresher._beat_at < float("inf"))

        return made

    return start


def wait_for_the_pause(node):
    """Waits until a node has heard that its queue is paused."""
    eventually(lambda: node.check_queue("alpha").paused)


def said(found):
    return [other["reason"] for other in found.facts["also"]]


def naive(moment):
    return moment.astimezone(UTC).replace(tzinfo=None)


def ago(seconds):
    return naive(utc_now() - timedelta(seconds=seconds))


# What became of it


def test_a_job_that_completed(start, probe, oban):
    start()
    job = Echo.enqueue()
    probe.next("oban.job.stop")
    found = eventually(lambda: (it := oban.explain_job(job)).reason is Reason.COMPLETED and it)

    assert found.sentence.startswith("It completed less than a second ago, at ")
    assert found.sentence.endswith(", in attempt 1.")


def test_a_job_that_was_cancelled_by_somebody(oban):
    job = Echo.enqueue()
    oban.cancel_job(job, by="anna")
    found = oban.explain_job(job)

    assert found.reason is Reason.CANCELLED
    assert ", by anna" in found.sentence


def test_a_job_that_failed_and_is_tried_again_and_one_that_was_given_up(start, probe, oban):
    start()
    job = Failing.enqueue()
    probe.next("oban.job.exception", state="retryable")
    found = eventually(lambda: (it := oban.explain_job(job)).reason is Reason.RETRYABLE and it)

    assert (
        "in attempt 1 of 2: ValueError: no such address. The next one starts in" in found.sentence
    )

    oban.retry_job(job)
    probe.next("oban.job.exception", state="discarded")
    found = eventually(lambda: (it := oban.explain_job(job)).reason is Reason.DISCARDED and it)

    assert "in attempt 2 of 2: ValueError: no such address." in found.sentence


# It runs


def test_a_job_that_runs_and_one_that_was_asked_to_stop(start, gate, oban):
    start("web-1")
    job = Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()
    found = oban.explain_job(job.id)

    assert found.reason is Reason.EXECUTING
    assert found.sentence.startswith("It runs on node 'web-1' since ")

    oban.cancel_job(job, by="anna")
    found = oban.explain_job(job.id)

    assert found.reason is Reason.STOPPING
    assert found.sentence.startswith("It was asked to stop less than a second ago by anna")


def told_seconds(conn, explained, words):
    """The seconds that a sentence tells, and between which ages of its node's beat it was said."""

    def age():
        query = (
            "SELECT extract(epoch FROM now() - beat_at) FROM oban_sync_nodes WHERE node = 'gone'"
        )
        return float(conn.execute(query).fetchone()[0])

    before = age()
    sentence = explained().sentence
    after = age()
    found = re.search(words, sentence)
    assert found is not None, sentence

    # It rounds to the second.
    return int(found[1]), before - 1, after + 1


def test_a_job_whose_node_is_silent(oban, factory, conn):
    uuid = factory.node("alpha", node="gone", beat_at=utc_now() - timedelta(seconds=20))
    job = factory.executing(factory.owner(uuid, "alpha"))
    found = oban.explain_job(job)

    def explained():
        return oban.explain_job(job)

    assert found.reason is Reason.SILENT
    assert found.sentence.endswith("No other node is there to give it back: start one.")
    words = r"node 'gone', which has not been heard of for (\d+) seconds\."
    silent, least, most = told_seconds(conn, explained, words)
    assert least <= silent <= most

    factory.node("beta", node="there")
    left, least, most = told_seconds(conn, explained, r"given back in about (\d+) seconds")
    assert 60 - most <= left <= 60 - least


def test_a_job_whose_node_has_lost_its_session_is_given_back_sooner(oban, factory, conn):
    beat_at = utc_now() - timedelta(seconds=2)
    uuid = factory.node(
        "alpha", lock_key=77, node="gone", beat_at=beat_at, unlocked_max_age=30, max_age=600
    )
    job = factory.executing(factory.owner(uuid, "alpha"))
    factory.node("alpha", node="there")
    found = oban.explain_job(job)

    assert found.reason is Reason.SILENT
    words = r"its session has ended\. It is given back in about (\d+) seconds"
    left, least, most = told_seconds(conn, lambda: oban.explain_job(job), words)
    assert 30 - most <= left <= 30 - least


def test_a_job_of_a_node_that_nobody_knows(start, oban, factory):
    start(lifeline={"rescue_after": 600.0})
    job = factory.executing("who", attempted_at=ago(120), attempted_by=["exA", "who"])
    found = oban.explain_job(job)

    assert found.reason is Reason.SILENT
    assert "node 'exA', of which nothing is known" in found.sentence
    assert "in about 8 minutes" in found.sentence


# It waits in any case


def test_a_job_that_is_scheduled(oban):
    job = Echo.enqueue(schedule_in=7_200)
    found = oban.explain_job(job)

    assert found.reason is Reason.SCHEDULED
    assert found.sentence.startswith("It is scheduled to start in 2 hours, at ")
    assert said(found) == ["no_node"]


@pytest.mark.parametrize("when", ["infinity", "12026-01-01"])
def test_a_job_that_is_scheduled_for_no_time_at_all(oban, factory, when):
    job = factory.job(state="scheduled", scheduled_at=when)

    assert oban.explain_job(job).reason is Reason.SCHEDULED


def test_a_job_that_is_suspended(oban, factory):
    job = factory.job(state="suspended", meta={"workflow_id": "w1", "deps": ["a", "b"]})

    assert oban.explain_job(job).sentence == (
        "It is suspended, and waits for 'a' and 'b' of workflow 'w1'."
    )


def test_a_job_that_is_suspected_of_killing_processes(oban, factory, db):
    uuid = factory.node("alpha")
    owner = factory.owner(uuid, "alpha")
    first, second = (
        factory.executing(owner, meta={"rescued": 1}, attempted_at=ago(seconds))
        for seconds in (60, 30)
    )

    with db.session() as tx:
        [seen] = nodes.watch(tx, "me")[1]

    nodes.rescue(db, seen, why="it is gone", most=10, shunned=nodes.Shunned())

    assert factory.states(first, second) == ["scheduled", "available"]

    found = oban.explain_job(first)

    assert found.reason is Reason.QUARANTINED
    assert found.sentence.startswith("2 processes died while it ran")


def test_a_job_whose_deadline_has_passed(start, oban, conn):
    one = start()
    oban.pause_queue("alpha")
    wait_for_the_pause(one)
    job = Echo.enqueue(deadline=60.0)
    conn.execute(
        "UPDATE oban_jobs SET meta = jsonb_set(meta, '{oban_sync,deadline_at}', %s)",
        [json.dumps((utc_now() - timedelta(minutes=3)).isoformat())],
    )
    found = oban.explain_job(job)

    assert found.reason is Reason.DEADLINE
    assert found.sentence.startswith("Its deadline passed 3 minutes ago")
    assert said(found) == ["paused"]


def test_a_job_that_has_no_attempt_left(start, oban, factory):
    start()
    job = factory.job(queue="alpha", worker="tests.Echo", attempt=1, max_attempts=1)

    assert oban.explain_job(job).reason is Reason.EXHAUSTED


# Something keeps it back


def test_a_queue_that_nobody_runs(start, oban, factory):
    start(queues={"mailers": 1})
    job = factory.job(queue="mailrs")
    found = oban.explain_job(job)

    assert found.reason is Reason.NO_NODE
    assert found.sentence == "No living node runs queue 'mailrs'. Did you mean 'mailers'?"


def test_a_queue_without_any_node(oban):
    found = oban.explain_job(Echo.enqueue())

    assert found.sentence == "No node is alive, so nobody runs queue 'alpha': start one."


def test_a_queue_whose_only_node_died(oban, factory):
    factory.node("alpha", node="gone", beat_at=utc_now() - timedelta(seconds=120))
    factory.node("beta", node="there")
    found = oban.explain_job(Echo.enqueue())

    assert found.reason is Reason.NO_NODE
    assert "Node 'gone', which ran it, has not been heard of for 2 minutes." in found.sentence


def test_a_queue_that_was_stopped(start, oban, probe):
    start(queues={"alpha": 1, "beta": 1})
    oban.stop_queue("alpha", by="bob")
    probe.next("oban.queue.stopped", queue="alpha")
    job = Echo.enqueue()
    found = eventually(lambda: (it := oban.explain_job(job)).reason is Reason.NO_NODE and it)

    assert found.sentence.startswith("No node runs queue 'alpha': bob stopped it ")


def test_a_queue_that_is_being_stopped(start, oban, probe, gate, conn):
    start()
    held = Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()
    oban.stop_queue("alpha", by="bob")
    job = Echo.enqueue()
    found = oban.explain_job(job)

    assert found.reason is Reason.LEAVING
    assert found.sentence.startswith("Queue 'alpha' is being stopped on every node: bob stopped it")
    assert oban.explain_job(held).reason is Reason.EXECUTING

    # Nothing runs it any more, by what is said with the next beat.
    probe.next("oban.queue.stopped", queue="alpha")
    eventually(lambda: slots(conn) == (1, 0, 0, 0))


def slots(conn):
    """What the view says of a queue: executing, slots, busy, nodes."""
    return conn.execute(
        "SELECT executing, slots, busy, nodes FROM oban_queue_health WHERE queue = 'alpha'"
    ).fetchone()


def test_a_node_that_is_being_stopped(start, oban, gate, conn):
    one = start("web-1", refresher={"interval": 15.0, "unlocked_max_age": 60.0})
    Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()
    job = Echo.enqueue()

    assert oban.explain_job(job).reason is Reason.SLOTS_FULL
    assert slots(conn) == (1, 1, 1, 1)

    stop = threading.Thread(target=one.stop, kwargs={"grace": 60.0})
    stop.start()
    # At once, and not with a beat many seconds later.
    found = eventually(lambda: (it := oban.explain_job(job)).reason is Reason.LEAVING and it)

    assert found.sentence == (
        "Node 'web-1', which runs queue 'alpha', is being stopped and takes no more jobs."
    )
    assert slots(conn) == (1, 0, 0, 0)

    gate.release.set()
    stop.join()


def test_a_queue_whose_only_node_is_silent(oban, factory):
    factory.node("alpha", node="quiet", beat_at=utc_now() - timedelta(seconds=45))
    found = oban.explain_job(Echo.enqueue())

    assert found.reason is Reason.SILENT
    assert found.sentence == (
        "Node 'quiet', the only one that takes jobs of queue 'alpha', has not been heard of for "
        "45 seconds."
    )


def test_a_queue_that_somebody_paused(start, oban):
    one = start()
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=3)
    oban.pause_queue("alpha", by="anna", until=until)
    wait_for_the_pause(one)
    found = oban.explain_job(Echo.enqueue())

    assert found.reason is Reason.PAUSED
    assert found.sentence.startswith(
        "Queue 'alpha' is paused on every node: anna paused it less than a second ago, until "
    )
    assert f"{until:%H:%M} UTC." in found.sentence


def test_all_queues_are_paused(start, oban):
    one = start()
    oban.pause_all_queues(by="anna")
    wait_for_the_pause(one)
    found = oban.explain_job(Echo.enqueue())

    assert found.sentence.startswith("All queues are paused on every node: anna paused them ")


def test_a_queue_that_is_paused_on_one_node_is_run_by_the_other(start, oban, probe):
    start("one")
    start("two")
    oban.pause_queue("alpha", node="one", by="anna")
    probe.next("oban.queue.paused")
    oban.pause_queue("alpha", node="two")
    probe.next("oban.queue.paused")
    job = Echo.enqueue()
    found = oban.explain_job(job)

    assert found.reason is Reason.PAUSED
    assert "on 'one' anna paused it" in found.sentence
    assert "on 'two' it was paused" in found.sentence

    oban.resume_queue("alpha", node="two")
    probe.next("oban.job.stop")

    eventually(lambda: oban.explain_job(job).reason is Reason.COMPLETED)


def test_a_queue_that_a_signal_of_another_oban_paused(start, oban, conn, prefix, probe):
    one = start()
    signal = {"action": "pause", "queue": "alpha", "ident": "any"}
    conn.execute("SELECT pg_notify(%s, %s)", [f"{prefix}.oban_signal", json.dumps(signal)])
    probe.next("oban.queue.paused")
    one._lifecycle._supervisor._refresher.wake()
    job = Echo.enqueue()
    found = eventually(lambda: (it := oban.explain_job(job)).reason is Reason.PAUSED and it)

    assert "by a signal that does not say whose it is" in found.sentence


def test_a_worker_that_no_node_knows(start, oban, factory):
    one = start()
    oban.pause_queue("alpha")
    wait_for_the_pause(one)
    job = factory.job(queue="alpha", worker="tests.Ehco")
    found = oban.explain_job(job)

    assert found.reason is Reason.UNKNOWN_WORKER
    assert "knows worker 'tests.Ehco', so it fails when it is started." in found.sentence
    assert "Did you mean 'tests.Echo'?" in found.sentence
    assert said(found) == ["paused"]


def test_a_worker_that_only_children_may_know(oban, factory):
    workers = ["tests.Echo"]
    said = json.dumps({"setups": ["alpha"]})
    factory.node("alpha", workers=workers, info=said)
    job = factory.job(queue="alpha", worker="tests.InChildren")
    known = factory.job(queue="alpha", worker="tests.Echo")

    assert oban.explain_job(job).reason is Reason.SOON
    assert oban.explain_job(job).facts["nodes"][0]["knows"] is None
    assert oban.explain_job(known).facts["nodes"][0]["knows"] is True


def test_a_job_that_failed_before_it_was_cancelled_by_hand(oban, factory, conn):
    job = factory.job(state="retryable", attempt=1, max_attempts=3)
    conn.execute(
        "UPDATE oban_jobs SET errors = ARRAY[%s::jsonb] WHERE id = %s",
        [json.dumps({"at": f"{ago(60).isoformat()}Z", "attempt": 1, "error": "of old"}), job],
    )
    oban.cancel_job(job)

    assert "of old" not in oban.explain_job(job).sentence


def test_a_global_limit_that_other_jobs_hold(start, oban, gate):
    start(queues={"alpha": {"limit": 3, "global_limit": 1}})
    first = Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()
    found = eventually(
        lambda: (it := oban.explain_job(Echo.enqueue())).reason is Reason.GLOBAL_LIMIT and it
    )

    assert found.sentence == (
        f"Queue 'alpha' may run 1 job at once over all nodes, and runs 1 (job {first.id})."
    )


def test_a_lane_that_other_jobs_fill(start, oban, gate, probe):
    limit = {"allowed": 1, "partition": {"args": "tenant"}}
    start(queues={"alpha": {"limit": 3, "global_limit": limit}})
    first = Held.enqueue({"gate": "gate", "tenant": 1})
    gate.wait_until_entered()
    same = Echo.enqueue({"tenant": 1})
    other = Echo.enqueue({"tenant": 2})
    probe.next("oban.job.stop")
    found = eventually(lambda: (it := oban.explain_job(same)).reason is Reason.LANE_BUSY and it)

    assert found.sentence == (
        "Of the jobs of queue 'alpha' with the same args 'tenant', 1 may run at once, and 1 do "
        f"(job {first.id})."
    )
    eventually(lambda: oban.explain_job(other).reason is Reason.COMPLETED)


def test_a_rate_limit_that_is_used_up(start, oban, probe):
    start(queues={"alpha": {"limit": 3, "rate_limit": {"allowed": 1, "period": 3_600}}})
    Echo.enqueue()
    probe.next("oban.job.stop")
    job = Echo.enqueue()
    found = oban.explain_job(job)

    assert found.reason is Reason.RATE_LIMIT
    assert found.sentence.startswith(
        "Queue 'alpha' may start 1 in 3600 s, of which none is left; there is more room in "
    )


def test_a_rate_limit_by_lane_is_that_of_the_jobs_own_lane(start, oban, probe):
    rate = {"allowed": 1, "period": 3_600, "partition": {"args": "tenant"}}
    one = start(queues={"alpha": {"limit": 3, "rate_limit": rate}})
    Echo.enqueue({"tenant": 1})
    probe.next("oban.job.stop")
    oban.pause_queue("alpha")
    wait_for_the_pause(one)
    same, other = Echo.enqueue({"tenant": 1}), Echo.enqueue({"tenant": 2})

    assert said(oban.explain_job(same))[0] == "rate_limit"
    assert "rate_limit" not in said(oban.explain_job(other))
    assert "for the same args 'tenant'" in oban.explain_job(same).facts["also"][0]["sentence"]


@pytest.mark.parametrize(
    "partition",
    ["worker", {"args": "k"}, {"meta": "m"}, ["worker", {"args": ["k", "l"]}, {"meta": "m"}]],
    ids=str,
)
@pytest.mark.parametrize("value", [7, 7.0, "seven", None, {"a": [1]}], ids=str)
def test_a_lane_is_the_one_that_jobs_are_taken_by(db, conn, factory, partition, value):
    limits = check_limits("queues.alpha", {"global_limit": 1, "partition": partition})
    info = {"limits": {"alpha": {"by": [[f.source, f.key] for f in limits.lane_by]}}}
    uuid = factory.node("alpha", info=json.dumps(info))
    args = {"k": value, "l": 1}
    job = factory.job(queue="alpha", worker="W", args=args, meta={"m": "x"})
    key = {"worker": "W", "args": args, "meta": {"m": "x"}}
    [field, *others] = limits.lane_by

    if not others:
        key = "W" if field.source == "worker" else key[field.source][field.key]

    with db.session() as tx:
        [lane] = lanes_of(tx, limits.lane_by, [key], path="key")

    conn.execute(
        "UPDATE oban_sync_producers SET lanes = %s WHERE node_uuid = %s", [[lane, lane, 5], uuid]
    )

    with db.transaction() as tx:
        assert explain.gather(tx, job)["limits"]["in_lane"] == 2


def test_slots_that_other_jobs_take(start, oban, gate):
    start("web-1")
    first = Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()
    second, third = Echo.enqueue(), Echo.enqueue()
    found = oban.explain_job(second)

    assert found.reason is Reason.SLOTS_FULL
    assert found.sentence == (
        f"On node 'web-1' the slot of queue 'alpha' is taken (job {first.id})."
    )
    assert said(oban.explain_job(third)) == ["behind"]


def test_others_come_first(oban, factory):
    # A node that takes nothing, for it is none.
    factory.node("alpha")
    now = ago(1)
    for priority in (0, 0, 2):
        factory.job(queue="alpha", priority=priority, scheduled_at=now)

    factory.job(queue="alpha", priority=0, scheduled_at=now, attempt=1, max_attempts=1)
    factory.job(queue="beta", scheduled_at=now)
    job = factory.job(queue="alpha", priority=1, scheduled_at=now)
    found = oban.explain_job(job)

    assert found.reason is Reason.BEHIND
    assert found.sentence == "2 jobs of queue 'alpha' come before it."


def test_no_more_than_a_thousand_others_are_counted(oban, factory, conn):
    factory.node("alpha")
    conn.execute(
        "INSERT INTO oban_jobs (queue, worker, scheduled_at)"
        " SELECT 'alpha', 'W', timezone('UTC', now()) FROM generate_series(1, 1200)"
    )
    job = factory.job(queue="alpha")

    assert oban.explain_job(job).sentence == ("1,000 jobs or more of queue 'alpha' come before it.")


def test_a_node_that_hears_of_nothing(start, oban, gate):
    one = start(listen_conninfo="off", stager={"interval": 1.0})
    refresher = one._lifecycle._supervisor._refresher
    eventually(lambda: refresher._introduction._told[0])
    oban.pause_queue("alpha")
    wait_for_the_pause(one)
    job = Echo.enqueue()
    found = oban.explain_job(job)

    assert found.reason is Reason.PAUSED
    assert found.facts["also"] == [
        {
            "reason": "degraded",
            "sentence": "No node that runs queue 'alpha' hears of new jobs at the moment, so it is "
            "found by looking, within 1 second.",
        }
    ]


def test_a_job_that_is_due_and_was_not_noticed_yet(oban, factory):
    factory.node("alpha")
    job = factory.job(queue="alpha", state="scheduled", scheduled_at=ago(2))
    found = oban.explain_job(job)

    assert found.reason is Reason.DUE
    assert found.sentence == "It has been due for 2 seconds; it is made available within 1 second."


def test_a_job_that_nothing_keeps(oban, factory):
    factory.node("alpha")
    job = factory.job(queue="alpha", state="available")

    assert oban.explain_job(job).reason is Reason.SOON


# What it is asked


def test_the_holder_of_a_unique_key_is_among_the_facts(oban, factory):
    key = "oban_sync:" + "x" * 43
    holder = factory.job(queue="alpha", meta={"uniq_key": key, "uniq_bmp": [0, 1, 2, 3]})
    job = factory.job(queue="alpha", meta={"uniq_key": key, "uniq_bmp": []})

    assert oban.explain_job(job).facts["key_held_by"] == [holder]
    assert oban.explain_job(holder).facts["key_held_by"] == []


def test_the_leader_is_among_the_facts(start, oban):
    start("one")
    job = Echo.enqueue(schedule_in=60)

    eventually(lambda: oban.explain_job(job).facts["leaders"] == [{"name": "Oban", "node": "one"}])


def test_a_job_that_is_not_there_is_not_explained(oban):
    with pytest.raises(JobNotFoundError, match="there is no job 12345"):
        oban.explain_job(12345)


@pytest.mark.parametrize("job", ["x", 0, True, 2**63, None])
def test_what_is_no_job_is_not_explained(oban, job):
    with pytest.raises(ConfigError, match="job"):
        oban.explain_job(job)


@pytest.mark.parametrize(
    "columns",
    [
        {"meta": None},
        {"meta": "[1, 2]"},
        {"meta": '"text"'},
        {"meta": {"oban_sync": 5, "rescued": "many", "deps": {"a": 1}, "workflow_id": [1]}},
        {"meta": {"oban_sync": {"deadline_at": 5}, "cancel_requested_at": {}, "uniq_key": []}},
        {"args": "[]"},
        {"attempted_by": None, "attempt": 3},
        {"scheduled_at": "-infinity"},
        {"scheduled_at": "0044-03-15 BC"},
        {"queue": "'; DROP", "worker": "\x1b[2J"},
        {"state": "executing", "attempted_by": None},
        {"state": "executing", "attempted_at": "infinity", "attempted_by": ["a"]},
        {"state": "cancelled", "cancelled_at": "infinity"},
    ],
    ids=str,
)
def test_whatever_stands_in_a_row_is_explained(oban, factory, columns):
    factory.node("default", info='{"limits": {"default": {"by": [["args", "k"], 5, ["x"]]}}}')
    job = factory.job(**columns)
    found = oban.explain_job(job)

    assert found.sentence
    assert json.loads(json.dumps(found.facts))["job"]["id"] == job


@pytest.mark.parametrize(
    "info", ["[]", "5", '{"limits": 5, "look": "x", "degraded": 5}', '{"limits": {"alpha": {}}}']
)
def test_whatever_a_node_says_of_itself_a_job_is_explained(oban, factory, info):
    factory.node("alpha", info=info, beat_at="infinity")
    job = factory.job(queue="alpha")

    assert oban.explain_job(job).reason is Reason.SOON


def test_what_a_node_of_an_older_version_does_not_say_is_not_known(oban, factory):
    factory.node("alpha")
    job = factory.job(queue="alpha", worker="tests.Nobody")
    found = oban.explain_job(job)

    assert found.reason is Reason.SOON
    assert found.facts["nodes"][0]["knows"] is None
