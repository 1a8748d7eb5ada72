"""Running jobs in tests: those that are stored, and single ones without a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from oban_sync.core import clock, payload, registry
from oban_sync.core.carrying import Carriers
from oban_sync.core.checks import check_whole
from oban_sync.core.errors import ConfigError, NotRunningError, shown
from oban_sync.core.job import CURRENT, Job
from oban_sync.core.outcome import Outcome, of_result
from oban_sync.core.row import whole_of
from oban_sync.engine import callers
from oban_sync.runtime import transactional
from oban_sync.runtime.executor import attempt as attempted
from oban_sync.runtime.host import PLAIN, Host
from oban_sync.testing.binding import oban_of


def drain_queue(queue: Any = "default", *, oban: Any = None, **options: Any) -> dict[str, int]:
    """Run the jobs of a queue on this thread; see `Oban.drain_queue`.

    Args:
        queue: The queue, several, or None for all.
        oban: The Oban, or its name; by default the one that is bound, or that of the name "Oban".
        options: As for `Oban.drain_queue`.
    """
    return oban_of(oban).drain_queue(queue, **options)


def perform_job(
    worker: Any,
    args: Mapping[str, Any] | None = None,
    *,
    attempt: int = 1,
    oban: Any = None,
    conn: Any = None,
    **options: Any,
) -> Any:
    """Run one job of a worker that has no row, and give what it returns.

    Args and options are checked as for ``enqueue``, and the args make the round trip through JSON.
    It runs in what the Oban puts around its jobs. Nothing is stored; timeouts do not count.

    Args:
        worker: A worker class, a function decorated with `@job`, or the name of either.
        args: The args; of a function, its arguments by name.
        attempt: Which attempt it is.
        oban: The Oban it runs in, or its name; by default the one that is bound, that of the
            worker's name, or none.
        conn: What a transactional worker works by, in its transaction. By default the connection
            that is bound; where there is none it gets one of its own, and commits.
        options: As for ``enqueue``.

    Returns:
        What `process` or the function returned: `Record`, `Snooze` and the like as they are.

    Raises:
        InvalidJobError: Args or options are wrong.
        BaseException: Whatever the job raises.

    Example:
        >>> perform_job(MailerWorker, {"to": "ann@example.com"})
    """
    if isinstance(worker, str):
        found = registry.resolve(worker)
        job = found.options.merged(options).job(found.name, args)
    elif registration_of(worker) is None:
        raise ConfigError("worker", f"{shown(worker)} is neither a worker nor its name")
    elif hasattr(worker, "registration"):
        job = worker.options(**options).new(**(args or {}))
    else:
        job = worker.new(args, **options)

    return process_job(job, attempt=attempt, oban=oban, conn=conn)


def process_job(job: Job, *, attempt: int = 1, oban: Any = None, conn: Any = None) -> Any:
    """Run a job that was made by ``Worker.new`` without storing it; see `perform_job`."""
    if not isinstance(job, Job):
        raise ConfigError("job", f"{shown(job)} is not a job; make one with Worker.new(...)")

    found = registry.resolve(job.worker)

    with _host(found, oban, conn) as host:
        started = _started(job, attempt, host.carriers)
        token = CURRENT.set(started)

        try:
            with host.entered(started) as stay:
                try:
                    return _result(started, found, host)
                except BaseException as error:
                    stay.error = error

                    raise
        finally:
            CURRENT.reset(token)


def registration_of(worker: Any) -> registry.Registration | None:
    """What is registered of a worker class or a function; None of what is neither."""
    found = getattr(worker, "__oban_worker__", None) or getattr(worker, "registration", None)

    return found if isinstance(found, registry.Registration) else None


def _started(job: Job, attempt: int, carriers: Carriers) -> Job:
    """The job as its queue would give it: out of JSON, with what it carries from here."""
    row = job.to_row(carriers.capture() if carriers else None)
    [columns] = payload.decode(whole_of([row]))
    now = clock.utc_now()

    return Job.loaded(
        id=None,
        state="executing",
        queue=job.queue,
        worker=job.worker,
        attempt=check_whole("attempt", attempt, 1, job.max_attempts),
        max_attempts=job.max_attempts,
        priority=job.priority,
        args=columns["args"],
        meta=columns.get("meta", {}),
        tags=list(job.tags),
        errors=[],
        attempted_by=[],
        inserted_at=now,
        scheduled_at=now,
        attempted_at=now,
        completed_at=None,
        cancelled_at=None,
        discarded_at=None,
    )


def _result(job: Job, found: registry.Registration, host: Host) -> object:
    results: list[object] = []

    def work(*given: object) -> tuple[Outcome, bool]:
        result = attempted(job, found, *given)
        results.append(result)

        return of_result(job, result), True

    if found.transactional is None:
        work()
    else:
        transactional.run(job, host, found.transactional, work, told=_unheard)

    return results[-1]


def _unheard(outcome: Outcome) -> None:
    """Nobody waits for it."""


@contextmanager
def _host(found: registry.Registration, oban: Any, conn: Any) -> Iterator[Host]:
    try:
        desk = oban_of(oban if oban is not None else _by_default(found))
    except NotRunningError:
        if oban is not None or conn is not None:
            raise

        yield PLAIN

        return

    here = callers.bound(desk, conn, wholly=True) if conn is not None else nullcontext()

    with here, desk.db.apart():
        yield desk.host


def _by_default(found: registry.Registration) -> str | None:
    # The bound one comes first, unless the worker names another.
    return None if found.oban == "Oban" else found.oban
