"""Every error the library raises on purpose.

ObanError
├── ConfigError(ValueError)          an option is wrong
│   └── InvalidJobError              a job cannot be stored as asked; nothing was written
├── SchemaError                      tables missing or too old
├── NotRunningError                  not there, already stopped, or already running
├── WorkerNotFoundError(LookupError) no worker of that name is registered here
├── JobNotFoundError(LookupError)    there is no job of that id
├── DatabaseUnavailableError         PostgreSQL could not be reached
├── EmbeddedServerError              the private PostgreSQL could not be found, started or stopped
└── JobError                         a job went wrong in a way the library itself decides
    ├── JobDecodeError               a row holds something that is not a job's args or meta
    ├── JobTimeoutError              a run took longer than it may
    └── JobCrashedError              the process that ran a job ended under it

And one that is none, because only its own thread may meet it:

JobInterrupt(BaseException)          the time of the job on this thread is up
"""

from __future__ import annotations

from collections.abc import Iterable


class ObanError(Exception):
    """Base of every error raised by oban_sync."""


class ConfigError(ObanError, ValueError):
    """An option is wrong; the message names the option, the value, what is allowed.

    Attributes:
        option: The option's name, with the path inside it where there is one.
    """

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(f"{option}: {problem}")
        self.option = option
        self.problem = problem

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, str]]:
        return type(self), (self.option, self.problem)


class InvalidJobError(ConfigError):
    """A job cannot be stored as asked; the message names the field and the path inside it.

    Raised before anything is sent to the database.
    """


class SchemaError(ObanError):
    """The tables are missing or older than the code; the message says which command to run."""


class NotRunningError(ObanError):
    """This Oban was not started, was stopped, or runs already; the message says which."""


class WorkerNotFoundError(ObanError, LookupError):
    """No worker of that name is registered in this process."""


class JobNotFoundError(ObanError, LookupError):
    """There is no job of that id: it was pruned or deleted, or never stored."""


class DatabaseUnavailableError(ObanError):
    """PostgreSQL could not be reached, or the connection broke.

    The driver's own error is kept as the cause. The message tells whether a change may have been
    written: a connection lost while a statement runs leaves that open.
    """


class EmbeddedServerError(ObanError):
    """The private PostgreSQL server could not be found, started, reached or stopped."""


class JobError(ObanError):
    """A job went wrong in a way the library itself decides."""


class JobDecodeError(JobError):
    """A row holds something that cannot be read as a job's field."""


class JobTimeoutError(JobError):
    """A run took longer than its timeout, or than its forced deadline."""


class JobCrashedError(JobError):
    """The process that ran a job ended under it: killed, out of memory, or by a crash."""


class JobInterrupt(BaseException):
    """Raised in a job's thread when its time is up and it did not stop by itself.

    It may come between any two steps of the job's code. No `Exception`, so that a loop that tries
    everything again does not catch it. Let it pass; a `finally` block is the place to tidy up.
    """

    def __str__(self) -> str:
        return "the time of this job is up"


def shown(value: object, *, most: int = 80) -> str:
    """A value as it may stand in an error message: short, and safe whatever its type does."""
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"

    return text if len(text) <= most else f"{text[: most - 3]}..."


def nearest(name: object, allowed: Iterable[str]) -> str:
    """`` Did you mean 'limit'?`` when one of the allowed names is close, else nothing."""
    # Here, because only mistakes need it.
    from difflib import get_close_matches

    close = get_close_matches(str(name), list(allowed), n=1, cutoff=0.6)

    if not close or not get_close_matches(_last(str(name)), [_last(close[0])], cutoff=0.6):
        return ""

    return f" Did you mean {close[0]!r}?"


def _last(name: str) -> str:
    # Names of workers in one module are alike without being meant.
    return name.rpartition(".")[2]


def unknown(name: object, allowed: Iterable[str]) -> str:
    """The problem text for a name that is not among the allowed ones."""
    names = sorted(allowed)

    return f"unknown; allowed are {', '.join(names)}.{nearest(name, names)}"
