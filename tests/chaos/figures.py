"""Figures in words, and what they were measured with."""

from __future__ import annotations

import platform
from collections.abc import Iterable

import psycopg

import oban_sync


def spread(values: Iterable[float], unit: str = "s") -> str:
    """The median and the extremes of a few measurements, for people."""
    ordered = sorted(values)

    if not ordered:
        return "nothing measured"

    middle = ordered[len(ordered) // 2]

    return (
        f"median {middle:.2f} {unit}, {ordered[0]:.2f} to {ordered[-1]:.2f} {unit} "
        f"({len(ordered)} times)"
    )


def versions() -> str:
    """What is being tested, on what."""
    return (
        f"oban_sync {oban_sync.__version__}, Python {platform.python_version()}, psycopg "
        f"{psycopg.__version__} with libpq {psycopg.pq.version()}, {platform.system()}"
    )
