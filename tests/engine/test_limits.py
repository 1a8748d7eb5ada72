"""Taking jobs under limits: several producers on one queue, turn by turn, without threads."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from threading import Event, Thread
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from oban_sync import DatabaseUnavailableError, SchemaError
from oban_sync.core.limits import ALGORITHMS, check_limits
from oban_sync.core.outcome import Record, of_result
from oban_sync.engine import fetch, lanes, limits, scan
from oban_sync.engine.connections import connect
from oban_sync.engine.session import translated

BY_K = {"args": ["k"]}


class Producer:
    """What a producer does of a turn, without its threads."""

    def __init__(self, db: Any, factory: Any, queue: str = "alpha", **options: Any) -> None:
        self.db = db
        self.node = factory.node(queue)
        self.uuid = factory.owner(self.node, queue)
        limits = check_limits(f'queues["{queue}"]', options)
        self.claim = fetch.Claim(queue, "other", self.uuid, limits=limits)
        self.running: dict[int, Any] = {}

    def turn(self, demand: int = 10, finished: tuple[int, ...] = ()) -> fetch.Turn:
        outcomes = [of_result(self.running.pop(job_id), None) for job_id in finished]
        turn = fetch.turn(self.db, self.claim, outcomes, demand, running=self.running.values())
        self.running |= {job.id: job for job in turn.jobs}

        return turn

    def take(self, demand: int = 10, finished: tuple[int, ...] = ()) -> list[int]:
        return [job.id for job in self.turn(demand, finished).jobs]


@pytest.fixture
def producer(db, factory):
    return lambda *args, **options: Producer(db, factory, *args, **options)


@pytest.fixture
def jobs(factory):
    """Inserts available jobs of queue alpha, one for each value of k."""

    def insert(*keys: Any, **columns: Any) -> list[int]:
        return [factory.job(queue="alpha", args={"k": key}, **columns) for key in keys]

    return insert


def test_a_global_limit_counts_what_all_producers_run(producer, jobs):
    first, second = producer(global_limit=3), producer(global_limit=3)
    ids = jobs(*range(6))

    assert first.take(2) == ids[:2]
    assert second.take(5) == ids[2:3]
    assert second.take(5) == []
    assert first.take(5, finished=(ids[0],)) == ids[3:4]
    assert second.take(5, finished=(ids[2],)) == ids[4:5]


def test_finished_jobs_are_written_with_the_turn(producer, jobs, factory):
    one = producer(global_limit=1)
    ids = jobs(1, 2)

    assert one.take() == ids[:1]
    assert one.take(finished=(ids[0],)) == ids[1:]
    assert factory.states(*ids) == ["completed", "executing"]


def test_outcomes_with_more_to_write_come_with_the_turn_too(producer, jobs, factory):
    one = producer(global_limit=1)
    ids = jobs(1, 2)
    [job] = one.turn().jobs
    one.running.clear()

    turn = fetch.turn(one.db, one.claim, [of_result(job, Record(1))], 5)

    assert [job.id for job in turn.jobs] == ids[1:]
    assert factory.states(*ids) == ["completed", "executing"]


def test_without_demand_a_producer_still_says_what_it_runs(producer, jobs):
    busy, other = producer(global_limit=2), producer(global_limit=2)
    ids = jobs(1, 2, 3)
    busy.take(2)

    assert busy.take(0, finished=(ids[0],)) == []
    assert other.take(5) == ids[2:]


def test_jobs_are_taken_by_priority_time_and_id(producer, jobs):
    one = producer(global_limit=10, fair=BY_K)
    alone = producer(global_limit=10)
    [last] = jobs("a", priority=2)
    [late] = jobs("a", scheduled_at="2026-01-02")
    [early] = jobs("a", scheduled_at="2026-01-01")

    assert one.take(1) == [early]
    assert alone.take(2) == [late, last]


def test_a_producer_without_a_row_takes_nothing_but_writes_what_finished(
    producer, jobs, conn, factory
):
    one = producer(global_limit=5)
    ids = jobs(1, 2)
    one.take(1)
    conn.execute("DELETE FROM oban_sync_nodes")

    turn = one.turn(5, finished=(ids[0],))

    assert turn.jobs == []
    assert 0 < turn.again_in <= 1
    assert factory.states(*ids) == ["completed", "available"]


def test_a_dead_nodes_slots_are_free_when_its_row_is_gone(producer, jobs, conn):
    dead, alive = producer(global_limit=2), producer(global_limit=2)
    ids = jobs(1, 2, 3)
    dead.take(2)
    assert alive.take() == []

    conn.execute("DELETE FROM oban_sync_nodes WHERE uuid = %s", [dead.node])

    assert alive.take() == ids[2:]


def test_rows_changed_by_others_change_nothing_of_what_counts(producer, jobs, conn):
    one, other = producer(global_limit=2), producer(global_limit=2)
    ids = jobs(1, 2, 3)
    one.take(2)
    # Somebody retried them while they run: the slots are still taken.
    conn.execute("UPDATE oban_jobs SET state = 'available' WHERE id = ANY (%s)", [ids])

    assert other.take() == []


def test_a_statement_that_comes_late_takes_nothing_and_writes_nothing(producer, jobs, conn, db):
    one, other = producer(global_limit=2), producer(global_limit=2)
    ids = jobs(1, 2, 3)
    limiter = one.claim.limiter
    before = limiter.numbered
    assert one.take(1) == ids[:1]

    # As if the turn before had been left behind by a lost connection, and came through only now.
    limiter.numbered = before
    late = fetch.turn(db, one.claim, [], 2, running=[])

    assert late.jobs == []
    assert other.take() == ids[1:2]


def test_a_report_that_comes_late_writes_nothing(producer, jobs, db):
    one, other = producer(global_limit=1), producer(global_limit=1)
    jobs(1, 2)
    limiter = one.claim.limiter
    before = limiter.numbered
    one.take(1)

    limiter.numbered = before
    fetch.turn(db, one.claim, [], 0, running=[])

    assert other.take() == []


def test_a_lock_that_others_have_is_another_try_and_what_finished_is_written(
    producer, jobs, conn, db, factory
):
    one = producer(global_limit=5)
    ids = jobs(1, 2)
    one.take(1)

    with conn.transaction():
        conn.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended(%s, hashtextextended(%s, 0)))",
            ["queue:alpha", db.schema],
        )
        turn = one.turn(5, finished=(ids[0],))

    assert turn.jobs == []
    assert 0 < turn.again_in <= 1
    assert factory.states(*ids) == ["completed", "available"]
    assert one.take() == ids[1:]


def test_other_queues_have_locks_of_their_own(producer, factory, conn, db):
    one = producer("beta", global_limit=5)
    job = factory.job(queue="beta")

    with conn.transaction():
        conn.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended(%s, hashtextextended(%s, 0)))",
            ["queue:alpha", db.schema],
        )
        assert one.take() == [job]


def test_a_row_that_another_transaction_holds_is_passed_over(producer, jobs, conn):
    plain = producer(global_limit=5)
    laned = producer(global_limit={"allowed": 1, "partition": BY_K})
    ids = jobs("a", "b")

    with conn.transaction():
        conn.execute("SELECT FROM oban_jobs WHERE id = %s FOR UPDATE", [ids[0]])
        turn = laned.turn(5)
        assert [job.id for job in turn.jobs] == ids[1:]
        assert 0 < turn.again_in <= 1
        assert plain.take() == []

    assert laned.take() == ids[:1]


def test_a_queue_in_a_transaction_of_its_own_where_there_is_a_pooler(db, producer, jobs):
    one = producer(global_limit=1)
    ids = jobs(1, 2)

    with db.session() as tx:
        tx.conn.prepare_threshold = None

    try:
        assert one.take() == ids[:1]
        assert one.take(finished=(ids[0],)) == ids[1:]
    finally:
        with db.session() as tx:
            tx.conn.prepare_threshold = 0


def test_a_forgotten_statement_is_prepared_again(db, producer, jobs):
    one = producer(global_limit=5)
    ids = jobs(1, 2)
    one.take(1)

    with db.session() as tx:
        tx.conn.execute("DEALLOCATE ALL")

    assert one.take(1) == ids[1:]


def test_a_job_that_postgresql_refuses_to_start_is_set_aside(producer, jobs, conn, caplog, kinds):
    one = producer(**kinds)
    ids = jobs("a", "b", "c")
    conn.execute(f"ALTER TABLE oban_jobs ADD CHECK (id <> {ids[0]} OR state <> 'executing')")

    turn = one.turn(3)

    assert sorted(job.id for job in turn.jobs) == ids[1:]
    assert f"job {ids[0]} of queue 'alpha' cannot be started" in caplog.text
    assert one.take(3) == []


@pytest.fixture(params=["global", "rate", "partition", "fair"])
def kinds(request):
    return {
        "global": {"global_limit": 5},
        "rate": {"rate_limit": {"allowed": 5, "period": 60}},
        "partition": {"global_limit": {"allowed": 1, "partition": BY_K}},
        "fair": {"fair": BY_K},
    }[request.param]


def test_jobs_without_attempts_left_and_of_other_queues_and_states_stay(
    producer, jobs, factory, kinds
):
    one = producer(**kinds)
    jobs("a", attempt=20)
    jobs("b", state="scheduled")
    factory.job(queue="beta", args={"k": "c"})

    assert one.take() == []


def test_a_taken_job_is_marked_as_any_other(producer, jobs, factory, kinds):
    one = producer(**kinds)
    jobs("a", tags=["x"], meta={"m": 1})
    [job] = one.turn().jobs
    row = factory.row(job.id)

    assert (row["state"], row["attempt"]) == ("executing", 1)
    assert row["attempted_by"] == ["other", one.uuid]
    assert (job.args, job.meta, job.tags, job.queue) == ({"k": "a"}, {"m": 1}, ["x"], "alpha")


def test_a_lost_connection_is_told_as_such_and_the_next_turn_has_another(
    producer, jobs, db, conn, factory
):
    one = producer(global_limit=5)
    ids = jobs(1, 2)
    one.take(1)

    with db.session() as tx:
        pid = tx.conn.info.backend_pid

        # In the middle of a session, so that the pool finds out nothing before.
        conn.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])

        with pytest.raises(DatabaseUnavailableError), translated():
            fetch.turn(OneSession(tx), one.claim, [], 5, running=one.running.values())

    assert one.take(5, finished=(ids[0],)) == ids[1:]
    assert factory.states(*ids) == ["completed", "executing"]


class OneSession:
    """A Db whose sessions are all the same one."""

    def __init__(self, tx: Any) -> None:
        self._tx = tx

    @contextmanager
    def session(self) -> Any:
        yield self._tx


def test_a_refused_statement_leaves_the_connection_fit_for_the_next(producer, jobs, conn, db):
    one = producer(global_limit=5)
    ids = jobs(1)
    conn.execute("ALTER TABLE oban_jobs RENAME TO away")

    with db.session() as tx:
        with pytest.raises(SchemaError), translated():
            fetch.turn(OneSession(tx), one.claim, [], 5)

        conn.execute("ALTER TABLE away RENAME TO oban_jobs")

        assert [job.id for job in fetch.turn(OneSession(tx), one.claim, [], 5).jobs] == ids


# Lanes


def test_a_partition_limits_each_key(producer, jobs):
    one, other = (
        producer(global_limit={"allowed": 1, "partition": BY_K}),
        producer(global_limit={"allowed": 1, "partition": BY_K}),
    )
    ids = jobs("a", "a", "b", "a", "b", "c")

    assert one.take(2) == [ids[0], ids[2]]
    assert other.take(5) == [ids[5]]
    assert one.take(5, finished=(ids[0],)) == [ids[1]]
    assert other.take(5, finished=(ids[5],)) == []


@pytest.mark.parametrize(
    ("partition", "rows", "taken"),
    [
        ("worker", [{"worker": "A"}, {"worker": "A"}, {"worker": "B"}], [0, 2]),
        ({"meta": "k"}, [{"meta": {"k": 1}}, {"meta": {"k": 1}}, {"meta": {"k": 2}}], [0, 2]),
        (
            ["worker", {"args": ["k", "l"]}],
            [
                {"worker": "A", "args": {"k": 1, "l": 1}},
                {"worker": "A", "args": {"k": 1, "l": 2}},
                {"worker": "B", "args": {"k": 1, "l": 1}},
                {"worker": "A", "args": {"l": 1, "k": 1, "m": 5}},
            ],
            [0, 1, 2],
        ),
        # Equal JSON, and no values at all.
        ({"args": "k"}, [{"args": {"k": 1}}, {"args": {"k": 1.0}}, {"args": {"k": "1"}}], [0, 2]),
        ({"args": "k"}, [{"args": {}}, {"args": {"k": None}}, {"meta": None}], [0]),
        (
            {"args": "it's /* queue */ %(ids)s"},
            [{}, {"args": {"it's /* queue */ %(ids)s": 1}}],
            [0, 1],
        ),
    ],
    ids=str,
)
def test_what_divides_a_queue(producer, factory, partition, rows, taken):
    one = producer(global_limit={"allowed": 1, "partition": partition})
    ids = [factory.job(queue="alpha", **row) for row in rows]

    assert one.take() == [ids[index] for index in taken]


def test_with_burst_a_key_has_more_while_slots_would_stay_empty(producer, jobs):
    one = producer(global_limit={"allowed": 1, "partition": BY_K, "burst": True})
    ids = jobs("a", "a", "a", "b")

    assert one.take(3) == [ids[0], ids[1], ids[3]]
    assert one.take(3) == [ids[2]]


def test_a_queue_with_a_quote_in_its_name_has_lanes_too(producer, factory, indexed):
    name = 'it\'s "q" %s /* lane */'
    one = producer(name, global_limit={"allowed": 1, "partition": BY_K})
    indexed(name, BY_K)
    job = factory.job(queue=name)

    assert one.take() == [job]


@pytest.fixture
def indexed(dsn, db):
    """Makes the index of a queue's lanes."""

    def make(queue: str, partition: Any) -> list[str] | None:
        limits = check_limits("queue", {"fair": partition})
        wanted = [lanes.Lanes(queue, limits.lane_by)]
        plainly = partial(connect, dsn, application_name="test")

        return lanes.make_indexes(plainly, db.schema, wanted, stopping=Event())

    return make


