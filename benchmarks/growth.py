"""What becomes of the speed as the table grows: ours beside the raw ceiling.

  rows      jobs per second through a table with many completed jobs, as a part of the same through
            an empty one, in turns; the completed ones come from one INSERT, and statistics are made
            of them or not
  long      many jobs through one queue without a vacuum in between: the speed of each quarter
  snapshot  jobs through one queue while another session holds an old snapshot, so that nothing that
            is dead may be taken away: the speed of each third

The ceiling does what is known of queues on PostgreSQL: one statement that skips locked rows. Speeds
come from `completed_at`. Judge by the ratios: they are made within one run of one contender.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from benchmarks import peers, rig
from oban_sync import schema

PARTS = ("rows", "long", "snapshot")

#: What a table with completed jobs should keep of the empty one's speed, the last quarter of many
#: jobs of the first, and the last third beside an old snapshot of the first.
GOALS = {"rows": 0.9, "long": 0.95, "snapshot": 0.8}

FULL = f"{rig.SCHEMA}_full"

COMPLETED = """
INSERT INTO {schema}.oban_jobs
    (state, queue, worker, args, attempt, scheduled_at, attempted_at, attempted_by, completed_at)
SELECT
    'completed', 'default', %(worker)s, jsonb_build_object('number', number), 1, made.at, made.at,
    ARRAY['bench', '00000000-0000-4000-8000-000000000000'], made.at
