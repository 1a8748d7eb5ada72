"""How long the dashboard's pages take with many jobs, and what watching them costs PostgreSQL.

  pages   the server's time for each page, asked one after the other by Flask's client: the whole
          page as it is opened, in milliseconds, with nothing kept from the request before; and
          again, with what pages keep for some seconds, whoever looks
  polls   what a page costs PostgreSQL that refreshes itself: the processor's time of its
          connections for each refresh, as percent of a core at one every two seconds. Where many
          watch, counts and nodes are looked up once a second for all of them, lists for each.

The jobs are made by SQL: most are completed, and of the rest there are some of every state, of 20
workers in 10 queues. Their table is vacuumed and analyzed once, as PostgreSQL itself would.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psycopg
from flask import Flask
from flask.testing import FlaskClient

from benchmarks import rig
from oban_sync import Oban
from oban_sync.web import blueprint
from oban_sync.web.site import KEPT, Site

#: Milliseconds of a page, and percent of a core for who watches it.
GOALS = {"page": 100.0, "poll": 1.0}

#: Seconds between two refreshes, unless people choose another pace.
PACE = 2.0

JOBS = """
INSERT INTO {schema}.oban_jobs (
    state, queue, worker, args, meta, tags, attempt, priority,
    inserted_at, scheduled_at, attempted_at, attempted_by, completed_at, cancelled_at, discarded_at,
    errors
)
SELECT
    made.state::{schema}.oban_job_state,
    'queue_' || number %% 10,
    'app.workers.Worker' || number %% 20,
    jsonb_build_object('number', number, 'user', jsonb_build_object('id', number %% 1000)),
    jsonb_build_object('source', 'shop'),
    CASE WHEN number %% 50 = 0 THEN ARRAY['urgent'] ELSE ARRAY[]::text[] END,
    CASE WHEN made.state IN ('available', 'scheduled') THEN 0 ELSE 1 END,
    number %% 4,
    made.at,
    CASE WHEN made.state = 'scheduled' THEN made.at + interval '30 days' ELSE made.at END,
    CASE WHEN made.state IN ('available', 'scheduled') THEN NULL ELSE made.at END,
    ARRAY['web-' || number %% 3, '00000000-0000-4000-8000-000000000000'],
    CASE WHEN made.state = 'completed' THEN made.at + interval '1 s' END,
    CASE WHEN made.state = 'cancelled' THEN made.at + interval '1 s' END,
    CASE WHEN made.state = 'discarded' THEN made.at + interval '1 s' END,
    CASE
        WHEN made.state IN ('discarded', 'retryable') THEN ARRAY[jsonb_build_object(
            'at', '2026-11-29T08:00:00.000000Z', 'attempt', 1,
            'error', 'Traceback (most recent call last):' || repeat(E'\n  File "x", line 1', 20)
                || E'\nValueError: no such user'
        )]
        ELSE ARRAY[]::jsonb[]
    END
FROM generate_series(1, %(jobs)s) AS number
CROSS JOIN LATERAL (
    SELECT
        timezone('UTC', now()) - interval '1 day' + number * interval '80 ms' AS at,
        CASE
            WHEN number %% 100 < 5 THEN 'available'
            WHEN number %% 100 < 8 THEN 'scheduled'
            WHEN number %% 100 = 8 THEN 'retryable'
            WHEN number %% 100 = 9 THEN 'discarded'
            WHEN number %% 100 = 10 THEN 'cancelled'
            WHEN number %% 20000 = 11 THEN 'executing'
            ELSE 'completed'
        END AS state
) AS made
"""

#: What three nodes counted of the same workers in a week, as the nodes and the leader leave it: the
#: last seconds as nodes wrote them, by ten seconds for some minutes, by minutes for an hour or two,
#: by hours for a day or two, and by three hours before. Of every worker a twentieth of the runs
#: failed. A sketch has more bins, the longer its period is and the more workers are in it.
METRICS = """
WITH made AS (
    SELECT
        scope,
        span.period,
        to_timestamp(floor(extract(epoch FROM now()) / span.period - step) * span.period) AS at,
        came.state,
        span.period * came.share AS jobs,
        span.bins / came.fewer AS bins
    FROM (
        VALUES
            (ARRAY['raw'], 10, 1, 4, 12),
            (ARRAY['each', 'queues', 'workers', 'outcomes', 'nodes', 'states'], 10, 5, 36, 14),
            (ARRAY['each', 'queues', 'workers', 'outcomes', 'nodes', 'states'], 60, 7, 90, 20),
            (ARRAY['each', 'queues', 'workers', 'outcomes', 'nodes', 'states'], 3600, 2, 26, 30),
            (ARRAY['each', 'queues', 'workers', 'outcomes', 'nodes', 'states'], 10800, 9, 56, 34)
    ) AS span (scopes, period, newest, oldest, bins)
    CROSS JOIN LATERAL unnest(span.scopes) AS scope
    CROSS JOIN LATERAL generate_series(span.newest, span.oldest) AS step
    CROSS JOIN (VALUES ('completed', 19, 1), ('retryable', 1, 2)) AS came (state, share, fewer)
),
placed AS (
    SELECT
        made.*,
        'web-' || node AS node,
        'queue_' || worker % 10 AS queue,
        'app.workers.Worker' || worker AS worker,
        worker * 3 AS nth,
        0 AS workers
    FROM made CROSS JOIN generate_series(0, 2) AS node CROSS JOIN generate_series(0, 19) AS worker
    WHERE scope IN ('raw', 'each')
    UNION ALL
    SELECT made.*, '', 'queue_' || worker % 10, 'app.workers.Worker' || worker, worker * 3, 0
    FROM made CROSS JOIN generate_series(0, 19) AS worker
    WHERE scope = 'workers' AND state = 'completed'
    UNION ALL
    SELECT made.*, '', 'queue_' || queue, '', queue * 3, 10
    FROM made CROSS JOIN generate_series(0, 9) AS queue
    WHERE scope = 'outcomes' OR (scope = 'queues' AND state = 'completed')
    UNION ALL
    SELECT made.*, 'web-' || node, '', '', 0, 19
    FROM made CROSS JOIN generate_series(0, 2) AS node
    WHERE scope = 'nodes'
    UNION ALL
    SELECT made.*, '', '', '', 0, 19 FROM made WHERE scope = 'states'
)
INSERT INTO {schema}.oban_sync_metrics
    (
        scope, period, started_at, name, node, queue, worker, state, jobs, failed, exec_time,
        wait_time
    )
