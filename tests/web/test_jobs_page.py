"""The list of jobs, and what is done to many."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack

import pytest

from oban_sync.control.audit import list_audit
from oban_sync.engine import inspect
from oban_sync.engine import pages as engine
from oban_sync.web import searches
from oban_sync.web.pages import jobs as page_of_jobs


@pytest.fixture
def site(dashboard):
    return dashboard(user="anna")


def rows_of(page):
    return [row["id"] for row in page.all("tr") if "data-row" in row]


def states_of(conn):
    return [state for (state,) in conn.execute("SELECT state::text FROM oban_jobs ORDER BY id")]


def test_the_first_page_leads_to_the_first_of_the_menu(site):
    response = site.open("/")

    assert response.status_code == 302
    assert site.client.get(response.location).status_code == 200


def test_the_newest_jobs_come_first_and_older_ones_on_other_pages(site, factory):
    ids = [factory.job() for _ in range(page_of_jobs.PER_PAGE + 3)]
    first = site.page("/jobs")
    [older] = first.all("a", rel="next")
    second = site.page(older["href"].removeprefix("/oban"))

    assert rows_of(first) == [f"job-{each}" for each in reversed(ids[3:])]
    assert rows_of(second) == [f"job-{each}" for each in reversed(ids[:3])]
    assert not second.all("a", rel="next")
    assert "Newest" in second.text


def test_a_search_that_finds_too_little_can_be_led_further_back(site, factory, monkeypatch):
    monkeypatch.setattr(engine, "MOST_READ", 2)
    rare = factory.job(worker="app.Rare")
    [factory.job(worker="app.Common") for _ in range(2)]
    first = site.page("/jobs?q=workers:app.Rare")
    [further] = [link for link in first.all("a") if "before=" in link["href"]]
    second = site.page(further["href"].removeprefix("/oban"))

    assert "2 jobs were looked through." in first.text
    assert rows_of(first) == []
    assert rows_of(second) == [f"job-{rare}"]
    assert "looked through" not in second.text
    assert "looked through" not in site.page("/jobs?q=states:available").text


def test_of_a_state_that_has_many_jobs_all_can_be_looked_through(site, factory, monkeypatch):
    monkeypatch.setattr(engine, "FIRST_READ", 1)
    monkeypatch.setattr(engine, "MOST_READ_OF_STATES", 1)
    [first, *_] = [factory.job(worker="app.Rare", priority=9) for _ in range(40)]
    factory.job(worker="app.Common", priority=0)
    page = site.page("/jobs?q=states:available+workers:app.Rare")
    [further] = [link for link in page.all("a") if "through=states" in link["href"]]
    all_of_them = site.page(further["href"].removeprefix("/oban"))
    [older] = all_of_them.all("a", rel="next")
    last = site.page(older["href"].removeprefix("/oban"))

    assert rows_of(page) == []
    assert "1 job was looked through." in page.text
    assert len(rows_of(all_of_them)) == page_of_jobs.PER_PAGE
    assert "through=states" in older["href"]
    assert rows_of(last)[-1] == f"job-{first}"
    assert site.page("/jobs?q=states:available&through=nonsense").text


@pytest.mark.parametrize("before", ["9" * 19, "9" * 5_000, "x", "-1", "١"])
def test_what_is_no_id_leads_nowhere(site, before):
    assert "no id of a job" in site.page(f"/jobs?before={before}", 400).text


def test_a_job_in_the_list_tells_what_it_is(site, factory):
    factory.job(
        worker="app.mail.Mailer",
        queue="mailers",
        args={"to": "a@example.com", "password": "hunter2"},
        tags=["urgent"],
        attempt=2,
        max_attempts=5,
        state="retryable",
    )
    page = site.page("/jobs")

    for text in ("app.mail. Mailer", "mailers", "a@example.com", "urgent", "2 /5", "retryable"):
        assert text in page.text
    assert "hunter2" not in page.html
    assert '"password": "[hidden]"' in page.text


def test_a_filter_finds_jobs_and_stays_in_the_links(site, factory):
    wanted = factory.job(queue="mailers", args={"user": {"id": 7}})
    factory.job(queue="media", args={"user": {"id": 7}})
    factory.job(queue="mailers", args={"user": {"id": 8}})
    page = site.page("/jobs", query_string={"q": "queues:mailers args.user.id:7"})
    links = [link["href"] for link in page.all("a")]

    assert rows_of(page) == [f"job-{wanted}"]
    assert "/oban/jobs?q=states:executing+queues:mailers+args.user.id:7" in links
    # Each term can be taken away.
    assert "/oban/jobs?q=args.user.id:7" in links
    assert "/oban/jobs?q=queues:mailers" in links
    assert page.all("input", name="q")[0]["value"] == "queues:mailers args.user.id:7"


def test_a_state_that_is_shown_leads_back_to_all_of_them(site, factory):
    factory.job()
    page = site.page("/jobs?q=states:available")
    [chosen] = page.all("a", **{"aria-current": "true"})

    assert chosen["href"] == "/oban/jobs"


def test_a_wrong_filter_says_what_is_allowed(site, factory):
    factory.job()
    page = site.page("/jobs", 400, query_string={"q": "states:running"})

    assert "there is no state 'running'" in page.text
    assert "executing" in page.text
    assert page.all("input", name="q")[0]["value"] == "states:running"


def test_a_filter_of_many_terms_takes_no_more_room_than_others(site):
    page_of = site.page("/jobs", query_string={"q": f"ids:{','.join(map(str, range(200)))}"})
    part = site.open(
        "/jobs",
        query_string={"q": f"ids:{','.join(map(str, range(200)))}"},
        headers={"HX-Request": "true"},
    )
    left = [link for link in page_of.all("a") if link.get("title", "").startswith("Without ids:")]

    assert len(left) == page_of_jobs.MOST_TERMS
    assert "and 170 more" in page_of.text
    assert "Without" not in part.text


def test_a_filter_that_is_too_long_for_an_address_is_refused(site):
    text = f"ids:{','.join(map(str, range(1_000, 2_000)))}"

    assert "4,000 are allowed here" in site.page("/jobs", 400, query_string={"q": text}).text
    assert "4,000 are allowed here" in site.told("/jobs/delete", which="all", q=text)


def test_a_filter_that_takes_too_long_is_told_as_such(site, conn, monkeypatch):
    monkeypatch.setattr(inspect, "PATIENCE", 0.001)
    conn.execute(
        "INSERT INTO oban_jobs (worker, args) SELECT 'W', jsonb_build_object('a', n)"
        " FROM generate_series(1, 5000) AS n"
    )
    text = f"args.b:{','.join(map(str, range(50)))}"
    page = site.page("/jobs", 503, query_string={"q": text})

    assert "takes longer than" in page.text
    assert "A filter is made of terms" not in page.text
    assert page.all("input", name="q")[0]["value"] == text
    assert "takes longer than" in site.told("/jobs/cancel", which="all", q=text)


def test_searches_do_not_take_all_connections_of_the_application(site, factory, monkeypatch):
    monkeypatch.setattr(searches, "PATIENCE", 0.01)
    factory.job()
    token = site.token

    with ExitStack() as others:
        for _ in range(searches.MOST):
            others.enter_context(searches.turn())

        for path in ("/jobs?q=workers:x", "/jobs?q=ids:1"):
            response = site.open(path)
            assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
            assert "Others look for jobs" in response.text

        response = site.post("/jobs/cancel", which="all", q="workers:x", token=token)
        assert response.status_code == 503
        # The list itself is found in no time.
        assert rows_of(site.page("/jobs")) == ["job-1"]

    assert rows_of(site.page("/jobs?q=ids:1")) == ["job-1"]


@pytest.mark.parametrize("text", ["args.password:h", "meta.user.apiKey:1", "args.a.token.b:x"])
def test_a_filter_does_not_tell_what_is_hidden(site, factory, text):
    factory.job(args={"password": "h"})

    assert "is hidden" in site.page("/jobs", 400, query_string={"q": text}).text
    assert "is hidden" in site.told("/jobs/delete", which="all", q=text)


def test_what_is_hidden_is_for_the_application_to_say(dashboard, factory):
    factory.job(args={"password": "visible", "salary": "not to be seen"})
    site = dashboard(redact=["salary"])
    page = site.page("/jobs")

    assert "visible" in page.text
    assert "not to be seen" not in page.html
    assert site.page("/jobs?q=args.password:visible").all("tr", id="job-1")


@pytest.mark.parametrize("before", ["x", "-1", "1.5", "99999999999999999999", "²"])
def test_a_wrong_place_in_the_list_is_refused(site, before):
    assert site.open("/jobs", query_string={"before": before}).status_code == 400


def test_states_are_counted(site, factory):
    for state in ("available", "available", "scheduled", "retryable", "completed"):
        factory.job(state=state)

    counts = {
        state.value: (each.jobs, each.exact)
        for state, each in engine.count_states(site.oban.db).items()
    }

    assert counts == {
        "suspended": (0, True),
        "scheduled": (1, True),
        "available": (2, True),
        "executing": (0, True),
        "retryable": (1, True),
        "completed": (1, True),
        "cancelled": (0, True),
        "discarded": (0, True),
    }


def test_many_jobs_of_a_state_are_estimated(site, conn, monkeypatch):
    monkeypatch.setattr(engine, "MOST_COUNTED", 50)
    conn.execute(
        "INSERT INTO oban_jobs (worker, state) SELECT 'W', 'completed'"
        " FROM generate_series(1, 2000)"
    )
    conn.execute("ANALYZE oban_jobs")
    count = engine.count_states(site.oban.db)["completed"]

    assert not count.exact
    assert 1_900 <= count.jobs <= 2_100
    assert "~2k" in site.page("/jobs").text


def test_suspended_jobs_are_estimated(site, conn):
    conn.execute(
        "INSERT INTO oban_jobs (worker, state) SELECT 'W', 'suspended' FROM generate_series(1, 100)"
    )
    conn.execute("ANALYZE oban_jobs")
    count = engine.count_states(site.oban.db)["suspended"]

    assert (count.jobs, count.exact) == (100, False)


def test_queues_that_nodes_run_stand_at_the_side(site, factory):
    factory.node("mailers", "media")

    assert "mailers 10 slots" in site.page("/jobs").text


def test_jobs_that_failed_say_why_in_the_list(site, factory, conn):
    for state in ("retryable", "discarded", "cancelled", "completed"):
        factory.job(state=state, worker=state)

    errors = [
        {"at": "2026-11-29T08:00:00Z", "attempt": attempt, "error": f"ValueError: {word}"}
        for attempt, word in ((1, "earlier"), (2, "later"))
    ]
    conn.execute(
        "UPDATE oban_jobs SET errors = %s::jsonb[]", [[json.dumps(each) for each in errors]]
    )
    page = site.page("/jobs")

    assert page.text.count("ValueError: later") == 3
    assert "earlier" not in page.text


@pytest.mark.parametrize(
    ("name", "title"), [("Oban", "Oban"), ("oban-demo", "oban-demo"), ("shop", "Oban shop")]
)
def test_a_name_is_not_doubled_in_the_title(make_oban, dashboard, name, title):
    site = dashboard(oban=make_oban(name=name))

    assert f"<title>Jobs · {title}</title>" in site.page("/jobs").html


def test_how_many_match_is_told_where_that_is_known(site, factory):
    for _ in range(31):
        factory.job(queue="many")

    factory.job(queue="one")

    assert "Delete 1 job that matches for good?" in site.page("/jobs?q=queues:one").text
    assert "Delete up to 1,000 jobs that match for good?" in site.page("/jobs?q=queues:many").text


def test_selected_jobs_are_cancelled(site, factory, conn):
    ids = [factory.job() for _ in range(3)]

    assert site.told("/jobs/cancel", ids=ids[:2]) == "2 jobs cancelled, or asked to stop."
    assert states_of(conn) == ["cancelled", "cancelled", "available"]
    assert site.oban.get_job(ids[0]).meta["cancel_requested_by"] == "anna"


def test_selected_jobs_are_retried(site, factory, conn):
    ids = [factory.job(state="discarded"), factory.job(state="completed"), factory.job()]

    assert site.told("/jobs/retry", ids=ids) == "2 jobs made available again."
    assert states_of(conn) == ["available"] * 3


def test_selected_jobs_are_deleted(site, factory, conn):
    ids = [factory.job(state="completed"), factory.job()]

    assert site.told("/jobs/delete", ids=ids[:1]) == "1 job deleted."
    assert states_of(conn) == ["available"]


def test_what_was_done_to_several_is_one_entry_with_their_ids(site, factory):
    ids = [factory.job() for _ in range(3)]
    site.post("/jobs/cancel", ids=ids)
    [entry] = list_audit(site.oban.db)

    assert entry.subject == "3 jobs"
    assert entry.detail == {"changed": 3, "ids": ids}


@pytest.mark.parametrize("given", [[], ["x"], ["-1"], ["99999999999999999999"], ["²"]])
def test_without_a_job_nothing_is_done(site, factory, given):
    factory.job()

    assert site.told("/jobs/cancel", ids=given) == "No job was selected."
    assert list_audit(site.oban.db) == []


def test_nothing_is_written_down_where_nothing_changed(site, factory):
    job_id = factory.job(state="completed")

    assert site.told("/jobs/cancel", ids=[job_id, 999]).startswith("Nothing was changed")
    assert list_audit(site.oban.db) == []


def test_all_that_match_are_dealt_with(site, factory, conn):
    for queue in ("mailers", "media", "mailers"):
        factory.job(queue=queue)

    told = site.told("/jobs/cancel", which="all", q="queues:mailers")
    [entry] = list_audit(site.oban.db)

    assert told == "2 jobs cancelled, or asked to stop."
    assert states_of(conn) == ["cancelled", "available", "cancelled"]
    assert (entry.subject, entry.detail["filter"]) == ("jobs queues:mailers", "queues:mailers")


def test_the_audit_does_not_tell_what_a_filter_looked_for_in_jobs(site, factory):
    factory.job(args={"email": "ann@example.com"})
    site.told("/jobs/cancel", which="all", q="args.email:ann@example.com")
    [entry] = list_audit(site.oban.db)

    assert entry.subject == "jobs args.email:[hidden]"
    assert entry.detail["filter"] == "args.email:[hidden]"
    assert "ann@" not in site.page("/audit").html


def test_of_many_that_match_it_says_how_many_are_left(site, conn):
    conn.execute(
        "INSERT INTO oban_jobs (worker, state) SELECT 'W', 'discarded'"
        " FROM generate_series(1, 1200)"
    )

    assert site.told("/jobs/delete", which="all", q="workers:W") == (
        "1,000 jobs deleted. 200 are left; 1,000 are dealt with at a time."
    )
    assert site.told("/jobs/delete", which="all", q="workers:W") == "200 jobs deleted."


def test_those_that_cannot_be_changed_do_not_stand_in_the_way_of_others(site, factory, conn):
    wanted = factory.job()
    conn.execute(
        "INSERT INTO oban_jobs (worker, state) SELECT 'tests.Nobody', 'completed'"
        " FROM generate_series(1, 1100)"
    )

    assert site.told("/jobs/cancel", which="all", q="workers:tests.Nobody").startswith("1 job ")
    assert site.oban.get_job(wanted).state == "cancelled"


def test_all_that_match_needs_a_filter(site, factory, conn):
    factory.job()

    assert "filter: is empty" in site.told("/jobs/delete", which="all", q=" ")
    assert "there is no state" in site.told("/jobs/delete", which="all", q="states:wrong")
    assert "nothing to do" in site.told("/jobs/cancel", which="all", q="states:completed")
    assert "No job that matches" in site.told("/jobs/cancel", which="all", q="queues:none")
    assert states_of(conn) == ["available"]


def test_an_event_tells_what_was_done(site, factory):
    heard = []
    from oban_sync import telemetry

    telemetry.attach("test", ["oban.dashboard.action"], lambda _, fields: heard.append(fields))

    try:
        site.post("/jobs/cancel", ids=[factory.job()])
    finally:
        telemetry.detach("test")

    assert heard[0]["who"] == "anna"
    assert heard[0]["action"] == "jobs:cancel"


def test_only_what_refreshes_is_given_to_htmx_and_only_when_it_changed(site, factory):
    factory.job()
    whole = site.open("/jobs")
    part = site.open("/jobs", headers={"HX-Request": "true"})
    etag = part.headers["ETag"]
    again = site.open("/jobs", headers={"HX-Request": "true", "If-None-Match": etag})

    assert "<html" in whole.text
    assert "ETag" not in whole.headers
    assert "<html" not in part.text
    assert part.text.strip() in whole.text
    assert (again.status_code, again.text) == (304, "")

    factory.job()
    changed = site.open("/jobs", headers={"HX-Request": "true", "If-None-Match": etag})

    assert changed.status_code == 200


def test_time_that_goes_by_is_no_change(site, factory, conn):
    factory.job(state="completed", completed_at="2026-01-01 00:00")
    conn.execute("UPDATE oban_jobs SET completed_at = timezone('UTC', now()) - interval '5 s'")
    first = site.open("/jobs", headers={"HX-Request": "true"})
    times = re.findall(r"<time[^>]*>([^<]*)", first.text)

    assert any(re.fullmatch(r"\d+ seconds ago", time) for time in times)

    conn.execute("SELECT pg_sleep(1.1)")
    again = site.open(
        "/jobs", headers={"HX-Request": "true", "If-None-Match": first.headers["ETag"]}
    )

    assert again.status_code == 304


def test_choices_are_kept_in_cookies(site):
    site.open("/preferences?refresh=15&theme=dark&back=/oban/jobs")
    page = site.page("/jobs")

    assert page.all("body")[0]["data-refresh"] == "15"
    assert page.all("html")[0]["data-theme"] == "dark"

    site.open("/preferences?refresh=3&theme=pink")
    page = site.page("/jobs")

    assert page.all("body")[0]["data-refresh"] == "15"


def test_what_was_found_a_moment_ago_is_enough(site, factory):
    factory.job()
    site.page("/jobs")
    factory.job(state="executing")

    # The list is new, the counts may be a second old.
    assert rows_of(site.page("/jobs")) == ["job-2", "job-1"]


def test_a_database_that_is_away_is_told_as_such(make_oban, dashboard):
    from psycopg.conninfo import make_conninfo

    site = dashboard(
        oban=make_oban(conninfo=make_conninfo("", host="127.0.0.1", port=1, connect_timeout=1))
    )
    page = site.page("/jobs", 503)

    assert "The database cannot be reached" in page.text


def test_tables_that_are_missing_are_told_as_such(make_oban, dashboard):
    site = dashboard(oban=make_oban(prefix="nowhere_at_all"))
    page = site.page("/jobs", 503)

    assert "oban-sync install" in page.text
