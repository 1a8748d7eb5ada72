"""Whole processes: how they end, and what is left in the table."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from oban_sync.runtime import foreground
from tests.support.probe import eventually

ROOT = Path(__file__).parents[2]

APP = """
import sys, time, threading
from oban_sync import Oban, job, worker

oban = Oban(queues={"alpha": 5}, stager={"interval": 0.2})

@worker(queue="alpha")
class Quick:
    def process(self, job):
        pass

@worker(queue="alpha")
class Slow:
    def process(self, job):
        print("entered", flush=True)
        time.sleep(job.args["seconds"])

@job(queue="elsewhere")
def quick():
    raise AssertionError("called by the command line")

@worker(queue="alpha")
class Endless:
    def process(self, job):
        print("entered", flush=True)
        while True:
            threading.Event().wait(60)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "shop.py").write_text(APP)

    return tmp_path


@pytest.fixture
def spawn(folder, dsn, prefix):
    """Starts Python in the folder of the application; ends what is left at the end of the test."""
    processes = []

    def start(*arguments, **environment):
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env={
                **os.environ,
                "OBAN_DSN": dsn,
                "OBAN_PREFIX": prefix,
                "PYTHONPATH": str(ROOT),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)

        return process

    yield start

    for process in processes:
        if process.poll() is None:
            process.kill()

        process.communicate()


def end_of(process, *, within=30):
    out, err = process.communicate(timeout=within)

    return process.returncode, out, err


def start_worker(spawn, *options):
    process = spawn("-m", "oban_sync", "start", "--app", "shop:oban", *options)
    line = process.stderr.readline()

    while "workers: " not in line:
        assert line, process.stderr.read()
        line = process.stderr.readline()

    return process


def test_a_script_that_forgets_to_stop_still_exits_and_hands_nothing_down(spawn, factory):
    code = (
        "from shop import *\n"
        "oban.start()\n"
        "[Quick.enqueue() for _ in range(20)]\n"
        "print('end of main')\n"
    )
    returncode, out, err = end_of(spawn("-c", code))

    assert (returncode, out, err) == (0, "end of main\n", "")
    assert factory.count(state="executing") == 0


def test_a_script_that_forgets_to_stop_lets_a_running_job_finish(spawn, factory):
    code = (
        "from shop import *\n"
        "oban.start()\n"
        "Slow.enqueue({'seconds': 0.5})\n"
        "oban.connection().__enter__().execute('SELECT pg_sleep(0.3)')\n"
    )
    returncode, out, err = end_of(spawn("-c", code))

    assert (returncode, out) == (0, "entered\n")
    assert factory.count(state="completed") == 1


def test_a_job_that_never_returns_does_not_keep_the_process_alive(spawn, factory):
    code = (
        "from shop import *\n"
        "oban.configure(shutdown_grace_period=0.2)\n"
        "oban.start()\n"
        "Endless.enqueue()\n"
        "oban.connection().__enter__().execute('SELECT pg_sleep(0.5)')\n"
    )
    returncode, out, err = end_of(spawn("-c", code))

    assert (returncode, out) == (0, "entered\n")
    assert factory.count(state="available", attempt=0) == 1


def test_a_script_that_raises_in_main_exits_too(spawn):
    returncode, out, err = end_of(spawn("-c", "from shop import *\noban.start()\nraise ValueError"))

    assert returncode == 1
    assert "ValueError" in err


def test_sigterm_lets_running_jobs_finish_and_exits_with_zero(spawn, factory):
    process = start_worker(spawn)
    job = factory.job(queue="alpha", worker="shop.Slow", args={"seconds": 0.5})
    assert process.stdout.readline() == "entered\n"
    process.send_signal(signal.SIGTERM)
    returncode, out, err = end_of(process)

    assert returncode == 0
    assert factory.states(job) == ["completed"]
    assert "SIGTERM" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_longer_than_the_grace_is_handed_back(spawn, factory, number):
    process = start_worker(spawn, "--grace", "0.2")
    job = factory.job(queue="alpha", worker="shop.Endless")
    assert process.stdout.readline() == "entered\n"
    process.send_signal(number)
    returncode, out, err = end_of(process)

    assert returncode == 0
    assert factory.row(job)["state"] == "available"
    assert factory.row(job)["attempt"] == 0


def wait_out_the_echo():
    """Until a signal counts as another one: the passing of time is the thing itself here."""
    threading.Event().wait(foreground.TOGETHER + 0.1)


def test_signals_that_come_together_count_once(spawn, factory):
    process = start_worker(spawn)
    job = factory.job(queue="alpha", worker="shop.Slow", args={"seconds": 1})
    assert process.stdout.readline() == "entered\n"

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
        process.send_signal(number)

    returncode, out, err = end_of(process)

    assert (returncode, err.count("received")) == (0, 1)
    assert factory.states(job) == ["completed"]


