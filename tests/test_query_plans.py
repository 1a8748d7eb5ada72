"""Hot statements go along their indexes and read no more than they take, whatever statistics say.

The statistics of a queue's table are always out of date: jobs come and go between two visits of
autovacuum. Each test fills a table with 100,000 jobs, gives the planner a view of it that such a
table comes to, and looks at the plans of all the statements, with the settings that they run with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any

import psycopg
import pytest

from oban_sync import schema
from oban_sync.core.limits import check_limits
from oban_sync.engine.connections import connect, connect_reserved
from oban_sync.engine.lanes import Lanes, create_statement
from oban_sync.engine.session import Tx
from oban_sync.engine.statements import shaped
from tests.support.peer_tables import make_elixir, make_oban_py

#: Of 1,000 jobs 700 are done, 240 are available in three queues, 50 wait for their time, ten run. A
#: few have keys, and of these some gave theirs up.
SEED = """
INSERT INTO oban_jobs (
    state, queue, worker, attempt, priority, scheduled_at, attempted_at, attempted_by, completed_at,
    cancelled_at, discarded_at, args, meta
)
SELECT
    kind.state::oban_job_state,
    'queue' || n % 3,
    'W',
    CASE WHEN kind.state IN ('available', 'scheduled') THEN 0 ELSE 1 END,
    n % 2,
    now.utc + (n * 7919 % 100000 - 60000) * interval '1 s',
    CASE WHEN kind.state = 'executing' THEN now.utc END,
    CASE WHEN kind.state = 'executing' THEN ARRAY['node', 'owner'] ELSE '{}' END,
    CASE WHEN kind.state = 'completed' THEN now.utc - n * 7919 % 100000 * interval '1 s' END,
    CASE WHEN kind.state = 'cancelled' THEN now.utc - n * 7919 % 100000 * interval '1 s' END,
    CASE WHEN kind.state = 'discarded' THEN now.utc - n * 7919 % 100000 * interval '1 s' END,
    jsonb_build_object('tenant', n % 50),
    CASE
        WHEN n % 25 = 0 THEN jsonb_build_object(
            'uniq', true,
            'uniq_key', 'oban_sync:' || rpad(md5(n::text), 43, 'x'),
            'uniq_bmp', CASE WHEN n % 50 = 0 THEN '[]'::jsonb ELSE '[0, 1, 2, 3]' END
        )
        ELSE '{}'
    END