@pytest.fixture(params=["with the index", "without it"])
def maybe_indexed(request, indexed):
    return indexed if request.param == "with the index" else lambda *_: None


def insert_many(conn: Any, key: str, count: int) -> None:
    conn.execute(
        "INSERT INTO oban_jobs (queue, worker, args)"
        " SELECT 'alpha', 'W', jsonb_build_object('k', %s::text) FROM generate_series(1, %s)",
        [key, count],
    )


def taken_in_all(one: Producer, demand: int, turns: int = 5) -> list[int]:
    found = []

    for _ in range(turns):
        turn = one.turn(demand - len(found))
        found += [job.id for job in turn.jobs]

        if turn.again_in is None:
            break

    return found


def test_a_key_without_room_at_the_head_holds_nobody_up(producer, jobs, conn, maybe_indexed):
    one = producer(global_limit={"allowed": 2, "partition": BY_K})
    insert_many(conn, "a", 2_000)
    ids = jobs("b", "c", "c", "c")
    maybe_indexed("alpha", BY_K)

    assert len(taken_in_all(one, 10)) == 5
    assert set(ids[:3]) < one.running.keys()
    assert one.take() == []


def test_every_key_behind_a_full_head_has_its_turn(producer, conn, maybe_indexed):
    one = producer(global_limit={"allowed": 1, "partition": BY_K})
    insert_many(conn, "a", 2_000)

    for number in range(30):
        insert_many(conn, f"key {number}", 3)

    maybe_indexed("alpha", BY_K)
    one.take(1)
    [blocked] = one.running
    seen = Counter()

    for _ in range(35):
        done = [job_id for job_id in one.running if job_id != blocked]
        turn = one.turn(3, finished=tuple(done))
        seen.update(job.args["k"] for job in turn.jobs)

    assert seen == {f"key {number}": 3 for number in range(30)}


