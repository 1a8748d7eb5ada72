"""A node of oban-py 0.7 and one of ours in one database, each doing the other's jobs."""

from __future__ import annotations

import uuid
from typing import Any

import psycopg
import pytest
from psycopg import sql

from oban_sync import Cancel, Job, Record, Snooze, schema, worker
from tests.support.factory import Factory
from tests.support.oban_py_peer import Peer, UnavailableError, peer_python
from tests.support.peer_catalog import catalog_of
from tests.support.probe import Gate, eventually

#: The first test waits until oban-py is installed.
pytestmark = pytest.mark.timeout(900)

PEER_NODE = "the-oban-py-node"
OUR_NODE = "our-node"

#: What both can express, in the places where encodings differ.
VALUES = [
    None,
    True,
    False,
    [0, 255, 256, -1, 2**31, -(2**31), 2**40, 2**62, -(2**62)],
    1.5,
    "",
    "ü 🗝 \\ \" '",
    [],
    {},
    {"list": [1, [2, []], {}], "none": None, "nested": {"deep": [True, "nil", "true"]}},
]


@worker(queue="both", name="shop.Echo")
class Echo:
    def process(self, job):
        return Record(job.args["value"])


@worker(queue="both", name="shop.Sleepy")
class Sleepy:
    def process(self, job):
        return None if job.meta.get("snoozed", 0) >= 2 else Snooze(0, {"by": OUR_NODE})


@worker(queue="both", name="shop.Flaky")
class Flaky:
    def process(self, job):
        if job.attempt < 4:
            raise RuntimeError(f"trouble {job.attempt} on {OUR_NODE}")


@worker(queue="both", name="shop.Picky")
class Picky:
    def process(self, job):
        return Cancel(f"not wanted on {OUR_NODE}")


@worker(queue="both", name="shop.Waiting")
class Waiting:
    gate: Gate

    def process(self, job):
        self.gate.pass_through()


@pytest.fixture(scope="session")
def python():
    try:
        return peer_python()
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def shop(python, dsn):
    """A database of this test's own, since oban-py is at home in the public schema."""
    name = f"oban_shop_{uuid.uuid4().hex[:12]}"
    database = sql.Identifier(name)

    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(database))

        yield psycopg.conninfo.make_conninfo(dsn, dbname=name)

        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(database))


@pytest.fixture
def conn(shop):
    with psycopg.connect(shop, autocommit=True) as conn:
        yield conn


@pytest.fixture
def rows(conn):
    return Factory(conn)


@pytest.fixture
def peer(python, shop, tmp_path):
    peer = Peer(python, shop, tmp_path)

    yield peer

    peer.close()


INSTALLERS: dict[str, tuple[str, ...]] = {
    "by us": ("ours",),
    "by us, then by oban-py": ("ours", "theirs"),
    "by oban-py, then by us": ("theirs", "ours"),
}


@pytest.fixture(params=INSTALLERS)
def tables(request, shop, peer):
    """The tables, from whoever made them."""
    for installer in INSTALLERS[request.param]:
        if installer == "ours":
            schema.install(shop)
        else:
            peer.ask("install")


@pytest.fixture
def ours(shop, make_oban):
    """Makes Obans on the shop's tables that hear of jobs rather than look for them."""

    def ours(**options: Any) -> Any:
        return make_oban(
            conninfo=shop, prefix="public", node=OUR_NODE, stager={"interval": 600.0}, **options
        )

    return ours


def ran_by(rows: Factory, job_id: int) -> str:
    return rows.row(job_id)["attempted_by"][0]


def test_a_node_of_ours_runs_at_once_what_oban_py_enqueues(tables, peer, ours, rows, probe):
    oban = ours(queues={"both": 2}).start()
    probe.next("oban.notifier.connected")
    job_id = peer.ask(
        "enqueue", worker="Echo", args={"value": "hi"}, tags=["Zulu ", "alpha"], priority=2
    )

    eventually(lambda: rows.states(job_id) == ["completed"])

    job = oban.get_job(job_id)

    assert ran_by(rows, job_id) == OUR_NODE
    assert (job.recorded(), job.attempt, job.priority) == ("hi", 1, 2)
    assert job.tags == ["alpha", "zulu"]
    assert peer.ask("get", job_id=job_id)["value"] == "hi"


