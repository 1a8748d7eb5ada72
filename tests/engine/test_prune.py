"""Deleting finished jobs: which ones, how many at a time, and around those that refuse."""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from threading import Thread

import psycopg
import pytest

from oban_sync.core.retention import PrunerConfig, check_pruner, scopes
from oban_sync.engine import prune
from oban_sync.engine.connections import open_loop_pool
from oban_sync.engine.session import Db

STAMPS = {"completed": "completed_at", "cancelled": "cancelled_at", "discarded": "discarded_at"}


@pytest.fixture
def ended(conn, factory):
    """Inserts a job that ended so many seconds ago."""

    def make(ago=0.0, state="completed", **columns):
        job_id = factory.job(state=state, **columns)
        conn.execute(
            f"UPDATE oban_jobs SET {STAMPS[state]} = timezone('UTC', now()) - make_interval(secs =>"
            " %s) WHERE id = %s",
            [ago, job_id],
        )

        return job_id

    return make


@pytest.fixture
def left(conn):
    """The ids that are still there."""

    def ids():
        rows = conn.execute("SELECT id FROM oban_jobs ORDER BY id").fetchall()

        return [row[0] for row in rows]

    return ids


class One(Db):
    """Always the same session, whose settings a test has changed."""

    def __init__(self, db, tx):
        super().__init__(db._pool, db.schema)
        self._tx = tx

    def session(self):
        return nullcontext(self._tx)


def sweeps(aside=None, **options):
    config = check_pruner("pruner", options)
    aside = aside or prune.Aside()

    return [prune.Sweep(scope, limit=config.limit, aside=aside) for scope in scopes(config)]


def swept(db, found):
    """Run sweeps to their end: how many were deleted, refused, and how many steps it took."""
    count = refused = steps = 0

    for sweep in found:
        while True:
            done = sweep.step(db)
            count, refused, steps = count + done.count, refused + done.refused, steps + 1
            assert steps < 1_000

            if not done.more:
                break

    return count, refused, steps


def pruned(db, **options):
    return swept(db, sweeps(**options))[0]


@pytest.mark.parametrize("state", STAMPS)
def test_a_job_goes_when_it_ended_longer_ago_than_its_age(db, ended, left, state):
    ended(61, state=state)
    kept = ended(59, state=state)

    assert pruned(db, max_age=60) == 1
    assert left() == [kept]


def test_jobs_that_have_not_ended_are_never_touched(db, conn, factory, ended, left):
    states = ["available", "suspended", "scheduled", "executing", "retryable"]
    long_ago = dict.fromkeys([*STAMPS.values(), "scheduled_at", "attempted_at"], "2000-01-01")
    alive = [factory.job(state=state, **long_ago) for state in states]
    ended(61)

    assert pruned(db, max_age=0) == 1
    assert pruned(db, max_len=0) == 0
    assert left() == alive


def test_an_end_without_a_time_or_with_another_states_time_is_left_alone(db, factory, left):
    kept = [
        factory.job(state="completed"),
        factory.job(state="discarded", completed_at="2000-01-01"),
        factory.job(state="completed", completed_at="infinity"),
        factory.job(state="completed", completed_at="9999-12-31"),
    ]

    assert pruned(db, max_age=0) == 0
    assert left() == kept


@pytest.mark.parametrize("stamp", ["-infinity", "4712-01-01 BC", "1970-01-01"])
def test_a_time_that_python_cannot_express_does_no_harm(db, factory, ended, left, stamp):
    factory.job(state="completed", completed_at=stamp)
    ended(61)

    assert pruned(db, max_age="forever", queues={"x": 60}) == 0
    assert pruned(db, max_age=60) == 2


