"""Jobs per second into the table: ours beside raw statements and peers, side by side in one run.

Many at once, in one transaction, with ids back in order:

  enqueue_many        jobs made beforehand; `new + enqueue_many` makes them within the time
  unique              the same of unique jobs, of which none is there, or every other one
  raw bulk            INSERT ... FROM jsonb_to_recordset of a payload prepared beforehand

One by one, each committed, by 1 or 8 connections: threads of one process with one each, or spread
over processes (`--connections 1,8,8/8`), because Python's threads take turns:

  enqueue             `Worker.enqueue`; `unique enqueue` the same with unique=True
  psycopg, NOTIFY     the raw statement as a program in Python would run it
  raw, NOTIFY         a prepared INSERT ... RETURNING id with pg_notify in it, by libpq itself
  raw                 the same without NOTIFY, which nobody would be woken by

and with nobody listening, an idle node, or one whose queue is full (`--audience none,idle,busy`).
With `--pgbench` also by pgbench, our own statement and the raw ones: the database's side, without
Python.

Within a round the contenders take turns, each in a fresh process with an empty table. Jobs per
second are medians; a ratio is the median of the rounds' ratios: judge by these. ``of plain`` is a
comparison with `enqueue_many` or `enqueue` of jobs that are not unique.
"""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg

from benchmarks import peers, pgbench, rig

BULK = ["enqueue_many", "unique", "unique, half there", "new + enqueue_many", "raw bulk"]
SINGLE = ["enqueue", "unique enqueue", "psycopg, NOTIFY", "raw, NOTIFY", "raw"]

#: Peers need not show at 100,000 what they showed at 10,000.
MOST_OF_PEERS = 10_000

AUDIENCES = ("none", "idle", "busy")

#: The part of the raw statement's speed that ours should have.
BULK_GOALS = {"enqueue_many": 0.75, "unique": 0.5}

#: Of one connection beside the raw statement with NOTIFY, and of eight beside the one without.
SINGLE_GOALS = {1: ("raw, NOTIFY", 0.9), 8: ("raw", 0.85)}

#: Takes a number of jobs; jobs per second.
Measure = Callable[[int], float]


def main() -> None:
    """Measure, and print the table."""
    given = options()

    with rig.database(given.dsn, commit_delay=given.commit_delay) as dsn:
        known = rig.facts(dsn, commit_delay=given.commit_delay)
        rig.say(str(known))
        found, missing = peers.ready(dsn, peers.names(given), python=given.peer_python)
        figures = _figures(given, dsn, found)

    text = "\n\n".join([shown(figures), *missing])
    rig.finish(given, known, "insert", [*figures, *goals(figures)], text)


def options() -> Namespace:
    """The command line."""
    parser = rig.parser("insert", __doc__)
    parser.add_argument(
        "--jobs",
        type=rig.positives,
        default=[10_000, 100_000],
        metavar="N,N",
        help="sizes of the bulk to measure at (default: 10000,100000)",
    )
    parser.add_argument(
        "--singles",
        type=rig.positive,
        default=5_000,
        metavar="N",
        help="jobs to store one by one (default: 5000)",
    )
    parser.add_argument(
        "--connections",
        type=_spreads,
        default=[(1, 1), (8, 1), (8, 8)],
        metavar="N/N,N/N",
        help="connections, and over how many processes they are spread (default: 1,8,8/8)",
    )
    parser.add_argument(
        "--audience",
        type=_audiences,
        default=["none"],
        metavar="NAMES",
        help=f"who listens meanwhile: {', '.join(AUDIENCES)} (default: none)",
    )
    parser.add_argument(
        "--pgbench",
        action="store_true",
        help="also store one by one by pgbench, where it is found beside PostgreSQL's programs",
    )
    peers.add_options(parser)
    given = parser.parse_args()

    if given.smoke:
        given.jobs, given.singles, given.rounds = [200], 50, 1
        given.connections = [(4, 2)]

    return given