FROM generate_series(1, %(rows)s) AS number
CROSS JOIN LATERAL (
    SELECT timezone('UTC', now()) - interval '1 hour' + number * interval '1 ms' AS at
) AS made
"""

AVAILABLE = """
INSERT INTO {schema}.oban_jobs (queue, worker, args)
SELECT 'default', %(worker)s, jsonb_build_object('number', number)
FROM generate_series(1, %(jobs)s) AS number
"""

#: When each part of the jobs was done; the first row is when the first job was.
ENDS = """
SELECT extract(epoch FROM completed_at)::float8
FROM (
    SELECT completed_at, row_number() OVER (ORDER BY completed_at, id) AS place
    FROM {schema}.oban_jobs
    WHERE id > %(after)s AND state = 'completed' AND attempt = 1
) AS done
WHERE place = 1 OR place %% %(part)s = 0
ORDER BY place
"""


def main() -> None:
    """Measure, and print the tables."""
    given = options()

    with rig.database(given.dsn, commit_delay=given.commit_delay) as dsn:
        known = rig.facts(dsn, commit_delay=given.commit_delay)
        rig.say(str(known))
        contenders = [peers.ours(dsn), peers.ours(dsn, name="ceiling", program="ceiling")]

        if given.against is not None:
            contenders.append(peers.ours(dsn, name="other", source=given.against.resolve()))

        figures: list[dict[str, Any]] = []
        texts: list[str] = []

        if "rows" in given.parts:
            found = through_full_tables(given, dsn, contenders)
            figures += found
            texts.append(shown_rows(found))

        if "long" in given.parts:
            found = by_part(given, contenders, "long", given.jobs, 4)
            figures += found
            texts.append(shown_parts(found))

        if "snapshot" in given.parts:
            found = by_part(given, contenders, "snapshot", given.snapshot_jobs, 3)
            figures += found
            texts.append(shown_parts(found))

    rig.finish(given, known, "growth", [*figures, *goals(figures)], "\n\n".join(texts))


def options() -> Namespace:
    """The command line."""
    parser = rig.parser("growth", __doc__)
    parser.add_argument(
        "--parts",
        type=lambda text: [part.strip() for part in text.split(",")],
        default=list(PARTS),
        metavar="NAMES",
        help=f"what to measure of {', '.join(PARTS)} (default: all)",
    )
    parser.add_argument(
        "--limits",
        type=rig.positives,
        default=[50],
        metavar="N,N",
        help="limits of the queue to measure at (default: 50)",
    )
    parser.add_argument(
        "--rows",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[1_000_000],
        metavar="N,N",
        help="completed jobs in the table (default: 1000000); 10000000 take minutes and 5 GB",
    )
    parser.add_argument(
        "--jobs",
        type=rig.positive,
        default=200_000,
        metavar="N",
        help="jobs without a vacuum (default: 200000); a third of it through full tables",
    )
    parser.add_argument(
        "--snapshot-jobs",
        type=rig.positive,
        default=75_000,
        metavar="N",
        help="jobs beside an old snapshot (default: 75000)",
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="PATH",
        help="also run the oban_sync in this directory, to compare two versions",
    )
    given = parser.parse_args()

    for part in given.parts:
        if part not in PARTS:
            parser.error(f"{part!r} is none of {', '.join(PARTS)}")

    if given.smoke:
        given.rounds, given.rows, given.jobs, given.snapshot_jobs = 1, [1_000], 1_200, 600

    return given


def through_full_tables(
    given: Namespace, dsn: str, contenders: list[peers.Contender]
) -> list[dict[str, Any]]:
    """Speeds through tables with so many completed jobs, each beside an empty one."""
    figures = []

    for rows in filter(None, given.rows):
        for analyzed in (True, False):
            with _full_table(dsn, rows, analyzed) as marker:
                for limit in given.limits:
                    figures += _beside_empty(given, contenders, limit, rows, analyzed, marker)

    return figures


@contextmanager
def _full_table(dsn: str, rows: int, analyzed: bool) -> Iterator[int]:
    """A schema whose table has so many completed jobs; the id of the last."""
    rig.say(f"making {rows:,} completed jobs, {'' if analyzed else 'not '}analyzed ...")
    schema.install(dsn, prefix=FULL)

    try:
        with psycopg.connect(dsn, autocommit=True) as conn:
            # Whether there are statistics is for us to say.
            conn.execute(f"ALTER TABLE {FULL}.oban_jobs SET (autovacuum_enabled = off)")
            conn.execute(COMPLETED.format(schema=FULL), {"rows": rows, "worker": rig.WORKER})
            conn.execute(f"VACUUM {'(ANALYZE) ' if analyzed else ''}{FULL}.oban_jobs")
            row = conn.execute(f"SELECT max(id) FROM {FULL}.oban_jobs").fetchone()
            assert row is not None

        yield row[0]
    finally:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(f"DROP SCHEMA {FULL} CASCADE")


def _beside_empty(
    given: Namespace,
    contenders: list[peers.Contender],
    limit: int,
    rows: int,
    analyzed: bool,
    marker: int,
) -> list[dict[str, Any]]:
    jobs = max(1, given.jobs // 3)
    empty: dict[str, list[float]] = {each.name: [] for each in contenders}
    full: dict[str, list[float]] = {each.name: [] for each in contenders}

    for number in range(given.rounds):
        for contender in contenders if number % 2 == 0 else reversed(contenders):
            there = _elsewhere(contender, FULL)
            empty[contender.name] += _speeds(contender, limit, jobs, jobs, 0)
            full[contender.name] += _speeds(there, limit, jobs, jobs, marker)
            rig.say(
                f"{rows:,} rows {'' if analyzed else 'not '}analyzed  limit {limit}  round "
                f"{number + 1}  {contender.name:8} {full[contender.name][-1]:8,.0f} jobs/s, empty "
                f"{empty[contender.name][-1]:8,.0f}"
            )

    return [
        {
            "part": "rows",
            "contender": each.name,
            "limit": limit,
            "rows": rows,
            "analyzed": analyzed,
            "jobs": jobs,
            "jobs_per_second": round(rig.middle(full[each.name])),
            "empty_jobs_per_second": round(rig.middle(empty[each.name])),
            "kept": round(rig.ratio(full[each.name], empty[each.name]), 3),
        }
        for each in contenders
    ]


def _elsewhere(contender: peers.Contender, name: str) -> peers.Contender:
    # Of two settings the later one counts.
    options = f"{conninfo_to_dict(contender.dsn)['options']} -c search_path={name}"

    return replace(contender, schema=name, dsn=make_conninfo(contender.dsn, options=options))


def _speeds(
    contender: peers.Contender, limit: int, jobs: int, part: int, after: int
) -> list[float]:
    """Run jobs behind those that are there; jobs per second of each part of them."""
    name = contender.schema

    with psycopg.connect(contender.dsn, autocommit=True) as conn:
        conn.execute(f"DELETE FROM {name}.oban_jobs WHERE id > %s", [after])
        # A queue that starts at nothing dead; statistics are left as they were.
        conn.execute(f"VACUUM {name}.oban_jobs")
        conn.execute(
            f"SELECT setval(pg_get_serial_sequence('{name}.oban_jobs', 'id'), %s)", [after + 1]
        )
        conn.execute(AVAILABLE.format(schema=name), {"jobs": jobs, "worker": rig.WORKER})
        conn.execute("CHECKPOINT")

    contender.run("drain", limit=limit, jobs=jobs)

    with psycopg.connect(contender.dsn, autocommit=True) as conn:
        ends = [
            row[0] for row in conn.execute(ENDS.format(schema=name), {"after": after, "part": part})
        ]

    if len(ends) != 1 + jobs // part:
        raise rig.BenchmarkError(f"{contender.name}: some of {jobs} jobs did not run, or twice")

    return [part / (end - start) for start, end in pairwise(ends)]


def by_part(
    given: Namespace, contenders: list[peers.Contender], kind: str, jobs: int, parts: int
) -> list[dict[str, Any]]:
    """Speeds of each part of many jobs, with an old snapshot about or not."""
    figures = []
    jobs -= jobs % parts

    for limit in given.limits:
        speeds: dict[str, list[list[float]]] = {each.name: [] for each in contenders}

        for number in range(given.rounds):
            for contender in contenders if number % 2 == 0 else reversed(contenders):
                with _old_snapshot(contender, kind == "snapshot"):
                    found = _speeds(contender, limit, jobs, jobs // parts, 0)

                speeds[contender.name].append(found)
                told = " / ".join(f"{speed:,.0f}" for speed in found)
                rig.say(f"{kind}  limit {limit}  round {number + 1}  {contender.name:8} {told}")

        figures += [
            {
                "part": kind,
                "contender": each.name,
                "limit": limit,
                "jobs": jobs,
                "jobs_per_second": [
                    round(rig.middle(column)) for column in zip(*speeds[each.name], strict=True)
                ],
                "kept": round(rig.middle([found[-1] / found[0] for found in speeds[each.name]]), 3),
            }
            for each in contenders
        ]

    return figures


@contextmanager
def _old_snapshot(contender: peers.Contender, wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return

    with psycopg.connect(contender.dsn, autocommit=True) as conn:
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        conn.execute(f"SELECT count(*) FROM {contender.schema}.oban_jobs LIMIT 1")
        yield
        conn.execute("ROLLBACK")


def shown_rows(figures: list[dict[str, Any]]) -> str:
    """The table of full tables."""
    heads = ["completed rows", "analyzed", "limit", "contender", "jobs/s", "empty", "kept"]
    rows = [
        [
            f"{figure['rows']:,}",
            "yes" if figure["analyzed"] else "no",
            str(figure["limit"]),
            figure["contender"],
            f"{figure['jobs_per_second']:,}",
            f"{figure['empty_jobs_per_second']:,}",
            f"{figure['kept']:.2f}",
        ]
        for figure in figures
    ]

    return rig.table(heads, rows)


def shown_parts(figures: list[dict[str, Any]]) -> str:
    """The table of speeds by part."""
    parts = len(figures[0]["jobs_per_second"])
    title = "beside an old snapshot" if figures[0]["part"] == "snapshot" else "without a vacuum"
    heads = [title, "limit", *(f"part {number}" for number in range(1, parts + 1)), "kept"]
    rows = [
        [
            figure["contender"],
            str(figure["limit"]),
            *(f"{speed:,}" for speed in figure["jobs_per_second"]),
            f"{figure['kept']:.2f}",
        ]
        for figure in figures
    ]

    return rig.table(heads, rows)


def goals(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The figures of ours that are held against goals."""
    held = []

    for figure in figures:
        if figure["contender"] != "ours":
            continue

        text = {
            "rows": "{rows:,} completed rows, of the empty table",
            "long": "{jobs:,} jobs, the last quarter, of the first",
            "snapshot": "{jobs:,} jobs beside an old snapshot, the last third, of the first",
        }[figure["part"]].format(**figure)

        if figure["part"] == "rows" and not figure["analyzed"]:
            text += ", not analyzed"

        text = f"limit {figure['limit']}: {text}"
        held.append(rig.goal(text, figure["kept"], at_least=GOALS[figure["part"]]))

    return held


if __name__ == "__main__":
    rig.run(main)
