"""Jobs per second through one queue: ours, a raw-SQL ceiling and peers, side by side in one run.

Every contender drains a queue of no-op jobs with one-key args, stored beforehand. The time counts
from when the first job was taken to the last completion, by its own table. How long it takes to
start is told beside it.

  ours      a real Oban with its threads, everything on
  ceiling   raw SQL on one connection, one statement per cycle, same table, indexes and settings;
            parses nothing, runs nothing, checks nothing
  oban-py, procrastinate, pgqueuer, chancy
            (--peers) each on a Python and tables of its own, set up for speed; see README.md
  statement (--dissect) our own statement in the ceiling's loop: ours without its Python
  other     (--against) another checkout of oban_sync
  global, rate, partition, fair
            (--limited) ours, through a queue with a limit over all nodes that is never reached, one
            over time, one job at a time of each key, and fair share by key; every job has a key of
            its own, so that each is a lane
  1 process, 2 processes
            (--processes 1,2) so many processes with a whole Oban each, on one queue, which begin
            at once; no job may run twice

Within a round the contenders take turns, each in a fresh process with a freshly filled and vacuumed
table. Jobs per second are medians; a ratio is the median of the rounds' ratios, which drift of the
machine hardly touches: judge by these.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import charts, peers, rig

#: Options of the queue, by contender.
LIMITED: dict[str, dict[str, Any]] = {
    "global": {"global_limit": 10_000},
    "rate": {"rate_limit": {"allowed": 1_000_000, "period": 1.0}},
    "partition": {"global_limit": {"allowed": 1, "partition": {"args": "number"}}},
    "fair": {"fair": {"args": "number"}},
}

#: By limit: the part of the ceiling's speed, and how many times oban-py's, ours should have.
GOALS = {10: (0.75, 8), 50: (0.80, 13), 100: (0.80, 16)}

#: The part of its own speed that a limited queue should have.
LIMITED_GOAL = 0.5

#: How many times one process's speed two should have.
PROCESSES_GOAL = 1.3

#: Takes a limit and a number of jobs; jobs that it ran, per second, and more.
Measure = Callable[[int, int], tuple[float, dict[str, Any]]]


def main() -> None:
    """Measure, and print the table."""
    given = options()

    with rig.database(given.dsn, commit_delay=given.commit_delay) as dsn:
        known = rig.facts(dsn, commit_delay=given.commit_delay)
        rig.say(str(known))
        found, missing = made(given, dsn)
        figures = [
            figure
            for limit in given.limits
            for figure in measured(found, limit, given.jobs, given.rounds)
        ]

    text = "\n\n".join([shown(figures), *missing])
    rig.finish(given, known, "throughput", [*figures, *goals(figures)], text, chart=chart(figures))


def options() -> Namespace:
    """The command line."""
    parser = rig.parser("throughput", __doc__, plot=True)
    parser.add_argument(
        "--limits",
        type=rig.positives,
        default=[10, 50, 100],
        metavar="N,N",
        help="limits of the queue to measure at (default: 10,50,100)",
    )
    parser.add_argument(
        "--jobs",
        type=rig.positive,
        default=60_000,
        metavar="N",
        help="jobs per run; slow peers get a part of it (default: 60000)",
    )
    peers.add_options(parser)
    parser.add_argument(
        "--dissect", action="store_true", help="also run our statement without our Python"
    )
    parser.add_argument(
        "--limited",
        action="store_true",
        help="also run ours through queues with limits and with fair share",
    )
    parser.add_argument(
        "--processes",
        type=rig.positives,
        default=[],
        metavar="N,N",
        help="also run ours in so many processes on one database, as 1,2",
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="PATH",
        help="also run the oban_sync in this directory, to compare two versions",
    )
    given = parser.parse_args()

    if given.against is not None and not (given.against / "oban_sync" / "__init__.py").exists():
        parser.error(f"there is no oban_sync in {given.against}")

    if given.smoke:
        given.limits, given.jobs, given.rounds = [10], 500, 1

    return given


def made(given: Namespace, dsn: str) -> tuple[dict[str, Measure], list[str]]:
    """Who is measured, by name in the order of the table; and which peers are missing, and why."""
    contenders = [peers.ours(dsn), peers.ours(dsn, name="ceiling", program="ceiling")]

    if given.dissect:
        contenders.append(peers.ours(dsn, name="statement", program="ceiling", statement="ours"))

    if given.against is not None:
        contenders.append(peers.ours(dsn, name="other", source=given.against.resolve()))

    if given.limited:
        contenders += [peers.ours(dsn, name=name, options=LIMITED[name]) for name in LIMITED]

    found, missing = peers.ready(dsn, peers.names(given), python=given.peer_python)
    measures = {each.name: _alone(each) for each in [*contenders, *found]}

    for number in given.processes:
        measures[f"{number} process{'es' if number > 1 else ''}"] = _together(dsn, number)

    return measures, missing


def _fill(contender: peers.Contender, jobs: int) -> None:
    if contender.source is not None:
        # The same rows as by `enqueue_many`, in less time.
        rig.fill(contender.dsn, contender.schema, jobs)
    else:
        contender.fill(jobs)


def _alone(contender: peers.Contender) -> Measure:
    def measure(limit: int, jobs: int) -> tuple[float, dict[str, Any]]:
        count = max(1, jobs // contender.share)
        _fill(contender, count)
        told = contender.run("drain", limit=limit, jobs=count)
        first, last = contender.span(count)

        return count / (last - first), {
            "jobs": count,
            "start": first - told["started"],
            "cpu": told["cpu"],
            "memory": told["memory"],
        }

    return measure


def _together(dsn: str, processes: int) -> Measure:
    contender = peers.ours(dsn)

    def measure(limit: int, jobs: int) -> tuple[float, dict[str, Any]]:
        _fill(contender, jobs)

        with ExitStack() as stack:
            programs = [
                stack.enter_context(contender.serving(limit=limit, wait=True))
                for _ in range(processes)
            ]
            clock, begun = contender.clock(), time.monotonic_ns()

            for program in programs:
                program.go()

            _until_drained(dsn)
            told = [program.end() for program in programs]

        _check_once(told, jobs)
        first, last = contender.span(jobs)

        return jobs / (last - first), {
            "jobs": jobs,
            "start": first - clock.at(begun),
            "cpu": sum(each["cpu"] for each in told),
            "memory": max(each["memory"] for each in told),
        }

    return measure


def _until_drained(dsn: str) -> None:
    deadline = time.monotonic() + rig.TIMEOUT

    with psycopg.connect(dsn, autocommit=True) as conn:
        while True:
            row = conn.execute(
                f"SELECT EXISTS (SELECT FROM {rig.SCHEMA}.oban_jobs WHERE state = 'available')"
                f" OR EXISTS (SELECT FROM {rig.SCHEMA}.oban_jobs WHERE state = 'executing')"
            ).fetchone()

            if row is not None and not row[0]:
                return

            if time.monotonic() > deadline:
                raise rig.BenchmarkError("the queue was not drained")

            time.sleep(0.1)


def _check_once(told: Iterable[dict[str, Any]], jobs: int) -> None:
    told = list(told)
    numbers = {number for each in told for number in each["started"]}
    runs = sum(each["runs"] for each in told)

    if runs != jobs or len(numbers) != jobs:
        raise rig.BenchmarkError(f"{jobs} jobs ran {runs} times, {len(numbers)} of them")


def measured(
    contenders: dict[str, Measure], limit: int, jobs: int, rounds: int
) -> list[dict[str, Any]]:
    """One figure per contender at one limit."""
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    details: dict[str, dict[str, Any]] = {}

    for number in range(rounds):
        # Back and forth, so that nobody always runs after the same neighbour.
        names = list(contenders)

        for name in names if number % 2 == 0 else reversed(names):
            speed, details[name] = contenders[name](limit, jobs)
            speeds[name].append(speed)
            detail = details[name]
            rig.say(
                f"limit {limit:3}  round {number + 1}  {name:13} {speed:8,.0f} jobs/s  "
                f"{detail['jobs'] / speed:5.2f} s after {detail['start']:.2f} s, "
                f"{detail['cpu']:5.2f} s of CPU, {detail['memory']} MB"
            )

    return [
        {
            "contender": name,
            "limit": limit,
            "jobs": details[name]["jobs"],
            "jobs_per_second": round(rig.middle(speeds[name])),
            "rounds": [round(speed) for speed in speeds[name]],
            "ours_ratio": round(rig.ratio(speeds["ours"], speeds[name]), 3),
        }
        for name in contenders
    ]


def shown(figures: list[dict[str, Any]]) -> str:
    """The table: jobs per second of each at each limit, and ours as a multiple of that."""
    names = list(dict.fromkeys(figure["contender"] for figure in figures))
    limits = list(dict.fromkeys(figure["limit"] for figure in figures))
    found = {(figure["contender"], figure["limit"]): figure for figure in figures}

    def cells(name: str, key: str, form: str) -> list[str]:
        """Of one contender, at each limit; recorded figures may not have it at all of them."""
        return [
            format(found[name, limit][key], form) if (name, limit) in found else ""
            for limit in limits
        ]

    rows = [
        [
            name,
            *cells(name, "jobs_per_second", ","),
            *cells(name, "ours_ratio", ".2f"),
            max(
                (
                    rig.spread(found[name, limit]["rounds"])
                    for limit in limits
                    if (name, limit) in found
                ),
                key=lambda text: int(text.split()[0]),
            ),
        ]
        for name in names
    ]
    heads = [
        "jobs/s at limit",
        *map(str, limits),
        *(f"ours, at {limit}" for limit in limits),
        "spread",
    ]

    return rig.table(heads, rows)


def goals(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The figures that are held against goals."""
    held = []
    found = {(figure["contender"], figure["limit"]): figure for figure in figures}

    for limit, (of_ceiling, times_oban) in GOALS.items():
        if (figure := found.get(("ceiling", limit))) is not None:
            text = f"limit {limit}: ours of the ceiling"
            held.append(rig.goal(text, figure["ours_ratio"], at_least=of_ceiling))

        if (figure := found.get(("oban-py", limit))) is not None:
            text = f"limit {limit}: ours, times oban-py"
            held.append(rig.goal(text, figure["ours_ratio"], at_least=times_oban))

    for (name, limit), figure in found.items():
        if name in LIMITED:
            text = f"limit {limit}: {name}, of the plain queue"
            held.append(rig.goal(text, 1 / figure["ours_ratio"], at_least=LIMITED_GOAL))

        if name == "2 processes" and ("1 process", limit) in found:
            value = rig.ratio(figure["rounds"], found["1 process", limit]["rounds"])
            text = f"limit {limit}: two processes, times one"
            held.append(rig.goal(text, value, at_least=PROCESSES_GOAL))

    return held


def chart(figures: list[dict[str, Any]]) -> charts.Chart:
    """The speeds as bars, by limit."""
    groups = [
        (
            f"{limit} at once",
            [
                (figure["contender"], figure["jobs_per_second"])
                for figure in sorted(figures, key=lambda figure: -figure["jobs_per_second"])
                if figure["limit"] == limit
            ],
        )
        for limit in dict.fromkeys(figure["limit"] for figure in figures)
    ]

    return charts.Chart("No-op jobs through one queue", "jobs per second", groups)


if __name__ == "__main__":
    rig.run(main)
