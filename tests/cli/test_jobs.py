"""oban-sync jobs, as somebody types it."""

from __future__ import annotations

import json

import pytest

from oban_sync import worker
from oban_sync.cli import jobs as commands

PAST = "2026-01-02 03:04:05"


@worker(name="tests.cli.Known", queue="known", max_attempts=3, tags=["own"])
class Known:
    """Is registered in the process of the tests."""

    def process(self, job):
        return None


def test_jobs_are_listed_newest_first_without_their_args(run, factory):
    first = factory.job(queue="alpha", args={"to": "ann@example.com", "token": "t0p"})
    second = factory.job(
        state="discarded", attempt=2, max_attempts=2, discarded_at=PAST, worker="tests.Failing"
    )
    said = run("jobs", "list").splitlines()

    assert said[0].split() == ["ID", "STATE", "QUEUE", "WORKER", "TRIES", "WHEN", "NOTE"]
    assert said[1].split()[:5] == [str(second), "discarded", "default", "tests.Failing", "2/2"]
    assert said[2].split()[:5] == [str(first), "available", "alpha", "tests.Nobody", "0/20"]
    assert "ann@" not in "".join(said)

    said = run("jobs", "list", "--args")

    assert '{"to": "ann@example.com", "token": "[hidden]"}' in said
    assert "t0p" not in said


def test_a_list_can_be_filtered_and_paged(run, factory):
    made = [factory.job(queue=f"q{n % 2}") for n in range(4)]

    assert [job["id"] for job in run.json("jobs", "list")] == made[::-1]
    assert [job["id"] for job in run.json("jobs", "list", "--filter", "queues:q1")] == made[3::-2]
    assert "More: --before" in run("jobs", "list", "--limit", 2)
    assert [job["id"] for job in run.json("jobs", "list", "--before", made[1])] == [made[0]]
    assert run.json("jobs", "list", "--filter", "queues:none") == []
    assert run("jobs", "list", "--filter", "queues:none") == "No jobs.\n"
    assert "Did you mean 'queues'" in run.error("jobs", "list", "--filter", "queue:x", code=2)


def test_a_list_as_json_says_times_in_iso_form_and_no_args(run, factory):
    factory.job(state="completed", completed_at=PAST, args={"token": "t0p"}, tags=["x"])
    [job] = run.json("jobs", "list")

    assert job["completed_at"] == "2026-01-02T03:04:05+00:00"
    assert job["tags"] == ["x"]
    assert "args" not in job
    assert run.json("jobs", "list", "--args")[0]["args"] == {"token": "[hidden]"}


def test_what_rows_hold_steers_no_terminal(run, factory):
    factory.job(queue="\x1b[31mred", worker="a\nb")
    job_id = factory.job(
        state="discarded",
        discarded_at=PAST,
        args={"x": "\x1b]0;title\x07"},
        errors=['{"at": "\\u001b[2J", "attempt": 1, "error": "\\u001b[1A\\r\\u009bBoom"}'],
    )
    said = run("jobs", "list", "--args") + run("jobs", "show", job_id)

    assert not [char for char in said if not char.isprintable() and char != "\n"]
    assert "\\x1b[31mred" in said


def test_a_job_is_shown_with_all_there_is(run, factory):
    job_id = factory.job(
        state="retryable",
        worker="tests.Mailer",
        queue="mailers",
        attempt=1,
        tags=["a", "b"],
        args={"to": "ann@example.com", "password": "s3cret"},
        meta={"trace": "x", "oban_sync": {"progress": PROGRESS}},
        attempted_at=PAST,
        attempted_by=["web-1", "uuid"],
        inserted_at="2026-01-02 03:04:00",
        scheduled_at="2026-01-02 03:04:01",
        errors=[json.dumps({"at": "2026-01-02T03:04:06Z", "attempt": 1, "error": TRACE})],
    )
    said = run("jobs", "show", job_id)

    for words in (
        f"Job {job_id}, retryable",
        "tests.Mailer",
        "1 of 20",
        "web-1",
        "a, b",
        "50 of 200 (25%) half way",
        "inserted  2026-01-02 03:04:00 UTC",
        "waited 4 s",
        '"to": "ann@example.com"',
        '"password": "[hidden]"',
        '"trace": "x"',
        "attempt 1, 2026-01-02T03:04:06Z",
        "    ValueError: no",
    ):
        assert words in said, words

    assert "s3cret" not in said
    assert "s3cret" in run("jobs", "show", job_id, "--reveal")

    whole = run.json("jobs", "show", job_id)

    assert whole["args"] == {"to": "ann@example.com", "password": "[hidden]"}
    assert whole["progress"]["done"] == 50
    assert whole["errors"][0]["error"] == TRACE
    assert whole["explanation"]["state"] == "retryable"
    assert "oban_sync" not in whole["meta"]


