"""A worker that comes to whatever it is told, in this process or in a child."""

from __future__ import annotations

from oban_sync import Cancel, Snooze, worker


@worker(queue="alpha", name="tests.Various", max_attempts=2)
class Various:
    """Comes to what its args say."""

    def process(self, job):
        match job.args["do"]:
            case "fail":
                raise ValueError("failed")
            case "snooze":
                return Snooze(3_600)
            case "cancel":
                return Cancel("asked to")
