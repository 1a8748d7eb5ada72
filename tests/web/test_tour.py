"""Every page and every action, clicked by somebody: with scripts, and without."""

from __future__ import annotations

import pytest

from oban_sync.control.audit import list_audit
from oban_sync.web.actions import Action
from tests.support.probe import eventually
from tests.support.workers import Echo, Held, a_gate


@pytest.fixture
def oban(make_oban):
    return make_oban(node="web-1", queues={"alpha": 2, "beta": 1}).start()


@pytest.fixture
def gate():
    with a_gate() as gate:
        yield gate


@pytest.fixture
def site(dashboard, oban):
    return dashboard(oban=oban, user="anna")


class Visitor:
    """Clicks where somebody would, and reads what the page says to it."""

    def __init__(self, page, address):
        self.page = page
        self.address = address

    def open(self, path):
        assert self.page.goto(f"{self.address}{path}").ok

    def press(self, text, *, within="body", sure=None):
        """Press a button; those that ask for more are two, one behind the other."""
        where = self.page.locator(within)

        if sure is None:
            where.get_by_role("button", name=text, exact=True).first.click()
        else:
            where.locator("summary", has_text=text).first.click()
            where.locator("details[open] form.pop").get_by_role("button", name=sure).click()

    def told(self, words):
        """Wait for what it says, which comes once."""
        self.page.locator(".notice.done", has_text=words).wait_for()


@pytest.mark.parametrize("scripted", [True, False], ids=["with scripts", "without scripts"])
def test_every_action_can_be_clicked(browser, site, served, oban, gate, factory, scripted):
    # The node takes what is available; these are to stay as they are.
    waiting = factory.job(state="scheduled", queue="gamma", scheduled_at="2999-01-01")
    discarded = factory.job(state="discarded", queue="gamma", attempt=20)
    oban.insert_cron("0 9 * * *", Echo, entry="report")
    held = Held.enqueue({"gate": "gate"})
    gate.wait_until_entered()
    me = Visitor(browser(java_script_enabled=scripted), f"{served(site.app)}/oban")

    me.open("/new-job")
    me.page.get_by_label("Worker", exact=True).fill("tests.Nobody")
    me.page.locator("input[name=queue]").fill("gamma")
    me.press("Add job")
    me.told("was added")

    me.open(f"/jobs/{held.id}")
    me.press("Look")
    me.page.locator("#stack", has_text="pass_through").wait_for()

    me.open(f"/jobs/{discarded}")
    me.press("Retry")
    me.told("available again")
    me.press("Cancel")
    me.told("cancelled")
    me.page.get_by_text("Edit", exact=True).click()
    me.page.get_by_label("Priority").fill("4")
    me.press("Save")
    me.told("The job was changed.")
    me.press("Delete", sure="Delete")
    me.told("The job was deleted.")

    me.open(f"/jobs/{waiting}")
    me.press("Run now")
    me.told("available now")

    me.open("/queue?name=alpha")
    me.press("Pause", within=".head", sure="Pause")
    me.told("takes no more jobs")
    me.press("Resume", within=".head")
    me.told("alpha")
    me.press("Scale", within=".head", sure="Scale")
    me.told("alpha")
    me.press("Stop", within=".head", sure="Stop")
    me.told("alpha")
    me.press("Start", within=".head", sure="Start")
    me.told("alpha")
    me.press("Reset", within=".head", sure="Reset")
    me.told("alpha")

    me.open("/cron?name=report")
    me.press("Run now")
    me.told("was inserted")
    me.press("Pause", within=".head", sure="Pause")
    me.told("report")
    me.press("Resume", within=".head")
    me.told("report")
    me.press("Delete", within=".head", sure="Delete")
    me.told("is deleted")

    done = {entry.action for entry in list_audit(oban.db, limit=100)}
    assert done == set(Action)
    assert {entry.who for entry in list_audit(oban.db, limit=100)} == {"anna"}
    assert oban.get_job(waiting).state == "available"


@pytest.mark.parametrize("scripted", [True, False], ids=["with scripts", "without scripts"])
def test_every_page_is_reached_by_clicking(browser, site, served, oban, factory, scripted):
    job_id = factory.job(state="discarded", queue="gamma")
    oban.insert_cron("0 9 * * *", Echo, entry="report")
    oban.pause_queue("beta")
    page = browser(java_script_enabled=scripted)
    page.goto(f"{served(site.app)}/oban/")
    entries = page.locator("header nav a").all_inner_texts()

    assert [entry.strip() for entry in entries] == [
        "Overview", "Jobs", "Queues", "Crons", "Nodes", "Audit",
    ]  # fmt: skip

    for entry in entries:
        page.locator("header nav a", has_text=entry.strip()).click()
        page.locator("header nav a[aria-current]", has_text=entry.strip()).wait_for()
        assert page.locator("h1").count() <= 1

    for menu, link, heading in (
        ("Jobs", f"tr#job-{job_id} td a", str(job_id)),
        ("Queues", "tr:has-text('alpha') td a", "alpha"),
        ("Crons", "tr:has-text('report') td a", "report"),
    ):
        page.locator("header nav a", has_text=menu).click()
        page.locator(link).first.click()
        page.locator("h1", has_text=heading).wait_for()


def test_what_is_not_allowed_has_no_button(browser, dashboard, oban, served, factory, gate):
    site = dashboard(oban=oban, user="anna", access=lambda user: "read_only")
    discarded = factory.job(state="discarded", queue="gamma")
    oban.insert_cron("0 9 * * *", Echo, entry="report")
    held = Held.enqueue({"gate": "gate"})
    eventually(lambda: oban.get_job(held.id).state == "executing")
    me = Visitor(browser(), f"{served(site.app)}/oban")

    for path in (
        "/jobs",
        f"/jobs/{discarded}",
        f"/jobs/{held.id}",
        "/queues",
        "/queue?name=alpha",
        "/crons",
        "/cron?name=report",
        "/nodes",
        "/audit",
        "/overview",
    ):
        me.open(path)
        forms = me.page.locator("form[method=post]").evaluate_all(
            "forms => forms.map(form => form.getAttribute('action'))"
        )

        # How pages look is everybody's own.
        assert [form for form in forms if not form.endswith("/preferences")] == []
