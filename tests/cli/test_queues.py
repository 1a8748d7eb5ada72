"""oban-sync queues, crons, nodes, metrics, audit, health, web and completion."""

from __future__ import annotations

import base64
import json
import re
import urllib.error
import urllib.request

import pytest
from flask import Flask

from oban_sync.cli.screen import Cell, Column, Table, lines_of
from oban_sync.cli.words import curve, rate, seconds_of, span
from oban_sync.core.sketch import packed
from oban_sync.integrations.flask import FlaskOban
from oban_sync.integrations.flask_commands import oban as flask_oban

# Queues.


def controls(conn):
    return conn.execute(
        "SELECT queue, node, aspect, value, set_by, until IS NOT NULL FROM oban_sync_controls"
        " ORDER BY queue, aspect"
    ).fetchall()


def test_queues_are_listed_with_depth_and_load(run, factory):
    factory.node("mailers")
    factory.job(queue="mailers")
    factory.job(queue="nobody")
    head, *rows = run("queues", "list").splitlines()

    assert head.split()[:3] == ["QUEUE", "AVAILABLE", "EXECUTING"]
    assert rows[0].split()[:2] == ["mailers", "1"]
    assert "0/10" in rows[0]
    assert rows[0].endswith("runs")
    assert rows[1].endswith("not run")
    assert [queue["queue"] for queue in run.json("queues", "list")] == ["mailers", "nobody"]


def test_an_end_is_no_bare_number(run, conn):
    said = run.error("queues", "pause", "mailers", "--until", "5", code=2)

    assert "5 of what? Give 5s, 5m, 5h or 5d" in said
    assert controls(conn) == []


def test_a_node_that_is_not_there_is_told_as_such(run, factory):
    factory.node("mailers", node="web-1")

    assert "No live node is called nobody" in run(
        "queues", "scale", "mailers", "4", "--node", "nobody"
    )
    assert "No live node" not in run("queues", "scale", "mailers", "4", "--node", "web-1")


def test_queues_are_paused_and_resumed(run, conn, factory, audited):
    factory.node("mailers", "media", node="web-1")
    said = run("queues", "pause", "mailers", "media", "--until", "30m", "--by", "ann")

    assert re.match(r"Queues mailers, media are paused until .* UTC on every node\.\n$", said)
    assert controls(conn) == [
        ("mailers", "*", "paused", True, "ann", True),
        ("media", "*", "paused", True, "ann", True),
    ]
    assert run("queues", "resume", "media", "--node", "web-1", "--by", "ann").endswith(
        "is resumed on node web-1.\n"
    )
    assert run.json("queues", "pause", "--all", "--by", "bob") == {
        "action": "queues:pause",
        "queues": ["*"],
        "node": None,
        "until": None,
    }
    assert [(who, action, subject) for who, action, subject in audited()] == [
        ("ann", "queues:pause", "queue mailers"),
        ("ann", "queues:pause", "queue media"),
        ("ann", "queues:resume", "queue media"),
        ("bob", "queues:pause", "every queue"),
    ]


def test_a_paused_queue_is_listed_with_who_paused_it_when_and_until_when(run, conn, factory):
    factory.node("mailers", "media", node="web-1")
    factory.node("media", node="web-2")
    run("queues", "pause", "mailers", "--by", "ann: deploy", "--until", "2999-12-24T18:00Z")
    run("queues", "pause", "media", "--by", "bob", "--node", "web-2")

    assert re.search(r"runs, paused by ann: deploy, \d+ s ago, until 2999-", run("queues", "list"))

    conn.execute("UPDATE oban_sync_producers SET paused = true WHERE queue = 'mailers'")
    _, mailers, media = run("queues", "list").splitlines()

    assert re.search(
        r"[^,] paused by ann: deploy, \d+ s ago, until 2999-12-24 18:00:00 UTC$", mailers
    )
    assert re.search(r"runs, paused on web-2 by bob, \d+ s ago$", media)

    mailers, media = run.json("queues", "list")
    [whole], [part] = mailers["pauses"], media["pauses"]

    assert (whole["node"], whole["by"]) == (None, "ann: deploy")
    assert whole["until"] == "2999-12-24T18:00:00+00:00"
    assert whole["at"]
    assert (part["node"], part["by"], part["until"]) == ("web-2", "bob", None)

    run("queues", "resume", "--all")

    assert "paused by" not in run("queues", "list")
    assert [queue["pauses"] for queue in run.json("queues", "list")] == [[], []]


