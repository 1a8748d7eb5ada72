"""Assertions about jobs that are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import ceil
from threading import Event
from typing import Any

from oban_sync.control.jobs import MOST_ID, MOST_LISTED
from oban_sync.core import modes
from oban_sync.core.checks import check_seconds, check_whole
from oban_sync.core.errors import ConfigError
from oban_sync.core.job import Job, JobState
from oban_sync.oban import Oban
from oban_sync.testing.binding import oban_of
from oban_sync.testing.wanted import MOST_SHOWN, Wanted, listed, told

#: Jobs that wait to be run. In inline mode they have run by then, and those of any state count.
WAITING = (JobState.AVAILABLE, JobState.SCHEDULED, JobState.SUSPENDED)

#: Seconds between looks.
_PAUSE = 0.05

States = str | Iterable[str] | None


class Found:
    """What `assert_enqueued_during` found, once its block has ended.

    Attributes:
        jobs: The jobs, newest first.
    """

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    @property
    def job(self) -> Job:
        """The newest of the jobs.

        Raises:
            ConfigError: The block has not ended yet.
        """
        if not self.jobs:
            raise ConfigError("job", "it is looked for when the block ends; ask after it")

        return self.jobs[0]


def all_enqueued(
    *,
    worker: Any = None,
    queue: str | None = None,
    args: dict[str, Any] | None = None,
    tags: str | Iterable[str] | None = None,
    state: States = None,
    oban: Any = None,
    **more: Any,
) -> list[Job]:
    """The jobs that are enqueued, newest first.

    Args:
        worker: Of this worker class, function decorated with `@job`, or name.
        queue: In this queue.
        args: Whose args hold these keys, at any depth; lists are compared as a whole.
        tags: With this tag, or all of these.
        state: In this state, or one of these, or ``"any"``. By default those that wait for their
            run: available, scheduled and suspended; in inline mode any.
        oban: The Oban, or its name; by default the one that is bound, or that of the name "Oban".
        more: As of `assert_enqueued`: priority, max_attempts, meta, scheduled_at, scheduled_in,
            delta.

    Raises:
        ConfigError: An argument is wrong.
        DatabaseUnavailableError: PostgreSQL could not be reached.
    """
    wanted = Wanted.checked(worker=worker, queue=queue, args=args, tags=tags, **more)

    return _matching(oban_of(oban), wanted, state)


def assert_enqueued(
    *,
    count: int | None = None,
    state: States = None,
    timeout: float = 0.0,
    oban: Any = None,
    **of: Any,
) -> Job:
    """See that there is a job, and give it; the newest, where there are several.

    Args:
        count: See that there are so many.
        state: As of `all_enqueued`.
        timeout: Seconds to wait for it, where another thread or process enqueues it.
        oban: As of `all_enqueued`.
        of: What is wanted: ``worker``, ``queue``, ``args`` and ``tags`` as of `all_enqueued`;
            ``priority`` and ``max_attempts``; ``meta``, compared as args are; ``scheduled_at``, an
            aware datetime; ``scheduled_in``, seconds or timedelta from when the job was stored; and
            ``delta``, by how many seconds (or a timedelta) either may be off, 1 by default.

    Raises:
        AssertionError: There is none, or not as many; tells of the nearest jobs, and what is wrong
            with them.
        ConfigError: An argument is wrong.

    Example:
        >>> assert_enqueued(worker=MailerWorker, args={"to": "ann@example.com"}, scheduled_in=3600)
    """
    __tracebackhide__ = True

    return _assured(oban_of(oban), Wanted.checked(**of), state, 0, count, timeout)[0]


def refute_enqueued(
    *, state: States = None, timeout: float = 0.0, oban: Any = None, **of: Any
) -> None:
    """See that there is no such job, nor comes one within the timeout; as `assert_enqueued`.

    Raises:
        AssertionError: There is one; lists those there are.
    """
    __tracebackhide__ = True

    _refuted(oban_of(oban), Wanted.checked(**of), state, 0, timeout)


@contextmanager
def assert_enqueued_during(
    *,
    count: int | None = None,
    state: States = "any",
    timeout: float = 0.0,
    oban: Any = None,
    **of: Any,
) -> Iterator[Found]:
    """See that a job is enqueued within a block; as `assert_enqueued`.

    Jobs that were there before do not count. Whether it has run by the end of the block does not
    matter, unless `state` is given. When the block raises, nothing is looked for.

    Yields:
        What holds the jobs once the block has ended.

    Example:
        >>> with assert_enqueued_during(worker=MailerWorker) as found:
        ...     sign_up("ann@example.com")
        >>> found.job.args
        {'to': 'ann@example.com'}
    """
    __tracebackhide__ = True
    desk, wanted, found = oban_of(oban), Wanted.checked(**of), Found()
    since = _newest(desk)

    yield found

    found.jobs = _assured(desk, wanted, state, since, count, timeout)


@contextmanager
def refute_enqueued_during(
    *, state: States = "any", timeout: float = 0.0, oban: Any = None, **of: Any
) -> Iterator[None]:
    """See that no such job is enqueued within a block; as `refute_enqueued`."""
    __tracebackhide__ = True
    desk, wanted = oban_of(oban), Wanted.checked(**of)
    since = _newest(desk)

    yield

    _refuted(desk, wanted, state, since, timeout)


def _assured(
    desk: Oban, wanted: Wanted, state: States, since: int, count: int | None, timeout: float
) -> list[Job]:
    __tracebackhide__ = True
    if count == 0:
        raise ConfigError("count", "0 of them is what refute_enqueued is for")

    least = 1 if count is None else check_whole("count", count, 1, MOST_ID)

    found = _awaited(
        lambda: _matching(desk, wanted, state, since), lambda jobs: len(jobs) >= least, timeout
    )

    if found and count in (None, len(found)):
        return found

    others = _jobs(desk, state, since)

    if found:
        what = f"{count} job{'s' if count != 1 else ''} should have been enqueued, {len(found)}"
        raise AssertionError(f"{what} {'was' if len(found) == 1 else 'were'}:\n{listed(found)}")

    said = f"no job was enqueued with\n{wanted}\n\n" if wanted.fields else "no job was enqueued. "

    # As after a drain that the test did not think of.
    if elsewhere := _matching(desk, wanted, "any", since):
        said += f"Of another state there is:\n{listed(elsewhere[:MOST_SHOWN])}\n\n"

    if elsewhere and not others:
        raise AssertionError(f"{said}There are no others.")

    raise AssertionError(said + told(others, wanted))


def _refuted(desk: Oban, wanted: Wanted, state: States, since: int, timeout: float) -> None:
    __tracebackhide__ = True

    if found := _awaited(lambda: _matching(desk, wanted, state, since), bool, timeout):
        raise AssertionError(
            f"no job should have been enqueued, {len(found)} "
            f"{'was' if len(found) == 1 else 'were'}:\n{listed(found)}"
        )


def _awaited(
    look: Callable[[], list[Job]], enough: Callable[[list[Job]], bool], timeout: float
) -> list[Job]:
    # Counted, because a test may have stopped every clock.
    looks = ceil(check_seconds("timeout", timeout) / _PAUSE)

    while not enough(found := look()) and looks:
        Event().wait(_PAUSE)
        looks -= 1

    return found


def _matching(desk: Oban, wanted: Wanted, state: States, since: int = 0) -> list[Job]:
    jobs = _jobs(
        desk, state, since, worker=wanted.fields.get("worker"), queue=wanted.fields.get("queue")
    )

    return [job for job in jobs if not wanted.differences(job)]


def _jobs(desk: Oban, state: States, since: int, **filters: Any) -> list[Job]:
    if not isinstance(state, str) and state is not None:
        state = list(state)

        # It would be true of no job, whatever there is.
        if not state:
            raise ConfigError("state", "the list is empty; give a state, several, or 'any'")

    if state is None:
        state = "any" if desk.testing == modes.INLINE else [one.value for one in WAITING]

    states = None if state == "any" else state
    jobs: list[Job] = []

    while page := desk.list_jobs(
        state=states, limit=MOST_LISTED, before_id=jobs[-1] if jobs else None, **filters
    ):
        jobs += [job for job in page if (job.id or 0) > since]

        # The newest come first, so there is nothing to be had from a page that reached further.
        if len(page) < MOST_LISTED or jobs[-1:] != page[-1:]:
            break

    return jobs


def _newest(desk: Oban) -> int:
    return next((job.id or 0 for job in desk.list_jobs(limit=1)), 0)
