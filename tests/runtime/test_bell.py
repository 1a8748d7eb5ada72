"""When inserts ring for a queue, and that no job waits because they did not."""

from __future__ import annotations

import random
import threading
from types import SimpleNamespace

import psycopg
import pytest
from psycopg import sql

from oban_sync import DatabaseUnavailableError
from oban_sync.engine import fetch
from oban_sync.engine.session import Db
from oban_sync.runtime import bell as bells_module
from oban_sync.runtime.bell import MOST_RINGS, QUIET, WINDOW, Bell
from tests.support.peer_bells import listening
from tests.support.probe import eventually
from tests.support.workers import Echo

RING = {"queue": "alpha"}


@pytest.fixture
def now(monkeypatch):
    clock = SimpleNamespace(now=1_000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(bells_module, "time", clock)

    return clock


@pytest.fixture
def owner(factory):
    return factory.owner(factory.node("alpha"), "alpha")


@pytest.fixture
def bell(db, owner, now):
    return Bell(db, owner)


@pytest.fixture
def other(dsn, prefix):
    """Another connection, not in autocommit mode."""
    with psycopg.connect(dsn) as other:
        other.execute("SELECT set_config('search_path', %s, false)", [f'"{prefix}"'])
        other.commit()

        yield other


def insert(conn, queue="alpha"):
    conn.execute("INSERT INTO oban_jobs (queue, worker) VALUES (%s, 'W')", [queue])


def turn_off(bell):
    for _ in range(MOST_RINGS):
        bell.rung()

    assert bell.is_due
    bell.tend()
    assert not bell.is_on


def turn_on(bell, now):
    bell.looked(10, 0)
    now.now += 2 * QUIET
    bell.looked(10, 0)
    now.now = bell.look_at
    assert bell.is_due
    bell.tend()


def settle(bell, now):
    """Until the transactions of other tests on the server are over, too."""

    def settled():
        if bell.is_on:
            return True

        before, now.now = now.now, max(now.now, bell.look_at)
        bell.tend()

        if not bell.is_on:
            # Others take as long as they like; on this clock that is no time at all.
            now.now = bell.look_at = before

        return bell.is_on

    eventually(settled)


def test_inserts_ring_for_a_producer_that_listens(dsn, prefix, conn, owner):
    with listening(dsn, prefix) as bells:
        insert(conn)
        assert bells() == [RING]

        insert(conn, "beta")
        assert bells() == []


def test_many_rings_turn_it_off_and_quiet_turns_it_on(dsn, prefix, conn, bell, now):
    with listening(dsn, prefix) as bells:
        turn_off(bell)
        insert(conn)
        assert bells() == []

        turn_on(bell, now)
        insert(conn)

        assert bells() == [RING]
        settle(bell, now)
        assert bell.look_at == 0.0


def test_rings_now_and_then_leave_it_on(bell, now):
    for _ in range(10 * MOST_RINGS):
        bell.rung()
        now.now += 1.5 * WINDOW / MOST_RINGS

    assert bell.is_on
    assert not bell.is_due


def test_while_it_is_off_looks_follow_each_other(bell, now):
    turn_off(bell)
    pauses = []

    for found in (3, 0, 0, 0, 0, 0, 1):
        bell.looked(10, found)
        pauses.append(round(bell.look_at - now.now, 6))
        now.now = bell.look_at

    assert pauses == [0.001, 0.002, 0.004, 0.005, 0.005, 0.005, 0.001]


def test_with_all_slots_taken_there_is_nothing_to_look_for(bell, now):
    turn_off(bell)

    for demand in (10, 0):
        bell.looked(demand, demand)
        now.now += 10 * QUIET

        assert bell.look_at == 0.0

    # A look that was due when the slots were taken.
    bell.looked(10, 3)
    now.now = bell.look_at
    bell.tend()

    assert bell.look_at == 0.0


@pytest.mark.parametrize("another", [False, True])
def test_who_inserted_before_it_was_on_is_waited_for(db, conn, other, bell, now, factory, another):
    """The race that polling would otherwise have to mend: an insert that did not ring, and whose
    commit comes after the producer went to sleep."""
    turn_off(bell)
    insert(other)

    if another:
        # So that its number is not the newest that PostgreSQL knows of.
        conn.execute("SELECT pg_current_xact_id()")

    turn_on(bell, now)

    assert not bell.is_on
    claim = fetch.Claim("alpha", "node", "6b1d6d6e-0000-4000-8000-000000000001")
    assert fetch.turn(db, claim, (), 1).jobs == []

    for _ in range(3):
        now.now = bell.look_at
        bell.tend()
        assert not bell.is_on

    other.commit()
    settle(bell, now)

    assert len(fetch.turn(db, claim, (), 1).jobs) == 1


def test_who_began_after_it_was_on_is_not_waited_for(dsn, prefix, conn, other, bell, now):
    turn_off(bell)
    turn_on(bell, now)

    with listening(dsn, prefix) as bells:
        insert(other)
        number = other.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()[0]
        other.commit()

        assert number > bell._number
        assert bells() == [RING]


def test_many_rings_while_it_settles_turn_it_off_again(other, bell, now):
    turn_off(bell)
    other.execute("INSERT INTO oban_jobs (queue, worker) VALUES ('beta', 'W')")
    turn_on(bell, now)
    assert not bell.is_on
    turn_off(bell)
    other.rollback()
    turn_on(bell, now)
    settle(bell, now)


def test_after_a_failure_it_is_done_once_more(db, bell, now, conn, owner, monkeypatch):
    turn_off(bell)
    bell.looked(10, 0)
    now.now += 2 * QUIET
    bell.looked(10, 0)
    now.now = bell.look_at

    with monkeypatch.context() as broken:
        broken.setattr(Db, "session", lambda _: (_ for _ in ()).throw(RuntimeError("away")))

        with pytest.raises(RuntimeError):
            bell.tend()

    assert bell.is_due
    settle(bell, now)

    assert conn.execute("SELECT listening FROM oban_sync_producers").fetchall() == [(True,)]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_who_has_a_snapshot_of_its_own_always_rings(dsn, prefix, other, bell, now, level):
    turn_off(bell)

    with listening(dsn, prefix) as bells:
        other.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        insert(other)
        other.commit()

        assert bells() == [RING]


@pytest.mark.parametrize(
    ("table", "since"), [("oban_peers", "started_at"), ("oban_leaders", "elected_at")]
)
def test_nodes_of_other_kinds_hear_of_every_job(dsn, prefix, conn, table, since):
    leads = sql.SQL(
        "INSERT INTO {} (name, node, {}, expires_at) VALUES"
        " ('Oban', 'n', '2026-01-01', timezone('UTC', now()) + %s * interval '1 s')"
    ).format(sql.Identifier(table), sql.Identifier(since))

    with listening(dsn, prefix) as bells:
        conn.execute(leads, [30])
        insert(conn)
        assert bells() == [RING]

        conn.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))
        conn.execute(leads, [-1])
        insert(conn)
        assert bells() == []


