"""The nodes: what they are, and whether they still beat."""

from __future__ import annotations

import json

import pytest

from tests.web.test_hostile import STRINGS, check

INFO = json.dumps(
    {
        "version": "1.2.3",
        "python": "3.13.1",
        "pid": 4711,
        "host": "web-1",
        "threads": 12,
        "degraded": True,
    }
)


@pytest.fixture
def site(dashboard):
    return dashboard()


def test_a_node_tells_what_it_is(site, factory, conn):
    node = factory.node("alpha", "beta", node="n1", info=INFO, workers=["app.One", "app.Two"])
    factory.executing(factory.owner(node, "alpha"))
    conn.execute(
        "INSERT INTO oban_sync_leaders VALUES ('Oban', %s, 'n1', now(), now() + interval '1 min')",
        [node],
    )
    page = site.page("/nodes")

    for part in ("n1", "leader", "web-1", "4711", "12 threads", "1.2.3", "Python 3.13.1", "1 of 20",
                 "1/10", "hears nothing", "2 workers", "app. Two"):  # fmt: skip
        assert part in page.text
    assert "silent" not in page.text


def test_a_node_that_does_not_beat_is_said_to_be_silent(site, factory, conn):
    factory.node("alpha", node="n1")
    conn.execute("UPDATE oban_sync_nodes SET beat_at = now() - interval '33 s'")

    assert "silent for 33 s" in site.page("/nodes").text


def test_an_old_node_says_less_and_is_shown(site, factory):
    factory.node("alpha", node="old")
    text = site.page("/nodes").text

    assert "older than this dashboard" in text
    assert "workers" not in text


def test_a_node_of_another_version_than_most_is_marked(site, factory):
    for name in ("n1", "n2"):
        factory.node("alpha", node=name, info=INFO)

    factory.node("alpha", node="n3", info=INFO.replace("1.2.3", "1.2.4"))

    assert site.page("/nodes").text.count("other version") == 1


def test_nodes_stand_under_the_names_of_their_instances(site, factory):
    factory.node("alpha", node="n1")
    factory.node("alpha", node="n2", name="Reports")
    page = site.page("/nodes")

    assert page.text.index("n1") < page.text.index("Reports") < page.text.index("n2")


def test_without_nodes_it_says_that_nothing_runs(site):
    assert "No node takes part" in site.page("/nodes").text


def test_a_live_node_tells_of_itself(make_oban, dashboard):
    oban = make_oban(queues={"alpha": 3}, node="here").start()
    site = dashboard(oban=oban)
    text = site.page("/nodes").text

    for part in ("here", "alpha", "0/3", "Python 3."):
        assert part in text


@pytest.mark.parametrize("text", STRINGS, ids=range(len(STRINGS)))
def test_hostile_text_in_nodes_is_shown_harmlessly(site, factory, text):
    info = {"version": text, "python": text, "pid": 1, "host": text, "threads": 1}
    factory.node(text[:100], node=text, name=text, info=json.dumps(info), workers=[text, text * 20])

    check(site.page("/nodes"))


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
def test_workers_are_unfolded_in_a_browser(site, factory, served, browser, scripts):
    factory.node("alpha", node="n1", info=INFO, workers=["app.One"])
    page = browser(java_script_enabled=scripts, viewport={"width": 360, "height": 740})
    page.goto(f"{served(site.app)}/oban/nodes")
    page.click("summary:has-text('1 worker')")

    assert page.locator("text=One").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360 if scripts else True
