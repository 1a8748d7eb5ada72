"""What a leader forgets that writes nothing of it itself."""

from __future__ import annotations

import pytest

from oban_sync.core.config import Config
from oban_sync.plugins.leftovers import Leftovers


@pytest.fixture
def old(conn):
    """A row of metrics and one of logs, both of sixty days ago; how many are left."""
    conn.execute(
        "INSERT INTO oban_sync_metrics (period, started_at, name, node, queue, worker, state, jobs)"
        " VALUES (3600, date_trunc('hour', now() - interval '60 days'), 'Oban', 'a', 'alpha', 'W',"
        " 'completed', 1)"
    )
    conn.execute(
        "INSERT INTO oban_sync_logs (job_id, attempted_at, attempt, node, lines, written_at)"
        " VALUES (1, now(), 1, 'a', '[]', now() - interval '60 days')"
    )

    def left():
        return conn.execute(
            "SELECT (SELECT count(*) FROM oban_sync_metrics), (SELECT count(*) FROM oban_sync_logs)"
        ).fetchone()

    return left


@pytest.fixture
def run(db):
    """One round of a node with some options."""

    def run(*, leads=True, **options):
        config = Config.checked({"conninfo": "dbname=x", "queues": {"alpha": 1}, **options})
        loop = Leftovers(db, config, leads=lambda: leads)

        if loop._upkeep is not None:
            loop._upkeep._due_at = 0.0

        loop.tick()

    return run


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"metrics": False}, (0, 1)),
        ({"logs": False}, (1, 0)),
        ({"metrics": False, "logs": False}, (0, 0)),
        ({"metrics": False, "logs": False, "leads": False}, (1, 1)),
    ],
    ids=["no metrics", "no logs", "neither", "another leads"],
)
def test_what_is_old_goes_though_this_node_writes_none(old, run, options, left):
    run(**options)

    assert old() == left


@pytest.mark.parametrize("off", [{"metrics": False}, {"logs": False}], ids=["metrics", "logs"])
def test_a_node_that_has_turned_one_off_has_the_loop(make_oban, off):
    oban = make_oban(queues={"alpha": 1}, **off).start()

    assert "leftovers" in [loop.name for loop in oban._lifecycle.supervisor._duties]


def test_a_node_that_has_both_on_does_not(make_oban):
    oban = make_oban(queues={"alpha": 1}).start()

    assert "leftovers" not in [loop.name for loop in oban._lifecycle.supervisor._duties]