FROM generate_series(1, 100000) AS n
CROSS JOIN (SELECT timezone('UTC', now()) AS utc) AS now
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN n % 1000 < 600 THEN 'completed'
        WHEN n % 1000 < 650 THEN 'cancelled'
        WHEN n % 1000 < 700 THEN 'discarded'
        WHEN n % 1000 < 940 THEN 'available'
        WHEN n % 1000 < 970 THEN 'scheduled'
        WHEN n % 1000 < 990 THEN 'retryable'
        ELSE 'executing'
    END AS state
) AS kind
"""

PKEY = "oban_jobs_pkey"
AVAILABLE = "oban_jobs_available_index"
STAGING = "oban_jobs_staging_index"
EXECUTING = "oban_jobs_executing_index"
COMPLETED = "oban_jobs_completed_at_index"
CANCELLED = "oban_jobs_cancelled_at_index"
DISCARDED = "oban_jobs_discarded_at_index"
UNIQUE = "oban_sync_unique_index"
YIELDED = "oban_sync_yielded_index"

CANCEL = "oban_jobs_cancel_index"

#: Indexes of other makers, which begin with the state, and those of ours that a statement may leave
#: for them: they give the same jobs in the same order.
STANDS_FOR = {
    "oban_jobs_state_queue_priority_scheduled_at_id_index": AVAILABLE,
    "oban_jobs_state_cancelled_at_index": CANCELLED,
    "oban_jobs_state_discarded_at_index": DISCARDED,
}

LANES = Lanes("queue1", check_limits("queues.queue1", {"fair": {"args": "tenant"}}).lane_by)


@dataclass(frozen=True, slots=True)
class Hot:
    """A statement, and how it may find its jobs.

    Attributes:
        name: Its file.
        indexes: Those that it goes along.
        whole: Of these, those that hold only what it is after: all of it is looked at.
        session: Whose settings it has: the loops', the loops' under a limit's lock, applications',
            or those of applications that only look.
        lanes: Whether it is made for a partition.
    """

    name: str
    indexes: frozenset[str]
    whole: frozenset[str]
    session: str
    lanes: bool


def hot(
    name: str,
    *indexes: str,
    whole: tuple[str, ...] = (),
    session: str = "loops",
    lanes: bool = False,
) -> Hot:
    """One of the statements below."""
    return Hot(name, frozenset({*indexes, *whole}), frozenset(whole), session, lanes)


ENDED = (COMPLETED, CANCELLED, DISCARDED)

STATEMENTS = (
    # A producer's turn.
    hot("job_ack_and_fetch", PKEY, AVAILABLE),
    hot("job_complete", PKEY),
    hot("job_ack", PKEY),
    hot("job_release", PKEY),
    hot("job_fence_list", PKEY),
    hot("job_available_head", AVAILABLE),
    hot("job_reconcile", PKEY, whole=(EXECUTING,)),
    # The same under limits.
    hot("job_fetch_limited", PKEY, AVAILABLE),
    hot("job_fetch_near", PKEY, AVAILABLE, lanes=True),
    hot("job_fetch_lanes", PKEY, AVAILABLE, LANES.index, lanes=True),
    # Every few seconds.
    hot("job_stage", PKEY, STAGING, AVAILABLE),
    hot("job_look", STAGING, AVAILABLE),
    hot("job_due_head", STAGING),
    hot("node_beat", whole=(CANCEL,)),
    hot("job_rescue", PKEY, whole=(EXECUTING,)),
    hot("job_aged_list", whole=(EXECUTING,)),
    hot("node_rescue", PKEY, whole=(EXECUTING,)),
    hot("node_orphan_list", whole=(EXECUTING,)),
    # Now and then.
    hot("job_prunable_list", *ENDED),
    hot("job_surplus_head", *ENDED),
    hot("job_prune", PKEY),
    hot("job_priority_list", AVAILABLE),
    hot("job_waiting_list", AVAILABLE),
    hot("job_raise", PKEY),
    # By applications.
    hot("job_insert_unique", YIELDED, session="application"),
    hot("job_unique_find", PKEY, whole=(UNIQUE, YIELDED), session="application"),
    hot("job_cancel", PKEY, session="application"),
    hot("job_retry", PKEY, session="application"),
    hot("job_delete", PKEY, session="application"),
    hot("job_hold", PKEY, session="application"),
    hot("job_hold_states", PKEY, session="application"),
    hot("job_update", PKEY, session="application"),
    hot("job_get", PKEY, session="application"),
    hot("job_take", PKEY, session="application"),
    hot("job_progress", PKEY, session="application"),
    hot("job_settled", PKEY, session="application"),
    hot("job_explain", PKEY, AVAILABLE, UNIQUE, whole=(EXECUTING,), session="looking"),
    hot("stack_ask", PKEY, session="application"),
    hot("stack_read", PKEY, session="application"),
    hot("stack_write", PKEY, session="application"),
    hot("page_counts", *ENDED, whole=(AVAILABLE, EXECUTING, STAGING), session="looking"),
    hot("overview_failures", DISCARDED, STAGING, session="looking"),
    hot("overview_busy", whole=(EXECUTING,), session="looking"),
    hot("job_count", *ENDED, whole=(AVAILABLE, EXECUTING, STAGING), session="looking"),
)

#: Statements on jobs that nobody runs often, or that no index can help.
OTHERS = {
    "checkup_owners": "of the doctor",
    "checkup_queues": "of the doctor",
    "checkup_rights": "of the doctor",
    "checkup_table": "of the doctor",
    "checkup_workers": "of the doctor",
    "cron_unfinished": "when a cron job is due",
    "job_insert_one": "reads nothing",
    "index_list": "of the catalog",
    "job_estimate": "is a plan",
    "job_insert": "reads none",
    "job_find_more": "with the order of each index, as job_find_state; see test_find",
    "job_find_newest": "planned anew for what is asked, see test_find",
    "job_find_rows": "planned anew, by ids",
    "job_find_state": "planned anew for what is asked, see test_find",
    "job_find_unread": "planned anew, goes along the primary key, see test_find",
    "metric_full_counts": "with the order of each index, as job_find_state; of the leader",
    "metric_sample": "a share of the pages of the table, by sampling",
    "metric_table": "of the catalog",
    "job_list": "planned anew for what is asked",
    "job_newest": "the end of the primary key",
    "job_ready_list": "of drains in tests",
    "job_wait": "waits for a row's transaction",
    "lane_index_create": "makes an index",
    "lane_index_list": "of the catalog",
    "schema_inspect": "of the catalog",
    "tables_empty": "of tests",
}


#: Nodes that take all that is below them before they give anything.
COLLECTING = {"Aggregate", "Hash", "Incremental Sort", "Sort", "WindowAgg"}


def nodes(plan: dict[str, Any], ends: bool = False) -> Iterator[tuple[dict[str, Any], bool]]:
    """Each node, and whether it is left as soon as there is enough."""
    yield plan, ends

    for inner in plan.get("Plans", []):
        of_its_own = inner.get("Parent Relationship") in ("InitPlan", "SubPlan")
        kept = ends and not of_its_own and plan["Node Type"] not in COLLECTING

        yield from nodes(inner, kept or (plan["Node Type"] == "Limit" and not of_its_own))


def complaints(plan: dict[str, Any], statement: Hot, known: set[str]) -> list[str]:
    """What is wrong with a plan, where these are the indexes of the jobs."""
    found = []
    scans = [
        (node, node["Index Name"], ends)
        for node, ends in nodes(plan)
        if node.get("Index Name") in known
    ]
    used = {index for _, index, _ in scans}
    taken_for = {
        # All jobs of a state are found as well by any index that begins with it.
        index: {STANDS_FOR[index], *statement.whole} if index in STANDS_FOR else {index}
        for index in used
    }

    if [node for node, _ in nodes(plan) if is_scan_of_all(node)]:
        found.append("reads the whole table")

    for node, index, ends in scans:
        kind = node["Node Type"]

        if taken_for[index] & statement.whole:
            continue

        # Along the primary key there is no end while nothing fits.
        if "Index Cond" not in node and (index == PKEY or not ends):
            found.append(f"reads the whole of {index}")

        if index != PKEY and (not ends or kind == "Bitmap Index Scan"):
            found.append(f"gathers all that it finds by {index}")

    if strange := {index for index in used if not taken_for[index] & statement.indexes}:
        found.append(f"uses {', '.join(sorted(strange))}")

    if missing := statement.indexes - set().union(*taken_for.values()):
        found.append(f"makes no use of {', '.join(sorted(missing))}")

    return found


def is_scan_of_all(node: dict[str, Any]) -> bool:
    """Whether it reads the table from one end to the other."""
    return "Seq Scan" in node["Node Type"] and bool(node["Relation Name"] == "oban_jobs")


#: What goes before a statement in its transaction, by the session.
BEFORE: dict[str, tuple[str, dict[str, Any]]] = {
    "looking": ("plan_restrict", {}),
}


class Planner:
    """Makes plans as PostgreSQL makes those of prepared statements, which know no values."""

    def __init__(self, dsn: str, prefix: str) -> None:
        self._dsn = dsn
        self._prefix = prefix

    def all_complaints(self) -> dict[str, list[str]]:
        """What is wrong with any plan, by statement."""
        found: dict[str, list[str]] = {}

        with (
            connect_reserved(self._dsn, application_name="loops") as loops,
            connect(self._dsn, application_name="application") as application,
        ):
            application.execute("SET plan_cache_mode = force_generic_plan")
            rows = application.execute(
                "SELECT schemaname, indexname FROM pg_indexes WHERE tablename = 'oban_jobs'"
            ).fetchall()
            known = {name for where, name in rows if where == self._prefix}

            for each in STATEMENTS:
                conn = loops if each.session == "loops" else application

                if wrong := complaints(self._plan(conn, each), each, known):
                    found[each.name] = wrong

        return found

    def _plan(self, conn: psycopg.Connection[Any], each: Hot) -> dict[str, Any]:
        pieces = LANES.pieces(self._prefix) if each.lanes else ()
        text, order = shaped(each.name, self._prefix, pieces)
        # A plan made for any values is the same for these.
        nothing = ", ".join(["NULL"] * len(order))
        execute = f"EXECUTE guarded ({nothing})" if order else "EXECUTE guarded"

        with conn.transaction(force_rollback=True):
            if each.session in BEFORE:
                name, given = BEFORE[each.session]
                Tx(conn, self._prefix).tuples(name, **given)

            conn.execute(f"PREPARE guarded AS {text}".encode())

            try:
                [(found,)] = conn.execute(f"EXPLAIN (FORMAT JSON) {execute}".encode()).fetchall()
            finally:
                conn.execute("DEALLOCATE guarded")

        plan: dict[str, Any] = found[0]["Plan"]

        return plan


def test_every_statement_on_jobs_is_looked_at():
    queries = files("oban_sync") / "queries"
    on_jobs = {
        path.name.removesuffix(".sql")
        for path in queries.iterdir()
        if path.name.endswith(".sql") and "oban_jobs" in path.read_text("utf-8")
    }
    guarded = {each.name for each in STATEMENTS}

    assert on_jobs == guarded | OTHERS.keys()
    assert not guarded & OTHERS.keys()


def installed(dsn: str, prefix: str, make: Callable[..., None] | None) -> None:
    """Our tables, or somebody else's with what we add to them; autovacuum stays away."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        if make is not None:
            make(conn, prefix)

        schema.install(dsn, prefix=prefix)
        conn.execute("SELECT set_config('search_path', %s, false)", [f'"{prefix}"'])
        conn.execute("ALTER TABLE oban_jobs SET (autovacuum_enabled = off)")
        conn.execute(create_statement(prefix, LANES).encode())