RULES = {
    "default": {"max_age": 100},
    "queue": {"max_age": 100, "queues": {"q": 10}},
    "state": {"max_age": 100, "states": {"completed": 10}},
    "worker": {"max_age": 100, "workers": {"W": 10}},
    "queue over state": {"max_age": 5, "queues": {"q": 50}, "states": {"completed": 10}},
    "queue over worker": {"max_age": 5, "queues": {"q": 50}, "workers": {"W": 10}},
    "state over worker": {"max_age": 5, "states": {"completed": 50}, "workers": {"W": 10}},
    "all": {
        "max_age": 5,
        "queues": {"q": 10, "p": "forever"},
        "states": {"completed": 50, "discarded": "forever"},
        "workers": {"W": 80, "V": "forever"},
    },
    "queue forever": {"max_age": 5, "queues": {"q": "forever"}},
    "only a queue": {"max_age": "forever", "queues": {"q": 5}},
    "only a worker": {"max_age": "forever", "workers": {"V": 5}},
    "nothing": {"max_age": "forever"},
}


@pytest.mark.parametrize("options", RULES.values(), ids=RULES)
def test_a_job_falls_under_the_rule_of_its_queue_else_state_else_worker(db, ended, left, options):
    config = check_pruner("pruner", options)
    kept = []

    for ago, state, queue, worker in itertools.product(
        (7, 30, 65, 90, 200), STAMPS, ("q", "p", "r"), ("W", "V")
    ):
        job_id = ended(ago, state=state, queue=queue, worker=worker)

        if ago < config.rule(state, queue, worker).max_age:
            kept.append(job_id)

    assert pruned(db, **options) == 90 - len(kept)
    assert left() == kept


@pytest.mark.parametrize("keep", [0, 1, 3, 7, 8, 100])
def test_of_a_number_to_keep_exactly_the_newest_stay(db, ended, left, keep):
    ids = [ended(1_000 - number) for number in range(8)]

    assert pruned(db, max_len=keep) == max(0, 8 - keep)
    assert left() == ids[8 - min(keep, 8) :]
    assert pruned(db, max_len=keep) == 0


@pytest.mark.parametrize("window", [1, 2, 3, 100])
@pytest.mark.parametrize("keep", [1, 4, 6])
def test_of_jobs_that_ended_together_the_newest_ids_stay(
    db, factory, left, monkeypatch, window, keep
):
    monkeypatch.setattr(prune, "LEAST_WINDOW", window)
    moments = ["2026-01-01", "2026-01-02", "2026-01-02", "2026-01-02", "2026-01-02", "2026-01-03"]
    ids = [factory.job(state="completed", completed_at=moment) for moment in moments]

    assert pruned(db, max_len=keep, limit=window) == 6 - keep
    assert left() == ids[6 - keep :]


def test_a_number_counts_per_state_and_rule(db, ended, left):
    def batch(**columns):
        return [ended(100 - number, **columns) for number in range(4)]

    plain = batch(queue="q", worker="W")
    of_queue = batch(queue="few", worker="W")
    of_worker = batch(queue="q", worker="Rare")
    in_both = batch(queue="few", worker="Rare")
    cancelled = batch(queue="q", worker="W", state="cancelled")
    discarded = batch(queue="q", worker="Rare", state="discarded")

    pruned(
        db,
        max_len=3,
        queues={"few": {"max_len": 2}},
        workers={"Rare": {"max_len": 1}},
        states={"discarded": {"max_len": 0}},
    )

    # The queue's rule holds for all its jobs, whoever their worker is.
    of_queue_in_order = sorted([(n % 4, job) for n, job in enumerate(of_queue + in_both)])
    newest = [job for _, job in of_queue_in_order][-2:]

    assert left() == sorted([*plain[1:], *newest, *of_worker[3:], *cancelled[1:]])
    assert not set(left()) & set(discarded)


def test_a_number_and_an_age_both_hold_where_both_are_given(db, ended, left):
    ids = [ended(ago) for ago in (90, 50, 40, 30, 20)]

    assert pruned(db, queues={"default": {"max_len": 3, "max_age": 35}}, max_age="forever") == 3
    assert left() == ids[3:]


