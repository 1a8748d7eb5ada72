"""The cron entries: when they are due, what became of their times, and dealing with them."""

from __future__ import annotations

import pytest

from oban_sync import worker
from oban_sync.control.audit import list_audit
from tests.web.test_hostile import STRINGS, check


@pytest.fixture
def site(dashboard):
    return dashboard(user="anna")


@pytest.fixture
def entry(site):
    """An entry that was made at run time."""

    @worker(queue="reports")
    class Report:
        def process(self, job):
            pass

    site.oban.insert_cron(
        "0 9 * * MON-FRI",
        Report,
        entry="report",
        timezone="Europe/Berlin",
        args={"kind": "all", "password": "hunter2"},
    )

    return "report"


@pytest.fixture
def slot(conn):
    """Writes what became of a time of an entry, so many seconds ago."""

    def write(seconds, outcome="inserted", *, entry="report", job_id=None, late=1.0, reason=None):
        conn.execute(
            "INSERT INTO oban_sync_cron_slots (name, entry, due_at, outcome, job_id, node,"
            " settled_at, reason) VALUES ('Oban', %s, now() - make_interval(secs => %s), %s, %s,"
            " 'n1', now() - make_interval(secs => %s), %s)",
            [entry, seconds, outcome, job_id, seconds - late, reason],
        )

    return write


def entries(site):
    return {cron.name: cron for cron in site.oban.list_crons()}


def test_the_list_says_when_entries_are_due_in_words(site, entry):
    text = site.page("/crons").text

    for part in ("report", "At 09:00 on Monday to Friday, Europe/Berlin", "0 9 * * MON-FRI"):
        assert part in text
    assert "run time" in text


def test_the_list_without_entries_says_so(site):
    assert "There are no cron entries." in site.page("/crons").text


def test_the_page_of_an_entry_tells_its_next_times(site, entry):
    page = site.page("/cron?name=report")

    assert page.text.count(", 09:00") == 5
    assert "in 1" in page.text or "in 2" in page.text or "days" in page.text
    assert "hunter2" not in page.html
    assert "kind" in page.text


def test_the_history_tells_outcomes_lateness_and_jobs(site, entry, slot, factory):
    job_id = factory.job()
    slot(300, job_id=job_id, late=12.0)
    slot(200, "skipped", reason="overlap: job 7 is executing")
    slot(100, "skipped", reason="missed and not made up for; such times up to this one: 3")
    page = site.page("/cron?name=report")

    for part in ("12 s", "overlap: job 7 is executing", "missed", "3 times, 2 skipped, of these 1"):
        assert part in page.text
    assert any(found["href"] == f"/oban/jobs/{job_id}" for found in page.all("a"))
    assert [bar["class"] for bar in page.all("rect")] == ["b-inserted", "b-skipped", "b-missed"]


def test_times_that_nobody_dealt_with_are_told(site, slot, conn):
    @worker(queue="reports")
    class Report:
        def process(self, job):
            pass

    site.oban.insert_cron("* * * * *", Report, entry="report")
    slot(1_000)

    assert "Times of 1 entry have passed" in site.page("/crons").text
    assert "10 or more of its times have passed" in site.page("/cron?name=report").text


def test_times_that_were_dealt_with_are_not_overdue(site, slot):
    @worker(queue="reports")
    class Report:
        def process(self, job):
            pass

    site.oban.insert_cron("* * * * *", Report, entry="report")

    # Of one that has had none yet, nobody knows.
    assert "badge bad" not in site.page("/crons").html

    slot(60)

    assert "badge bad" not in site.page("/cron?name=report").html


def test_an_entry_that_is_nobodys_and_one_that_is_wrong_are_told(site, conn):
    conn.execute(
        "INSERT INTO oban_sync_crons (name, entry, expression, timezone, catch_up, overlap, worker,"
        " job) VALUES ('Oban', 'gone', '0 9 * * *', 'Etc/UTC', 'last', 'allow', 'W', '{}'),"
        " ('Oban', 'wrong', 'never', 'Nowhere', 'last', 'allow', 'W', '[]')"
    )
    text = site.page("/crons").text

    assert "nobody's" in text
    assert "cannot be scheduled" in text
    assert "No live node has it in its code" in site.page("/cron?name=gone").text
    assert "It cannot be scheduled" in site.page("/cron?name=wrong").text


@pytest.mark.parametrize("query", ["", "?name=", "?name=%00", "?name=nothing"])
def test_an_entry_that_is_not_there_is_not_found(site, query):
    check(site.page(f"/cron{query}", 404))


def test_an_entry_is_paused_and_resumed(site, entry):
    assert site.told("/crons/pause", entry=entry, reason="holidays") == (
        "Entry report is paused: its times are skipped."
    )
    assert entries(site)["report"].paused_by == "anna: holidays"
    assert "by anna (holidays)" in site.page("/cron?name=report").text

    site.told("/crons/resume", entry=entry)

    assert not entries(site)["report"].paused
    assert [(found.action, found.subject, found.detail) for found in list_audit(site.oban.db)] == [
        ("crons:resume", "cron report", {}),
        ("crons:pause", "cron report", {"reason": "holidays"}),
    ]


def test_whoever_changes_an_entry_sees_that_at_once(site, entry):
    for verb, shown in (("pause", True), ("resume", False), ("pause", True)):
        # Somebody looked a moment before.
        site.page("/crons")
        page = site.client.get(
            site.post(f"/crons/{verb}", entry=entry, back="/oban/crons").location
        )

        assert ("badge warn" in page.text) is shown


