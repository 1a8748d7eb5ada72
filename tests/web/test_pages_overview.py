"""The overview: charts, queues and failures."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

import pytest

from oban_sync.core.sketch import met_bin_of
from oban_sync.engine import metrics
from oban_sync.engine.metrics import Counted, QueueHealth
from oban_sync.engine.overview import Failure
from oban_sync.web import curves
from oban_sync.web.pages.overview import depth, drained, kinds_of
from tests.web.test_hostile import STRINGS, check


@pytest.fixture
def site(dashboard):
    return dashboard(user="anna")


@pytest.fixture
def ran(db):
    """Writes what a node counted in the ten seconds that ended so many seconds ago."""

    def write(seconds, *, queue="alpha", worker="app.Worker", state="completed", node="n1", jobs=30,
              took=0.25, waited=1.0):  # fmt: skip
        times = ({met_bin_of(seconds * 1e9): jobs} for seconds in (took, waited))
        counted = Counted(queue, worker, state, jobs, *times)

        with db.session() as tx:
            metrics.add(tx, [counted], period=10, age=float(seconds), name="Oban", node=node)

    return write


def charts_of(site, query=""):
    found = site.open(f"/charts{query}").json["charts"]

    return {chart["name"]: chart for chart in found}


def lines_of(chart):
    return {line["label"]: line for line in chart["lines"]}


def test_the_dashboard_begins_with_the_overview(site):
    assert site.open("/").location.endswith("/overview")
    assert site.page("/overview").all("a", **{"aria-current": "page"})[0]["href"] == (
        "/oban/overview"
    )


def test_charts_show_what_ran_how_long_it_took_and_what_failed(site, ran):
    ran(100)
    ran(100, queue="beta", jobs=10, took=2.0, waited=5.0)
    ran(100, queue="beta", state="retryable", jobs=4)
    ran(100, queue="beta", state="discarded", jobs=1)
    charts = charts_of(site, "?span=5m&by=queue&share=p95")

    assert list(charts) == ["throughput", "run", "wait", "failures"]
    assert list(lines_of(charts["throughput"])) == ["alpha", "beta"]
    assert max(lines_of(charts["throughput"])["alpha"]["values"]) == pytest.approx(3.0)
    assert max(filter(None, lines_of(charts["run"])["beta"]["values"])) == pytest.approx(
        2, rel=0.04
    )
    assert max(filter(None, lines_of(charts["wait"])["alpha"]["values"])) == pytest.approx(
        1, rel=0.04
    )
    assert sum(lines_of(charts["failures"])["beta"]["values"]) == 5
    assert charts["failures"]["figure"].startswith("5 of 45")
    assert all(len(line["values"]) == len(chart["times"])
               for chart in charts.values() for line in chart["lines"])  # fmt: skip


@pytest.mark.parametrize(
    ("by", "labels"),
    [
        ("state", {"completed", "discarded"}),
        ("node", {"n1", "n2"}),
        ("worker", {"app.Worker", "app.Other"}),
        ("queue", {"alpha", "beta"}),
        ("nonsense", {"alpha", "beta"}),
    ],
)
def test_curves_stand_for_what_is_asked_for(site, ran, by, labels):
    ran(60)
    ran(60, queue="beta", worker="app.Other", node="n2", state="discarded")
    found = lines_of(charts_of(site, f"?span=5m&by={by}")["throughput"])

    assert set(found) == labels

    if by == "state":
        assert found["completed"]["kind"] == "s-completed"
        failures = lines_of(charts_of(site, "?span=5m&by=state")["failures"])
        assert set(failures) == {"discarded"}


def test_curves_of_failures_look_different_from_each_other(site, ran):
    for number in range(curves.MOST_LINES + 1):
        ran(60, worker=f"busy{number}", jobs=100 + number)

    for number in range(5):
        ran(60, worker=f"failing{number}", jobs=1, state="discarded")

    charts = charts_of(site, "?span=5m&by=worker")
    kinds = [line["kind"] for line in charts["failures"]["lines"]]

    assert len(set(kinds)) == 5
    assert "c-other" not in kinds
    assert charts["throughput"]["lines"][-1]["kind"] == "c-other"


@pytest.mark.parametrize("span", list(curves.SPANS))
@pytest.mark.parametrize("share", curves.SHARES)
def test_every_span_and_share_has_charts(site, ran, span, share):
    ran(200)
    charts = charts_of(site, f"?span={span}&share={share}")

    assert 1 <= len(charts["throughput"]["times"]) <= 100
    assert charts["run"]["figure"].startswith(share)


def test_a_queue_has_the_same_colour_in_every_chart(site, ran):
    ran(100, jobs=30)
    ran(100, queue="beta", jobs=10)
    ran(100, queue="beta", state="discarded", jobs=5)
    charts = charts_of(site, "?span=5m&by=queue")
    kinds = {(line["label"], line["kind"]) for chart in charts.values() for line in chart["lines"]}

    assert kinds == {("alpha", "c-0"), ("beta", "c-1")}


def test_curves_that_are_too_many_are_one(site, ran):
    for number in range(curves.MOST_LINES + 3):
        ran(60, queue=f"q{number}", jobs=100 - number)

    charts = charts_of(site, "?span=5m")
    [*_, last] = charts["throughput"]["lines"]

    assert len(charts["throughput"]["lines"]) == curves.MOST_LINES + 1
    assert (last["label"], last["kind"]) == ("all others (3)", "c-other")
    assert max(last["values"]) * 10 == pytest.approx(93 + 92 + 91, rel=0.01)
    # Of times there is no sum.
    assert len(charts["run"]["lines"]) == curves.MOST_LINES


def test_charts_of_one_queue(site, ran):
    ran(60)
    ran(60, queue="beta", worker="app.Other")
    found = charts_of(site, "?span=5m&by=worker&queue=beta")

    assert set(lines_of(found["throughput"])) == {"app.Other"}
    assert charts_of(site, "?queue=%00")["throughput"]["lines"] is not None


def test_the_page_has_charts_where_no_scripts_run(site, ran):
    ran(100)
    page = site.page("/overview?span=5m")

    assert len(page.all("svg", **{"class": "curves"})) == 3
    assert "Nothing failed." in page.text
    assert "alpha" in page.text
    # The choice is kept in every link.
    assert {"href": "/oban/overview?span=24h&by=queue&share=p95"} in page.all("a")


def test_what_refreshes_itself_has_no_charts(site, ran):
    ran(100)
    part = site.page("/overview", headers={"HX-Request": "true"})

    assert not part.all("svg", **{"class": "curves"})
    assert "Recent failures" in part.text


def test_the_overview_of_nothing_says_so(site):
    page = site.page("/overview")

    for text in ("Nothing ran.", "Nothing failed lately.", "No node runs a queue"):
        assert text in page.text


def test_queues_stand_in_the_order_of_need(site, factory):
    node = factory.node("alpha", "beta")
    factory.executing(factory.owner(node, "alpha"))
    long_ago = (datetime.now(UTC) - timedelta(hours=2)).replace(tzinfo=None)
    factory.job(queue="gamma", scheduled_at=long_ago)
    factory.job(queue="beta")
    page = site.page("/overview")
    names = [
        found["href"].partition("name=")[2]
        for found in page.all("a")
        if found["href"].startswith("/oban/queue?")
    ]

    assert names == ["gamma", "beta", "alpha"]
    assert "2 h" in page.text
    assert "no node" in page.text
    assert "never" in page.text


def test_failures_that_look_the_same_are_one_kind(site, factory, conn):
    for number in range(3):
        job_id = factory.job(
            state="discarded",
            worker="app.Mailer",
            discarded_at=datetime.now(UTC).replace(tzinfo=None),
        )
        conn.execute(
            "UPDATE oban_jobs SET errors = ARRAY[%s::jsonb] WHERE id = %s",
            [
                json.dumps({"error": "Traceback (most recent call last):\n  File x\n"
                                     f"OSError: no answer after {number} s"}),
                job_id,
            ],
        )  # fmt: skip

    page = site.page("/overview")

    assert page.text.count("OSError: no answer after") == 1
    assert "of the last 3 jobs that failed" in page.text
    assert any(
        "workers:app.Mailer" in unquote(found["href"]) and "states:" in unquote(found["href"])
        for found in page.all("a")
    )


def failure(job_id, error, **fields):
    values = {
        "state": "retryable", "queue": "q", "worker": "W", "attempt": 1, "max_attempts": 3,
        "failed_at": datetime.now(UTC),
    }  # fmt: skip

    return Failure(id=job_id, error=error, **{**values, **fields})


def test_kinds_are_told_apart_by_worker_and_error():
    kinds = kinds_of(
        [
            failure(9, "ValueError: id 17 at 0xff"),
            failure(8, "ValueError: id 4 at 0x1e", queue="r", state="discarded"),
            failure(7, "ValueError: id 4", worker="V"),
            failure(6, None),
        ]
    )

    assert [(kind.worker, kind.jobs, kind.newest.id) for kind in kinds] == [
        ("W", 2, 9),
        ("V", 1, 7),
        ("W", 1, 6),
    ]
    assert (kinds[0].discarded, kinds[0].queues) == (1, {"q", "r"})
    assert kinds[2].line == "no error was recorded"


def test_what_is_not_counted_is_said_to_be_more():
    full = QueueHealth("q", 10_000, 0, 0, 0, 5.0, 1, 0, 1, False, 1.0, 10_000.0)
    idle = QueueHealth("q", 0, 0, 0, 0, 0.0, 1, 0, 1, False, 0.0, 0.0)

    assert (depth(10_000), depth(7)) == ("10,000+", "7")
    assert [drained(each) for each in (full, idle)] == ["> 2 h 46 min", "–"]


def test_a_queue_is_never_empty_only_where_nobody_takes_its_jobs():
    # Long jobs: some run, and none has ended within the last minute.
    slow = QueueHealth("q", 3, 1, 0, 0, 5.0, 1, 1, 1, False, 0.0, None)

    assert drained(slow) == "unknown"
    assert drained(replace(slow, paused=True)) == "never"
    assert drained(replace(slow, nodes=0)) == "never"


def test_the_numbers_stand_above_the_charts_and_are_new_with_what_is_below(site, factory):
    factory.job()
    html = site.page("/overview").html
    assert html.index('id="numbers"') < html.index("data-charts=") < html.index('id="live"')

    part = site.page("/overview", headers={"HX-Request": "true"})
    [numbers] = part.all("dl", id="numbers")
    assert numbers["hx-swap-oob"] == "true"
    assert part.text.startswith("Available 1 ")


@pytest.mark.parametrize("text", STRINGS, ids=range(len(STRINGS)))
def test_hostile_names_are_shown_harmlessly(site, ran, factory, conn, text):
    name = text.replace("\0", "")[:100]
    ran(60, queue=name, worker=name, node=name, state="retryable")
    job_id = factory.job(queue=name, worker=name, state="discarded")
    factory.job(queue=name, worker=name)
    conn.execute(
        "UPDATE oban_jobs SET errors = ARRAY[%s::jsonb] WHERE id = %s",
        [json.dumps({"error": text}), job_id],
    )

    for by in curves.GROUPS:
        check(site.page(f"/overview?span=5m&by={by}"))

    check(site.page("/overview", query_string={"span": text, "by": text, "share": text}))
    assert site.open("/charts?span=5m").json["charts"][0]["lines"][0]["label"] == name


def test_a_chart_goes_on_in_a_browser(site, ran, served, browser):
    ran(100)
    page = browser()
    page.goto(f"{served(site.app)}/oban/overview?span=5m&by=queue")
    page.wait_for_selector("[data-chart=throughput] canvas")

    assert page.locator("[data-chart=throughput] [data-legend]").inner_text().startswith("alpha")
    assert page.locator("svg.curves").count() == 0
    assert "Nothing failed." in page.locator("[data-chart=failures]").inner_text()

    page.click("text=by state")
    page.wait_for_selector("[data-chart=run] canvas")

    assert "completed" in page.locator("[data-chart=run] [data-legend]").inner_text()


def test_the_numbers_of_a_page_are_new_while_its_charts_stay(dashboard, factory, served, browser):
    site = dashboard(refresh=1)
    page = browser()
    page.goto(f"{served(site.app)}/oban/overview")
    page.evaluate("document.querySelector('[data-charts]').dataset.same = 'yes'")
    factory.job()
    page.locator("#numbers dd", has_text="1").first.wait_for()

    assert page.locator("#numbers").count() == 1
    assert page.locator("[data-charts][data-same]").count() == 1


def test_a_single_value_between_two_gaps_is_seen_in_a_chart(site, ran, served, browser):
    ran(100, took=0.5)
    page = browser()
    # Times of a curve are known only where something ran.
    page.goto(f"{served(site.app)}/oban/overview?span=5m&by=queue")
    page.wait_for_selector("[data-chart=run] canvas")
    colours = page.evaluate(
        """() => {
          const canvas = document.querySelector('[data-chart=run] canvas');
          const colour = getComputedStyle(document.querySelector(
            '[data-chart=run] .swatch')).color.match(/\\d+/g).map(Number);
          const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
          let found = 0;
          for (let at = 0; at < data.length; at += 4) {
            if (data[at + 3] > 250 && colour.every((part, index) => data[at + index] === part)) {
              found += 1;
            }
          }
          return found;
        }"""
    )

    assert colours >= 12


def test_marks_of_a_few_minutes_tell_seconds(site, ran, served, browser):
    ran(100)
    # So wide that there is a mark every half minute.
    page = browser(viewport={"width": 880, "height": 700})
    page.add_init_script(
        """window.marks = [];
        const written = CanvasRenderingContext2D.prototype.fillText;
        CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
          window.marks.push(text);
          return written.call(this, text, ...rest);
        };"""
    )
    page.goto(f"{served(site.app)}/oban/overview?span=5m&by=queue")
    page.wait_for_selector("[data-chart=throughput] canvas")
    page.wait_for_function("window.marks.some(text => /^[0-9]+:/.test(text))")
    clocks = {text for text in page.evaluate("window.marks") if ":" in text}

    assert any(text.endswith(":30") for text in clocks)
    assert all(text.count(":") == 2 for text in clocks)


def test_a_chart_stays_as_it_came_without_scripts(site, ran, served, browser):
    ran(100)
    page = browser(java_script_enabled=False)
    page.goto(f"{served(site.app)}/oban/overview?span=5m")

    assert page.locator("svg.curves").count() == 3

    page.click("text=7 d")

    assert page.locator(".segments a[aria-current]").first.inner_text() == "7 d"


def test_charts_fit_on_a_phone(site, ran, served, browser):
    ran(100)
    page = browser(viewport={"width": 360, "height": 740})
    page.goto(f"{served(site.app)}/oban/overview")
    page.wait_for_selector("[data-chart=throughput] canvas")

    assert page.evaluate("document.documentElement.scrollWidth") <= 360
