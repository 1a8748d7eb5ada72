"""How soon a job starts once it is committed: ours beside peers and a raw loop, in one run.

The time counts from when the call that enqueues returns, in a process of its own, to the first line
of the job's function, by the clock that processes of a machine share.

  idle  one job at a time with pauses of 20 to 60 ms, through a queue with nothing else to do
  load  the same, while another process puts 1,000 jobs a second into the same queue, or as many as
        the contender can store; those do not count

  raw   one thread and one statement per cycle, told by NOTIFY: nothing in Python can be faster

Figures are milliseconds; jobs that had not started when the last one was stored count up to then.
Within a round the contenders take turns, each in fresh processes with an empty table; what is shown
is the median of the rounds.
"""

from __future__ import annotations

import time
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

from benchmarks import peers, rig

#: Jobs at once in the queue.
LIMIT = 10

#: Seconds between two jobs whose latency counts; the least and the most.
PAUSES = [0.02, 0.06]

#: Jobs per second that do not count, under load.
LOAD = 1_000

#: Seconds by which the load is there before and after.
MARGIN = 1.0

#: Numbers of the jobs that do not count.
UNCOUNTED = 1_000_000

PERCENTILES = (50, 95, 99)

#: At most so many milliseconds on an idle node, by percentile.
GOALS = {50: 1.0, 95: 2.0}


def main() -> None:
    """Measure, and print the table."""
    given = options()

    with rig.database(given.dsn, commit_delay=given.commit_delay) as dsn:
        known = rig.facts(dsn, commit_delay=given.commit_delay)
        rig.say(str(known))
        found, missing = peers.ready(dsn, peers.names(given), python=given.peer_python)
        raw = peers.ours(dsn, name="raw", program="latency_raw")
        figures = measured(given, [peers.ours(dsn), raw, *found])

    text = "\n\n".join([shown(figures), *missing])
    rig.finish(given, known, "latency", [*figures, *goals(figures)], text)


def options() -> Namespace:
    """The command line."""
    parser = rig.parser("latency", __doc__)
    parser.add_argument(
        "--jobs",
        type=rig.positive,
        default=300,
        metavar="N",
        help="jobs that count, per round (default: 300)",
    )
    parser.add_argument(
        "--loads",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[0, LOAD],
        metavar="N,N",
        help=f"jobs per second beside them (default: 0,{LOAD})",
    )
    parser.add_argument("--short", action="store_true", help="one round of 150 jobs, idle")
    peers.add_options(parser)
    given = parser.parse_args()

    if given.short:
        given.jobs, given.rounds, given.loads = 150, 1, [0]

    if given.smoke:
        given.jobs, given.rounds, given.loads = 5, 1, [0, 100]

    return given


def measured(given: Namespace, contenders: list[peers.Contender]) -> list[dict[str, Any]]:
    """One figure per contender and load."""
    figures = []

    for load in given.loads:
        found: dict[str, list[list[float]]] = {each.name: [] for each in contenders}

        for number in range(given.rounds):
            for contender in contenders if number % 2 == 0 else reversed(contenders):
                times = latencies(contender, given.jobs, load)
                found[contender.name].append([percentile(times, each) for each in PERCENTILES])
                told = " / ".join(f"{each:.2f}" for each in found[contender.name][-1])
                rig.say(f"load {load:5}  round {number + 1}  {contender.name:13} {told} ms")

        for contender in contenders:
            rounds = found[contender.name]
            middle = [rig.middle(column) for column in zip(*rounds, strict=True)]
            ratio = rig.ratio([each[0] for each in rounds], [each[0] for each in found["ours"]])
            figures.append(
                {
                    "contender": contender.name,
                    "load": load,
                    "jobs": given.jobs,
                    **{
                        f"p{name}_ms": round(value, 3)
                        for name, value in zip(PERCENTILES, middle, strict=True)
                    },
                    "p50_of_ours": round(ratio, 3),
                }
            )

    return figures


def latencies(contender: peers.Contender, jobs: int, load: int) -> list[float]:
    """Milliseconds from commit to start of each job, in order of size."""
    contender.clear()
    seconds = jobs * sum(PAUSES) / 2 + 2 * MARGIN

    def beside() -> None:
        contender.run(
            "store", jobs=int(load * seconds), how="single", pause=1 / load, first=UNCOUNTED
        )

    with (
        contender.serving(limit=LIMIT) as serving,
        ThreadPoolExecutor(1) if load else nullcontext() as pool,
    ):
        loading = pool.submit(beside) if pool is not None else None
        # The first few make connections and plans.
        contender.run("store", jobs=20, how="single", pause=MARGIN / 20, first=2 * UNCOUNTED)
        told = contender.run("store", jobs=jobs, how="single", pause=PAUSES, times=True)

        if loading is not None:
            loading.result()

        ended = time.monotonic_ns()
        started = serving.end()["started"]

    missing = told["times"].keys() - started.keys()

    if missing and not load:
        raise rig.BenchmarkError(f"{contender.name}: {len(missing)} of {jobs} jobs did not start")

    if missing:
        # Who does not keep up has them still in the queue: so long at least.
        rig.say(f"{contender.name}: {len(missing)} of {jobs} jobs had not started at the end")

    return sorted((started.get(number, ended) - at) / 1e6 for number, at in told["times"].items())


def percentile(ordered: list[float], percent: int) -> float:
    """The value that so many percent of the values do not exceed."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def shown(figures: list[dict[str, Any]]) -> str:
    """The table."""
    heads = ["load, jobs/s", "contender", *(f"p{name} ms" for name in PERCENTILES), "p50 of ours"]
    rows = [
        [
            f"{figure['load']:,}" if figure["load"] else "idle",
            figure["contender"],
            *(f"{figure[f'p{name}_ms']:.2f}" for name in PERCENTILES),
            f"{figure['p50_of_ours']:.2f}",
        ]
        for figure in figures
    ]

    return rig.table(heads, rows)


def goals(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The figures that are held against goals."""
    idle = {figure["contender"]: figure for figure in figures if not figure["load"]}
    held = []

    if "ours" in idle:
        for percent, most in GOALS.items():
            text = f"commit to start, idle, p{percent}, ms"
            held.append(rig.goal(text, idle["ours"][f"p{percent}_ms"], at_most=most))

    if "oban-py" in idle:
        text = "commit to start, idle, p50, oban-py's as a multiple of ours"
        held.append(rig.goal(text, idle["oban-py"]["p50_of_ours"], at_least=1.0))

    return held


if __name__ == "__main__":
    rig.run(main)