def test_a_queue_paused_on_many_nodes_one_by_one_names_some_of_them(run, factory):
    for number in range(5):
        factory.node("mailers", node=f"web-{number}")
        run("queues", "pause", "mailers", "--node", f"web-{number}", "--by", "ann")

    said = run("queues", "list")

    assert said.count("paused on web-") == 3
    assert "; and 2 more" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["queues", "pause", "mailers"],
        ["queues", "resume", "mailers"],
        ["queues", "scale", "mailers", 7],
        ["queues", "start", "mailers", 7, "--paused"],
        ["queues", "stop", "mailers", "--yes"],
        ["queues", "reset", "--all", "--yes"],
        ["crons", "pause", "nightly"],
        ["crons", "run", "nightly"],
        ["crons", "delete", "nightly", "--yes"],
    ],
    ids=str,
)
def test_what_cannot_be_written_down_is_not_done(run, oban, nightly, conn, arguments):
    oban.scale_queue("mailers", 3)
    before = controls(conn)
    conn.execute("ALTER TABLE oban_sync_audit ADD CONSTRAINT none CHECK (false) NOT VALID")

    assert "oban_sync_audit" in run.error(*arguments)
    assert controls(conn) == before
    assert [found.paused for found in oban.list_crons()] == [False]
    assert oban.list_jobs() == []


def test_of_several_queues_all_are_asked_or_none(run, conn, audited):
    assert "queue: " in run.error("queues", "pause", "mailers", "a\tb", code=2)
    assert controls(conn) == []
    assert audited() == []


def test_who_asks_may_have_no_endless_name(run, conn):
    assert "by: has 300 characters" in run.error("queues", "pause", "x", "--by", "a" * 300, code=2)
    assert controls(conn) == []


def test_a_queue_that_nobody_runs_is_pointed_out(run):
    assert "No live node runs mialers at the moment." in run("queues", "pause", "mialers")


def test_queues_are_scaled_started_stopped_and_reset(run, conn, audited):
    run("queues", "scale", "mailers", 7)
    run("queues", "start", "media", 3, "--paused")
    assert [(row[0], row[2], row[3]) for row in controls(conn)] == [
        ("mailers", "limit", 7),
        ("media", "paused", True),
        ("media", "running", 3),
    ]
    run("queues", "stop", "media", "--yes")
    assert ("media", "running", False) in [(row[0], row[2], row[3]) for row in controls(conn)]
    assert run("queues", "reset", "--all", "--yes") == (
        "Every queue is as configured again on every node.\n"
    )
    assert controls(conn) == []
    assert [action for _, action, _ in audited()] == [
        *("queues:scale", "queues:start", "queues:stop", "queues:reset"),
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stop", "mailers"], "Stop queue mailers on every node? There is nobody to ask"),
        (["reset", "mailers"], "add --yes"),
        (["reset", "--yes"], "which queues?"),
        (["pause"], "which queues?"),
        (["pause", "x", "--all"], "not both"),
        (["pause", "x", "--until", "2001-01-01T00:00Z"], "is past"),
        (["pause", "x", "--until", "soon"], "is no time"),
        (["scale", "x", 0], "0 is not in the range"),
        (["scale", "*", 3], "every queue"),
    ],
    ids=str,
)
def test_what_is_asked_wrongly_of_queues_changes_nothing(run, conn, audited, arguments, said):
    assert said in run.error("queues", *arguments, code=2)
    assert controls(conn) == []
    assert audited() == []


# Cron entries.


@pytest.fixture
def nightly(oban):
    oban.insert_cron(
        "30 2 * * *", "tests.Nightly", entry="nightly", timezone="Europe/Berlin", args={"pin": 1}
    )

    return "nightly"


def test_cron_entries_are_listed_in_words_too(run, nightly):
    assert "30 2 * * * Europe/Berlin" in run("crons", "list")
    assert "02:30" in run("crons", "list", "--words")
    [entry] = run.json("crons", "list")
    assert (entry["name"], entry["args"]) == ("nightly", {"pin": "[hidden]"})
    assert entry["next_at"].endswith("+00:00")


def test_the_next_times_of_an_entry_are_told(run, nightly):
    said = run("crons", "next", "nightly", "--count", 2)

    assert "IN Europe/Berlin" in said
    assert said.count(" 02:30 CE") == 2
    assert len(run.json("crons", "next", "nightly")["times"]) == 5


def test_entries_are_paused_resumed_run_and_deleted(run, nightly, factory, audited):
    run("crons", "pause", "nightly", "--by", "ann")
    assert run.json("crons", "list")[0]["paused_by"] == "ann"
    assert "paused by ann" in run("crons", "list")
    assert "will be skipped" in run("crons", "next", "nightly")
    run("crons", "resume", "nightly")
    assert run.json("crons", "list")[0]["paused"] is False
    said = run.json("crons", "run", "nightly", "--by", "ann")
    assert factory.row(said["job"])["worker"] == "tests.Nightly"
    assert "add --yes" in run.error("crons", "delete", "nightly", code=2)
    run("crons", "delete", "nightly", "--yes")
    assert run("crons", "list") == "No cron entries.\n"
    assert [(action, subject) for _, action, subject in audited()] == [
        *(("crons:pause", "cron nightly"), ("crons:resume", "cron nightly")),
        *(("crons:run", "cron nightly"), ("crons:delete", "cron nightly")),
    ]


