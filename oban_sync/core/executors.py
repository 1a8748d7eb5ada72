"""Where the jobs of a queue run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExecutorConfig:
    """Threads of this process, or processes of their own.

    Attributes:
        kind: ``thread`` or ``process``.
    """

    kind: str = "thread"


def check_executor(option: str, value: object) -> ExecutorConfig:
    """``"thread"``, ``"process"``, or a mapping."""
    raise NotImplementedError(option, value)
