"""Errors and traces for Sentry: failures of jobs with what is known of them, and their runs.

Nothing is sent that Sentry was not set up for: `sentry_sdk.init` comes first, and its options for
traces decide whether there are any. The args of jobs stay here, unless they are asked for; and so
do the variables of the functions that failed, which hold them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple

try:
    import sentry_sdk
    from sentry_sdk.utils import event_from_exception
except ImportError as error:
    raise ImportError(
        "oban_sync.integrations.sentry needs sentry-sdk; install it by: "
        "pip install 'oban-sync[sentry]'"
    ) from error

from oban_sync import telemetry
from oban_sync.core.errors import JobDecodeError
from oban_sync.core.job import Job
from oban_sync.core.redaction import redacted

ORIGIN = "auto.queue.oban"

#: The headers that go along with jobs.
TRACE, BAGGAGE = "sentry-trace", "baggage"

#: Characters of baggage that are stored with every job.
MOST_CARRIED = 2_000

#: Seconds that a child waits after a job for what it has to be sent; and seconds for which it does
#: not, once that was in vain.
FLUSH_PATIENCE = 2.0
FLUSH_REST = 30.0

#: States in which a job that failed will never run again.
_OVER = ("discarded", "cancelled")

_IDENTIFIER = "oban-sync-sentry"


def attach(*, args: bool | Callable[[Job], Any] = False, retries: bool = True) -> None:
    """Report failures of jobs to Sentry, and trace enqueueing and running.

    To be called in every process that enqueues or runs jobs; a second call replaces the first. A
    job that fails in a child of a process queue is reported from there, where the child imports the
    module that calls this.

    Args:
        args: Whether the args of jobs are sent with their failures, with passwords and the like
            left out; or a function of the job that gives what is sent of them. Local variables are
            never sent with a failure, whatever Sentry is set up for: they hold args too.
        retries: False to report only failures after which the job is given up. Else the others are
            reported as warnings.

    Example:
        >>> import sentry_sdk
        >>> from oban_sync.integrations import sentry
        >>> sentry_sdk.init()
        >>> sentry.attach()
    """
    detach()
    made = _Sentry(args, retries=retries)
    _attached.append(made)
    telemetry.attach(_IDENTIFIER, _HANDLERS, made.handle)


def detach() -> None:
    """Report nothing more; traces that are open are ended."""
    telemetry.detach(_IDENTIFIER)

    while _attached:
        _attached.pop().close()


class _Begun(NamedTuple):
    """A run, or the storing of jobs, that goes on.

    Attributes:
        span: The transaction, or the span.
        scope: The scope of a run.
        about: What it is about; kept, so that its id is not another's.
    """

    span: Any
    scope: Any
    about: object


#: The run that was begun last in this very context.
_here: ContextVar[_Begun | None] = ContextVar("oban_sync_run", default=None)


class _Sentry:
    """Tells Sentry of events."""

    def __init__(self, args: bool | Callable[[Job], Any], *, retries: bool) -> None:
        self._args = args
        self._retries = retries
        self._begun: dict[int, _Begun] = {}
        self._flush_from = 0.0

    def close(self) -> None:
        """End what is open."""
        while self._begun:
            _, begun = self._begun.popitem()
            begun.span.finish()

    def handle(self, event: str, fields: dict[str, Any]) -> None:
        """An event happened."""
        if sentry_sdk.get_client().is_active():
            _HANDLERS[event](self, fields)

    def insert_start(self, fields: dict[str, Any]) -> None:
        """Jobs are about to be stored."""
        queue, carried = fields["queue"], fields["carried"]
        span = sentry_sdk.start_span(op="queue.publish", name=queue, origin=ORIGIN)
        span.__enter__()
        span.set_data("messaging.system", "oban")
        span.set_data("messaging.destination.name", queue)
        self._begun[id(carried)] = _Begun(span, None, carried)
        self._inject(carried)

    def insert_stop(self, fields: dict[str, Any]) -> None:
        """They are stored."""
        if (begun := self._begun.pop(id(fields["carried"]), None)) is None:
            return

        jobs = fields["jobs"]

        if len(jobs) == 1:
            begun.span.set_data("messaging.message.id", str(jobs[0].id))
        else:
            begun.span.set_data("messaging.batch.message_count", len(jobs))

        begun.span.__exit__(None, None, None)

    def insert_exception(self, fields: dict[str, Any]) -> None:
        """They could not be stored; whoever wanted it hears of the error, and may report it."""
        if (begun := self._begun.pop(id(fields["carried"]), None)) is not None:
            error = fields["error"]
            begun.span.__exit__(type(error), error, error.__traceback__)

    def job_start(self, fields: dict[str, Any]) -> None:
        """A job is about to run, on this thread."""
        job = fields["job"]
        self._enter(job, _carried(job))

    def job_stop(self, fields: dict[str, Any]) -> None:
        """It has ended, and not failed."""
        self._leave(fields, "ok" if fields["state"] != "cancelled" else "cancelled")

    def job_exception(self, fields: dict[str, Any]) -> None:
        """It has failed."""
        self._leave(fields, "internal_error")

    def job_error(self, fields: dict[str, Any]) -> None:
        """It failed by an exception, on this thread."""
        job, error, state = fields["job"], fields["error"], fields["state"]
        over = state in _OVER

        # A policy may take an exception for a reason to wait, which is no failure.
        if state not in ("retryable", *_OVER) or not (over or self._retries):
            return

        client = sentry_sdk.get_client()
        event, hint = event_from_exception(
            error,
            # Variables of frames are args by other names, which no word of them gives away.
            client_options={**client.options, "include_local_variables": False},
            mechanism={"type": "oban", "handled": state == "retryable"},
        )
        event["level"] = "error" if over else "warning"

        with sentry_sdk.new_scope() as scope:
            self._describe(scope, job)
            scope.set_extra("oban.state", state)
            # Integrations may add variables of their own finding.
            scope.add_event_processor(_without_variables)
            sentry_sdk.capture_event(event, hint=hint)

    def release(self, fields: dict[str, Any]) -> None:
        """Jobs were handed back; those of process queues come to nothing that is told."""
        for job in fields["jobs"]:
            if (begun := self._begun.pop(id(job), None)) is not None:
                begun.span.set_status("aborted")
                begun.span.finish()

    def handed(self, fields: dict[str, Any]) -> None:
        """A job is about to be given to a child process."""
        self._inject(fields["carried"])

    def child_start(self, fields: dict[str, Any]) -> None:
        """A job is about to run in this child, whose parent has the transaction."""
        self._enter(fields["job"], fields["carried"], within_child=True)

    def child_stop(self, fields: dict[str, Any]) -> None:
        """It has ended. The process may be killed before it sends by itself what there is."""
        self._leave(fields, "ok")
        self._flush()

    def _flush(self) -> None:
        """Send what there is; where nobody answers, the jobs to come do not wait for it."""
        if (began := time.monotonic()) < self._flush_from:
            return

        sentry_sdk.flush(timeout=FLUSH_PATIENCE)

        if time.monotonic() - began >= 0.9 * FLUSH_PATIENCE:
            self._flush_from = time.monotonic() + FLUSH_REST

    def _enter(self, job: Job, brought: Mapping[str, Any], *, within_child: bool = False) -> None:
        scopes = sentry_sdk.isolation_scope()
        scope = scopes.__enter__()
        scope.clear_breadcrumbs()
        self._describe(scope, job)
        headers = {name: brought[name] for name in (TRACE, BAGGAGE) if name in brought}
        transaction = sentry_sdk.continue_trace(
            headers, op="queue.process", name=job.worker, source="task", origin=ORIGIN
        )

        if within_child:
            # The run itself is the parent's to tell.
            transaction.op = "function"

        span = sentry_sdk.start_transaction(transaction)
        span.__enter__()

        for name, value in {
            "messaging.system": "oban",
            "messaging.destination.name": job.queue,
            "messaging.message.id": str(job.id),
            "messaging.message.retry.count": max(0, job.attempt - 1),
            "messaging.message.receive.latency": _waited(job),
        }.items():
            if value is not None:
                span.set_data(name, value)

        self._begun[id(job)] = begun = _Begun(span, scopes, job)
        _here.set(begun)

    def _leave(self, fields: dict[str, Any], status: str) -> None:
        if (begun := self._begun.pop(id(fields["job"]), None)) is None:
            return

        begun.span.set_status(status)
        begun.span.set_data("oban.state", fields["state"])

        # That of a run that was given up is told elsewhere; its scope ends with its thread.
        if _here.get() is begun:
            begun.span.__exit__(None, None, None)
            begun.scope.__exit__(None, None, None)
        else:
            begun.span.finish()

    def _describe(self, scope: Any, job: Job) -> None:
        scope.set_transaction_name(job.worker, source="task")
        scope.set_tag("oban.worker", job.worker)
        scope.set_tag("oban.queue", job.queue)
        about: dict[str, Any] = {
            "id": job.id,
            "worker": job.worker,
            "queue": job.queue,
            "attempt": job.attempt,
            "max_attempts": job.max_attempts,
            "priority": job.priority,
            "tags": list(job.tags),
        }

        if self._args:
            about["args"] = _args(job, self._args)

        scope.set_context("oban job", about)

    def _inject(self, carried: dict[str, Any]) -> None:
        if value := sentry_sdk.get_traceparent():
            carried[TRACE] = value

        if value := sentry_sdk.get_baggage():
            before = carried.get(BAGGAGE)
            whole = f"{before},{value}" if isinstance(before, str) and before else value

            if len(whole) <= MOST_CARRIED:
                carried[BAGGAGE] = whole


def _without_variables(event: Any, hint: Any) -> Any:  # noqa: ARG001 - Sentry gives both
    """An event without the local variables of its frames."""
    for value in (event.get("exception") or {}).get("values") or ():
        for frame in (value.get("stacktrace") or {}).get("frames") or ():
            frame.pop("vars", None)

    return event


def _args(job: Job, wanted: bool | Callable[[Job], Any]) -> Any:
    try:
        return wanted(job) if callable(wanted) else redacted(job.args)
    except Exception as error:
        return f"(cannot be shown: {type(error).__name__})"


def _carried(job: Job) -> Mapping[str, Any]:
    """What the job brought, as far as it may be Sentry's: rows are written by anybody."""
    try:
        found = job.carried if job.keeps else {}
    except JobDecodeError:
        return {}

    return {name: value for name, value in found.items() if isinstance(value, str)}


def _waited(job: Job) -> float | None:
    """Milliseconds between the moment a job was due and its start."""
    try:
        due, began = job.scheduled_at, job.attempted_at
    except JobDecodeError:
        return None

    if due is None or began is None:
        return None

    return max(0.0, (began - due).total_seconds() * 1_000)


_HANDLERS: dict[str, Callable[[_Sentry, dict[str, Any]], None]] = {
    "oban.job.insert.start": _Sentry.insert_start,
    "oban.job.insert.stop": _Sentry.insert_stop,
    "oban.job.insert.exception": _Sentry.insert_exception,
    "oban.job.start": _Sentry.job_start,
    "oban.job.stop": _Sentry.job_stop,
    "oban.job.exception": _Sentry.job_exception,
    "oban.job.error": _Sentry.job_error,
    "oban.producer.release": _Sentry.release,
    "oban.job.handed": _Sentry.handed,
    "oban.child.start": _Sentry.child_start,
    "oban.child.stop": _Sentry.child_stop,
}

_attached: list[_Sentry] = []
