"""Queues with limits, run by nodes with their threads."""

from __future__ import annotations

import time
from collections import Counter
from threading import Event, Lock

import pytest

from oban_sync import Cancel, InvalidJobError, Record, job, worker
from tests.support.probe import Gate, eventually


class Crowd:
    """Counts who is in at the same time."""

    def __init__(self):
        self._lock = Lock()
        self.now = Counter()
        self.most = Counter()
        self.order = []

    def enter(self, *names):
        with self._lock:
            self.order.append(names[-1])

            for name in names:
                self.now[name] += 1
                self.most[name] = max(self.most[name], self.now[name])

    def leave(self, *names):
        with self._lock:
            for name in names:
                self.now[name] -= 1


CROWD = [Crowd()]


@pytest.fixture
def crowd():
    CROWD[0] = Crowd()

    return CROWD[0]


@worker(queue="alpha", name="tests.limits.Visit")
class Visit:
    def process(self, job):
        names = ("all", job.args.get("k"))
        CROWD[0].enter(*names)
        Event().wait(0.01)
        CROWD[0].leave(*names)


def done(oban, *jobs):
    eventually(lambda: all(oban.get_job(item.id).state == "completed" for item in jobs), within=30)


def visits(oban, *keys, **args):
    return oban.enqueue_many(Visit.new({"k": key, **args}) for key in keys)


def test_a_global_limit_holds_over_two_nodes(make_oban, crowd):
    nodes = [
        make_oban(node=f"n{number}", queues={"alpha": {"limit": 5, "global_limit": 2}}).start()
        for number in range(2)
    ]

    done(nodes[0], *visits(nodes[0], *range(40)))

    assert crowd.most["all"] == 2


def test_one_at_a_time_of_each_key_and_keys_side_by_side(make_oban, crowd):
    queue = {"limit": 6, "global_limit": {"allowed": 1, "partition": {"args": "k"}}}
    nodes = [make_oban(node=f"n{number}", queues={"alpha": queue}).start() for number in range(2)]

    done(nodes[0], *visits(nodes[0], *(f"key {number % 10}" for number in range(60))))

    assert {crowd.most[f"key {number}"] for number in range(10)} == {1}
    assert crowd.most["all"] > 2


def test_a_rate_holds_and_its_room_is_used_when_it_comes(make_oban, crowd, conn):
    queue = {"limit": 5, "rate_limit": {"allowed": 5, "period": 0.4}}
    # Nobody else wakes it.
    oban = make_oban(queues={"alpha": queue}, stager={"interval": 60}).start()
    began = time.monotonic()

    done(oban, *visits(oban, *range(20)))

    assert 1.2 <= time.monotonic() - began < 10
    rows = conn.execute("SELECT attempted_at FROM oban_jobs ORDER BY 1").fetchall()
    times = [row[0].timestamp() for row in rows]
    assert all(later - first >= 0.4 for first, later in zip(times, times[5:], strict=False))


def test_fair_share_lets_others_in(make_oban, crowd):
    oban = make_oban(queues={"alpha": {"limit": 1, "fair": {"args": "k"}}})
    jobs = [*visits(oban, *["many"] * 30), *visits(oban, "one")]
    oban.start()

    done(oban, *jobs)

    assert crowd.order.index("one") <= 2


def test_a_job_without_the_key_fails_and_says_why_and_others_go_on(make_oban, crowd, factory):
    queue = {"limit": 2, "global_limit": {"allowed": 1, "partition": {"args": "k"}}}
    oban = make_oban(queues={"alpha": queue})
    # As another program would insert it.
    lost = factory.job(queue="alpha", worker="tests.limits.Visit", args={})
    oban.start()

    done(oban, *visits(oban, "a", "b"))
    eventually(lambda: factory.states(lost) == ["retryable"])

    [error] = factory.row(lost)["errors"]
    assert "args lack the key 'k', by which queues[\"alpha\"].partition" in error["error"]


