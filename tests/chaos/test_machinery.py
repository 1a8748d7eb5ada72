"""The tools of the suite do what they say."""

from __future__ import annotations

import select
import socket
import struct
import time

import psycopg
import pytest

from tests.chaos import servers, sizes
from tests.chaos.checker import ALWAYS, UNDISTURBED, check
from tests.chaos.cluster import Cluster
from tests.support.probe import eventually


@pytest.fixture
def dsn(make_cluster):
    return make_cluster(history=False).dsn


@pytest.fixture
def proxy(make_proxy, dsn):
    return make_proxy(dsn)


def connect(proxy, **options):
    return psycopg.connect(proxy.dsn, autocommit=True, connect_timeout=5, **options)


def is_silent(conn, *, seconds=0.3):
    conn.pgconn.send_query(b"SELECT 1")
    conn.pgconn.flush()

    return select.select([conn.fileno()], [], [], seconds)[0] == []


def test_a_proxy_passes_on_whatever_is_said(proxy):
    with connect(proxy) as conn:
        text = "x" * 3_000_000

        assert conn.execute("SELECT length(%s), %s", [text, text]).fetchone() == (3_000_000, text)


def test_a_stalled_proxy_keeps_connections_open_and_says_nothing(proxy):
    with connect(proxy) as conn:
        proxy.stall()

        assert is_silent(conn)

        with socket.create_connection(("127.0.0.1", int(conn.info.port)), timeout=5.0) as other:
            other.sendall(struct.pack("!ii", 8, 80877103))

            assert select.select([other], [], [], 0.3)[0] == []

        proxy.flow()

        # Waited for outside of libpq, which would keep the interpreter from the proxy.
        assert select.select([conn.fileno()], [], [], 10.0)[0]
        assert conn.pgconn.get_result().get_value(0, 0) == b"1"
        assert conn.pgconn.get_result() is None


def test_a_proxy_resets_connections_and_refuses_new_ones_when_asked(proxy):
    with connect(proxy) as conn:
        proxy.cut(refuse=True)

        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")

    with pytest.raises(psycopg.OperationalError):
        connect(proxy)

    proxy.flow()
    connect(proxy).close()


def test_a_slow_proxy_delays_both_ways(proxy):
    with connect(proxy) as conn:
        proxy.delay(0.2)
        began = time.monotonic()
        conn.execute("SELECT 1")

        assert time.monotonic() - began >= 0.4


@pytest.mark.parametrize("prepare_threshold", [None, 0])
def test_a_lost_reply_is_of_a_statement_that_was_carried_out(proxy, dsn, prepare_threshold):
    insert = "INSERT INTO oban_jobs (worker) VALUES (%s)"

    with connect(proxy, prepare_threshold=prepare_threshold) as conn:
        conn.execute(insert, ["first"])
        trap = proxy.lose_replies(lambda text: "INSERT INTO oban_jobs" in text)

        with pytest.raises(psycopg.OperationalError):
            conn.execute(insert, ["second"])

    assert trap.sprung == 1

    with connect(proxy) as conn:
        # Only as many as asked for.
        conn.execute(insert, ["third"])
        workers = [row[0] for row in conn.execute("SELECT worker FROM oban_jobs ORDER BY id")]

    assert workers == ["first", "second", "third"]


def test_of_a_transaction_the_reply_to_its_commit_is_lost(proxy):
    trap = proxy.lose_replies(lambda text: "INSERT INTO oban_jobs" in text)

    with connect(proxy) as conn:
        conn.execute("BEGIN")
        conn.execute("INSERT INTO oban_jobs (worker) VALUES ('one')")
        # The statement itself is answered.
        assert conn.execute("SELECT count(*) FROM oban_jobs").fetchone() == (1,)

        with pytest.raises(psycopg.OperationalError):
            conn.execute("COMMIT")

    with connect(proxy) as conn:
        assert conn.execute("SELECT count(*) FROM oban_jobs").fetchone() == (1,)

    assert trap.sprung == 1


@pytest.mark.timeout(120)
def test_a_standby_takes_over_with_all_that_was_acknowledged():
    try:
        with servers.streaming_pair() as pair:
            with psycopg.connect(pair.dsn, autocommit=True) as conn:
                conn.execute("CREATE TABLE kept AS SELECT 1 AS one")

            pair.fail_over()

            with psycopg.connect(pair.dsn, autocommit=True) as conn:
                assert conn.execute("SELECT one FROM kept").fetchone() == (1,)
                conn.execute("INSERT INTO kept VALUES (2)")
    except servers.MissingError as error:
        pytest.skip(str(error))


def test_pgbouncer_pools_by_transaction(dsn):
    try:
        program = servers.pgbouncer(install=sizes.MAY_INSTALL)
    except servers.MissingError as error:
        pytest.skip(str(error))

    with (
        servers.pooled(dsn, program, default_pool_size=1) as through,
        psycopg.connect(through, autocommit=True, prepare_threshold=None) as one,
        psycopg.connect(through, autocommit=True, prepare_threshold=None) as two,
    ):
        pids = {conn.execute("SELECT pg_backend_pid()").fetchone()[0] for conn in (one, two)}

        assert len(pids) == 1


@pytest.mark.timeout(120)
def test_a_node_notes_what_it_does_and_ends_with_who_started_it(make_cluster):
    cluster: Cluster = make_cluster()
    node = cluster.start()
    [job] = cluster.insert("Slow", {"seconds": 0.3})
    cluster.wait(lambda: node.running == {job: node.running.get(job)}, within=10)
    cluster.settle()
    evidence = cluster.evidence()
    [run] = evidence.executions[job]

    assert (run.node, run.how) == (node.name, "ok")
    assert 0.3 <= run.end - run.begin < 5
    assert [change.state for change in evidence.history[job]] == [
        "available",
        "executing",
        "completed",
    ]
    # Both clocks are the same: the row became executing before its job began.
    assert evidence.history[job][1].at < run.begin < run.end < evidence.history[job][2].at
    check(evidence, *ALWAYS, *UNDISTURBED)

    node.expendable = True
    node.process.stdin.close()
    eventually(lambda: node.process.poll() is not None)
    assert node.joined() == 70
    assert len(cluster.evidence().of("gone")) == 1


def test_a_node_that_ends_by_itself_fails_the_scenario(make_cluster):
    cluster: Cluster = make_cluster()
    node = cluster.start()
    cluster.insert("Deadly", {"seconds": 0.0})

    with pytest.raises(AssertionError, match=f"{node.name} ended with -9"):
        cluster.wait(lambda: False, within=20)


def test_evidence_of_a_fault_is_made_by_the_fault(make_cluster):
    cluster: Cluster = make_cluster()
    node = cluster.start()
    node.suspend()
    node.resume()
    node.kill()
    evidence = cluster.evidence()

    assert [event["of"] for event in evidence.of("fault", "gone")] == [node.name, node.name]
    assert evidence.losses(node.name) == [evidence.of("gone")[0].at]
