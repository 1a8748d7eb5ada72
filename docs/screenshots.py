"""Make the pictures of the dashboard that the guide shows: `python docs/screenshots.py`.

Needs playwright and a chromium at /usr/bin/chromium. A private PostgreSQL is filled with a shop's
jobs; a node runs one of them while the pictures are taken.
"""

from __future__ import annotations

import random
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

sys.path.insert(0, str(ROOT))

import psycopg  # noqa: E402
from flask import Flask  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402
from werkzeug.serving import make_server  # noqa: E402

from oban_sync import Oban, current_job, job, schema  # noqa: E402
from oban_sync.control import audit  # noqa: E402
from oban_sync.core.sketch import Sketch, packed  # noqa: E402
from oban_sync.embedded import Server  # noqa: E402
from oban_sync.web import blueprint  # noqa: E402

IMAGES = ROOT / "docs" / "images"
CHROMIUM = "/usr/bin/chromium"

#: Pages by the name of their picture, with what else there is to be known of each.
SHOTS: dict[str, dict[str, Any]] = {
    "overview": {
        "path": "/overview?span=1h",
        "viewport": {"width": 1_280, "height": 1_100},
    },
    "jobs": {"path": "/jobs"},
    "jobs-dark": {"path": "/jobs?q=states:discarded,retryable", "color_scheme": "dark"},
    "job": {"path": "/jobs/{failed}"},
    "job-running": {"path": "/jobs/{running}"},
    "new-job": {"path": "/new-job", "viewport": {"width": 1_280, "height": 640}},
    "queues": {"path": "/queues"},
    "queue": {"path": "/queue?name=media", "viewport": {"width": 1_280, "height": 1_000}},
    "crons": {"path": "/crons"},
    "cron": {"path": "/cron?name=shop.mail.WelcomeMail"},
    "nodes": {"path": "/nodes"},
    "audit": {"path": "/audit"},
    "phone": {"path": "/jobs", "viewport": {"width": 380, "height": 760}},
}

_release = threading.Event()


#: What the shop's node runs.
SHOP_QUEUES = {
    "mailers": 10,
    "media": {
        "limit": 4,
        "global_limit": {"allowed": 8, "partition": "worker"},
        "rate_limit": {"allowed": 600, "period": 60},
    },
    "reports": 2,
}


@job(queue="mailers", name="shop.mail.WelcomeMail", cron="0 9 * * MON-FRI")
def welcome(to: str = "new@example.com") -> None:
    """Welcome a customer."""
    if to.startswith("bounce"):
        raise ConnectionError(f"450 4.2.1 mailbox of {to} is busy")


@job(queue="media", max_attempts=3, name="shop.media.Thumbnails", tags=["images"])
def thumbnails(photo: int = 0, sizes: list[int] | None = None) -> None:
    """Make small pictures of a large one."""
    if photo % 7 == 0:
        raise ValueError(f"photo {photo} is no picture")


@job(queue="reports", name="shop.reports.MonthlyReport", cron="@monthly")
def report(month: str = "2026-11") -> None:
    """Add up a month."""
    current_job().report_progress(1_840, 2_600, note=f"orders of {month}")
    _release.wait(60.0)