def test_a_job_that_weighs_too_much_fails_and_says_why(make_oban, crowd, factory):
    oban = make_oban(queues={"alpha": {"limit": 2, "rate_limit": {"allowed": 2, "period": 0.1}}})
    heavy = factory.job(
        queue="alpha", worker="tests.limits.Visit", meta={"oban_sync": {"weight": 3}}
    )
    oban.start()

    done(oban, *visits(oban, "a", "b", "c"))
    eventually(lambda: factory.states(heavy) == ["retryable"])

    assert "weighs 3" in str(factory.row(heavy)["errors"])


def test_what_runs_elsewhere_is_seen_to_end_without_being_told(make_oban, crowd, probe):
    queues = {"alpha": {"limit": 2, "global_limit": 1}}
    busy, waiting = (make_oban(node=f"n{number}", queues=queues) for number in range(2))
    gate = GATES[0] = Gate()
    busy.start()
    held = busy.enqueue(Held.new({}))
    gate.wait_until_entered()
    waiting.start()
    [late] = visits(busy, "a")
    # The busy one takes no more, and so nobody says that the slot is free.
    busy.pause_queue("alpha", node="n0")
    probe.next("oban.queue.paused", queue="alpha")
    gate.release.set()

    done(waiting, held, late)
    assert waiting.get_job(late.id).attempted_by[0] == "n1"


GATES = [Gate()]


@worker(queue="alpha", name="tests.limits.Held")
class Held:
    def process(self, job):
        GATES[0].pass_through()


def test_other_outcomes_free_the_slot_as_well(make_oban):
    oban = make_oban(queues={"alpha": {"limit": 1, "global_limit": 1}}).start()
    jobs = [oban.enqueue(ends.new(kind)) for kind in ("record", "cancel", "error", "plain")]

    eventually(lambda: oban.get_job(jobs[-1].id).state == "completed")

    states = [oban.get_job(item.id).state for item in jobs]
    assert states == ["completed", "cancelled", "discarded", "completed"]


@job(queue="alpha", name="tests.limits.ends", max_attempts=1)
def ends(kind):
    match kind:
        case "record":
            return Record(1)
        case "cancel":
            return Cancel("enough")
        case "error":
            raise RuntimeError("boom")

    return None


def test_draining_by_hand_knows_no_limits(make_oban, crowd):
    oban = make_oban(queues={"alpha": {"rate_limit": {"allowed": 1, "period": 3600}, "limit": 1}})
    visits(oban, "a", "b", "c")

    assert oban.drain_queue("alpha")["completed"] == 3


def test_a_node_makes_the_index_of_its_lanes(make_oban, conn):
    make_oban(queues={"alpha": {"limit": 1, "fair": {"args": "k"}}}).start()

    eventually(
        lambda: (
            conn.execute(
                "SELECT FROM pg_index JOIN pg_class ON oid = indexrelid"
                " WHERE indrelid = 'oban_jobs'::regclass AND relname LIKE 'oban_sync_lane_%'"
                " AND indisvalid"
            ).fetchone()
            is not None
        )
    )


def test_a_job_that_could_never_run_here_is_refused_when_it_is_enqueued(make_oban, factory):
    by_key = {"limit": 2, "global_limit": {"allowed": 1, "partition": {"args": "k"}}}
    rated = {"limit": 2, "rate_limit": {"allowed": 2, "period": 1.0}}
    oban = make_oban(queues={"alpha": by_key, "beta": rated})

    with pytest.raises(InvalidJobError, match=r"args lack the key 'k', by which queues\[\"alpha"):
        oban.enqueue(Visit.new({"other": 1}))

    with pytest.raises(InvalidJobError, match="weighs 3"):
        oban.enqueue_many(Visit.new(queue="beta"), Visit.new(queue="beta", weight=3))

    assert factory.count() == 0
    assert oban.enqueue(Visit.new({"other": 1}, queue="gamma")).id
