"""The benchmarks: they work, their commands are taken, and their figures become tables."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

import oban_sync
from benchmarks import peers, pgbench, report, rig, short, throughput
from tests.support.pages import ROOT

README = ROOT / "benchmarks" / "README.md"

#: With what is to be seen in its table.
SMOKES = {
    "throughput": (["--dissect", "--processes=2"], ["ours", "statement", "2 processes"]),
    "insert": (["--audience=busy"], ["enqueue_many", "raw, NOTIFY", "by 4/2, busy node"]),
    "fairness": ([], ["fair"]),
    "cpu": ([], ["process", "raw"]),
    "latency": ([], ["ours", "raw"]),
    "growth": ([], ["ceiling", "part 4"]),
    "idle": ([], ["leader", "follower"]),
    "web": ([], ["older jobs", "watched"]),
}


@pytest.fixture
def own_database(dsn):
    """A database of this test: benchmarks drop schemas of one name."""
    name = f"{psycopg.conninfo.conninfo_to_dict(dsn)['dbname']}_bench"

    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name}")

    yield psycopg.conninfo.make_conninfo(dsn, dbname=name)

    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", SMOKES)
def test_a_benchmark_works(name, own_database, tmp_path):
    arguments, seen = SMOKES[name]
    file = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--smoke", f"--dsn={own_database}"]
        + [*arguments, f"--json={file}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert all(part in done.stdout for part in seen)
    assert all(figure["benchmark"] == name for figure in json.loads(file.read_text("utf-8")))
    # Nothing is left behind.
    with psycopg.connect(own_database) as conn:
        assert (
            conn.execute(
                "SELECT nspname FROM pg_namespace WHERE starts_with(nspname, %s)", [rig.SCHEMA]
            ).fetchall()
            == []
        )


def _commands():
    for block in re.findall(r"```sh\n(.*?)```", README.read_text("utf-8"), re.S):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)

            if words[:3] == ["python3", "dev.py", "bench"]:
                yield words[3] if words[3:] else "short", words[4:]
            else:
                assert words[:2] == [".venv/bin/python", "-m"], line
                yield words[2].removeprefix("benchmarks."), words[3:]


@pytest.mark.parametrize("command", list(_commands()), ids=lambda command: shlex.join(command[1]))
def test_a_command_of_the_readme_is_taken(command, monkeypatch):
    name, arguments = command
    module = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr("sys.argv", [name, *arguments])
    monkeypatch.setattr("benchmarks.charts.can_draw", lambda: True)

    # argparse exits where it does not know an option.
    module.options()


@pytest.mark.parametrize("name", short.PLAN)
def test_the_short_form_is_taken(name, monkeypatch):
    module = importlib.import_module(f"benchmarks.{name}")
    given = ["--peers=none"] if name in short.WITH_PEERS else []
    monkeypatch.setattr("sys.argv", [name, *short.PLAN[name], "--json=x", *given])

    module.options()


def test_the_readme_names_every_peer_as_it_is_set_up():
    text = README.read_text("utf-8")

    for peer in peers.PEERS.values():
        assert f"| {peer.name} {peer.version} |" in text
        assert (rig.HERE / "contenders" / f"{peer.program}.py").exists()


def test_a_peer_that_cannot_be_had_is_told(own_database, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    found, missing = peers.ready(own_database, ["chancy"], python=str(tmp_path / "python"))

    assert found == []
    assert missing[0].startswith("chancy is missing from this run: ")


def test_half_an_environment_is_made_again(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(peers, "_ask", lambda python, code: "3.13" if python == "x" else "0.26.0")
    monkeypatch.setattr(peers, "_call", lambda *command: calls.append(command) or "")
    directory = tmp_path / "oban-sync-bench" / "chancy-0.26.0-python-3.13"

    def installed():
        directory.mkdir(parents=True, exist_ok=True)
        calls.clear()
        peers.interpreter(peers.PEERS["chancy"], base="x")
        return len(calls)

    assert installed() == 2
    assert installed() == 0


@pytest.mark.parametrize("options", throughput.LIMITED.values(), ids=list(throughput.LIMITED))
def test_the_limited_queues_are_as_a_queue_may_be(options, dsn):
    oban_sync.Oban(dsn, queues={"default": {"limit": 10, **options}})


@pytest.mark.parametrize("wrong", ["--peers=celery", "--limits=0", "--processes=two"])
def test_a_wrong_option_is_refused(wrong, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["throughput", wrong])

    with pytest.raises(SystemExit):
        throughput.options()

    assert wrong.partition("=")[0] in capsys.readouterr().err


def test_a_program_that_fails_is_told_with_what_it_said(own_database):
    with (
        pytest.raises(rig.BenchmarkError, match="KeyError"),
        rig.serving("ours", {"task": "nothing", "dsn": own_database}),
    ):
        pass


def test_jobs_that_ran_twice_fail_the_benchmark():
    once = {"started": {"1": 10}, "runs": 1}

    with pytest.raises(rig.BenchmarkError, match="ran 2 times"):
        throughput._check_once([once, once], 1)

    throughput._check_once([once, {"started": {"2": 11}, "runs": 1}], 2)


def test_goals_are_met_from_their_value_on():
    assert rig.goal("speed", 0.75, at_least=0.75)["met"]
    assert not rig.goal("speed", 0.749, at_least=0.75)["met"]
    assert not rig.goal("wait, ms", 1.01, at_most=1.0)["met"]
    assert "MISSED" in rig.goals_table([rig.goal("wait, ms", 1.01, at_most=1.0)])


def _recorded(commit, contender, speed, **more):
    return {
        "time": "2026-11-29T00:00:00+00:00",
        "benchmark": "throughput",
        "contender": contender,
        "limit": 10,
        "jobs": 5,
        "jobs_per_second": speed,
        "rounds": [speed],
        "ours_ratio": 1.0,
        "commit": commit,
        "dirty": False,
        "cores": 2,
        "python": "3.13.0",
        "postgres": "18.6",
        "commit_delay": 0,
    } | more


def test_the_report_takes_the_newest_figures_of_the_newest_commit():
    figures = [
        _recorded("old", "ours", 1),
        _recorded("old", "oban-py", 2),
        _recorded("new", "ours", 3),
        _recorded("new", "ours", 4, commit_delay=2_000),
        _recorded("new", "ours", 5, ours_ratio=1.5),
    ]

    found = report.latest(figures)

    assert [figure["jobs_per_second"] for figure in found["throughput", 0]] == [5]
    assert [figure["jobs_per_second"] for figure in found["throughput", 2_000]] == [4]
    assert re.search(
        r"\| +ours \| +5 \| +1\.50 \|", report.tables("throughput", found["throughput", 0])
    )


def test_the_report_takes_figures_with_parts():
    figures = [_recorded("new", "ours", 1, parts={"a": 1}), _recorded("new", "ours", 2, parts={})]

    [newest] = report.latest(figures)["throughput", 0]

    assert newest["jobs_per_second"] == 2


def test_the_picture_is_of_one_run_the_one_with_the_most_contenders():
    full = [_recorded("new", name, 1, time="2026-01-01") for name in ("ours", "oban-py", "ceiling")]
    part = [_recorded("new", name, 2, time="2026-01-02") for name in ("ours", "ceiling")]

    drawn = report.picture([*full, *part])

    assert sum(len(bars) for _, bars in drawn.groups) == 3


def test_the_report_shows_what_it_has_no_table_for():
    text = report.tables("idle", [{"node": "ours", "tx": 1.25}, rig.goal("tx", 1.25, at_most=1.3)])

    assert "1.25" in text
    assert "met" in text


def test_what_was_recorded_can_be_shown(tmp_path):
    figures = [json.loads(line) for line in Path(rig.RESULTS).read_text("utf-8").splitlines()]

    for (benchmark, _), newest in report.latest(figures).items():
        assert report.tables(benchmark, newest)


def test_pgbench_has_a_value_for_every_parameter_of_its_statements():
    for name, script in pgbench.scripts(rig.SCHEMA).items():
        assert set(script.names) <= pgbench.VALUES.keys(), name
        assert set(re.findall(r"(?<!:):([a-z]\w*)", script.text)) == set(script.names)
