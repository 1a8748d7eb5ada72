"""Who leads, for how long, and who follows."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from oban_sync import DatabaseUnavailableError, telemetry
from oban_sync.core.loops import LeadershipConfig
from oban_sync.engine import nodes
from oban_sync.engine.asks import together
from oban_sync.engine.connections import connect_reserved
from oban_sync.engine.nodes import Identity
from oban_sync.engine.reserved import ReservedDb
from oban_sync.runtime.carried import Answer
from oban_sync.runtime.leader import Leader
from oban_sync.runtime.refresher import Refresher
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


@pytest.mark.parametrize("takes_along", [True, False])
def test_the_lease_is_renewed_though_the_loops_pool_is_empty(
    make_oban, conn, monkeypatch, takes_along
):
    if not takes_along:
        monkeypatch.setattr(Refresher, "carries", property(lambda self: False))

    oban = make_oban(queues={"alpha": 1}, leadership={"interval": 0.1}).start()
    eventually(lambda: oban.is_leader)
    [pool] = oban._assembly._loops.values()
    taken = [pool.getconn() for _ in range(pool.max_size)]

    def ends():
        return conn.execute("SELECT expires_at FROM oban_sync_leaders").fetchone()[0]

    before = ends()
    eventually(lambda: ends() > before)

    for one in taken:
        pool.putconn(one)


def test_a_leader_needs_a_connection_of_its_own_only_while_nothing_takes_it_along(
    make_oban, conn, monkeypatch
):
    def connected():
        found = conn.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = 'oban-sync Oban: leader' AND datname = current_database()"
        )

        return found.fetchone()[0]

    oban = make_oban(queues={"alpha": 1}, leadership={"interval": 0.1}).start()
    eventually(lambda: oban.is_leader)
    refresher = oban._lifecycle._supervisor._refresher

    assert connected() == 0

    refresher._carries_from = float("inf")
    eventually(lambda: connected() == 1)
    refresher._carries_from = 0.0
    eventually(lambda: connected() == 0)

    assert oban.is_leader


def test_a_leader_that_stops_resigns_after_an_election_that_is_under_way(
    make_leader, conn, monkeypatch
):
    leader = make_leader("a")
    order = []
    resign = nodes.resign

    def resigned(tx, identity):
        order.append("resigned")
        resign(tx, identity)

    monkeypatch.setattr(nodes, "resign", resigned)
    leader.start()
    eventually(lambda: leader.is_leader)
    ask = leader.taken()
    leader.request_stop()
    rows = _rows(leader, ask)
    order.append("elected")
    leader.answered(Answer(rows, 0.0, 0.0))

    assert leader.join(time.monotonic() + 5)
    assert order == ["elected", "resigned"]
    assert conn.execute("SELECT count(*) FROM oban_sync_leaders").fetchone()[0] == 0


def test_a_stopping_leader_is_taken_along_no_more(make_leader):
    leader = make_leader("a")
    leader.start()
    eventually(lambda: leader.is_leader)
    leader.request_stop()

    assert leader.taken() is None


def test_a_term_begins_on_disk_and_goes_on_without_waiting_for_it(db):
    identity = Identity("a", "Oban", "a", None)
    waits = []

    for _ in range(2):
        with db.transaction() as tx:
            tx.conn.execute("SET LOCAL synchronous_commit = off")
            nodes.elect(tx, identity, 8.0)
            waits.append(tx.conn.execute("SHOW synchronous_commit").fetchone()[0])

    assert waits == ["local", "off"]


def _rows(leader, ask):
    with leader._db.session() as tx:
        return together(tx, [ask])[0]


def test_an_election_won_while_stopping_is_resigned(make_leader, conn):
    """Its answer comes when nobody goes by it any more."""
    leader = make_leader("a")
    leader.carrier = SimpleNamespace(carries=True, hurry=lambda: None)
    leader.start()
    eventually(lambda: leader.waits)
    ask = leader.taken()
    rows = _rows(leader, ask)
    leader.request_stop()
    leader.answered(Answer(rows, 0.0, 0.0))

    assert leader.join(time.monotonic() + 5)
    assert conn.execute("SELECT count(*) FROM oban_sync_leaders").fetchone()[0] == 0
