"""Workers that log, for tests of what is kept of that; children of process queues import it."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path

from oban_sync import Cancel, Discard, current_job, job

log = logging.getLogger("app.jobs")
log.setLevel(logging.DEBUG)


@job(queue="logs", name="tests.logs.says")
def says(texts, level="info"):
    for text in [texts] if isinstance(texts, str) else texts:
        log.log(getattr(logging, level.upper()), "%s", text)


@job(queue="logs", name="tests.logs.silent")
def silent():
    return None


@job(queue="logs", name="tests.logs.fails", max_attempts=3)
def fails(text="about to fail"):
    log.warning(text)

    raise ValueError("boom")


@job(queue="logs", name="tests.logs.ends")
def ends(how):
    log.info("ends by %s", how)

    return {"cancel": Cancel("no use"), "discard": Discard("no hope")}[how]


@job(queue="logs", name="tests.logs.floods")
def floods(count):
    for number in range(count):
        log.info("line %d", number)


@job(queue="logs", name="tests.logs.others")
def others():
    logging.getLogger().warning("of the root")
    logging.getLogger("oban_sync.something").warning("of the library")
    quiet = logging.getLogger("app.quiet")
    quiet.propagate = False
    quiet.error("does not propagate")
    logging.getLogger("app.strict").setLevel(logging.ERROR)
    logging.getLogger("app.strict").warning("below the application's own level")
    log.debug("below the level that is kept")
    current_job().report_progress(1)


@job(queue="logs", name="tests.logs.gate")
def gate(entered, leave):
    log.info("it begins")
    Path(entered).write_text("")

    for _ in range(3_000):
        if Path(leave).exists():
            break

        time.sleep(0.01)

    log.info("it ends")


@job(queue="logs", name="tests.logs.sets_a_factory")
def sets_a_factory():
    # As a module does that is imported when it is first needed.
    logging.setLogRecordFactory(logging.LogRecord)


@job(queue="logs", name="tests.logs.dies")
def dies(told):
    log.error("the end is near")

    # Until the parent must have heard of it.
    for _ in range(3_000):
        if Path(told).exists():
            break

        time.sleep(0.01)

    os.kill(os.getpid(), signal.SIGKILL)


@job(queue="logs", name="tests.logs.leaves_a_thread")
def leaves_a_thread(go_on):
    import contextvars

    context = contextvars.copy_context()

    def straggle():
        while not Path(go_on).exists():
            time.sleep(0.01)

        log.info("too late")
        Path(go_on).unlink()

    log.info("in time")
    threading.Thread(target=context.run, args=[straggle], daemon=True).start()


@job(queue="logs", name="tests.logs.transactional", transactional=True)
def transactional(conn):
    conn.execute("CREATE TABLE made_by_job ()")
    log.info("made it")

    raise ValueError("boom")