@pytest.mark.parametrize(
    "name", ["it's", 'a"b', "100%", "%s", "%(ids)s", "{a,b}", "\\", "NULL", "--", "$1", "é ü"]
)
def test_names_are_values_and_nothing_else(db, ended, left, name):
    other = ended(90, queue="other", worker="Other")
    ended(90, queue=name)
    ended(90, queue="x", worker=name)

    assert pruned(db, max_age="forever", queues={name: 60}, workers={name: 60}) == 2
    assert pruned(db, queues={name: {"max_len": 0}}, max_age="forever") == 0
    assert left() == [other]


def test_one_statement_deletes_no_more_than_the_limit(db, ended):
    for _ in range(7):
        ended(90)

    [sweep] = [sweep for sweep in sweeps(max_age=60, limit=3) if sweep._scope.state == "completed"]
    steps = [sweep.step(db) for _ in range(3)]

    assert [(step.count, step.more) for step in steps] == [(3, True), (3, True), (1, False)]


def test_more_kept_jobs_than_are_looked_at_at_once_do_not_hide_the_others(
    db, factory, ended, left, monkeypatch
):
    monkeypatch.setattr(prune, "LEAST_WINDOW", 2)
    kept = [
        factory.job(state="completed", completed_at="2020-01-01", queue="kept") for _ in range(9)
    ]
    kept += [ended(500, queue="kept") for _ in range(5)]

    for _ in range(3):
        factory.job(state="completed", completed_at="2020-01-01")
        ended(400)

    assert pruned(db, max_age=60, queues={"kept": "forever"}, limit=2) == 6
    assert left() == kept


def test_a_sweep_does_not_look_again_at_what_it_has_passed(db, ended, monkeypatch):
    monkeypatch.setattr(prune, "LEAST_WINDOW", 3)

    for number in range(30):
        ended(500 - number, queue="kept")

    _, _, steps = swept(db, sweeps(max_age=60, queues={"kept": "forever"}, limit=3))

    # Windows of 3 share their edge, so that each is 2 further.
    assert steps <= 15 + 3