def test_fair_share_lets_one_job_wait_for_one_round_at_the_most(
    producer, conn, jobs, maybe_indexed
):
    one = producer(fair=BY_K)
    insert_many(conn, "a", 2_000)
    maybe_indexed("alpha", BY_K)
    first = one.take(4)
    [late] = jobs("b")

    assert late in one.take(2, finished=tuple(first[:2]))


def test_fair_share_of_one_key_is_the_plain_order(producer, jobs, maybe_indexed):
    one = producer(fair=BY_K)
    ids = jobs(*["a"] * 10)
    maybe_indexed("alpha", BY_K)

    assert one.take(4) == ids[:4]
    assert one.take(10) == ids[4:]


def test_fair_share_leaves_no_slot_empty(producer, jobs, maybe_indexed):
    one = producer(fair=BY_K)
    ids = jobs("a", "b", *["c"] * 10)
    maybe_indexed("alpha", BY_K)

    assert one.take(8) == ids[:8]


@pytest.mark.parametrize("demand", [1, 3, 7])
def test_weights_give_a_key_so_many_jobs_in_a_row(producer, conn, demand, maybe_indexed):
    one = producer(fair={**BY_K, "weights": {"a": 3}})

    for key in "abcd":
        insert_many(conn, key, 100)

    maybe_indexed("alpha", BY_K)
    seen = Counter()

    while seen.total() < 84:
        turn = one.turn(demand, finished=tuple(one.running))
        seen.update(job.args["k"] for job in turn.jobs)

    assert seen == {"a": 42, "b": 14, "c": 14, "d": 14}


