"""Who leads, for how long, and who follows."""

from __future__ import annotations

import time

import pytest

from oban_sync import DatabaseUnavailableError, telemetry
from oban_sync.core.loops import LeadershipConfig
from oban_sync.engine import nodes
from oban_sync.engine.connections import connect_reserved
from oban_sync.engine.nodes import Identity
from oban_sync.engine.reserved import ReservedDb
from oban_sync.runtime.leader import Leader
from tests.support.probe import eventually


@pytest.fixture
def make_leader(dsn, prefix):
    made = []

    def make(uuid, **options):
        db = ReservedDb(lambda: connect_reserved(dsn, application_name="leader"), prefix)
        elected = options.pop("on_elected", lambda: None)
        leader = Leader(
            db,
            Identity(uuid, "Oban", uuid, None),
            LeadershipConfig(**options),
            on_elected=elected,
        )
        made.append(leader)

        return leader

    yield make

    for leader in made:
        leader.closed()


def test_the_first_leads_and_the_second_waits_for_its_lease_to_end(make_leader):
    first, second = make_leader("a"), make_leader("b")

    assert first.tick() is None
    assert 7.0 < second.tick() < 8.1
    assert (first.is_leader, second.is_leader) == (True, False)


@pytest.mark.parametrize("end", ["infinity", "290000-01-01", "2900-01-01"])
def test_a_follower_looks_again_whatever_the_row_says(make_leader, conn, end):
    make_leader("a").tick()
    conn.execute("UPDATE oban_sync_leaders SET expires_at = %s", [end])

    assert make_leader("b").tick() <= 8.0


def test_a_lease_is_trusted_only_until_a_second_before_its_end(make_leader):
    leader = make_leader("a", ttl=8.0)
    before = time.monotonic()
    leader.tick()

    assert before + 7.0 <= leader._trusted_until <= time.monotonic() + 7.0


def test_a_lease_that_is_not_renewed_ends_by_this_nodes_own_clock(make_leader):
    leader = make_leader("a")
    leader.tick()
    leader._trusted_until -= 7.0

    assert leader.is_leader is False


def test_a_node_that_cannot_renew_leads_no_more_at_once(make_leader, monkeypatch, probe):
    leader = make_leader("a")
    leader.tick()
    leader.request_stop()

    def fail(tx, identity, ttl):
        raise DatabaseUnavailableError("away")

    monkeypatch.setattr(nodes, "elect", fail)

    with pytest.raises(DatabaseUnavailableError):
        leader.tick()

    assert leader.is_leader is False
    assert probe.next("oban.leader.lost")["reason"] == "it could not renew its lease"


def test_a_slow_answer_counts_from_before_the_question(make_leader, monkeypatch):
    leader = make_leader("a")
    elect = nodes.elect

    def slow(tx, identity, ttl):
        election = elect(tx, identity, ttl)
        monkeypatch.setattr(time, "monotonic", lambda real=time.monotonic: real() + 100)

        return election

    monkeypatch.setattr(nodes, "elect", slow)
    leader.tick()

    assert leader.is_leader is False


def test_whoever_is_elected_hears_of_it_once_a_term(make_leader, conn):
    terms = []
    leader = make_leader("a", on_elected=lambda: terms.append(1))
    leader.tick()
    leader.tick()

    assert len(terms) == 1

    conn.execute("UPDATE oban_sync_leaders SET expires_at = now() - interval '1 s'")
    leader.tick()

    assert len(terms) == 2


def test_a_lost_connection_is_made_anew(make_leader, conn):
    leader = make_leader("a")
    leader.tick()
    conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'leader' AND datname = current_database()"
    )
    leader.tick()

    assert leader.is_leader


def test_an_orderly_stop_hands_leadership_over_at_once(make_oban, probe):
    first = make_oban(queues={"alpha": 1}).start()
    eventually(lambda: first.is_leader)
    second = make_oban(queues={"alpha": 1}).start()
    first.stop()
    stopped = time.monotonic()
    eventually(lambda: second.is_leader)

    # The promise: two seconds. The lease itself would have gone on for up to eight.
    assert time.monotonic() - stopped < 2.0
    assert not first.is_leader


def test_two_nodes_never_lead_at_once(make_oban, conn):
    obans = [make_oban(queues={"alpha": 1}).start() for _ in range(3)]
    eventually(lambda: any(oban.is_leader for oban in obans))

    for _ in range(50):
        conn.execute("UPDATE oban_sync_leaders SET expires_at = expires_at")

        assert sum(oban.is_leader for oban in obans) == 1


def test_a_node_that_may_not_lead_does_not(make_oban, probe):
    oban = make_oban(queues={"alpha": 1}, leadership=False).start()
    probe.next("oban.refresher.refresh.stop")

    assert not oban.is_leader
    assert oban.list_nodes()[0].leader is False


def test_a_client_leads_nothing(make_oban):
    assert make_oban().start().is_leader is False


def test_an_exception_in_a_handler_ends_no_leadership(make_leader):
    def fail(event, fields):
        raise RuntimeError("broken handler")

    telemetry.attach("broken", ["oban.leader.elected"], fail)

    try:
        leader = make_leader("a")
        leader.tick()

        assert leader.is_leader
    finally:
        telemetry.detach("broken")


def test_the_leader_does_not_borrow_from_the_loops_pool(make_oban, conn):
    make_oban(queues={"alpha": 1}).start()

    wanted = {"oban-sync Oban: leader", "oban-sync Oban: refresher", "oban-sync Oban: notifier"}

    def names():
        return {
            name
            for (name,) in conn.execute(
                "SELECT application_name FROM pg_stat_activity"
                " WHERE application_name LIKE 'oban-sync Oban:%' AND datname = current_database()"
            )
        }

    eventually(lambda: wanted <= names())