def refuse(conn, *, queue="bad", code="P0001"):
    conn.execute(
        f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'this one stays' USING ERRCODE = '{code}'; END $$;

        CREATE TRIGGER refuse BEFORE DELETE ON oban_jobs
        FOR EACH ROW WHEN (OLD.queue = '{queue}') EXECUTE FUNCTION refuse()
        """
    )


@pytest.mark.parametrize("places", [{0}, {7}, {24}, {3, 4, 5, 20}, set(range(25))], ids=str)
def test_jobs_that_cannot_be_deleted_do_not_keep_their_neighbours(
    db, conn, ended, left, caplog, places
):
    refuse(conn)
    ids = [ended(500, queue="bad" if place in places else "default") for place in range(25)]
    aside = prune.Aside()

    count, refused, _ = swept(db, sweeps(aside, max_age=60, limit=20))

    assert (count, refused) == (25 - len(places), len(places))
    assert left() == [ids[place] for place in sorted(places)]
    assert caplog.text.count("set aside for an hour: this one stays") == 1
    assert ("more completed jobs cannot be deleted" in caplog.text) == (len(places) > 1)

    # They are left out, without a try, until the hour is over.
    caplog.clear()
    assert swept(db, sweeps(aside, max_age=60, limit=20))[:2] == (0, 0)
    assert not caplog.records

    conn.execute("DROP TRIGGER refuse ON oban_jobs")
    aside._until = dict.fromkeys(aside._until, 0.0)

    assert swept(db, sweeps(aside, max_age=60, limit=20))[:2] == (len(places), 0)
    assert not left()


def test_a_foreign_key_of_the_application_keeps_only_the_jobs_it_points_to(db, conn, ended, left):
    ids = [ended(500) for _ in range(6)]
    conn.execute("CREATE TABLE invoices (job_id bigint REFERENCES oban_jobs (id))")
    conn.execute("INSERT INTO invoices VALUES (%s), (%s)", [ids[1], ids[4]])

    count, refused, steps = swept(db, sweeps(max_age=60))

    assert (count, refused) == (4, 2)
    assert left() == [ids[1], ids[4]]
    # PostgreSQL says which job it is, so that there is no need to search: two are refused, and
    # three go at once at the most. The two other states have a step each.
    assert steps <= 2 + 4 + 2


def test_a_row_deleted_along_with_a_job_may_be_what_is_refused(db, conn, ended, left):
    ids = [ended(500) for _ in range(4)]
    conn.execute(
        """
        CREATE TABLE notes (id bigint PRIMARY KEY,
            job_id bigint REFERENCES oban_jobs (id) ON DELETE CASCADE);
        CREATE TABLE pins (note_id bigint REFERENCES notes (id))
        """
    )
    # The note has the id of another job.
    conn.execute("INSERT INTO notes VALUES (%s, %s)", [ids[3], ids[1]])
    conn.execute("INSERT INTO pins VALUES (%s)", [ids[3]])

    assert swept(db, sweeps(max_age=60))[:2] == (3, 1)
    assert left() == [ids[1]]


def test_a_refused_job_does_not_hold_up_a_number_to_keep(db, conn, ended, left):
    refuse(conn)
    bad = ended(500, queue="bad")
    ids = [ended(400 - number) for number in range(4)]

    assert swept(db, sweeps(max_len=2))[:2] == (2, 1)
    assert left() == [bad, *ids[2:]]


def test_a_trigger_that_passes_over_a_delete_without_a_word_ends_no_sweep(db, conn, ended, left):
    conn.execute(
        """
        CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RETURN NULL; END $$;

        CREATE TRIGGER skip BEFORE DELETE ON oban_jobs
        FOR EACH ROW WHEN (OLD.queue = 'bad') EXECUTE FUNCTION skip()
        """
    )
    kept = [ended(500, queue="bad") for _ in range(3)]
    ended(400)

    assert swept(db, sweeps(max_age=60, limit=1))[:2] == (1, 0)
    assert left() == kept


def test_a_role_that_may_not_delete_is_told_so_and_nothing_is_set_aside(dsn, conn, prefix, ended):
    ended(500)
    ended(500)
    role = f"reader_{prefix.lower()}"
    conn.execute(f'CREATE ROLE "{role}"')

    try:
        conn.execute(f'GRANT USAGE ON SCHEMA "{prefix}" TO "{role}"')
        conn.execute(f'GRANT SELECT, UPDATE ON oban_jobs TO "{role}"')

        with open_loop_pool(dsn, name="test", size=1) as pool:
            db = Db(pool, prefix)

            with db.session() as tx:
                tx.conn.execute(f'SET ROLE "{role}"')

            [sweep, *_] = sweeps(max_age=60)

            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                sweep.step(db)

            with db.session() as tx:
                tx.conn.execute("RESET ROLE")

            assert sweep.step(db).count == 2
    finally:
        conn.execute(f'DROP OWNED BY "{role}"')
        conn.execute(f'DROP ROLE "{role}"')


def test_a_job_that_somebody_holds_is_skipped_and_gone_the_next_time(db, dsn, prefix, ended, left):
    held = ended(500)
    ended(500)

    with psycopg.connect(dsn) as other:
        other.execute(f'SELECT FROM "{prefix}".oban_jobs WHERE id = %s FOR UPDATE', [held])

        assert pruned(db, max_age=60) == 1
        assert left() == [held]

    assert pruned(db, max_age=60) == 1


def test_a_job_that_was_retried_since_it_was_looked_at_is_spared(db, conn, ended, left):
    ids = [ended(500 - number) for number in range(4)]
    [sweep] = [sweep for sweep in sweeps(max_age=60, limit=2) if sweep._scope.state == "completed"]
    sweep.step(db)
    conn.execute(
        "UPDATE oban_jobs SET state = 'available', completed_at = NULL WHERE id = %s", [ids[2]]
    )
    conn.execute(
        "UPDATE oban_jobs SET completed_at = timezone('UTC', now()) WHERE id = %s", [ids[3]]
    )

    assert sweep.step(db) == prune.Pruned()
    assert left() == ids[2:]


def test_what_blocks_a_delete_for_too_long_is_set_aside(db, dsn, conn, prefix, ended, left):
    ids = [ended(500) for _ in range(3)]
    conn.execute("CREATE TABLE notes (job_id bigint REFERENCES oban_jobs (id) ON DELETE CASCADE)")
    conn.execute("INSERT INTO notes SELECT id FROM oban_jobs")

    with db.session() as tx, psycopg.connect(dsn) as other:
        tx.conn.execute("SET lock_timeout = '50ms'")
        other.execute(f'SELECT FROM "{prefix}".notes WHERE job_id = %s FOR UPDATE', [ids[1]])

        assert swept(One(db, tx), sweeps(max_age=60))[:2] == (2, 1)

        tx.conn.execute("SET lock_timeout = '2s'")

    assert left() == [ids[1]]


def test_deletes_that_take_too_long_are_done_in_smaller_parts(db, conn, ended, left):
    conn.execute(
        """
        CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_catalog.pg_sleep(0.1); RETURN OLD; END $$;

        CREATE TRIGGER dawdle BEFORE DELETE ON oban_jobs
        FOR EACH ROW EXECUTE FUNCTION dawdle()
        """
    )

    for _ in range(4):
        ended(500)

    with db.session() as tx:
        tx.conn.execute("SET statement_timeout = '350ms'")

        count, refused, _ = swept(One(db, tx), sweeps(max_age=60))

    assert (count, refused) == (4, 0)
    assert left() == []


def test_a_sweep_that_cannot_look_in_time_rests_and_does_not_stop_the_others(
    db, ended, left, caplog, monkeypatch
):
    ended(500)
    ended(500)
    sweep, *_ = sweeps(max_age=60)

    def late(*args, **params):
        raise psycopg.errors.QueryCanceled("canceling statement due to statement timeout")

    with monkeypatch.context() as patch:
        patch.setattr("oban_sync.engine.session.Tx.tuples", late)

        assert sweep.step(db) == prune.Pruned()

    assert "could not be looked through" in caplog.text
    assert sweep.step(db) == prune.Pruned()
    assert len(left()) == 2

    sweep._rest_until = 0.0
    assert sweep.step(db).count == 2
    assert left() == []


def test_after_much_looking_in_vain_a_sweep_rests(db, ended, left, monkeypatch):
    monkeypatch.setattr(prune, "FREE_WASTE", 0.0)
    ended(500, queue="kept")
    [sweep] = [
        sweep
        for sweep in sweeps(max_age=60, queues={"kept": "forever"})
        if sweep._scope.state == "completed"
    ]
    monkeypatch.setattr(prune, "REST_FACTOR", 1e9)

    assert not sweep.step(db).more
    ended(500)
    assert sweep.step(db).count == 0

    sweep._rest_until = 0.0
    assert sweep.step(db).count == 1


def test_two_at_once_delete_every_job_once(db, conn, ended, left):
    conn.execute(
        """
        INSERT INTO oban_jobs (worker, state, completed_at)
        SELECT 'W', 'completed', timezone('UTC', now()) - n * interval '1 hour'
        FROM generate_series(1, 3000) AS n
        """
    )
    counts = []

    def run():
        counts.append(pruned(db, max_age=86_400, limit=100, max_len=10))

    threads = [Thread(target=run) for _ in range(2)]

    for thread in threads:
        thread.start()

    for thread in threads:
        thread.join(30)

    assert sum(counts) == 2_990
    assert len(left()) == 10


def test_what_is_set_aside_is_bounded(monkeypatch):
    monkeypatch.setattr(prune, "MOST_ASIDE", 3)
    aside = prune.Aside()

    for job_id in range(5):
        aside.add(job_id)

    assert [job_id in aside for job_id in range(5)] == [True, True, True, False, False]

    aside._until[1] = 0.0
    aside.add(4)

    assert [job_id in aside for job_id in range(5)] == [True, False, True, False, True]


def test_the_config_class_itself_has_both_rules_hold(db, ended, left):
    ids = [ended(ago) for ago in (90, 50, 40)]
    config = PrunerConfig(max_age=60.0, max_len=1)
    aside = prune.Aside()

    swept(db, [prune.Sweep(scope, limit=10, aside=aside) for scope in scopes(config)])

    assert left() == ids[2:]