def test_a_result_that_was_kept_is_shown(run, oban):
    from oban_sync import Record, job

    @job(name="tests.cli.summed", queue="sums")
    def summed():
        return Record({"sum": 3, "token": "t0p"})

    stored = oban.enqueue(summed.new())
    oban.drain_queue("sums")

    assert run.json("jobs", "show", stored.id)["recorded"] == {"sum": 3, "token": "[hidden]"}
    assert '"sum": 3' in run("jobs", "show", stored.id)


def test_what_is_not_there_is_told_and_the_rest_shown(run, factory):
    job_id = factory.job()
    result = run.result("jobs", "show", job_id, 999, code=1)

    assert f"Job {job_id}, available" in result.stdout
    assert result.stderr == "There is no job 999.\n"
    assert run.error("jobs", "explain", 999) == "Error: there is no job 999\n"


def test_a_row_that_cannot_be_read_is_shown_all_the_same(run, conn, factory):
    job_id = factory.job()
    conn.execute("UPDATE oban_jobs SET args = '[1]', meta = '7', scheduled_at = 'infinity'")

    assert f"Job {job_id}" in run("jobs", "show", job_id)
    assert run("jobs", "list", "--args")
    assert run.json("jobs", "list")[0]["scheduled_at"] is None


# Changing.


def test_jobs_are_cancelled_by_id(run, factory, audited):
    waiting, done = factory.job(), factory.job(state="completed")
    said = run("jobs", "cancel", waiting, done, 999, "--yes", "--by", "ann")

    assert said == "Cancelled 1 job. 2 jobs of these could not be, or are not there.\n"
    assert factory.states(waiting, done) == ["cancelled", "completed"]
    assert audited() == [("ann", "jobs:cancel", "1 job")]
    assert factory.row(waiting)["meta"].get("cancel_requested_by") in (None, "ann")


def test_jobs_are_retried_by_id_without_being_asked(run, factory, audited):
    job_id = factory.job(state="discarded", attempt=1, max_attempts=1)

    assert run("jobs", "retry", job_id) == "Made available 1 job.\n"
    assert factory.states(job_id) == ["available"]
    [(by, action, subject)] = audited()
    assert "@" in by
    assert (action, subject) == ("jobs:retry", f"job {job_id}")


def test_jobs_are_deleted_by_a_filter(run, factory, audited):
    kept = factory.job(queue="kept")
    running = factory.job(queue="mailers", state="executing")
    gone = [factory.job(queue="mailers", state="discarded") for _ in range(3)]
    found = run.json("jobs", "delete", "--filter", "queues:mailers", "--yes")

    assert found == {"action": "jobs:delete", "changed": 3, "left": 0, "more": False}
    assert factory.states(kept, running) == ["available", "executing"]
    assert factory.count() == 2
    assert audited()[0][1:] == ("jobs:delete", "3 jobs")
    assert gone


def test_the_audit_does_not_tell_what_a_filter_looked_for_in_jobs(run, conn, factory):
    factory.job(args={"token": "TOP"})
    run("jobs", "cancel", "--filter", "args.token:TOP queues:default", "--yes")
    [(detail,)] = conn.execute("SELECT detail FROM oban_sync_audit").fetchall()

    assert detail["filter"] == "queues:default args.token:[hidden]"
    assert "TOP" not in run("audit", "--json")


def test_json_holds_no_character_that_steers_a_terminal(run, factory):
    text = "é 日本 🎉 \x9b31m \u202e \x7f \U000e0041"
    job_id = factory.job(args={"text": text})
    printed = run("jobs", "show", job_id, "--json")

    assert json.loads(printed)["args"] == {"text": text}
    assert all(char.isprintable() or char == "\n" for char in printed)
    assert "é 日本 🎉" in printed


