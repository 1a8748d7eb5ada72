"""Process queues as an application meets them: real scripts, real signals, real deaths."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from tests.support import child_workers
from tests.support.probe import eventually, is_alive

ROOT = Path(__file__).parents[2]

#: Workers in the script itself, beside an Oban that only exists where the script is the main one.
SCRIPT = """
import os, sys, time, warnings
from pathlib import Path
from oban_sync import Oban, Record, current_job, job

@job(queue="cpu")
def crunch(number):
    return Record([os.getpid(), number])

@job(queue="cpu")
def spin(file):
    Path(file).write_text(str(os.getpid()))
    while True:
        pass

@job(queue="cpu")
def gate(entered, leave):
    Path(entered).write_text(str(os.getpid()))
    while not Path(leave).exists():
        time.sleep(0.01)

@job(queue="cpu")
def parent(number):
    crunch.options(queue="other").enqueue(number)
    return Record(Oban.get_instance().prefix)

def make(**options):
    executor = {"kind": "process", "start_method": os.environ["START_METHOD"]}
    return Oban(
        queues={"cpu": {"limit": 1, "executor": executor}}, stager={"interval": 0.2}, **options
    )

def wait_for(*states):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        rows = oban.list_jobs(limit=10)
        if rows and all(row.state in states for row in rows if row.queue == "cpu"):
            return
        time.sleep(0.05)
    sys.exit("nothing came of it: " + repr(rows))

"""

GUARDED = SCRIPT + 'if __name__ == "__main__":\n    '
METHODS = pytest.mark.parametrize("method", ["spawn", "forkserver"])


@pytest.fixture
def run(tmp_path, dsn, prefix):
    """Starts Python in a folder of its own; ends what is left at the end of the test."""
    processes = []

    def start(code=None, *arguments, method="spawn", **options):
        if code is not None:
            (tmp_path / "shop.py").write_text(code)
            arguments = ("shop.py",)

        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={
                **os.environ,
                "OBAN_DSN": dsn,
                "OBAN_PREFIX": prefix,
                "PYTHONPATH": str(ROOT),
                "START_METHOD": method,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        processes.append(process)

        return process

    yield start

    for process in processes:
        if process.poll() is None:
            process.kill()

        process.communicate()


def end_of(process, *, within=40):
    out, err = process.communicate(timeout=within)

    return process.returncode, out, err


def text_of(path):
    eventually(lambda: path.exists() and path.read_text(), within=20)

    return path.read_text()


def children_of(pid):
    """The processes that descend from one, the fork server's and trackers among them."""
    found = []

    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue

        if parent == pid:
            child = int(path.parent.name)
            found += [child, *children_of(child)]

    return found


# Scripts


@METHODS
def test_a_script_runs_workers_that_it_defines_itself(run, conn, method):
    code = GUARDED + (
        "with make() as oban:\n"
        "        crunch.enqueue(1)\n"
        "        wait_for('completed')\n"
        "        print(os.getpid(), *oban.list_jobs()[0].recorded())\n"
    )
    returncode, out, err = end_of(run(code, method=method))
    mine, child, number = map(int, out.split())

    assert (returncode, err, number) == (0, "", 1)
    assert child != mine
    assert not is_alive(child)
    assert conn.execute("SELECT worker FROM oban_jobs").fetchone() == ("shop.crunch",)


def test_a_module_run_by_its_name_does_as_well(run, tmp_path, factory):
    (tmp_path / "shop.py").write_text(
        GUARDED + "with make() as oban:\n        crunch.enqueue(1)\n        wait_for('completed')\n"
    )
    returncode, out, err = end_of(run(None, "-m", "shop"))

    assert (returncode, err) == (0, "")
    assert factory.count(worker="shop.crunch", state="completed") == 1


