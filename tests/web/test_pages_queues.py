"""The queues: how they stand, and what is asked of them."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from oban_sync.control.audit import list_audit
from oban_sync.core import limit_words
from oban_sync.core.clock import utc_now
from oban_sync.core.limits import Rate, check_limits
from oban_sync.engine import limits, overview
from tests.web.conftest import Page
from tests.web.test_hostile import STRINGS, check

NAME = "/queue?name=alpha"


@pytest.fixture
def site(dashboard):
    return dashboard(user="anna")


@pytest.fixture
def node(factory):
    return factory.node("alpha", "beta", node="n1")


def orders(site):
    return [
        (order.control.queue, order.node, order.control.aspect, order.control.value)
        for order in overview.list_orders(site.oban.db, "Oban")
    ]


def test_the_list_tells_how_queues_stand(site, factory, node):
    factory.executing(factory.owner(node, "alpha"))
    factory.job(queue="alpha")
    factory.job(queue="lonely")
    site.oban.pause_queue("asked", by="ben")
    page = site.page("/queues")

    for text in ("alpha", "1/10", "beta", "0/10", "lonely", "no node", "asked", "paused"):
        assert text in page.text
    assert "by ben" in page.text


def test_a_paused_queue_tells_by_whom_since_when_and_until_when(site, factory, node, conn):
    site.oban.pause_queue("alpha", by="ben", until=3600)
    conn.execute("UPDATE oban_sync_producers SET paused = true WHERE queue = 'alpha'")

    for path in ("/queues", NAME):
        text = site.page(path).text

        assert "by ben" in text
        assert "until 20" in text

    assert site.page(NAME).text.count("paused") >= 2


def test_a_queue_paused_on_one_node_says_on_how_many(site, factory, node, conn):
    factory.node("alpha", node="n2")
    conn.execute(
        "UPDATE oban_sync_producers SET paused = true WHERE queue = 'alpha' AND node_uuid = %s",
        [node],
    )

    assert "paused on 1 of 2 nodes" in site.page("/queues").text


def test_the_page_of_a_queue_tells_of_each_node(site, factory, node, conn):
    other = factory.node("beta", node="n2")
    conn.execute(
        "UPDATE oban_sync_nodes SET beat_at = now() - interval '40 s' WHERE uuid = %s", [other]
    )
    factory.executing(factory.owner(node, "alpha"))
    site.oban.scale_queue("alpha", 3, node="n1", by="ben")
    text = site.page(NAME).text

    for part in ("n1", "1/10", "n2", "does not run it", "silent for 40 s", "run up to 3 at once"):
        assert part in text


def told(conn, node, **options):
    """Let a node tell of limits of a queue."""
    said = limit_words.told(check_limits("queues.alpha", options))
    conn.execute(
        "UPDATE oban_sync_nodes SET info = jsonb_build_object('limits', jsonb_build_object("
        "'alpha', %s::jsonb)) WHERE uuid = %s",
        [json.dumps(said), node],
    )


def test_a_queue_without_limits_shows_none(site, node, conn):
    assert "Limits" not in site.page(NAME).text
    assert "Limits" not in site.page("/queue?name=nobody").text

    conn.execute('UPDATE oban_sync_nodes SET info = \'{"limits": {"alpha": {"allowed": 5}}}\'')
    assert "Limits" not in site.page(NAME).text


def test_the_limits_of_a_queue_are_shown_with_how_they_stand(site, node, conn):
    told(conn, node, global_limit=5, rate_limit={"allowed": 20, "period": 60})
    conn.execute("UPDATE oban_sync_producers SET running = 3 WHERE queue = 'alpha'")
    text = site.page(NAME).text

    assert "5 jobs at once, over all nodes 3 of 5 run" in text
    assert "20 starts in 60 s 20 may start now" in text
    assert "Not every node" not in text

    with site.oban.db.session() as tx:
        limits.consume(tx, limits.queue_limit("alpha"), Rate(20, 60.0), 0, 20, full=True)

    assert "none may start now, more in" in site.page(NAME).text


def test_limits_by_a_value_tell_how_many_have_jobs(site, node, conn):
    told(
        conn,
        node,
        global_limit=2,
        rate_limit={"allowed": 9, "period": 1},
        partition={"args": ["<b>"]},
        fair={"args": ["<b>"]},
    )
    assert site.page(NAME).text.count("none runs") == 2

    conn.execute("UPDATE oban_sync_producers SET lanes = '{7,7,8}' WHERE queue = 'alpha'")
    page = site.page(NAME)

    assert "2 jobs at once for each args '<b>', over all nodes 2 values have jobs that run, up" in (
        page.text
    )
    assert "9 starts in 1 s for each args '<b>' –" in page.text
    assert "turns by args '<b>'" in page.text
    assert "<b>" not in page.html


def test_where_nodes_tell_of_different_limits_the_newest_counts(site, node, factory, conn):
    told(conn, node, global_limit=5)
    newest = factory.node("alpha", node="n2")
    told(conn, newest, global_limit=7)
    text = site.page(NAME).text

    assert "7 jobs at once" in text
    assert "Not every node tells of these limits" in text

    conn.execute(
        "UPDATE oban_sync_nodes SET beat_at = now() - interval '2 min' WHERE uuid = %s", [newest]
    )
    assert "5 jobs at once" in site.page(NAME).text


def test_a_node_without_limits_is_told_of(site, node, factory, conn):
    told(conn, node, global_limit=5)
    factory.node("alpha", node="n2")
    text = site.page(NAME).text

    assert "5 jobs at once" in text
    assert "Not every node tells of these limits" in text


def test_a_node_that_is_known_to_be_dead_has_no_say_in_limits(site, node, factory, conn):
    told(conn, node, global_limit=5)
    dead = factory.node("alpha", lock_key=77, beat_at=utc_now() - timedelta(seconds=20))
    told(conn, dead, global_limit=7)

    assert "5 jobs at once" in site.page(NAME).text


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE oban_sync_nodes SET max_age = '-1e300', beat_at = now() + interval '1 hour'",
        "UPDATE oban_sync_producers SET running = 2147483647",
    ],
    ids=["age", "running"],
)
def test_odd_rows_keep_no_limits_from_being_shown(site, node, factory, conn, change):
    told(conn, node, global_limit=5)
    told(conn, factory.node("alpha", node="n2"), global_limit=5)
    conn.execute(change)

    assert "5 jobs at once" in site.page(NAME).text


def test_nodes_of_other_instances_are_not_offered(site, factory, node):
    factory.node("alpha", node="stranger", name="Other")

    assert "stranger" not in site.page(NAME).text


@pytest.mark.parametrize("query", ["", "?name=", "?name=%00"])
def test_a_queue_without_a_name_is_none(site, query):
    check(site.page(f"/queue{query}", 404))


def test_a_queue_that_nobody_knows_can_be_looked_at(site):
    assert "No live node runs this queue" in site.page("/queue?name=nothing").text


def test_a_queue_is_paused_with_a_reason_and_an_end(site, node):
    told = site.told(
        "/queues/pause", queue="alpha", minutes="30", reason="deploy", back="/oban/queues"
    )
    [order] = overview.list_orders(site.oban.db, "Oban")
    [entry] = list_audit(site.oban.db)

    assert told == "Queue alpha takes no more jobs for 30 minutes; what runs goes on."
    assert order.control.by == "anna: deploy"
    assert 1_700 < (order.control.until - order.control.at).total_seconds() < 1_900
    assert (entry.action, entry.subject) == ("queues:pause", "queue alpha")
    assert entry.detail == {"minutes": 30.0, "reason": "deploy"}


@pytest.mark.parametrize(
    ("path", "fields", "order"),
    [
        ("pause", {"queue": "alpha"}, ("alpha", "*", "paused", True)),
        ("pause", {"queue": "*"}, ("*", "*", "paused", True)),
        ("pause", {"queue": "alpha", "node": "n1"}, ("alpha", "n1", "paused", True)),
        ("resume", {"queue": "alpha", "node": ""}, ("alpha", "*", "paused", False)),
        ("resume", {"queue": "*"}, ("*", "*", "paused", False)),
        ("scale", {"queue": "alpha", "limit": "7"}, ("alpha", "*", "limit", 7)),
        ("scale", {"queue": "alpha", "limit": "7", "node": "n1"}, ("alpha", "n1", "limit", 7)),
        ("start", {"queue": "new", "limit": "5"}, ("new", "*", "running", 5)),
        ("stop", {"queue": "alpha"}, ("alpha", "*", "running", False)),
        ("stop", {"queue": "alpha", "node": "n1"}, ("alpha", "n1", "running", False)),
    ],
    ids=str,
)
def test_what_is_asked_for_stands_in_the_table_and_in_the_audit(site, node, path, fields, order):
    site.told(f"/queues/{path}", **fields)
    [entry] = list_audit(site.oban.db)

    assert orders(site) == [order]
    assert entry.action == f"queues:{path}"
    assert entry.who == "anna"
    assert entry.subject == ("all queues" if fields["queue"] == "*" else f"queue {fields['queue']}")
    assert entry.detail.get("node") == (fields.get("node") or None)


def test_whoever_changes_a_queue_sees_that_at_once(site):
    for verb, shown in (("pause", True), ("resume", False), ("pause", True)):
        # Somebody looked a moment before.
        site.page("/queues")
        response = site.post(f"/queues/{verb}", queue="asked", back="/oban/queues")

        assert ("badge warn" in site.client.get(response.location).text) is shown


def test_a_queue_starts_paused_where_that_is_asked_for(site, node):
    site.told("/queues/start", queue="new", limit="5", paused="yes")

    assert ("new", "*", "paused", True) in orders(site)


def test_a_reset_forgets_what_was_asked_for(site, node):
    site.oban.pause_queue("alpha")
    site.oban.scale_queue("alpha", 3)
    site.told("/queues/reset", queue="alpha")

    assert orders(site) == []


@pytest.mark.parametrize(
    ("path", "fields", "problem"),
    [
        ("pause", {}, "queue: is missing"),
        ("pause", {"queue": "alpha", "minutes": "soon"}, "minutes: 'soon' is not allowed"),
        ("pause", {"queue": "alpha", "minutes": "nan"}, "minutes: 'nan' is not allowed"),
        ("pause", {"queue": "alpha", "minutes": "-1"}, "minutes: '-1' is not allowed"),
        ("pause", {"queue": "alpha", "minutes": "1e99"}, "minutes: '1e99' is not allowed"),
        ("pause", {"queue": "alpha", "reason": "x" * 101}, "reason: "),
        ("pause", {"queue": "alpha", "reason": "a\x1bb"}, "reason: "),
        ("pause", {"queue": "a\0b"}, "queue: "),
        ("pause", {"queue": "alpha", "node": "a\nb"}, "node: "),
        ("scale", {"queue": "alpha"}, "limit: '' is no whole number"),
        ("scale", {"queue": "alpha", "limit": "0"}, "limit: "),
        ("scale", {"queue": "alpha", "limit": "10001"}, "limit: "),
        ("scale", {"queue": "*", "limit": "5"}, "queue: "),
        ("start", {"queue": "", "limit": "5"}, "queue: is missing"),
        ("stop", {"queue": "*"}, "queue: "),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_said_and_not_written_down(site, node, path, fields, problem):
    assert site.told(f"/queues/{path}", **fields).startswith(problem)
    assert orders(site) == []
    assert list_audit(site.oban.db) == []


@pytest.mark.parametrize("verb", ["pause", "resume", "scale", "start", "stop", "reset"])
def test_nothing_is_asked_of_a_queue_without_the_right_or_the_token(dashboard, node, verb):
    looking = dashboard(access=lambda user: "read_only")
    site = dashboard()
    fields = {"queue": "alpha", "limit": "5"}

    assert looking.post(f"/queues/{verb}", **fields).status_code == 403
    assert site.post(f"/queues/{verb}", token="wrong", **fields).status_code == 403
    assert site.post(
        f"/queues/{verb}", headers={"Sec-Fetch-Site": "cross-site"}, **fields
    ).status_code == 403  # fmt: skip
    assert site.open(f"/queues/{verb}").status_code in (404, 405)
    assert orders(site) == []


def test_who_may_only_look_sees_no_buttons(dashboard, node):
    site = dashboard(access=lambda user: "read_only")

    for path in ("/queues", NAME):
        page = site.page(path)

        assert [action for action, _ in page.forms if "/queues/" in action] == []
        assert not page.all("summary")


@pytest.mark.parametrize("text", STRINGS, ids=range(len(STRINGS)))
def test_hostile_names_are_shown_harmlessly(dashboard, factory, conn, text):
    name = text[:100]
    factory.node(name, node=name)
    factory.job(queue=name)
    conn.execute(
        "INSERT INTO oban_sync_controls (name, queue, node, aspect, value, set_by)"
        " VALUES ('Oban', %s, %s, 'paused', 'true', %s), ('Oban', '*', '*', 'paused', 'true', %s)",
        [name, name, text, text],
    )
    site = dashboard(user=text)
    listed = site.page("/queues")
    check(listed)
    check(site.page("/queue", query_string={"name": name}))
    # The way there is found by the link.
    [link] = [found["href"] for found in listed.all("a") if "/queue?name=" in found["href"]]
    check(site.page(link.removeprefix("/oban")))
    check(site.page("/queue", query_string={"name": name, "span": text, "by": text}))


def test_a_live_node_does_as_it_is_told(dashboard, make_oban, probe):
    oban = make_oban(queues={"alpha": 2}, node="n1").start()
    site = dashboard(oban=oban, user="anna")
    site.told("/queues/scale", queue="alpha", limit="5")
    site.told("/queues/pause", queue="alpha", reason="deploy")

    assert wait_until(lambda: (info := oban.check_queue("alpha")).limit == 5 and info.paused)

    site.told("/queues/resume", queue="alpha")

    assert wait_until(lambda: not oban.check_queue("alpha").paused)


def wait_until(holds, seconds=10.0):
    """Whether something comes to hold; nodes hear of orders within a second."""
    import threading
    import time

    deadline = time.monotonic() + seconds
    pause = threading.Event()

    while time.monotonic() < deadline:
        if holds():
            return True

        pause.wait(0.05)

    return False


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
def test_a_queue_is_paused_and_resumed_in_a_browser(site, factory, node, served, browser, scripts):
    page = browser(java_script_enabled=scripts)
    page.goto(f"{served(site.app)}/oban/queues")
    page.click("tr:has-text('alpha') summary:has-text('Pause')")
    page.fill("tr:has-text('alpha') input[name=minutes]", "30")
    page.fill("tr:has-text('alpha') input[name=reason]", "deploy")
    page.click("tr:has-text('alpha') form.pop button")
    page.wait_for_selector(".notice.done")

    assert "alpha takes no more jobs for 30 minutes" in page.inner_text(".notice.done")

    page.click("tr:has-text('alpha') a")
    page.wait_for_selector("h1:has-text('alpha')")

    assert "by anna (deploy)" in page.inner_text("main .notice.warn")

    page.click(".head button:has-text('Resume')")
    page.wait_for_selector(".notice.done")

    assert orders(site) == [("alpha", "*", "paused", False)]


def test_a_sheet_names_the_queue_that_it_is_about(site, node):
    text = site.page("/queues").text
    assert "Pause alpha" in text
    assert "Pause all queues" in text

    text = site.page(NAME).text

    for title in ("Pause alpha", "Scale alpha on n1", "Stop alpha on n1", "Reset alpha"):
        assert title in text


def verbs(site):
    html = site.page(NAME).html
    head = Page(html[html.index('class="head"') : html.index("Busy / slots")])

    return {found for found in ("Pause", "Resume", "Start") if f"{found} " in head.text}


def test_a_queue_that_runs_can_be_paused(site, node):
    assert verbs(site) == {"Pause"}


def test_a_queue_that_is_paused_can_be_resumed(site, node, conn):
    conn.execute("UPDATE oban_sync_producers SET paused = true WHERE queue = 'alpha'")
    site.oban.pause_queue("alpha")

    assert verbs(site) == {"Resume"}


def test_a_queue_can_be_paused_resumed_and_started_where_nodes_differ(site, factory, node, conn):
    conn.execute("UPDATE oban_sync_producers SET paused = true WHERE queue = 'alpha'")
    factory.node("alpha", node="n2")
    factory.node("beta", node="n3")

    assert verbs(site) == {"Pause", "Resume", "Start"}


def test_who_was_asked_to_stop_may_be_asked_to_start(site, node):
    site.oban.stop_queue("alpha")

    assert verbs(site) == {"Pause", "Start"}


def test_a_small_window_in_a_list_can_be_seen_as_a_whole(site, node, served, browser):
    page = browser()
    page.goto(f"{served(site.app)}/oban/queues")
    page.click("tr:has-text('beta') summary:has-text('Pause')")
    button = page.locator("tr:has-text('beta') form.pop button")
    # What lies above its middle is itself, and not the table that it hangs out of.
    seen = button.evaluate(
        "each => { const box = each.getBoundingClientRect();"
        " return each.contains(document.elementFromPoint("
        "box.x + box.width / 2, box.y + box.height / 2)); }"
    )

    assert seen


def test_a_queue_can_be_handled_on_a_phone(site, node, served, browser):
    page = browser(viewport={"width": 360, "height": 740})
    base = served(site.app)

    for path in ("/queues", "/queue?name=alpha"):
        page.goto(f"{base}/oban{path}")

        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path

    page.click(".head summary:has-text('Scale')")
    page.fill("#scale input[name=limit]", "4")
    page.click("#scale button")
    page.wait_for_selector(".notice.done")

    assert orders(site) == [("alpha", "*", "limit", 4)]


@pytest.mark.parametrize(
    ("verb", "fields"),
    [
        ("pause", {}),
        ("resume", {}),
        ("scale", {"limit": "5"}),
        ("start", {"limit": "5", "paused": "yes"}),
        ("stop", {}),
        ("reset", {}),
    ],
    ids=str,
)
def test_what_cannot_be_written_down_is_not_asked_for(site, node, conn, verb, fields):
    site.oban.scale_queue("alpha", 3)
    before = orders(site)
    conn.execute("ALTER TABLE oban_sync_audit ADD CONSTRAINT none CHECK (false) NOT VALID")

    assert site.post(f"/queues/{verb}", queue="alpha", **fields).status_code == 500
    assert orders(site) == before


def test_a_node_of_any_length_is_asked_or_refused(site, node):
    told = site.told("/queues/pause", queue="alpha", node="n" * 70_000)

    assert told == "node: has 70,000 characters; give a name of up to 255"
    assert orders(site) == []
    assert list_audit(site.oban.db) == []