def test_the_tables_of_others_may_be_gone(dsn, prefix, conn, factory):
    insert(conn)
    conn.execute("DROP TABLE oban_peers, oban_leaders")

    with listening(dsn, prefix) as bells:
        insert(conn)
        # It cannot tell.
        assert bells() == [RING]

    assert factory.count(queue="alpha") == 2


def test_who_may_only_insert_needs_no_further_rights(dsn, prefix, conn, owner):
    role = sql.Identifier(f"inserter_{prefix}")
    space = sql.Identifier(prefix)
    conn.execute(sql.SQL("CREATE ROLE {}").format(role))

    try:
        conn.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(space, role))
        conn.execute(sql.SQL("GRANT INSERT ON oban_jobs TO {}").format(role))
        conn.execute(sql.SQL("GRANT USAGE ON ALL SEQUENCES IN SCHEMA {} TO {}").format(space, role))

        with listening(dsn, prefix) as bells:
            conn.execute(sql.SQL("SET ROLE {}").format(role))
            insert(conn)
            conn.execute("RESET ROLE")

            assert bells() == [RING]
    finally:
        conn.execute("RESET ROLE")
        conn.execute(sql.SQL("DROP OWNED BY {}").format(role))
        conn.execute(sql.SQL("DROP ROLE {}").format(role))


def test_a_burst_leaves_no_job_behind_and_the_bell_on(make_oban, conn, factory):
    """Nothing else looks for jobs here: each has to be rung for, or be found by the producer."""
    oban = make_oban(queues={"alpha": 5}, stager={"interval": 3_600}, pool_size=8).start()
    producer = oban._lifecycle._supervisor.roster._members["alpha"].producer
    was_off = threading.Event()
    generator = random.Random(7)
    bursts = [[generator.randrange(1, 80) for _ in range(6)] for _ in range(4)]

    def burst(sizes):
        for size in sizes:
            for _ in range(size):
                with oban.connection() as own, own.transaction():
                    Echo.enqueue(conn=own)

                    if producer._bell._state.value == "off":
                        was_off.set()

    threads = [threading.Thread(target=burst, args=(sizes,)) for sizes in bursts]

    for thread in threads:
        thread.start()

    for thread in threads:
        thread.join()

    total = sum(map(sum, bursts))
    eventually(lambda: factory.count(state="completed") == total)
    eventually(lambda: producer._bell.is_on)
    Echo.enqueue()
    eventually(lambda: factory.count(state="completed") == total + 1)

    assert was_off.is_set()


