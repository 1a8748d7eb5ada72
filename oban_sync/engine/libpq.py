"""What libpq knows by itself."""

from __future__ import annotations

from functools import cache

from psycopg.pq import Conninfo


@cache
def keywords() -> frozenset[str]:
    """The parameters of a connection that the libpq in use takes."""
    return frozenset(option.keyword.decode() for option in Conninfo.get_defaults())
