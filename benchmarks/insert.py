"""Jobs per second into the table: ours beside the raw statement, side by side in one run.

  bulk    one `enqueue_many` in one transaction, with jobs made beforehand and with `Worker.new`
          included, beside INSERT ... FROM jsonb_to_recordset of a payload prepared beforehand, with
          ids back
  unique  the same `enqueue_many` of unique jobs, of which none is there, or every other one
  single  `Worker.enqueue` one by one, each committed, beside a prepared INSERT ... RETURNING id

All go through the table's NOTIFY trigger, one connection each, and have to give their ids in order.
Within a round the contenders take turns, each in a fresh process with an empty table. Jobs per
second are medians; a ratio is the median of the rounds' ratios: judge by these. ``of plain`` is a
comparison with the first contender, `enqueue_many` or `enqueue` of jobs that are not unique.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from benchmarks import rig

BULK = ["enqueue_many", "unique", "unique, half there", "new + enqueue_many", "raw bulk"]
SINGLE = ["enqueue", "unique enqueue", "raw single"]


def main() -> None:
    """Measure, and print the table."""
    given = options()

    with rig.database(given.dsn, commit_delay=given.commit_delay) as dsn:
        known = rig.facts(dsn, commit_delay=given.commit_delay)
        rig.say(str(known))
        plan = [(BULK, jobs) for jobs in given.jobs] + [(SINGLE, given.singles)]
        figures = [
            figure
            for contenders, jobs in plan
            for figure in measured(dsn, contenders, jobs, given.rounds)
        ]

    print(known)
    print()
    print(shown(figures))

    if given.record:
        rig.record(known, "insert", figures)


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
    given = parser.parse_args()

    if given.smoke:
        given.jobs, given.singles, given.rounds = [200], 50, 1

    return given


def measured(dsn: str, contenders: list[str], jobs: int, rounds: int) -> list[dict[str, Any]]:
    """One figure per contender; the last one is what the others are compared with."""
    speeds: dict[str, list[float]] = {name: [] for name in contenders}

    for number in range(rounds):
        for name in contenders if number % 2 == 0 else reversed(contenders):
            rig.fill(dsn, rig.SCHEMA, 0)
            told = rig.run_contender(
                "storing", {"dsn": dsn, "schema": rig.SCHEMA, "how": name, "jobs": jobs}
            )

            if not told["ordered"]:
                raise rig.BenchmarkError(f"{name} gave its ids out of order, or not all")

            speeds[name].append(jobs / told["seconds"])
            rig.say(
                f"{jobs:7,} jobs  round {number + 1}  {name:18} {speeds[name][-1]:9,.0f} jobs/s  "
                f"{told['seconds']:5.2f} s"
            )

    raw = speeds[contenders[-1]]

    return [
        {
            "contender": name,
            "jobs": jobs,
            "jobs_per_second": round(rig.middle(speeds[name])),
            "rounds": [round(speed) for speed in speeds[name]],
            "raw_ratio": round(rig.ratio(speeds[name], raw), 3),
            "first_ratio": round(rig.ratio(speeds[name], speeds[contenders[0]]), 3),
        }
        for name in contenders
    ]


def shown(figures: list[dict[str, Any]]) -> str:
    """The table: jobs per second of each, and its share of the raw statement's."""
    return rig.table(
        ["jobs", "contender", "jobs/s", "of raw", "of plain", "spread"],
        [
            [
                f"{figure['jobs']:,}",
                figure["contender"],
                f"{figure['jobs_per_second']:,}",
                f"{figure['raw_ratio']:.2f}",
                f"{figure['first_ratio']:.2f}",
                rig.spread(figure["rounds"]),
            ]
            for figure in figures
        ],
    )


if __name__ == "__main__":
    rig.run(main)
