"""CPU-bound jobs on a process queue beside the same on a thread queue, in one run.

  crunch   two jobs of pure Python at once, children being ready: the seconds until both are done.
           On two cores processes should need half of what threads do, which take turns
  nothing  many jobs that do nothing: what handing a job to a process and back costs
  raw      the same work in a pool of the standard library, without jobs or a database: what the
           machine can do at that moment

Within a round they take turns, each in a fresh process with an empty table. Figures are medians; a
ratio is the median of the rounds' ratios: judge by these, on a machine that has two cores to spare.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from benchmarks import rig

EXECUTORS = ("thread", "process", "raw")

#: Jobs at once.
LIMIT = 2

#: What processes may need of the threads' time for two CPU-bound jobs on two free cores.
GOAL = 0.55


def main() -> None:
    """Measure, and print the table."""
    given = options()

    with rig.database(given.dsn, commit_delay=given.commit_delay) as dsn:
        known = rig.facts(dsn, commit_delay=given.commit_delay)
        rig.say(str(known))
        figures = measured(given, dsn)

    goal = rig.goal("two CPU-bound jobs, of threads", figures[1]["thread_ratio"], at_most=GOAL)
    rig.finish(given, known, "cpu", [*figures, goal], shown(figures))


def options() -> Namespace:
    """The command line."""
    parser = rig.parser("cpu", __doc__)
    parser.add_argument(
        "--loops",
        type=rig.positive,
        default=15_000_000,
        metavar="N",
        help="turns of the loop of a CPU-bound job (default: 15000000, about a second)",
    )
    parser.add_argument(
        "--jobs",
        type=rig.positive,
        default=2_000,
        metavar="N",
        help="jobs that do nothing (default: 2000)",
    )
    given = parser.parse_args()

    if given.smoke:
        given.loops, given.jobs, given.rounds = 100_000, 20, 1

    return given


def measured(given: Namespace, dsn: str) -> list[dict[str, Any]]:
    """One figure per executor, and the raw one."""
    crunch: dict[str, list[float]] = {name: [] for name in EXECUTORS}
    nothing: dict[str, list[float]] = {name: [] for name in EXECUTORS}

    for number in range(given.rounds):
        for name in EXECUTORS if number % 2 == 0 else reversed(EXECUTORS):
            rig.fill(dsn, rig.SCHEMA, 0)
            told = rig.run_contender(
                "crunching",
                {
                    "dsn": dsn,
                    "schema": rig.SCHEMA,
                    "executor": name,
                    "limit": LIMIT,
                    "loops": given.loops,
                    "jobs": given.jobs,
                },
            )
            crunch[name].append(told["crunch"])
            nothing[name].append(told["nothing"] / given.jobs * 1_000)
            rig.say(
                f"round {number + 1}  {name:7}  two CPU-bound jobs {crunch[name][-1]:6.3f} s, "
                f"a job that does nothing {nothing[name][-1]:6.3f} ms"
            )

    return [
        {
            "executor": name,
            "limit": LIMIT,
            "seconds": round(rig.middle(crunch[name]), 3),
            "rounds": [round(seconds, 3) for seconds in crunch[name]],
            "milliseconds_per_noop": round(rig.middle(nothing[name]), 3),
            "thread_ratio": round(rig.ratio(crunch[name], crunch["thread"]), 3),
        }
        for name in EXECUTORS
    ]


def shown(figures: list[dict[str, Any]]) -> str:
    """The table."""
    rows = [
        [
            figure["executor"],
            f"{figure['seconds']:.3f}",
            f"{figure['thread_ratio']:.2f}",
            f"{figure['milliseconds_per_noop']:.3f}",
            rig.spread(figure["rounds"]),
        ]
        for figure in figures
    ]
    heads = ["executor", "2 CPU-bound, s", "of threads", "no-op, ms", "spread"]

    return rig.table(heads, rows)


if __name__ == "__main__":
    main()
