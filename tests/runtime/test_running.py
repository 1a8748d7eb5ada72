"""A whole Oban running: producers, slots, stager, notifier."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock

import pytest

from oban_sync import (
    Cancel,
    DatabaseUnavailableError,
    Discard,
    NotRunningError,
    Record,
    SchemaError,
    Snooze,
    current_job,
    job,
    worker,
)
from oban_sync.engine import ack, fetch, migrations
from tests.support.probe import eventually
from tests.support.workers import Echo, Held, a_gate


@worker(queue="alpha", max_attempts=3)
class Outcomes:
    def process(self, job):
        match job.args["do"]:
            case "record":
                return Record({"attempt": current_job().attempt})
            case "snooze":
                return Snooze(0) if job.meta.get("snoozed", 0) < 2 else None
            case "cancel":
                return Cancel("asked to")
            case "discard":
                return Discard("hopeless")
            case "fail":
                raise ValueError("failed")
            case "exit":
                raise SystemExit(1)
            case "interrupt":
                raise KeyboardInterrupt

    def backoff(self, job):
        return 0


@job(queue="alpha")
def add(a, b):
    return Record(a + b)


def loops():
    """The threads of ours, without those that psycopg's pool keeps."""
    names = [thread.name for thread in threading.enumerate()]

    return [name for name in names if name.startswith("oban-") and "oban-sync" not in name]


@pytest.fixture
def gate():
    with a_gate() as gate:
        yield gate


def test_every_outcome_is_reached_on_threads(make_oban, probe, factory):
    oban = make_oban(queues={"alpha": 5}).start()
    jobs = {
        what: Outcomes.enqueue({"do": what})
        for what in (
            "nothing",
            "record",
            "snooze",
            "cancel",
            "discard",
            "fail",
            "exit",
            "interrupt",
        )
    }
    made = add.enqueue(1, 2)
    final = ("completed", "cancelled", "discarded")
    eventually(lambda: sum(factory.count(state=state) for state in final) == 9)
    seen = {what: oban.get_job(job.id) for what, job in jobs.items()}

    assert {what: seen[what].state.value for what in seen} == {
        "nothing": "completed",
        "record": "completed",
        "snooze": "completed",
        "cancel": "cancelled",
        "discard": "discarded",
        "fail": "discarded",
        "exit": "discarded",
        "interrupt": "discarded",
    }
    assert seen["record"].recorded() == {"attempt": 1}
    assert (seen["snooze"].attempt, seen["snooze"].meta["snoozed"]) == (1, 2)
    assert [error["attempt"] for error in seen["fail"].errors] == [1, 2, 3]
    assert "ValueError: failed" in seen["fail"].errors[0]["error"]
    assert seen["cancel"].errors[0]["error"] == "asked to"
    assert seen["discard"].errors[0]["error"] == "hopeless"
    assert seen["discard"].attempt == 1
    assert oban.get_job(made.id).recorded() == 3


def test_never_more_jobs_at_once_than_the_limit_and_that_many_are_reached(make_oban, probe):
    running = most = 0
    lock, full = Lock(), Event()

    @worker(queue="beta", name="counting")
    class Counting:
        def process(self, job):
            nonlocal running, most

            with lock:
                running += 1
                most = max(most, running)

                if running == 3:
                    full.set()

            full.wait(10)

            with lock:
                running -= 1

    oban = make_oban(queues={"beta": 3}).start()
    oban.enqueue_many(Counting.new() for _ in range(60))

    for _ in range(60):
        probe.next("oban.job.stop")

    assert most == 3


def test_jobs_run_side_by_side_with_a_job_that_takes_long(make_oban, probe, gate):
    make_oban(queues={"alpha": 2}).start()
    Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()
    Echo.enqueue()

    assert probe.next("oban.job.stop")["job"].worker.endswith("Echo")


def test_slots_survive_jobs_that_exit(make_oban, probe):
    oban = make_oban(queues={"alpha": 2}).start()
    oban.enqueue_many(Outcomes.new({"do": "exit"}, max_attempts=1) for _ in range(20))
    oban.enqueue(Echo.new({}, priority=9))

    assert probe.next("oban.job.stop")["job"].worker.endswith("Echo")


def test_each_queue_runs_only_its_own_jobs(make_oban, probe, factory):
    make_oban(queues={"alpha": 1, "beta": 1}).start()
    other = factory.job(queue="gamma", worker="tests.Echo")
    Echo.enqueue(queue="beta")
    Echo.enqueue(queue="alpha")

    assert {probe.next("oban.job.stop")["job"].queue for _ in range(2)} == {"alpha", "beta"}
    assert factory.states(other) == ["available"]


