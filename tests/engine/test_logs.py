"""The table of what jobs logged."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from oban_sync import ConfigError
from oban_sync.core.clock import from_micros
from oban_sync.core.job_logs import Line, Written
from oban_sync.engine import logs
from oban_sync.engine.statements import statement

NOON = Line(1_700_000_000.25, "info", "app", "at noon")


def written(*lines, job_id=1, start=1_000_000, attempt=1, dropped=0):
    return Written((job_id, start), attempt, "blue", list(lines), dropped)


def listed(db, job_id=1):
    with db.session() as tx:
        return logs.list_logs(tx, job_id)


def test_what_is_written_can_be_read(db):
    logs.write(db, [written(NOON, dropped=3)])
    [run] = listed(db)

    assert (run.attempt, run.node, run.dropped) == (1, "blue", 3)
    assert run.attempted_at == from_micros(1_000_000)
    [line] = run.lines
    assert line.at == datetime.fromtimestamp(1_700_000_000.25, UTC)
    assert (line.level, line.logger, line.message) == ("info", "app", "at noon")


def test_what_is_written_again_takes_the_place_of_what_was_there(db):
    logs.write(db, [written(NOON), written(NOON, job_id=2)])
    logs.write(db, [written(NOON, NOON)])

    assert [len(run.lines) for run in listed(db)] == [2]
    assert [len(run.lines) for run in listed(db, 2)] == [1]


def test_runs_are_listed_in_the_order_of_their_starts_and_the_last_hundred(db):
    logs.write(db, [written(NOON, start=start, attempt=start) for start in range(1, 151)])

    assert [run.attempt for run in listed(db)] == list(range(51, 151))


@pytest.mark.parametrize(
    ("most", "given"),
    [
        (None, [(5, 0), (5, 0), (5, 3)]),
        (100, [(5, 0), (5, 0), (5, 3)]),
        (15, [(5, 0), (5, 0), (5, 3)]),
        (12, [(2, 3), (5, 0), (5, 3)]),
        (7, [(0, 5), (2, 3), (5, 3)]),
        (5, [(0, 5), (0, 5), (5, 3)]),
        (1, [(0, 5), (0, 5), (1, 7)]),
    ],
)
def test_the_last_lines_of_all_runs_are_given_and_the_others_counted(db, most, given):
    lines = [Line(1_700_000_000.0 + n, "info", "app", f"line {n}") for n in range(5)]
    logs.write(db, [written(*lines, start=n, dropped=3 if n == 3 else 0) for n in (1, 2, 3)])

    with db.session() as tx:
        found = logs.list_logs(tx, 1, most_lines=most)

    assert [(len(run.lines), run.dropped) for run in found] == given
    assert found[-1].lines[-1].message == "line 4"


def test_rows_that_somebody_else_wrote_are_read_as_far_as_they_can_be(db, conn):
    conn.execute(
        "INSERT INTO oban_sync_logs (job_id, attempted_at, attempt, node, lines)"
        """ VALUES (1, now(), 1, 'n', '[null, [1, "info", "a", "read"], {}]'),"""
        """ (1, now() + interval '1 s', 2, 'n', '{"no": "list"}')"""
    )

    assert [[line.message for line in run.lines] for run in listed(db)] == [["read"], []]


def test_old_ones_are_found_by_their_index(conn, prefix):
    conn.execute(
        "INSERT INTO oban_sync_logs (job_id, attempted_at, attempt, node, lines, written_at)"
        " SELECT n, now(), 1, 'n', '[]', now() - n * interval '1 s'"
        " FROM generate_series(1, 20000) AS n"
    )
    conn.execute("ANALYZE oban_sync_logs")
    text = statement("log_prune", prefix).replace("%(keep)s", "19000").replace("%(most)s", "100")
    plan = "\n".join(row[0] for row in conn.execute(f"EXPLAIN {text}"))

    assert "oban_sync_logs_written_index" in plan
    assert "Seq Scan" not in plan


@pytest.mark.parametrize("given", ["one", 0, None, 2**63])
def test_what_is_no_id_is_refused(oban, given):
    with pytest.raises(ConfigError, match="job"):
        oban.job_logs(given)