def test_a_node_of_oban_pys_runs_at_once_what_we_enqueue(tables, peer, ours, rows):
    oban = ours()
    peer.ask("start", queues={"both": 2})
    quoted = Echo.enqueue({"value": 1}, queue='a "quoted" \\ queue')
    job = Echo.enqueue({"value": "hi"}, tags=["Zulu ", "alpha"], priority=2)

    eventually(lambda: rows.states(job.id) == ["completed"])

    found = peer.ask("get", job_id=job.id)

    assert ran_by(rows, job.id) == PEER_NODE
    assert (found["value"], found["attempt"], found["priority"]) == ("hi", 1, 2)
    # It sorts what it reads.
    assert rows.row(job.id)["tags"] == ["zulu", "alpha"]
    assert found["tags"] == ["alpha", "zulu"]
    assert oban.get_job(job.id).recorded() == "hi"
    assert rows.states(quoted.id) == ["available"]


def test_what_either_records_is_read_by_the_other(tables, peer, ours, rows):
    oban = ours()
    recorded_here = [Echo.enqueue({"value": value}).id for value in VALUES]

    assert oban.drain_queue("both")["completed"] == len(VALUES)

    peer.ask("start", queues={"both": 5})
    recorded_there = [peer.ask("enqueue", worker="Echo", args={"value": item}) for item in VALUES]
    eventually(lambda: set(rows.states(*recorded_there)) == {"completed"})

    assert {ran_by(rows, job_id) for job_id in recorded_here} == {OUR_NODE}
    assert {ran_by(rows, job_id) for job_id in recorded_there} == {PEER_NODE}
    assert [peer.ask("get", job_id=job_id)["value"] for job_id in recorded_here] == VALUES
    assert [oban.get_job(job_id).recorded() for job_id in recorded_there] == VALUES


@pytest.mark.parametrize("enqueued_by", ["us", "oban-py"])
def test_a_job_snoozed_by_each_in_turn_goes_on_with_the_other(
    tables, peer, ours, rows, enqueued_by
):
    oban = ours()

    if enqueued_by == "us":
        job_id = Sleepy.enqueue().id
    else:
        job_id = peer.ask("enqueue", worker="Sleepy", args={})

    assert oban.drain_queue("both", with_recursion=False)["scheduled"] == 1
    assert oban.get_job(job_id).meta == {"snoozed": 1, "by": OUR_NODE}

    peer.ask("start", queues={"both": 1}, stage_every=0.1)
    eventually(lambda: rows.row(job_id)["meta"]["snoozed"] == 2)
    peer.ask("stop")

    assert (rows.states(job_id), ran_by(rows, job_id)) == (["scheduled"], PEER_NODE)
    assert oban.get_job(job_id).meta == {"snoozed": 2, "by": PEER_NODE}

    assert oban.drain_queue("both")["completed"] == 1
    assert (oban.get_job(job_id).attempt, ran_by(rows, job_id)) == (1, OUR_NODE)


def test_the_failures_of_both_are_kept_in_one_row(tables, peer, ours, conn, rows):
    oban = ours()
    job_id = peer.ask("enqueue", worker="Flaky", args={})
    oban.drain_queue("both", with_safety=True, with_recursion=False)

    conn.execute("UPDATE oban_jobs SET scheduled_at = timezone('UTC', now())")
    peer.ask("start", queues={"both": 1}, stage_every=0.1)
    eventually(lambda: len(rows.row(job_id)["errors"]) == 2)
    peer.ask("stop")

    oban.drain_queue("both", with_safety=True, with_recursion=False)

    for errors in (oban.get_job(job_id).errors, peer.ask("get", job_id=job_id)["errors"]):
        assert [error["attempt"] for error in errors] == [1, 2, 3]

        for error, node in zip(errors, (OUR_NODE, PEER_NODE, OUR_NODE), strict=True):
            assert f"trouble {error['attempt']} on {node}" in error["error"]

    assert rows.states(job_id) == ["retryable"]


def test_a_job_cancelled_by_one_is_final_for_the_other(tables, peer, ours, rows):
    oban = ours()
    here = peer.ask("enqueue", worker="Picky", args={})
    oban.drain_queue("both")
    there = Picky.enqueue()
    peer.ask("start", queues={"both": 1})
    eventually(lambda: rows.states(there.id) == ["cancelled"])

    assert peer.ask("get", job_id=here)["errors"][0]["error"] == f"not wanted on {OUR_NODE}"
    assert oban.get_job(there.id).errors[0]["error"] == f"not wanted on {PEER_NODE}"
    assert oban.get_job(there.id).cancelled_at is not None