def test_a_plain_sql_insert_wakes_the_node(make_oban, probe, conn):
    # Polling is out of the question here: only the notification can bring the job in time.
    make_oban(queues={"alpha": 1}, stager={"interval": 1000}).start()
    probe.next("oban.stager.stage.stop")
    conn.execute("INSERT INTO oban_jobs (queue, worker) VALUES ('alpha', %s)", ["tests.Echo"])

    assert probe.next("oban.job.stop")["state"] == "completed"


def test_a_lost_notification_only_costs_the_stagers_interval(make_oban, probe, conn, monkeypatch):
    monkeypatch.setattr(migrations, "verify", lambda tx: None)
    conn.execute("DROP TRIGGER oban_sync_notify_insert ON oban_jobs")
    make_oban(queues={"alpha": 1}, stager={"interval": 0.1}).start()
    probe.next("oban.stager.stage.stop")
    Echo.enqueue()

    assert probe.next("oban.job.stop")["state"] == "completed"


def test_a_scheduled_job_starts_when_it_is_due(make_oban, probe, factory):
    make_oban(queues={"alpha": 1}).start()
    later = Echo.enqueue(schedule_in=3600)
    soon = Echo.enqueue(schedule_in=0.2)

    assert probe.next("oban.job.stop")["job"].id == soon.id
    assert factory.states(later.id) == ["scheduled"]


def test_junk_on_the_channel_is_counted_and_ignored(make_oban, probe, conn, prefix):
    make_oban(queues={"alpha": 1}, stager={"interval": 1000}).start()
    probe.next("oban.stager.stage.stop")
    channel = f"{prefix}.oban_insert"
    junk = [
        "",
        "{",
        "[]",
        "null",
        '{"queue":5}',
        '{"q":1}',
        "Z:xx",
        "H4sIxx",
        "\\",
        '{"queue":"a"b"}',
        "x" * 7000,
        '{"queue":"nobody"}',
        '{"queue":null}',
        "\u20ac",
    ]

    for payload in junk:
        conn.execute("SELECT pg_notify(%s, %s)", [channel, payload])

    Echo.enqueue()

    assert probe.next("oban.job.stop")["state"] == "completed"
    assert probe.next("oban.notifier.junk")


def test_starting_twice_is_starting_once(make_oban):
    oban = make_oban(queues={"alpha": 1})
    before = threading.active_count()

    assert oban.start() is oban
    started = threading.active_count()
    assert oban.start() is oban
    assert threading.active_count() == started > before


def test_a_client_without_queues_starts_no_thread_of_ours(make_oban):
    make_oban().start()

    assert loops() == []


def test_a_start_without_tables_fails_with_the_command_to_run(make_oban):
    oban = make_oban(queues={"alpha": 1}, prefix="Nowhere")

    with pytest.raises(SchemaError, match="oban-sync install --prefix Nowhere"):
        oban.start()

    assert not oban.running

    with pytest.raises(SchemaError, match="oban-sync install"):
        oban.enqueue(Echo.new())


def test_a_start_on_older_tables_fails_with_the_command_to_run(make_oban, conn):
    conn.execute("DELETE FROM oban_sync_migrations WHERE version > 2")

    with pytest.raises(SchemaError, match=r"version 2.*oban-sync upgrade"):
        make_oban(queues={"alpha": 1}).start()


def test_a_start_on_newer_tables_works(make_oban, conn):
    conn.execute("INSERT INTO oban_sync_migrations (version) VALUES (999)")

    assert make_oban(queues={"alpha": 1}).start().running


def test_a_start_without_a_database_fails_soon_and_leaves_nothing(make_oban):
    oban = make_oban(conninfo="postgresql://127.0.0.1:1/nothing", queues={"alpha": 1})

    with pytest.raises(DatabaseUnavailableError):
        oban.start()

    assert not oban.running
    oban.stop()


def test_a_start_whose_parts_fail_leaves_nothing_running(make_oban, monkeypatch):
    from oban_sync.runtime.stager import Stager

    def fail(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Stager, "start", fail)
    oban = make_oban(queues={"alpha": 1})

    with pytest.raises(RuntimeError, match="new thread"):
        oban.start()

    assert not oban.running
    assert loops() == []


