"""Workers that children of process queues run; a module of its own, because children import it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from oban_sync import Cancel, Discard, Oban, Record, Snooze, current_job, job, worker

#: How often a child called `set_up`.
set_ups = 0


def set_up() -> None:
    global set_ups
    set_ups += 1


def set_up_slowly() -> None:
    time.sleep(5)


def fail_to_set_up() -> None:
    raise RuntimeError("no such model")


@job(queue="cpu", name="tests.child.report")
def report(echo=None):
    """Where it runs, and what it sees."""
    seen = current_job()

    return Record(
        {
            "echo": echo,
            "pid": os.getpid(),
            "group": os.getpgrp(),
            "set_ups": set_ups,
            "id": seen.id,
            "key": list(seen.key),
            "queue": seen.queue,
            "attempt": seen.attempt,
            "max_attempts": seen.max_attempts,
            "attempted_by": seen.attempted_by,
            "tags": seen.tags,
            "meta": seen.meta,
            "errors": seen.errors,
            "attempted_at": seen.attempted_at.isoformat(),
            "scheduled_at": seen.scheduled_at.isoformat(),
            "lost": seen.lease_lost(),
            "cancelled": seen.cancelled(),
        }
    )


@job(queue="cpu", name="tests.child.unwritable")
def unwritable():
    """Completes with what no other process could read, which is nobody's business."""
    return threading.Lock()


@job(queue="cpu", name="tests.child.ends")
def ends(how):
    return {
        "snooze": lambda: Snooze(60, meta={"why": "later"}),
        "cancel": lambda: Cancel("no use"),
        "discard": lambda: Discard("no hope"),
    }[how]()


class OwnError(Exception):
    """Cannot be unpickled, as it has two arguments."""

    def __init__(self, one, two):
        super().__init__(f"{one}, {two} and half a pair: \udc80")


@worker(queue="cpu", name="tests.child.Failing")
class Failing:
    def process(self, job):
        raise OwnError(1, 2)

    def backoff(self, job):
        return 1234


@job(queue="cpu", name="tests.child.die")
def die(code=None, number=None):
    if number is not None:
        os.kill(os.getpid(), number)

    os._exit(code)


def _await(file):
    """Wait for a file, but not past the end of a test that failed before it made it."""
    for _ in range(6_000):
        if Path(file).exists():
            return

        time.sleep(0.01)


def _tell(path: str, text: str) -> None:
    Path(path).write_text(text)


@worker(queue="cpu", name="tests.child.Stuck")
class Stuck:
    """Writes its pid to a file and does not end, in one of several ways."""

    def process(self, job):
        _tell(job.args["file"], str(os.getpid()))

        try:
            {"sleep": self.sleep, "spin": self.spin, "wait": self.wait, "program": self.program}[
                job.args["how"]
            ](job)
        except KeyboardInterrupt:
            if job.args.get("completes"):
                return

            raise
        finally:
            if "tidy" in job.args:
                _tell(job.args["tidy"], f"cancelled: {job.cancelled()}")

    def timeout(self, job):
        return job.args.get("timeout")

    def sleep(self, job):
        time.sleep(600)

    def spin(self, job):
        while True:
            try:
                while True:
                    pass
            except BaseException:  # noqa: S110 - as stubborn as can be
                pass

    def wait(self, job):
        threading.Event().wait()

    def program(self, job):
        program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        _tell(job.args["program"], str(program.pid))
        signal.pause()


@job(queue="cpu", name="tests.child.gate")
def gate(entered, leave):
    """Says that it has come in, and waits until it may leave."""
    _tell(entered, str(os.getpid()))

    _await(leave)


@job(queue="cpu", name="tests.child.warn")
def warn(text):
    logging.getLogger("app").warning(text)
    print("printed", text)


@job(queue="cpu", name="tests.child.enqueue")
def enqueue():
    Oban.get_instance("Elsewhere").enqueue(report.options(queue="other").new())


@job(queue="cpu", name="tests.child.lease")
def lease(asked, go_on):
    """Looks at its lease twice."""
    before = current_job().lease_lost()
    _tell(asked, "")

    _await(go_on)

    seen = []
    thread = threading.Thread(
        target=lambda mine: seen.append(mine.lease_lost()), args=[current_job()]
    )
    thread.start()
    thread.join()

    return Record([before, seen[0]])


@job(queue="cpu", name="tests.child.forks")
def forks(file):
    """Leaves a copy of the process behind that holds everything open, and crashes."""
    pid = os.fork()

    if pid == 0:
        os.setsid()
        time.sleep(600)

    _tell(file, str(pid))
    os._exit(3)


@job(queue="cpu", name="tests.child.straggles")
def straggles(file):
    """Leaves a thread behind that looks at the lease when the job is over."""
    mine = current_job()
    thread = threading.Thread(target=lambda: (time.sleep(0.2), _tell(file, str(mine.lease_lost()))))
    thread.daemon = True
    thread.start()


@job(queue="cpu", name="tests.child.forks_and_returns")
def forks_and_returns(fails):
    """Forks a copy that comes back from the job, and tells how that ended."""
    pid = os.fork()

    if pid == 0 and fails:
        raise ValueError("in the copy")

    return Record(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])) if pid else None


@job(queue="cpu", name="tests.child.says")
def says(data):
    """Writes to its parent's pipe, as code does that was given the wrong descriptor."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                os.write(int(name), bytes.fromhex(data))

    time.sleep(5)


@job(queue="cpu", name="tests.child.leaves_group")
def leaves_group(file):
    """Joins its parent's group, and does not end."""
    os.setpgid(0, os.getpgid(os.getppid()))
    _tell(file, str(os.getpid()))

    while True:
        with suppress(BaseException):
            time.sleep(600)
