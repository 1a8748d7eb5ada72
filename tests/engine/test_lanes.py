"""The indexes that lanes are found by: how they are made, and that they are used."""

from __future__ import annotations

import json
import uuid
from functools import partial
from threading import Event, Thread

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from oban_sync import schema
from oban_sync.core.limits import check_limits
from oban_sync.engine import lanes, limits, reindex
from oban_sync.engine.connections import connect
from oban_sync.engine.session import Tx
from oban_sync.engine.statements import shaped
from oban_sync.engine.wire import Bigints
from tests.engine.test_query_plans import nodes
from tests.support.peer_tables import PEERS
from tests.support.probe import eventually


def lanes_of(queue, partition):
    return lanes.Lanes(queue, check_limits("queue", {"fair": partition}).lane_by)


ALPHA = lanes_of("alpha", {"args": "k"})
BETA = lanes_of("beta", ["worker", {"meta": ["it's", 'a "k"', "%s"]}])


@pytest.fixture
def make(dsn, prefix):
    def make(*wanted, stopping=None, dsn=dsn):
        plainly = partial(connect, dsn, application_name="lanes")

        return lanes.make_indexes(plainly, prefix, wanted, stopping=stopping or Event())

    return make


@pytest.fixture
def indexes(conn):
    """The indexes there are, and whether each is finished."""

    def find():
        rows = conn.execute(
            "SELECT relname, indisvalid FROM pg_index JOIN pg_class ON oid = indexrelid"
            " WHERE indrelid = 'oban_jobs'::regclass AND relname LIKE 'oban_sync_lane_%'"
        )

        return dict(rows.fetchall())

    return find


def test_what_is_missing_is_made_and_what_is_there_stays(make, indexes, db):
    assert make(ALPHA, BETA) == [ALPHA.index, BETA.index]
    assert make(ALPHA, BETA) == []
    assert indexes() == {ALPHA.index: True, BETA.index: True}

    with db.session() as tx:
        assert lanes.missing(tx, [ALPHA, BETA, lanes_of("gamma", "worker")]) == [
            lanes_of("gamma", "worker")
        ]


def test_names_tell_queues_and_keys_apart_but_not_the_order_of_keys():
    one, other = {"args": ["k", "l"]}, [{"args": "l"}, {"args": "k"}]

    assert lanes_of("alpha", one).index == lanes_of("alpha", other).index
    assert lanes_of("alpha", one).index != lanes_of("beta", one).index
    assert lanes_of("alpha", one).index != lanes_of("alpha", {"meta": ["k", "l"]}).index


def test_what_an_ended_try_left_is_made_anew(make, indexes, conn):
    make(ALPHA)
    conn.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", [ALPHA.index]
    )

    assert make(ALPHA) == [ALPHA.index]
    assert indexes() == {ALPHA.index: True}


def test_while_somebody_else_works_on_indexes_it_is_put_off(make, indexes, dsn, prefix):
    with psycopg.connect(dsn, autocommit=True) as other:
        assert reindex.claim(Tx(other, prefix), 10.0, 10.0)
        assert make(ALPHA) is None
        assert indexes() == {}

    assert eventually(lambda: make(ALPHA)) == [ALPHA.index]


def test_a_stop_ends_it(make, indexes, conn):
    stopping = Event()

    with conn.transaction():
        # Making an index waits for transactions that have changed the table.
        conn.execute("INSERT INTO oban_jobs (worker) VALUES ('W')")
        thread = Thread(target=make, args=(ALPHA,), kwargs={"stopping": stopping})
        thread.start()
        stopping.set()
        thread.join(10.0)
        assert not thread.is_alive()

    assert make(ALPHA) == [ALPHA.index]


@pytest.fixture
def stranger(dsn, prefix, conn):
    """A role that may use the tables, and does not own them."""
    name = f"stranger_{uuid.uuid4().hex[:8]}"
    role = sql.Identifier(name)
    own = sql.Identifier(prefix)
    conn.execute(sql.SQL("CREATE ROLE {}").format(role))
    conn.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(own, role))

    yield make_conninfo(dsn, options=f"-c role={name}")

    conn.execute(sql.SQL("DROP OWNED BY {}").format(role))
    conn.execute(sql.SQL("DROP ROLE {}").format(role))


def test_without_the_right_to_it_the_statement_is_told(
    make, indexes, stranger, caplog, conn, prefix
):
    assert make(ALPHA, BETA, dsn=stranger) == []
    assert len(caplog.records) == 2

    # The statements told are right.
    for record in caplog.records:
        assert "must be owner of table oban_jobs" in record.getMessage()
        conn.execute(record.getMessage().partition("by hand:\n")[2])

    assert indexes() == {ALPHA.index: True, BETA.index: True}


