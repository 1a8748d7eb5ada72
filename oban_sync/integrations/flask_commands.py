"""The commands of ``flask oban``."""

from __future__ import annotations

import click


@click.group()
def oban() -> None:
    """Background jobs."""