def test_more_than_a_turn_takes_follows_at_once(producer, conn, indexed):
    one = producer(fair=BY_K)
    insert_many(conn, "a", 150)
    indexed("alpha", BY_K)

    turn = one.turn(140)
    assert (len(turn.jobs), turn.again_in) == (limits.MOST_AT_ONCE, limits.AT_ONCE)
    turn = one.turn(40)
    assert (len(turn.jobs), turn.again_in) == (40, None)


def test_fair_share_and_a_global_limit(producer, jobs):
    one, other = (producer(fair=BY_K, global_limit=3) for _ in range(2))
    jobs("a", "a", "a", "b")

    assert len(one.take(2)) == 2
    assert len(other.take(5)) == 1
    assert other.take(5) == []


# Rates


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_rate_lets_so_many_start(producer, jobs, algorithm):
    one, other = (
        producer(rate_limit={"allowed": 3, "period": 3600, "algorithm": algorithm})
        for _ in range(2)
    )
    ids = jobs(*range(6))

    assert one.take(2) == ids[:2]
    turn = other.turn(5)
    assert [job.id for job in turn.jobs] == ids[2:3]
    assert 0 < turn.again_in <= 3_700
    # What they came to makes no difference.
    assert one.take(5, finished=(ids[0], ids[1])) == []