def test_a_second_signal_hands_jobs_back_at_once(spawn, factory):
    process = start_worker(spawn, "--grace", "1000")
    job = factory.job(queue="alpha", worker="shop.Endless")
    assert process.stdout.readline() == "entered\n"
    process.send_signal(signal.SIGTERM)

    while "SIGTERM" not in process.stderr.readline():
        assert process.poll() is None

    wait_out_the_echo()
    process.send_signal(signal.SIGTERM)
    returncode, out, err = end_of(process)

    assert returncode == 0
    assert factory.states(job) == ["available"]


def test_a_signal_during_the_start_stops_gracefully_too(spawn, factory):
    job = factory.job(queue="alpha", worker="shop.Slow", args={"seconds": 0.5})
    process = spawn("-m", "oban_sync", "start", "--app", "shop:oban")

    while "started" not in process.stderr.readline():
        assert process.poll() is None

    process.send_signal(signal.SIGTERM)
    returncode, out, err = end_of(process)

    assert returncode == 0
    assert factory.states(job)[0] in ("completed", "available")


def test_nothing_is_imported_from_the_folder_unless_something_is_named(spawn, folder):
    (folder / "oban.toml").write_text('imports = ["evil"]\n[queues]\nalpha = 1\n')
    (folder / "evil.py").write_text("print('EVIL CODE RUNS', flush=True)\n")

    # -P, because `python -m` itself would put the folder on the path; the command does not.
    returncode, out, err = end_of(spawn("-P", "-m", "oban_sync", "start"))

    assert (returncode, out) == (2, "")
    assert "no module 'evil'" in err


def test_exit_handlers_of_the_application_run(spawn, folder):
    with (folder / "shop.py").open("a") as file:
        file.write("\nimport atexit; atexit.register(print, 'farewell', flush=True)\n")

    process = start_worker(spawn)
    process.send_signal(signal.SIGTERM)

    assert end_of(process)[:2] == (0, "farewell\n")


def test_a_third_signal_ends_the_process(spawn, factory, monkeypatch):
    # The stop is held up for good, so that only the third signal can end it.
    code = (
        "import sys, threading\n"
        "from shop import oban\n"
        "from oban_sync.runtime.supervisor import Supervisor\n"
        "Supervisor.stop = lambda self, *, grace: threading.Event().wait()\n"
        "import logging; logging.basicConfig(level='INFO')\n"
        "print('up', flush=True)\n"
        "oban.run()\n"
    )
    process = spawn("-c", code)
    assert process.stdout.readline() == "up\n"

    for words in ("received SIGTERM", "again", "third"):
        deadline = time.monotonic() + 10
        eventually(lambda: handles_sigterm(process.pid))
        process.send_signal(signal.SIGTERM)

        while words not in process.stderr.readline():
            assert time.monotonic() < deadline

        wait_out_the_echo()

    assert end_of(process)[0] == 128 + signal.SIGTERM


