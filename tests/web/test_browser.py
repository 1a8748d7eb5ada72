"""The dashboard in a browser: with scripts, and without."""

from __future__ import annotations

import pytest

from oban_sync.control.audit import list_audit
from tests.support.probe import eventually


@pytest.fixture
def site(dashboard):
    return dashboard(user="anna", refresh=1)


@pytest.fixture
def address(site, served):
    return f"{served(site.app)}/oban"


def ticks(page):
    return page.locator("tbody input[type=checkbox]")


@pytest.mark.parametrize("scripted", [True, False], ids=["with scripts", "without scripts"])
def test_jobs_are_found_looked_at_and_dealt_with(browser, address, site, factory, scripted):
    wanted = factory.job(queue="mailers", args={"to": "a@example.com"})
    factory.job(queue="media")
    page = browser(java_script_enabled=scripted)
    page.goto(f"{address}/jobs")

    page.get_by_label("Filter", exact=True).fill("queues:mailers")
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url("**q=queues*")
    assert page.locator("tr[data-row]").count() == 1

    page.locator("tr[data-row] a").first.click()
    page.wait_for_url(f"**/jobs/{wanted}")
    assert "a@example.com" in page.locator("#args").inner_text()

    page.get_by_role("button", name="Cancel").click()
    page.locator(".notice.done").wait_for()
    assert site.oban.get_job(wanted).state == "cancelled"

    page.get_by_text("Edit", exact=True).click()
    page.get_by_label("Priority").fill("5")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("The job was changed.").wait_for()
    assert site.oban.get_job(wanted).priority == 5

    page.locator("#delete-job summary").click()
    page.locator("#delete-job form button").click()
    page.get_by_text("The job was deleted.").wait_for()
    assert site.oban.get_job(wanted) is None


@pytest.mark.parametrize("scripted", [True, False], ids=["with scripts", "without scripts"])
def test_many_jobs_are_dealt_with_at_once(browser, address, site, factory, scripted):
    ids = [factory.job(queue="mailers") for _ in range(3)]
    page = browser(java_script_enabled=scripted)
    page.goto(f"{address}/jobs?q=queues:mailers")
    ticks(page).first.check()
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_text("1 job cancelled").wait_for()
    assert site.oban.get_job(ids[2]).state == "cancelled"

    page.locator("#all-that-match > summary").click()
    told = page.locator("#all-that-match > .pop > p").inner_text()
    assert told.startswith("3 jobs that match queues:mailers")

    # What cannot be undone is asked once more.
    page.locator("#delete-all > summary").click()
    assert "Delete 3 jobs that match for good?" in page.locator("#delete-all .pop").inner_text()
    assert len(site.oban.list_jobs()) == 3

    page.get_by_role("button", name="Delete all that match").click()
    page.get_by_text("3 jobs deleted").wait_for()
    assert site.oban.list_jobs() == []


@pytest.mark.parametrize("scripted", [True, False], ids=["with scripts", "without scripts"])
def test_a_job_is_added(browser, address, site, scripted):
    page = browser(java_script_enabled=scripted)
    page.goto(f"{address}/jobs")
    page.get_by_role("link", name="New job").click()
    page.get_by_label("Worker", exact=True).fill("tests.Anybody")
    page.get_by_label("Args").fill('{"a": ')
    page.get_by_role("button", name="Add job").click()
    page.get_by_text("args: is no JSON").wait_for()
    assert page.get_by_label("Worker", exact=True).input_value() == "tests.Anybody"

    page.get_by_label("Args").fill('{"a": 1}')
    page.get_by_role("button", name="Add job").click()
    page.get_by_text("was added").wait_for()
    assert site.oban.get_job(1).args == {"a": 1}


def test_a_page_refreshes_itself_and_keeps_what_was_ticked(browser, address, factory, conn):
    first = factory.job()
    page = browser()
    page.goto(f"{address}/jobs")
    ticks(page).first.check()
    second = factory.job()
    page.locator(f"#job-{second}").wait_for()

    assert page.locator(f"#tick-{first}").is_checked()
    assert not page.locator(f"#tick-{second}").is_checked()
    assert page.locator("[data-ticked]").inner_text() == "1 selected"


def test_the_row_that_keys_have_come_to_stays_the_current_one(browser, address, factory, conn):
    ids = [factory.job() for _ in range(3)]
    page = browser()
    page.goto(f"{address}/jobs")
    page.keyboard.press("j")
    page.keyboard.press("j")
    newest = factory.job()
    page.locator(f"#job-{newest}").wait_for()
    # Only then have new elements the classes that they came with.
    page.locator("#live:not(.htmx-swapping, .htmx-settling)").wait_for()

    assert page.locator("tr.current").get_attribute("id") == f"job-{ids[1]}"

    # Where it is gone, keys go on from its place.
    conn.execute("DELETE FROM oban_jobs WHERE id = %s", [ids[1]])
    page.locator(f"#job-{ids[1]}").wait_for(state="detached")
    page.keyboard.press("Enter")
    page.keyboard.press("j")
    assert page.locator("tr.current").get_attribute("id") == f"job-{ids[0]}"

    page.keyboard.press("Enter")
    page.wait_for_url(f"**/jobs/{ids[0]}")