def test_with_nothing_more_to_start_there_is_nothing_to_wait_for(producer, jobs):
    one = producer(rate_limit={"allowed": 3, "period": 3600})
    jobs(1, 2, 3)

    assert one.turn(5).again_in is None
    assert one.turn(5).again_in is None
    jobs(4)
    assert one.turn(5).again_in is not None


def backdate(conn: Any, seconds: float, algorithm: str, period: float) -> None:
    """Make what was counted older."""
    if algorithm == "token_bucket":
        conn.execute("UPDATE oban_sync_rates SET used = used - %s * 1e6", [seconds])
    else:
        width = period if algorithm == "fixed_window" else period / 40
        conn.execute("UPDATE oban_sync_rates SET slot = slot - ceil(%s / %s)", [seconds, width])


@pytest.mark.parametrize(
    ("algorithm", "after", "room"),
    [
        ("sliding_window", 3500, 0),
        ("sliding_window", 3800, 4),
        ("fixed_window", 3600, 4),
        ("token_bucket", 910, 1),
        ("token_bucket", 2000, 2),
        ("token_bucket", 9999, 4),
    ],
)
def test_room_comes_with_time(producer, jobs, conn, algorithm, after, room):
    one = producer(rate_limit={"allowed": 4, "period": 3600, "algorithm": algorithm})
    jobs(*range(20))
    one.take(4)
    assert one.take() == []

    backdate(conn, after, algorithm, 3600)

    assert len(one.take(10)) == room


def test_a_rate_by_partition_counts_each_key(producer, jobs):
    one, other = (
        producer(rate_limit={"allowed": 1, "period": 3600, "partition": BY_K}) for _ in range(2)
    )
    ids = jobs("a", "a", "b", "b", "c")

    assert one.take(2) == [ids[0], ids[2]]
    turn = other.turn(5)
    assert [job.id for job in turn.jobs] == [ids[4]]
    assert turn.again_in > 3_000


def test_keys_out_of_room_at_the_head_hold_nobody_up(producer, jobs, conn, maybe_indexed):
    one = producer(rate_limit={"allowed": 1, "period": 3600, "partition": BY_K})
    insert_many(conn, "a", 2_000)
    [late] = jobs("b")
    maybe_indexed("alpha", BY_K)

    assert len(taken_in_all(one, 5)) == 2
    assert late in one.running


def weighing(weight: Any) -> dict[str, Any]:
    return {"oban_sync": {"weight": weight}}


def test_jobs_weigh_what_they_are_given(producer, factory):
    one = producer(rate_limit={"allowed": 5, "period": 3600})
    weights = [2, None, 1.5, 1]
    ids = [
        factory.job(queue="alpha", meta={} if item is None else weighing(item)) for item in weights
    ]

    assert one.take() == ids[:3]


def test_a_heavy_job_is_not_overtaken_for_ever(producer, factory, conn):
    one = producer(rate_limit={"allowed": 5, "period": 3600})
    light, heavy, behind = (
        factory.job(queue="alpha", meta=weighing(weight)) for weight in (1, 5, 1)
    )

    assert one.take() == [light]
    assert one.turn().again_in is not None
    backdate(conn, 3800, "sliding_window", 3600)
    assert one.take() == [heavy]


@pytest.mark.parametrize("weight", [6, 10**30, 1e300])
def test_what_can_never_fit_is_taken_alone(producer, factory, weight):
    one = producer(rate_limit={"allowed": 5, "period": 3600})
    heavy = factory.job(queue="alpha", meta=weighing(weight))
    factory.job(queue="alpha")

    assert one.take() == [heavy]


