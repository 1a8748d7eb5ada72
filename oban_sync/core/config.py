"""Everything an Oban can be told, checked in one place.

`Config.checked` takes what the constructor, the environment and `oban.toml` gave, and either
returns a frozen, complete Config or raises a ConfigError that names the option.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from oban_sync.core import limits, loops
from oban_sync.core.ageing import PrioritizerConfig, check_prioritizer
from oban_sync.core.carrying import NOTHING, Carriers, check_around, check_carry
from oban_sync.core.checks import Check, check_choice, check_seconds, check_whole
from oban_sync.core.controls import MOST_LIMIT
from oban_sync.core.crontab import Line, SchedulerConfig, check_crontab, check_scheduler
from oban_sync.core.errors import ConfigError, InvalidJobError, shown, unknown
from oban_sync.core.escalation import Escalation, check_escalation
from oban_sync.core.executors import ExecutorConfig, check_executor, check_place
from oban_sync.core.job_logs import LogsConfig, check_logs
from oban_sync.core.limits import Limits, check_limits
from oban_sync.core.loops import LeadershipConfig, LifelineConfig, RefresherConfig, StagerConfig
from oban_sync.core.metering import MetricsConfig, check_metrics
from oban_sync.core.options import check_name
from oban_sync.core.reindexing import ReindexerConfig, check_reindexer
from oban_sync.core.retention import PrunerConfig, check_pruner

#: NOTIFY channels are named after it, as ``prefix.oban_cronitor``, in 63 characters. A second $
#: would make a PostgreSQL quote.
PREFIX = re.compile(r"(?!pg_)(?![^$]*\$[^$]*\$)[A-Za-z_][A-Za-z0-9_$]{0,48}")


#: How an Oban behaves in tests: jobs are stored and wait for a drain, or run where they are
#: enqueued; ``disabled`` is as in production.
MODES = ("manual", "inline", "disabled")


#: In place of a `listen_conninfo`: nothing is listened to, and everything is found by looking.
OFF = "off"


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """One queue of this node.

    Attributes:
        name: The queue's name.
        limit: Jobs at once on this node, 1 to 10,000.
        limits: What holds for all nodes together, and how jobs take turns.
        executor: Where its jobs run.
        escalation: How jobs are stopped whose time is up.
    """

    name: str
    limit: int
    limits: Limits = Limits()
    executor: ExecutorConfig = ExecutorConfig()
    escalation: Escalation = Escalation()


@dataclass(frozen=True, slots=True)
class Config:
    """The checked options of one Oban; see `Oban` for their meaning."""

    conninfo: str = field(repr=False, default="")
    pool: Any = None
    queues: tuple[QueueConfig, ...] = ()
    name: str = "Oban"
    node: str = ""
    prefix: str = "public"
    imports: tuple[str, ...] = ()
    shutdown_grace_period: float = 15.0
    listen_conninfo: str | None = field(repr=False, default=None)
    pool_size: int = 10
    stager: StagerConfig = StagerConfig()
    refresher: RefresherConfig = RefresherConfig()
    leadership: LeadershipConfig = LeadershipConfig()
    lifeline: LifelineConfig = LifelineConfig()
    pruner: PrunerConfig = PrunerConfig()
    prioritizer: PrioritizerConfig = PrioritizerConfig()
    reindexer: ReindexerConfig = ReindexerConfig()
    cron: tuple[Line, ...] = ()
    scheduler: SchedulerConfig = SchedulerConfig()
    logs: LogsConfig = LogsConfig()
    metrics: MetricsConfig = MetricsConfig()
    around: Callable[..., AbstractContextManager[object]] | None = None
    carry: Carriers = NOTHING
    session: Callable[[], Any] | None = None
    app: str | None = None
    testing: str | None = None

    @property
    def limits(self) -> dict[str, Limits]:
        """The queues that have more than a limit on this node, by name."""
        return {queue.name: queue.limits for queue in self.queues if queue.limits.any}

    @classmethod
    def checked(cls, given: Mapping[str, object]) -> Config:
        """Check options by name; those that are None keep their default.

        Raises:
            ConfigError: An option is unknown or wrong.
        """
        values: dict[str, Any] = {}

        for option, value in given.items():
            check = _CHECKS.get(option)

            if check is None:
                raise ConfigError(option, unknown(option, _CHECKS))

            if value is not None:
                values[option] = check(option, value)

        if "conninfo" not in values and "pool" not in values:
            raise ConfigError(
                "conninfo",
                "no database was given; pass a libpq URL or string, a pool=, set OBAN_DSN or "
                "DATABASE_URL, or write conninfo in oban.toml",
            )

        if "conninfo" in values and "pool" in values:
            raise ConfigError("pool", "give either conninfo or a pool, not both")

        return cls(**values)


def check_prefix(option: str, value: object) -> str:
    """The name of a PostgreSQL schema that needs no escaping to be read, or to be a channel."""
    if not isinstance(value, str) or PREFIX.fullmatch(value) is None:
        raise ConfigError(
            option,
            f"{shown(value)} is not allowed; give a schema name of letters, digits, _ and one $, "
            "not starting with a digit or pg_, of at most 49 characters",
        )

    return value


def check_queues(option: str, value: object) -> tuple[QueueConfig, ...]:
    """``{"name": limit}`` or ``{"name": {"limit": limit}}``, or text: ``"name:limit,..."``."""
    if isinstance(value, str):
        value = parse_queues(option, value)

    if not isinstance(value, Mapping):
        raise ConfigError(
            option, f'{shown(value)} is not a mapping; give {{"default": 10, "mailers": 5}}'
        )

    return tuple(_check_queue(option, name, given) for name, given in value.items())


def parse_queues(option: str, text: str) -> dict[str, object]:
    """Read ``default:10,mailers:5``."""
    queues: dict[str, object] = {}

    for part in filter(None, (item.strip() for item in text.split(","))):
        name, colon, limit = part.rpartition(":")

        # A name may hold anything when it is given as a dict's key; here it would be a slip.
        if not colon or not limit.strip().isdecimal() or re.search(r"[:;\s]", name):
            raise ConfigError(
                option,
                f"{shown(part)} is not a queue and its limit; give name:limit, as default:10",
            )

        if name in queues:
            raise ConfigError(option, f"{shown(name)} stands twice in {shown(text)}")

        queues[name] = int(limit)

    return queues


def mask(conninfo: str) -> str:
    """A conninfo that may be shown: passwords replaced by ``***``."""
    if "://" not in conninfo:
        return re.sub(
            r"(?i)(\w*password\s*=\s*)('(?:[^'\\]|\\.)*'?|(?:\\.|[^\s\\])+)", r"\1***", conninfo
        )

    # Up to the last @, so that one inside the password cannot end it; too much is no harm here.
    text = re.sub(r"(://[^:/\s]*):\S*@", r"\1:***@", conninfo)
    address, question, query = text.partition("?")
    shown_pairs = [
        f"{key}=***" if "password" in unquote(key).lower() else f"{key}{equals}{value}"
        for key, equals, value in (pair.partition("=") for pair in query.split("&"))
    ]

    return f"{address}{question}{'&'.join(shown_pairs)}"


def without_driver(conninfo: str) -> str:
    """A URL as SQLAlchemy writes it (``postgresql+psycopg://``), as libpq reads it."""
    return re.sub(r"^postgres(ql)?\+\w+://", "postgresql://", conninfo)


def new_identity() -> str:
    """A fresh uuid for one start of one node or producer: never a host name or pid."""
    # Here, because it takes long to import and only an Oban needs it.
    import uuid

    return str(uuid.uuid4())


def _check_queue(option: str, name: object, given: object) -> QueueConfig:
    try:
        checked = check_name(option, name)
    except InvalidJobError as error:
        raise ConfigError(option, error.problem) from None

    path = f'{option}["{checked}"]'

    if not isinstance(given, Mapping):
        return QueueConfig(checked, check_whole(path, given, 1, MOST_LIMIT))

    for key in given:
        if key not in _QUEUE_KEYS:
            raise ConfigError(f"{path}.{key}", unknown(key, _QUEUE_KEYS))

    said = {key: item for key, item in given.items() if item is not None}
    values: dict[str, Any] = {
        key: check(f"{path}.{key}", said[key])
        for key, check in _QUEUE_CHECKS.items()
        if key in said
    }

    if shared := {key: said[key] for key in limits.KEYS if key in said}:
        values["limits"] = check_limits(path, shared)

    if "escalation" in values and "executor" in values and values["executor"].kind == "process":
        raise ConfigError(f"{path}.escalation", "is for threads; a process is killed at once")

    # What all nodes together may run is also the most that one of them can.
    if "limit" not in values:
        allowed = values["limits"].most_running if "limits" in values else None

        if allowed is None:
            raise ConfigError(f"{path}.limit", "is missing; give a whole number, as 10")

        values["limit"] = min(allowed, MOST_LIMIT)

    return QueueConfig(checked, **values)


def _check_conninfo(option: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        kind = type(value).__name__
        raise ConfigError(
            option, f"a {kind} is not allowed; give a libpq string or URL, or embedded:PATH"
        )

    conninfo = without_driver(value)
    scheme, found, _ = conninfo.partition("://")

    if found and scheme.isalnum() and scheme not in ("postgresql", "postgres"):
        raise ConfigError(option, f"{scheme}:// is another database; jobs live in PostgreSQL")

    return conninfo


def _check_listen_conninfo(option: str, value: object) -> str:
    if value is False or (isinstance(value, str) and value.lower() == OFF):
        return OFF

    if not isinstance(value, str) or ("=" not in value and "://" not in value):
        raise ConfigError(
            option, f'{shown(value)} is not allowed; give a libpq string or URL, or "{OFF}"'
        )

    return _check_conninfo(option, value)


def _check_pool(option: str, value: object) -> object:
    if not hasattr(value, "connection") or not hasattr(value, "conninfo"):
        raise ConfigError(
            option, f"{shown(value)} is not a psycopg_pool.ConnectionPool; give one, or a conninfo"
        )

    return value


def _check_session(option: str, value: object) -> Callable[[], Any]:
    if not callable(value):
        raise ConfigError(
            option,
            f"{shown(value)} is not allowed; give what makes sessions when it is called, as a "
            "sessionmaker, a scoped_session, or db.session of Flask-SQLAlchemy",
        )

    return value


def _check_testing(option: str, value: object) -> str | None:
    mode = check_choice(option, value, *MODES)

    return None if mode == "disabled" else mode


def _check_label(option: str, value: object) -> str:
    # Nodes of Elixir Oban accept no white space here.
    if not isinstance(value, str) or not value or not value.isprintable() or " " in value:
        raise ConfigError(option, f"{shown(value)} is not allowed; give a name without spaces")

    return value


def _check_imports(option: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [item.strip() for item in value.split(",") if item.strip()]

    if not isinstance(value, Iterable):
        raise ConfigError(option, f"{shown(value)} is not a list of module names")

    modules = tuple(value)

    for module in modules:
        if not isinstance(module, str) or not all(
            part.isidentifier() for part in module.split(".")
        ):
            raise ConfigError(option, f"{shown(module)} is not the name of a module")

    return modules


_QUEUE_CHECKS: dict[str, Check] = {
    "limit": lambda option, value: check_whole(option, value, 1, MOST_LIMIT),
    "executor": check_executor,
    "escalation": check_escalation,
}

_QUEUE_KEYS = (*_QUEUE_CHECKS, *limits.KEYS)

_CHECKS: dict[str, Check] = {
    "conninfo": _check_conninfo,
    "pool": _check_pool,
    "queues": check_queues,
    "name": _check_label,
    "node": _check_label,
    "prefix": check_prefix,
    "imports": _check_imports,
    "shutdown_grace_period": check_seconds,
    "listen_conninfo": _check_listen_conninfo,
    "pool_size": lambda option, value: check_whole(option, value, 1, 1_000),
    **loops.CHECKS,
    "pruner": check_pruner,
    "prioritizer": check_prioritizer,
    "reindexer": check_reindexer,
    "cron": check_crontab,
    "scheduler": check_scheduler,
    "logs": check_logs,
    "metrics": check_metrics,
    "around": check_around,
    "carry": check_carry,
    "session": _check_session,
    "app": check_place,
    "testing": _check_testing,
}

#: The names of all options.
OPTIONS = tuple(_CHECKS)

#: Those that are objects of the application, and cannot be said in text.
OBJECTS = ("pool", "around", "carry", "session")