def _spreads(text: str) -> list[tuple[int, int]]:
    spreads = []

    for part in text.split(","):
        connections, _, processes = part.partition("/")
        spreads.append((rig.positive(connections), rig.positive(processes or "1")))

        if spreads[-1][0] % spreads[-1][1]:
            raise argparse.ArgumentTypeError(f"{connections} connections do not go into {part!r}")

    return spreads


def _audiences(text: str) -> list[str]:
    names = [part.strip() for part in text.split(",")]

    for name in names:
        if name not in AUDIENCES:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(AUDIENCES)}")

    return names


def _figures(given: Namespace, dsn: str, found: list[peers.Contender]) -> list[dict[str, Any]]:
    figures = []

    for jobs in given.jobs:
        measures = {name: _bulk(dsn, name) for name in BULK}
        measures |= {each.name: _peer_bulk(each) for each in found}
        figures += measured("bulk", measures, jobs, given.rounds)

    for audience in given.audience:
        for connections, processes in given.connections:
            measures = {name: _single(dsn, name, connections, processes) for name in SINGLE}

            if audience == "none" and processes == 1:
                measures |= {each.name: _peer_single(each, connections) for each in found}

            with _listening(dsn, audience):
                figures += measured(
                    _title(connections, processes, audience),
                    measures,
                    given.singles,
                    given.rounds,
                    connections=connections,
                    processes=processes,
                    audience=audience,
                )

            if given.pgbench and processes == 1:
                with _listening(dsn, audience):
                    figures += measured(
                        f"pgbench, {_title(connections, 1, audience)}",
                        {
                            name: _pgbench(dsn, name, connections)
                            for name in pgbench.scripts(rig.SCHEMA)
                        },
                        given.singles,
                        given.rounds,
                        connections=connections,
                        audience=audience,
                    )

    return figures


def _title(connections: int, processes: int, audience: str) -> str:
    spread = f"/{processes}" if processes > 1 else ""
    heard = "" if audience == "none" else f", {audience} node"

    return f"by {connections}{spread}{heard}"


@contextmanager
def _listening(dsn: str, audience: str) -> Iterator[None]:
    if audience == "none":
        yield
        return

    contender = peers.ours(dsn)
    work = 3_600 if audience == "busy" else 0
    rig.fill(dsn, rig.SCHEMA, 20 if work else 0)

    # A node that listens, with nothing to do or with no slot free.
    with contender.serving(limit=10, work=work):
        yield


def _bulk(dsn: str, name: str) -> Measure:
    def measure(jobs: int) -> float:
        rig.fill(dsn, rig.SCHEMA, 0)

        with _trigger(dsn, on=not name.startswith("raw")):
            told = rig.run_contender(
                "storing", {"dsn": dsn, "schema": rig.SCHEMA, "how": name, "jobs": jobs}
            )

        if not told["ordered"]:
            raise rig.BenchmarkError(f"{name} gave its ids out of order, or not all")

        return float(jobs / told["seconds"])

    return measure


def _single(dsn: str, name: str, connections: int, processes: int) -> Measure:
    """So many connections, spread over so many processes."""

    def measure(jobs: int) -> float:
        _empty(dsn)
        each = jobs // processes
        given = {
            "dsn": dsn,
            "schema": rig.SCHEMA,
            "how": name,
            "jobs": each,
            "connections": connections // processes,
        }

        with _trigger(dsn, on="enqueue" in name), ExitStack() as stack:
            programs = [
                stack.enter_context(rig.serving("storing", {**given, "first": number * each}))
                for number in range(processes)
            ]

            for program in programs:
                program.go()

            told = [program.end() for program in programs]

        if not all(one["ordered"] for one in told):
            raise rig.BenchmarkError(f"{name} gave its ids out of order, or not all")

        spent = max(one["ended"] for one in told) - min(one["begun"] for one in told)

        return each * processes / spent * 1e9

    return measure


