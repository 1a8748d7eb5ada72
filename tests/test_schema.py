"""Installing, upgrading, checking and removing the tables; alone, and on those of other Obans."""

from __future__ import annotations

import re
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from importlib.resources import files
from typing import Any

import psycopg
import psycopg2
import pytest
import sqlalchemy
from psycopg import sql
from psycopg.types.json import Jsonb

from oban_sync import Record, Snooze, schema, worker
from oban_sync.core.errors import ConfigError, SchemaError
from tests.support.factory import Factory
from tests.support.peer_bells import listening
from tests.support.peer_callers import engine_for
from tests.support.peer_catalog import catalog_of, dump_of, labels_of
from tests.support.peer_tables import LABELS, PEERS, make_elixir
from tests.support.probe import eventually


@worker(queue="alpha", name="tests.schema.Flaky")
class Flaky:
    def process(self, job):
        if len(job.errors) < 2:
            raise RuntimeError(f"trouble {job.attempt}")

    def backoff(self, job):
        return 0


@worker(queue="alpha", name="tests.schema.Sleepy")
class Sleepy:
    def process(self, job):
        return None if job.meta.get("snoozed") else Snooze(0)


@worker(queue="alpha", name="tests.schema.Adder")
class Adder:
    def process(self, job):
        return Record({"sum": sum(job.args["numbers"])})


@pytest.fixture
def sight(dsn):
    """A connection that finds nothing without a prefix, so that definitions name it."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("SET search_path TO pg_catalog")

        yield conn


@pytest.fixture(params=PEERS)
def peer(request, sight):
    """The name of a schema with the tables of another Oban."""
    name = f"Peer_{uuid.uuid4().hex[:12]}"
    PEERS[request.param](sight, name)

    yield name

    drop(sight, name)


@pytest.fixture
def peer_rows(dsn, peer):
    """Rows in that schema."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("SELECT set_config('search_path', %s, false)", [f'"{peer}"'])

        yield Factory(conn)


@pytest.fixture
def fresh(dsn, sight, empty_prefix):
    """The catalog of a schema that was made in one go, and removed."""
    schema.install(dsn, prefix=empty_prefix)
    fresh = catalog_of(sight, empty_prefix), dump_of(dsn, empty_prefix)
    drop(sight, empty_prefix)

    return fresh


def drop(conn: psycopg.Connection[Any], name: str) -> None:
    conn.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))


def names_in(message: str, prefix: str, command: str) -> bool:
    return f"`oban-sync {command} --prefix {prefix}`" in message


# Alone.


def test_installing_again_changes_nothing_and_keeps_the_jobs(dsn, sight, prefix, factory):
    job = factory.job()
    before = catalog_of(sight, prefix)

    assert schema.install(dsn, prefix=prefix) == schema.LATEST
    assert catalog_of(sight, prefix) == before
    assert factory.states(job) == ["available"]


def test_several_installers_at_once_do_it_once(dsn, sight, fresh, empty_prefix):
    start = threading.Barrier(5)

    def install(_: int) -> int:
        start.wait(10.0)

        return schema.install(dsn, prefix=empty_prefix)

    with ThreadPoolExecutor(5) as threads:
        assert list(threads.map(install, range(5))) == [schema.LATEST] * 5

    assert catalog_of(sight, empty_prefix) == fresh[0]


def test_an_installation_belongs_to_the_callers_transaction(dsn, sight, empty_prefix):
    with psycopg.connect(dsn, row_factory=psycopg.rows.dict_row) as conn:
        conn.execute("SELECT 'a transaction begins'")

        assert schema.install(conn, prefix=empty_prefix) == schema.LATEST
        assert schema.verify(conn, prefix=empty_prefix) == schema.LATEST
        conn.rollback()

    assert catalog_of(sight, empty_prefix) == {}


@pytest.mark.parametrize("version", range(1, schema.LATEST))
def test_an_upgrade_from_any_version_equals_a_fresh_installation(
    dsn, sight, fresh, empty_prefix, version
):
    assert schema.install(dsn, prefix=empty_prefix, version=version) == version

    with pytest.raises(SchemaError, match=f"at version {version}") as told:
        schema.verify(dsn, prefix=empty_prefix)

    assert names_in(str(told.value), empty_prefix, "upgrade")
    assert schema.upgrade(dsn, prefix=empty_prefix) == (version, schema.LATEST)
    assert schema.upgrade(dsn, prefix=empty_prefix) == (schema.LATEST, schema.LATEST)
    assert (catalog_of(sight, empty_prefix), dump_of(dsn, empty_prefix)) == fresh