def test_a_trickle_after_a_burst_is_rung_for(bell, now):
    """One job in five looks: what keeps it from ever being quiet."""
    turn_off(bell)

    for number in range(bells_module.MOST_LOOKS):
        assert bell._state.value == "off"
        bell.looked(10, 1 if number % 5 == 0 else 0)
        now.now += 0.001

    now.now = max(now.now, bell.look_at)
    settle(bell, now)


def test_many_jobs_in_few_looks_leave_it_off(bell, now):
    turn_off(bell)

    for number in range(10 * bells_module.MOST_LOOKS):
        bell.looked(10, 2 if number % 5 == 0 else 0)
        now.now += 0.001

    assert bell._state.value == "off"


def test_one_that_was_turned_off_too_late_is_turned_on_once_more(
    db, conn, bell, now, owner, monkeypatch
):
    """PostgreSQL may go on with a statement whose client is gone, and end after the next one."""

    def cut_off(tx, owner):
        raise psycopg.OperationalError("the connection is lost")

    with monkeypatch.context() as broken:
        broken.setattr(bells_module.listening, "ignore", cut_off)

        for _ in range(MOST_RINGS):
            bell.rung()

        with pytest.raises(DatabaseUnavailableError):
            bell.tend()

    turn_on(bell, now)
    settle(bell, now)
    conn.execute("UPDATE oban_sync_producers SET listening = false")
    assert bell.look_at - now.now > bells_module.UNSURE_PERIOD - 1
    now.now = bell.look_at
    assert bell.is_due
    bell.tend()
    settle(bell, now)

    assert conn.execute("SELECT listening FROM oban_sync_producers").fetchall() == [(True,)]
    assert bell.look_at == 0.0


def test_nobody_else_may_put_the_function_on_a_table(dsn, prefix, conn):
    """It runs with its owner's rights, and so would the casts of a table of somebody else's."""
    role = sql.Identifier(f"mallory_{prefix}")
    conn.execute(sql.SQL("CREATE ROLE {}").format(role))

    try:
        conn.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(prefix), role))
        conn.execute(sql.SQL("SET ROLE {}").format(role))
        conn.execute("CREATE TEMP TABLE bait (queue text, state text)")
        put = sql.SQL(
            "CREATE TRIGGER bait AFTER INSERT ON bait REFERENCING NEW TABLE AS inserted"
            " FOR EACH STATEMENT EXECUTE FUNCTION {}.oban_sync_notify_listeners()"
        ).format(sql.Identifier(prefix))

        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute(put)
    finally:
        conn.execute("RESET ROLE")
        conn.execute(sql.SQL("DROP OWNED BY {}").format(role))
        conn.execute(sql.SQL("DROP ROLE {}").format(role))


def test_inserts_ring_where_the_functions_owner_may_not_look(dsn, prefix, conn, owner):
    """As after the tables were given to another role."""
    role = sql.Identifier(f"former_{prefix}")
    space = sql.Identifier(prefix)
    conn.execute(sql.SQL("CREATE ROLE {}").format(role))

    try:
        conn.execute(sql.SQL("GRANT USAGE, CREATE ON SCHEMA {} TO {}").format(space, role))
        conn.execute(
            sql.SQL("ALTER FUNCTION {}.oban_sync_notify_listeners() OWNER TO {}").format(
                space, role
            )
        )

        with listening(dsn, prefix) as bells:
            insert(conn)
            assert bells() == [RING]
    finally:
        conn.execute(sql.SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(role))
        conn.execute(sql.SQL("DROP OWNED BY {}").format(role))
        conn.execute(sql.SQL("DROP ROLE {}").format(role))


def test_what_was_inserted_before_a_queue_began_is_found(make_oban, other, factory):
    """Nobody listened when it was inserted, and it is committed after the first look."""
    other.execute(
        "INSERT INTO oban_jobs (queue, worker) VALUES ('alpha', %s)", [Echo.new({}).worker]
    )
    oban = make_oban(queues={"alpha": 5}, stager={"interval": 3_600}).start()
    producer = oban._lifecycle._supervisor.roster._members["alpha"].producer
    eventually(lambda: producer._bell._state.value == "settling")
    other.commit()

    eventually(lambda: factory.count(state="completed") == 1)


def test_a_row_that_a_failover_brought_back_is_put_right(make_oban, conn, factory, probe):
    oban = make_oban(queues={"alpha": 5}, stager={"interval": 3_600}).start()
    producer = oban._lifecycle._supervisor.roster._members["alpha"].producer
    eventually(lambda: factory.count() == 0 and producer._bell.is_on and producer._admitted)
    conn.execute("UPDATE oban_sync_producers SET listening = false")
    conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name LIKE '%: notifier' AND datname = current_database()"
    )
    eventually(
        lambda: conn.execute("SELECT listening FROM oban_sync_producers").fetchall() == [(True,)]
    )
    Echo.enqueue()

    eventually(lambda: factory.count(state="completed") == 1)