@METHODS
def test_a_script_without_the_guard_is_told_so(run, conn, method):
    code = SCRIPT + (
        "oban = make(shutdown_grace_period=1.0)\n"
        "oban.start()\n"
        "crunch.enqueue(1)\n"
        "wait_for('retryable')\n"
        "print('end of main')\n"
    )
    process = run(code, method=method)
    returncode, out, err = end_of(process)

    assert (returncode, out) == (0, "end of main\n"), err
    # By the keeper and for the one job, each time once; and never a child of a child.
    assert 1 <= err.count("imported a module that starts Oban") <= 2
    assert 'if __name__ == "__main__"' in err
    [(count, error)] = conn.execute(
        "SELECT count(*) OVER (), errors[1] ->> 'error' FROM oban_jobs"
    ).fetchall()
    assert count == 1
    assert 'under if __name__ == "__main__"' in error


def test_workers_typed_at_a_prompt_are_failed_jobs_that_say_why(run, conn):
    code = (
        "import os, sys, time\n"
        "from oban_sync import Oban, job\n"
        "@job(queue='cpu')\n"
        "def crunch(): pass\n"
        "with Oban(queues={'cpu': {'limit': 1, 'executor': 'process'}}) as oban:\n"
        "    stored = crunch.enqueue()\n"
        "    while oban.get_job(stored.id).state != 'retryable': time.sleep(0.05)\n"
    )
    returncode, out, err = end_of(run(None, "-c", code))

    assert returncode == 0, err
    [(error,)] = conn.execute("SELECT errors[1] ->> 'error' FROM oban_jobs").fetchall()
    assert "defined in the program's main module" in error


def test_a_job_can_enqueue_where_only_the_main_script_made_an_oban(run, factory, conn, prefix):
    code = GUARDED + (
        "with make() as oban:\n"
        "        parent.enqueue(1)\n"
        "        wait_for('completed')\n"
        f"        assert oban.list_jobs(queue='cpu')[0].recorded() == {prefix!r}\n"
    )
    returncode, out, err = end_of(run(code))

    assert (returncode, err) == (0, "")
    assert factory.count(queue="other", state="available") == 1


def test_nobody_can_read_the_database_s_password_in_the_list_of_processes(run, tmp_path, dsn):
    files = f"{str(tmp_path / 'entered')!r}, {str(tmp_path / 'leave')!r}"
    code = GUARDED + (
        f"oban = make().start()\n    gate.enqueue({files})\n"
        "    wait_for('completed')\n    oban.stop()\n"
    )
    process = run(code)
    pid = int(text_of(tmp_path / "entered"))
    command = Path(f"/proc/{pid}/cmdline").read_text()
    (tmp_path / "leave").touch()

    assert psycopg.conninfo.conninfo_to_dict(dsn)["dbname"] not in command
    assert end_of(process)[0] == 0


# Deaths and signals


@METHODS
def test_children_end_with_a_parent_that_is_killed(run, factory, tmp_path, method):
    code = (
        GUARDED + f"make().start()\n    spin.enqueue({str(tmp_path / 'pid')!r})\n    time.sleep(60)"
    )
    process = run(code, method=method)
    child = int(text_of(tmp_path / "pid"))
    others = children_of(process.pid)
    assert child in others
    process.kill()
    eventually(lambda: not is_alive(child), within=1.5)

    eventually(lambda: not [pid for pid in others if is_alive(pid)])
    assert factory.count(state="executing") == 1


def test_children_end_with_a_killed_parent_though_a_fork_of_it_lives_on(run, tmp_path):
    code = GUARDED + (
        f"make().start()\n    spin.enqueue({str(tmp_path / 'pid')!r})\n"
        f"    while not Path({str(tmp_path / 'pid')!r}).exists(): time.sleep(0.01)\n"
        "    warnings.simplefilter('ignore')\n    pid = os.fork()\n"
        f"    if pid: Path({str(tmp_path / 'fork')!r}).write_text(str(pid))\n"
        "    time.sleep(60)\n"
    )
    process = run(code)
    fork = int(text_of(tmp_path / "fork"))
    child = int(text_of(tmp_path / "pid"))
    process.kill()
    process.wait()

    try:
        eventually(lambda: not is_alive(child), within=5)
        assert is_alive(fork)
    finally:
        os.kill(fork, signal.SIGKILL)