@pytest.mark.parametrize("weight", [0, -5, "7", None, [], {"a": 1}, True])
def test_what_is_no_weight_weighs_one(producer, factory, weight):
    one = producer(rate_limit={"allowed": 2, "period": 3600})
    ids = [factory.job(queue="alpha", meta=weighing(weight)) for _ in range(3)]

    assert one.take() == ids[:2]


def test_what_counts_no_more_is_taken_away(producer, jobs, conn):
    rate = {"allowed": 100, "period": 60, "partition": BY_K}
    one = producer(rate_limit=rate)
    conn.execute(
        "INSERT INTO oban_sync_rates SELECT 'x', n, 1, 1, now() - interval '1 hour'"
        " FROM generate_series(1, 7) AS n"
    )

    # Each adds a row, and takes away some.
    for number in range(2):
        jobs(number)
        one.take(1)

    assert conn.execute("SELECT count(*) FROM oban_sync_rates WHERE name = 'x'").fetchone() == (0,)


def test_a_clock_that_was_set_back_blocks_a_rate_for_a_while_only(producer, jobs, conn):
    one = producer(rate_limit={"allowed": 1, "period": 10})
    ids = jobs(1, 2)
    one.take()
    conn.execute("UPDATE oban_sync_rates SET slot = slot + 3600 * 4")

    assert one.take() == ids[1:]


def test_no_window_ever_holds_more_than_is_allowed(conn, prefix):
    """By the function's own arithmetic, at moments of our choosing, against a plain list."""
    random = Random(5)
    allowed, period = 7, 2.0
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    starts: list[datetime] = []
    call = sql.SQL("SELECT {}(%s, 0, 'sliding_window', %s, %s, {} %s)")
    room = call.format(sql.Identifier(prefix, "oban_sync_rate_room"), sql.SQL(""))
    charge = call.format(sql.Identifier(prefix, "oban_sync_rate_charge"), sql.SQL("%s,"))
    waited = timedelta()

    for _ in range(600):
        moment += timedelta(microseconds=random.choice([0, 1, 999, 50_000, 120_001, 700_000]))
        [free, again_in] = conn.execute(room, ["x", allowed, period, moment]).fetchone()[0]
        wanted = random.randint(1, 4)

        if (count := min(wanted, int(free))) > 0:
            conn.execute(charge, ["x", allowed, period, count, moment])
            starts += [moment] * count
        else:
            step = timedelta(seconds=again_in)
            later = conn.execute(room, ["x", allowed, period, moment + step]).fetchone()[0]
            # The moment that was promised is true, and not far beyond what is needed.
            assert later[0] > 0
            assert moment + step <= starts[-allowed] + timedelta(seconds=period * 1.03)
            moment += step
            waited += step

    assert waited

    for index, start in enumerate(starts):
        assert len([one for one in starts[index:] if one - start < timedelta(seconds=period)]) <= 7


# Histories, against a model


class Model:
    """What may run and what has started, as plain Python reckons it."""

    def __init__(self, options: dict[str, Any]) -> None:
        limits = check_limits("queue", options)
        self.limits = limits
        self.started: Counter[Any] = Counter()

    def lane(self, partitioned: bool, key: Any) -> Any:
        return key if partitioned else None

    def room(self, running: Counter[Any], key: Any) -> bool:
        """Whether a job of a key may start beside what runs."""
        limits, rate = self.limits, self.limits.rate
        slots = limits.allowed is None or limits.burst
        lane = self.lane(limits.partitioned, key)
        held = sum(
            n for other, n in running.items() if self.lane(limits.partitioned, other) == lane
        )
        starts = rate is None or self.started[self.lane(rate.partitioned, key)] < rate.allowed

        return (slots or held < limits.allowed) and starts

    def start(self, key: Any) -> None:
        if self.limits.rate is not None:
            self.started[self.lane(self.limits.rate.partitioned, key)] += 1


KEYS = ["a", "b", "c", None]

WEEK = 7 * 86_400

limited = st.fixed_dictionaries(
    {},
    optional={
        "global_limit": st.integers(1, 4),
        "rate_limit": st.fixed_dictionaries(
            {"allowed": st.integers(1, 8), "period": st.just(WEEK)},
            optional={"algorithm": st.sampled_from(["sliding_window", "token_bucket"])},
        ),
        "fair": st.sampled_from([BY_K, {**BY_K, "weights": {"a": 2}}]),
    },
).filter(bool)

