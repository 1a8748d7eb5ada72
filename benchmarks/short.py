"""What is promised of speed, measured in under five minutes on two cores, and met or missed.

Runs the short forms of `throughput`, `insert`, `latency` and `idle` one after the other. Their
figures are rough: what is missed by little here is to be measured in full, by
`python3 dev.py bench throughput` and so on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from benchmarks import peers, rig

#: What each is given.
PLAN = {
    "throughput": ["--limits=10,50,100", "--jobs=20000", "--rounds=2"],
    "insert": ["--jobs=10000", "--singles=1000", "--connections=1,8", "--rounds=2"],
    "latency": ["--short"],
    "idle": ["--short"],
}

#: Those that measure peers beside; in the others they take long.
WITH_PEERS = ("throughput", "insert", "latency")


def main() -> None:
    """Run them, and print what came of their goals."""
    given = options()
    begun = time.monotonic()
    figures: list[dict[str, Any]] = []
    failed: list[str] = []

    with tempfile.TemporaryDirectory(prefix="oban-sync-bench-") as directory:
        for number, (name, arguments) in enumerate(PLAN.items(), 1):
            rig.say(f"\n{number} of {len(PLAN)}: {name}, after {time.monotonic() - begun:.0f} s")
            file = Path(directory) / f"{name}.json"
            command = [
                *(sys.executable, "-m", f"benchmarks.{name}", f"--json={file}"),
                *(["--smoke"] if given.smoke else arguments),
                *([f"--dsn={given.dsn}"] if given.dsn else []),
                *([f"--commit-delay={given.commit_delay}"] if given.commit_delay else []),
                *([f"--peers={','.join(given.peers) or 'none'}"] if name in WITH_PEERS else []),
                *(["--record"] if given.record else []),
            ]

            if subprocess.run(command, check=False, cwd=rig.HERE.parent).returncode:
                failed.append(name)
            else:
                figures += json.loads(file.read_text("utf-8"))

            print(flush=True)

    goals = [figure for figure in figures if "goal" in figure]
    met = sum(figure["met"] for figure in goals)

    print(rig.goals_table(goals) if goals else "Nothing was measured.")
    told = "; of a smoke test, which means nothing" if given.smoke else ""
    print(f"\n{met} of {len(goals)} goals met, in {time.monotonic() - begun:.0f} s{told}.")

    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")

    if failed:
        raise rig.BenchmarkError(f"{', '.join(failed)} failed; see above")


def options() -> Namespace:
    """The command line."""
    parser = rig.parser("short", __doc__)
    peers.add_options(parser)

    return parser.parse_args()


if __name__ == "__main__":
    rig.run(main)
