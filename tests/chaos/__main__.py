"""Run the chaos suite: ``python -m tests.chaos --full``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tests.chaos import compare, sizes
from tests.chaos.figures import versions

HERE = Path(__file__).parent


def main() -> int:
    """Do what the command line says; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--smoke", action="store_true", help="the short scenarios: two minutes")
    what.add_argument("--full", action="store_true", help="the promises in full: half an hour")
    what.add_argument(
        "--compare-oban-py",
        action="store_true",
        help="a table of oban_sync and oban-py under the same faults: about eight minutes",
    )
    parser.add_argument("--seed", default=sizes.SEED, help="repeat a run that printed this seed")
    parser.add_argument("--repeats", type=int, help="of every full scenario that repeats a fault")
    parser.add_argument("--workers", default="2", help="scenarios at a time")
    parser.add_argument("rest", nargs="*", metavar="-- pytest's own", help="as -k kill_9")
    given = parser.parse_args()

    if given.compare_oban_py:
        return compared(given.seed)

    # The suite was asked for by name, so it may bring what it needs.
    environment = {"OBAN_SYNC_CHAOS_SEED": given.seed, "OBAN_SYNC_CHAOS_INSTALL": "1"}

    if given.repeats:
        environment["OBAN_SYNC_CHAOS_REPEATS"] = str(given.repeats)

    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", str(HERE), "-n", given.workers),
            *(["-m", "chaos"] if given.full else []),
            *given.rest,
        ],
        cwd=HERE.parents[1],
        env={**os.environ, **environment},
    ).returncode


def compared(seed: str) -> int:
    """Print the table, or why there is none."""
    try:
        text = compare.table(seed)
    except compare.UnavailableError as error:
        print(f"skipped: {error}")

        return 0

    print(f"{versions()}; seed {seed}\n\n{text}")

    return 0


if __name__ == "__main__":
    sys.exit(main())