def _empty(dsn: str) -> None:
    """As `rig.fill` does, but jobs that run in an audience stay."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"DELETE FROM {rig.SCHEMA}.oban_jobs WHERE state <> 'executing'")
        conn.execute(f"VACUUM (ANALYZE) {rig.SCHEMA}.oban_jobs")
        conn.execute("CHECKPOINT")


@contextmanager
def _trigger(dsn: str, *, on: bool) -> Iterator[None]:
    """Raw statements notify by themselves or not at all: without the triggers of the table."""
    if on:
        yield
        return

    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"ALTER TABLE {rig.SCHEMA}.oban_jobs DISABLE TRIGGER USER")

        try:
            yield
        finally:
            conn.execute(f"ALTER TABLE {rig.SCHEMA}.oban_jobs ENABLE TRIGGER USER")


def _peer_bulk(contender: peers.Contender) -> Measure:
    def measure(jobs: int) -> float:
        count = min(jobs, MOST_OF_PEERS)
        contender.clear()
        told = contender.run("store", how="bulk", jobs=count)

        return float(count / told["seconds"])

    return measure


def _peer_single(contender: peers.Contender, connections: int) -> Measure:
    def measure(jobs: int) -> float:
        contender.clear()
        told = contender.run("store", how="single", jobs=jobs, connections=connections)

        return float(jobs / told["seconds"])

    return measure


def _pgbench(dsn: str, name: str, connections: int) -> Measure:
    def measure(jobs: int) -> float:
        _empty(dsn)

        with _trigger(dsn, on=not name.startswith("raw")):
            return pgbench.speed(dsn, pgbench.scripts(rig.SCHEMA)[name], jobs, connections)

    return measure


def measured(
    title: str, measures: dict[str, Measure], jobs: int, rounds: int, **more: Any
) -> list[dict[str, Any]]:
    """One figure per contender, beside the raw ones."""
    speeds: dict[str, list[float]] = {name: [] for name in measures}

    for number in range(rounds):
        names = list(measures)

        for name in names if number % 2 == 0 else reversed(names):
            speeds[name].append(measures[name](jobs))
            rig.say(
                f"{title:22} {jobs:7,} jobs  round {number + 1}  {name:18} "
                f"{speeds[name][-1]:9,.0f} jobs/s"
            )

    first, *_ = speeds
    raws = {name: speeds[name] for name in ("raw bulk", "raw, NOTIFY", "raw") if name in speeds}

    return [
        {
            "what": title,
            "contender": name,
            "jobs": jobs,
            **more,
            "jobs_per_second": round(rig.middle(speeds[name])),
            "rounds": [round(speed) for speed in speeds[name]],
            "first_ratio": round(rig.ratio(speeds[name], speeds[first]), 3),
            **{f"of {raw}": round(rig.ratio(speeds[name], raws[raw]), 3) for raw in raws},
        }
        for name in speeds
    ]


def shown(figures: list[dict[str, Any]]) -> str:
    """The table: jobs per second of each, and its share of the raw statements'."""

    def ratio(figure: dict[str, Any], *names: str) -> str:
        return next((f"{figure[name]:.2f}" for name in names if name in figure), "")

    return rig.table(
        ["jobs", "how", "contender", "jobs/s", "of raw, NOTIFY", "of raw", "of plain", "spread"],
        [
            [
                f"{figure['jobs']:,}",
                figure["what"],
                figure["contender"],
                f"{figure['jobs_per_second']:,}",
                ratio(figure, "of raw, NOTIFY"),
                ratio(figure, "of raw bulk", "of raw"),
                f"{figure['first_ratio']:.2f}",
                rig.spread(figure["rounds"]),
            ]
            for figure in figures
        ],
    )


def goals(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The figures that are held against goals."""
    held = []

    for figure in figures:
        name = figure["contender"]

        if figure["what"] == "bulk" and name in BULK_GOALS:
            text = f"{figure['jobs']:,} at once: {name}, of raw"
            held.append(rig.goal(text, figure["of raw bulk"], at_least=BULK_GOALS[name]))

        if name == "enqueue" and figure["connections"] in SINGLE_GOALS:
            raw, least = SINGLE_GOALS[figure["connections"]]
            text = f"one by one, {figure['what']}: {name}, of {raw}"
            held.append(rig.goal(text, figure[f"of {raw}"], at_least=least))

    return held


if __name__ == "__main__":
    rig.run(main)
