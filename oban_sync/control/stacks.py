"""Where the code of a running job is at this moment."""

from __future__ import annotations

from oban_sync.core.checks import check_whole
from oban_sync.core.job import Job
from oban_sync.engine import stacks
from oban_sync.engine.session import Db
from oban_sync.engine.stacks import Stack

MOST_ID = 2**63 - 1


def ask_for_stack(db: Db, job: Job | int) -> bool:
    """Let the node that runs a job tell where its code is; `read_stack` gives it a moment later.

    The node answers within a fraction of a second, once a second for each job at most. It is asked
    by a notification only: a node that hears of none at the moment, behind a pooler or with
    ``listen_conninfo="off"``, does not answer at all.

    Args:
        db: Where the tables are.
        job: The job, or its id.

    Returns:
        Whether there may be an answer: not of a job that does not run, of one that runs on a node
        of another Oban, and of a node that said that it hears of nothing.

    Raises:
        ConfigError: It is no id.
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    job_id = _checked(job)

    with db.session() as tx:
        return stacks.ask(tx, job_id)


def read_stack(db: Db, job: Job | int) -> Stack | None:
    """Where the code of a running job was, when that was last asked for; None of any other job.

    Asking anew replaces it: `Stack.taken_at` tells how old it is. Of jobs in child processes it
    says only which process that is.

    Args:
        db: Where the tables are. Not a standby: what is not worth a write to the log is not there.
        job: The job, or its id.

    Raises:
        ConfigError, DatabaseUnavailableError: As `ask_for_stack`.
    """
    job_id = _checked(job)

    with db.session() as tx:
        return stacks.get(tx, job_id)


def _checked(job: Job | int) -> int:
    return check_whole("job", job.id if isinstance(job, Job) else job, 1, MOST_ID)