steps = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), st.sampled_from(KEYS), st.integers(1, 6)),
        st.tuples(st.just("take"), st.integers(0, 3), st.integers(0, 5)),
        st.tuples(st.just("die"), st.integers(0, 3), st.just(0)),
    ),
    min_size=5,
    max_size=25,
)


@pytest.mark.timeout(120)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    options=limited, divided=st.booleans(), burst=st.booleans(), steps=steps, random=st.randoms()
)
def test_any_history_keeps_to_the_limits_and_leaves_nothing_waiting_that_may_run(
    producer, jobs, conn, options, divided, burst, steps, random
):
    if divided and options.keys() & {"global_limit", "rate_limit"}:
        options = {**options, "partition": BY_K}

        if burst and "global_limit" in options:
            options["global_limit"] = {"allowed": options["global_limit"], "burst": True}

    conn.execute("TRUNCATE oban_jobs, oban_sync_rates")
    conn.execute("DELETE FROM oban_sync_nodes")
    model = Model(options)
    producers = [producer(**options) for _ in range(4)]
    keys: dict[int, Any] = {}
    waiting: list[int] = []

    def running() -> Counter[Any]:
        return Counter(keys[job_id] for one in producers for job_id in one.running)

    for name, which, count in steps:
        if name == "insert":
            made = jobs(*[which] * count)
            keys |= dict.fromkeys(made, which)
            waiting += made
        elif name == "die":
            dead = producers[which]
            conn.execute("DELETE FROM oban_sync_nodes WHERE uuid = %s", [dead.node])
            dead.running.clear()
            producers[which] = producer(**options)
        else:
            one = producers[which]
            done = random.sample(sorted(one.running), random.randint(0, len(one.running)))

            wanted, finished = count, tuple(done)

            for _ in range(4):
                turn = one.turn(wanted, finished=finished)
                before = running() - Counter(keys[job.id] for job in turn.jobs)

                for job in turn.jobs:
                    assert model.room(before, keys[job.id]), (options, keys[job.id])
                    before[keys[job.id]] += 1
                    model.start(keys[job.id])
                    waiting.remove(job.id)

                wanted, finished = wanted - len(turn.jobs), ()

                if not wanted or turn.again_in is None:
                    break

            if wanted:
                assert not [id for id in waiting if model.room(running(), keys[id])], options


@pytest.mark.parametrize(
    "options",
    [{"global_limit": {"allowed": 5, "partition": {"args": "k"}}}, {"fair": {"args": "k"}}],
    ids=["partition", "fair"],
)
def test_rows_that_others_hold_at_the_head_do_not_stop_a_queue(
    producer, jobs, dsn, prefix, options
):
    first, second, *_ = jobs(*[1] * 10)
    one = producer(**options)

    with psycopg.connect(dsn) as other:
        other.execute("SELECT set_config('search_path', %s, false)", [f'"{prefix}"'])
        other.execute("SELECT FROM oban_jobs WHERE id = %s FOR UPDATE", [first])
        turns = [one.turn(1) for _ in range(2)]

    assert turns[0].again_in is not None
    assert [job.id for turn in turns for job in turn.jobs] == [second]


@pytest.mark.parametrize("options", [{}, {"fair": {"args": "k"}}], ids=["partition", "fair"])
def test_keys_whose_first_job_is_too_heavy_hold_nobody_up(producer, jobs, indexed, options):
    partition = {"args": "k"}
    one = producer(rate_limit={"allowed": 10, "period": 600, "partition": partition}, **options)
    keys = range(60)
    jobs(*keys)
    taken = 0

    while taken < len(keys):
        taken += len(one.turn(100).jobs)
        one.turn(0, finished=tuple(one.running))

    jobs(*keys, meta={"oban_sync": {"weight": 10}})
    light = jobs(*(f"light {number}" for number in range(5)))
    found = []

    for _ in range(20):
        found += one.turn(1, finished=tuple(one.running)).jobs

    assert sorted(job.id for job in found) == light


def test_limits_that_count_tokens_take_away_no_rows_of_each_other(producer, jobs, conn):
    rate = {"allowed": 5, "period": 0.001, "algorithm": "token_bucket", "partition": {"args": "k"}}
    jobs(*range(5))
    assert len(producer(rate_limit=rate).turn(5).jobs) == 5
    conn.execute(
        "INSERT INTO oban_sync_rates SELECT 'queue:other', lane, slot, used, expires_at "
        "FROM oban_sync_rates"
    )
    conn.execute("UPDATE oban_sync_rates SET expires_at = now() - interval '1 hour'")
    jobs(*range(5))
    assert len(producer(rate_limit=rate).turn(5).jobs) == 5
    others = conn.execute("SELECT count(*) FROM oban_sync_rates WHERE name = 'queue:other'")

    assert others.fetchone() == (5,)