def test_uninstalling_removes_everything(dsn, sight, prefix, factory):
    factory.job()
    schema.uninstall(dsn, prefix=prefix)

    assert catalog_of(sight, prefix) == {}
    assert labels_of(sight, prefix) == []
    assert schema.install(dsn, prefix=prefix) == schema.LATEST


def test_an_owner_of_the_schema_needs_no_rights_on_the_database(dsn, empty_prefix):
    role = sql.Identifier(f"owner_{empty_prefix}")
    name = sql.Identifier(empty_prefix)

    with psycopg.connect(dsn) as conn:
        conn.execute(sql.SQL("CREATE ROLE {}").format(role))
        conn.execute(sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(name, role))
        conn.execute(sql.SQL("SET LOCAL ROLE {}").format(role))

        assert schema.install(conn, prefix=empty_prefix) == schema.LATEST

        schema.uninstall(conn, prefix=empty_prefix)
        conn.rollback()


# What is said when something is missing.


def test_missing_tables_are_told_with_the_command_that_makes_them(dsn, make_oban):
    oban = make_oban(prefix="nowhere", queues={"alpha": 1})

    for attempt in (
        lambda: schema.verify(dsn, prefix="nowhere"),
        lambda: schema.upgrade(dsn, prefix="nowhere"),
        lambda: Adder.enqueue({"numbers": []}),
        lambda: oban.get_job(1),
        oban.start,
    ):
        with pytest.raises(SchemaError) as told:
            attempt()

        assert names_in(str(told.value), "nowhere", "install")

    with pytest.raises(SchemaError, match="in schema 'nowhere'"):
        schema.uninstall(dsn, prefix="nowhere")


def test_in_the_public_schema_the_command_needs_no_prefix(dsn):
    for attempt in (schema.verify, schema.upgrade):
        with pytest.raises(SchemaError, match="run `oban-sync install`"):
            attempt(dsn)