def test_of_many_args_only_the_beginning_is_told(run, factory):
    factory.job(args={"pin": 1, "rows": [{"n": n} for n in range(1_000)]})
    [line] = [line for line in run("jobs", "list", "--args").splitlines() if "rows" in line]

    assert '"pin": "[hidden]"' in line
    assert len(line) < 400


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cancel", 1], "Cancel job 1? There is nobody to ask here: add --yes."),
        (["delete", 1], "add --yes"),
        (["retry", "--filter", "queues:default"], "Retry the 1 job that matches?"),
        (["retry"], "which jobs?"),
        (["retry", "--yes", "--filter", "  "], "which jobs?"),
        (["retry", 1, "--all", "--yes"], "not several"),
        (["retry", 1, "--filter", "queues:x"], "not several"),
        (["retry", "--all", "--filter", "queues:x"], "contradict"),
        (["retry", "x"], "not a valid integer"),
        (["show"], "Missing argument"),
        (["list", "--json", "--watch", 1], "nothing to --watch"),
        (["logs", 1, "--json", "--follow"], "nothing to --follow"),
    ],
    ids=str,
)
def test_what_is_asked_wrongly_changes_nothing(run, factory, audited, arguments, said):
    factory.job(id=1, state="scheduled", scheduled_at="2100-01-01")

    assert said in run.error("jobs", *arguments, code=2)
    assert factory.states(1) == ["scheduled"]
    assert audited() == []


def test_all_jobs_can_be_meant_when_that_is_said(run, factory):
    made = [factory.job(), factory.job(state="scheduled"), factory.job(state="completed")]

    assert run("jobs", "cancel", "--all", "--yes") == "Cancelled 2 jobs.\n"
    assert factory.states(*made) == ["cancelled", "cancelled", "completed"]


def test_a_filter_that_finds_nothing_that_can_be_changed_is_a_failure(run, factory):
    factory.job(state="completed", queue="done")

    assert run("jobs", "cancel", "--filter", "queues:done", "--yes", code=1) == "No job matches.\n"
    assert run("jobs", "cancel", "--filter", "states:completed", "--yes", code=1)
    assert "Cancelled 0 jobs" in run("jobs", "cancel", 999, "--yes", code=1)


def test_more_than_can_be_dealt_with_at_once_is_left_for_the_next_time(run, factory, monkeypatch):
    monkeypatch.setattr(commands, "MOST", 3)
    made = [factory.job() for _ in range(5)]
    said = run("jobs", "cancel", "--all", "--yes")

    assert said.startswith("Cancelled 3 jobs. More match")
    assert factory.states(*made) == ["available"] * 2 + ["cancelled"] * 3


def test_in_a_terminal_it_asks(terminal, factory, audited):
    job_id = factory.job()
    asking = terminal("jobs", "cancel", job_id)
    asking.until(f"Cancel job {job_id}? [y/N]")
    asking.type("n\n")

    assert asking.end() == 1
    assert "Nothing was done." in asking.said
    assert audited() == []

    asking = terminal("jobs", "cancel", "--filter", "queues:default")
    asking.until("Cancel the 1 job that matches?")
    asking.type("y\n")

    assert asking.end() == 0
    assert factory.states(job_id) == ["cancelled"]


def test_ctrl_c_at_a_question_is_neither_yes_nor_a_failure(terminal, factory):
    job_id = factory.job()
    asking = terminal("jobs", "delete", job_id)
    asking.until("[y/N]")
    asking.type("\x03")
    asking.interrupt_a_question()

    assert asking.end() == 130
    assert "Traceback" not in asking.said
    assert factory.states(job_id) == ["available"]


# Watching.


def test_a_list_is_drawn_over_and_over_in_a_terminal_until_ctrl_c(terminal, factory):
    factory.job(queue="first", worker="[bold]No markup[/bold]")
    watching = terminal("jobs", "list", "--watch", "0.2")
    watching.until("first")
    factory.job(queue="second")
    watching.until("second")
    watching.interrupt()

    assert watching.end() == 0
    assert "Traceback" not in watching.said
    assert "[bold]No markup[/bold]" in watching.said
    assert "\x1b[" in watching.said


def test_a_terminal_gets_colours_and_tables_as_wide_as_it_is(terminal, factory):
    factory.job(worker="tests." + "Long" * 30)
    wide, narrow = terminal("jobs", "list", columns=300), terminal("jobs", "list", columns=60)

    assert (wide.end(), narrow.end()) == (0, 0)
    assert "Long" * 30 in wide.said
    assert "Long" * 30 not in narrow.said
    assert "\x1b[" in wide.said

    plain = terminal("jobs", "list", NO_COLOR="1")

    assert plain.end() == 0
    assert "\x1b[36m" not in plain.said


# Adding.


