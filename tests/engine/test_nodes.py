"""Beats, elections, and the jobs of nodes that died."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import uuid4

import psycopg
import pytest

from oban_sync.core.job import JobState
from oban_sync.core.loops import RefresherConfig
from oban_sync.core.outcome import Outcome
from oban_sync.engine import ack, fetch, nodes
from oban_sync.engine.fetch import Claim, Shunned
from oban_sync.engine.nodes import Identity, ProducerRow
from oban_sync.engine.statements import statement

OPTIONS = RefresherConfig()

#: When jobs were asked to stop: after they had started.
LATER = "2999-01-01T00:00:00.000000Z"

ASK = f"""UPDATE oban_jobs SET meta = '{{"cancel_requested_at": "{LATER}"}}'"""


@pytest.fixture
def identity():
    uuid = str(uuid4())

    return Identity(uuid, "Oban", "here", nodes.lock_key(uuid))


def beat(db, identity, beats=1, *producers):
    with db.session() as tx:
        return nodes.beat(tx, identity, beats, producers, OPTIONS)


def seen(db, uuid):
    with db.session() as tx:
        return next(other for other in nodes.watch(tx, "me")[1] if other.uuid == uuid)


def rescued(db, uuid, **more):
    given = {"why": "it is gone", "most": 1000, "shunned": Shunned(), **more}

    return nodes.rescue(db, seen(db, uuid), **given)


# Beats


def test_a_beat_writes_the_node_and_its_queues(db, conn, identity):
    first = beat(db, identity, 1, ProducerRow("p1", "alpha", 5, False))
    second = beat(
        db, identity, 2, ProducerRow("p1", "alpha", 7, True), ProducerRow("p2", "beta", 1, False)
    )

    assert (first.fresh, second.fresh) == (True, False)
    assert conn.execute(
        "SELECT uuid, queue, job_limit, paused FROM oban_sync_producers ORDER BY uuid"
    ).fetchall() == [("p1", "alpha", 7, True), ("p2", "beta", 1, False)]
    assert conn.execute("SELECT beats, lock_key FROM oban_sync_nodes").fetchall() == [
        (2, identity.lock_key)
    ]


def test_a_queue_that_is_gone_is_taken_from_the_table(db, conn, identity):
    beat(db, identity, 1, ProducerRow("p1", "alpha", 5, False))
    beat(db, identity, 2)

    assert conn.execute("SELECT count(*) FROM oban_sync_producers").fetchone() == (0,)


def test_a_beat_of_a_node_that_was_taken_for_dead_tells_so(db, conn, identity):
    beat(db, identity, 1)
    conn.execute("DELETE FROM oban_sync_nodes")

    assert beat(db, identity, 2, ProducerRow("p1", "alpha", 5, False)).fresh is True


def test_a_beat_brings_the_running_jobs_that_were_asked_to_stop(db, factory, identity):
    wanted = {"cancel_requested_at": LATER}
    mine = factory.executing("p1", meta=wanted)
    factory.executing("p1")
    factory.executing("p1", meta={"cancel_requested_at": "2026-01-01T00:00:00.000000Z"})
    factory.executing("p2", meta=wanted)
    factory.job(state="available", attempted_by=["here", "p1"], meta=wanted)

    assert beat(db, identity, 1, ProducerRow("p1", "alpha", 5, False)).cancels == [mine]


def test_a_beat_brings_what_was_asked_of_this_node_and_of_all(db, conn, identity):
    for node, value in (("*", "true"), ("here", "false"), ("there", "true")):
        conn.execute(
            "INSERT INTO oban_sync_controls (name, queue, node, aspect, value)"
            " VALUES ('Oban', 'alpha', %s, 'paused', %s)",
            [node, value],
        )

    conn.execute(
        "INSERT INTO oban_sync_controls (name, queue, node, aspect, value, until) VALUES"
        " ('Other', 'alpha', '*', 'paused', 'true', NULL),"
        " ('Oban', 'beta', '*', 'paused', 'true', now() - interval '1 s'),"
        " ('Oban', 'gamma', '*', 'limit', '\"many\"', NULL),"
        " ('Oban', 'delta', '*', 'limit', '1e5000', NULL),"
        " ('Oban', '', '*', 'running', '5', NULL),"
        " ('Oban', repeat('x', 5000), '*', 'running', '5', NULL),"
        " ('Oban', 'epsilon', '*', 'paused', (repeat('[', 3000) || repeat(']', 3000))::jsonb, NULL)"
    )
    conn.execute(
        "INSERT INTO oban_sync_controls (name, queue, node, aspect, value, until, set_at)"
        " VALUES ('Oban', 'zeta', '*', 'paused', 'true', 'infinity', '-infinity')"
    )

    found = [(item.queue, item.value, item.ended) for item in beat(db, identity).controls]

    assert found == [
        ("alpha", True, False),
        ("alpha", False, False),
        ("beta", True, True),
        ("zeta", True, False),
    ]


def test_a_beat_is_heard_on_the_nodes_own_channel(db, conn, identity):
    conn.execute(f'LISTEN "{identity.channel}"')
    beat(db, identity, 7)

    assert [json.loads(item.payload) for item in conn.notifies(timeout=5, stop_after=1)] == [
        {"beats": 7}
    ]


def test_a_session_lock_is_seen_by_others_for_as_long_as_the_session_stands(db, dsn, identity):
    beat(db, identity)

    assert seen(db, identity.uuid).locked is False

    with psycopg.connect(dsn, autocommit=True) as session:
        nodes.hold_lock(nodes.Tx(session, "pg_catalog"), identity.lock_key)

        assert seen(db, identity.uuid).locked is True

        # A session made anew must not wait for the end of the old one.
        with psycopg.connect(dsn, autocommit=True) as another:
            nodes.hold_lock(nodes.Tx(another, "pg_catalog"), identity.lock_key)

    beat(db, replace(identity, lock_key=None), 2)

    assert seen(db, identity.uuid).locked is None


@pytest.mark.parametrize("key", [1, -1, 2**62, -(2**63), 2**32, -(2**32)])
def test_a_lock_of_any_key_is_found(db, dsn, factory, key):
    uuid = factory.node(lock_key=key)

    with psycopg.connect(dsn, autocommit=True) as session:
        nodes.hold_lock(nodes.Tx(session, "pg_catalog"), key)

        assert seen(db, uuid).locked is True

    factory.node(lock_key=key + 1)


def test_nodes_that_died_do_not_count_as_company(db, dsn, factory, conn, identity):
    factory.node(lock_key=5)
    factory.node(lock_key=None, beat_at="2026-01-01")
    factory.node(name="Another", lock_key=None)

    with db.session() as tx:
        assert nodes.is_alone(tx, identity)

        factory.node(lock_key=None)

        assert not nodes.is_alone(tx, identity)


def test_a_cluster_was_founded_by_the_first_that_found_itself_alone(db, factory, conn):
    factory.node(founder=False)

    with db.session() as tx:
        assert nodes.founded_at(tx, "Oban", within=60) is None

        factory.node(founder=True, started_at="2026-01-01Z")
        factory.node(founder=True, name="Another")

        assert nodes.founded_at(tx, "Oban", within=60) is None

        first = factory.node(founder=True)
        factory.node(founder=True)
        [(started_at,)] = conn.execute(
            "SELECT started_at FROM oban_sync_nodes WHERE uuid = %s", [first]
        ).fetchall()

        assert nodes.founded_at(tx, "Oban", within=60) == started_at


# Rescue


def test_the_jobs_of_a_dead_node_are_given_back_and_its_row_goes(db, conn, factory):
    dead = factory.node("alpha", "beta")
    other = factory.node("alpha")
    jobs = [
        factory.executing(factory.owner(dead, queue), queue=queue, attempt=3)
        for queue in ("alpha", "beta")
    ]
    spared = factory.executing(factory.owner(other, "alpha"))
    found, gone = rescued(db, dead)

    assert [(job.id, job.state) for job in found] == [(job, "available") for job in jobs]
    assert gone
    assert factory.states(*jobs, spared) == ["available", "available", "executing"]
    assert conn.execute("SELECT uuid FROM oban_sync_nodes").fetchall() == [(other,)]


def test_a_rescued_job_says_why_and_has_not_spent_its_attempt(db, factory):
    dead = factory.node("alpha", node='the "old" one')
    job = factory.executing(
        factory.owner(dead, "alpha"), attempt=20, max_attempts=20, meta={"kept": 1}
    )
    rescued(db, dead)
    row = factory.row(job)

    assert (row["state"], row["attempt"]) == ("available", 19)
    assert row["meta"]["kept"] == 1
    assert row["meta"]["rescued"] == 1
    assert row["meta"]["rescued_start"]["attempt"] == 20
    assert len(row["errors"]) == 1
    assert row["errors"][0]["attempt"] == 20
    assert row["errors"][0]["at"].endswith("Z")
    assert (
        r'"the \"old\" one" was found dead while it ran this job (it is gone)'
        in (row["errors"][0]["error"])
    )


def test_a_rescue_wakes_the_nodes_of_the_queue(db, conn, factory, prefix):
    dead = factory.node("alpha")
    factory.executing(factory.owner(dead, "alpha"))
    factory.executing(factory.owner(dead, "alpha"))
    conn.execute(f'LISTEN "{prefix}.oban_insert"')
    rescued(db, dead)

    assert [item.payload for item in conn.notifies(timeout=5, stop_after=1)] == [
        '{"queue":"alpha"}'
    ]


def test_a_watcher_that_comes_second_takes_nothing_from_a_living_node(db, dsn, prefix, factory):
    """It must not go on by what it saw before it waited for the first one."""
    dead = factory.node("alpha")
    jobs = [factory.executing(factory.owner(dead, "alpha")) for _ in range(2)]
    before = seen(db, dead)

    with psycopg.connect(dsn) as first, ThreadPoolExecutor(1) as other:
        # One job is held by somebody, so the node's row outlives the first watcher's call.
        first.execute(f'SELECT FROM "{prefix}".oban_jobs WHERE id = %s FOR UPDATE', [jobs[0]])
        first.execute(f'SELECT FROM "{prefix}".oban_sync_nodes FOR UPDATE')
        second = other.submit(nodes.rescue, db, before, why="", most=10, shunned=Shunned())
        # Meanwhile the other job was given back, and a living node started it.
        first.execute(
            f"""UPDATE "{prefix}".oban_jobs SET attempted_by = ARRAY['living', 'its producer']"""
            " WHERE id = %s",
            [jobs[1]],
        )
        first.commit()
        second.result(10)

    assert factory.states(jobs[1]) == ["executing"]


def test_what_becomes_of_suspects_does_not_hang_on_a_row_that_refuses(db, conn, factory):
    dead = factory.node("alpha")
    owner = factory.owner(dead, "alpha")
    suspects = [factory.executing(owner, meta={"rescued": 2}) for _ in range(3)]
    factory.executing(owner, worker="w0")
    conn.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE 'no'; END$$;"
        "CREATE TRIGGER refuse BEFORE UPDATE ON oban_jobs FOR EACH ROW"
        " WHEN (OLD.worker = 'w0') EXECUTE FUNCTION refuse()"
    )
    rescued(db, dead)

    assert "discarded" not in factory.states(*suspects)
    assert "executing" not in factory.states(*suspects)


def test_a_node_that_beat_again_is_left_alone(db, conn, factory):
    dead = factory.node("alpha")
    job = factory.executing(factory.owner(dead, "alpha"))
    before = seen(db, dead)
    conn.execute("UPDATE oban_sync_nodes SET beats = beats + 1")

    assert nodes.rescue(db, before, why="", most=10, shunned=Shunned()) == ([], False)
    assert factory.states(job) == ["executing"]


def test_the_row_goes_with_the_last_job(db, factory):
    dead = factory.node("alpha")

    for _ in range(3):
        factory.executing(factory.owner(dead, "alpha"))

    first, gone = rescued(db, dead, most=2)

    assert (len(first), gone) == (2, False)

    second, gone = rescued(db, dead, most=2)

    assert (len(second), gone) == (1, True)


def test_a_job_that_another_transaction_holds_is_given_back_later(db, dsn, prefix, factory):
    dead = factory.node("alpha")
    held = factory.executing(factory.owner(dead, "alpha"))
    free = factory.executing(factory.owner(dead, "alpha"))

    with psycopg.connect(dsn) as other:
        other.execute(f'SELECT FROM "{prefix}".oban_jobs WHERE id = %s FOR UPDATE', [held])

        jobs, gone = rescued(db, dead)

    assert ([job.id for job in jobs], gone) == ([free], False)
    assert [job.id for job in rescued(db, dead)[0]] == [held]


def test_a_job_that_was_asked_to_stop_is_cancelled_instead(db, factory):
    dead = factory.node("alpha")
    job = factory.executing(factory.owner(dead, "alpha"), meta={"cancel_requested_at": LATER})
    rescued(db, dead)
    row = factory.row(job)

    assert (row["state"], row["attempt"]) == ("cancelled", 1)
    assert row["cancelled_at"] is not None


def test_the_third_death_of_its_process_ends_a_job_and_no_other(db, factory):
    dead = factory.node("alpha")
    owner = factory.owner(dead, "alpha")
    cause = factory.executing(owner, meta={"rescued": 2}, attempt=1)
    neighbour = factory.executing(owner)
    rescued(db, dead)
    row = factory.row(cause)

    assert factory.states(cause, neighbour) == ["discarded", "available"]
    assert row["discarded_at"] is not None
    assert "death 3 with this job running" in row["errors"][0]["error"]
    assert factory.row(neighbour)["attempt"] == 0


def test_suspects_are_started_one_after_the_other_the_last_started_first(db, factory):
    dead = factory.node("alpha")
    owner = factory.owner(dead, "alpha")
    jobs = [
        factory.executing(owner, meta={"rescued": 2}, attempted_at=f"2026-01-01 00:00:0{second}")
        for second in (1, 3, 2)
    ]
    fresh = factory.executing(owner)
    rescued(db, dead)

    # Which of the three it was cannot be told, so none is given up.
    assert factory.states(*jobs, fresh) == ["scheduled", "available", "scheduled", "available"]

    waits = [factory.row(job)["scheduled_at"] for job in jobs]

    assert waits[2] < waits[0]
    assert (waits[0] - waits[2]).total_seconds() == pytest.approx(20, abs=0.1)


def test_a_job_that_brings_down_everything_ends_even_among_suspects(db, factory):
    dead = factory.node("alpha")
    owner = factory.owner(dead, "alpha")
    jobs = [factory.executing(owner, meta={"rescued": 11}) for _ in range(2)]
    rescued(db, dead)

    assert factory.states(*jobs) == ["discarded", "discarded"]


@pytest.mark.parametrize(
    "meta",
    [
        None,
        {},
        "[1]",
        '"x"',
        {"rescued": "x"},
        {"rescued": -5},
        {"rescued": 1e300},
        {"rescued": [1]},
    ],
)
def test_whatever_the_row_holds_its_deaths_are_counted(db, factory, meta):
    dead = factory.node("alpha")
    job = factory.executing(factory.owner(dead, "alpha"), meta=meta)
    rescued(db, dead)

    assert factory.row(job)["meta"]["rescued"] >= 1


def test_a_row_that_refuses_to_change_holds_up_no_other(db, conn, factory, prefix):
    dead = factory.node("alpha")
    owner = factory.owner(dead, "alpha")
    bad, *good = [factory.executing(owner, worker=f"w{number}") for number in range(4)]
    conn.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE 'no'; END$$;"
        "CREATE TRIGGER refuse BEFORE UPDATE ON oban_jobs FOR EACH ROW"
        " WHEN (OLD.worker = 'w0') EXECUTE FUNCTION refuse()"
    )
    shunned = Shunned()
    jobs, gone = rescued(db, dead, shunned=shunned)

    assert ([job.id for job in jobs], gone) == (good, False)
    assert shunned.ids() == [bad]
    assert rescued(db, dead, shunned=shunned) == ([], False)


# Late outcomes


@pytest.fixture
def rescued_job(db, factory, conn):
    """A job that was taken from its queue, and then rescued while it still ran."""
    node = factory.node("alpha")
    owner = factory.owner(node, "alpha")
    factory.job(queue="alpha", meta={"rescued": 0})
    claim = Claim("alpha", "other", owner)
    [job] = fetch.turn(db, claim, (), 1).jobs
    rescued(db, node)

    return claim, job


def settle(db, claim, outcome):
    """Write an outcome as a producer does: what is left over is tried again, more carefully."""
    first = fetch.turn(db, claim, [outcome], 0)
    again = fetch.turn(db, claim, first.left, 0, carefully=True) if first.left else first

    return again.fenced, again.left


@pytest.mark.parametrize("state", ["available", "scheduled", "discarded"])
def test_a_late_success_counts_until_the_job_is_started_again(
    db, conn, factory, rescued_job, state
):
    claim, job = rescued_job
    conn.execute("UPDATE oban_jobs SET state = %s", [state])

    assert settle(db, claim, Outcome(job, JobState.COMPLETED)) == ([], [])

    row = factory.row(job.id)

    assert (row["state"], row["attempt"]) == ("completed", 1)
    assert "rescued_start" not in row["meta"]
    assert row["meta"]["rescued"] == 1
    assert row["discarded_at"] is None


def test_a_late_failure_is_written_once_however_often_it_is_sent(db, conn, factory, rescued_job):
    claim, job = rescued_job
    outcome = Outcome(job, JobState.RETRYABLE, error_text="late", schedule_in=0.0)

    assert settle(db, claim, outcome) == ([], [])

    # As if the reply had been lost, and the job had been staged meanwhile.
    conn.execute("UPDATE oban_jobs SET state = 'available'")
    fenced, left = settle(db, claim, outcome)

    assert (fenced, left) == ([outcome], [])
    assert [error["error"] for error in factory.row(job.id)["errors"]].count("late") == 1


def test_a_late_outcome_is_refused_once_the_job_was_started_again(db, factory, rescued_job):
    claim, job = rescued_job
    [again] = fetch.turn(db, Claim("alpha", "third", "somebody else"), (), 1).jobs
    outcome = Outcome(job, JobState.COMPLETED)

    assert again.id == job.id
    assert settle(db, claim, outcome) == ([outcome], [])
    assert factory.states(job.id) == ["executing"]


def test_a_late_outcome_is_refused_once_the_job_was_cancelled(db, conn, factory, rescued_job):
    claim, job = rescued_job
    conn.execute("UPDATE oban_jobs SET state = 'cancelled'")
    outcome = Outcome(job, JobState.COMPLETED)

    assert settle(db, claim, outcome) == ([outcome], [])


def test_a_job_handed_back_takes_no_late_outcome(db, factory):
    factory.job(queue="alpha")
    claim = Claim("alpha", "here", "mine")
    [job] = fetch.turn(db, claim, (), 1).jobs
    ack.release(db, [job], owner="mine")
    outcome = Outcome(job, JobState.COMPLETED)

    assert settle(db, claim, outcome) == ([outcome], [])


@pytest.mark.parametrize("state", [JobState.RETRYABLE, JobState.SCHEDULED])
def test_a_job_that_was_asked_to_stop_is_not_run_again(db, conn, factory, state):
    factory.job(queue="alpha")
    claim = Claim("alpha", "here", "mine")
    [job] = fetch.turn(db, claim, (), 1).jobs
    conn.execute(ASK)
    outcome = Outcome(job, state, error_text="stopped", schedule_in=1.0)

    assert settle(db, claim, outcome) == ([], [])
    assert factory.row(job.id)["cancelled_at"] is not None
    assert factory.states(job.id) == ["cancelled"]

    # And again, its reply being lost.
    assert settle(db, claim, outcome) == ([], [])


def test_a_request_of_an_earlier_run_does_not_count(db, conn, factory):
    factory.job(queue="alpha", meta={"cancel_requested_at": "2026-01-01T00:00:00.000000Z"})
    claim = Claim("alpha", "here", "mine")
    [job] = fetch.turn(db, claim, (), 1).jobs
    settle(db, claim, Outcome(job, JobState.RETRYABLE, error_text="no", schedule_in=1.0))

    assert factory.states(job.id) == ["retryable"]


def test_a_job_that_completes_all_the_same_is_completed(db, conn, factory):
    factory.job(queue="alpha")
    claim = Claim("alpha", "here", "mine")
    [job] = fetch.turn(db, claim, (), 1).jobs
    conn.execute(ASK)
    settle(db, claim, Outcome(job, JobState.COMPLETED))

    assert factory.states(job.id) == ["completed"]


def test_a_job_handed_back_after_it_was_asked_to_stop_is_cancelled(db, conn, factory):
    factory.job(queue="alpha")
    claim = Claim("alpha", "here", "mine")
    [job] = fetch.turn(db, claim, (), 1).jobs
    conn.execute(ASK)
    ack.release(db, [job], owner="mine")

    assert factory.states(job.id) == ["cancelled"]


# Owners that nobody knows


def aged(db, *, rescue_after=300.0, most=1000):
    return nodes.rescue_aged(db, rescue_after=rescue_after, most=most, shunned=Shunned())


def test_jobs_of_unknown_owners_are_given_back_by_their_age(db, factory):
    live = factory.node("alpha")
    old = "2026-01-01"
    orphan = factory.executing("nobody", attempted_at=old)
    last = factory.executing("nobody", attempted_at=old, attempt=20)
    unwanted = factory.executing(
        "nobody", attempted_at=old, attempt=20, meta={"cancel_requested_at": LATER}
    )
    owned = factory.executing(factory.owner(live, "alpha"), attempted_at=old)
    young = factory.executing("nobody")
    nobody = factory.job(state="executing", attempt=1, inserted_at=old)
    aged(db)

    assert factory.states(orphan, last, unwanted, owned, young, nobody) == [
        "available",
        "discarded",
        "cancelled",
        "executing",
        "executing",
        "available",
    ]
    assert factory.row(orphan)["attempt"] == 1
    assert "Nobody is known to run this job" in factory.row(orphan)["errors"][0]["error"]


def test_jobs_of_oban_pys_producers_are_spared_while_they_report(db, conn, factory):
    reporting, silent = str(uuid4()), str(uuid4())
    conn.execute(
        "INSERT INTO oban_producers (uuid, node, queue, updated_at) VALUES"
        " (%s, 'py', 'alpha', timezone('UTC', now())), (%s, 'py', 'alpha', '2026-01-01')",
        [reporting, silent],
    )
    jobs = [factory.executing(owner, attempted_at="2026-01-01") for owner in (reporting, silent)]
    aged(db)

    assert factory.states(*jobs) == ["executing", "available"]


def test_jobs_get_an_hour_while_nodes_of_elixir_are_about(db, conn, factory):
    conn.execute(
        "INSERT INTO oban_peers VALUES ('Oban', 'ex', timezone('UTC', now()),"
        " timezone('UTC', now()) + interval '30 s')"
    )
    recent = factory.executing("elixir", attempted_at="2026-01-01")
    conn.execute(
        "UPDATE oban_jobs SET attempted_at = timezone('UTC', now()) - interval '50 minutes'"
    )
    old = factory.executing("elixir", attempted_at="2026-01-01")
    aged(db)

    assert factory.states(recent, old) == ["executing", "available"]


def test_aged_jobs_that_refuse_to_change_hold_up_no_other(db, conn, factory):
    bad, good = [
        factory.executing("nobody", attempted_at="2026-01-01", worker=worker)
        for worker in ("bad", "good")
    ]
    conn.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE 'no'; END$$;"
        "CREATE TRIGGER refuse BEFORE UPDATE ON oban_jobs FOR EACH ROW"
        " WHEN (OLD.worker = 'bad') EXECUTE FUNCTION refuse()"
    )

    assert [job.id for job in aged(db)] == [good]
    assert factory.states(bad) == ["executing"]


# Elections


def elect(db, name="Oban", uuid="a", ttl=8.0):
    with db.session() as tx:
        return nodes.elect(tx, Identity(uuid, name, uuid, None), ttl)


def test_one_leads_and_the_others_learn_for_how_long(db):
    first, second, again = elect(db, uuid="a"), elect(db, uuid="b"), elect(db, uuid="a")

    assert (first.led, first.anew) == (True, True)
    assert (second.led, second.anew) == (False, False)
    assert 7 < second.remaining <= 8
    assert (again.led, again.anew) == (True, False)


def test_the_lease_lasts_as_long_as_was_asked_for(db, conn):
    elect(db, ttl=8.0)

    assert conn.execute(
        "SELECT extract(epoch FROM expires_at - elected_at)::float FROM oban_sync_leaders"
    ).fetchone() == (8.0,)


def test_an_expired_lease_is_taken_over_and_begins_a_new_term_for_its_holder(db, conn):
    elect(db, uuid="a")
    conn.execute("UPDATE oban_sync_leaders SET expires_at = now() - interval '1 s'")

    assert elect(db, uuid="a").anew

    conn.execute("UPDATE oban_sync_leaders SET expires_at = now() - interval '1 s'")

    assert elect(db, uuid="b").led
    assert not elect(db, uuid="a").led


def test_instances_lead_apart(db):
    assert elect(db, name="One", uuid="a").led
    assert elect(db, name="Two", uuid="b").led


def test_a_lease_without_end_is_looked_at_again(db, conn):
    elect(db, uuid="a")
    conn.execute("UPDATE oban_sync_leaders SET expires_at = 'infinity'")

    assert not elect(db, uuid="b").led


def test_whoever_resigns_leaves_at_once_and_others_are_told(db, conn, prefix):
    elect(db, uuid="a")
    conn.execute(f'LISTEN "{prefix}.oban_sync"')

    with db.session() as tx:
        # Somebody who does not lead has nothing to give up.
        nodes.resign(tx, Identity("b", "Oban", "b", None))
        nodes.resign(tx, Identity("a", "Oban", "here", None))

    assert [json.loads(item.payload) for item in conn.notifies(timeout=5, stop_after=1)] == [
        {"action": "resign", "down": "Oban", "name": "Oban", "node": "here"}
    ]
    assert elect(db, uuid="b").led


def test_the_tables_of_the_peers_are_not_contended_for(db, conn):
    elect(db)

    assert conn.execute("SELECT count(*) FROM oban_leaders").fetchone() == (0,)
    assert conn.execute("SELECT count(*) FROM oban_peers").fetchone() == (0,)


# Plans


PLANS = {
    "node_rescue": {
        "uuid": "u",
        "beats": 1,
        "ids": None,
        "at_most": 10,
        "deaths": 3,
        "spacing": 10.0,
        "reason": "r",
        "most": 100,
        "channel": "c",
    },
    "job_rescue": {
        "rescue_after": 300.0,
        "ids": None,
        "at_most": 10,
        "most": 100,
        "channel": "c",
    },
    "node_beat": {
        "uuid": "u",
        "name": "Oban",
        "node": "n",
        "beats": 1,
        "lock_key": 1,
        "max_age": 60.0,
        "unlocked_max_age": 6.0,
        "crons": [],
        "founder": False,
        "info": None,
        "workers": None,
        "producers": '[{"uuid": "p", "queue": "q", "job_limit": 1, "paused": false}]',
        "ping": "c",
    },
}


@pytest.mark.parametrize("name", PLANS)
def test_no_statement_reads_the_whole_table(db, conn, name):
    conn.execute("ANALYZE oban_jobs")
    conn.execute(
        "INSERT INTO oban_jobs (state, worker, attempt) SELECT 'completed', 'w', 1"
        " FROM generate_series(1, 5000)"
    )

    with db.session() as tx:
        text = f"EXPLAIN (FORMAT JSON) {statement(name, db.schema)}"
        [(plan,)] = tx.conn.execute(text, PLANS[name]).fetchall()

    plan = plan if isinstance(plan, str) else json.dumps(plan)

    assert '"Relation Name": "oban_jobs"' in plan
    assert '"Node Type": "Seq Scan", "Parallel Aware": false, "Async Capable": false, ' not in (
        "".join(part for part in plan.split("{") if '"oban_jobs"' in part)
    )
