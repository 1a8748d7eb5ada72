"""The doctor: each trouble is found, a sound installation has none, and nothing is changed."""

from __future__ import annotations

import json
import threading
import uuid
from contextlib import contextmanager

import psycopg
import pytest
from click.testing import CliRunner

from oban_sync import Oban, job, worker
from oban_sync.cli import doctor
from oban_sync.cli.main import main
from oban_sync.control.report import FAIL, OK, WARN, Check, Report
from oban_sync.core import registry
from oban_sync.core.budget import budget
from oban_sync.core.config import Config
from oban_sync.engine import checkup
from tests.support.probe import eventually


@pytest.fixture
def examine(dsn, prefix):
    """Examines an Oban with some options."""

    def examined(*, conninfo=dsn, web=False, autostart=None, processes=1, **options):
        config = Config.checked({"conninfo": dsn, "prefix": prefix, **options})

        return doctor.examine(config, conninfo, web=web, autostart=autostart, processes=processes)

    return examined


@worker(queue="alpha", name="tests.Connected", oban="Counted")
class Connected:
    """Holds a connection of the application's, until all its jobs do and were counted."""

    together = threading.Barrier(5)
    done = threading.Barrier(5)

    def process(self, job):
        with Oban.get_instance("Counted").connection():
            self.together.wait(30)
            self.done.wait(30)


@contextmanager
def in_transaction(dsn, name):
    with psycopg.connect(dsn, application_name=name) as conn:
        conn.execute("SELECT 1")

        yield

        conn.rollback()


def test_a_sound_installation_has_no_trouble(examine, make_oban):
    oban = make_oban(queues={"alpha": 2}).start()
    eventually(lambda: oban.is_leader)
    report = examine(queues={"alpha": 2})

    assert report.status == OK, report
    assert "alpha" in report.named("nodes").text
    assert {check.name for check in report.checks} >= {
        *("server", "clock", "pooler", "listen", "connections", "vacuum"),
        *("tables", "nodes", "queues", "workers", "orphans"),
    }


def test_a_database_that_is_away_is_a_check(examine):
    report = examine(conninfo="postgresql://127.0.0.1:1/x")

    assert report.status == FAIL
    assert "could not be reached" in report.named("database").text


def test_tables_that_are_missing_are_told_of_with_the_command_to_run(examine, conn, prefix):
    conn.execute(f'DROP SCHEMA "{prefix}" CASCADE')
    conn.execute(f'CREATE SCHEMA "{prefix}"')
    report = examine()

    assert report.named("tables").status == FAIL
    assert "oban-sync install" in report.named("tables").text
    assert report.named("connections").status == OK

    with pytest.raises(KeyError):
        report.named("nodes")