def test_the_imports_are_imported_at_the_start(make_oban, tmp_path, monkeypatch):
    (tmp_path / "imported_jobs.py").write_text(
        "from oban_sync import job\n@job()\ndef imported(): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    make_oban(imports=["imported_jobs"]).start()

    from oban_sync.core.registry import resolve

    assert resolve("imported_jobs.imported")


def test_configuring_a_running_oban_is_refused(make_oban):
    oban = make_oban(queues={"alpha": 1}).start()

    with pytest.raises(NotRunningError, match="before start"):
        oban.configure(queues={"beta": 1})


def test_two_obans_of_other_prefixes_live_side_by_side(make_oban, probe, dsn):
    from oban_sync import schema

    schema.install(dsn, prefix="second_prefix")
    first = make_oban(queues={"alpha": 1}).start()
    second = make_oban(queues={"alpha": 1}, name="Second", prefix="second_prefix").start()
    second.enqueue(Echo.new({"n": 2}))
    first.enqueue(Echo.new({"n": 1}))

    assert {probe.next("oban.job.stop")["job"].args["n"] for _ in range(2)} == {1, 2}

    second.stop()
    schema.uninstall(dsn, prefix="second_prefix")


@worker(queue="alpha")
class Curious:
    def process(self, job):
        age = job.attempted_at - job.scheduled_at

        if job.args["fail"]:
            raise ValueError(age)


def test_a_job_that_looks_at_its_times_ends_like_any_other(make_oban, probe, factory):
    make_oban(queues={"alpha": 1}).start()
    jobs = [Curious.enqueue({"fail": fail}) for fail in (True, False)]
    probe.next("oban.job.exception")
    probe.next("oban.job.stop")
    eventually(lambda: factory.count(state="executing") == 0)

    assert factory.states(*(job.id for job in jobs)) == ["retryable", "completed"]


def test_a_thread_that_cannot_be_started_is_tried_again(make_oban, probe, monkeypatch, factory):
    failures = iter([RuntimeError("can't start new thread")] * 2)
    original = ThreadPoolExecutor.submit

    def submit(self, *args):
        if (error := next(failures, None)) is not None:
            raise error

        return original(self, *args)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit)
    oban = make_oban(queues={"alpha": 2})
    oban.enqueue_many(Echo.new() for _ in range(10))
    oban.start()
    eventually(lambda: factory.count(state="completed", attempt=1) == 10)


def test_a_log_filter_that_fails_ends_no_thread(make_oban, probe, monkeypatch):
    class Broken(logging.Filter):
        def filter(self, record):
            raise KeyError("broken filter")

    log = logging.getLogger("oban_sync.runtime")
    broken = Broken()
    oban = make_oban(queues={"alpha": 1}).start()
    probe.next("oban.stager.stage.stop")
    original = fetch.turn
    failures = iter([RuntimeError("once"), RuntimeError("twice")])

    def turn(*args, **kwargs):
        if (error := next(failures, None)) is not None:
            raise error

        return original(*args, **kwargs)

    monkeypatch.setattr(fetch, "turn", turn)
    log.addFilter(broken)

    try:
        Echo.enqueue()

        assert probe.next("oban.job.stop")["state"] == "completed"
    finally:
        log.removeFilter(broken)

    assert oban.running


def test_work_is_taken_that_a_lost_statement_commits_late(make_oban, probe, conn, factory):
    """A statement whose client is gone goes on, and may take jobs long after the reconnect."""
    oban = make_oban(queues={"alpha": 1}).start()
    producer = oban._lifecycle._supervisor.roster._members["alpha"].producer
    producer._doubts.until = time.monotonic() + 0.3
    late = factory.job(
        queue="alpha",
        worker="tests.Echo",
        state="executing",
        attempt=1,
        attempted_at="2026-01-01",
        attempted_by=["node", producer.uuid],
    )
    producer.wake()
    eventually(lambda: factory.states(late) == ["completed"])

    assert factory.row(late)["attempt"] == 1


def test_many_busy_queues_share_a_few_connections(make_oban, factory, conn):
    names = [f"queue-{number}" for number in range(8)]
    oban = make_oban(queues=dict.fromkeys(names, 2))
    oban.enqueue_many(Echo.new(queue=name) for _ in range(100) for name in names)
    oban.start()
    eventually(lambda: factory.count(state="completed") == 800)

    [(connections,)] = conn.execute(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name LIKE '%: queues' AND datname = current_database()"
    ).fetchall()

    assert connections <= 5
    assert factory.count(attempt=1) == 800


def test_a_job_that_begins_while_its_owner_is_looked_up_is_run(make_oban, probe, monkeypatch):
    looked, begun = Event(), Event()
    still_ours = ack.still_ours

    def slowly(db, jobs, *, owner):
        looked.set()
        assert begun.wait(10)

        return still_ours(db, jobs, owner=owner)

    monkeypatch.setattr(ack, "still_ours", slowly)
    oban = make_oban(queues={"alpha": 1}).start()
    [member] = oban._lifecycle.supervisor.roster._members.values()
    producer = member.producer
    execute = producer._execute

    def late(job):
        producer.verify()
        assert looked.wait(10)

        try:
            execute(job)
        finally:
            begun.set()

    monkeypatch.setattr(producer._slots, "_run", late)
    stored = Echo.enqueue({})

    assert probe.next("oban.job.stop")["job"].id == stored.id
    eventually(lambda: not producer.running)