@contextmanager
def serving(app: Flask) -> Iterator[str]:
    """Serve an application; its address."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()


def main() -> None:
    """Make all of them."""
    IMAGES.mkdir(exist_ok=True)

    with (
        tempfile.TemporaryDirectory(prefix="oban-sync-shots-") as directory,
        Server(directory) as url,
    ):
        schema.install(url)
        oban = Oban(url, node="web-1", queues=SHOP_QUEUES)

        with oban:
            known = filled(oban, url)
            app = Flask("shop")
            app.secret_key = "of a minute"  # noqa: S105 - an application for pictures
            app.register_blueprint(
                blueprint(oban, access=lambda user: "all", user=lambda: "anna@example.com"),
                url_prefix="/oban",
            )

            with serving(app) as address:
                shoot(f"{address}/oban", known)

            _release.set()


def filled(oban: Oban, url: str) -> dict[str, int]:
    """Run a shop's jobs; the ids of some."""
    chance = random.Random(7)  # noqa: S311 - pictures, not keys
    jobs = [
        *(welcome.new(to=f"customer{number}@example.com") for number in range(60)),
        *(welcome.new(to=f"bounce{number}@example.com") for number in range(3)),
        *(thumbnails.new(photo=chance.randrange(1, 999), sizes=[64, 256]) for _ in range(60)),
        *(
            welcome.options(schedule_in=chance.randrange(60, 7_200)).new(to="later@example.com")
            for _ in range(9)
        ),
    ]
    oban.enqueue_many(jobs)
    running = oban.enqueue(report.new(month="2026-11"))
    failed = oban.enqueue(thumbnails.new(photo=7, sizes=[64, 256, 1024]))
    pause = threading.Event()

    for _ in range(600):
        found = oban.get_job(failed)
        counts = oban.count_jobs()

        if (
            found is not None
            and found.state == "retryable"
            and counts["available"] == 0
            and counts["executing"] <= 1
        ):
            break

        pause.wait(0.05)

    # What somebody did by hand, for the page that tells of it.
    audit.record(
        oban.db,
        "Oban",
        via="cli",
        who="deploy@example.com",
        action="queues:scale",
        subject="queue media",
        detail={"limit": 4},
    )
    oban.pause_queue("media", by="anna@example.com: resizing is being replaced", until=5_400.0)
    audit.record(
        oban.db,
        "Oban",
        via="dashboard",
        who="anna@example.com",
        action="queues:pause",
        subject="queue media",
        detail={"minutes": 90, "reason": "resizing is being replaced"},
    )

    with psycopg.connect(url, autocommit=True) as conn:
        # So that nothing is tried again meanwhile. And a shop's own code has failed, not this file
        # wherever it lies.
        conn.execute(
            "UPDATE oban_jobs SET scheduled_at = scheduled_at + interval '5 min',"
            " errors = replace(errors::text, %s, %s)::jsonb[] WHERE state = 'retryable'",
            [__file__, "/srv/shop/media.py"],
        )
        past_hour(conn)
        conn.execute("ANALYZE oban_jobs")

    return {"running": running.id or 0, "failed": failed.id or 0}


def past_hour(conn: psycopg.Connection[Any]) -> None:
    """What such a shop ran in an hour, as its nodes would have counted it."""
    chance = random.Random(11)  # noqa: S311 - pictures, not keys

    def bins(jobs: int, seconds: float) -> bytes:
        found = Sketch()

        for _ in range(jobs):
            found.add(int(chance.lognormvariate(0.0, 0.7) * seconds * 1e9))

        return packed(found.bins)

    rows = []

    for minute in range(61):
        for queue, worker, usual, seconds in (
            ("mailers", "shop.mail.WelcomeMail", 240, 0.3),
            ("media", "shop.media.Thumbnails", 150, 0.8),
        ):
            jobs = int(usual * chance.uniform(0.7, 1.2))
            failed = chance.randrange(8)

            for state, count in (("completed", jobs), ("retryable", failed)):
                times = bins(count, seconds), bins(count, 0.02)
                rows.append(
                    (
                        minute,
                        queue,
                        worker,
                        state,
                        count,
                        count if state == "retryable" else 0,
                        *times,
                    )
                )

    # As a node would have written them.
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO oban_sync_metrics (period, started_at, name, node, queue, worker, state,"
            " jobs, failed, exec_time, wait_time) VALUES (60, date_trunc('minute', now())"
            " - make_interval(mins => %s), 'Oban', 'web-1', %s, %s, %s, %s, %s, %s, %s)",
            rows,
        )


def shoot(address: str, known: dict[str, int]) -> None:
    """Take the pictures."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        for name, shot in SHOTS.items():
            options = {"viewport": {"width": 1_280, "height": 800}, "color_scheme": "light"}
            given = {key: value for key, value in shot.items() if key != "path"}
            context = browser.new_context(**{**options, **given}, device_scale_factor=1)
            page = context.new_page()
            page.goto(address + shot["path"].format(**known))
            page.wait_for_timeout(600)
            page.screenshot(path=str(IMAGES / f"dashboard-{name}.png"))
            context.close()

        browser.close()


if __name__ == "__main__":
    main()
