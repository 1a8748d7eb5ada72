"""Oban for synchronous Python: background jobs in your own PostgreSQL, run on threads."""

from oban_sync import schema, telemetry
from oban_sync.control.metrics import MetricsSummary, Point, Series
from oban_sync.control.rate_limits import RateLimit
from oban_sync.core.cron import Cron, CronSlot
from oban_sync.core.errors import (
    ConfigError,
    DatabaseUnavailableError,
    EmbeddedServerError,
    InvalidJobError,
    JobCrashedError,
    JobDecodeError,
    JobError,
    JobInterrupt,
    JobNotFoundError,
    JobTimeoutError,
    NotRunningError,
    ObanError,
    SchemaError,
    WorkerNotFoundError,
)
from oban_sync.core.explanation import Explanation, Reason
from oban_sync.core.filters import Filter, FilterError
from oban_sync.core.health import Health
from oban_sync.core.job import Job, JobState, current_job
from oban_sync.core.job_logs import AttemptLog, LogLine
from oban_sync.core.outcome import Cancel, Discard, Record, Snooze
from oban_sync.core.progress import Progress
from oban_sync.core.worker import JobFunction, Worker, job, worker
from oban_sync.engine.audit import AuditEntry
from oban_sync.engine.cancelling import cancellable
from oban_sync.engine.metrics import QueueHealth
from oban_sync.engine.orders import NodeInfo, NodeQueue
from oban_sync.oban import Oban
from oban_sync.runtime.roster import QueueInfo

__version__ = "0.1.0"

__all__ = [
    "AttemptLog",
    "AuditEntry",
    "Cancel",
    "ConfigError",
    "Cron",
    "CronSlot",
    "DatabaseUnavailableError",
    "Discard",
    "EmbeddedServerError",
    "Explanation",
    "Filter",
    "FilterError",
    "Health",
    "InvalidJobError",
    "Job",
    "JobCrashedError",
    "JobDecodeError",
    "JobError",
    "JobFunction",
    "JobInterrupt",
    "JobNotFoundError",
    "JobState",
    "JobTimeoutError",
    "LogLine",
    "MetricsSummary",
    "NodeInfo",
    "NodeQueue",
    "NotRunningError",
    "Oban",
    "ObanError",
    "Point",
    "Progress",
    "QueueHealth",
    "QueueInfo",
    "RateLimit",
    "Reason",
    "Record",
    "SchemaError",
    "Series",
    "Snooze",
    "Worker",
    "WorkerNotFoundError",
    "cancellable",
    "current_job",
    "job",
    "schema",
    "telemetry",
    "worker",
]
