"""The commands that look at jobs, queues, nodes and cron entries, and change them.

`oban-sync` and `flask oban` have the same ones; each finds the Oban in its own way.
"""

from __future__ import annotations

import click

from oban_sync.cli import crons, jobs, looking, queues, web
from oban_sync.cli.reach import Reach, command, group


def commands(reach: Reach) -> list[click.Command]:
    """All of them, made anew.

    Args:
        reach: How they find the Oban they are about.
    """
    return [
        group("jobs", "Look at jobs, and cancel, retry, delete and add them.", jobs.VERBS, reach),
        group("queues", "See how queues stand; pause, scale and stop them.", queues.VERBS, reach),
        group("crons", "See what is inserted by the clock; pause and run it.", crons.VERBS, reach),
        command("nodes", looking.nodes, reach),
        command("metrics", looking.metrics, reach),
        command("audit", looking.show_audit, reach),
        command("health", looking.health, reach),
        command("web", web.web, reach),
    ]
