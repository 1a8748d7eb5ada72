"""Why a job does not run."""

from __future__ import annotations

from oban_sync.core import explanation
from oban_sync.core.checks import check_whole
from oban_sync.core.errors import JobNotFoundError
from oban_sync.core.explanation import Explanation
from oban_sync.core.job import Job
from oban_sync.engine import explain
from oban_sync.engine.session import Db

MOST_ID = 2**63 - 1


def explain_job(db: Db, name: str, job: Job | int) -> Explanation:
    """Why a job does not run at this moment, or what became of it, in a sentence.

    One statement that reads a bounded number of rows and changes nothing. What nodes say of
    themselves is as old as their last beat, which is seconds; nodes of Oban for Elixir and of
    oban-py cannot be seen.

    Args:
        db: Where the tables are.
        name: The Oban instance that asks; jobs belong to none.
        job: The job, or its id.

    Returns:
        The reason, in words and as a `Reason`. Of several that which would still hold if the others
        were mended; those are in ``facts["also"]``.

    Raises:
        ConfigError: It is no id.
        JobNotFoundError: There is no such job.
        DatabaseUnavailableError: PostgreSQL could not be reached.

    Example:
        >>> print(oban.explain_job(1).sentence)
    """
    job_id = check_whole("job", job.id if isinstance(job, Job) else job, 1, MOST_ID)

    with db.looking() as tx:
        facts = explain.gather(tx, job_id)

    if facts is None:
        raise JobNotFoundError(f"there is no job {job_id}")

    return explanation.judge(facts, name)
