"""Reading what jobs logged."""

from __future__ import annotations

from oban_sync.core.checks import check_whole
from oban_sync.core.job import Job
from oban_sync.core.job_logs import AttemptLog
from oban_sync.engine import logs
from oban_sync.engine.session import Db

MOST_ID = 2**63 - 1


def job_logs(db: Db, job: int | Job) -> list[AttemptLog]:
    """What a job logged, run by run, in the order in which they started.

    There is nothing of runs that logged nothing, of those older than `keep` (a week, unless
    ``logs=`` says otherwise), and of jobs that ran where ``logs=False``. Of a running job it is
    what it logged until a few seconds ago. A hundred runs at the most: the last.

    Args:
        db: Where the tables are.
        job: The job, or its id. It may be deleted by now.

    Raises:
        ConfigError: It is no id.
        DatabaseUnavailableError: PostgreSQL could not be reached.

    Example:
        >>> for run in oban.job_logs(1):
        ...     lines = [f"{line.level} {line.message}" for line in run.lines]
    """
    job_id = check_whole("job", job.id if isinstance(job, Job) else job, 1, MOST_ID)

    with db.session() as tx:
        return logs.list_logs(tx, job_id)