def test_more_connections_than_there_is_room_for_fail(examine, conn):
    [(most,)] = conn.execute("SELECT current_setting('max_connections')::int").fetchall()
    queues = {"alpha": 2}
    report = examine(queues=queues, processes=most // 10)

    assert report.named("connections").status == FAIL
    assert f"need {most // 10 * 16}" in report.named("connections").text
    assert examine(queues=queues).named("connections").status == OK


def test_queues_of_their_own_process_cost_web_processes_nothing(examine):
    text = examine(queues={"alpha": 2}, web=True, autostart=False, processes=4)

    assert "4 processes of up to 10 (10 application)" in text.named("connections").text
    assert "a worker process of up to 16" in text.named("connections").text
    assert "need 56" in text.named("connections").text


def test_no_more_connections_are_made_than_were_counted(make_oban, conn):
    options = {"queues": {"alpha": 2, "beta": 2}, "name": "Counted"}
    oban = make_oban(**options).start()
    eventually(lambda: oban.is_leader)

    for queue in ("alpha", "alpha", "beta", "beta"):
        Connected.enqueue(queue=queue)

    Connected.together.wait(30)
    [(found,)] = conn.execute(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'oban-sync Counted:%'"
    ).fetchall()
    counted = budget(Config.checked({"conninfo": "dbname=x", **options}), runs=True)

    Connected.done.wait(30)

    assert counted.reserved + 4 <= found <= counted.total


def test_settings_of_the_role_that_harm_are_told_of(examine, dsn):
    def server(setting):
        options = psycopg.conninfo.make_conninfo(dsn, options=f"-c {setting}")

        return examine(conninfo=options).named("server")

    assert "serializable" in server("default_transaction_isolation=serializable").text
    assert "synchronous_commit is off" in server("synchronous_commit=off").text
    assert "statement_timeout is 2000 ms" in server("statement_timeout=2s").text
    assert server("statement_timeout=60s").status == OK


def test_a_database_that_takes_no_writes_fails(examine, dsn):
    options = psycopg.conninfo.make_conninfo(
        dsn, options="-c default_transaction_read_only=on", target_session_attrs="any"
    )
    check = examine(conninfo=options).named("server")

    assert (check.status, "takes no writes" in check.text) == (FAIL, True)


def test_a_transaction_that_idles_is_told_of(examine, dsn, monkeypatch):
    monkeypatch.setattr("oban_sync.control.doctor.LONG_TRANSACTION", 0.0)

    with in_transaction(dsn, "forgetful"):
        check = eventually(
            lambda: found if "forgetful" in (found := examine().named("vacuum")).text else None
        )

    assert check.status == WARN


def test_a_table_without_autovacuum_fails(examine, conn):
    conn.execute("ALTER TABLE oban_jobs SET (autovacuum_enabled = false)")

    assert examine().named("vacuum").status == FAIL


@pytest.mark.parametrize(
    ("listen", "status", "words"),
    [
        (None, OK, "came round"),
        ("off", OK, "by looking"),
        ("postgresql://127.0.0.1:1/x", FAIL, "could not be reached"),
    ],
)
def test_it_tries_whether_notifications_arrive(examine, listen, status, words):
    check = examine(listen_conninfo=listen).named("listen")

    assert (check.status, words in check.text) == (status, True), check


def test_a_pooler_wants_a_way_past_it(examine, dsn, monkeypatch):
    monkeypatch.setattr("oban_sync.control.doctor.checkup.is_pooled", lambda tx: True)

    assert examine().named("pooler").status == WARN
    assert examine(listen_conninfo=dsn).named("pooler").status == OK
    assert "limits of its own" in examine(processes=10_000).named("connections").text


def test_a_notification_that_does_not_arrive_is_told_of(examine, monkeypatch):
    monkeypatch.setattr("oban_sync.control.doctor.checkup.hears", lambda tx, conninfo: False)
    check = examine().named("listen")

    assert (check.status, "did not arrive" in check.text) == (WARN, True)


def test_dead_nodes_and_their_jobs_are_told_of(examine, factory, conn):
    dead = factory.node("alpha", node="gone")
    old = "2020-01-01"
    conn.execute("UPDATE oban_sync_nodes SET beat_at = %s", [old])
    factory.executing(factory.owner(dead, "alpha"), attempted_at=old)
    report = examine()

    assert "1 of 1 do not beat" in report.named("nodes").text
    assert "1 of 1 executing jobs have no living node" in report.named("orphans").text
    assert report.status == WARN


def test_a_node_that_nobody_leads_is_told_of(examine, factory):
    factory.node("alpha", node="here")

    assert "none leads" in examine().named("nodes").text


def test_jobs_that_nobody_looks_for_are_told_of(examine, factory, conn):
    factory.node("alpha")
    conn.execute("UPDATE oban_sync_producers SET paused = true")
    factory.job(queue="alpha")
    factory.job(queue="beta")
    texts = [check.text for check in examine().checks if check.name == "queues"]

    assert any("no living node looks: beta (1" in text for text in texts)
    assert any("paused queues: alpha (1)" in text for text in texts)


def test_jobs_of_workers_that_are_not_loaded_are_told_of(examine, factory):
    @job(name="doctors-own")
    def known():
        pass

    factory.job(worker="doctors-own")

    assert examine().named("workers").status == OK

    factory.job(worker="nobody.Knows\x07")
    check = examine().named("workers")

    assert (check.status, "nobody.Knows" in check.text) == (WARN, True)


def test_a_module_of_imports_that_is_missing_fails(examine):
    check = examine(imports=["nowhere_at_all"]).named("imports")

    assert (check.status, "nowhere_at_all" in check.text) == (FAIL, True)


@pytest.fixture
def stranger(dsn, conn, prefix):
    """The conninfo of a role with some rights on the tables."""
    name = f"doctors_{uuid.uuid4().hex[:12]}"
    conn.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")

    def granted(*rights, usage=True):
        if usage:
            conn.execute(f'GRANT USAGE ON SCHEMA "{prefix}" TO {name}')

        for right in rights:
            conn.execute(f'GRANT {right.format(f"""IN SCHEMA "{prefix}" TO {name}""")}')

        return psycopg.conninfo.make_conninfo(dsn, user=name, password="secret")

    yield granted

    conn.execute(f"DROP OWNED BY {name}")
    conn.execute(f"DROP ROLE {name}")


@pytest.mark.parametrize("usage", [True, False])
def test_a_role_without_rights_is_told_what_could_not_be_asked(examine, stranger, usage):
    report = examine(conninfo=stranger(usage=usage))

    assert report.named("server").status == OK
    assert report.named("tables").status == FAIL
    assert "permission denied" in report.named("tables").text
    assert report.status == FAIL


@pytest.mark.parametrize(
    ("rights", "queues", "status", "words"),
    [
        (["SELECT ON ALL TABLES {}"], {}, FAIL, "lacks INSERT/UPDATE/DELETE on oban_jobs, USAGE"),
        (["SELECT, INSERT ON ALL TABLES {}"], {}, FAIL, "USAGE on oban_jobs_id_seq"),
        (
            ["SELECT, INSERT ON ALL TABLES {}", "USAGE ON ALL SEQUENCES {}"],
            {},
            WARN,
            "may enqueue, and run no jobs: it lacks UPDATE/DELETE on oban_jobs, ",
        ),
        (
            ["SELECT, INSERT ON ALL TABLES {}", "USAGE ON ALL SEQUENCES {}"],
            {"alpha": 1},
            FAIL,
            "the role lacks UPDATE/DELETE on oban_jobs, ",
        ),
        (
            [
                "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES {}",
                "USAGE ON ALL SEQUENCES {}",
            ],
            {"alpha": 1},
            OK,
            "all that is needed",
        ),
    ],
)
def test_rights_that_are_lacking_are_named(examine, stranger, rights, queues, status, words):
    check = examine(conninfo=stranger(*rights), queues=queues).named("rights")

    assert (check.status, words in check.text) == (status, True), check
    assert "oban_sync_migrations" not in check.text


def test_a_connection_that_is_lost_on_the_way_fails(examine, dsn, monkeypatch):
    asked = []
    ask = checkup.server

    def cut_off(tx):
        asked.append(tx)
        found = ask(tx)

        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [tx.conn.info.backend_pid])

        return found

    monkeypatch.setattr(checkup, "server", cut_off)
    report = examine(listen_conninfo="off")

    assert report.status == FAIL
    assert report.checks[-1].name == "database"
    assert "nothing further could be asked" in report.checks[-1].advice
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("autostart", "options", "words"),
    [
        (None, {"queues": {"a": 1}}, "under gunicorn: queues start at the first request"),
        (None, {"queues": {"a": 1}}, "under uWSGI: queues start after the fork"),
        (None, {"queues": {"a": 1}}, "under mod_wsgi, embedded: queues do not start"),
        (
            False,
            {"queues": {"a": 1}},
            "any server: queues do not start: OBAN_AUTOSTART",
        ),
        (None, {}, "under any server: queues do not start: no queues"),
    ],
)
def test_it_tells_where_the_queues_of_a_web_application_would_start(
    examine, autostart, options, words
):
    report = examine(web=True, autostart=autostart, **options)

    assert any(words in f"{check.name}: {check.text}" for check in report.checks)