def test_a_job_of_an_unknown_worker_is_stored(run, factory, audited):
    said = run.json(
        *("jobs", "add", "Elixir.Mailer", '{"to": "ann"}', "--queue", "mailers", "--priority", 2),
        *("--max-attempts", 4, "--tag", "a", "--tag", "b", "--meta", '{"m": 1}', "--at", "1h"),
    )
    row = factory.row(said["id"])

    assert (row["worker"], row["queue"], row["state"]) == ("Elixir.Mailer", "mailers", "scheduled")
    assert (row["priority"], row["max_attempts"], row["tags"]) == (2, 4, ["a", "b"])
    assert (row["args"], row["meta"]) == ({"to": "ann"}, {"m": 1})
    assert audited()[0][1:] == ("jobs:add", f"job {said['id']}")


def test_a_known_worker_brings_its_own_options(run, factory):
    said = run("jobs", "add", "tests.cli.Known", "--tag", "more")

    assert said.endswith("is available in queue known.\n")
    [job] = run.json("jobs", "list")
    assert (job["max_attempts"], job["tags"]) == (3, ["more"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["x", "{"], "args: is not JSON"),
        (["x", "[1]"], "args: is not a JSON object"),
        (["x", "{}", "--meta", "7"], "meta: is not a JSON object"),
        (["x", "{}", "--at", "soon"], "is no time"),
        (["x", "{}", "--at", "2026-12-24"], "names no zone"),
        (["", "{}"], "worker: "),
        (["x", "{}", "--queue", ""], "queue: "),
    ],
    ids=str,
)
def test_a_wrong_job_is_refused(run, factory, arguments, said):
    assert said in run.error("jobs", "add", *arguments, code=2)
    assert factory.count() == 0


# Explaining and logs.


def test_why_a_job_does_not_run_is_said(run, factory):
    job_id = factory.job(queue="nobody")
    said = run("jobs", "explain", job_id)

    assert "nobody" in said
    assert run.json("jobs", "explain", job_id)["sentence"] in said


def test_what_a_job_logged_is_shown(run, conn, factory):
    job_id = factory.job(state="retryable")
    logged(conn, job_id, 1, [[1_767_323_045.5, "info", "app.mail", "first\nsecond line"]])
    logged(conn, job_id, 2, [[1_767_323_046.0, "error", "app", "Boom \x1b[2J"]], dropped=3)
    said = run("jobs", "logs", job_id)

    assert "Attempt 1, 2026-01-02 03:04:01 UTC, on web-1" in said
    assert "03:04:05.500 info     app.mail: first\n    second line" in said
    assert "(3 earlier lines were dropped)" in said
    assert "\x1b" not in said
    assert "first" not in run("jobs", "logs", job_id, "--attempt", 2)
    assert run.json("jobs", "logs", job_id)[0]["lines"][0]["message"] == "first\nsecond line"

    def refused(*arguments):
        return run.error("jobs", "logs", *arguments)

    assert refused(job_id, "--attempt", 3) == f"Job {job_id} has no log of attempt 3.\n"
    assert refused(factory.job()) == f"Job {job_id + 1} has no log.\n"
    assert refused(99_999) == "There is no job 99999.\n"


def test_a_log_is_followed_until_the_job_is_done(terminal, conn, factory):
    job_id = factory.job(state="executing", attempt=1)
    logged(conn, job_id, 1, [[1_767_323_045.5, "info", "app", "one"]])
    following = terminal("jobs", "logs", job_id, "--follow")
    following.until("app: one")
    lines = [[1_767_323_045.5, "info", "app", "one"], [1_767_323_047, "info", "app", "two"]]
    conn.execute("UPDATE oban_sync_logs SET lines = %s", [json.dumps(lines)])
    following.until("app: two")
    conn.execute("UPDATE oban_jobs SET state = 'completed'")

    assert following.end() == 0
    assert following.said.count("app: one") == 1


def logged(conn, job_id, attempt, lines, dropped=0):
    conn.execute(
        "INSERT INTO oban_sync_logs (job_id, attempted_at, attempt, node, lines, dropped)"
        " VALUES (%s, %s, %s, 'web-1', %s, %s)",
        [job_id, f"2026-01-02 03:04:0{attempt}", attempt, json.dumps(lines), dropped],
    )


TRACE = 'Traceback (most recent call last):\n  File "a.py", line 1\nValueError: no'

PROGRESS = {
    "done": 50,
    "total": 200,
    "note": "half way",
    "at": "2026-01-02T03:04:05.000000Z",
    "attempt": 1,
}