@pytest.mark.parametrize("verb", ["next", "pause", "resume", "run", "delete"])
def test_an_entry_that_is_not_there_is_told(run, nightly, audited, verb):
    yes = ["--yes"] if verb == "delete" else []

    assert "There is no cron entry 'nigtly'. Did you mean 'nightly'" in run.error(
        "crons", verb, "nigtly", *yes
    )
    assert audited() == []


# Nodes, metrics, audit, health.


def test_nodes_are_listed(run, make_oban, conn, factory):
    assert run("nodes") == "No node takes part.\n"

    make_oban(queues={"alpha": 2}, node="web-1").start()
    factory.node("beta", node="old", beat_at="2026-01-01", info=json.dumps({}))
    said = run("nodes")
    found = {node["node"]: node for node in run.json("nodes")}

    assert "alpha:2" in said
    assert "silent" in said
    assert found["web-1"]["queues"][0]["limit"] == 2
    assert found["web-1"]["python"]
    assert found["old"]["version"] is None


def test_metrics_are_a_table_with_a_curve(run, conn):
    assert "No job ran in the last 1 h" in run("metrics")

    conn.execute(
        """INSERT INTO oban_sync_metrics
            (period, started_at, name, node, queue, worker, state, jobs, failed, exec_time,
             wait_time)
        SELECT 10, date_bin('10 s', now() - interval '60 s', 'epoch'), 'Oban', 'n', 'mailers', 'W',
                came.*
        FROM (
            VALUES ('completed', 30, 0, %s::bytea, %s::bytea), ('discarded', 2, 2, %s, %s)
        ) AS came""",
        [packed({bin: jobs}) for jobs in (30, 2) for bin in (230, 200)],
    )
    head, row = run("metrics", "--since", "10m").splitlines()
    [found] = run.json("metrics")

    assert head.split()[0] == "QUEUE"
    assert row.split()[:2] == ["mailers", "32"]
    assert "█" in row or "#" in row
    assert (found["queue"], found["jobs"], found["failures"]) == ("mailers", 32, 2)
    assert 0.05 < found["p95"] < 0.2
    assert found["wait_p95"] < found["p95"]
    assert run.json("metrics", "--by", "worker")[0]["worker"] == "W"
    assert run.json("metrics", "--queue", "none") == []
    assert "is no span" in run.error("metrics", "--since", "soon", code=2)


def test_the_audit_is_shown(run):
    assert run("audit") == "Nobody changed anything by hand.\n"

    run("queues", "pause", "mailers", "--by", "ann")
    run("queues", "resume", "mailers", "--by", "bob")
    said = run("audit").splitlines()

    assert "bob" in said[1]
    assert "queue mailers" in said[2]
    assert [entry["who"] for entry in run.json("audit")] == ["bob", "ann"]
    assert [entry["who"] for entry in run.json("audit", "--who", "ann")] == ["ann"]
    assert run.json("audit", "--action", "jobs:") == []


def test_health_is_an_exit_code(run, factory, conn):
    assert run("health") == "Everything is well.\n"
    assert run.json("health") == {"ok": True, "problems": []}

    factory.node("alpha", node="web-1")
    factory.job(queue="alpha", scheduled_at="2026-01-01")

    run("health", "--node", "web-1", "--queue", "alpha", "--queue-depth", 1)

    assert "no node web-2 of Oban" in run("health", "--node", "web-2", code=1)
    assert "no live node runs queue beta" in run("health", "--queue", "beta", code=1)
    assert "1 jobs available, 0 are allowed" in run("health", "--queue-depth", 0, code=1)
    assert "has waited" in run("health", "--oldest", "1h", code=1)
    assert run.json("health", "--oldest", "1h", "--queue", "alpha", code=1)["ok"] is False


def test_health_without_a_database_or_tables_is_none(run, empty_prefix, prefix):
    assert "could not be reached" in run(
        "health", "--dsn", "postgresql://u:s3cret@127.0.0.1:1/x", code=1
    )
    assert "oban-sync install" in run("health", "--prefix", "nothing_here", code=1)
    assert "s3cret" not in run("health", "--dsn", "postgresql://u:s3cret@127.0.0.1:1/x", code=1)


# The dashboard, completion, Flask, an application.


def address_of(said):
    return re.search(r"Dashboard at (http://\S+/),", said)[1]


def fetch(address, user=None):
    request = urllib.request.Request(address)

    if user is not None:
        request.add_header("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")

    with urllib.request.urlopen(request, timeout=10) as reply:
        return reply.status


