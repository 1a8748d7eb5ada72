"""The page of one job."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime, timedelta

import pytest

from oban_sync import Record, current_job, job
from oban_sync.control.audit import list_audit
from oban_sync.core.filters import Filter
from oban_sync.web.job_forms import FIELDS
from tests.support.probe import Gate, eventually
from tests.web.conftest import Page

log = logging.getLogger("tests.web")


@pytest.fixture
def site(dashboard):
    return dashboard(user="anna")


def edited(site, job_id, **fields):
    """The form of a job as its page has it, with some fields changed."""
    page = site.page(f"/jobs/{job_id}")
    [form] = [fields for action, fields in page.forms if action.endswith("/edit")]

    return {name: value for name, value in {**form, **fields}.items() if name != "_csrf"}


def test_a_job_is_shown_whole(site, factory):
    job_id = factory.job(
        worker="app.mail.Mailer",
        queue="mailers",
        args={"to": "a@example.com", "token": "hunter2"},
        meta={"source": "shop", "oban_sync": {"timeout": 5}},
        tags=["urgent"],
        priority=3,
        attempt=1,
        max_attempts=5,
        state="discarded",
    )
    page = site.page(f"/jobs/{job_id}")

    for text in ("Mailer", "mailers", "a@example.com", "shop", "urgent", "1 of 5", "discarded"):
        assert text in page.text
    assert "hunter2" not in page.html
    assert "oban_sync" not in page.text.replace("oban_sync ", "")


@pytest.mark.parametrize("path", ["/jobs/999", "/jobs/99999999999999999999"])
def test_a_job_that_is_not_there_is_told_as_such(site, path):
    assert "There is no job" in site.page(path, 404).text


def test_a_job_that_does_not_run_is_explained(site, factory):
    job_id = factory.job(queue="lonely")
    page = site.page(f"/jobs/{job_id}")

    assert site.oban.explain_job(job_id).sentence in page.text


def test_errors_are_shown_the_newest_first(site, factory, conn):
    job_id = factory.job(state="retryable", attempt=2)
    errors = [
        {
            "at": f"2026-11-29T08:0{attempt}:00.000000Z",
            "attempt": attempt,
            "error": f"Traceback (most recent call last):\n  x\nValueError: number {attempt}",
        }
        for attempt in (1, 2)
    ]
    conn.execute(
        "UPDATE oban_jobs SET errors = %s::jsonb[]", [[json.dumps(each) for each in errors]]
    )
    page = site.page(f"/jobs/{job_id}")
    folds = page.all("details", **{"class": "fold"})

    assert page.text.index("ValueError: number 2") < page.text.index("ValueError: number 1")
    assert [fold["id"] for fold in folds] == ["error-2", "error-1"]
    assert ["open" in fold for fold in folds] == [True, False]


def test_an_error_of_one_line_is_shown_once(site, factory, conn):
    job_id = factory.job(state="retryable", attempt=1)
    error = {"at": "2026-11-29T08:00:00Z", "attempt": 1, "error": "ValueError: of one line"}
    conn.execute("UPDATE oban_jobs SET errors = %s::jsonb[]", [[json.dumps(error)]])
    errors = site.page(f"/jobs/{job_id}").html.partition('aria-label="Errors"')[2]

    assert errors.partition("</section>")[0].count("of one line") == 1


def test_the_timeline_reads_like_a_sentence(site, factory):
    started = datetime.now(UTC).replace(tzinfo=None) - timedelta(minutes=3)
    due = datetime.now(UTC).replace(tzinfo=None) + timedelta(minutes=40)
    job_id = factory.job(
        state="retryable", attempt=2, max_attempts=3, attempted_at=started, scheduled_at=due
    )
    text = site.page(f"/jobs/{job_id}").text

    assert "3 minutes ago , attempt 2 of 3" in text
    assert "due in 40 minutes" in text


@job(queue="alpha", name="tests.web.whole")
def whole():
    log.warning("about to record")
    current_job().report_progress(3, 4, note="nearly")

    return Record({"answer": 42, "secret": "hunter2"})


def test_what_a_job_left_is_shown(make_oban, dashboard):
    oban = make_oban(queues={"alpha": 1}).start()
    site = dashboard(oban=oban)
    stored = oban.enqueue(whole.new())
    eventually(lambda: oban.get_job(stored).state == "completed")
    page = eventually(
        lambda: (
            (found := site.page(f"/jobs/{stored.id}")) and "about to record" in found.text and found
        )
    )

    assert '"answer": 42' in page.text
    assert "hunter2" not in page.html
    assert "3 of 4 · nearly" in page.text
    assert page.all("progress")[0]["value"] == "0.75"
    assert "level-warning" in page.html
    assert "Ran for" in page.text


_gate = Gate()


@job(queue="alpha", name="tests.web.held")
def held():
    _gate.pass_through()


def test_a_running_job_tells_where_its_code_is_and_can_be_asked_to_stop(make_oban, dashboard):
    oban = make_oban(queues={"alpha": 1}).start()
    site = dashboard(oban=oban, user="anna")
    stored = oban.enqueue(held.new())
    _gate.wait_until_entered()

    try:
        assert "was asked" in site.told(f"/jobs/{stored.id}/stack")
        eventually(lambda: "pass_through" in site.page(f"/jobs/{stored.id}").text)
        assert "asked to stop" in site.told(f"/jobs/{stored.id}/cancel")
        # Once: in the sentence that explains it.
        told = site.page(f"/jobs/{stored.id}").text
        [asked] = re.findall(r"(?i)asked to stop[^.]* by \w+", told)
        assert asked.endswith(" ago by anna")
        assert "Edit" not in site.page(f"/jobs/{stored.id}").text
        response = site.post(f"/jobs/{stored.id}/edit", priority="1", was_priority="0")
        assert response.status_code == 422
        assert "the job runs" in response.text
    finally:
        _gate.release.set()

    actions = [entry.action for entry in list_audit(oban.db)]

    assert actions == ["jobs:cancel", "jobs:stack"]


def test_nobody_is_asked_where_the_code_of_a_job_is_that_does_not_run(site, factory):
    job_id = factory.job()

    assert "Nobody can tell" in site.told(f"/jobs/{job_id}/stack")
    assert list_audit(site.oban.db) == []


@pytest.mark.parametrize(
    ("path", "state", "becomes", "action"),
    [
        ("cancel", "available", "cancelled", "jobs:cancel"),
        ("retry", "discarded", "available", "jobs:retry"),
        ("run", "scheduled", "available", "jobs:run"),
        ("run", "retryable", "available", "jobs:run"),
        ("delete", "completed", None, "jobs:delete"),
    ],
)
def test_a_job_is_dealt_with(site, factory, path, state, becomes, action):
    job_id = factory.job(state=state)
    site.told(f"/jobs/{job_id}/{path}")
    found = site.oban.get_job(job_id)
    [entry] = list_audit(site.oban.db)

    assert (None if found is None else found.state) == becomes
    assert (entry.action, entry.subject) == (action, f"job {job_id}")


@pytest.mark.parametrize("path", ["cancel", "retry", "run", "delete", "stack"])
@pytest.mark.parametrize("job_id", [999, 99999999999999999999])
def test_a_job_that_is_gone_is_told_as_such(site, path, job_id):
    told = site.told(f"/jobs/{job_id}/{path}")

    assert told.startswith(("Nothing was changed", "Nobody can tell", "job: "))


def test_only_what_was_changed_in_the_form_is_written(site, factory):
    job_id = factory.job(queue="mailers", args={"to": "a", "token": "hunter2"}, meta={"a": 1})
    form = edited(site, job_id, priority="7")
    # Somebody else, meanwhile.
    site.oban.update_job(job_id, {"queue": "media"})
    site.told(f"/jobs/{job_id}/edit", **form)
    found = site.oban.get_job(job_id)

    assert (found.priority, found.queue, found.args) == (
        7,
        "media",
        {"to": "a", "token": "hunter2"},
    )
    [entry] = list_audit(site.oban.db)
    assert entry.detail == {"fields": ["priority"]}


def test_every_field_of_the_form_can_be_changed(site, factory):
    job_id = factory.job(args={"to": "a", "token": "hunter2"}, meta={"a": 1})
    form = edited(
        site,
        job_id,
        worker="tests.Other",
        queue="other",
        args='{"to": "b", "token": "[hidden]"}',
        meta='{"b": 2}',
        tags="one, Two,",
        priority="2",
        max_attempts="3",
        scheduled_at="2100-01-01T00:00:00",
    )
    assert set(FIELDS) <= form.keys()
    assert site.told(f"/jobs/{job_id}/edit", **form) == "The job was changed."
    found = site.oban.get_job(job_id)

    assert (found.worker, found.queue, found.priority, found.max_attempts) == (
        "tests.Other",
        "other",
        2,
        3,
    )
    assert found.args == {"to": "b", "token": "hunter2"}
    assert found.meta == {"a": 1, "b": 2}
    assert found.tags == ["one", "two"]
    assert found.state == "scheduled"
    assert found.scheduled_at.year == 2100


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("args", "{", "args: is no JSON"),
        ("args", "[1]", "args: [1] is no JSON object"),
        ("args", '{"a": NaN}', "args"),
        ("args", '{"a": "\\u0000"}', "NUL"),
        ("meta", "nothing", "meta: is no JSON"),
        ("priority", "11", "priority: 11 is not allowed"),
        ("priority", "x", "priority: 'x' is not a whole number"),
        ("priority", "--5", "priority: '--5' is not a whole number"),
        ("priority", "٣", "is not a whole number"),
        ("max_attempts", "0", "max_attempts: 0 is not allowed"),
        ("queue", " ", "queue: '' is blank"),
        ("worker", "x" * 128, "worker: "),
        ("scheduled_at", "soon", "scheduled_at: 'soon' is no time"),
        ("scheduled_at", "9999-12-31T23:59:59-12:00", "is no time"),
    ],
)
def test_what_is_wrong_in_the_form_is_told_and_nothing_typed_is_lost(
    site, factory, field, value, problem
):
    job_id = factory.job()
    response = site.post(f"/jobs/{job_id}/edit", **edited(site, job_id, **{field: value}))

    assert response.status_code == 422
    page = Page(response.text)
    [form] = [fields for action, fields in page.forms if action.endswith("/edit")]
    assert problem in page.text
    assert form[field].strip() == value.strip()
    assert list_audit(site.oban.db) == []


def test_a_form_that_was_left_as_it_was_changes_nothing(site, factory):
    job_id = factory.job(args={"text": "two\nlines <b>"}, meta={"a": [1, {"b": 2}]})

    assert "Nothing was changed" in site.told(f"/jobs/{job_id}/edit", **edited(site, job_id))


def test_what_somebody_else_changed_meanwhile_is_not_taken_back(site, factory):
    job_id = factory.job(args={"a": 1, "b": 1, "token": "hunter2"})
    form = edited(site, job_id, args='{"a": 1, "b": 2, "token": "[hidden]"}', priority="3")
    site.oban.update_job(job_id, {"args": {"a": 2, "b": 1, "token": "hunter3"}})
    response = site.post(f"/jobs/{job_id}/edit", **form)
    page = Page(response.text)
    [again] = [fields for action, fields in page.forms if action.endswith("/edit")]

    assert response.status_code == 422
    assert "args: somebody else changed it meanwhile" in page.text
    assert "What args is now:" in page.text
    assert '"a": 2' in again["was_args"]
    assert again["args"].strip() == form["args"]
    assert site.oban.get_job(job_id).args == {"a": 2, "b": 1, "token": "hunter3"}

    # Whoever has seen that may have it their way.
    del again["_csrf"]
    assert site.told(f"/jobs/{job_id}/edit", **again) == "The job was changed."
    assert site.oban.get_job(job_id).args == {"a": 1, "b": 2, "token": "hunter3"}
    assert site.oban.get_job(job_id).priority == 3


def test_no_secret_goes_to_another_entry_or_is_lost(site, factory):
    secret = {"accounts": [{"name": "a", "pin": 1}, {"name": "b", "pin": 2}], "password": "C"}
    job_id = factory.job(args=secret)
    kept = '[{"name": "b", "pin": "[hidden]"}]'
    form = edited(site, job_id, args=f'{{"accounts": {kept}, "pwd2": "[hidden]"}}')
    response = site.post(f"/jobs/{job_id}/edit", **form)

    assert response.status_code == 422
    assert "args.pwd2: is hidden" in Page(response.text).text
    assert site.oban.get_job(job_id).args == secret

    site.told(f"/jobs/{job_id}/edit", **{**form, "args": f'{{"accounts": {kept}}}'})
    assert site.oban.get_job(job_id).args == {"accounts": [{"name": "b", "pin": 2}]}


def test_args_that_are_too_long_are_cut_and_cannot_be_edited(site, factory):
    args = {"rows": [{"n": n, "text": "some text"} for n in range(20_000)]}
    job_id = factory.job(args=args, meta={"source": "shop"})
    page = site.page(f"/jobs/{job_id}")
    [form] = [fields for action, fields in page.forms if action.endswith("/edit")]

    assert len(page.html) < 200_000
    assert re.search(r"cut: all of it has [67]\d\d,\d{3} characters", page.text)
    assert "args are too long to be changed here" in page.text
    assert not {"args", "was_args"} & form.keys()

    response = site.post(f"/jobs/{job_id}/edit", args="{}", was_args="x")
    assert response.status_code == 422
    assert "args: too long to be changed here" in Page(response.text).text

    assert site.told(f"/jobs/{job_id}/edit", **edited(site, job_id, priority="2"))
    found = site.oban.get_job(job_id)
    assert (found.priority, found.args, found.meta) == (2, args, {"source": "shop"})


def test_a_page_shows_so_many_lines_of_all_runs_and_no_more(site, factory, conn):
    job_id = factory.job(attempt=3)
    lines = json.dumps([[1795425447.0, "info", "app", f"line {n}"] for n in range(300)])
    conn.execute(
        "INSERT INTO oban_sync_logs (job_id, attempted_at, attempt, node, lines)"
        " SELECT %s, timestamp '2026-11-29' + n * interval '1 s', n, 'web-1', %s"
        " FROM generate_series(1, 3) AS n",
        [job_id, lines],
    )
    page = site.page(f"/jobs/{job_id}")

    assert page.html.count("level-info") == 500
    assert "attempt 3 web-1, 300 lines" in page.text
    assert "attempt 2 web-1, 200 lines" in page.text
    assert "100 earlier lines left out" in page.text
    assert "attempt 1 web-1, 300 lines, not shown" in page.text


def test_of_long_errors_the_newest_are_shown(site, factory, conn):
    job_id = factory.job(state="retryable", attempt=20)
    errors = [
        {"at": "2026-11-29T08:00:00Z", "attempt": n, "error": f"Error {n}\n" + "x" * 15_000}
        for n in range(1, 21)
    ]
    conn.execute(
        "UPDATE oban_jobs SET errors = %s::jsonb[]", [[json.dumps(each) for each in errors]]
    )
    page = site.page(f"/jobs/{job_id}")

    assert len(page.html) < 150_000
    assert all(f"Error {n} " in page.text for n in range(1, 21))


@pytest.mark.parametrize("state", ["completed", "cancelled", "discarded", "available"])
def test_who_may_run_jobs_before_their_time_may_not_run_those_that_ended(dashboard, factory, state):
    job_id = factory.job(state=state)
    site = dashboard(access=lambda user: {"jobs:run", "jobs:cancel"})
    token = site.page("/jobs").all("input", name="_csrf")[0]["value"]

    assert "Nothing was changed" in site.told(f"/jobs/{job_id}/run", token=token)
    assert factory.states(job_id) == [state]
    assert list_audit(site.oban.db) == []


def test_an_error_at_the_end_of_time_can_be_looked_at(site, factory, conn):
    job_id = factory.job(state="discarded")
    error = json.dumps({"at": "9999-12-31T23:59:59-12:00", "attempt": 1, "error": "late"})
    conn.execute("UPDATE oban_jobs SET errors = array[%s::jsonb]", [error])

    assert "late" in site.page(f"/jobs/{job_id}").text


def test_a_job_that_is_gone_cannot_be_edited(site):
    assert site.post("/jobs/999/edit", priority="1", was_priority="0").status_code == 404


def test_a_job_is_added(site):
    fields = {
        "worker": "tests.Anybody",
        "queue": "mailers",
        "args": '{"to": "a"}',
        "meta": "{}",
        "tags": "one",
        "priority": "4",
        "max_attempts": "2",
        "scheduled_at": "",
    }

    assert site.told("/new-job", **fields) == "Job 1 was added."
    found = site.oban.get_job(1)

    assert (found.worker, found.queue, found.args, found.tags, found.priority) == (
        "tests.Anybody",
        "mailers",
        {"to": "a"},
        ["one"],
        4,
    )
    [entry] = list_audit(site.oban.db)
    assert (entry.action, entry.subject) == ("jobs:add", "job 1")


@job(queue="media", max_attempts=3, tags=["usual"], unique=True, name="tests.web.usual")
def usual(number):
    return number


def test_a_job_of_a_worker_that_is_known_here_gets_its_options(site):
    assert "was added" in site.told("/new-job", worker="tests.web.usual", args='{"a": 1}')
    found = site.oban.get_job(1)

    assert (found.queue, found.max_attempts, found.tags) == ("media", 3, ["usual"])
    assert "there already" in site.told("/new-job", worker="tests.web.usual", args='{"a": 1}')


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, "worker: is missing"),
        ({"worker": "x", "args": "{"}, "args: is no JSON"),
        ({"worker": "x", "priority": "10"}, "priority: 10 is not allowed"),
        ({"worker": "x", "priority": "--5"}, "priority: '--5' is not a whole number"),
        ({"worker": "x" * 200}, "worker: "),
    ],
)
def test_a_wrong_new_job_is_told_as_such(site, fields, problem):
    response = site.post("/new-job", **fields)

    assert response.status_code == 422
    assert problem in Page(response.text).text


def test_workers_and_queues_that_are_known_are_offered(site, factory):
    factory.node("mailers", workers=["app.Mailer"])
    page = site.page("/new-job")
    offered = {option.get("value") for option in page.all("option")}

    assert {"app.Mailer", "tests.web.usual", "mailers", "media"} <= offered


def test_the_form_for_a_new_job_is_for_those_who_may(dashboard):
    assert dashboard(access=lambda user: "read_only").open("/new-job").status_code == 403


def test_links_of_a_job_are_filters(site, factory):
    job_id = factory.job(worker='a "b"', queue="two words", tags=["x,y"])
    links = {link["href"] for link in site.page(f"/jobs/{job_id}").all("a")}

    for text in (
        Filter().adding("workers", 'a "b"').text,
        Filter().adding("queues", "two words").text,
        Filter().adding("tags", "x,y").text,
    ):
        with site.app.test_request_context():
            from flask import url_for

            assert url_for("oban.jobs", q=text) in links