def test_the_lock_of_a_queue_is_not_held_over_what_else_a_turn_writes(producer, jobs, monkeypatch):
    jobs(1, 2, 3)
    one, other = producer(global_limit=5), producer(global_limit=5)
    [run] = one.turn(1).jobs
    take = fetch._take
    seen = []

    def stalled(tx, claim, *rest):
        found = take(tx, claim, *rest)

        if claim is one.claim:
            # As if the process stood still here.
            seen.extend(other.turn(1).jobs)

        return found

    monkeypatch.setattr(fetch, "_take", stalled)
    fetch.turn(one.db, one.claim, [of_result(run, Record(1))], 1)

    assert len(seen) == 1


# A turn in one statement


WAITS = """
SELECT count(*) FROM pg_locks
WHERE locktype = 'advisory' AND NOT granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (classid::bigint << 32 | objid::bigint)
      = hashtextextended('queue:alpha', hashtextextended(%s, 0))
"""


@pytest.mark.parametrize(
    "options",
    [{"global_limit": 3}, {"global_limit": 3, "fair": BY_K}],
    ids=["whole", "walked"],
)
def test_what_others_wrote_while_the_lock_was_waited_for_counts(
    producer, jobs, conn, db, dsn, prefix, options
):
    first, second = producer(**options), producer(**options)
    ids = jobs(1, 2, 3)
    taken: list[int] = []
    # It knows of no other yet, and so takes the lock inside of the statement.
    thread = Thread(target=lambda: taken.extend(second.take(3)))

    with psycopg.connect(dsn, autocommit=True) as other:
        with conn.transaction():
            conn.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, hashtextextended(%s, 0)))",
                ["queue:alpha", db.schema],
            )
            thread.start()

            while other.execute(WAITS, [prefix]).fetchone() == (0,):
                assert thread.is_alive()

            conn.execute(
                "UPDATE oban_sync_producers SET running = 2, lanes = '{7,8}' WHERE uuid = %s",
                [first.uuid],
            )

        thread.join(10)

    assert len(taken) == 1
    assert set(taken) <= set(ids)


@pytest.mark.parametrize("demand", [0, 1])
def test_a_turn_after_a_failed_one_outnumbers_it_though_nothing_changes(
    producer, jobs, conn, monkeypatch, demand
):
    def failing(*given):
        raise psycopg.OperationalError("the connection was lost")

    one = producer(global_limit=5)
    jobs(1)
    one.take(1)
    turn = "SELECT turn FROM oban_sync_producers WHERE uuid = %s"
    before = conn.execute(turn, [one.uuid]).fetchone()
    one.take(1)
    assert conn.execute(turn, [one.uuid]).fetchone() == before

    with monkeypatch.context() as patched:
        patched.setattr(limits, "_together", failing)

        with pytest.raises(DatabaseUnavailableError):
            one.take(demand)

    with conn.transaction():
        conn.execute("SELECT FROM oban_sync_producers FOR UPDATE")
        assert one.turn(1).again_in == 0.5

    one.take(1)

    assert conn.execute(turn, [one.uuid]).fetchone() == (one.claim.limiter.numbered,)


def test_a_limited_queue_goes_on_behind_the_last_job_and_leaves_none_before_it(
    producer, jobs, monkeypatch
):
    monkeypatch.setattr(scan, "INTERVAL", 60.0)
    one = producer(global_limit=1000)
    ids = jobs(*range(260))
    assert one.take(250) == ids[:250]
    [urgent] = jobs("urgent", priority=0, scheduled_at="2020-01-01")

    # All that is behind it, and then what is before it without being woken.
    turn = one.turn(20)
    assert [job.id for job in turn.jobs] == ids[250:]
    assert turn.again_in == limits.AT_ONCE
    assert one.take(20) == [urgent]


def test_what_was_to_be_taken_is_told_only_where_not_all_of_it_was(db, producer, jobs):
    one = producer(global_limit=5)
    ids = jobs(1, 2)

    with db.session() as tx:
        said = {"running": (), "node": "other", "owner": one.uuid, "shunned": ()}
        seen = one.claim.limiter.take(tx, None, 2, **said, peek=True)
        taken = one.claim.limiter.take(tx, None, 2, **said)

    assert (seen.picked, seen.rows) == (ids, [])
    # It would stand in every row: as much again as the jobs themselves, for each of them.
    assert (taken.picked, [row[2] for row in taken.rows]) == ([], ids)
