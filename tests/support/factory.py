"""Rows in any state, written by plain SQL as another program would."""

from __future__ import annotations

import json
from typing import Any

import psycopg
from psycopg import sql


class Factory:
    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._conn = conn

    def job(self, **columns: Any) -> int:
        """Insert a row; what is not given keeps the table's default. Dicts become JSON."""
        columns = {"worker": "tests.Nobody", **columns}
        names = sql.SQL(", ").join(sql.Identifier(name) for name in columns)
        places = sql.SQL(", ").join(sql.Placeholder() for _ in columns)
        values = [
            json.dumps(value) if isinstance(value, dict) else value for value in columns.values()
        ]
        statement = sql.SQL("INSERT INTO oban_jobs ({}) VALUES ({}) RETURNING id")

        return self._conn.execute(statement.format(names, places), values).fetchone()[0]

    def states(self, *ids: int) -> list[str]:
        """The states of jobs, in the order asked for."""
        rows = dict(
            self._conn.execute(
                "SELECT id, state::text FROM oban_jobs WHERE id = ANY (%s)", [list(ids)]
            ).fetchall()
        )

        return [rows[job_id] for job_id in ids]

    def row(self, job_id: int) -> dict[str, Any]:
        """A whole row."""
        cursor = self._conn.execute("SELECT * FROM oban_jobs WHERE id = %s", [job_id])
        names = [column.name for column in cursor.description]

        return dict(zip(names, cursor.fetchone(), strict=True))

    def count(self, **columns: Any) -> int:
        """How many rows have these values."""
        wheres = sql.SQL(" AND ").join(
            [
                sql.SQL("true"),
                *(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in columns),
            ]
        )
        statement = sql.SQL("SELECT count(*) FROM oban_jobs WHERE ") + wheres

        return self._conn.execute(statement, list(columns.values())).fetchone()[0]
