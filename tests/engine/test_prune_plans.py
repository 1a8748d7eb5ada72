"""The pruner's statements go along their indexes, whatever the table's statistics say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg import sql

from oban_sync.engine.statements import numbered

#: Times in no order: an index scan looks costly to the planner then.
SEED = """
INSERT INTO oban_jobs (state, queue, worker, completed_at, cancelled_at, discarded_at)
SELECT
    CASE n % 4 WHEN 0 THEN 'available' WHEN 1 THEN 'cancelled' WHEN 2 THEN 'discarded'
        ELSE 'completed' END::oban_job_state,
    'queue' || n % 3, 'W',
    CASE n % 4 WHEN 3 THEN ended.at END,
    CASE n % 4 WHEN 1 THEN ended.at END,
    CASE n % 4 WHEN 2 THEN ended.at END
FROM generate_series(1, 12000) AS n
CROSS JOIN LATERAL (
    SELECT timezone('UTC', now()) - (n * 7919 % 12000) * interval '1 minute' AS at
) AS ended
"""

AGES: dict[str, Any] = {
    "queues": ["queue1"],
    "queue_ages": [60.0],
    "workers": [],
    "worker_ages": [],
    "age": 86_400.0,
}

ENDED = {f"oban_jobs_{state}_at_index" for state in ("completed", "cancelled", "discarded")}

STATEMENTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "job_prunable_list": (
        {
            **AGES,
            "state": "completed",
            "after": "-infinity",
            "most": 1000,
            "least_age": 60.0,
            "upto": None,
            "upto_id": None,
        },
        ENDED,
    ),
    "job_surplus_head": (
        {**AGES, "state": "completed", "before": "infinity", "most": 1000, "keep": 5},
        ENDED,
    ),
    "job_prune": (
        {"ids": "{1,2,3}", "state": "completed", "upto": "2026-01-01"},
        {"oban_jobs_pkey"},
    ),
}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan

    for inner in plan.get("Plans", []):
        yield from nodes(inner)


def generic_plan(db, name, params):
    """The plan that a prepared statement gets, which knows no values."""
    text, order = numbered(name, db.schema)
    values = sql.SQL(", ").join(sql.Literal(params[key]) for key in order)

    with db.transaction() as tx:
        tx.conn.execute(f"PREPARE guarded AS {text}".encode())

        try:
            [(found,)] = tx.conn.execute(
                sql.SQL("EXPLAIN (FORMAT JSON) EXECUTE guarded ({})").format(values)
            ).fetchall()
        finally:
            tx.conn.execute("DEALLOCATE guarded")

    return (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]


@pytest.mark.parametrize("moment", ["empty", "stale", "analyzed"])
@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_goes_along_its_indexes(db, conn, name, moment):
    params, indexes = STATEMENTS[name]

    if moment != "empty":
        conn.execute("ANALYZE oban_jobs")
        conn.execute(SEED)

    if moment == "analyzed":
        conn.execute("ANALYZE oban_jobs")

    found = list(nodes(generic_plan(db, name, params)))
    through = [node for node in found if "Index Name" in node]

    assert {node["Index Name"] for node in through} == indexes
    assert [node["Index Name"] for node in through if "Index Cond" not in node] == []
    assert not [node for node in found if node["Node Type"] == "Seq Scan"]


@pytest.mark.parametrize("name", ["job_prunable_list", "job_surplus_head"])
def test_jobs_come_out_of_the_index_in_the_order_of_their_time(db, conn, name):
    conn.execute(SEED)
    conn.execute("ANALYZE oban_jobs")
    found = list(nodes(generic_plan(db, name, STATEMENTS[name][0])))
    kinds = {node["Node Type"] for node in found if "Index Name" in node}
    sorts = [node["Sort Key"] for node in found if node["Node Type"].endswith("Sort")]

    # A bitmap, like a sort, would be of all the rows in the range before the first is out.
    assert kinds == {"Index Scan"}
    # One by id as well is left where the newest that is too many is picked from those seen.
    assert [key for key in sorts if "id" not in " ".join(key)] == []
