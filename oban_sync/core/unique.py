"""Unique jobs: what makes two jobs the same, and for how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unique:
    """What makes a job unique."""


def check_unique(option: str, value: object) -> Unique | None:
    """The option as given."""
    raise NotImplementedError(option, value)
