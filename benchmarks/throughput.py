"""Jobs per second through one queue: ours, a raw-SQL ceiling and oban-py, side by side in one run.

Every contender drains a queue of no-op jobs with one-key args, stored beforehand. The time counts
from before it starts its work to the last `completed_at` in the table, on the server's clock.

  ours      a real Oban with its threads, everything on
  ceiling   raw SQL on one connection, one statement per cycle, same table, indexes and settings;
            parses nothing, runs nothing, checks nothing
  oban-py   version 0.7.0 on a Python, tables and indexes of its own, with uvloop
  statement (--dissect) our own statement in the ceiling's loop: ours without its Python
  other     (--against) another checkout of oban_sync
  global, rate, partition, fair
            (--limited) ours, through a queue with a limit over all nodes that is never reached, one
            over time, one job at a time of each key, and fair share by key; every job has a key of
            its own, so that each is a lane

Within a round the contenders take turns, each in a fresh process with a freshly filled and vacuumed
table. Jobs per second are medians; a ratio is the median of the rounds' ratios, which drift of the
machine hardly touches: judge by these.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import peer, rig

#: The peer is that much slower, so it gets that many fewer jobs; it still runs longer.
PEER_SHARE = 3

#: Options of the queue, by contender.
LIMITED: dict[str, dict[str, Any]] = {
    "global": {"global_limit": 10_000},
    "rate": {"rate_limit": {"allowed": 1_000_000, "period": 1.0}},
    "partition": {"global_limit": {"allowed": 1, "partition": {"args": "number"}}},
    "fair": {"fair": {"args": "number"}},
}

Contender = Callable[[int, int], tuple[float, dict[str, Any]]]


def main() -> None:
    """Measure, and print the table."""
    given = options()

    with rig.database(given.dsn, commit_delay=given.commit_delay) as dsn:
        known = rig.facts(dsn, commit_delay=given.commit_delay)
        rig.say(str(known))
        contenders, missing = made(given, dsn)
        figures = [
            figure
            for limit in given.limits
            for figure in measured(contenders, limit, given.jobs, given.rounds)
        ]

    print(known)
    print()
    print(shown(figures, list(contenders), given.limits))

    if missing:
        print(f"\n{missing}")

    if given.record:
        rig.record(known, "throughput", figures)


def options() -> Namespace:
    """The command line."""
    parser = rig.parser("throughput", __doc__)
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
        help=f"jobs per run; the peer gets 1/{PEER_SHARE} of it (default: 60000)",
    )
    parser.add_argument("--without-peer", action="store_true", help="leave oban-py out")
    parser.add_argument(
        "--peer-python",
        metavar="PATH",
        help=f"a Python that has oban {peer.VERSION} (default: one is set up in $XDG_CACHE_HOME or "
        "the temporary directory)",
    )
    parser.add_argument(
        "--dissect", action="store_true", help="also run our statement without our Python"
    )
    parser.add_argument(
        "--limited",
        action="store_true",
        help="also run ours through queues with limits and with fair share; ours/global is what "
        "the limit costs: 2.00 means half the speed",
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
        given.limits, given.jobs, given.rounds, given.without_peer = [10], 500, 1, True

    return given


def made(given: Namespace, dsn: str) -> tuple[dict[str, Contender], str]:
    """The contenders by name, in the order of the table; and why the peer is not among them."""

    def contender(program: str, share: int = 1, **more: Any) -> Contender:
        where = {key: more.pop(key) for key in ("python", "source") if key in more}
        told_of = {"dsn": dsn, "schema": rig.SCHEMA, **more}

        def run(limit: int, jobs: int) -> tuple[float, dict[str, Any]]:
            count = max(1, jobs // share)
            rig.fill(dsn, told_of["schema"], count)
            told = rig.run_contender(program, {**told_of, "limit": limit, "jobs": count}, **where)
            seconds = rig.drained(dsn, told_of["schema"], count, told["started"])

            return count / seconds, {"jobs": count, "cpu": told["cpu"], "memory": told["memory"]}

        return run

    found = {"ours": contender("ours"), "ceiling": contender("ceiling")}

    if given.dissect:
        found["statement"] = contender("ceiling", statement="ours")

    if given.limited:
        found |= {name: contender("ours", options=queue) for name, queue in LIMITED.items()}

    if given.against is not None:
        found["other"] = contender("ours", source=given.against.resolve())

    if given.without_peer:
        return found, ""

    try:
        interpreter = given.peer_python or peer.python()
        peer_dsn = peer.install(dsn, interpreter)
    except (peer.PeerMissing, rig.BenchmarkError) as error:
        missing = f"oban-py is missing from this run: {error}"
        rig.say(missing)

        return found, missing

    found["oban-py"] = contender(
        "oban_py",
        PEER_SHARE,
        python=interpreter,
        source=None,
        dsn=peer_dsn,
        schema=rig.PEER_SCHEMA,
    )

    return found, ""


def measured(
    contenders: dict[str, Contender], limit: int, jobs: int, rounds: int
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
            seconds = details[name]["jobs"] / speed
            rig.say(
                f"limit {limit:3}  round {number + 1}  {name:9} {speed:8,.0f} jobs/s  "
                f"{seconds:5.2f} s, {details[name]['cpu']:5.2f} s of CPU, "
                f"{details[name]['memory']} MB"
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


def shown(figures: list[dict[str, Any]], names: list[str], limits: list[int]) -> str:
    """The table: jobs per second of each, then ours as a multiple of each other."""
    others = names[1:]
    heads = ["limit", *names, *(f"ours/{name}" for name in others), "spread of ours"]
    rows = []

    for limit in limits:
        found = {figure["contender"]: figure for figure in figures if figure["limit"] == limit}
        rows.append(
            [
                str(limit),
                *(f"{found[name]['jobs_per_second']:,}" for name in names),
                *(f"{found[name]['ours_ratio']:.2f}" for name in others),
                rig.spread(found["ours"]["rounds"]),
            ]
        )

    return rig.table(heads, rows)


if __name__ == "__main__":
    rig.run(main)