DAMAGES = [
    "DROP TRIGGER oban_sync_notify_insert ON oban_jobs",
    "ALTER TABLE oban_jobs DISABLE TRIGGER oban_sync_notify_insert",
    "DROP TABLE oban_jobs",
    "DROP TABLE oban_jobs; DROP TYPE oban_job_state",
    "DROP TABLE oban_sync_migrations",
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_and_mended_by_the_command_that_is_named(dsn, conn, prefix, damage):
    conn.execute(damage)

    with pytest.raises(SchemaError, match="is missing") as told:
        schema.verify(dsn, prefix=prefix)

    assert names_in(str(told.value), prefix, "install")

    schema.install(dsn, prefix=prefix)

    assert schema.verify(dsn, prefix=prefix) == schema.LATEST


@pytest.mark.parametrize("damage", DAMAGES[:-1])
def test_damaged_tables_can_be_uninstalled(dsn, conn, sight, prefix, damage):
    conn.execute(damage)
    schema.uninstall(dsn, prefix=prefix)

    assert catalog_of(sight, prefix) == {}


def test_tables_newer_than_the_code_are_good_enough(dsn, conn, prefix):
    conn.execute("INSERT INTO oban_sync_migrations (version) VALUES (%s)", [schema.LATEST + 1])

    assert schema.verify(dsn, prefix=prefix) == schema.LATEST + 1


# Names of schemas.

HOSTILE = ['a"b', "a'b", "a b", "1a", "a" * 64, "", "Pg;drop", "a.b", "a\n", "pg_jobs", None, 7]


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_a_prefix_that_can_be_no_schema_is_refused_everywhere(dsn, name):
    for attempt in (
        lambda: schema.install(dsn, prefix=name),
        lambda: schema.upgrade(dsn, prefix=name),
        lambda: schema.verify(dsn, prefix=name),
        lambda: schema.uninstall(dsn, prefix=name),
        lambda: schema.install_sql(name),
        lambda: schema.upgrade_sql(1, prefix=name),
        lambda: schema.uninstall_sql(name),
    ):
        with pytest.raises(ConfigError, match="^prefix: "):
            attempt()


GOOD = ["MiXed$1", "select", "_", "p" * 40]
DOUBTFUL = ["a$b$c", "a$migration$b", "p" * 51, "p" * 63]


@pytest.mark.parametrize("name", [*GOOD, *DOUBTFUL])
def test_a_prefix_that_is_allowed_works(dsn, make_oban, sight, name):
    try:
        schema.install_sql(name)
    except ConfigError:
        assert name in DOUBTFUL, "it was refused"

        return

    try:
        schema.install(dsn, prefix=name)
        oban = make_oban(prefix=name, queues={"alpha": 1}).start()

        with listening(dsn, name) as bells:
            job = Adder.enqueue({"numbers": [1, 2]})

            assert bells() == [{"queue": "alpha"}]

        eventually(lambda: oban.get_job(job.id).state == "completed")
        oban.stop()
        schema.uninstall(dsn, prefix=name)

        assert catalog_of(sight, name) == {}
    finally:
        drop(sight, name)


# For migrations of the application's own.


@contextmanager
def _alembic(dsn, driver):
    """As its op.execute runs text."""
    with engine_for(dsn, driver) as engine, engine.begin() as conn:
        yield lambda statement: conn.execute(sqlalchemy.text(statement))


@contextmanager
def _bare_psycopg2(dsn):
    with closing(psycopg2.connect(dsn)) as conn, conn, conn.cursor() as cursor:
        yield cursor.execute


RUNNERS = {
    "Alembic on psycopg": lambda dsn: _alembic(dsn, "psycopg"),
    "Alembic on psycopg2": lambda dsn: _alembic(dsn, "psycopg2"),
    "psycopg2": _bare_psycopg2,
}


@pytest.mark.parametrize("running", RUNNERS.values(), ids=RUNNERS)
def test_the_statements_run_one_by_one_in_migrations(dsn, sight, fresh, empty_prefix, running):
    name = empty_prefix
    first = schema.upgrade_sql(0, version=1, prefix=name)

    for statements, catalog in (
        (schema.install_sql(name), fresh[0]),
        (schema.install_sql(name), fresh[0]),
        (schema.uninstall_sql(name), {}),
        (first + schema.upgrade_sql(1, prefix=name), fresh[0]),
    ):
        with running(dsn) as run:
            for statement in statements:
                run(statement)

        assert catalog_of(sight, name) == catalog


def test_there_are_statements_only_between_versions_that_exist():
    for wrong in (-1, schema.LATEST + 1):
        with pytest.raises(ConfigError, match="^from_version: "):
            schema.upgrade_sql(wrong)

        with pytest.raises(ConfigError, match="^version: "):
            schema.upgrade_sql(0, version=wrong)


# On the tables of other Obans.


def test_nothing_that_a_peer_made_is_altered_or_removed(dsn, sight, peer, peer_rows):
    done = peer_rows.job(state="completed", args={"n": 1})
    row, before, labels = peer_rows.row(done), catalog_of(sight, peer), labels_of(sight, peer)

    assert schema.install(dsn, prefix=peer) == schema.LATEST
    assert schema.verify(dsn, prefix=peer) == schema.LATEST

    after = catalog_of(sight, peer)

    assert {key: after.get(key) for key in before} == before
    assert [label for label in labels_of(sight, peer) if label in labels] == labels
    assert set(labels_of(sight, peer)) == {*LABELS, "suspended"}
    assert peer_rows.row(done) == row


def test_jobs_run_from_end_to_end_on_a_peers_table(dsn, make_oban, peer, peer_rows):
    schema.install(dsn, prefix=peer)
    oban = make_oban(prefix=peer)
    flaky = Flaky.enqueue({"n": 1}, tags=["One", "two"], meta={"own": True}, priority=3)
    sleepy, adder = Sleepy.enqueue(), Adder.enqueue({"numbers": [1, 2]}, schedule_in=60)

    ran = oban.drain_queue("alpha", with_safety=True)
    first, second = errors = peer_rows.row(flaky.id)["errors"]

    assert (ran["completed"], ran["retryable"], ran["scheduled"]) == (3, 2, 1)
    assert (first["attempt"], second["attempt"]) == (1, 2)
    assert "trouble 1" in first["error"]
    assert "trouble 2" in second["error"]
    assert oban.get_job(flaky.id).errors == errors
    assert (oban.get_job(flaky.id).attempt, oban.get_job(flaky.id).tags) == (3, ["one", "two"])
    assert oban.get_job(sleepy.id).attempt == 1
    assert oban.get_job(sleepy.id).meta == {"snoozed": 1}
    assert oban.get_job(adder.id).recorded() == {"sum": 3}


def test_a_node_runs_the_jobs_of_a_peers_table(dsn, make_oban, peer, peer_rows):
    schema.install(dsn, prefix=peer)
    oban = make_oban(prefix=peer, queues={"alpha": 3}).start()
    flaky, sleepy = Flaky.enqueue(), Sleepy.enqueue()
    plain = peer_rows.job(worker="tests.schema.Adder", queue="alpha", args={"numbers": [1]})

    eventually(lambda: set(peer_rows.states(flaky.id, sleepy.id, plain)) == {"completed"})
    oban.stop()

    assert len(peer_rows.row(flaky.id)["errors"]) == 2
    assert peer_rows.row(plain)["attempted_by"] is not None


@pytest.mark.parametrize("peer", [name for name in PEERS if "Elixir" in name], indirect=True)
def test_rows_with_nulls_run_as_any_other(dsn, make_oban, peer, peer_rows):
    schema.install(dsn, prefix=peer)
    oban = make_oban(prefix=peer)
    columns = {"queue": "alpha", "tags": None, "meta": None, "attempted_by": None}
    ids = [
        peer_rows.job(worker="tests.schema.Flaky", **columns),
        peer_rows.job(worker="tests.schema.Sleepy", **columns),
        peer_rows.job(worker="tests.schema.Adder", args={"numbers": [2]}, **columns),
    ]

    assert [(oban.get_job(job_id).meta, oban.get_job(job_id).tags) for job_id in ids] == [
        ({}, [])
    ] * 3
    assert oban.drain_queue("alpha", with_safety=True)["completed"] == 3
    assert len(oban.get_job(ids[0]).errors) == 2
    assert oban.get_job(ids[1]).meta["snoozed"] == 1
    assert oban.get_job(ids[2]).recorded() == {"sum": 2}


@pytest.mark.parametrize("peer", ["Elixir v10", "Elixir v11"], indirect=True)
def test_a_table_with_fewer_priorities_refuses_the_others(dsn, make_oban, peer, peer_rows):
    schema.install(dsn, prefix=peer)
    make_oban(prefix=peer)
    Adder.enqueue({"numbers": []}, priority=3)

    with pytest.raises(psycopg.errors.CheckViolation, match="priority_range"):
        Adder.enqueue({"numbers": []}, priority=4)

    assert peer_rows.count() == 1


@pytest.mark.parametrize("peer", ["Elixir v11"], indirect=True)
def test_a_trigger_of_the_peers_own_only_rings_once_more(dsn, make_oban, peer):
    schema.install(dsn, prefix=peer)
    make_oban(prefix=peer)

    with listening(dsn, peer) as bells:
        Adder.enqueue({"numbers": []})

        assert bells() == [{"queue": "alpha"}] * 2


def test_a_table_too_old_to_join_is_told_and_left_alone(dsn, sight, empty_prefix):
    make_elixir(sight, empty_prefix, 8)
    before = catalog_of(sight, empty_prefix)

    with pytest.raises(SchemaError, match="older than its migration 9.*[Rr]un the migrations"):
        schema.install(dsn, prefix=empty_prefix)

    assert catalog_of(sight, empty_prefix) == before


def test_uninstalling_leaves_a_peers_table_as_it_was_with_its_jobs(dsn, sight, peer, peer_rows):
    done = peer_rows.job(state="completed", args={"n": 1})
    row, before = peer_rows.row(done), catalog_of(sight, peer)
    schema.install(dsn, prefix=peer)
    schema.uninstall(dsn, prefix=peer)
    after = catalog_of(sight, peer)
    left = {key for key in after if key not in before}

    assert {key: after.get(key) for key in before} == before
    assert peer_rows.row(done) == row
    # A label cannot be taken away, and what has a peer's name may be in a peer's use.
    assert not [
        name for _, name in left if "oban_sync" in name or re.search("available|executing", name)
    ]
    assert not [name for kind, name in left if kind in ("trigger", "function")]


# Errors, and the order of states.


@pytest.mark.parametrize("kind", ["jsonb[]", "jsonb"])
@pytest.mark.parametrize("before", [0, 1, 99, 100, 150])
def test_the_newest_hundred_errors_are_kept_in_either_type_of_column(conn, kind, before):
    given = [{"n": n} for n in range(before)]
    value = [Jsonb(entry) for entry in given] if kind == "jsonb[]" else Jsonb(given)
    [(kept,)] = conn.execute(
        f"SELECT oban_sync_add_error(%s::{kind}, %s::jsonb, 100)", [value, Jsonb({"n": "new"})]
    ).fetchall()

    assert kept == [*given, {"n": "new"}][-100:]


@pytest.mark.parametrize("broken", ["NULL::jsonb[]", "NULL::jsonb", "'null'::jsonb", "'7'::jsonb"])
def test_errors_that_are_no_list_are_begun_anew(conn, broken):
    [(kept,)] = conn.execute(
        f"SELECT oban_sync_add_error({broken}, '{{\"n\": 2}}'::jsonb, 100)"
    ).fetchall()

    assert kept == [{"n": 2}]


def test_no_statement_asks_for_the_order_of_states():
    folder = files("oban_sync") / "queries"
    # What was counted has states as text.
    texts = [
        file.read_text()
        for file in folder.iterdir()
        if file.name.endswith(".sql") and not file.name.startswith("metric_")
    ]
    texts += [file.read_text() for file in (folder / "migrations").iterdir()]

    assert len(texts) > 10

    for text in texts:
        assert not re.search(
            r"ORDER BY[^)\n]*\bstate\b|\bstate\s*(<|>)|(min|max)\(\w*\.?state", text
        )