def test_what_was_said_goes_away_after_a_while_or_is_put_away(browser, address, factory):
    factory.job()
    page = browser()
    page.clock.install()

    def pressed(button):
        page.goto(f"{address}/jobs")
        ticks(page).first.check()
        page.get_by_role("button", name=button, exact=True).click()

    pressed("Cancel")
    page.locator(".said .notice.done").wait_for()
    box, content = (page.locator(each).bounding_box() for each in (".said", "#live"))
    assert (box["x"], box["width"]) == (content["x"], content["width"])

    page.clock.fast_forward(11_000)
    page.locator(".said").wait_for(state="detached")

    pressed("Retry")
    page.get_by_role("button", name="Close the notice").click()
    assert page.locator(".said").count() == 0


def test_the_button_that_enter_presses_is_no_button_to_those_who_hear_pages(
    browser, address, factory
):
    factory.job()
    page = browser()
    page.goto(f"{address}/jobs")
    session = page.context.new_cdp_session(page)
    tree = session.send("Accessibility.getFullAXTree")["nodes"]
    names = [node["name"]["value"] for node in tree if not node["ignored"] and "name" in node]

    assert "Cancel" in names
    assert "Nothing" not in names


def test_only_what_can_be_done_with_the_jobs_shown_is_offered(browser, address, factory):
    page = browser()
    page.goto(f"{address}/jobs")
    assert page.locator(".bulk").count() == 0

    factory.job(state="discarded")
    page.goto(f"{address}/jobs?q=states:discarded")
    bulk = page.locator(".bulk")
    assert bulk.get_by_role("button", name="Cancel", exact=True).count() == 0
    assert bulk.get_by_role("button", name="Retry", exact=True).is_visible()

    page.locator("#all-that-match > summary").click()
    assert page.get_by_role("button", name="Cancel them").count() == 0
    assert page.get_by_role("button", name="Retry them").is_visible()

    page.keyboard.press("Escape")
    assert not page.get_by_role("button", name="Retry them").is_visible()


def test_escape_closes_one_sheet_at_a_time(browser, address, factory):
    factory.job()
    page = browser()
    page.goto(f"{address}/jobs?q=states:available")
    page.locator("#all-that-match > summary").click()
    page.locator("#delete-all > summary").click()
    assert page.locator("#delete-all button").is_visible()

    page.keyboard.press("Escape")
    assert not page.locator("#delete-all button").is_visible()
    assert page.locator("#delete-all > summary").is_visible()

    page.keyboard.press("Escape")
    assert not page.locator("#delete-all > summary").is_visible()


def test_on_a_phone_sheets_keep_off_the_edge_and_the_menu_shows_where_one_is(
    browser, address, factory
):
    factory.job()
    page = browser(viewport={"width": 320, "height": 700})
    page.goto(f"{address}/jobs")
    page.locator("#delete-selected summary").click()
    box = page.locator("#delete-selected .pop").bounding_box()
    assert (box["x"], box["width"]) == (12, 296)

    page.goto(f"{address}/audit")
    active = page.locator(".bar nav a[aria-current]").bounding_box()
    assert active["x"] + active["width"] <= 320


def test_a_page_that_has_not_changed_is_not_sent_again(browser, address, factory):
    factory.job(state="completed")
    page = browser()
    seen = []
    page.on("response", lambda response: seen.append(response.status))
    page.goto(f"{address}/jobs")
    page.evaluate("document.getElementById('live').firstElementChild.dataset.same = 'yes'")
    eventually(lambda: page.wait_for_timeout(50) or seen.count(304) >= 1, within=15)
    page.locator("tr[data-row]").wait_for()
    page.evaluate("document.getElementById('live').firstElementChild.dataset.same = 'yes'")
    before = seen.count(304)
    eventually(lambda: page.wait_for_timeout(50) or seen.count(304) > before, within=15)

    assert page.evaluate("document.getElementById('live').firstElementChild.dataset.same") == "yes"


def test_refreshing_waits_while_somebody_is_about_to_confirm(browser, address, factory):
    factory.job(state="completed")
    page = browser()
    asked = []
    page.goto(f"{address}/jobs")
    page.locator("#delete-selected summary").click()
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(1_600)

    assert asked == []

    page.keyboard.press("Escape")
    eventually(lambda: page.wait_for_timeout(50) or asked)