SELECT
    placed.scope,
    placed.period,
    placed.at,
    'Oban',
    placed.node,
    placed.queue,
    placed.worker,
    CASE WHEN placed.scope IN ('queues', 'workers') THEN '' ELSE placed.state END,
    placed.jobs,
    CASE
        WHEN placed.state <> 'completed' THEN placed.jobs
        WHEN placed.scope IN ('queues', 'workers') THEN placed.jobs / 20
        ELSE 0
    END,
    times.bins,
    times.bins
FROM placed
CROSS JOIN LATERAL (
    SELECT coalesce(string_agg(
        decode(lpad(to_hex((two & 255) * 256 + two / 256), 4, '0'), 'hex'), '' ORDER BY bin, place
    ), '') AS bins
    -- The workers' times differ, each a little from those of the one before. Of Oban Met's bins,
    -- two are one.
    FROM generate_series(1, (placed.bins + 3 * placed.workers + 1) / 2) AS bin
    CROSS JOIN LATERAL (
        VALUES (1, placed.period), (2, 200 + placed.nth / 2 + bin)
    ) AS pair (place, two)
    WHERE placed.scope <> 'each'
) AS times
"""

#: Where the time goes of who looks at jobs: common and rare filters, and what is found nowhere.
PAGES = {
    "jobs": "/jobs",
    "jobs of a state": "/jobs?q=states:discarded",
    "jobs of a queue": "/jobs?q=queues:queue_3",
    "jobs of a worker and state": "/jobs?q=workers:app.workers.Worker7+states:available",
    "jobs by args": "/jobs?q=args.user.id:7",
    "jobs of nobody": "/jobs?q=workers:nobody",
    "jobs of nobody by args": "/jobs?q=args.user.id:none",
    "older jobs": "/jobs?before={middle}",
    "a job": "/jobs/{middle}",
    "a job that waits": "/jobs/{waiting}",
    "overview": "/overview",
    "overview of five minutes": "/overview?span=5m",
    "overview of a day": "/overview?span=24h",
    "overview of a week by worker": "/overview?span=7d&by=worker",
    "queues": "/queues",
    "a queue": "/queue?name=queue_3",
    "crons": "/crons",
    "a new job": "/new-job",
    "nodes": "/nodes",
    "audit": "/audit",
}

#: Those that people leave open.
WATCHED = ("jobs", "jobs of a state", "a job that waits", "overview", "queues")


def main() -> None:
    """Measure, and print the tables."""
    given = options()

    with rig.database(given.dsn) as dsn:
        known = rig.facts(dsn)
        rig.say(str(known))
        rig.say(f"making {given.jobs:,} jobs ...")
        paths = seeded(dsn, given.jobs)
        oban = Oban(dsn, prefix=rig.SCHEMA, pool_size=2)
        app = Flask("bench")
        app.secret_key = "bench"
        app.register_blueprint(blueprint(oban, insecure=True))

        try:
            client = app.test_client()

            figures = [*pages(given, client, paths), *polls(given, client, paths, dsn)]
        finally:
            oban.stop()

    rig.finish(given, known, "web", [*figures, *goals(figures)], shown(figures))


def looked_up(site: Site, what: str, look: Callable[[], Any], seconds: float = KEPT) -> Any:
    """In place of `Site.kept`: what is looked up for each page, as by the first who opens it."""
    return look()


def options() -> Namespace:
    """The command line."""
    parser = rig.parser("web", __doc__)
    parser.add_argument("--jobs", type=rig.positive, default=1_000_000, metavar="N")
    parser.add_argument(
        "--times", type=rig.positive, default=15, metavar="N", help="of each page (default: 15)"
    )
    parser.add_argument(
        "--polls", type=rig.positive, default=10, metavar="N", help="of each page (default: 10)"
    )
    given = parser.parse_args()

    if given.smoke:
        given.jobs, given.times, given.polls = 2_000, 1, 1

    return given


def seeded(dsn: str, jobs: int) -> dict[str, str]:
    """Fill the table; the addresses of the pages."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(JOBS.format(schema=rig.SCHEMA), {"jobs": jobs})
        conn.execute(METRICS.format(schema=rig.SCHEMA))
        conn.execute(f"VACUUM (ANALYZE) {rig.SCHEMA}.oban_jobs, {rig.SCHEMA}.oban_sync_metrics")
        [waiting] = conn.execute(
            f"SELECT max(id) FROM {rig.SCHEMA}.oban_jobs WHERE state = 'available'"
        ).fetchone() or [0]

    return {name: at.format(middle=jobs // 2, waiting=waiting) for name, at in PAGES.items()}


def pages(given: Namespace, client: FlaskClient, paths: dict[str, str]) -> list[dict[str, Any]]:
    """The time of each page."""
    figures = []

    for name, path in paths.items():
        with patch.object(Site, "kept", looked_up):
            first, size = timed(given, client, path)

        again, _ = timed(given, client, path)
        rig.say(f"{name:28} {rig.middle(first):7.1f} ms, again {rig.middle(again):7.1f} ms")
        figures.append(
            {
                "kind": "page",
                "page": name,
                "ms": round(rig.middle(first), 2),
                "slowest_ms": round(max(first), 2),
                "again_ms": round(rig.middle(again), 2),
                "kilobytes": round(size / 1024, 1),
            }
        )

    return figures


def timed(given: Namespace, client: FlaskClient, path: str) -> tuple[list[float], int]:
    """Milliseconds of each time that a page is asked for, and its bytes."""
    times = []
    size = 0

    for _ in range(given.times + 1):
        started = time.perf_counter()
        response = client.get(path)
        times.append((time.perf_counter() - started) * 1e3)
        size = len(response.data)
        assert response.status_code == 200, (path, response.status_code, response.text[:500])

    # The first one connects, and compiles templates.
    return times[1:], size


def polls(
    given: Namespace, client: FlaskClient, paths: dict[str, str], dsn: str
) -> list[dict[str, Any]]:
    """What PostgreSQL works for each refresh of a page."""
    figures = []

    for name in WATCHED:
        headers = {"HX-Request": "true"}
        client.get(paths[name], headers=headers)
        before = _worked(dsn)
        unchanged = 0

        for _ in range(given.polls):
            # As long as others would use what is kept for a moment, plus a little.
            time.sleep(0.0 if given.smoke else 1.05)
            response = client.get(paths[name], headers=headers)
            unchanged += response.status_code == 304

            if "ETag" in response.headers:
                headers["If-None-Match"] = response.headers["ETag"]

        seconds = (_worked(dsn) - before) / given.polls
        share = seconds / PACE * 100
        rig.say(
            f"watching {name:19} {seconds * 1e3:7.2f} ms of PostgreSQL, {share:.2f} % of a core"
        )
        figures.append(
            {
                "kind": "poll",
                "page": name,
                "postgresql_ms": round(seconds * 1e3, 3),
                "percent_of_a_core": round(share, 3),
                "unchanged": unchanged,
                "polls": given.polls,
            }
        )

    return figures


def _worked(dsn: str) -> float:
    """Seconds that the connections of the dashboard have worked; where /proc is not theirs, 0."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        found = conn.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        ).fetchall()

    seconds = 0.0

    for (pid,) in found:
        try:
            # In nanoseconds, where stat only has hundredths of a second.
            seconds += int((Path("/proc") / str(pid) / "schedstat").read_text().split()[0]) / 1e9
        except OSError:
            continue

    return seconds


def shown(figures: list[dict[str, Any]]) -> str:
    """The tables."""
    of_pages = [
        [
            figure["page"],
            f"{figure['ms']:.1f}",
            f"{figure['slowest_ms']:.1f}",
            f"{figure['again_ms']:.1f}",
            f"{figure['kilobytes']:.1f}",
        ]
        for figure in figures
        if figure["kind"] == "page"
    ]
    of_polls = [
        [
            figure["page"],
            f"{figure['postgresql_ms']:.2f}",
            f"{figure['percent_of_a_core']:.2f}",
            f"{figure['unchanged']}/{figure['polls']}",
        ]
        for figure in figures
        if figure["kind"] == "poll"
    ]

    return "\n\n".join(
        (
            rig.table(["page", "ms, median", "ms, slowest", "ms, again", "kB"], of_pages),
            rig.table(
                ["watched", "PostgreSQL ms", "% of a core, every 2 s", "not modified"], of_polls
            ),
        )
    )


def goals(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is held against goals."""
    return [
        rig.goal(f"web {figure['page']}, ms", figure["ms"], at_most=GOALS["page"])
        if figure["kind"] == "page"
        else rig.goal(
            f"web watching {figure['page']}, % of a core",
            figure["percent_of_a_core"],
            at_most=GOALS["poll"],
        )
        for figure in figures
    ]


if __name__ == "__main__":
    rig.run(main)
