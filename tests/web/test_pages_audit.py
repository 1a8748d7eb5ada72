"""The audit: who did what, found again."""

from __future__ import annotations

import pytest

from oban_sync.control.audit import record
from oban_sync.web.pages import audit as page_of_audit
from tests.web.test_hostile import STRINGS, check


@pytest.fixture
def site(dashboard):
    return dashboard(user="anna")


@pytest.fixture
def did(site):
    def write(who, action, subject, **detail):
        record(
            site.oban.db, "Oban", via="cli", who=who, action=action, subject=subject, detail=detail
        )

    return write


def rows_of(page):
    return [row["id"] for row in page.all("tr") if "data-row" in row]


def test_what_was_done_stands_there_newest_first(site, did):
    did("anna", "queues:pause", "queue mailers", reason="deploy")
    did(None, "jobs:cancel", "job 7")
    page = site.page("/audit")

    for part in ("anna", "queues:pause", "queue mailers", "reason: deploy", "cli", "nobody knows"):
        assert part in page.text
    assert page.text.index("job 7") < page.text.index("queue mailers")
    assert len(rows_of(page)) == 2


def test_what_was_done_leads_to_what_it_was_done_to(site, did):
    did("a", "queues:pause", "queue a/b c")
    did("a", "crons:run", "cron report")
    did("a", "jobs:cancel", "job 7")
    did("a", "jobs:cancel", "30 jobs")
    did("a", "queues:pause", "all queues")
    links = {found["href"] for found in site.page("/audit").all("a")}

    assert {"/oban/queue?name=a/b+c", "/oban/cron?name=report", "/oban/jobs/7"} <= {
        link.replace("%2F", "/").replace("%20", "+") for link in links
    }


def test_an_action_of_the_dashboard_is_there_at_once(site):
    site.told("/queues/pause", queue="mailers", reason="deploy")
    page = site.page("/audit")

    for part in ("anna", "queues:pause", "queue mailers", "dashboard"):
        assert part in page.text


def test_it_is_filtered_by_who_and_by_action(site, did):
    did("anna", "queues:pause", "queue one")
    did("anna", "queues:resume", "queue two")
    did("anna", "jobs:cancel", "job 3")
    did("ben", "queues:pause", "queue four")

    def subjects(query):
        text = site.page(f"/audit?{query}").text

        return [name for name in ("one", "two", "job 3", "four") if name in text]

    assert subjects("who=anna") == ["one", "two", "job 3"]
    assert subjects("action=queues:pause") == ["one", "four"]
    assert subjects("action=queues:") == ["one", "two", "four"]
    assert subjects("who=anna&action=queues:") == ["one", "two"]
    assert "Nobody did anything of the kind." in site.page("/audit?who=carl").text


def test_older_entries_are_on_other_pages_of_the_same_filter(site, did):
    for number in range(page_of_audit.PER_PAGE + 3):
        did("anna", "jobs:cancel", f"job {number}")
        did("ben", "jobs:cancel", f"job {number}")

    first = site.page("/audit?who=anna")
    [older] = first.all("a", rel="next")
    second = site.page(older["href"].removeprefix("/oban"))

    assert len(rows_of(first)) == page_of_audit.PER_PAGE
    assert len(rows_of(second)) == 3
    assert not second.all("a", rel="next")
    assert "ben" not in second.text
    assert "Newest" in second.text


@pytest.mark.parametrize("before", ["x", "-1", "9" * 30, "1.5", "٣"])
def test_a_place_that_is_none_is_refused(site, before):
    check(site.page("/audit", 400, query_string={"before": before}))


def test_what_is_hidden_in_jobs_is_hidden_here(site, did):
    did("anna", "jobs:edit", "job 7", password="hunter2", priority=3)
    page = site.page("/audit")

    assert "hunter2" not in page.html
    assert "priority: 3" in page.text


def test_the_audit_of_nothing_says_so(site):
    assert "Nobody did anything by hand yet." in site.page("/audit").text


@pytest.mark.parametrize("text", [*STRINGS, "a\0b"], ids=range(len(STRINGS) + 1))
def test_hostile_text_is_shown_harmlessly(dashboard, conn, text):
    stored = text.replace("\0", "")
    conn.execute(
        "INSERT INTO oban_sync_audit (name, via, who, action, subject, detail)"
        " SELECT %(text)s, %(text)s, %(text)s, %(text)s, subject,"
        " jsonb_build_object(%(text)s::text, %(text)s::text)"
        " FROM unnest(ARRAY[%(text)s, 'queue ' || %(text)s, 'job ' || %(text)s]) AS subject",
        {"text": stored},
    )
    site = dashboard(user=text)
    page = site.page("/audit")
    check(page)

    for link in {found["href"] for found in page.all("a") if "who=" in found["href"]}:
        check(site.page(link.removeprefix("/oban")))

    check(site.page("/audit", query_string={"who": text, "action": text}))


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
def test_the_audit_is_filtered_in_a_browser(site, did, served, browser, scripts):
    did("anna", "queues:pause", "queue one")
    did("ben", "jobs:cancel", "job 3")
    page = browser(java_script_enabled=scripts)
    page.goto(f"{served(site.app)}/oban/audit")
    page.fill("input[name=who]", "ben")
    page.press("input[name=who]", "Enter")
    page.wait_for_url("**/audit?*who=ben*")

    assert page.locator("tr[data-row]").count() == 1

    page.click("text=Clear")
    page.wait_for_url("**/audit")

    assert page.locator("tr[data-row]").count() == 2


def test_the_audit_fits_on_a_phone(site, did, served, browser):
    did("anna", "queues:pause", "queue " + "x" * 100, reason="y" * 100)
    page = browser(viewport={"width": 360, "height": 740})
    page.goto(f"{served(site.app)}/oban/audit")

    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("digits", [19, 20, 4_300, 5_000])
def test_a_place_of_any_length_is_read_or_refused(site, digits):
    check(site.page("/audit", 400, query_string={"before": "9" * digits}))
