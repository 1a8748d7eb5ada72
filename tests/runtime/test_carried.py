"""Looks of loops that go along with the heartbeat, and what happens when they cannot."""

from __future__ import annotations

import time

import pytest

from oban_sync.engine import asks, nodes, upkeep
from oban_sync.runtime import refresher as refreshing
from oban_sync.runtime.carried import Answer, Carried
from tests.support.probe import eventually


class Recorder(Carried):
    """Notes what it did, and returns what it is told."""

    def __init__(self, *, interval=60.0, pause=None, work=lambda: None):
        super().__init__("recorder", interval=interval)
        self.did = []
        self.pause = pause
        self.work = work

    def look(self):
        self.did.append("look")

        return self.pause

    def ask(self):
        return asks.Ask("cron_now", {})

    def judge(self, answer):
        self.did.append("judge")
        self.work()

        return self.pause

    def missed(self):
        self.did.append("missed")


class Carrier:
    """Takes along when told to."""

    def __init__(self, *, carries=True):
        self.carries = carries
        self.hurries = 0

    def hurry(self):
        self.hurries += 1


@pytest.fixture
def carrier():
    return Carrier()


@pytest.fixture
def loop(carrier):
    loop = Recorder()
    loop.carrier = carrier
    loop._due_at = time.monotonic()

    return loop


ANSWER = Answer([], 0.0, 0.0)


def test_a_look_that_is_due_waits_for_the_carrier(loop, carrier):
    pause = loop.tick()

    assert loop.did == []
    assert carrier.hurries == 1
    assert 0.5 < pause <= loop.PATIENCE


def test_a_look_that_nobody_takes_along_is_made_in_the_end(loop):
    loop._due_at -= loop.PATIENCE
    loop.tick()

    assert loop.did == ["look"]
    assert loop.due_at > time.monotonic() + 50


def test_without_a_carrier_a_loop_looks(loop, carrier):
    carrier.carries = False
    loop.tick()

    assert loop.did == ["look"]


def test_an_answer_is_judged_and_nothing_more_is_asked(loop, carrier):
    loop.answered(ANSWER)
    loop.tick()

    assert loop.did == ["judge"]


def test_after_a_failure_of_the_carrier_a_loop_looks_by_itself(loop, carrier):
    carrier.carries = False
    loop.answered(None)
    loop.tick()

    assert loop.did == ["missed", "look"]


def test_a_wake_during_a_judgement_is_not_lost(loop):
    loop.work = loop.wake
    loop._due_at += 60.0
    loop.answered(ANSWER)
    loop.tick()

    assert loop.due_at <= time.monotonic()


def test_a_full_batch_is_followed_by_a_look_at_once(loop):
    loop.pause = 0.0
    loop.answered(ANSWER)

    assert loop.tick() == 0.0

    loop.pause = None
    loop.tick()

    assert loop.did == ["judge", "look"]


def test_a_loop_that_failed_looks_by_itself(loop):
    loop._failures = 1
    loop.tick()

    assert loop.did == ["look"]


def test_a_moment_that_was_worked_out_is_not_anticipated(loop, carrier):
    loop.pause = 5.0
    loop.answered(ANSWER)
    loop.tick()

    assert not loop.may_go(loop.due_at - 0.1)
    assert carrier.hurries == 1

    loop.pause = None
    carrier.carries = False
    loop.tick()

    assert loop.may_go(loop.due_at - 0.1)


def test_names_with_anything_in_them_go_along(db, factory):
    names = ['a"b', "c\\d", "e,{}", "f g", "NULL"]

    for name in names:
        factory.job(queue=name, state="available")

    with db.session() as tx:
        [rows] = asks.together(tx, [upkeep.look(names, [])])

    assert upkeep.looked(rows) == (False, sorted(names))


@pytest.mark.parametrize(
    ("columns", "due"),
    [
        ({"state": "scheduled", "scheduled_at": "2020-01-01"}, True),
        ({"state": "retryable", "scheduled_at": "2020-01-01"}, True),
        ({"state": "scheduled", "scheduled_at": "2200-01-01"}, False),
        ({"state": "scheduled", "scheduled_at": "2020-01-01", "queue": "beta"}, False),
    ],
)
def test_a_look_tells_whether_there_is_anything_to_stage(db, factory, columns, due):
    job = factory.job(**{"queue": "alpha", **columns})

    with db.session() as tx:
        rows, without = asks.together(
            tx, [upkeep.look(["alpha"], []), upkeep.look(["alpha"], [job])]
        )

    assert upkeep.looked(rows) == (due, [])
    assert upkeep.looked(without) == (False, [])


# In a running node


def refresher_of(oban):
    return oban._lifecycle._supervisor._refresher


def hold(pool):
    return [pool.getconn() for _ in range(pool.max_size)]


def test_looks_go_along_with_beats_and_need_no_connection(make_oban, probe):
    oban = make_oban(queues={"alpha": 1}, stager={"interval": 0.05}).start()
    eventually(lambda: oban.is_leader)
    [pool] = oban._assembly._loops.values()
    held = hold(pool)

    while not probe._heard.empty():
        probe._heard.get()

    for _ in range(3):
        assert probe.next("oban.stager.stage.stop")["staged_count"] == 0

    for conn in held:
        pool.putconn(conn)


def test_what_is_found_to_be_due_is_staged(make_oban, probe, factory):
    make_oban(queues={"alpha": 1}).start()
    probe.next("oban.stager.stage.stop")
    job = factory.job(queue="alpha", state="scheduled", scheduled_at="2020-01-01")

    assert probe.next("oban.stager.stage.stop", staged_count=1)["queues"] == ["alpha"]
    eventually(lambda: factory.states(job) != ["scheduled"])


def test_a_look_that_fails_keeps_no_beat_and_no_loop_from_going_on(
    make_oban, probe, monkeypatch, conn
):
    def fail(tx, asks):
        raise ValueError("one of them was refused")

    oban = make_oban(queues={"alpha": 1}, refresher={"interval": 0.1}).start()
    eventually(lambda: oban.is_leader)
    monkeypatch.setattr(nodes, "together", fail)
    monkeypatch.setattr(refreshing, "together", fail)
    refresher = refresher_of(oban)
    eventually(lambda: not refresher.carries)

    def beats():
        return conn.execute("SELECT beats FROM oban_sync_nodes").fetchone()[0]

    before = beats()
    eventually(lambda: beats() > before + 1)

    while not probe._heard.empty():
        event, fields = probe._heard.get()

        assert (event, fields.get("loop")) != ("oban.loop.exception", "refresher")

    probe.next("oban.stager.stage.stop")
    probe.next("oban.stager.stage.stop")

    assert oban.is_leader


def test_after_a_slow_one_others_look_by_themselves(make_oban, monkeypatch, probe):
    monkeypatch.setattr(refreshing.Refresher, "SLOW", -1.0)
    oban = make_oban(queues={"alpha": 1}).start()
    refresher = refresher_of(oban)
    eventually(lambda: not refresher.carries)

    while not probe._heard.empty():
        probe._heard.get()

    probe.next("oban.stager.stage.stop")
    probe.next("oban.stager.stage.stop")


@pytest.mark.parametrize("lost", [True, False])
def test_nothing_goes_along_while_notifications_may_be_lost(make_oban, monkeypatch, lost):
    oban = make_oban(queues={"alpha": 1}).start()
    refresher = refresher_of(oban)
    eventually(lambda: refresher.carries)
    refresher._degraded = lambda: lost

    assert refresher.carries is not lost