def test_through_a_pooler_nothing_is_done_and_the_statement_is_told(
    make, indexes, caplog, monkeypatch
):
    monkeypatch.setattr(lanes, "is_pooled", lambda _: True)

    assert make(ALPHA) == []
    assert indexes() == {}
    assert "CREATE INDEX CONCURRENTLY" in caplog.text


@pytest.mark.parametrize("peer", PEERS)
def test_they_go_with_the_rest_when_the_table_of_another_oban_stays(dsn, peer):
    name = f"Peer_{uuid.uuid4().hex[:12]}"

    with psycopg.connect(dsn, autocommit=True) as conn:
        PEERS[peer](conn, name)
        schema.install(dsn, prefix=name)

        try:
            lanes.make_indexes(
                partial(connect, dsn, application_name="lanes"), name, [ALPHA], stopping=Event()
            )
            schema.uninstall(dsn, prefix=name)
            left = conn.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace"
                " AND relname LIKE 'oban_sync%%'",
                [f'"{name}"'],
            ).fetchall()
        finally:
            conn.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))

    assert left == []


SEED = """
INSERT INTO oban_jobs (state, queue, worker, args)
SELECT
    (ARRAY['completed', 'completed', 'available', 'available', 'scheduled', 'executing']
        )[1 + n % 6]::oban_job_state,
    (ARRAY['alpha', 'beta'])[1 + n % 2], 'W', jsonb_build_object('k', n % 50)
FROM generate_series(1, 12000) AS n
"""


def explained(tx, name):
    """The generic plan of a statement of lanes."""
    text, order = shaped(name, tx.schema, ALPHA.pieces(tx.schema))
    given = {
        **limits.rate_params("queue:alpha", None),
        "ids": Bigints([]),
        "fences": Bigints([]),
        "lock": "queue:alpha",
        "queue": "alpha",
        "demand": 10,
        "node": "node",
        "owner": "owner",
        "turn": 1,
        "forced": False,
        "moment": None,
        "kept": Bigints([]),
        "most": None,
        "share": 1,
        "burst": False,
        "by_lane": True,
        "fair": False,
        "start": 0,
        "cursor": 0,
        "spent": 0,
        "weighted": Bigints([]),
        "weights": Bigints([]),
        "shunned": Bigints([]),
        "peek": False,
    }
    values = [sql.Literal("{}" if isinstance(given[key], Bigints) else given[key]) for key in order]
    tx.conn.execute("DEALLOCATE ALL")
    tx.conn.execute(f"PREPARE lanes AS {text}")
    execute = sql.SQL("EXPLAIN (FORMAT JSON) EXECUTE lanes ({})").format(sql.SQL(", ").join(values))
    [(found,)] = tx.conn.execute(execute).fetchall()

    return list(nodes((json.loads(found) if isinstance(found, str) else found)[0]["Plan"]))


@pytest.mark.parametrize("moment", ["empty", "stale", "analyzed"])
@pytest.mark.parametrize("name", ["job_fetch_near", "job_fetch_lanes"])
def test_taking_jobs_of_lanes_goes_through_indexes(db, conn, make, name, moment):
    make(ALPHA)

    if moment != "empty":
        conn.execute("ANALYZE oban_jobs")
        conn.execute(SEED)

    if moment == "analyzed":
        conn.execute("ANALYZE oban_jobs")

    with db.session() as tx:
        plan = explained(tx, name)
        tx.conn.execute("DEALLOCATE ALL")

    of_jobs = [node for node in plan if node.get("Relation Name") == "oban_jobs"]
    used = {node["Index Name"] for node in plan if "Index Name" in node}

    assert not [node for node in of_jobs if node["Node Type"] == "Seq Scan"]
    assert {"oban_jobs_available_index", "oban_jobs_pkey"} <= used

    if name == "job_fetch_lanes":
        # Two steps of the walk, and the first jobs of a lane; in the index's order, without a sort.
        found = [node for node in of_jobs if node.get("Index Name") == ALPHA.index]
        assert len(found) == 3
        assert all("jsonb_hash_extended" in node["Index Cond"] for node in found)

    for node in plan:
        below = node.get("Plans", [{}])[0]
        sorts_a_scan = node["Node Type"] == "Sort" and below.get("Index Name") == ALPHA.index
        assert not sorts_a_scan
