"""What jobs log: how much of it is kept, and what becomes of it when it is read again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from oban_sync.core import payload
from oban_sync.core.checks import check_flag, check_options, check_seconds, check_whole
from oban_sync.core.errors import ConfigError, shown

#: Characters of one line; the middle of longer ones is left out.
MOST_LINE = 8_000

#: Characters of one that was cut: it says how many are left out.
MOST_CLEANED = MOST_LINE + 100

#: Characters of the names of loggers and levels, which anybody may make up.
MOST_NAME = 200

#: What a line takes besides its text, in bytes.
LINE_OVERHEAD = 48

#: Seconds since 1970, long after the last moment that Python can express.
LATEST = 1e12

#: Loggers of the library itself: what they say of a job stands in its row, and in telemetry.
OWN: Final = "oban_sync"

Mask = Callable[[str], str | None]

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}


@dataclass(frozen=True, slots=True)
class LogsConfig:
    """What is kept of what jobs log. Each attempt has a log of its own.

    Attributes:
        enabled: Whether anything is.
        level: The least level that is kept, as of `logging`; beside what the application's own
            levels let pass.
        most_bytes: Bytes of one attempt's lines; of more, the oldest are dropped.
        most_lines: How many lines of an attempt.
        keep: Seconds for which they are kept after they were written.
        only_failures: Whether lines of attempts that went well are forgotten. Those of others can
            be read when the attempt is over, and not before.
        mask: Gives each line's text, with its traceback, as it is kept, or None for not at all. A
            line is left out, too, where it fails.
    """

    enabled: bool = True
    level: int = logging.INFO
    most_bytes: int = 65_536
    most_lines: int = 1_000
    keep: float = 604_800.0
    only_failures: bool = False
    mask: Mask | None = None


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line that a job logged.

    Attributes:
        at: When, by the clock of the machine that ran it.
        level: The name of its level, in small letters.
        logger: The name of the logger.
        message: The text; a traceback follows where the record had one. It is the job's own, and
            may hold any character but NUL.
    """

    at: datetime
    level: str
    logger: str
    message: str


@dataclass(frozen=True, slots=True)
class AttemptLog:
    """What one attempt of a job logged.

    Attributes:
        attempt: Which one. A snoozed job runs several times in the same.
        attempted_at: When it was started.
        node: The node that ran it.
        dropped: How many lines were dropped before those that are here.
        lines: The lines, oldest first.
    """

    attempt: int
    attempted_at: datetime
    node: str
    dropped: int
    lines: list[LogLine]


class Line(NamedTuple):
    """A line on its way into the table.

    Attributes:
        at: Seconds since 1970.
        level: As of `LogLine` ...
        logger: ... and this ...
        message: ... and this.
    """

    at: float
    level: str
    logger: str
    message: str

    @property
    def size(self) -> int:
        """How many bytes it counts for."""
        text = self.message
        size = len(text) if text.isascii() else len(text.encode())

        return size + len(self.logger) + LINE_OVERHEAD

    def with_message(self, text: str) -> Line:
        """The same line with another text, as far as it is kept."""
        return self._replace(message=payload.clean_text(text, most=MOST_LINE))


@dataclass(frozen=True, slots=True)
class Written:
    """What one run of a job logged so far, ready to be written.

    Attributes:
        key: The id and the start of the run, as of `Job.key`.
        attempt: Which attempt it is.
        node: The node that runs it.
        lines: Its lines.
        dropped: How many were dropped before these.
    """

    key: tuple[int, int]
    attempt: int
    node: str
    lines: list[Line]
    dropped: int


def line_of(record: logging.LogRecord, *, mask: Mask | None = None) -> Line | None:
    """The line of a record, whatever it holds: logging never fails a job.

    Args:
        record: The record.
        mask: Gives its text as it is kept: before anything is cut, lest a part of what it looks
            for stays. None is given where nothing shall be kept.
    """
    try:
        text = record.getMessage()
    except Exception:
        # The handlers of the application tell about it, each in its way.
        text = f"{record.msg!s} (its arguments do not fit)"

    if record.exc_info and record.exc_info[0] is not None:
        text = f"{text}\n{_formatter.formatException(record.exc_info)}"

    if record.stack_info:
        text = f"{text}\n{record.stack_info}"

    if mask is not None:
        masked = mask(text)

        if masked is None:
            return None

        text = masked

    return Line(
        round(record.created, 6),
        name_of(record.levelname).lower(),
        name_of(record.name),
        payload.clean_text(text, most=MOST_LINE),
    )


def name_of(name: object) -> str:
    """The name of a logger or level as it is kept."""
    return payload.clean_text(str(name)[:MOST_NAME])


def lines_of(given: object) -> list[Line]:
    """Lines that crossed from another process, or were read from a row, as far as they are any."""
    return [
        Line(
            float(item[0]),
            name_of(item[1]),
            name_of(item[2]),
            payload.clean_text(item[3], most=MOST_CLEANED),
        )
        for item in (given if isinstance(given, list) else ())
        if _is_line(item)
    ]


def _is_line(item: object) -> bool:
    return (
        isinstance(item, (list, tuple))
        and len(item) == len(Line._fields)
        and isinstance(item[0], (int, float))
        # In this order NaN is none either.
        and 0 <= item[0] < LATEST
        and all(isinstance(part, str) for part in item[1:])
    )


def read_lines(given: object) -> list[LogLine]:
    """The lines of a row; those that are none are left out."""
    found = []

    for line in lines_of(given):
        try:
            at = datetime.fromtimestamp(line.at, UTC)
        except (ValueError, OverflowError, OSError):
            continue

        found.append(LogLine(at, line.level, line.logger, line.message))

    return found


def dumped(runs: Iterable[Mapping[str, Any]]) -> str:
    """What runs logged as one JSON array, for the statement that writes it."""
    return payload.dumps(list(runs))


def check_logs(option: str, value: object) -> LogsConfig:
    """The options of what jobs log; True and False alone turn it on and off."""
    if isinstance(value, bool) or (isinstance(value, str) and value.lower() in _FLAGS):
        return LogsConfig(enabled=check_flag(option, value))

    if isinstance(value, str):
        return LogsConfig(level=_check_level(option, value))

    return check_options(
        option,
        value,
        LogsConfig,
        {
            "enabled": check_flag,
            "level": _check_level,
            "most_bytes": lambda path, given: check_whole(path, given, 1_000, 1_000_000),
            "most_lines": lambda path, given: check_whole(path, given, 1, 100_000),
            "keep": lambda path, given: check_seconds(path, given, least=1.0),
            "only_failures": check_flag,
            "mask": _check_mask,
        },
    )


def _check_level(option: str, value: object) -> int:
    if isinstance(value, str) and value.lower() in _LEVELS:
        return _LEVELS[value.lower()]

    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= logging.CRITICAL:
        return value

    raise ConfigError(option, f"{shown(value)} is not allowed; give one of {', '.join(_LEVELS)}")


def _check_mask(option: str, value: object) -> Mask:
    if not callable(value):
        raise ConfigError(
            option, f"{shown(value)} cannot be called; give a function of a text to a text or None"
        )

    return value


_FLAGS = ("true", "false", "1", "0")

_formatter = logging.Formatter()