def test_a_fork_of_the_parent_ends_without_a_word_and_takes_no_children_along(
    run, factory, tmp_path
):
    code = GUARDED + (
        "oban = make().start()\n    crunch.enqueue(1)\n    wait_for('completed')\n"
        "    warnings.simplefilter('ignore')\n    pid = os.fork()\n"
        "    if not pid:\n        sys.exit(3)\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3\n"
        "    crunch.enqueue(2)\n    wait_for('completed')\n"
        "    pids = {row.recorded()[0] for row in oban.list_jobs()}\n"
        "    oban.stop()\n"
        "    print(len(pids))\n"
    )
    returncode, out, err = end_of(run(code))

    assert (returncode, out, err) == (0, "1\n", "")


def a_running_gate(run, tmp_path, *, grace, **options):
    files = f"{str(tmp_path / 'entered')!r}, {str(tmp_path / 'leave')!r}"
    code = GUARDED + (
        f"oban = make(shutdown_grace_period={grace})\n    gate.enqueue({files})\n    oban.run()\n"
    )
    process = run(code, **options)

    return process, int(text_of(tmp_path / "entered"))


@METHODS
def test_a_ctrl_c_lets_the_running_job_finish(run, factory, tmp_path, method):
    process, child = a_running_gate(run, tmp_path, grace=30, method=method, start_new_session=True)
    os.killpg(process.pid, signal.SIGINT)
    # As process managers do that signal everybody.
    os.kill(child, signal.SIGTERM)
    (tmp_path / "leave").touch()
    returncode, out, err = end_of(process)

    assert (returncode, out, err) == (0, "", "")
    assert factory.count(state="completed") == 1
    assert not is_alive(child)


def test_a_ctrl_c_while_children_start_kills_none_of_them(run, factory, tmp_path):
    (tmp_path / "slow.py").write_text(
        "import time\nfrom pathlib import Path\nPath('importing').touch()\ntime.sleep(0.5)\n"
    )
    code = (
        SCRIPT
        + "if __name__ == '__mp_main__':\n    import slow\n"
        + "if __name__ == '__main__':\n"
        + "    oban = make(shutdown_grace_period=30)\n    crunch.enqueue(1)\n    oban.run()\n"
    )
    process = run(code, start_new_session=True)
    eventually((tmp_path / "importing").exists)
    os.killpg(process.pid, signal.SIGINT)
    returncode, out, err = end_of(process)

    assert (returncode, out, err) == (0, "", "")
    assert factory.count(state="executing") == 0


def test_a_job_longer_than_the_grace_is_handed_back_and_its_child_is_gone(run, factory, tmp_path):
    process, child = a_running_gate(run, tmp_path, grace=0.2)
    everybody = children_of(process.pid)
    process.send_signal(signal.SIGTERM)
    returncode, out, err = end_of(process)

    assert returncode == 0
    assert factory.count(state="available", attempt=0) == 1
    assert not is_alive(child)
    # What Python starts beside them ends when it finds the parent gone.
    eventually(lambda: not [pid for pid in everybody if is_alive(pid)])


def test_a_script_that_forgets_to_stop_still_exits(run, factory, tmp_path):
    code = GUARDED + (
        "oban = make()\n    oban.start()\n    crunch.enqueue(1)\n    wait_for('completed')\n"
    )
    returncode, out, err = end_of(run(code))

    assert (returncode, out, err) == (0, "", "")


# One process, as tests of an application have it


@pytest.fixture
def cpu(make_oban):
    """Makes a running Oban with a process queue."""

    def make(limit=1, **options):
        queue = {"limit": limit, "executor": "process", **options.pop("queue", {})}

        return make_oban(queues={"cpu": queue}, **options).start()

    return make


def test_a_cancelled_job_ends_within_a_second(cpu, probe, factory, tmp_path):
    oban = cpu()
    job = child_workers.Stuck.enqueue({"how": "spin", "file": str(tmp_path / "pid")})
    child = int(text_of(tmp_path / "pid"))
    oban.cancel_job(job.id)
    eventually(lambda: not is_alive(child), within=5)
    probe.next("oban.job.stop", state="cancelled")
    eventually(lambda: factory.states(job.id) == ["cancelled"])


