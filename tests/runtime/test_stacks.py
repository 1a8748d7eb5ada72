"""Where running jobs are, when somebody asks."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from oban_sync import ConfigError, worker
from oban_sync.control.stacks import ask_for_stack, read_stack
from oban_sync.engine import stacks
from oban_sync.engine.stacks import Taken
from oban_sync.runtime.stacks import MOST_TEXT, MOST_WANTED, StackTaker, take
from tests.support.probe import eventually
from tests.support.workers import Echo, Held, a_gate


@worker(queue="alpha", name="tests.Deep")
class Deep:
    """Goes down far before it comes to the gate."""

    gate = None

    def process(self, job):
        self.down(job.args["depth"])

    def down(self, depth):
        if depth:
            self.up(depth - 1)
        else:
            self.gate.pass_through()

    def up(self, depth):
        self.down(depth)


@worker(queue="alpha", name="tests.StackTransactional", transactional=True)
class Transactional:
    gate = None

    def process(self, job, conn):
        self.gate.pass_through()


@pytest.fixture
def gate():
    with a_gate() as gate:
        Deep.gate = Transactional.gate = gate

        yield gate


@pytest.fixture
def node(make_oban):
    return make_oban(node="web-1", queues={"alpha": 2}).start()


def roster_of(oban):
    return oban._lifecycle._supervisor.roster


def taker(oban):
    return next(
        duty for duty in oban._lifecycle._supervisor._duties if isinstance(duty, StackTaker)
    )


def test_a_running_job_tells_where_it_is(node, gate, db):
    job = Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()

    assert read_stack(db, job) is None
    assert ask_for_stack(db, job) is True

    stack = eventually(lambda: read_stack(db, job.id))

    assert (stack.job_id, stack.node) == (job.id, "web-1")
    assert stack.attempted_at == node.get_job(job).attempted_at
    assert stack.taken_at >= stack.attempted_at
    first = stack.text.splitlines()[0]
    # Of the library nothing is told: the first frame is the job's own.
    assert "workers.py" in first
    assert "in process" in first
    assert "pass_through" in stack.text


def test_a_stack_is_told_once_more_when_it_is_asked_for_again(node, gate, db, conn):
    job = Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()
    ask_for_stack(db, job)
    first = eventually(lambda: read_stack(db, job.id))
    taker(node)._taken_at.clear()
    ask_for_stack(db, job)

    assert eventually(lambda: read_stack(db, job.id).taken_at > first.taken_at)


def test_a_job_is_looked_at_once_a_second_at_most(node, gate, db, monkeypatch):
    job = Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()
    here = StackTaker(db, roster_of(node), node="web-1")
    written = []
    original = stacks.write
    monkeypatch.setattr(
        stacks, "write", lambda tx, taken, **more: written.append(original(tx, taken, **more))
    )
    here.asked(job.id)
    here.asked(job.id)
    here.tick()
    here._not_before = 0.0
    here.asked(job.id)

    assert here.tick() is None
    assert written == [[job.id]]


def test_rounds_keep_a_distance(node, gate, db):
    job = Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()
    here = StackTaker(db, roster_of(node), node="web-1")
    here.asked(job.id)

    assert here.tick() is None

    here.asked(job.id)

    assert 0.0 < here.tick() <= 0.1
    assert list(here._wanted) == [job.id]


def test_no_more_are_kept_than_can_be_answered(db):
    here = StackTaker(db, SimpleNamespace(runs=lambda job_id: True), node="web-1")

    for job_id in range(2 * MOST_WANTED):
        here.asked(job_id)

    assert len(here._wanted) == MOST_WANTED


def test_jobs_of_others_are_nobodys_business(node, gate, db):
    Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()
    here = StackTaker(db, roster_of(node), node="web-1")
    here.asked(12345)

    assert not here._wanted
    assert here.tick() is None


@pytest.mark.parametrize("said", ["7", True, None, [7], {"id": 7}, 7.0])
def test_what_is_no_id_is_not_understood(db, said):
    here = StackTaker(db, SimpleNamespace(runs=lambda job_id: True), node="web-1")

    with pytest.raises(ValueError, match="is not the id of a job"):
        here.asked(said)


def test_junk_in_place_of_an_id_is_counted_as_such(node, conn, prefix, probe):
    conn.execute(
        "SELECT pg_notify(%s, %s)", [f"{prefix}.oban_sync", json.dumps({"stack": "seven"})]
    )

    assert "seven" in probe.next("oban.notifier.junk")["payload"].decode()


def test_a_job_that_does_not_run_is_not_asked_for(node, oban, db):
    oban.pause_queue("alpha")
    eventually(lambda: node.check_queue("alpha").paused)
    job = Echo.enqueue()

    assert ask_for_stack(db, job) is False
    assert ask_for_stack(db, 12345) is False


def test_a_node_that_hears_of_nothing_is_not_asked(make_oban, gate, db):
    deaf = make_oban(queues={"alpha": 1}, listen_conninfo="off").start()
    job = Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()
    refresher = deaf._lifecycle._supervisor._refresher
    eventually(lambda: refresher._introduction._told[0])

    assert ask_for_stack(db, job) is False


def test_a_stack_of_an_earlier_run_is_not_told(node, gate, db, conn):
    job = Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()
    ask_for_stack(db, job)
    eventually(lambda: read_stack(db, job.id))
    conn.execute("UPDATE oban_jobs SET attempted_at = attempted_at + interval '1 s'")

    assert read_stack(db, job) is None

    conn.execute("UPDATE oban_jobs SET attempted_at = attempted_at - interval '1 s'")


def test_a_stack_of_a_run_that_is_over_is_not_written(db, factory, conn):
    running = factory.executing("p", attempted_at="2026-11-29 12:00")
    again = factory.executing("p", attempted_at="2026-11-29 13:00")
    done = factory.job(state="completed", attempted_at="2026-11-29 12:00")
    noon = 849_268_800_000_000

    with db.session() as tx:
        given = [Taken((job_id, noon), "here") for job_id in (running, again, done)]

        assert stacks.write(tx, given, node="a") == [running]


def test_old_stacks_are_taken_away_with_the_next_one(db, factory, conn):
    first, second = (factory.executing("p", attempted_at="2026-11-29 12:00") for _ in range(2))
    noon = 849_268_800_000_000

    with db.session() as tx:
        stacks.write(tx, [Taken((first, noon), "here")], node="a")
        conn.execute("UPDATE oban_sync_stacks SET taken_at = now() - interval '1 hour'")
        stacks.write(tx, [Taken((second, noon), "there")], node="a")
        stacks.write(tx, [Taken((second, noon), "there still")], node="a")

    assert conn.execute("SELECT job_id, stack FROM oban_sync_stacks").fetchall() == [
        (second, "there still")
    ]


def test_a_deep_stack_is_cut_in_the_middle(node, gate, db):
    job = Deep.enqueue({"depth": 300})
    gate.wait_until_entered()
    [taken] = take({job.id}, roster_of(node).runs_on)

    assert "frames are left out]" in taken.text
    assert "in process" in taken.text.splitlines()[0]
    assert "pass_through" in taken.text
    assert len(taken.text) <= MOST_TEXT + 10


def test_a_transactional_job_tells_where_it_is(node, gate):
    job = Transactional.enqueue()
    gate.wait_until_entered()
    [taken] = take({job.id}, roster_of(node).runs_on)

    assert taken.key[0] == job.id
    assert "test_stacks.py" in taken.text.splitlines()[0]


def test_only_threads_of_the_node_are_looked_at(node, gate):
    job = Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()

    assert take({job.id}, lambda thread: False) == []
    assert take(set(), roster_of(node).runs_on) == []


def test_a_job_in_a_child_process_tells_in_which(make_oban, db, tmp_path):
    from tests.support import child_workers

    oban = make_oban(queues={"cpu": {"limit": 1, "executor": "process"}}).start()
    entered, leave = tmp_path / "entered", tmp_path / "leave"
    job = child_workers.gate.enqueue(str(entered), str(leave))

    try:
        eventually(entered.exists, within=30.0)
        [taken] = take({job.id}, roster_of(oban).runs_on)
        [pid] = roster_of(oban)._members["cpu"].producer._runner._pool.pids()

        assert taken.text == (
            f"It runs in child process {pid}, whose stack cannot be told from here."
        )
    finally:
        leave.touch()


@pytest.mark.parametrize("job", ["x", True, 0, None])
def test_what_is_no_job_has_no_stack(db, job):
    with pytest.raises(ConfigError, match="job"):
        read_stack(db, job)

    with pytest.raises(ConfigError, match="job"):
        ask_for_stack(db, job)