def test_an_entry_is_run_now(site, entry):
    told = site.told("/crons/run", entry=entry)
    [job] = site.oban.list_jobs()
    [found] = list_audit(site.oban.db)

    assert told == f"Job {job.id} of entry report was inserted."
    assert (job.queue, job.meta["cron_by"]) == ("reports", "anna")
    assert (found.action, found.subject, found.detail["job"]) == (
        "crons:run",
        "cron report",
        job.id,
    )


def test_a_unique_job_that_is_there_is_told(site, entry):
    site.oban.update_cron(entry, unique={"period": "forever"})
    site.told("/crons/run", entry=entry)

    assert "Nothing was inserted: job" in site.told("/crons/run", entry=entry)


def test_an_entry_made_at_run_time_is_deleted(site, entry):
    response = site.post("/crons/delete", entry=entry)

    assert response.location == "/oban/crons"
    assert entries(site) == {}
    assert [found.action for found in list_audit(site.oban.db)] == ["crons:delete"]


def test_an_entry_of_the_code_is_not_deleted(site, entry, conn, factory):
    conn.execute("UPDATE oban_sync_crons SET dynamic = false")
    factory.node("alpha", crons=["report"])

    assert "stands in the code" in site.told("/crons/delete", entry=entry)
    assert "/crons/delete" not in str(site.page("/cron?name=report").forms)
    assert list_audit(site.oban.db) == []


@pytest.mark.parametrize("verb", ["pause", "resume", "run", "delete"])
def test_what_is_wrong_is_said_and_not_written_down(site, entry, verb):
    for name, problem in (("", "entry: is missing"), ("reprot", "report"), ("a\0b", "entry: ")):
        assert problem in site.told(f"/crons/{verb}", entry=name)

    assert list_audit(site.oban.db) == []


@pytest.mark.parametrize("verb", ["pause", "resume", "run", "delete"])
def test_nothing_is_done_to_an_entry_without_the_right_or_the_token(dashboard, entry, verb):
    looking = dashboard(access=lambda user: "read_only")
    site = dashboard()

    assert looking.post(f"/crons/{verb}", entry=entry).status_code == 403
    assert site.post(f"/crons/{verb}", token="wrong", entry=entry).status_code == 403
    assert site.post(
        f"/crons/{verb}", headers={"Sec-Fetch-Site": "cross-site"}, entry=entry
    ).status_code == 403  # fmt: skip
    assert not entries(site)["report"].paused
    assert site.oban.list_jobs() == []


def test_who_may_only_look_sees_no_buttons(dashboard, entry):
    site = dashboard(access=lambda user: "read_only")

    for path in ("/crons", "/cron?name=report"):
        assert [action for action, _ in site.page(path).forms if "/crons/" in action] == []


@pytest.mark.parametrize("text", STRINGS, ids=range(len(STRINGS)))
def test_hostile_text_in_entries_is_shown_harmlessly(dashboard, conn, slot, text):
    conn.execute(
        "INSERT INTO oban_sync_crons (name, entry, expression, timezone, catch_up, overlap, worker,"
        " job, paused, paused_by, paused_at, dynamic)"
        " VALUES ('Oban', %s, '* * * * *', 'Etc/UTC', 'last', 'allow', %s, %s, true, %s, now(),"
        " true), ('Oban', 'wrong', %s, %s, %s, %s, 'W', '{}', false, NULL, NULL, true)",
        [text, text, '{"args": {}}', text, text, text, text, text],
    )
    slot(100, "skipped", entry=text, reason=text)
    site = dashboard(user=text)
    listed = site.page("/crons")
    check(listed)

    for link in {found["href"] for found in listed.all("a") if "/cron?name=" in found["href"]}:
        check(site.page(link.removeprefix("/oban")))


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
def test_an_entry_is_run_paused_and_deleted_in_a_browser(site, entry, served, browser, scripts):
    page = browser(java_script_enabled=scripts)
    page.goto(f"{served(site.app)}/oban/crons")
    page.click("tr:has-text('report') button:has-text('Run now')")
    page.wait_for_selector(".notice.done")

    assert "of entry report was inserted" in page.inner_text(".notice.done")

    page.click("tr:has-text('report') a")
    page.click(".head summary:has-text('Pause')")
    page.fill("#pause-it input[name=reason]", "holidays")
    page.click("#pause-it button")
    page.wait_for_selector("main .notice.warn:has-text('anna (holidays)')")
    page.click(".head summary:has-text('Delete')")
    page.click("#delete button")
    page.wait_for_selector(".notice.done:has-text('is deleted')")

    assert entries(site) == {}
    assert len(site.oban.list_jobs()) == 1


def test_entries_fit_on_a_phone(site, entry, slot, served, browser):
    slot(100)
    page = browser(viewport={"width": 360, "height": 740})
    base = served(site.app)

    for path in ("/crons", "/cron?name=report"):
        page.goto(f"{base}/oban{path}")

        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path


@pytest.mark.parametrize("verb", ["pause", "resume", "run", "delete"])
def test_what_cannot_be_written_down_is_not_done(site, entry, conn, verb):
    if verb == "resume":
        site.oban.pause_cron(entry)

    before = site.oban.list_crons()[0].paused
    conn.execute("ALTER TABLE oban_sync_audit ADD CONSTRAINT none CHECK (false) NOT VALID")

    assert site.post(f"/crons/{verb}", entry=entry).status_code == 500
    assert [found.paused for found in site.oban.list_crons()] == [before]
    assert site.oban.list_jobs() == []