def test_the_worst_check_is_the_report():
    def of(*statuses):
        return Report(tuple(Check("x", status, "") for status in statuses)).status

    assert [of(), of(OK), of(OK, WARN), of(WARN, FAIL, OK)] == [OK, OK, WARN, FAIL]


def test_the_command_prints_a_table_and_exits_with_1_when_a_check_failed(dsn, prefix):
    def run(*arguments):
        return CliRunner().invoke(
            main, ["doctor", *arguments], env={"OBAN_DSN": dsn, "OBAN_PREFIX": prefix}
        )

    sound = run("--processes", "2")

    assert sound.exit_code == 0, sound.output
    assert "2 processes of up to 10" in " ".join(sound.output.split())

    away = run("--dsn", "postgresql://u:s3cret@127.0.0.1:1/x")

    assert away.exit_code == 1
    assert "fail  database  PostgreSQL could not be reached" in away.output
    assert "s3cret" not in away.output
    assert "Traceback" not in away.output


def test_warnings_count_when_they_are_to(dsn, prefix, factory):
    factory.job(queue="nobodys")

    def run(*arguments):
        return CliRunner().invoke(
            main, ["doctor", *arguments], env={"OBAN_DSN": dsn, "OBAN_PREFIX": prefix}
        )

    assert run().exit_code == 0
    assert run("--strict").exit_code == 1


def test_machines_get_json(dsn, prefix):
    result = CliRunner().invoke(
        main, ["doctor", "--json"], env={"OBAN_DSN": dsn, "OBAN_PREFIX": prefix}
    )
    found = json.loads(result.output)

    assert found["status"] in (OK, WARN)
    assert {"name", "status", "text", "advice"} == set(found["checks"][0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no database was given"),
        (["--prefix", 'a"b'], "prefix"),
        (["--dsn", "nonsense"], "neither a libpq string nor a URL"),
        (["--dsn", "postgresql://127.0.0.1:1/x?connect_timeout=zz"], "connect_timeout"),
        (["--app", "no_such_module:app"], "there is no module 'no_such_module'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_are_wrong_are_a_check_that_failed(arguments, words):
    def run(*more):
        return CliRunner().invoke(
            main, ["doctor", *arguments, *more], env={"OBAN_DSN": None, "DATABASE_URL": None}
        )

    as_json, plain = run("--json"), run()
    found = json.loads(as_json.stdout)

    assert (as_json.exit_code, plain.exit_code) == (1, 1)
    assert found["status"] == FAIL
    assert any(words in check["text"] for check in found["checks"])
    assert words in " ".join(plain.stdout.split())
    assert isinstance(as_json.exception, SystemExit)


def test_an_embedded_server_that_is_not_there_is_a_check(tmp_path):
    config = Config.checked({"conninfo": f"embedded:{tmp_path / 'none'}"})
    report = doctor.examine(config, config.conninfo)

    assert report.named("database").status == FAIL
    assert not (tmp_path / "none").exists()


def test_an_application_calls_it_with_its_oban(oban, capsys):
    assert doctor.run(oban, autostart=False) == 0

    out = capsys.readouterr().out

    assert "no queues are configured" in out or "OBAN_AUTOSTART is off" in out
    assert not oban.running


def test_the_registry_is_left_alone(examine):
    before = registry.registered()
    examine()

    assert registry.registered() == before
