"""The statements of the loops never scan the table, whatever its statistics say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from oban_sync.engine.statements import statement

SEED = """
INSERT INTO oban_jobs (state, queue, worker, attempt, scheduled_at, attempted_at, attempted_by)
SELECT
    (ARRAY['completed', 'completed', 'completed', 'available', 'scheduled', 'executing']
        )[1 + n % 6]::oban_job_state,
    'queue' || n % 3, 'W', 1, timezone('UTC', now()) + (n % 100 - 50) * interval '1 s',
    timezone('UTC', now()), ARRAY['node', 'owner']
FROM generate_series(1, 12000) AS n
"""

STATEMENTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "job_ack_and_fetch": (
        {
            "ids": "{1,2,3}",
            "fences": '{"2026-01-01","2026-01-01","2026-01-01"}',
            "queue": "queue1",
            "demand": 10,
            "node": "node",
            "owner": "owner",
            "shunned": "{}",
            "priority": 0,
            "due": '{"2026-01-01"}',
            "after": 0,
        },
        {"oban_jobs_pkey", "oban_jobs_available_index"},
    ),
    "job_ack": (
        {"outcomes": '[{"id": 1, "fence": "2026-01-01"}]', "owner": "owner", "most": 100},
        {"oban_jobs_pkey"},
    ),
    "job_release": (
        {"ids": "{1}", "fences": '{"2026-01-01"}', "owner": "owner", "channel": "c"},
        {"oban_jobs_pkey"},
    ),
    "job_reconcile": (
        {"owner": "owner", "ids": "{1}", "fences": '{"2026-01-01"}'},
        {"oban_jobs_executing_index", "oban_jobs_pkey"},
    ),
    "job_fence_list": ({"ids": "{1,2}"}, {"oban_jobs_pkey"}),
    "job_stage": (
        {"queues": ["queue1"], "most": 100, "shunned": "{}", "channel": "c"},
        {"oban_jobs_staging_index", "oban_jobs_available_index", "oban_jobs_pkey"},
    ),
    "job_look": (
        {"queues": ["queue1"], "shunned": "{}"},
        {"oban_jobs_staging_index", "oban_jobs_available_index"},
    ),
    "job_due_head": ({"queues": ["queue1"], "shunned": "{}"}, {"oban_jobs_staging_index"}),
    "job_available_head": (
        {"queue": "queue1", "shunned": "{}"},
        {"oban_jobs_available_index"},
    ),
}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan

    for inner in plan.get("Plans", []):
        yield from nodes(inner)


@pytest.mark.parametrize("moment", ["empty", "stale", "analyzed"])
@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_goes_through_its_indexes(db, conn, name, moment):
    params, indexes = STATEMENTS[name]

    if moment != "empty":
        # Statistics of an empty table and 12,000 rows in it: what every queue table comes to.
        conn.execute("ANALYZE oban_jobs")
        conn.execute(SEED)

    if moment == "analyzed":
        conn.execute("ANALYZE oban_jobs")

    with db.session() as tx:
        text = f"EXPLAIN (FORMAT JSON) {statement(name, db.schema)}"
        [(found,)] = tx.conn.execute(text, params).fetchall()

    found = json.loads(found) if isinstance(found, str) else found
    scans = [node for node in nodes(found[0]["Plan"]) if node.get("Relation Name") == "oban_jobs"]
    used = {node["Index Name"] for node in nodes(found[0]["Plan"]) if "Index Name" in node}

    assert used == indexes
    # Through an index, and not along the whole of it.
    through = [node for node in nodes(found[0]["Plan"]) if "Index Name" in node]
    whole = [node["Index Name"] for node in through if "Index Cond" not in node]
    # After a lost connection all that is executing is looked through: a job may have been moved.
    assert whole == (["oban_jobs_executing_index"] if name == "job_reconcile" else [])
    assert not [node for node in scans if node["Node Type"] == "Seq Scan"]


def test_taking_jobs_in_order_needs_no_sort(db, conn):
    conn.execute(SEED)
    params, _ = STATEMENTS["job_ack_and_fetch"]

    with db.session() as tx:
        text = f"EXPLAIN (FORMAT JSON) {statement('job_ack_and_fetch', db.schema)}"
        [(found,)] = tx.conn.execute(text, params).fetchall()

    assert not [node for node in nodes(found[0]["Plan"]) if node["Node Type"] == "Sort"]
