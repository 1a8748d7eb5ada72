"""Rows in any state, written by plain SQL as another program would."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

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

    def node(self, *queues: str, lock_key: int | None = None, **columns: Any) -> str:
        """Insert a node with a producer for each queue; the node's uuid, which names them too."""
        uuid = str(uuid4())
        columns = {
            "uuid": uuid,
            "name": "Oban",
            "node": "other",
            "beats": 1,
            "lock_key": lock_key,
            "max_age": 60,
            "unlocked_max_age": 6,
            **columns,
        }
        names = sql.SQL(", ").join(sql.Identifier(name) for name in columns)
        places = sql.SQL(", ").join(sql.Placeholder() for _ in columns)
        statement = sql.SQL("INSERT INTO oban_sync_nodes ({}) VALUES ({})")
        self._conn.execute(statement.format(names, places), list(columns.values()))

        for queue in queues:
            self._conn.execute(
                "INSERT INTO oban_sync_producers (uuid, node_uuid, queue, job_limit, paused)"
                " VALUES (%s, %s, %s, 10, false)",
                [self.owner(uuid, queue), uuid, queue],
            )

        return uuid

    @staticmethod
    def owner(node: str, queue: str) -> str:
        """The uuid of the producer of a node made by `node`."""
        return f"{queue} of {node}"

    def executing(self, owner: str, **columns: Any) -> int:
        """Insert a job that a producer runs, started just now."""
        columns = {"queue": "alpha", "attempt": 1, "attempted_by": ["other", owner], **columns}

        if "attempted_at" not in columns:
            columns["attempted_at"] = datetime.now(UTC).replace(tzinfo=None)

        return self.job(state="executing", **columns)

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