TABLES = {
    "ours": None,
    "oban-py's": make_oban_py,
    "Elixir's": partial(make_elixir, version=14),
}


def never_analyzed(conn: psycopg.Connection[Any]) -> None:
    """As after the first thousands of jobs."""
    conn.execute(SEED)


def vacuumed(conn: psycopg.Connection[Any]) -> None:
    """How many there are is known, and nothing about them."""
    conn.execute(SEED)
    conn.execute("VACUUM oban_jobs")


def analyzed_when_empty(conn: psycopg.Connection[Any]) -> None:
    """As where a queue had run dry when autovacuum came."""
    conn.execute("ANALYZE oban_jobs")
    conn.execute(SEED)


def analyzed_when_all_were_available(conn: psycopg.Connection[Any]) -> None:
    """As where autovacuum came after a large insert."""
    conn.execute(SEED.replace("kind.state::oban_job_state", "'available'::oban_job_state"))
    conn.execute("ANALYZE oban_jobs")
    conn.execute("TRUNCATE oban_jobs")
    conn.execute(SEED)


def analyzed(conn: psycopg.Connection[Any]) -> None:
    """What is known is true."""
    conn.execute(SEED)
    conn.execute("VACUUM (ANALYZE) oban_jobs")


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "prepare",
    [never_analyzed, vacuumed, analyzed_when_empty, analyzed_when_all_were_available, analyzed],
    ids=lambda prepare: prepare.__name__.replace("_", " "),
)
@pytest.mark.parametrize("tables", TABLES)
def test_hot_statements_go_along_their_indexes(dsn, empty_prefix, tables, prepare):
    installed(dsn, empty_prefix, TABLES[tables])

    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("SELECT set_config('search_path', %s, false)", [f'"{empty_prefix}"'])
        prepare(conn)

    assert Planner(dsn, empty_prefix).all_complaints() == {}