def test_both_on_one_queue_finish_every_job_exactly_once(tables, peer, ours, rows, probe):
    oban = ours(queues={"both": 5}).start()
    probe.next("oban.notifier.connected")
    Waiting.gate = Gate()
    held = Waiting.enqueue()
    Waiting.gate.wait_until_entered()

    # One of our slots is taken until oban-py has run something, so that neither does it all.
    peer.ask("start", queues={"both": 5})
    ids = peer.ask("enqueue_many", worker="Echo", count=200)
    ids += [job.id for job in oban.enqueue_many(Echo.new({"value": n}) for n in range(200))]
    eventually(lambda: peer.ask("started"))
    Waiting.gate.release.set()

    eventually(lambda: rows.count(state="completed") == 401, within=40.0)

    there = peer.ask("started")
    here = [probe.next("oban.job.stop")["job"].id for _ in range(401 - len(there))]

    assert sorted([*here, *there]) == sorted([*ids, held.id])
    assert there
    assert rows.count(attempt=1) == 401
    assert rows.count() == 401


def test_each_follows_what_the_other_asks_of_queues(tables, peer, ours, probe):
    oban = ours(queues={"both": 2}).start()
    probe.next("oban.notifier.connected")
    peer.ask("start", queues={"both": 2})

    def paused():
        # Asked again and again: it misses what comes just after its start.
        oban.pause_queue("both")

        return peer.ask("check", queue="both")["paused"]

    eventually(paused)
    peer.ask("resume", queue="both")
    eventually(lambda: not oban.check_queue("both").paused)

    peer.ask("scale", queue="both", limit=7)
    eventually(lambda: oban.check_queue("both").limit == 7)
    oban.scale_queue(queue="both", limit=3, node=PEER_NODE)
    eventually(lambda: peer.ask("check", queue="both")["limit"] == 3)

    assert oban.check_queue("both").limit == 7

    oban.resume_all_queues()
    eventually(lambda: not peer.ask("check", queue="both")["paused"])


def test_each_asks_the_others_running_jobs_to_stop(tables, peer, ours, rows, probe):
    oban = ours()
    peer.ask("start", queues={"both": 2})
    there = oban.enqueue(Job(worker="shop.Patient", queue="both"))
    eventually(lambda: peer.ask("started"))

    def stopped():
        # Asked again and again: it misses a signal that comes just as it starts a job.
        oban.cancel_job(there)

        return rows.states(there.id) == ["cancelled"]

    eventually(stopped)
    node = ours(queues={"here": 1}).start()
    Waiting.gate = Gate()
    here = Waiting.enqueue(queue="here")
    Waiting.gate.wait_until_entered()
    peer.ask("cancel", job_id=here.id)
    producer = node._lifecycle._supervisor.roster._members["here"].producer
    eventually(lambda: any(job.cancelled() for job in producer._running.copy()))
    Waiting.gate.release.set()


def test_neither_takes_the_others_nodes_for_dead(tables, peer, ours, rows, conn, probe):
    """Long jobs of oban-py are spared while its producers report, whatever their age."""
    peer.ask("start", queues={"both": 1})
    job = ours().enqueue(Job(worker="shop.Patient", queue="both"))
    eventually(lambda: peer.ask("started"))
    conn.execute("UPDATE oban_jobs SET attempted_at = attempted_at - interval '10 minutes'")
    node = ours(queues={"here": 1}).start()
    eventually(lambda: node.is_leader)
    probe.next("oban.lifeline.rescue.stop", node=None)

    assert rows.states(job.id) == ["executing"]

    node.cancel_job(job)


def test_our_installation_leaves_oban_pys_as_it_was(peer, shop, conn):
    peer.ask("install")
    before = catalog_of(conn, "public")
    schema.install(shop)
    after = catalog_of(conn, "public")

    assert {key: after.get(key) for key in before} == before
    assert len(after) > len(before)


def test_oban_pys_installation_leaves_ours_complete(peer, shop, conn):
    schema.install(shop)
    before = catalog_of(conn, "public")
    peer.ask("install")
    after = catalog_of(conn, "public")
    changed = {name for name in before if after.get(name) != before[name]}

    # It sets the table's autovacuum to its own taste.
    assert changed <= {("table", "oban_jobs")}
    assert schema.verify(shop) == schema.LATEST
