"""Tables and the README's picture, from the newest figures that were recorded.

Of each benchmark those of the newest commit count, on the newest server, and the newest of each
where a thing was measured twice. Figures with slow commits are reported apart.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks import charts, cpu, idle, insert, latency, peers, rig, throughput

Figure = dict[str, Any]

#: Those with a table of their own.
SHOWN: dict[str, Callable[[list[Figure]], str]] = {
    "throughput": throughput.shown,
    "insert": insert.shown,
    "cpu": cpu.shown,
    "idle": idle.shown,
    "latency": latency.shown,
}

#: What a figure depends on, not what it is.
FACTS = ("time", "benchmark", "commit", "dirty", "cores", "python", "postgres", "commit_delay")

#: What was measured, not what was done to measure it.
VALUES = ("jobs_per_second", "rounds", "value", "met")

PICTURE = rig.HERE.parent / "docs" / "images" / "throughput.png"


def main() -> None:
    """Print the tables, and draw the picture."""
    given = options()
    figures = [json.loads(line) for line in given.results.read_text("utf-8").splitlines()]

    for (benchmark, delay), newest in latest(figures).items():
        slow = f", commits of {delay} us" if delay else ""
        print(f"## {benchmark}{slow}\n\n{facts(newest)}\n\n{tables(benchmark, newest)}\n")

    drawn = latest(figures).get(("throughput", 0))

    if drawn is None:
        raise rig.BenchmarkError("no throughput was recorded")

    if not charts.can_draw():
        raise rig.BenchmarkError("matplotlib is missing; pip install 'oban-sync[bench]'")

    charts.draw(picture(drawn), given.picture)
    print(f"drawn: {given.picture}")


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--results", type=Path, default=rig.RESULTS, metavar="FILE", help="what was recorded"
    )
    parser.add_argument(
        "--picture",
        type=Path,
        default=PICTURE,
        metavar="FILE",
        help="the picture to draw (default: docs/images/throughput.png)",
    )

    return parser.parse_args()


def latest(figures: Iterable[Figure]) -> dict[tuple[str, int], list[Figure]]:
    """The newest figures of each benchmark, by its name and the delay of commits."""
    found: dict[tuple[str, int], dict[tuple[Any, ...], Figure]] = {}
    origins: dict[tuple[str, int], tuple[str, ...]] = {}

    # They were appended: the last one is the newest.
    for figure in figures:
        place = figure["benchmark"], figure["commit_delay"]
        origin = figure["commit"], figure["python"], figure["postgres"]

        if origins.get(place) != origin:
            origins[place], found[place] = origin, {}

        found[place][identity(figure)] = figure

    return {place: list(newest.values()) for place, newest in found.items()}


def identity(figure: Figure) -> tuple[Any, ...]:
    """What tells that two figures are of the same thing."""
    return tuple(
        (key, value)
        for key, value in sorted(figure.items())
        if key not in FACTS and key not in VALUES and not isinstance(value, (float, list, dict))
    )


def facts(figures: list[Figure]) -> str:
    """What they depend on."""
    newest = figures[-1]
    changed = " (changed)" if newest["dirty"] else ""

    return (
        f"{newest['time'][:10]}, commit {newest['commit']}{changed}, Python {newest['python']}, "
        f"PostgreSQL {newest['postgres']}, {newest['cores']} cores"
    )


def tables(benchmark: str, figures: list[Figure]) -> str:
    """The table of the benchmark, and that of its goals."""
    goals = [figure for figure in figures if "goal" in figure]
    others = [figure for figure in figures if "goal" not in figure]

    try:
        table = SHOWN.get(benchmark, plain)(others)
    except KeyError:
        # Recorded before the benchmark was what it is now.
        table = plain(others)

    return f"{table}\n\n{rig.goals_table(goals)}" if goals else table


def plain(figures: list[Figure]) -> str:
    """A table of everything that was recorded."""
    keys = [
        key
        for key in dict.fromkeys(key for figure in figures for key in figure)
        if key not in FACTS and key != "rounds"
    ]

    return rig.table(keys, [[_cell(figure.get(key)) for key in keys] for figure in figures])


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int() | float():
            return f"{value:,}"
        case _:
            return str(value)


def picture(figures: list[Figure]) -> charts.Chart:
    """Ours beside the peers and what bounds it, of the run with the most of them."""
    names = {"ours": "oban_sync", "ceiling": "raw SQL", **{name: name for name in peers.PEERS}}
    runs: dict[str, list[Figure]] = {}

    for figure in figures:
        if figure.get("contender") in names:
            runs.setdefault(figure["time"], []).append(figure)

    # Figures of two runs are not to be compared. Of two with as many, the newer one.
    run = max(runs.values(), key=lambda each: (len(each), each[0]["time"]))
    drawn = throughput.chart([{**each, "contender": names[each["contender"]]} for each in run])

    return charts.Chart(drawn.title, drawn.unit, drawn.groups, note=facts(run))


if __name__ == "__main__":
    rig.run(main)
