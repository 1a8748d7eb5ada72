"""Running a cron entry here and now, whatever the clock says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from oban_sync.core.errors import ConfigError, shown, unknown
from oban_sync.core.job import Job
from oban_sync.engine import crons, jobs
from oban_sync.engine.retry import conflicts_retried
from oban_sync.engine.session import Db, Tx


def run_cron(
    db: Db,
    name: str,
    entry: str,
    /,
    *,
    by: str | None = None,
    along: Callable[[Tx, Job], None] | None = None,
) -> Job:
    """Insert a job of an entry now, as it would be inserted at one of its times.

    It is one more: the times of the entry come as they would have, and none counts as settled. The
    entry may be paused, and an unfinished job of it is no hindrance; where its jobs are unique, the
    one that is there already is given, with ``conflict`` true.

    Args:
        entry: The name of the entry.
        by: Who wants it; stands in the job's meta as ``cron_by``.
        along: Called with the transaction that the job is inserted in, and with the job.

    Raises:
        ConfigError: There is no such entry, or its row holds something else than a job.
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    if not isinstance(entry, str) or not entry.isprintable():
        raise ConfigError("entry", f"{shown(entry)} is not the name of an entry")

    def insert() -> Job:
        with db.transaction() as tx:
            [job] = jobs.insert(tx.conn, tx.schema, [_job_of(tx, name, entry, by)])

            if along is not None:
                along(tx, job)

            return job

    return conflicts_retried(insert)


def _job_of(tx: Tx, name: str, entry: str, by: str | None) -> Job:
    rows = {row.entry: row for row in crons.list_entries(tx, name)}

    if entry not in rows:
        raise ConfigError("entry", unknown(entry, rows))

    found = rows[entry].read()
    meta = found.template.get("meta")
    template: dict[str, Any] = dict(found.template)

    if by is not None:
        template["meta"] = {**meta, "cron_by": by} if isinstance(meta, dict) else {"cron_by": by}

    return replace(found, template=template).job_at(crons.now(tx))