def test_a_connection_that_is_lost_is_told_and_found_again(browser, address, factory):
    factory.job()
    page = browser()
    page.goto(f"{address}/jobs")
    page.route("**/jobs", lambda route: route.abort())
    page.locator("#lost").wait_for(state="visible")
    page.unroute("**/jobs")
    page.locator("#lost").wait_for(state="hidden")


def test_keys_lead_through_the_list(browser, address, factory):
    ids = [factory.job() for _ in range(3)]
    page = browser()
    page.goto(f"{address}/jobs")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("x")
    assert page.locator(f"#tick-{ids[1]}").is_checked()

    page.keyboard.press("k")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/jobs/{ids[2]}")

    page.keyboard.press("g")
    page.keyboard.press("j")
    page.wait_for_url("**/jobs")

    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()

    page.keyboard.press("/")
    page.keyboard.type("queues:x")
    assert page.get_by_label("Filter", exact=True).input_value() == "queues:x"


def test_enter_in_a_checkbox_does_nothing_to_jobs(browser, address, site, factory):
    job_id = factory.job()
    page = browser(java_script_enabled=False)
    page.goto(f"{address}/jobs")
    ticks(page).first.check()
    ticks(page).first.press("Enter")
    page.get_by_text("Nothing was done").wait_for()

    assert site.oban.get_job(job_id).state == "available"


def test_a_theme_and_a_pace_are_chosen(browser, address, factory):
    page = browser(color_scheme="light")
    page.goto(f"{address}/jobs")

    def ground():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light = ground()
    page.get_by_label("Theme").select_option("dark")
    page.locator("html[data-theme=dark]").wait_for(state="attached")
    assert ground() != light

    page.get_by_label("Refresh every").select_option("0")
    page.locator("body[data-refresh='0']").wait_for(state="attached")


def test_without_scripts_a_theme_is_chosen_all_the_same(browser, address):
    page = browser(java_script_enabled=False)
    page.goto(f"{address}/jobs")
    page.get_by_label("Theme").select_option("dark")
    page.get_by_role("button", name="Set").click()

    assert page.locator("html").get_attribute("data-theme") == "dark"


@pytest.mark.parametrize("path", ["/jobs", "/jobs/1", "/new-job"])
def test_a_narrow_screen_is_enough(browser, address, factory, path):
    factory.job(
        worker="app.some.very.deeply.nested.package.of.ours.VeryLongWorkerName" * 2,
        queue="a_queue_with_a_long_name" * 4,
        args={"text": "word" * 100},
        tags=["tag" * 30],
    )
    page = browser(viewport={"width": 360, "height": 740})
    page.goto(f"{address}{path}")

    # Tables may be scrolled within their own boxes, the page itself not.
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_hostile_text_runs_nothing(browser, address, factory):
    job_id = factory.job(
        worker="<img src=x onerror=alert(1)>",
        queue="<script>alert(1)</script>",
        args={"<svg onload=alert(1)>": "</pre><script>alert(1)</script>"},
        tags=["<b>"],
    )
    page = browser()
    dialogs = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))

    for path in ("/jobs", f"/jobs/{job_id}", "/jobs?q=%3Cscript%3Ealert(1)%3C/script%3E"):
        page.goto(f"{address}{path}")
        page.wait_for_timeout(200)

    assert dialogs == []


def test_another_site_s_form_is_refused(browser, address, served, site, factory):
    from flask import Flask

    job_id = factory.job()
    browser_page = browser()
    browser_page.goto(f"{address}/jobs")
    elsewhere = Flask("evil")
    elsewhere.get("/")(
        lambda: (
            f"<form method=post action='{address}/jobs/{job_id}/cancel'><button>Win</button></form>"
        )
    )
    # The same machine by another name: another site.
    browser_page.goto(served(elsewhere).replace("127.0.0.1", "localhost"))
    browser_page.get_by_role("button", name="Win").click()
    browser_page.get_by_text("Forbidden").first.wait_for()

    assert site.oban.get_job(job_id).state == "available"
    assert list_audit(site.oban.db) == []


def test_what_is_focused_can_be_seen_and_all_has_a_name(browser, address, factory):
    factory.job(state="scheduled")
    page = browser()

    for path in ("/jobs", "/jobs/1", "/new-job"):
        page.goto(f"{address}{path}")
        nameless = page.evaluate(
            """() => Array.from(document.querySelectorAll(
                'a, button, input:not([type=hidden]), select, textarea, summary'))
              .filter(each => each.checkVisibility())
              .filter(each => !(each.innerText || '').trim()
                && !each.getAttribute('aria-label') && !each.title
                && !(each.labels && each.labels.length)
                && !each.querySelector('svg'))
              .map(each => each.outerHTML)"""
        )

        assert nameless == []

    page.goto(f"{address}/jobs")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