def test_a_job_with_a_timeout_fails_and_the_next_one_runs(cpu, probe, factory, tmp_path):
    cpu()
    stuck = child_workers.Stuck.enqueue(
        {"how": "sleep", "file": str(tmp_path / "pid")}, timeout=0.2
    )
    probe.next("oban.job.exception", error_type="JobTimeoutError", within=20)
    child_workers.report.enqueue()
    probe.next("oban.job.stop", state="completed", within=20)
    eventually(lambda: factory.states(stuck.id) == ["retryable"])

    assert factory.row(stuck.id)["attempt"] == 1


def test_the_third_crash_quarantines_a_job(cpu, probe, factory):
    oban = cpu()
    job = child_workers.die.enqueue(number=int(signal.SIGSEGV))

    for crashes in (1, 2, 3):
        probe.next("oban.job.exception", error_type="JobCrashedError", within=20)
        eventually(
            lambda: factory.row(job.id)["meta"].get("oban_sync") == {"crashes": crashes}  # noqa: B023
        )

        if crashes < 3:
            oban.retry_job(job.id)

    row = factory.row(job.id)

    assert (row["state"], row["attempt"]) == ("discarded", 3)
    assert "SIGSEGV" in row["errors"][0]["error"]
    assert "Quarantined" in row["errors"][2]["error"]


def test_scaling_a_queue_changes_the_number_of_its_children(cpu, probe):
    oban = cpu()
    child_workers.report.enqueue()
    probe.next("oban.job.stop", within=20)
    assert len(own_children()) == 1
    oban.scale_queue("cpu", 2)
    both = eventually(lambda: len(own_children()) == 2 and own_children())
    oban.scale_queue("cpu", 1)
    eventually(lambda: len(own_children()) == 1)

    assert set(own_children()) < set(both)


def test_nothing_is_left_after_a_stop(cpu, probe, tmp_path):
    oban = cpu(2)
    child_workers.Stuck.enqueue({"how": "spin", "file": str(tmp_path / "pid")})
    text_of(tmp_path / "pid")
    eventually(lambda: len(own_children()) == 2, within=20)
    pids = own_children()

    assert oban.stop(grace=0.2)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_a_queue_that_is_stopped_and_started_runs_in_processes_again(cpu, probe):
    oban = cpu()
    oban.stop_queue("cpu")
    probe.next("oban.queue.stopped")
    eventually(lambda: not own_children(), within=20)
    oban.start_queue("cpu", 1)
    job = child_workers.report.enqueue()
    probe.next("oban.job.stop", within=20)

    eventually(lambda: oban.get_job(job.id).state == "completed")
    assert oban.get_job(job.id).recorded()["pid"] != os.getpid()


def test_a_job_enqueues_in_a_child_by_the_oban_that_runs_it(cpu, probe, factory):
    oban = cpu(name="Elsewhere")
    oban.enqueue(child_workers.enqueue.new())
    probe.next("oban.job.stop", state="completed", within=20)

    assert factory.count(queue="other", state="available") == 1


def own_children():
    """The children of process queues of this process."""
    return sorted(
        pid for pid in children_of(os.getpid()) if "spawn_main" in command_of(pid) and is_alive(pid)
    )


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_a_stop_while_the_children_start_leaves_none(cpu):
    before = set(own_children())
    oban = cpu(2)
    eventually(lambda: set(own_children()) - before)
    started = time.monotonic()

    assert oban.stop(grace=10)
    assert time.monotonic() - started < 2
    assert set(own_children()) == before


def test_the_time_of_a_stop_with_idle_children_is_short(cpu, probe):
    oban = cpu()
    child_workers.report.enqueue()
    probe.next("oban.job.stop", within=20)
    started = time.monotonic()

    assert oban.stop(grace=10)
    assert time.monotonic() - started < 2
