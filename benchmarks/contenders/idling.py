"""Run a node of oban_sync that has nothing to do, until standard input is closed.

Everything is on: all plugins, and a crontab whose time does not come. Nothing is imported that an
application would not import, since the memory of the process counts.
"""

import json
import sys

import oban_sync


@oban_sync.job(name="benchmarks.yearly", cron="0 0 1 1 *")
def yearly() -> None:
    """Never run here."""


def main() -> None:
    """Start, tell so, and wait."""
    given = json.loads(sys.stdin.readline())
    queues = {f"queue{number}": given["limit"] for number in range(1, given["queues"] + 1)}
    oban = oban_sync.Oban(
        given["dsn"],
        prefix=given["schema"],
        queues=queues,
        prioritizer=True,
        reindexer=True,
    )

    with oban:
        print("ready", flush=True)
        sys.stdin.read()

    print("{}")


if __name__ == "__main__":
    main()