@pytest.mark.timeout(60)
def test_the_dashboard_is_served_until_ctrl_c(terminal):
    serving = terminal("web", "--port", 0)
    address = address_of(serving.until("until Ctrl-C."))

    assert fetch(address) == 200

    serving.interrupt()

    assert serving.end() == 0
    assert "Traceback" not in serving.said


@pytest.mark.timeout(60)
def test_a_dashboard_for_others_wants_a_password(run, terminal):
    said = run.error("web", "--host", "0.0.0.0", "--port", 0, code=2)

    assert "--user" in said or "user=" in said

    serving = terminal(
        "web", "--host", "0.0.0.0", "--port", 0, "--user", "ann", OBAN_WEB_PASSWORD="correct horse"
    )
    address = address_of(serving.until("until Ctrl-C."))

    with pytest.raises(urllib.error.HTTPError, match="401"):
        fetch(address)

    assert fetch(address, "ann:correct horse") == 200
    assert "correct horse" not in serving.said


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_are_told_how_to_complete(run, shell):
    assert "_OBAN_SYNC_COMPLETE" in run("completion", shell)


def test_names_of_queues_are_completed_from_the_database(run, factory, dsn, prefix):
    factory.node("mailers", "media", "alpha")
    said = run(
        env={
            "_OBAN_SYNC_COMPLETE": "bash_complete",
            "COMP_WORDS": "oban-sync queues pause m",
            "COMP_CWORD": "3",
        }
    )

    assert {line.partition(",")[2] for line in said.split()} == {"mailers", "media"}


def test_flask_oban_has_these_commands_for_its_application(dsn, prefix, factory, audited):
    app = Flask("site")
    FlaskOban(app, conninfo=dsn, prefix=prefix)
    job_id = factory.job()

    def invoke(*arguments):
        result = app.test_cli_runner().invoke(flask_oban, [str(one) for one in arguments])

        assert result.exit_code == 0, result.output

        return result.output

    assert json.loads(invoke("jobs", "list", "--json"))[0]["id"] == job_id
    assert invoke("jobs", "cancel", job_id, "--yes", "--by", "ann") == "Cancelled 1 job.\n"
    assert invoke("queues", "pause", "alpha", "--by", "ann").startswith("Queue alpha is paused")
    assert [who for who, _, _ in audited()] == ["ann", "ann"]
    assert invoke("health") == "Everything is well.\n"


def test_the_application_can_be_named(run, tmp_path, dsn, prefix, factory):
    factory.job()
    (tmp_path / "named_for_cli.py").write_text(
        f"from oban_sync import Oban\noban = Oban({dsn!r}, prefix={prefix!r}, name='Own')\n"
    )
    options = ["--app", "named_for_cli:oban", "--app-dir", tmp_path]

    assert run("jobs", "list", *options, env={"OBAN_DSN": "", "OBAN_PREFIX": ""})


def test_a_database_that_cannot_be_reached_is_told_in_one_line(run):
    for command in (["jobs", "list"], ["queues", "list"], ["nodes"], ["crons", "list"], ["audit"]):
        said = run.error(*command, "--dsn", "postgresql://u:s3cret@127.0.0.1:1/x")

        assert said.splitlines()[-1].startswith("Error: ")
        assert "s3cret" not in said


# Words and tables.


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0 s"),
        (0.0123, "12.3 ms"),
        (0.9999, "1 s"),
        (12.34, "12.3 s"),
        (59.99, "1 min"),
        (200, "3 min 20 s"),
        (7_205, "2 h"),
        (187_200, "2 d 4 h"),
        (-5, "-5 s"),
    ],
)
def test_spans_are_short(seconds, text):
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1.5h", 5_400), ("2 d", 172_800), ("1w", 604_800), ("x", None), ("5y", None)],
)
def test_spans_are_read(text, seconds):
    assert seconds_of(text) == seconds


def test_curves_and_speeds():
    assert curve([]) == ""
    assert curve([0, 0]) == "▁▁"
    assert curve([0, 1, 100]) == "▁▂█"
    assert curve([0, 1, 100], plain=True) == "_.#"
    assert [rate(value) for value in (None, 0, 12.34, 0.5, 0.001, 0.0001)] == [
        *("-", "0/s", "12.3/s", "30/min", "3.6/h", "8.6/d"),
    ]


def test_plain_tables_are_aligned_whatever_the_letters_are():
    table = Table(
        [Column("A"), Column("N", right=True), Column("B")],
        [["日本", "1", Cell("x\ny", "red")], ["é", "1,000", ""]],
    )

    assert lines_of([table]) == ["A         N  B", "日本      1  x\\ny", "é     1,000"]
    assert lines_of(["abcdef"], most=4) == ["abc…"]
    assert lines_of([Table([Column("A")], [], empty="None.")]) == ["None."]