def handles_sigterm(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt"):
            return int(line.split()[1], 16) & (1 << (signal.SIGTERM - 1))

    return False


def test_a_process_killed_in_the_middle_leaves_only_its_own_jobs_executing(spawn, factory):
    process = start_worker(spawn)
    job = factory.job(queue="alpha", worker="shop.Endless")
    assert process.stdout.readline() == "entered\n"
    done = [factory.job(queue="alpha", worker="shop.Quick") for _ in range(5)]
    eventually(lambda: factory.states(*done) == ["completed"] * 5)
    process.kill()
    process.wait()

    assert factory.states(job) == ["executing"]


def test_two_processes_run_every_job_exactly_once(spawn, factory, conn):
    conn.execute(
        "INSERT INTO oban_jobs (queue, worker)"
        " SELECT 'alpha', 'shop.Quick' FROM generate_series(1, 2000)"
    )
    first, second = start_worker(spawn), start_worker(spawn)

    for process in (first, second):
        # A full pipe that nobody reads would hold the process up.
        threading.Thread(target=process.stderr.read, daemon=True).start()

    eventually(lambda: factory.count(state="completed") == 2_000, within=30)

    for process in (first, second):
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0

    assert factory.count(attempt=1) == 2_000
    assert len({row[0] for row in conn.execute("SELECT attempted_by[2] FROM oban_jobs")}) == 2


def test_a_child_forked_from_a_running_oban_starts_clean(spawn, factory):
    code = (
        "import gc, os, sys\n"
        "from shop import *\n"
        "oban.start()\n"
        "Quick.enqueue()\n"
        "before = {row[0] for row in oban.connection().__enter__().execute("
        '"SELECT pid FROM pg_stat_activity WHERE datname = current_database()'
        " AND application_name LIKE 'oban-sync Oban:%'\")}\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    assert not oban.running\n"
        "    Quick.enqueue()\n"
        "    oban.drain_queue('alpha')\n"
        "    oban.start()\n"
        "    assert [node.leader for node in oban.list_nodes()].count(True) <= 1\n"
        "    assert len(oban.list_nodes()) == 2\n"
        "    oban.stop()\n"
        "    gc.collect()\n"
        "    sys.exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
        "pids = lambda: {row[0] for row in oban.connection().__enter__().execute("
        '"SELECT pid FROM pg_stat_activity WHERE datname = current_database()'
        " AND application_name LIKE 'oban-sync Oban:%'\")}\n"
        "assert before <= pids(), (before, pids())\n"
        "assert oban.running\n"
        "Quick.enqueue()\n"
        "oban.stop()\n"
    )
    returncode, out, err = end_of(spawn("-W", "ignore", "-c", code))

    assert (returncode, err) == (0, "")
    assert factory.count() == 3
    assert factory.count(state="executing") == 0


def test_a_forked_child_does_not_keep_a_dead_parent_alive(spawn, conn):
    code = (
        "import os, signal\n"
        "from shop import *\n"
        "oban.start()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    signal.pause()\n"
        "print(pid, flush=True)\n"
        "signal.pause()\n"
    )
    held = (
        "SELECT count(*) FROM pg_locks JOIN oban_sync_nodes ON lock_key ="
        " (classid::bigint << 32) | objid::bigint WHERE locktype = 'advisory'"
    )
    parent = spawn("-W", "ignore", "-c", code)
    child = int(parent.stdout.readline())

    try:
        assert conn.execute(held).fetchone() == (1,)

        parent.kill()
        parent.wait(10)
        eventually(lambda: conn.execute(held).fetchone() == (0,))
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_pool_that_came_along_with_a_fork_is_refused_by_name(spawn, factory):
    code = (
        "import os, sys\n"
        "from psycopg_pool import ConnectionPool\n"
        "from oban_sync import NotRunningError, Oban, job\n"
        "pool = ConnectionPool(os.environ['OBAN_DSN'], min_size=1, open=True)\n"
        "oban = Oban(pool=pool)\n"
        "@job()\n"
        "def quick(): pass\n"
        "quick.enqueue()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    try:\n"
        "        quick.enqueue()\n"
        "    except NotRunningError as error:\n"
        "        assert f'opened by process {os.getppid()}' in str(error), error\n"
        "        os._exit(7)\n"
        "    os._exit(1)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7\n"
        "quick.enqueue()\n"
        "pool.close()\n"
    )
    returncode, out, err = end_of(spawn("-W", "ignore", "-c", code))

    assert (returncode, err) == (0, "")
    assert factory.count() == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--app", "nowhere:oban"], "no module 'nowhere'"),
        (["--app", "shop:obann"], "Did you mean 'oban'?"),
        (["--app", "shop:"], "MODULE:ATTRIBUTE"),
        (["--app", "shop:Quick"], "not an Oban"),
        (["--app", "shop:quick"], "not an Oban"),
        (["--app", "shop:oban", "--import", "nowhere"], "no module 'nowhere'"),
        (["--app", "shop:oban", "--queues", "alpha"], "name:limit"),
        (["--app", "shop:oban", "--queues", "alpha:0"], "1 to 10,000"),
        (["--app", "shop:oban", "--prefix", "Nowhere"], "oban-sync install --prefix Nowhere"),
        (["--app", "shop:oban", "--dsn", "postgresql://127.0.0.1:1/x"], "could not be reached"),
        ([], "--queues default:10"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_on_the_command_line_is_told_in_one_line(spawn, options, words):
    returncode, out, err = end_of(spawn("-m", "oban_sync", "start", *options))

    assert returncode in (1, 2)
    assert words in err
    assert "Traceback" not in err


def test_the_json_log_is_one_object_a_line_without_args(spawn, factory):
    import json

    process = start_worker(spawn, "--log-format", "json")
    factory.job(queue="alpha", worker="shop.Quick", args={"card": "s3cret"})
    factory.job(queue="alpha", worker="shop.No\n", args={"card": "s3cret"}, max_attempts=1)
    lines = []

    while len([line for line in lines if line["message"].startswith("job ")]) < 2:
        lines.append(json.loads(process.stderr.readline()))

    process.send_signal(signal.SIGTERM)
    text = end_of(process)[2]
    lines += [json.loads(line) for line in text.splitlines()]
    done = {line["message"]: line for line in lines}

    assert done["job completed"]["worker"] == "shop.Quick"
    assert done["job completed"]["attempt"] == "1/20"
    assert done["job discarded"]["level"] == "warning"
    assert "s3cret" not in json.dumps(lines)
